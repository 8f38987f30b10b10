# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration: sizes, the example file, and each kind of bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostctl
from hostctl import cli, config, values
from hostctl.config import Bounds, Config, GuestsConfig, JournalConfig
from hostctl.engine import Engine
from hostctl.errors import HostctlError
from hostctl.guard import Limits
from hostctl.policy import POLICIES, Settings
from hostctl.policy.model import (
    HOST,
    GuestMessage,
    GuestRead,
    Level,
    PoolRead,
    Stats,
    StatsRead,
    Tick,
)
from hostctl.policy.tuning import Tuning
from hostctl.pressure.pool import PoolConfig

EXAMPLE = Path(hostctl.__file__).with_name("hostctl.example.toml")


def load(tmp_path: Path, text: str, **flags: str) -> Config:
    file = tmp_path / "hostctl.toml"
    file.write_text(text)
    return config.load(file, flags)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4097, 4097),
        ("4097", 4097),
        ("32M", 32 << 20),
        ("32MiB", 32 << 20),
        ("1.5 GiB", 3 << 29),
        ("0.25K", 256),
        ("2T", 2 << 40),
    ],
)
def test_size(text: object, size: int) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize(
    "bad", ["", "M", "-1M", "32MB", "32m", "1e6", "1.3K", "8388608T", -1, 1.5, True, None, [], "٣M"]
)
def test_bad_size(bad: object) -> None:
    with pytest.raises(ValueError, match="give"):
        values.size(bad)


@given(st.integers(0, (1 << 63) - 1))
def test_size_of_an_integer_is_itself(value: int) -> None:
    assert values.size(value) == values.size(str(value)) == value


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= values.size(text) < 1 << 63
    except ValueError as exc:
        assert str(exc)


def test_example_loads_and_shows_the_defaults() -> None:
    loaded = config.load(EXAMPLE, {})
    assert loaded.guests == GuestsConfig(sockets=(Path("/run/hostctl-guests"),), floor=256 << 20)
    assert loaded.bounds == {"database": Bounds(3 << 29, 6 << 30)}
    assert loaded.pools == (PoolConfig("machine", Path("/sys/fs/cgroup/machine.slice")),)
    plain = Config(GuestsConfig())
    for name in ("policy", "settings", "guard", "journal", "metrics"):
        assert getattr(loaded, name) == getattr(plain, name)
    assert loaded.control == Path("/run/hostctl/control")


def test_example_names_every_key() -> None:
    text = EXAMPLE.read_text()
    for table, keys in config.TABLES.items():
        assert f"\n[{table}]\n" in text
        for key in keys:
            assert f"\n{key} = " in text or f"\n# {key} = " in text, key
    for table, keys in config.NAMED.items():
        assert f"\n[{table}." in text
        for key in keys:
            assert f"\n{key} = " in text, key


def test_every_setting_has_a_key() -> None:
    """What is added to a policy's settings or to the guard's limits can be set."""
    tables = config.TABLES
    assert {one.name for one in fields(Settings)} - {"tuning"} == tables["policy"].keys() - {"name"}
    assert {one.name for one in fields(Tuning)} == tables["policy.transfer"].keys()
    assert {one.name for one in fields(Limits)} == tables["guard"].keys()
    assert {one.name for one in fields(JournalConfig)} == tables["journal"].keys()
    assert {one.name for one in fields(GuestsConfig)} == tables["guests"].keys()
    assert {one.name for one in fields(PoolConfig)} - {"name"} == config.NAMED["pool"].keys()
    assert {one.name for one in fields(Bounds)} == config.NAMED["guest"].keys()


def test_defaults_and_flags_win(tmp_path: Path) -> None:
    assert load(tmp_path, '[guests]\nsockets = "/s"') == Config(GuestsConfig((Path("/s"),)))
    text = '[guests]\nsockets = ["/s", "/t", "/s"]\n[policy]\nstep = "64M"'
    loaded = load(
        tmp_path, text, policy="classic", step="8M", hysteresis="1.5", pressure="none", journal="j"
    )
    assert loaded.guests.sockets == (Path("/s"), Path("/t"))
    assert loaded.settings == Settings(8 << 20, 1.5)
    assert loaded.pools == (PoolConfig(source="none"),)
    assert loaded.journal.file == Path("j")


def test_every_flag_reaches_its_key() -> None:
    values = {
        "sockets": "/s",
        "floor": "1G",
        "policy": "classic",
        "step": "4K",
        "hysteresis": "0",
        "pressure": "psi",
        "memcg": "/m",
        "level": "medium",
        "journal": "/j",
        "control": "/c/c",
    }
    assert values.keys() == config.FLAGS.keys()
    assert config.load(None, values) == Config(
        GuestsConfig((Path("/s"),), floor=1 << 30),
        policy="classic",
        settings=Settings(4096, 0.0),
        pools=(PoolConfig(HOST, Path("/m"), "psi", Level.MEDIUM),),
        journal=JournalConfig(Path("/j")),
        control=Path("/c/c"),
    )


def test_several_pools_and_bounds(tmp_path: Path) -> None:
    text = """
[guests]
libvirt = "qemu:///system"
floor = "256M"
ceiling = "1G"
[guest."a b"]
ceiling = "2G"
[pool.one]
group = "/one"
source = "psi"
[pool.two]
[policy.transfer]
pressing = [0, 0.02, 1]
reserve_least = "64M"
[guard]
step_share = 0.5
[metrics]
listen = "[::1]:9000"
"""
    loaded = load(tmp_path, text)
    assert loaded.bounds_of("a b") == Bounds(256 << 20, 2 << 30)
    assert loaded.bounds_of("other") == Bounds(256 << 20, 1 << 30)
    assert loaded.pools == (PoolConfig("one", Path("/one"), "psi"), PoolConfig("two"))
    assert loaded.settings.tuning == Tuning(pressing=(0.0, 0.02, 1.0), reserve_least=64 << 20)
    assert loaded.guard == Limits(step_share=0.5)
    assert loaded.metrics == ("::1", 9000)
    assert loaded.guests.libvirt == ("qemu:///system",)


def test_probes_can_be_switched_off(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[policy.transfer]\ncontended = 0\nreach_most = 0", sockets="/s")
    assert loaded.settings.tuning == Tuning(contended=0.0, reach_most=0.0)


@given(st.data())
def test_a_tuning_that_is_taken_decides_without_a_fault(data: st.DataObject) -> None:
    """Whatever numbers a file gives: an error, or a policy that no event breaks."""
    numbers = st.one_of(st.sampled_from([0, 1, 3, 15, 1e9]), st.floats(0, 2), st.integers(0, 99))
    names = data.draw(
        st.sets(st.sampled_from(sorted(config.TABLES["policy.transfer"])), max_size=4)
    )
    given = {name: data.draw(numbers) for name in names}
    found = config._Found()
    config._read_table(Path("x"), "policy.transfer", given, found)
    found.faults.extend(config._not_rising(found.tables["policy.transfer"], None))
    if found.faults:
        return
    tuning = Tuning(**found.tables["policy.transfer"])  # type: ignore[arg-type]
    engine = Engine(POLICIES["transfer"](Settings(tuning=tuning)), Limits())
    mib = 1 << 20
    engine.take(GuestRead(0, "a", 1024 * mib, 1024 * mib, 1024 * mib, 128 * mib, True, True))
    for time in range(1, 400, 7):
        usage = 1000 * mib if time % 2 else 100 * mib
        available = 600 * mib if time % 3 else 8 * mib
        engine.take(PoolRead(time, HOST, 1024 * mib, usage))
        engine.take(StatsRead(time, "a", Stats(time, 1024 * mib, 8 * mib, available)))
        if time % 5 == 0:
            engine.take(GuestMessage(time, "a", data.draw(st.sampled_from(Level)), 900 * mib))
        engine.take(Tick(time))
        assert 128 * mib <= engine.state.guests["a"].target <= 1024 * mib


def test_what_needs_a_restart(tmp_path: Path) -> None:
    old = load(tmp_path, '[guests]\nsockets = "/s"')
    new = load(
        tmp_path,
        '[guests]\nsockets = "/t"\nfloor = "1G"\ntimeout = 3\nstats_interval = 3\n'
        '[policy]\nname = "mom"\n[journal]\nfile = "/j"\nsize = "1M"\n'
        '[control]\nsocket = "/c/c"\n[metrics]\nlisten = "h:1"',
    )
    assert config.restart_for(old, old) == []
    assert config.restart_for(old, new) == [
        "guests.timeout",
        "guests.stats_interval",
        "journal.file",
        "control.socket",
        "metrics.listen",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[guest]\nb = 3", ["guest.b = 3", "[guest.b]"]),
        ("[guest.b]\nfloor = -5", ["guest.b.floor = -5", "not negative"]),
        ("[guest.b]\nsize = 5", ["guest.b.size = 5", "unknown key", "floor, ceiling"]),
        ('[guest."b\\n"]', ["guest.'b\\n'", "printable"]),
        ('[guests]\n"a\\nb" = 5', ["guests.'a\\nb' = 5", "unknown key"]),
        (
            '[guest.b]\nfloor = "1G"\nceiling = "65M"',
            ["guest.b", "floor 1073741824", "ceiling 68157440", "at most"],
        ),
        ('[guests]\nfloor = "2G"\n[guest.b]\nceiling = "1G"', ["guest.b", "floor 2147483648"]),
        ("[guests]\nsockets = []", ["no guests", "--sockets DIR"]),
        ('[guests]\nlibvirt = [""]', ["guests.libvirt = ['']", "none of them empty"]),
        ("[guests]\nsockets = [5]", ["guests.sockets = [5]", "path"]),
        ("[guests]\nsockts = 3", ["guests.sockts = 3", "unknown key", "sockets"]),
        ("[gests]", ["unknown table [gests]", "guests"]),
        ("guests = 5", ["guests = 5", "must be a table"]),
        ('[policy]\nstep = "-32M"', ["policy.step = '-32M'", "give"]),
        ("[policy]\nstep = -1", ["policy.step = -1", "not negative"]),
        ("[policy]\nstep = 0", ["policy.step = 0", "4 KiB"]),
        ("[policy]\nstep = 5000", ["policy.step = 5000", "4 KiB"]),
        ("[policy]\nhysteresis = -1", ["policy.hysteresis = -1", "not negative"]),
        ("[policy]\nhysteresis = nan", ["policy.hysteresis = nan", "not negative"]),
        ("[policy]\nhysteresis = true", ["policy.hysteresis = True", "seconds"]),
        ('[policy]\nname = "best"', ["policy.name = 'best'", "classic"]),
        ("[guests]\ntimeout = 0", ["guests.timeout = 0", "0.1 to 3600"]),
        ("[guests]\nrefresh = 1e9", ["guests.refresh", "0.1 to 3600"]),
        ('[pool.a]\nsource = "x"', ["pool.a.source = 'x'", "vmpressure"]),
        ('[pool.a]\nlevel = ["low"]', ["pool.a.level", "medium"]),
        ("[pool.a]\ngroup = 7", ["pool.a.group = 7", "path"]),
        ("[pool.a]\nthresholds = [2]", ["pool.a.thresholds = [2]", "up to 1"]),
        ("[pool.a]\n[pool.b]", ["pool.b", "whole machine", "pool.a", "of its own"]),
        ('[pool.a]\ngroup = "/g"\n[pool.b]\ngroup = "/g"', ["pool.b", "/g", "pool.a"]),
        ("[guests]\nfloor = 0", ["guests.floor = 0", "at least 64M"]),
        ('[guest.b]\nceiling = "63M"', ["guest.b.ceiling = '63M'", "at least 64M"]),
        ("[policy.transfer]\nenter = -1", ["policy.transfer.enter = -1", "up to 1"]),
        ("[policy.transfer]\nhalf_life = 0", ["transfer.half_life = 0", "1 to 604800 seconds"]),
        ("[policy.transfer]\nreserve = 15", ["policy.transfer.reserve = 15", "0 to 1"]),
        ("[policy.transfer]\nlow = 3", ["policy.transfer.low = 3", "up to 1"]),
        ('[policy.transfer]\nconfirmed = "3M"', ["transfer.confirmed = '3M'", "0 to 16"]),
        ("[policy.transfer]\nstats_age = 1e9", ["transfer.stats_age", "1 to 300 seconds"]),
        ("[policy.transfer]\nbeat = 0", ["policy.transfer.beat = 0", "0.1 to 3600"]),
        ("[policy.transfer]\nback_off = inf", ["transfer.back_off = inf", "0 to 3600"]),
        ("[policy.transfer]\nenter = 0.5", ["enter = 0.5", "leave = 0.1", "give enter below"]),
        ("[policy.transfer]\nlast = 0.06", ["last = 0.06", "enter = 0.06", "give last below"]),
        (
            "[policy.transfer]\ncontended = 0.09",
            ["leave = 0.1", "contended = 0.09", "leave at most contended", "contended 0 for none"],
        ),
        ("[policy.transfer]\nmedium = 0.75", ["medium = 0.75", "critical = 0.5", "at most"]),
        ("[policy.transfer]\nprobe_least = 0.1", ["probe_least = 0.1", "probe_most = 0.02"]),
        ("[policy.transfer]\nentry = 1", ["policy.transfer.entry = 1", "unknown", "enter"]),
        ("[policy.transfer]\npressing = [1]", ["pressing = [1]", "three"]),
        ("[policy]\ntransfer = 1", ["policy.transfer = 1", "unknown key"]),
        ("[guard]\nstats_age = 1e9", ["guard.stats_age", "1 to 300 seconds"]),
        ("[guard]\nstep_share = 0", ["guard.step_share = 0", "above 0"]),
        ("[guard]\nrate_share = 1.5", ["guard.rate_share = 1.5", "up to 1"]),
        ("[journal]\nsize = 9", ["journal.size = 9", "64K"]),
        ("[journal]\nkeep = -1", ["journal.keep = -1", "0 to 1000"]),
        ('[metrics]\nlisten = "9843"', ["metrics.listen = '9843'", "ADDRESS:PORT"]),
        ('[metrics]\nlisten = "h:99999"', ["metrics.listen", "ADDRESS:PORT"]),
        (f'[control]\nsocket = "/{"x" * 108}"', ["control.socket", "107 bytes"]),
        ('[journal]\nfile = ""', ["journal.file = ''", "path"]),
        ("[policy]\nstep = 0x" + "f" * 9000, ["policy.step", "huge", "below 8 EiB"]),
        ("[policy", ["not TOML"]),
    ],
)
def test_fault_names_file_key_value_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    flags = {} if "sockets = []" in text else {"sockets": "/s"}
    with pytest.raises(HostctlError) as caught:
        load(tmp_path, text, **flags)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / "hostctl.toml")) or not flags
    for part in parts:
        assert part in line


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = (
        "[guests]\nsockets = 1\nx = 2\n[policy]\nstep = -1\n[z]\n"
        "[policy.transfer]\nreserve = 15\nlast = 0.08\nlow = 0.2"
    )
    with pytest.raises(HostctlError) as caught:
        load(tmp_path, text, level="loud")
    lines = str(caught.value).splitlines()
    assert len(lines) == 8
    assert "--level = 'loud'" in lines[5]
    assert "last = 0.08" in lines[6] and "low = 0.2" in lines[7]


def test_sockets_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="--sockets DIR"):
        load(tmp_path, "[policy]\nstep = 4096")


ALL_TABLES = [*config.TABLES, *config.NAMED]
JSONISH = st.recursive(
    st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.floats()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


READERS = [
    read for tables in (config.TABLES, config.NAMED) for keys in tables.values()
    for read in keys.values()
]  # fmt: skip


@given(st.sampled_from(READERS), JSONISH)
def test_any_value_of_any_key_is_taken_or_a_value_error(
    read: Callable[[object], object], value: object
) -> None:
    try:
        read(value)
    except ValueError as exc:
        assert "give" in str(exc)


@given(st.dictionaries(st.text(max_size=3), JSONISH, max_size=3), st.sampled_from(ALL_TABLES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_table_is_taken_or_its_faults_are_lines(
    tmp_path: Path, content: dict[str, object], table: str
) -> None:
    """However odd the keys, a fault is one line of text that names the table."""
    found = config._Found()
    file = tmp_path / "x.toml"
    if table in config.NAMED:
        config._read_named(file, table, content, found)
    else:
        config._read_table(file, table, content, found)
    for line in found.faults:
        assert line.isprintable() and line.startswith(f"{file}: {table}")


def test_a_pool_is_the_files_or_the_flags(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match=r"--memcg = '/m': .* has pools"):
        load(tmp_path, "[pool.a]", sockets="/s", memcg="/m")


def test_check_says_what_is_wrong_and_runs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "h.toml"
    journal = tmp_path / "j"
    file.write_text(f'[guests]\nsockets = "{tmp_path}"\n[journal]\nfile = "{journal}"')
    assert cli.main(["run", "--check", "--config", str(file)]) == 0
    assert "nothing wrong" in capfd.readouterr().out
    file.write_text(
        f'[guests]\nsockets = ["{tmp_path}/a", "{tmp_path}/b"]\n[pool.x]\ngroup = "{tmp_path}"'
    )
    assert cli.main(["run", "--check", "--config", str(file)]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 3
    assert not journal.exists()


def run(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = cli.main(["run", *args])
    return status, capfd.readouterr().err


def test_cli_says_each_fault_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "j"
    sockets = ["--sockets", str(tmp_path), "--control", f"{tmp_path}/control"]
    quiet = [*sockets, "--journal", str(journal)]
    for args, parts in (
        (["--sockets", f"{tmp_path}/none"], ["none", "no such folder"]),
        (["--config", f"{tmp_path}/none.toml"], ["none.toml", "give a file"]),
        ([*quiet, "--policy", "classic", "--step", "-1"], ["--step = '-1'", "give"]),
        ([*quiet, "--step", "64M"], ["--step = '64M'", "transfer", "--policy classic"]),
        ([*quiet, "--memcg", f"{tmp_path}/x"], [f"{tmp_path}/x", "not below a hierarchy"]),
        ([*sockets, "--pressure", "none", "--journal", f"{tmp_path}/x/j"], ["journal", "give"]),
        ([*quiet, "--control", f"{tmp_path}/x/y/control"], ["control.socket", "x/y", "--control"]),
    ):
        status, err = run(capfd, *args)
        assert status == 1
        *others, line = err.splitlines()
        assert all("policy transfer" in other for other in others)  # what is said at a start
        assert line.startswith("hostctl: ")
        for part in parts:
            assert part in line, line


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capfd.readouterr().out.startswith("hostctl ")

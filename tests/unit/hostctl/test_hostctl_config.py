# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration: sizes, the example file, and each kind of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostctl
from hostctl import cli, config
from hostctl.config import Config
from hostctl.errors import HostctlError
from hostctl.policy.model import Level

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
    assert config.size(text) == size


@pytest.mark.parametrize(
    "bad", ["", "M", "-1M", "32MB", "32m", "1e6", "1.3K", "8388608T", -1, 1.5, True, None, [], "٣M"]
)
def test_bad_size(bad: object) -> None:
    with pytest.raises(ValueError, match="give"):
        config.size(bad)


@given(st.integers(0, (1 << 63) - 1))
def test_size_of_an_integer_is_itself(value: int) -> None:
    assert config.size(value) == config.size(str(value)) == value


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert 0 <= config.size(text) < 1 << 63
    except ValueError as exc:
        assert str(exc)


def test_example_loads() -> None:
    loaded = config.load(EXAMPLE, {})
    assert loaded.sockets == Path("/run/hostctl")
    assert loaded.floor == 256 << 20
    assert loaded.floors == {"database": 3 << 29}
    assert loaded.journal is None


def test_example_names_every_key() -> None:
    text = EXAMPLE.read_text()
    for table, keys in config.KEYS.items():
        assert f"[{table}]" in text
        for key in keys:
            assert f"{key} = " in text or f"[{table}.{key}]" in text


def test_defaults_and_flags_win(tmp_path: Path) -> None:
    assert load(tmp_path, '[guests]\nsockets = "/s"') == Config(Path("/s"))
    text = '[guests]\nsockets = "/s"\n[policy]\nstep = "64M"\n[pressure]\nlevel = "critical"'
    loaded = load(tmp_path, text, step="8M", hysteresis="1.5", pressure="none", journal="j")
    assert loaded.step == 8 << 20
    assert loaded.hysteresis == 1.5
    assert loaded.source == "none"
    assert loaded.level is Level.CRITICAL
    assert loaded.journal == Path("j")


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
    }
    assert values.keys() == config.FLAGS.keys()
    assert config.load(None, values) == Config(
        sockets=Path("/s"),
        floor=1 << 30,
        step=4096,
        hysteresis=0.0,
        source="psi",
        memcg=Path("/m"),
        level=Level.MEDIUM,
        journal=Path("/j"),
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[guests]\nfloors = 3", ["guests.floors = 3", "table of sizes"]),
        ("[guests.floors]\nb = -5", ["guests.floors", "guest b", "not negative"]),
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
        ('[pressure]\nsource = "x"', ["pressure.source = 'x'", "vmpressure"]),
        ('[pressure]\nlevel = ["low"]', ["pressure.level", "medium"]),
        ("[pressure]\nmemcg = 7", ["pressure.memcg = 7", "path"]),
        ('[journal]\nfile = ""', ["journal.file = ''", "path"]),
        ("[policy]\nstep = 0x" + "f" * 9000, ["policy.step", "huge", "below 8 EiB"]),
        ("[policy", ["not TOML"]),
    ],
)
def test_fault_names_file_key_value_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(HostctlError) as caught:
        load(tmp_path, text, sockets="/s")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / "hostctl.toml"))
    for part in parts:
        assert part in line


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = "[guests]\nsockets = 1\nx = 2\n[policy]\nstep = -1\n[z]"
    with pytest.raises(HostctlError) as caught:
        load(tmp_path, text, level="loud")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "--level = 'loud'" in lines[4]


def test_sockets_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(HostctlError, match="--sockets DIR"):
        load(tmp_path, "[policy]\nstep = 4096")


JSONISH = st.recursive(
    st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.floats()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.sampled_from([k for keys in config.KEYS.values() for k in keys.values()]), JSONISH)
def test_any_value_of_any_key_is_taken_or_a_value_error(key: config._Key, value: object) -> None:
    try:
        key.parse(value)
    except ValueError as exc:
        assert "give" in str(exc)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = cli.main(["run", *args])
    return status, capsys.readouterr().err


def test_cli_says_each_fault_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sockets = ["--sockets", str(tmp_path)]
    journal = tmp_path / "j"
    for args, parts in (
        (["--sockets", f"{tmp_path}/none", "--journal", str(journal)], ["none", "no such folder"]),
        (["--config", f"{tmp_path}/none.toml"], ["none.toml", "give a file"]),
        ([*sockets, "--memcg", f"{tmp_path}/x", "--journal", str(journal)], ["no such cgroup"]),
        ([*sockets, "--step", "-1"], ["--step = '-1'", "give"]),
        (
            [*sockets, "--memcg", str(tmp_path), "--pressure", "vmpressure"],
            [str(tmp_path), "no vmpressure", "--pressure psi"],
        ),
        (
            [*sockets, "--memcg", str(tmp_path), "--pressure", "auto"],
            ["no pressure source", "--pressure none"],
        ),
        ([*sockets, "--pressure", "none", "--journal", f"{tmp_path}/x/j"], ["journal", "give"]),
    ):
        status, err = run(capsys, *args)
        assert status == 1
        (line,) = err.splitlines()
        assert line.startswith("hostctl: ")
        for part in parts:
            assert part in line, line
    assert not journal.exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("hostctl ")

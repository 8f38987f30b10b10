# SPDX-License-Identifier: GPL-2.0-or-later
"""What hostctl is told: a TOML file and flags, checked as a whole.

Every fault found is a line of the error, with the file (or flag), the key, the value and
what to do. A flag wins over the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from hostctl import values
from hostctl.errors import HostctlError
from hostctl.guard import Limits
from hostctl.policy import POLICIES, Settings, stats_every
from hostctl.policy.model import HOST
from hostctl.policy.tuning import Tuning
from hostctl.pressure.choose import SOURCES
from hostctl.pressure.pool import PoolConfig


def control_socket() -> Path:
    """Where the control socket is when nobody says: /run/hostctl/control for root."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime and os.geteuid() != 0 else Path("/run")
    return folder / "hostctl" / "control"


POLICY = "transfer"
"""The policy when nobody names one; docs/policy.md says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Smallest and largest size of one guest, in bytes; None: as for all."""

    floor: int | None = None
    ceiling: int | None = None


@dataclass(frozen=True, slots=True)
class GuestsConfig:
    """Where guests are looked for, and what holds for each. Bytes and seconds."""

    sockets: tuple[Path, ...] = ()
    """Folders of QMP sockets."""
    libvirt: tuple[str, ...] = ()
    """URIs of libvirt connections."""
    floor: int | None = None
    """None: the guard's default."""
    ceiling: int | None = None
    """None: the guest's RAM."""
    timeout: float = 2.0
    """Of each command."""
    refresh: float = 60.0
    """Between two readings of a guest's sizes: events tell most of what changes."""
    stats_interval: float = 20.0
    """Between two readings of a guest's statistics; policies want some more often. By default what
    the policy needs."""


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """The journal: `file` (None: standard output), rotated at `size` bytes, `keep` old ones."""

    file: Path | None = None
    size: int = 64 << 20
    keep: int = 4


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    guests: GuestsConfig
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    """Of single guests, by name."""
    pools: tuple[PoolConfig, ...] = (PoolConfig(),)
    policy: str = POLICY
    settings: Settings = field(default_factory=Settings)
    guard: Limits = field(default_factory=Limits)
    journal: JournalConfig = field(default_factory=JournalConfig)
    control: Path = field(default_factory=control_socket)
    metrics: tuple[str, int] | None = None
    """Address and port of the metrics; None: there are none."""

    def bounds_of(self, guest: str) -> Bounds:
        """The bounds of a guest by that name, with what holds for all."""
        own = self.bounds.get(guest, Bounds())
        return Bounds(
            self.guests.floor if own.floor is None else own.floor,
            self.guests.ceiling if own.ceiling is None else own.ceiling,
        )

    @property
    def pressed_for(self) -> float:
        """Seconds for which the policy takes a guest for pressed after its last message."""
        settings = self.settings
        return settings.tuning.back_off if self.policy == "transfer" else settings.hysteresis


Keys = Mapping[str, Callable[[object], object]]

_TUNED: Keys = {
    "enter": values.share,
    "leave": values.share,
    "last": values.part,
    "contended": values.part,
    "pressing": values.parts,
    "settle": values.lasting,
    "stuck": values.lasting,
    "beat": values.interval,
    "low": values.share,
    "medium": values.share,
    "critical": values.share,
    "most": values.share,
    "window": values.lasting,
    "acquaint": values.lasting,
    "back_off": values.lasting,
    "quiet": values.lasting,
    "quarantine": values.lasting,
    "part": values.share,
    "patience": values.part,
    "reserve": values.part,
    "lacking": values.part,
    "reserve_least": values.size,
    "own": values.size,
    "worth": values.part,
    "ahead": values.part,
    "resident": values.part,
    "least": values.share,
    "stats_age": values.stats_age,
    "step": values.share,
    "swap_rate": values.number,
    "fault_rate": values.number,
    "probe_least": values.share,
    "probe_most": values.share,
    "probe_every": values.interval,
    "reach_least": values.share,
    "reach_most": values.part,
    "reach_every": values.interval,
    "reach_room": values.part,
    "half_life": values.half_life,
    "confirmed": values.doublings,
}
"""Of transfer's Tuning."""
_RISING = (
    ("last", "below", "enter"),
    ("enter", "below", "leave"),
    ("leave", "at most", "contended"),
    ("low", "at most", "medium"),
    ("medium", "at most", "critical"),
    ("probe_least", "at most", "probe_most"),
    ("reach_least", "at most", "reach_most"),
)
"""Which of them must be below which, or at most that."""
_SWITCHES = ("contended", "reach_most")
"""Those that are 0 for none of what they are of."""
_BOUNDS: Keys = {"floor": values.bound, "ceiling": values.bound}
TABLES: Mapping[str, Keys] = {
    "guests": {
        "sockets": values.paths,
        "libvirt": values.texts,
        **_BOUNDS,
        "timeout": values.interval,
        "refresh": values.interval,
        "stats_interval": values.interval,
    },
    "policy": {
        "name": values.one_of(tuple(POLICIES)),
        "step": values.pages,
        "hysteresis": values.seconds,
    },
    "policy.transfer": _TUNED,
    "guard": {
        "stats_age": values.stats_age,
        "step_share": values.share,
        "rate_share": values.share,
    },
    "journal": {"file": values.output, "size": values.file_size, "keep": values.count},
    "control": {"socket": values.socket_path},
    "metrics": {"listen": values.address},
}
"""The file's tables, their keys, and how each value is read."""

NAMED: Mapping[str, Keys] = {
    "guest": _BOUNDS,
    "pool": {
        "group": values.path,
        "source": values.one_of(SOURCES),
        "level": values.level,
        "thresholds": values.shares,
        "interval": values.interval,
    },
}
"""Tables of which there is one for each name: [guest.NAME], [pool.NAME]."""

FLAGS: Mapping[str, tuple[str, str]] = {
    "sockets": ("guests", "sockets"),
    "floor": ("guests", "floor"),
    "policy": ("policy", "name"),
    "step": ("policy", "step"),
    "hysteresis": ("policy", "hysteresis"),
    "pressure": ("pool", "source"),
    "memcg": ("pool", "group"),
    "level": ("pool", "level"),
    "journal": ("journal", "file"),
    "control": ("control", "socket"),
}
"""The key that each flag of `hostctl run` stands for; a pool's are those of the pool "host"."""

_OF_CLASSIC = {"step", "hysteresis"}
"""Flags that one policy alone knows."""

_NEED_RESTART = ("timeout", "refresh", "stats_interval")


@dataclass(slots=True)
class _Found:
    """What was read so far: values by table and key (None where one was bad), and faults."""

    tables: dict[str, dict[str, object]] = field(
        default_factory=lambda: {table: {} for table in TABLES}
    )
    named: dict[str, dict[str, dict[str, object]]] = field(
        default_factory=lambda: {table: {} for table in NAMED}
    )
    faults: list[str] = field(default_factory=list)

    def take(
        self, where: str, keys: Keys, name: str, value: object, into: dict[str, object]
    ) -> None:
        """Read one value."""
        if name not in keys:
            known = ", ".join(keys)
            self.faults.append(f"{where} = {values.shown(value)}: unknown key; known are {known}")
            return
        try:
            into[name] = keys[name](value)
        except ValueError as exc:
            self.faults.append(f"{where} = {values.shown(value)}: {exc}")
            into.setdefault(name, None)


def load(file: Path | None, flags: Mapping[str, str]) -> Config:
    """The configuration of `file` (if any) and `flags` (by name, without dashes).

    Raises HostctlError with a line for each fault.
    """
    found = _Found()
    if file is not None:
        _read_file(file, found)
    # Before the flags: a pool of theirs is none of the file's.
    of_file = tuple(found.named["pool"])
    for flag, value in flags.items():
        table, name = FLAGS[flag]
        if table in NAMED:
            if of_file:
                found.faults.append(
                    f"--{flag} = {values.shown(value)}: {file} has pools; leave the flag out, or "
                    f"give {name} in [pool.{of_file[0]}]"
                )
                continue
            into = found.named[table].setdefault(HOST, {})
            found.take(f"--{flag}", NAMED[table], name, value, into)
        else:
            found.take(f"--{flag}", TABLES[table], name, value, found.tables[table])
    policy = found.tables["policy"].get("name", POLICY)
    for flag in sorted(_OF_CLASSIC & flags.keys()):
        if policy not in ("classic", None):
            found.faults.append(
                f"--{flag} = {values.shown(flags[flag])}: the policy {policy} does not know it; "
                "give --policy classic, or leave the flag out"
            )
    guests = found.tables["guests"]
    if not any(guests.get(name, True) != () for name in ("sockets", "libvirt") if name in guests):
        found.faults.append(
            "no guests to look after; give --sockets DIR, or guests.sockets or guests.libvirt in "
            "the file"
        )
    found.faults.extend(_not_rising(found.tables["policy.transfer"], file))
    if not found.faults:
        config = _config(found)
        found.faults.extend(_contradictions(config, file))
    if found.faults:
        raise HostctlError("\n".join(found.faults))
    return config


def record(config: Config) -> dict[str, object]:
    """What decides: policy, settings and guard, as the journal has them."""
    settings = asdict(config.settings)
    settings["transfer"] = settings.pop("tuning")
    return {"policy": config.policy, "settings": settings, "guard": asdict(config.guard)}


def of_record(found: Mapping[str, object]) -> tuple[Settings, Limits]:
    """Settings and limits of a journal's record; what it does not have is the default.

    Raises HostctlError with a line for each fault.
    """
    read = _Found()
    for key, table in (("settings", "policy"), ("guard", "guard")):
        content = found.get(key, {})
        if isinstance(content, dict):
            content = _as_of_old(content)
            _read_table(str(found.get("event")), table, content, read)
        else:
            read.faults.append(f"{key} = {values.shown(content)}: must be an object")
    if read.faults:
        raise HostctlError("\n".join(read.faults))
    return _settings(read), Limits(**read.tables["guard"])  # type: ignore[arg-type]


def _as_of_old(settings: dict[str, object]) -> dict[str, object]:
    """With what older journals do not have switched off, where its default is not what was then."""
    tuned = settings.get("transfer")
    if isinstance(tuned, dict) and tuned and "reach_most" not in tuned:
        return {**settings, "transfer": {**tuned, "reach_most": 0.0}}
    return settings


def restart_for(old: Config, new: Config) -> list[str]:
    """The keys that differ and that only a restart applies."""
    changed = [
        f"guests.{name}"
        for name in _NEED_RESTART
        if getattr(old.guests, name) != getattr(new.guests, name)
    ]
    if old.journal.file != new.journal.file:
        changed.append("journal.file")
    if old.control != new.control:
        changed.append("control.socket")
    if old.metrics != new.metrics:
        changed.append("metrics.listen")
    return changed


def _settings(found: _Found) -> Settings:
    own = {k: v for k, v in found.tables["policy"].items() if k != "name"}
    tuning = Tuning(**found.tables["policy.transfer"])  # type: ignore[arg-type]
    return Settings(**own, tuning=tuning)  # type: ignore[arg-type]


def _config(found: _Found) -> Config:
    # Each reader makes what its field takes.
    tables = found.tables
    given: dict[str, object] = {}
    if "name" in tables["policy"]:
        given["policy"] = tables["policy"]["name"]
    if "socket" in tables["control"]:
        given["control"] = tables["control"]["socket"]
    if pools := found.named["pool"]:
        given["pools"] = tuple(PoolConfig(name, **keys) for name, keys in pools.items())  # type: ignore[arg-type]
    guests = {"stats_interval": stats_every(str(given.get("policy", POLICY)))} | tables["guests"]
    return Config(
        guests=GuestsConfig(**guests),  # type: ignore[arg-type]
        bounds={name: Bounds(**keys) for name, keys in found.named["guest"].items()},  # type: ignore[arg-type]
        settings=_settings(found),
        guard=Limits(**tables["guard"]),  # type: ignore[arg-type]
        journal=JournalConfig(**tables["journal"]),  # type: ignore[arg-type]
        metrics=tables["metrics"].get("listen"),  # type: ignore[arg-type]
        **given,  # type: ignore[arg-type]
    )


def _not_rising(tuned: Mapping[str, object], file: Path | None) -> Iterator[str]:
    """Thresholds of transfer that are good alone and in the wrong order."""
    whole = {one.name: tuned.get(one.name, one.default) for one in fields(Tuning)}
    for lower, how, upper in _RISING:
        low, high = whole[lower], whole[upper]
        if not isinstance(low, float) or not isinstance(high, float):
            continue  # a fault that is told already
        if upper in _SWITCHES and high == 0:
            continue
        if low > high or (low == high and how == "below"):
            off = f", or {upper} 0 for none" if upper in _SWITCHES else ""
            yield (
                f"{file}: policy.transfer: {lower} = {low} and {upper} = {high}; give {lower} "
                f"{how} {upper}{off}"
            )


def _contradictions(config: Config, file: Path | None) -> list[str]:
    """Values that are good alone and not together."""
    where = f"{file}: " if file else ""
    faults = []
    for name in (None, *config.bounds):
        found = config.guests if name is None else config.bounds_of(name)
        floor, ceiling = found.floor, found.ceiling
        if floor is not None and ceiling is not None and floor > ceiling:
            table = "guests" if name is None else f"guest.{name}"
            faults.append(
                f"{where}{table}: floor {floor} is above ceiling {ceiling}; give a floor that is "
                "at most the ceiling"
            )
    groups: dict[Path | None, str] = {}
    for pool in config.pools:
        if pool.group in groups:
            faults.append(
                f"{where}pool.{pool.name}: group {pool.group or 'of the whole machine'} is "
                f"pool.{groups[pool.group]}'s already; give each pool a cgroup of its own"
            )
        groups.setdefault(pool.group, pool.name)
    return faults


def _read_file(file: Path, found: _Found) -> None:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise HostctlError(f"{file}: {exc.strerror}; give a file that can be read") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise HostctlError(f"{file}: not TOML: {exc}; see hostctl.example.toml") from exc
    for table, content in document.items():
        if table not in TABLES and table not in NAMED:
            known = ", ".join([*TABLES, *(f"{name}.NAME" for name in NAMED)])
            found.faults.append(f"{file}: unknown table [{_printed(table)}]; known are {known}")
        elif not isinstance(content, dict):
            found.faults.append(
                f"{file}: {table} = {values.shown(content)}: must be a table, give [{table}]"
            )
        elif table in NAMED:
            _read_named(file, table, content, found)
        else:
            _read_table(file, table, content, found)


def _read_table(file: Path | str, table: str, content: Mapping[str, object], found: _Found) -> None:
    for name, value in content.items():
        inner = f"{table}.{name}"
        if inner in TABLES and isinstance(value, dict):
            _read_table(file, inner, value, found)
        else:
            where = f"{file}: {table}.{_printed(name)}"
            found.take(where, TABLES[table], name, value, found.tables[table])


def _read_named(file: Path, table: str, content: Mapping[str, object], found: _Found) -> None:
    for name, keys in content.items():
        where = f"{file}: {table}.{name}"
        if not name or not name.isprintable():
            found.faults.append(
                f"{file}: {table}.{values.shown(name)}: give a name of printable characters"
            )
        elif not isinstance(keys, dict):
            found.faults.append(
                f"{where} = {values.shown(keys)}: must be a table, give [{table}.{name}]"
            )
        else:
            into = found.named[table].setdefault(name, {})
            for key, value in keys.items():
                found.take(f"{where}.{_printed(key)}", NAMED[table], key, value, into)


def _printed(name: str) -> str:
    return name if name.isprintable() else values.shown(name)

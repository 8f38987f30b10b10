# SPDX-License-Identifier: GPL-2.0-or-later
"""The closing table, counted from the record."""

from rich.table import Table

from .record import Recording

MIB = 1 << 20


def rows(record: Recording) -> list[tuple[str, str, str]]:
    """(group, what, value) for each line of the table."""
    first, last = record.samples[0], record.samples[-1]
    pressure = record.events("host-pressure")
    found = [
        ("host", "memory limit", f"{last.limit // MIB} MiB"),
        ("host", "most memory used", f"{max(s.used for s in record.samples) // MIB} MiB"),
        ("host", "most swap used", f"{max(s.swap_used for s in record.samples) // MIB} MiB"),
        ("host", "swapped in (machine)", f"{last.pswpin - first.pswpin} pages"),
        ("host", "swapped out (machine)", f"{last.pswpout - first.pswpout} pages"),
        ("host", "pressure events", str(len(pressure))),
    ]
    for guest in sorted({event["guest"] for event in record.events("guest-added")}):
        decisions = record.events("decision", guest)
        sizes = [event["actual"] for event in record.events("actual", guest)]
        levels = [event["level"] for event in record.events("guest-message", guest)]
        loads = [load for load in record.loads if load.guest == guest]
        name = f"guest {guest}"
        found += [
            (name, "smallest size", f"{min(sizes) // MIB} MiB" if sizes else "never changed"),
            (name, "inflations decided", _count(decisions, "host-pressure")),
            (name, "cancels decided", _count(decisions, "cancel")),
            (name, "deflations decided", _count(decisions, "guest-pressure")),
            (name, "messages (device)", ", ".join(
                f"{levels.count(level)} {level}" for level in ("low", "medium", "critical"))),
            (name, "messages (tracer)",
             str(sum(message.guest == guest for message in record.messages))),
            (name, "QEMU major faults",
             str(last.major_faults[guest] - first.major_faults[guest])),
            (name, "records", str(sum(load.records for load in loads))),
            (name, "records/s",
             f"{sum(x.records for x in loads) / max(sum(x.seconds for x in loads), 1e-9):.0f}"),
        ]
    return found


def table(record: Recording) -> Table:
    """The rows as a table for the terminal."""
    made = Table(title="From the recorded events", title_justify="left")
    made.add_column("")
    made.add_column("what")
    made.add_column("value", justify="right")
    group = ""
    for where, what, value in rows(record):
        if group and where != group:
            made.add_section()
        made.add_row("" if where == group else where, what, value)
        group = where
    return made


def _count(decisions: list[dict[str, object]], reason: str) -> str:
    return str(sum(decision["reason"] == reason for decision in decisions))

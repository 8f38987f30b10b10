# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline as a picture, drawn from the record."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .record import Recording

MIB = 1 << 20
LEVELS = {"low": ("tab:olive", 0), "medium": ("tab:orange", 1), "critical": ("tab:red", 2)}


def draw(record: Recording, path: Path) -> None:
    """Host use, limit and swap, and each guest's size, target, load and messages over time."""
    added = {event["guest"]: event for event in record.events("guest-added")}
    guests = sorted(added)
    figure = Figure(figsize=(11, 3.0 * (1 + len(guests))), layout="constrained")
    axes = figure.subplots(1 + len(guests), 1, sharex=True, squeeze=False)[:, 0]
    _draw_host(axes[0], record)
    for axis, guest in zip(axes[1:], guests, strict=True):
        _draw_guest(axis, record, guest, added[guest]["ram"])
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0, record.samples[-1].time - record.start)
    figure.suptitle("Two guests share a host that is too small for both", fontsize=13)
    figure.savefig(path, dpi=110)


def _draw_host(axis: Axes, record: Recording) -> None:
    times = [sample.time - record.start for sample in record.samples]
    axis.plot(times, [s.used / MIB for s in record.samples], label="memory used", color="tab:blue")
    axis.plot(times, [s.limit / MIB for s in record.samples], "--", label="limit", color="black")
    axis.plot(times, [s.swap_used / MIB for s in record.samples], label="swap used",
              color="tab:red")
    pressed = [event["time"] - record.start for event in record.events("host-pressure")]
    axis.plot(pressed, [20] * len(pressed), "|", color="tab:purple", markersize=11,
              label="host pressure event")
    axis.set_title("host", loc="left")
    _finish(axis)


def _draw_guest(axis: Axes, record: Recording, guest: str, ram: int) -> None:
    end = record.samples[-1].time
    loads = [load for load in record.loads if load.guest == guest]
    for number, load in enumerate(loads):
        axis.fill_between(
            [load.time - load.seconds - record.start, load.time - record.start], load.mib,
            color="tab:gray", alpha=0.3, linewidth=0, label="" if number else "load",
        )
    axis.axhline(ram / MIB, linestyle=":", color="black", label="RAM")
    for kind, key, style, label in (
        ("decision", "new", "--", "target"), ("actual", "actual", "-", "size (RAM - balloon)"),
    ):
        points = [(record.start, ram)]
        points += [(event["time"], event[key]) for event in record.events(kind, guest)]
        points.append((end, points[-1][1]))
        axis.plot([time - record.start for time, _ in points],
                  [size / MIB for _, size in points], style, drawstyle="steps-post", label=label,
                  color="tab:green" if kind == "actual" else "tab:cyan")
    for level, (colour, row) in LEVELS.items():
        times = [message.time - record.start for message in record.messages
                 if message.guest == guest and message.level == level]
        if times:
            axis.plot(times, [18 + 22 * row] * len(times), "|", color=colour, markersize=9,
                      label=f"message: {level}")
    axis.set_title(f"guest {guest}", loc="left")
    _finish(axis)


def _finish(axis: Axes) -> None:
    axis.set_ylabel("MiB")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of trials over time, and one of all loads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .outcome import Outcome

MIB = 1 << 20
PAGES_OF_MIB = 256
COLOURS = {
    "none": "tab:gray", "reporting": "tab:olive", "automatic": "tab:brown",
    "classic": "tab:orange", "transfer": "tab:blue", "transfer+reporting": "tab:green",
    "mom": "tab:red", "proxmox": "tab:purple",
}  # fmt: skip

Samples = Sequence[Mapping[str, Any]]


def timeline(title: str, trials: Mapping[str, Samples], path: Path) -> None:
    """One load: of each contestant the host's memory, its swap traffic and the guests' sizes."""
    figure = Figure(figsize=(3.0 * len(trials) + 1.5, 7.0), layout="constrained")
    axes = figure.subplots(3, len(trials), sharex=True, sharey="row", squeeze=False)
    for column, (name, samples) in enumerate(trials.items()):
        first = samples[0]
        times = [one["time"] - first["time"] for one in samples]
        host, swap, sizes = axes[:, column]
        host.set_title(name)
        host.plot(times, [one["used"] / MIB for one in samples], color="tab:blue", label="used")
        host.plot(times, [one["limit"] / MIB for one in samples], "--", color="black",
                  label="limit")
        host.plot(times, [one["swap_used"] / MIB for one in samples], color="tab:red",
                  label="in swap")
        for key, colour, label in (("pswpout", "tab:red", "out"), ("pswpin", "tab:orange", "in")):
            swap.plot(times, [(one[key] - first[key]) / PAGES_OF_MIB for one in samples],
                      color=colour, label=f"swapped {label}")
        for guest in first["sizes"]:
            sizes.plot(times, [one["sizes"][guest] / MIB for one in samples], label=guest)
        sizes.set_xlabel("time (s)")
    for row, what in zip(axes, ("host (MiB)", "host, since begin (MiB)", "guests' sizes (MiB)"),
                         strict=True):
        row[0].set_ylabel(what)
        row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
        for axis in row:
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=80)


def summary(found: Sequence[Outcome], path: Path) -> None:
    """All loads: what each contestant had moved for want of memory, median and range."""
    loads = list(dict.fromkeys(one.load for one in found))
    figure = Figure(figsize=(2.6 * len(loads) + 2.5, 4.5), layout="constrained")
    axes = figure.subplots(1, len(loads), sharey=True, squeeze=False)[0]
    for axis, load in zip(axes, loads, strict=True):
        _bars(axis, [one for one in found if one.load == load])
        axis.set_title(load)
    axes[0].set_ylim(1, 2 * max(one.lost + 1 for one in found))  # of all: they share it
    axes[0].set_ylabel("pages swapped by host and guests,\nand files read again (+1)")
    figure.savefig(path, dpi=80)


def _bars(axis: Axes, found: Sequence[Outcome]) -> None:
    names = [name for name in COLOURS if any(one.contestant == name for one in found)]
    for place, name in enumerate(names):
        values = [one.lost + 1 for one in found if one.contestant == name]
        middle = float(np.median(values))
        axis.bar(place, middle, color=COLOURS[name],
                 yerr=[[middle - min(values)], [max(values) - middle]], capsize=3)
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axis.grid(axis="y", alpha=0.3)

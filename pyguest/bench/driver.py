# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver costs and gains: latency, CPU share, inflation. One kernel (KERNEL=) a run."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import host, lab, paths
from ..errors import LabError
from ..progress import step
from . import inflation, latency, report, share

PARTS = ("latency", "cpu", "inflation")


@dataclass(frozen=True)
class Plan:
    """What to run, and how often."""

    only: tuple[str, ...] = PARTS
    bursts: int = 50
    rounds: int = 3
    seconds: int = 10
    """Length of one window of the CPU share."""
    series: tuple[str, ...] = ()
    """More kernels by name, whose own driver takes part in the inflation."""

    def command(self, kernel: str, part: str) -> str:
        """The command that measures one part again."""
        own = {
            "latency": f"--bursts {self.bursts}",
            "cpu": f"--rounds {self.rounds} --seconds {self.seconds}",
            "inflation": " ".join((f"--rounds {self.rounds}",
                                   *(f"--series {name}" for name in self.series))),
        }[part]
        return f"KERNEL={kernel} bin/pyguest bench-driver --only {part} {own}"


class Record:
    """The results as JSON lines, a file for each kernel, written as they come."""

    def __init__(self, path: Path, **about: Any) -> None:  # noqa: ANN401
        self.path = path
        path.write_text("")
        self.write("about", **about)

    def write(self, kind: str, **fields: Any) -> None:  # noqa: ANN401
        with self.path.open("a") as file:
            print(json.dumps({"kind": kind, **fields}), file=file)


def main(plan: Plan) -> int:
    """Measure what `plan` says and print it as Markdown; 0 when all parts came to their end."""
    if "inflation" in plan.only and os.geteuid() != 0:
        raise LabError("the inflation's host of limited memory needs root: use sudo, or "
                       "--only latency")
    parts = lab.prepare()
    name = parts.kernel.target.name
    others = {other: _prepare(other) for other in plan.series if "inflation" in plan.only}
    with lab.Lab(parts, "bench-driver") as one:
        load = os.getloadavg()[0]
        record = Record(one.run_dir / f"results-{name}.jsonl", kernel=parts.kernel.release,
                        accelerator=one.accel.kind, cpus=os.cpu_count(), load=load,
                        **asdict(plan))
        print(f"Linux {parts.kernel.release} under {one.accel.kind} ({one.accel.reason}); "
              f"load average at the start {load:.2f} on {os.cpu_count()} CPUs")
        runs: dict[str, Callable[[], str]] = {
            "latency": lambda: _latency(one, plan, record),
            "cpu": lambda: _share(one, plan, record),
            "inflation": lambda: _inflation(one, plan, record, {name: parts, **others}),
        }
        for part in PARTS:
            if part in plan.only:
                table = runs[part]()
                print(f"\n### {part}: `{plan.command(name, part)}`\n\n{table}", flush=True)
        print(f"\nrecord: {record.path}")
    return 0


def _prepare(kernel: str) -> lab.Parts:
    """The parts for another kernel than the chosen one."""
    with _chosen_kernel(kernel):
        return lab.prepare()


@contextmanager
def _chosen_kernel(name: str) -> Iterator[None]:
    before = os.environ.get("KERNEL")
    os.environ["KERNEL"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["KERNEL"]
        else:
            os.environ["KERNEL"] = before


def _latency(one: lab.Lab, plan: Plan, record: Record) -> str:
    with step(f"latency, {plan.bursts} bursts") as progress, \
            one.vm("latency", memory_mib=latency.MEMORY_MIB) as vm:
        vm.boot()
        bursts = latency.measure(vm, plan.bursts, progress)
    for burst in bursts:
        record.write("burst", **asdict(burst))
    return report.latency_table(bursts)


def _share(one: lab.Lab, plan: Plan, record: Record) -> str:
    with step("CPU share of the driver") as progress, one.vm("share") as vm:
        vm.boot()
        windows = share.measure(vm, plan.rounds, plan.seconds, progress)
    for window in windows:
        record.write("window", **asdict(window))
    return report.share_table(windows)


def _inflation(one: lab.Lab, plan: Plan, record: Record,
               parts: dict[str, lab.Parts]) -> str:
    who = inflation.contestants(one.parts.kernel.target.name, plan.series)
    found: list[inflation.Inflation] = []
    turns = inflation.turns(plan.rounds, len(who))
    with ExitStack() as stack:
        with step("the host of limited memory") as progress:
            limited = stack.enter_context(host.LimitedHost(
                inflation.ROOMY_MIB * inflation.MIB, inflation.SWAP_MIB * inflation.MIB,
                paths.cache_root(), progress=progress.update))
        for done, (number, place) in enumerate(turns):
            contestant = who[place]
            limited.set_limit(inflation.ROOMY_MIB * inflation.MIB)
            with step(f"inflation {done + 1} of {len(turns)}: {contestant.label}, "
                      f"{contestant.append}") as progress, \
                    one.vm("inflation", prefix=tuple(limited.prefix()),
                           **_fields(parts[contestant.kernel], contestant)) as vm:
                vm.boot()
                results = inflation.measure(vm, limited, contestant, number, progress)
            for result in results:
                record.write("inflation", **asdict(result))
            found += results
    return report.inflation_table(found, who)


def _fields(parts: lab.Parts, contestant: inflation.Contestant) -> dict[str, Any]:
    """The fields of VmConfig that make a guest the contestant's."""
    driver = parts.stock_driver if contestant.driver == inflation.STOCK else parts.driver
    return {
        "vmlinux": parts.kernel.vmlinux, "initrd": parts.initrd(driver),
        "disk": parts.image.disk, "ssh_key": parts.image.ssh_key,
        "memory_mib": inflation.MEMORY_MIB, "append": contestant.append,
    }

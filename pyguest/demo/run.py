# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the demonstration: host, guests, hostctl, tracers and loads, and writes the record."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from .. import host, inject, lab, paths
from ..controller import hostctl
from ..errors import LabError
from ..progress import step
from ..vm import Vm, boot_all
from .picture import draw
from .record import Load, Sample, read
from .scenario import MIB, GuestPlan, Scenario
from .table import table
from .verdict import judge
from .view import open_view

SAMPLE_SECONDS = 0.5
TRACER_DEADLINE = 120.0
"""Seconds for bcc to compile in both guests; 15 to 30 are usual under TCG."""


def main(step_seconds: float) -> int:
    """The demonstration; 0 when the record shows that the loop closed, else 1."""
    scenario = Scenario(step_seconds)
    if os.geteuid() != 0:
        raise LabError("the demonstration makes a limited host (a memory cgroup and a swap file), "
                       "which needs root: run `sudo make demo`")
    parts = lab.prepare()
    folder = paths.state_dir("demo")
    for old in folder.glob("*.json*"):
        old.unlink()
    offsets = _run(parts, scenario, folder)
    record = read(folder, offsets)

    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table(record))
    picture = folder / "timeline.png"
    draw(record, picture)
    verdict = judge(record)
    console.print(f"picture: {picture}\nrecord:  {folder}", soft_wrap=True)
    for what, shown in (("inflate", verdict.inflated), ("deflate", verdict.deflated)):
        console.print(f"{what}: {shown or 'NOT SEEN in the record'}", soft_wrap=True)
    console.print("the loop closed" if verdict.success else "THE LOOP DID NOT CLOSE")
    return 0 if verdict.success else 1


def _run(parts: lab.Parts, scenario: Scenario, folder: Path) -> dict[str, float]:
    """Everything from the host to the last load; returns the guests' clock offsets."""
    sockets = folder / "qmp"
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir(mode=0o700)
    with ExitStack() as stack:
        limited = stack.enter_context(host.LimitedHost(
            limit_bytes=scenario.host_limit_mib * MIB,
            swap_bytes=scenario.swap_mib * MIB,
            swap_dir=paths.cache_root(),
            progress=lambda how_far: print(f"  {how_far}", file=sys.stderr),
        ))
        one = stack.enter_context(lab.Lab(parts, "demo"))
        print(f"accelerator: {one.accel.kind} ({one.accel.reason})")
        vms = {
            plan.name: one.vm(plan.name, memory_mib=scenario.guest_memory_mib,
                              prefix=tuple(limited.prefix()), qmp_dir=sockets)
            for plan in scenario.guests
        }
        with step("boot both guests"):
            boot_all(list(vms.values()))
        offsets = {name: clock_offset(vm) for name, vm in vms.items()}
        with step("start the tracer in both guests (eBPF, compiled there)"):
            for name, vm in vms.items():
                stack.enter_context(tracer(vm, folder / f"trace-{name}.jsonl"))
            _wait_for_tracers(folder, list(vms))
        stack.enter_context(hostctl(
            sockets, folder, "--policy", "classic", "--memcg", str(limited.memcg),
            "--step", f"{scenario.balloon_step_mib}M", "--floor", f"{scenario.floor_mib}M",
            "--hysteresis", f"{scenario.hysteresis_seconds:g}",
        ))
        _press(scenario, vms, limited, folder, offsets)
    return offsets


def _press(scenario: Scenario, vms: dict[str, Vm], limited: host.LimitedHost, folder: Path,
           offsets: dict[str, float]) -> None:
    """Run the loads, sampling the host and showing the view, until the last load is over."""
    failures: list[BaseException] = []
    lock = threading.Lock()
    threads = [
        threading.Thread(target=_load, daemon=True,
                         args=(plan, scenario, vms[plan.name], folder, lock, failures))
        for plan in scenario.guests
    ]
    for thread in threads:
        thread.start()
    with open_view() as view, (folder / "samples.jsonl").open("w") as samples:
        while any(thread.is_alive() for thread in threads) and not failures:
            print(json.dumps(asdict(_sample(vms, limited))), file=samples, flush=True)
            view.show(read(folder, offsets))
            time.sleep(SAMPLE_SECONDS)
    if failures:
        raise failures[0]


def _load(plan: GuestPlan, scenario: Scenario, vm: Vm, folder: Path, lock: threading.Lock,
          failures: list[BaseException]) -> None:
    """One guest's load, in a thread of its own."""
    try:
        time.sleep(plan.wait_steps * scenario.step_seconds)
        for mib in plan.steps_mib:
            argv = inject.chunkload("/run/lab/bin/chunkload", MIB, mib, 2,
                                    round(scenario.step_seconds))
            started = time.time()
            # Filling the chunks takes its time as well, more when the host swaps.
            said = vm.sh(" ".join(argv), timeout=10 * scenario.step_seconds + 120)
            load = Load(time.time(), plan.name, mib, time.time() - started,
                        inject.parse_chunkload(said).records)
            with lock, (folder / "loads.jsonl").open("a") as file:
                print(json.dumps(asdict(load)), file=file)
    except BaseException as error:  # told to the main thread
        failures.append(error)


def _sample(vms: dict[str, Vm], limited: host.LimitedHost) -> Sample:
    usage = limited.usage()
    faults = {name: host.process_usage(vm.pid) for name, vm in vms.items()}
    return Sample(
        time=time.time(), used=usage.used_bytes, limit=usage.limit_bytes,
        swap_used=usage.swap_used_bytes, pswpin=usage.pswpin, pswpout=usage.pswpout,
        major_faults={name: fault.major_faults for name, fault in faults.items() if fault},
        minor_faults={name: fault.minor_faults for name, fault in faults.items() if fault},
    )


def clock_offset(vm: Vm) -> float:
    """Seconds to add to the guest's clock to get the host's, to half a round trip."""
    before = time.time()
    guest = float(vm.sh("date +%s.%N"))
    return (before + time.time()) / 2 - guest


@contextmanager
def tracer(vm: Vm, out: Path) -> Iterator[None]:
    """Run the message tracer in a guest, its JSON lines going to `out`."""
    with out.open("w", buffering=1) as lines, (vm.run_dir / "tracer.err").open("w") as errors:
        promise = vm.ssh.run("python3 /run/lab/messages.py --json", asynchronous=True, warn=True,
                             hide=False, in_stream=False, out_stream=lines, err_stream=errors)
        try:
            yield
        finally:
            # A guest that is dead already must not hide why.
            with suppress(LabError):
                vm.sh("pkill -INT -f messages.py", check=False)
                promise.join()


def _wait_for_tracers(folder: Path, names: list[str]) -> None:
    end = time.monotonic() + TRACER_DEADLINE
    for name in names:
        said = folder / name / "tracer.err"
        while "tracing" not in said.read_text():
            if time.monotonic() > end:
                raise LabError(f"the tracer in guest {name} did not start in "
                               f"{TRACER_DEADLINE:.0f} s: {said.read_text().strip()[-300:]}")
            time.sleep(0.2)

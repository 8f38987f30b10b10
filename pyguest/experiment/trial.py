# SPDX-License-Identifier: GPL-2.0-or-later
"""One trial: guests of one contestant under one load on a host of limited memory."""

import json
import os
import shutil
import threading
import time
from collections import Counter as Count
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from qemu.qmp import QMPError

from .. import host, lab
from ..controller import hostctl
from ..errors import LabError
from ..jsonl import read_lines
from ..loads import swap_space
from ..progress import Step as Progress
from ..vm import Vm, boot_all
from .contestants import Contestant
from .disturbance import Surroundings, disturbances, strangers
from .loads import Load, Step
from .outcome import Counters, GuestOutcome, Outcome, folder_of
from .reaction import reactions

MIB = 1 << 20
BALLOON = "/machine/peripheral/balloon"
SAMPLE_SECONDS = 0.5
GUEST_SWAP_MIB = 256
"""Each guest can swap; the seed's could."""
SETTLE = 10.0
"""Seconds between boot and load: by then hostctl is acquainted with guests that it has seen boot,
and has read their statistics."""


def run(one: lab.Lab, limited: host.LimitedHost, load: Load, contestant: Contestant,
        number: int, attempt: int, progress: Progress) -> Outcome:
    """Boot the guests, run the load, and say what came of it.

    The samples and hostctl's journal stay in the lab's folder, under the trial's own name.
    """
    folder = one.run_dir / folder_of(load.name, contestant.name, number, attempt)
    shutil.rmtree(folder, ignore_errors=True)
    sockets = folder / "qmp"
    sockets.mkdir(mode=0o700, parents=True)
    limited.set_limit(load.limit_mib * MIB)
    with ExitStack() as stack:
        vms = {
            name: stack.enter_context(one.vm(
                name, driver=one.parts.stock_driver if contestant.stock else None,
                memory_mib=load.guest_mib, balloon=contestant.balloon(limited.memcg),
                # What the host swaps is to be for the guests' memory alone.
                direct=True,
                prefix=tuple(limited.prefix()), qmp_dir=sockets,
            )) for name in load.guests
        }
        if contestant.policy is not None:
            stack.enter_context(hostctl(sockets, folder, "--policy", contestant.policy,
                                        "--memcg", str(limited.memcg)))
        progress.update("boot,")
        boot_all(list(vms.values()))
        for vm in vms.values():
            stack.enter_context(swap_space(vm, GUEST_SWAP_MIB))
        for name, vm in vms.items():
            if (command := load.preparation(name)) is not None:
                progress.update(f"preparing {name},")
                vm.sh(command, timeout=900)
        time.sleep(SETTLE)
        begin = {name: _counters(vm) for name, vm in vms.items()}
        rule = _Rule(list(vms.values())) if contestant.automatic else None
        usage, stalled, since = limited.usage(), _stalled(), time.monotonic()
        before = Surroundings.now(usage.swap_used_bytes)
        with _sampling(vms, limited, folder / "samples.jsonl") as seen:
            ended = _press(vms, load, progress)
        after, stalled, until = limited.usage(), _stalled() - stalled, time.monotonic()
        decisions = messages = None
        if rule is not None:
            with suppress(LabError, OSError, QMPError, TimeoutError):  # a QEMU that thrashes
                decisions, messages = rule.happened()
        disturbed = disturbances(before, Surroundings.now(after.swap_used_bytes),
                                 os.cpu_count() or 1, seen.strangers)
        guests = {name: replace(ended[name], counters=_counters(vm).since(begin[name]))
                  for name, vm in vms.items()}
    journal = [record for record in read_lines(folder / "journal.jsonl")
               if record["mono"] <= until]
    found = reactions(journal, since)
    if contestant.policy is not None:
        happened = Count(record["event"] for record in journal if record["mono"] >= since)
        decisions, messages = happened["decision"], happened["guest-message"]
    return Outcome(
        load.name, contestant.name, number,
        swapped_in=after.pswpin - usage.pswpin,
        swapped_out=after.pswpout - usage.pswpout,
        faulted_in=after.workingset_refault_anon - usage.workingset_refault_anon,
        most_swap=seen.most_swap, stalled=stalled, guests=guests,
        zeros_in=after.swpin_zero - usage.swpin_zero,
        zeros_out=after.swpout_zero - usage.swpout_zero,
        attempt=attempt, disturbed=disturbed, unsampled=seen.missed,
        decisions=decisions, messages=messages,
        waits=found.waits, unheard=found.unheard,
    )


def _press(vms: Mapping[str, Vm], load: Load, progress: Progress) -> dict[str, GuestOutcome]:
    """Run all guests' loads side by side; what came of each, without its counters."""
    ended: dict[str, GuestOutcome] = {}
    failures: list[BaseException] = []
    begin = time.monotonic()

    def press(name: str) -> None:
        try:
            found = _steps(vms[name], load.guests[name])
            ended[name] = replace(found, elapsed=time.monotonic() - begin)
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=press, args=(name,), daemon=True) for name in vms]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not failures:
        progress.update(f"load of {load.seconds:.0f} s,")
        time.sleep(0.2)
    if failures:
        raise failures[0]
    return ended


def _steps(vm: Vm, steps: tuple[Step, ...]) -> GuestOutcome:
    """Run them in turn. One that ends early, maybe killed for want of memory, is a result too."""
    done = loading = 0.0
    broken = None
    for step in steps:
        # Filling the chunks takes its time as well, more when the host swaps.
        said, _, status = vm.sh(f"{step.command()}\necho status $?",
                                timeout=10 * step.seconds + 300).rpartition("status ")
        if status.strip() == "0":
            work = step.work(said)
            done, loading = done + work.done, loading + work.seconds
        else:
            broken = f"{step.kind} of {step.mib} MiB ended with status {status.strip()}"
    return GuestOutcome(Counters(), 0.0, done, loading, broken)


@dataclass
class _Seen:
    """What a trial's samples have shown."""

    most_swap: int = 0
    strangers: set[int] = field(default_factory=set)
    missed: int = 0


@contextmanager
def _sampling(vms: Mapping[str, Vm], limited: host.LimitedHost, path: Path) -> Iterator[_Seen]:
    """Write samples of the host and the guests' sizes meanwhile."""
    seen, stop = _Seen(), threading.Event()
    # Who is there all the time is the same for all contestants: the record says it.
    known = strangers(()) | {vm.pid for vm in vms.values()}

    def sample() -> None:
        with path.open("w", buffering=1) as file:
            while not stop.wait(SAMPLE_SECONDS):
                usage = limited.usage()
                seen.most_swap = max(seen.most_swap, usage.swap_used_bytes)
                seen.strangers |= strangers(known)
                try:
                    sizes = {name: vm.balloon_actual() for name, vm in vms.items()}
                except (LabError, OSError, QMPError, TimeoutError):  # a QEMU that thrashes
                    seen.missed += 1
                    continue
                print(json.dumps({
                    "time": time.time(), "used": usage.used_bytes, "limit": usage.limit_bytes,
                    "swap_used": usage.swap_used_bytes, "pswpin": usage.pswpin,
                    "pswpout": usage.pswpout, "sizes": sizes,
                }), file=file)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


class _Rule:
    """What QEMU's own rule is told and does from now on."""

    def __init__(self, vms: Sequence[Vm]) -> None:
        self._vms, self._before = vms, 0
        self._before = self.happened()[1]

    def happened(self) -> tuple[int, int]:
        """Changes of a target since the call before, and messages of the guests since the begin.

        QEMU tells of one change each 100 ms of a guest.
        """
        changes = sum(len(vm.events("BALLOON_AUTOMATIC", 0)) for vm in self._vms)
        return changes, self._messages() - self._before

    def _messages(self) -> int:
        told = (vm.command("qom-get", path=BALLOON, property="message-stats") for vm in self._vms)
        return sum(stats[level] for stats in told for level in ("low", "medium", "critical"))


def _counters(vm: Vm) -> Counters:
    guest = host.parse_counters(vm.sh("cat /proc/vmstat", timeout=120))
    usage = host.process_usage(vm.pid)
    if usage is None:
        raise LabError(f"guest {vm.name}: its QEMU has ended; its log says why")
    return Counters(usage.major_faults, usage.minor_faults, usage.user_seconds,
                    usage.sys_seconds, guest["pswpin"], guest["pswpout"],
                    guest.get("workingset_refault_file", 0), guest.get("oom_kill", 0))


def _stalled() -> float:
    """Seconds since boot in which some task of the machine waited for memory."""
    try:
        some = Path("/proc/pressure/memory").read_text()
    except OSError:
        return 0.0
    return int(some.split("total=", 1)[1].split(maxsplit=1)[0]) / 1e6

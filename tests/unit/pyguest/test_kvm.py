# SPDX-License-Identifier: GPL-2.0-or-later
"""The KVM probe: its guest program is right, and each way of failing has its own reason."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from pyguest import kvm


def _steps(seconds_per_chunk: float, end: str = "halt") -> list[str]:
    lines = ["ready", *(f"step {step} 10.0" for step in range(1, 9))]
    lines += [f"step 9 {10 + seconds_per_chunk * n:.6f}" for n in range(1, 7)]
    return [*lines, end] if end else lines


def test_full_speed_and_right_results_are_usable() -> None:
    assert kvm.judge(_steps(0.00005), "/dev/kvm", False, 1.0)[0]


def test_emulated_code_is_refused_although_its_results_are_right() -> None:
    usable, reason = kvm.judge(_steps(0.043), "/dev/kvm", False, 1.0)
    assert not usable
    assert "1.4 million instructions/s" in reason


def test_one_fast_chunk_suffices_on_a_busy_host() -> None:
    lines = _steps(0.05)
    lines[-2] = "step 9 10.250100"
    assert kvm.judge(lines, "/dev/kvm", False, 1.0)[0]


@pytest.mark.parametrize(
    ("lines", "timed_out", "expected"),
    [
        (["ready", "step 1 1.0"], True, "hung while setting CR4.PAE"),
        (["ready", "step 2 1.0"], True, "hung while entering 64-bit mode"),
        (["ready", "no /dev/kvm cannot create a virtual machine (x)"], False, "cannot create"),
        (["ready", "step 2 1.0", "stop the vCPU shut down (triple fault)"], False, "triple fault"),
        (["ready", "step 6 1.0"], False, "the probe's process died"),
        (_steps(0.00005, "stop the registers hold wrong results"), False, "wrong results"),
    ],
)
def test_each_failure_names_its_cause(lines: list[str], timed_out: bool, expected: str) -> None:
    usable, reason = kvm.judge(lines, "/dev/kvm", timed_out, 1.0)
    assert not usable
    assert expected in reason


def test_missing_device_and_wrong_device(tmp_path: Path) -> None:
    assert "does not exist" in kvm.probe(tmp_path / "kvm").reason
    assert "not a KVM device" in kvm.probe(Path("/dev/null")).reason


def test_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "group kvm" in kvm.probe(tmp_path / "kvm").reason


def children() -> set[str]:
    """The processes that this one has started and not waited for."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()):
                found.add(path.parent.name)
    return found


def test_probe_leaves_no_process_and_no_signal_handler() -> None:
    """Whatever this machine's KVM is, there is an answer and the caller stays as it was."""
    handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)]
    before = children()
    result = kvm.probe()
    assert result.reason
    assert children() == before
    assert [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)] == handlers


def test_a_guest_that_never_ends_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that stops reporting is killed at the deadline, and the step is named."""
    device = tmp_path / "kvm"
    device.touch()
    sleeper = "import time\nprint('ready', flush=True)\nprint('step 3 1.0', flush=True)\n"
    child = subprocess.Popen(["python3", "-c", sleeper + "time.sleep(60)"], stdout=subprocess.PIPE)
    monkeypatch.setattr(kvm.subprocess, "Popen", lambda *_, **__: child)
    result = kvm.probe(device, deadline=0.2)
    assert "hung while jumping" in result.reason
    assert result.seconds < 2.0
    assert child.poll() == -signal.SIGKILL


def _source(listing: str) -> str:
    return "\n".join(line.partition(" ")[2].strip() for line in listing.strip().splitlines())


@pytest.mark.skipif(not shutil.which("as") or not shutil.which("ld"), reason="needs binutils")
def test_machine_code_is_what_the_source_says(tmp_path: Path) -> None:
    source, linked, flat = tmp_path / "g.s", tmp_path / "g.elf", tmp_path / "g.bin"
    source.write_text(_source(kvm.LISTING) + "\n")
    base = hex(kvm.GUEST_BASE)
    subprocess.run(["as", "--64", "-o", tmp_path / "g.o", source], check=True)
    subprocess.run(["ld", f"-Ttext={base}", "-e", base, "-o", linked, tmp_path / "g.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, flat], check=True)
    code = flat.read_bytes().rstrip(b"\0")
    # The assembler pads with nops in places; where the listing has bytes, they must be equal.
    image = kvm.guest_image()[: len(code)]
    assert all(ours in (0, theirs) for ours, theirs in zip(image, code, strict=True))
    assert image.replace(b"\0", b"") == code.replace(b"\x90", b"").replace(b"\0", b"")


def _pvh_elf(image: bytes) -> bytes:
    """Wrap the guest's memory as a kernel that QEMU starts through its PVH entry."""
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", kvm.GUEST_BASE)
    data, note_at = 0x1000, 0x200
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, kvm.GUEST_BASE, 64, 0, 0, 64, 56,
        2, 0, 0, 0,
    )  # fmt: skip
    base = kvm.GUEST_BASE
    load = struct.pack("<IIQQQQQQ", 1, 7, data, base, base, len(image), len(image), 0x1000)
    extra = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    head = (header + load + extra).ljust(note_at, b"\0") + note
    return head.ljust(data, b"\0") + image


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64")
def test_guest_program_runs_to_its_end_on_a_full_cpu(tmp_path: Path) -> None:
    """Under TCG, a CPU known to be right, the program passes each step with right results."""
    kernel, steps = tmp_path / "kernel", tmp_path / "steps"
    kernel.write_bytes(_pvh_elf(kvm.guest_image()))
    qemu = subprocess.Popen(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults",
            "-display", "none", "-no-reboot", "-kernel", str(kernel), "-monitor", "stdio",
            "-chardev", f"file,id=steps,path={steps}",
            "-device", f"isa-debugcon,iobase={kvm.STEP_PORT:#x},chardev=steps",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not steps.exists():
            time.sleep(0.05)
        while time.monotonic() < deadline and len(steps.read_bytes()) < 14:
            time.sleep(0.05)
        time.sleep(0.2)
        registers, _ = qemu.communicate("info registers\nquit\n", timeout=10)
    finally:
        qemu.kill()
        qemu.wait()
    assert list(steps.read_bytes()) == [1, 2, 3, 4, 5, 6, 7, 8, *[9] * 6]
    values = {name: int(v, 16) for name, v in re.findall(r"\b(R\w+) *=([0-9a-f]{16})", registers)}
    assert values["RBX"] == 1
    assert values["RDI"] == 0xFFFFFFFF81000000
    assert values["R8"] == 6 * 20_000 * 20_001 // 2
    assert "HLT=1" in registers

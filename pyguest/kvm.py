# SPDX-License-Identifier: GPL-2.0-or-later
"""Does /dev/kvm really run a kernel?

That ``/dev/kvm`` opens and creates a vCPU is no proof. Under a paravirtual KVM
(``CONFIG_KVM_PVM``) the firmware runs, but a stock kernel's 64-bit code is emulated by the host
kernel one instruction at a time (1.4 million a second), and the emulator gives up at the first
trap. So the probe starts a small guest as a PVH kernel starts: 32-bit protected mode, PAE,
EFER.LME, paging, far jump to 64-bit, the upper half of the address space, an MSR, a trap, a page
fault, CR3. Then it measures the speed of a loop there.

The guest runs in a process of its own, which is killed at the deadline: a vCPU that spins in the
host kernel cannot hang the caller, and the caller's signals stay as they are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyguest import ioctl

GUEST_BASE = 0x100000
GUEST_BYTES = 4 << 20
STEP_PORT = 0xF4
LAST_STEP = 9

# A CPU does 1,000 million of these a second and more, also when nested; the instruction
# emulator of the host kernel 1 to 2 million. The limit lies between with room on both sides.
SLOWEST_USABLE_MIPS = 20.0
CHUNK_INSTRUCTIONS = 3 * 20_000

# What the guest is doing after it has reported a step.
_DOING = {
    0: "the 32-bit entry",
    1: "setting CR4.PAE, CR3 and EFER.LME",
    2: "entering 64-bit mode",
    3: "jumping to the kernel's half of the address space",
    4: "writing an MSR",
    5: "taking a breakpoint trap",
    6: "handling a page fault",
    7: "reloading CR3",
    8: "running a loop in 64-bit mode",
    9: "running a loop in 64-bit mode",
}

# Machine code and its source side by side ("-" has no bytes): no assembler is needed to probe,
# and the unit test assembles the right column and compares.
LISTING = """
-                        .code32
-                        start:
bc00801000               mov $0x108000, %esp
b001                     mov $1, %al
e6f4                     out %al, $0xf4
0f011540101000           lgdt 0x101040
0f20e0                   mov %cr4, %eax
83c820                   or $0x20, %eax
0f22e0                   mov %eax, %cr4
b800201000               mov $0x102000, %eax
0f22d8                   mov %eax, %cr3
b9800000c0               mov $0xc0000080, %ecx
0f32                     rdmsr
0d01010000               or $0x101, %eax
0f30                     wrmsr
b002                     mov $2, %al
e6f4                     out %al, $0xf4
0f20c0                   mov %cr0, %eax
0d01000180               or $0x80010001, %eax
0f22c0                   mov %eax, %cr0
ea450010001000           ljmp $0x10, $long
-                        .code64
-                        long:
b003                     mov $3, %al
e6f4                     out %al, $0xf4
b818000000               mov $0x18, %eax
8ed8                     mov %eax, %ds
8ec0                     mov %eax, %es
8ed0                     mov %eax, %ss
0f011c2550101000         lidt 0x101050
48c7c080001080           mov $0xffffffff80100080, %rax
ffe0                     jmp *%rax
-                        .org 0x80
-                        high:
b004                     mov $4, %al
e6f4                     out %al, $0xf4
b9820000c0               mov $0xc0000082, %ecx
b800000081               mov $0x81000000, %eax
baffffffff               mov $-1, %edx
0f30                     wrmsr
31c0                     xor %eax, %eax
31d2                     xor %edx, %edx
0f32                     rdmsr
48c1e220                 shl $32, %rdx
488d3c02                 lea (%rdx, %rax), %rdi
b005                     mov $5, %al
e6f4                     out %al, $0xf4
31db                     xor %ebx, %ebx
cc                       int3
b006                     mov $6, %al
e6f4                     out %al, $0xf4
488b342500002080         mov 0xffffffff80200000, %rsi
b007                     mov $7, %al
e6f4                     out %al, $0xf4
0f20d8                   mov %cr3, %rax
0f22d8                   mov %rax, %cr3
0f013c2500002080         invlpg 0xffffffff80200000
4c8b0c2500002080         mov 0xffffffff80200000, %r9
b008                     mov $8, %al
e6f4                     out %al, $0xf4
4531c0                   xor %r8d, %r8d
41ba06000000             mov $6, %r10d
-                        chunk:
b9204e0000               mov $20000, %ecx
-                        spin:
4901c8                   add %rcx, %r8
ffc9                     dec %ecx
75f9                     jnz spin
b009                     mov $9, %al
e6f4                     out %al, $0xf4
41ffca                   dec %r10d
75eb                     jnz chunk
f4                       hlt
-                        .org 0x140
-                        breakpoint:
48ffc3                   inc %rbx
48cf                     iretq
-                        .org 0x150
-                        fault:
48c704250860100083002000 movq $0x200083, 0x106008
4883c408                 add $8, %rsp
48cf                     iretq
"""


@dataclass(frozen=True)
class KvmProbe:
    """Whether KVM can run a kernel here, why (one line), and how long finding out took."""

    usable: bool
    reason: str
    seconds: float


def guest_image() -> bytes:
    """The guest's memory from ``GUEST_BASE`` on: code, GDT, IDT and page tables, 28 KiB.

    The offsets are those that the code in ``LISTING`` uses.
    """
    image = bytearray(0x7000)
    at = 0
    for line in LISTING.strip().splitlines():
        code, _, source = line.partition(" ")
        if source.strip().startswith(".org"):
            at = int(source.split()[1], 16)
        elif code != "-":
            data = bytes.fromhex(code)
            image[at : at + len(data)] = data
            at += len(data)
    # GDT: null, 32-bit code 0x08, 64-bit code 0x10, data 0x18; accessed bits are set.
    struct.pack_into(
        "<4Q", image, 0x1000, 0, 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
    )
    struct.pack_into("<HQ", image, 0x1040, 4 * 8 - 1, GUEST_BASE + 0x1000)
    struct.pack_into("<HQ", image, 0x1050, 16 * 16 - 1, GUEST_BASE + 0x1800)
    for vector, handler in ((3, 0x140), (14, 0x150)):
        target = 0xFFFFFFFF80000000 + GUEST_BASE + handler
        struct.pack_into(
            "<HHBBHII", image, 0x1800 + 16 * vector,
            target & 0xFFFF, 0x10, 0, 0x8E, target >> 16 & 0xFFFF, target >> 32, 0,
        )  # fmt: skip
    # Tables hold 0x3 (present, writable); large pages 0x83. Low: 0-4 MiB one to one. High: the
    # first 2 MiB only, the page fault handler adds the second.
    for offset, value in (
        (0x2000, GUEST_BASE + 0x3003),
        (0x2000 + 511 * 8, GUEST_BASE + 0x5003),
        (0x3000, GUEST_BASE + 0x4003),
        (0x4000, 0x83),
        (0x4008, 0x200083),
        (0x5000 + 510 * 8, GUEST_BASE + 0x6003),
        (0x6000, 0x83),
    ):
        struct.pack_into("<Q", image, offset, value)
    return bytes(image)


class _Segment(ctypes.Structure):
    _fields_ = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        *((name, ctypes.c_uint8) for name in (
            "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding",
        )),
    ]  # fmt: skip


class _Sregs(ctypes.Structure):
    _fields_ = [
        *((name, _Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("tables", ctypes.c_uint64 * 4),
        *((name, ctypes.c_uint64) for name in (
            "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base",
        )),
        ("interrupts", ctypes.c_uint64 * 4),
    ]  # fmt: skip


class _Regs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip", "rflags",
    )]  # fmt: skip


class _MemoryRegion(ctypes.Structure):
    _fields_ = [
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("host", ctypes.c_uint64),
    ]


class _Cpuid(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("entries", ctypes.c_uint32 * (10 * 256)),
    ]


# From include/uapi/linux/kvm.h.
_GET_API_VERSION = ioctl.io(0xAE, 0x00)
_CREATE_VM = ioctl.io(0xAE, 0x01)
_GET_VCPU_MMAP_SIZE = ioctl.io(0xAE, 0x04)
_GET_SUPPORTED_CPUID = ioctl.iowr(0xAE, 0x05, 8)
_CREATE_VCPU = ioctl.io(0xAE, 0x41)
_SET_USER_MEMORY_REGION = ioctl.iow(0xAE, 0x46, ctypes.sizeof(_MemoryRegion))
_SET_TSS_ADDR = ioctl.io(0xAE, 0x47)
_RUN = ioctl.io(0xAE, 0x80)
_GET_REGS = ioctl.ior(0xAE, 0x81, ctypes.sizeof(_Regs))
_SET_REGS = ioctl.iow(0xAE, 0x82, ctypes.sizeof(_Regs))
_GET_SREGS = ioctl.ior(0xAE, 0x83, ctypes.sizeof(_Sregs))
_SET_SREGS = ioctl.iow(0xAE, 0x84, ctypes.sizeof(_Sregs))
_SET_CPUID2 = ioctl.iow(0xAE, 0x90, 8)
_EXIT_IO, _EXIT_HLT, _EXIT_SHUTDOWN, _EXIT_INTERNAL_ERROR = 2, 5, 8, 17
_API_VERSION = 12
_MARK = 0x62616C6C6F6F6E21  # what the guest must find behind the page fault


def _guest_steps(device: str) -> Iterator[str]:
    """Run the guest; yield a word a step for the parent, at the end the verdict of the child."""
    kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        version = ioctl.call(kvm, _GET_API_VERSION)
    except OSError as error:
        yield f"no {device} is not a KVM device ({error.strerror})"
        return
    if version != _API_VERSION:
        yield f"no {device} speaks KVM API version {version}, not {_API_VERSION}"
        return
    try:
        vm = ioctl.call(kvm, _CREATE_VM)
        memory = mmap.mmap(-1, GUEST_BYTES)
        image = guest_image()
        memory[GUEST_BASE : GUEST_BASE + len(image)] = image
        struct.pack_into("<Q", memory, 0x200000, _MARK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        # Older Intel CPUs need three pages for real mode; where QEMU puts them.
        ioctl.call(vm, _SET_TSS_ADDR, 0xFFFBD000)
        ioctl.call(vm, _SET_USER_MEMORY_REGION, _MemoryRegion(size=GUEST_BYTES, host=address))
        vcpu = ioctl.call(vm, _CREATE_VCPU)
        run = mmap.mmap(vcpu, ioctl.call(kvm, _GET_VCPU_MMAP_SIZE))
        cpuid = _Cpuid(count=256)
        ioctl.call(kvm, _GET_SUPPORTED_CPUID, cpuid)
        ioctl.call(vcpu, _SET_CPUID2, cpuid)
        _enter_protected_mode(vcpu)
    except OSError as error:
        yield f"no {device} cannot create a virtual machine ({error.strerror})"
        return
    while True:
        try:
            ioctl.call(vcpu, _RUN)
        except InterruptedError:
            continue
        except OSError as error:
            yield f"stop KVM_RUN failed ({error.strerror})"
            return
        (reason,) = struct.unpack_from("<I", run, 8)
        if reason == _EXIT_IO:
            (data_offset,) = struct.unpack_from("<Q", run, 40)
            yield f"step {run[data_offset]} {time.monotonic():.6f}"
            continue
        if reason == _EXIT_HLT:
            regs = _Regs()
            ioctl.call(vcpu, _GET_REGS, regs)
            yield "halt" if _right(regs) else "stop the registers hold wrong results"
        elif reason == _EXIT_SHUTDOWN:
            yield "stop the vCPU shut down (triple fault)"
        elif reason == _EXIT_INTERNAL_ERROR:
            # Hardware runs what the guest does here; only the host's instruction emulator gives up.
            (suberror,) = struct.unpack_from("<I", run, 32)
            yield f"stop KVM emulates the guest's instructions and gave up (suberror {suberror})"
        else:
            yield f"stop the vCPU left with exit reason {reason}"
        return


def _enter_protected_mode(vcpu: int) -> None:
    sregs = _Sregs()
    ioctl.call(vcpu, _GET_SREGS, sregs)
    flat = {"limit": 0xFFFFFFFF, "present": 1, "db": 1, "s": 1, "g": 1}
    sregs.cs = _Segment(selector=0x08, type=0xB, **flat)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, _Segment(selector=0x18, type=0x3, **flat))
    sregs.tr = _Segment(limit=0x67, type=0xB, present=1)
    sregs.cr0 = 0x11
    ioctl.call(vcpu, _SET_SREGS, sregs)
    ioctl.call(vcpu, _SET_REGS, _Regs(rip=GUEST_BASE, rflags=0x2))


def _right(regs: _Regs) -> bool:
    chunk = CHUNK_INSTRUCTIONS // 3
    have = (regs.rbx, regs.rsi, regs.r9, regs.rdi, regs.r8)
    return have == (1, _MARK, _MARK, 0xFFFFFFFF81000000, 6 * chunk * (chunk + 1) // 2)


def run_child(device: str) -> None:
    """Entry of the child process: one line a step on standard output."""
    # PR_SET_PDEATHSIG: should the caller be killed, nothing may spin on.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    print("ready", flush=True)
    for line in _guest_steps(device):
        print(line, flush=True)


def judge(lines: list[str], device: str, timed_out: bool, deadline: float) -> tuple[bool, str]:
    """Turn the child's lines into (usable, reason)."""
    step, verdict = 0, ""
    chunk_times: list[float] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "step":
            number, moment = rest.split()
            step = int(number)
            if step >= LAST_STEP - 1:
                chunk_times.append(float(moment))
        elif word in ("no", "stop", "halt"):
            verdict = line
    if verdict.startswith("no "):
        return False, verdict[3:]
    # The fastest chunk: a busy host may well take the CPU away during others.
    took = [after - before for before, after in zip(chunk_times, chunk_times[1:], strict=False)]
    if took:
        mips = CHUNK_INSTRUCTIONS / max(min(took), 1e-9) / 1e6
        if mips < SLOWEST_USABLE_MIPS:
            return False, (
                f"{device} runs 64-bit kernel code at {mips:.1f} million instructions/s, so the "
                "host emulates each one (a paravirtual KVM): a stock kernel would never start"
            )
    if timed_out:
        return False, (
            f"{device}: the vCPU hung while {_DOING.get(step, 'running')} "
            f"(no end within {deadline:g} s)"
        )
    if verdict != "halt":
        why = verdict.removeprefix("stop ") or "the probe's process died"
        return (
            False,
            f"{device} does not run 64-bit kernel code: while {_DOING.get(step, 'running')}, {why}",
        )
    return True, f"{device} runs 64-bit kernel code"


def probe(device: Path = Path("/dev/kvm"), deadline: float = 1.0) -> KvmProbe:
    """Find out whether ``device`` runs 64-bit kernel code; never raises, never hangs.

    ``deadline`` is the guest's time in seconds; starting the helper process comes on top.
    """
    begin = time.monotonic()
    usable, reason = _probe(device, deadline)
    return KvmProbe(usable, reason, time.monotonic() - begin)


def _probe(device: Path, deadline: float) -> tuple[bool, str]:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return False, f"{device} does not exist: load kvm_intel or kvm_amd, or enable nesting"
    except PermissionError:
        return False, f"{device}: no permission: add your user to the group kvm and log in again"
    except OSError as error:
        return False, f"{device} does not open ({error.strerror})"
    root = str(Path(__file__).resolve().parent.parent)
    start = "import sys; sys.path.insert(0, sys.argv[1]); from pyguest.kvm import run_child; "
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", start + "run_child(sys.argv[2])", root, str(device)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        lines, timed_out = _read_lines(child, deadline)
    finally:
        child.kill()
        if child.stdout is not None:
            child.stdout.close()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return False, f"{device}: the vCPU hung in the host's kernel and cannot be killed"
    return judge(lines, str(device), timed_out, deadline)


def _read_lines(child: subprocess.Popen[bytes], deadline: float) -> tuple[list[str], bool]:
    assert child.stdout is not None
    fd = child.stdout.fileno()
    data = b""
    # Python's own start on a loaded machine is not the guest's time.
    limit = time.monotonic() + 5.0
    started = False
    while (left := limit - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0]:
            break
        piece = os.read(fd, 65536)
        if not piece:
            return data.decode().splitlines(), False
        data += piece
        if not started and b"\n" in data:
            started = True
            limit = time.monotonic() + deadline
    return data.decode().splitlines(), True

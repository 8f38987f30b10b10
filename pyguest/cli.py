# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of the lab."""

import argparse
import signal
import sys
import time
from pathlib import Path

from . import checkpatch, doctor, lab, paths, running, targets
from .bench import boot as bench_boot
from .build import image, kernel, kmod, qemu
from .errors import LabError

EXAMPLES = """\
examples:
  pyguest doctor                        what this machine can do
  pyguest build                         fetch and build what the cache does not have
  pyguest boot a                        a guest named a, until Ctrl-C
  pyguest ssh a -- free -m              a command in it, from another terminal
  pyguest trace messages a              a line for each pressure message that it sends
  pyguest demo                          two guests share a host that is too small
"""


def main(argv: list[str] | None = None) -> int:
    """Run `pyguest` with `argv`; the exit status."""
    args = _parser().parse_args(argv)
    # So that a TERM ends the guests as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = args.run(args)
    except LabError as error:
        print(f"pyguest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyguest: interrupted; all that it started is stopped", file=sys.stderr)
        return 130
    return int(status or 0)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="pyguest", description="The lab for ballooning guests.", epilog=EXAMPLES,
        formatter_class=raw,
    )
    doors = parser.add_subparsers(required=True, metavar="COMMAND")

    door = doors.add_parser("doctor", help="say what this machine can do")
    door.add_argument("--json", action="store_true", help="as JSON")
    door.set_defaults(run=lambda args: doctor.main(["--json"] if args.json else []))

    door = doors.add_parser("build", help="fetch and build")
    door.add_argument("what", nargs="?", default="all",
                      choices=("all", "kernel", "kmod", "qemu", "image"))
    door.set_defaults(run=_build)

    door = doors.add_parser("boot", help="boot a guest and keep it until Ctrl-C")
    door.add_argument("name", nargs="?", default="guest")
    door.add_argument("--memory", type=int, metavar="MIB", help="RAM (targets.toml has the usual)")
    door.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    door.set_defaults(run=_boot)

    door = doors.add_parser("ssh", help="a command in a running guest")
    door.add_argument("name")
    door.add_argument("command", nargs="+")
    door.set_defaults(run=lambda args: running.run(args.name, " ".join(args.command)))

    door = doors.add_parser("trace", help="an eBPF tool in a running guest")
    door.add_argument("what", choices=("messages",))
    door.add_argument("name", nargs="?", default="guest")
    door.add_argument("count", type=int, nargs="?", default=0, help="stop after so many lines")
    door.add_argument("--json", action="store_true", help="a JSON object a line")
    door.set_defaults(run=_trace)

    door = doors.add_parser("demo", help="two guests share a host that is too small for both")
    door.add_argument("--step", type=float, default=20.0, metavar="SECONDS",
                      help="length of one step of the load (20)")
    door.set_defaults(run=_demo)

    door = doors.add_parser("bench-boot", help="measure the time to a login")
    door.add_argument("count", type=int, nargs="?", default=5)
    door.set_defaults(run=lambda args: bench_boot.main(args.count))

    door = doors.add_parser("checkpatch", help="both checkpatch.pl on our C")
    door.set_defaults(run=_checkpatch)
    return parser


def _build(args: argparse.Namespace) -> None:
    started = time.monotonic()
    wanted = targets.load()
    if args.what == "all":
        lab.prepare()
    elif args.what == "qemu":
        print(qemu.ensure(wanted.qemu(lab.chosen("QEMU"))).binary)
    elif args.what == "kmod" and lab.chosen("KDIR"):
        name = wanted.kernel(lab.chosen("KERNEL")).name
        into = paths.state_dir("kmod-own-tree")
        print(kmod.build_for_tree(Path(str(lab.chosen("KDIR"))).resolve(), name, into))
    else:
        built = kernel.ensure(wanted.kernel(lab.chosen("KERNEL")))
        if args.what == "kmod":
            print(kmod.ensure(built))
        elif args.what == "image":
            print(image.ensure(wanted.image, built).disk)
    print(f"ready in {time.monotonic() - started:.0f} s; the cache is {paths.cache_root()}")


def _boot(args: argparse.Namespace) -> None:
    changes = {"memory_mib": args.memory} if args.memory else {}
    with lab.Lab(lab.prepare(), "boot", args.accel) as one:
        print(f"accelerator: {one.accel.kind} ({one.accel.reason})")
        vm = one.vm(args.name, **changes)
        vm.boot()
        with running.announce(vm):
            print(f"guest {args.name} is up after {vm.boot_seconds:.1f} s; Ctrl-C stops it\n"
                  f"  pyguest ssh {args.name} -- COMMAND\n"
                  f"  pyguest trace messages {args.name}\n"
                  f"  QMP: {vm.run_dir}/{args.name}.qmp   serial: {vm.serial_log}", flush=True)
            while vm.alive():
                time.sleep(0.2)
    raise LabError(f"guest {args.name} ended by itself; the serial log is {vm.serial_log}")


def _trace(args: argparse.Namespace) -> int:
    options = " --json" if args.json else ""
    count = f" {args.count}" if args.count else ""
    return running.run(args.name, f"python3 /run/lab/messages.py{options}{count}")


def _demo(args: argparse.Namespace) -> int:
    from .demo import run  # matplotlib takes a second to import

    return run.main(args.step)


def _checkpatch(args: argparse.Namespace) -> None:
    wanted = targets.load()
    checkpatch.check_kernel(wanted)
    checkpatch.check_qemu(wanted)

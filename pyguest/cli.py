# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of the lab."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from qemu.qmp import QMPError

from . import (
    check,
    checkpatch,
    doctor,
    fuzz,
    lab,
    paths,
    running,
    series,
    series_check,
    series_qemu,
    targets,
)
from .bench import boot as bench_boot
from .bench import discard as bench_discard
from .bench import driver as bench_driver
from .bench import scale as bench_scale
from .build import image, kernel, kmod, qemu, source
from .errors import LabError
from .experiment.contestants import CONTESTANTS
from .experiment.loads import LOADS
from .experiment.plan import PLANS, Plan

EXAMPLES = """\
examples:
  bin/pyguest doctor                        what this machine can do
  bin/pyguest build                         fetch and build what the cache does not have
  bin/pyguest boot a                        a guest named a, until Ctrl-C
  bin/pyguest ssh a -- free -m              a command in it, from another terminal
  bin/pyguest trace messages a              a line for each pressure message that it sends
  bin/pyguest demo                          two guests share a host that is too small
"""


def main(argv: list[str] | None = None) -> int:
    """Run `pyguest` with `argv`; the exit status."""
    args = _parser().parse_args(argv)
    _end_in_good_order()
    # modinfo and mke2fs lie where a user does not look.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        status = args.run(args)
    except LabError as error:
        print(f"pyguest: {error}", file=sys.stderr)
        return 1
    except (OSError, subprocess.SubprocessError, QMPError) as error:
        print(f"pyguest: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyguest: interrupted; all that it started is stopped", file=sys.stderr)
        return 130
    return int(status or 0)


def _end_in_good_order() -> None:
    """Let INT, TERM and a closed terminal unwind, once: a second one must not cut that short."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: object) -> None:
        for each in stops:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for each in stops:
        signal.signal(each, end)


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError
    return value


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: use letters, digits and -, at most 31")
    return text


def _contestants(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in CONTESTANTS:
            raise argparse.ArgumentTypeError(
                f"{name!r}: there are {', '.join(CONTESTANTS)}")
    return names


def _scale(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 4:
        raise argparse.ArgumentTypeError(f"{text}: give 0.1 to 4")
    return value


_positive.__name__ = "positive number"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="bin/pyguest", description="The lab for ballooning guests.", epilog=EXAMPLES,
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
    door.add_argument("name", nargs="?", default="guest", type=_name)
    door.add_argument("--memory", type=_positive, metavar="MIB",
                      help="RAM (targets.toml has the usual)")
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
    door.add_argument("--step", type=_positive, default=20, metavar="SECONDS",
                      help="length of one step of the load (20)")
    door.set_defaults(run=_demo)

    door = doors.add_parser(
        "experiment", help="policies and their peers on the same loads",
        epilog="The same command goes on with what is missing, after a stop or a failure.")
    plan = Plan()
    door.add_argument("loads", nargs="*", metavar="LOAD", help=f"of {', '.join(LOADS)}")
    door.add_argument("--plan", choices=PLANS, help="one of the project's own: what is not given "
                                                    "besides is as it says")
    door.add_argument("--contestants", type=_contestants, metavar="NAME,...",
                      help=f"of {', '.join(CONTESTANTS)} ({','.join(plan.contestants)})")
    door.add_argument("--rounds", type=_positive, help=f"{plan.rounds}")
    door.add_argument("--scale", type=_scale, help=f"of the seed's memory ({plan.scale})")
    door.add_argument("--pace", type=_scale, help=f"of the seed's times ({plan.pace})")
    door.add_argument("--report", type=Path, metavar="FOLDER",
                      help="write the report there, with pictures")
    door.add_argument("--again", action="store_true",
                      help="measure again what is there; that is kept beside")
    door.add_argument("--report-only", action="store_true",
                      help="run nothing: of what there is so far, or in FOLDER")
    door.set_defaults(run=_experiment)

    door = doors.add_parser("bench-boot", help="measure the time to a login")
    door.add_argument("count", type=_positive, nargs="?", default=5)
    door.set_defaults(run=lambda args: bench_boot.main(args.count))

    door = doors.add_parser("bench-driver", help="measure latency, CPU share and inflation")
    door.add_argument("--only", action="append", choices=bench_driver.PARTS,
                      help="one part (may be given again; all)")
    usual = bench_driver.Plan()
    door.add_argument("--bursts", type=_positive, default=usual.bursts,
                      help=f"bursts of reclaim whose latency is measured ({usual.bursts})")
    door.add_argument("--rounds", type=_positive, default=usual.rounds,
                      help=f"rounds of what is compared ({usual.rounds})")
    door.add_argument("--seconds", type=_positive, default=usual.seconds,
                      help=f"length of a window of the CPU share ({usual.seconds})")
    door.add_argument("--series", action="append", default=[], metavar="KERNEL",
                      help="a kernel whose own driver inflates as well, like 7.3-series")
    door.set_defaults(run=_bench_driver)

    door = doors.add_parser("bench-hostctl", help="measure hostctl with a thousand guests")
    door.add_argument("--guests", type=int, default=1000, help="%(default)s")
    door.add_argument("--seconds", type=float, default=60.0, help="of each phase (%(default)s)")
    door.add_argument("--policy", default="classic", help="%(default)s")
    door.set_defaults(run=lambda args: bench_scale.main(args.guests, args.seconds, args.policy))

    door = doors.add_parser("bench-discard", help="measure how the device takes page frames")
    door.add_argument("--rounds", type=_positive, default=9, help="rounds of each (9)")
    door.add_argument("--other", type=Path, metavar="BINARY",
                      help="one more QEMU to measure, with the qtest accelerator")
    door.add_argument("--record", action="store_true",
                      help="boot a guest and record the frames that are measured with")
    door.set_defaults(run=_bench_discard)

    door = doors.add_parser("fuzz-device", help="drivers by chance for the device")
    door.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    door.add_argument("--first", type=int, default=0, metavar="SEED", help="first input (0)")
    door.add_argument("--inputs", type=_positive, metavar="N",
                      help="so many inputs, however long it takes")
    door.set_defaults(run=_fuzz_device)

    door = doors.add_parser("check", help="the driver before gcc W=1, sparse, kernel-doc and "
                                          "checkpatch, as a table")
    door.add_argument("kernel", nargs="*", help="kernels of targets.toml (all)")
    door.set_defaults(run=_check)

    door = doors.add_parser("series", help="write the driver, or with QEMU= the device, as a "
                                           "series of mails")
    door.add_argument("--output", type=Path, metavar="DIR",
                      help="where the mails go (series/KERNEL, series/qemu-QEMU in the checkout)")
    door.add_argument("--check", action="store_true",
                      help="git am, build and checkpatch each mail as well, and run QEMU's tests")
    door.set_defaults(run=_series)

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
        name = lab.chosen("KERNEL")
        targeted = [wanted.kernel(name)] if name else list(wanted.kernels.values())
        print(kmod.build_for_tree(
            Path(str(lab.chosen("KDIR"))).resolve(),
            [paths.TREE / target.patch for target in targeted],
            paths.state_dir("kmod-own-tree"),
        ))
    else:
        name = lab.chosen("KERNEL")
        if args.what == "image":
            print(image.ensure(wanted.image, lab.packaged_kernel(wanted, name)).disk)
        else:
            built = lab.booted_kernel(wanted, name)
            print(kmod.ensure(built) if args.what == "kmod" else built.vmlinux)
    print(f"ready in {time.monotonic() - started:.0f} s; the cache is {paths.cache_root()}")


def _boot(args: argparse.Namespace) -> None:
    changes = {"memory_mib": args.memory} if args.memory else {}
    with lab.Lab(lab.prepare(), "boot", args.accel) as one:
        print(f"accelerator: {one.accel.kind} ({one.accel.reason})")
        vm = one.vm(args.name, **changes)
        vm.boot()
        with running.announce(vm):
            print(f"guest {args.name} is up after {vm.boot_seconds:.1f} s; Ctrl-C stops it\n"
                  f"  bin/pyguest ssh {args.name} -- COMMAND\n"
                  f"  bin/pyguest trace messages {args.name}\n"
                  f"  QMP: {vm.run_dir}/{args.name}.qmp   serial: {vm.serial_log}", flush=True)
            while vm.alive():
                time.sleep(0.2)
    raise LabError(f"guest {args.name} ended by itself; the serial log is {vm.serial_log}")


def _trace(args: argparse.Namespace) -> int:
    options = " --json" if args.json else ""
    count = f" {args.count}" if args.count else ""
    return running.run(args.name, f"python3 /run/lab/messages.py{options}{count}")


def _experiment(args: argparse.Namespace) -> int:
    from .experiment import command, results  # matplotlib and scipy take a second to import

    for name in args.loads:
        if name not in LOADS:
            raise LabError(f"load {name!r}: there are {', '.join(LOADS)}")
    given: dict[str, Any] = {
        name: getattr(args, name) for name in ("contestants", "rounds", "scale", "pace")
        if getattr(args, name) is not None
    }
    if args.loads:
        given["loads"] = tuple(args.loads)
    plan = replace(PLANS[args.plan] if args.plan else Plan(), **given)
    if not args.report_only:
        return command.main(plan, args.report, again=args.again)
    if args.report is None:
        raise LabError("--report-only: where to? Give --report FOLDER as well")
    results.write(command.folder(plan), args.report)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import run  # matplotlib takes a second to import

    return run.main(args.step)


def _bench_driver(args: argparse.Namespace) -> int:
    return bench_driver.main(bench_driver.Plan(
        only=tuple(args.only or bench_driver.PARTS), bursts=args.bursts, rounds=args.rounds,
        seconds=args.seconds, series=tuple(args.series),
    ))


def _bench_discard(args: argparse.Namespace) -> int:
    if args.record:
        return bench_discard.record()
    return bench_discard.main(args.rounds, args.other)


def _fuzz_device(args: argparse.Namespace) -> int:
    binary = qemu.ensure(targets.load().qemu(lab.chosen("QEMU"))).binary
    return fuzz.main(binary, args.minutes, args.first, args.inputs)


def _check(args: argparse.Namespace) -> int:
    wanted = targets.load()
    names = args.kernel or list(wanted.kernels)
    return check.report([
        result for name in names
        for result in check.checks(kernel.ensure(wanted.kernel(name)), wanted)
    ])


def _series(args: argparse.Namespace) -> None:
    if lab.chosen("QEMU"):
        _series_qemu(args)
        return
    recipe = series.load()
    target = targets.load().kernel(lab.chosen("KERNEL") or recipe.target)
    tree = source.ensure(target)
    written = _series_write(args, series.of_kernel(tree))
    if args.check:
        built = kernel.ensure(target).build
        checked = series_check.check(written, recipe, tree, built / ".config",
                                     built / "Module.symvers")
        print(series_check.table(checked, recipe))


def _series_qemu(args: argparse.Namespace) -> None:
    recipe = series.load(qemu.DEVICE)
    target = targets.load().qemu(lab.chosen("QEMU"))
    with paths.lock("series-qemu"):
        tree = series_qemu.ensure_tree(target)
        written = _series_write(args, series_qemu.base(target, tree))
        if args.check:
            checked = series_qemu.check(written, recipe, target, tree)
            print(series_check.table(checked, recipe))


def _series_write(args: argparse.Namespace, base: series.Base) -> series.Series:
    name = f"qemu-{base.target}" if base.variable == "QEMU" else base.target
    written = series.write(base, args.output or paths.TREE / "series" / name)
    print(f"{len(written.mails)} mails and a cover letter: {written.folder}")
    if written.unmeasured:
        print(f"not measured, and so said: {', '.join(written.unmeasured)}")
    return written


def _checkpatch(args: argparse.Namespace) -> None:
    wanted = targets.load()
    checkpatch.check_kernel(wanted)
    checkpatch.check_qemu(wanted)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver before the kernel's own judges: gcc with W=1, sparse, kernel-doc, checkpatch.

What the distribution's driver and the kernel's headers say by themselves is told apart from
what we add: the stock driver is built with the same flags, and compared.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import checkpatch, paths
from .build import kmod
from .build.kernel import CC, Kernel
from .errors import LabError
from .targets import Targets

# sparse 0.6.4, of Debian 12 and 13, knows no __typeof_unqual__() and does not fold the length of
# a literal: 7.x headers need the one, and its MODULE_INFO() the other. checker-valid.sh of 7.x
# would skip sparse without a word that fails.
SPARSE = ("C=2", "CF=-D__CHECK_ENDIAN__ -D__typeof_unqual__=__typeof__"
                 " '-D__builtin_strlen(s)=(sizeof(s)-1)'")
W1 = ("W=1",)

STOCK, MAIN = "virtio_balloon.c", "virtio_balloon_main.c"


@dataclass(frozen=True)
class Complaint:
    """One complaint; `text` has no line number, so that two builds can be compared."""

    file: str
    """The file's name without its folder."""
    line: int
    text: str


@dataclass(frozen=True)
class Result:
    """What one check said of our driver on one kernel."""

    kernel: str
    check: str
    ours: tuple[str, ...]
    """A line for each complaint of what is ours."""
    elsewhere: int
    """Complaints that the stock driver or the kernel's headers have too."""
    log: Path

    @property
    def passed(self) -> bool:
        return not self.ours


_COMPILER = re.compile(r"^(\S+?):(\d+)(?::\d+)?: (?:fatal )?(?:warning|error): (.+)$", re.M)
_GCC = re.compile(r"\[-W\S+\]$")
_MODPOST = re.compile(r"^(?:WARNING|ERROR): modpost: (.+)$", re.M)


def parse(log: str) -> list[Complaint]:
    """The complaints in a build's output: gcc's, sparse's, kernel-doc's and modpost's."""
    found = [Complaint(Path(match[1]).name.replace(MAIN, STOCK), int(match[2]), match[3])
             for match in _COMPILER.finditer(log)]
    # modpost names the object by its path, which is another one in each build.
    found += [Complaint("modpost", 0, re.sub(r"\S*/", "", match[1]))
              for match in _MODPOST.finditer(log)]
    return found


def ours(found: Iterable[Complaint], stock: Iterable[Complaint]) -> list[Complaint]:
    """Those of `found` that are in our files, or in a patched one and not in the stock driver."""
    own = {Path(name).name for name in kmod.OWN}
    excused = Counter((each.file, each.text) for each in stock)
    added = []
    for each in found:
        if each.file in own:
            added.append(each)
        elif each.file in (STOCK, "modpost", "make"):
            if excused[each.file, each.text]:
                excused[each.file, each.text] -= 1
            else:
                added.append(each)
    return added


def checks(kernel: Kernel, targets: Targets) -> list[Result]:
    """Run all checks of our driver on a kernel."""
    if not shutil.which("sparse"):
        raise LabError("sparse is not installed: run `make setup`")
    return [_compiled(kernel, "W=1", W1), _compiled(kernel, "sparse", SPARSE),
            _kernel_doc(kernel), _checkpatch(kernel, targets)]


def _log(kernel: Kernel, name: str) -> Path:
    path = paths.state_dir(f"check/{kernel.target.name}") / f"{name}.log"
    path.unlink(missing_ok=True)
    return path


def _compiled(kernel: Kernel, check: str, options: Sequence[str]) -> Result:
    """The driver with and without the lab's door, compared with the stock driver."""
    name = check.replace("=", "").lower()
    hook = paths.TREE / kernel.target.patch
    what = f"the driver of Linux {kernel.version}"
    stock = _build(kernel, _log(kernel, f"{name}-stock"), options, _lay_out_stock(kernel))
    log = _log(kernel, name)
    said: dict[Complaint, None] = {}
    elsewhere: set[Complaint] = set()
    for extra in ((kmod.LAB,), ()):
        found = _build(kernel, log, (*options, *extra), lambda into: kmod.prepare(
            into, kernel.source.driver, hook, what))
        if check == "sparse":
            found = [each for each in found if not _GCC.search(each.text)]
        added = ours(found, stock)
        said.update(dict.fromkeys(added))
        elsewhere |= set(found) - set(added)
    if check == "sparse" and not said and "balloon_pressure.c" not in "".join(
            line for line in log.read_text().splitlines() if line.startswith("  CHECK")):
        raise LabError(f"sparse was not run, see {log}: it is too old for Linux {kernel.release}")
    return Result(kernel.target.name, check, tuple(
        f"{each.file.replace(STOCK, MAIN)}:{each.line}: {each.text}" for each in said
    ), len(elsewhere), log)


def _lay_out_stock(kernel: Kernel) -> Callable[[Path], None]:
    def lay_out(into: Path) -> None:
        shutil.copy(kernel.source.driver, into / STOCK)
        (into / "Kbuild").write_text("obj-m := virtio_balloon.o\n")
    return lay_out


def _build(kernel: Kernel, log: Path, options: Sequence[str],
           lay_out: Callable[[Path], None]) -> list[Complaint]:
    start = log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        failed = []
        try:
            kmod.compile(Path(folder), kernel.build, log, f"CC={CC}", *options)
        except LabError:
            failed = [Complaint("make", 0, "the build failed")]
    return failed + parse(log.read_text()[start:])


def _kernel_doc(kernel: Kernel) -> Result:
    """The comments that become documentation. 7.x builds of modules do not look at them."""
    log = _log(kernel, "kernel-doc")
    files = [kmod.KMOD / name for name in kmod.OWN if name.endswith((".c", ".h"))]
    done = subprocess.run([kernel.source.scripts / "kernel-doc", "-none", *files], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log.write_text(done.stdout)
    # 7.x says each line twice.
    said = tuple(dict.fromkeys(line.replace(f"{kmod.KMOD}/", "")
                               for line in done.stdout.splitlines()))
    if done.returncode and not said:
        said = (f"kernel-doc failed with status {done.returncode}",)
    return Result(kernel.target.name, "kernel-doc", said, 0, log)


def _checkpatch(kernel: Kernel, targets: Targets) -> Result:
    """checkpatch.pl of this kernel on its hook patch and on our files."""
    log = _log(kernel, "checkpatch")
    target = kernel.source.target
    alone = replace(targets, default_kernel=target.name, kernels={target.name: target})
    said = ""
    try:
        checkpatch.check_kernel(alone)
    except LabError as error:
        said = str(error)
    log.write_text(said)
    return Result(kernel.target.name, "checkpatch", tuple(said.splitlines()), 0, log)


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table, a line for each kernel."""
    columns = list(dict.fromkeys(result.check for result in results))
    lines = ["| kernel | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(result.kernel for result in results):
        cells = {result.check: _cell(result) for result in results if result.kernel == name}
        lines.append(f"| {name} | " + " | ".join(cells.get(key, "") for key in columns) + " |")
    return "\n".join(lines)


def _cell(result: Result) -> str:
    word = "clean" if result.passed else f"**{len(result.ours)} of ours**"
    return word + (f" ({result.elsewhere} elsewhere)" if result.elsewhere else "")


def report(results: Sequence[Result]) -> int:
    """Print the table, then what is not clean and where its log is; an exit status."""
    print(table(results))
    for result in results:
        if not result.passed:
            print(f"\n{result.kernel} {result.check}, the whole log is {result.log}")
            print("\n".join(f"    {line}" for line in result.ours))
    return int(not all(result.passed for result in results))

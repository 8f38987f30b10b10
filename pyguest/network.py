# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' network: a namespace with a bridge and taps as root, user networking otherwise.

The machine's own interfaces, routes and filters stay as they are: bridge and taps live in a
network namespace of the lab's own, QEMU runs in it, and the lab reaches the guests with sockets
that were opened there (a socket keeps the namespace that it was created in).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pyguest.errors import LabError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NETNS_DIR = Path("/run/netns")
_PREFIX = "ab-"
# Wait between two tries while the guest's sshd does not listen yet.
_RETRY_SECONDS = 0.2
MAX_GUESTS = 200


class Network(ABC):
    """What a guest needs of a network. Guests are numbered from 0; a context manager.

    A guest has the link of its own number; while it migrates there are two QEMUs for it, and the
    second is on another `link`.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    @abstractmethod
    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @abstractmethod
    def netdev_args(self, index: int, link: int | None = None) -> list[str]:
        """QEMU arguments for the guest's network card."""

    def guest_address(self, index: int) -> str:
        """The guest's static address with its prefix length, such as ``10.77.0.2/24``."""
        return f"{_guest_ip(index)}/24"

    @abstractmethod
    def prefix(self) -> list[str]:
        """Command that QEMU must be started by, empty if none is needed."""

    @abstractmethod
    def handle(self, index: int) -> str:
        """What `attach` needs to reach the guest from another process."""

    @abstractmethod
    def connect(
        self, index: int, timeout: float, port: int = 22, link: int | None = None
    ) -> socket.socket:
        """Open a TCP connection to the guest, trying again until ``timeout`` seconds are over.

        The socket is blocking. Raises LabError when the guest did not answer.
        """


def _guest_ip(index: int) -> str:
    if not 0 <= index < MAX_GUESTS:
        raise LabError(f"guest number {index}: the lab's network has 0 to {MAX_GUESTS - 1}")
    return f"10.77.0.{index + 2}"


def _card(index: int) -> list[str]:
    # No option ROM: nothing boots from the network, and a QEMU of our own may not have it.
    mac = f"52:54:00:ab:00:{index + 2:02x}"
    return ["-device", f"virtio-net-pci,netdev=net0,mac={mac},romfile="]


def _retry(
    open_socket: Callable[[float], socket.socket], timeout: float, name: str
) -> socket.socket:
    end = time.monotonic() + timeout
    while True:
        try:
            connection = open_socket(max(end - time.monotonic(), 0.1))
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS >= end:
                raise LabError(
                    f"{name} did not answer within {timeout:g} s ({error}): see its serial log"
                ) from error
            time.sleep(_RETRY_SECONDS)
        else:
            connection.settimeout(None)
            return connection


def reap_leftovers() -> list[str]:
    """Remove network namespaces of runs whose process is gone; return their names. Root only."""
    from pyroute2 import netns

    gone = []
    for path in _NETNS_DIR.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            # Two labs may reap at the same time.
            with contextlib.suppress(FileNotFoundError):
                netns.remove(path.name)
            gone.append(path.name)
    return gone


class LabNetwork(Network):
    """Bridge and one tap a guest in a network namespace of its own; needs root."""

    _numbers = itertools.count()

    def __init__(self, guests: int = 4) -> None:
        super().__init__()
        self.name = f"{_PREFIX}{os.getpid()}-{next(self._numbers)}"
        self._guests = guests

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError(
                f"a bridge with taps needs root (user id {os.geteuid()}): "
                "use sudo, or the network kind 'user'"
            )
        _guest_ip(self._guests - 1)
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def _set_up(self, stack: ExitStack) -> None:
        from pyroute2 import netns

        reap_leftovers()
        try:
            netns.create(self.name)
        except OSError as error:
            raise LabError(
                f"network namespace {self.name} cannot be made ({error}): run the doctor, or use "
                "the network kind 'user'"
            ) from error
        stack.callback(netns.remove, self.name)
        self._inside(self._make_links)

    def _make_links(self) -> None:
        """Bridge and taps. Runs in a thread inside the namespace: pyroute2's own way of making a
        tap elsewhere forks this process, whose other threads may hold locks, and then reports
        success when the child never answered."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        step = "lo"
        try:
            with IPRoute() as link:

                def index_of(name: str) -> int:
                    found = link.link_lookup(ifname=name)
                    if not found:
                        raise OSError(f"{name} is not there after it was made")
                    return int(found[0])

                link.link("set", index=index_of("lo"), state="up")
                step = "bridge"
                link.link("add", ifname="ab0", kind="bridge")
                bridge = index_of("ab0")
                link.addr("add", index=bridge, address="10.77.0.1", prefixlen=24)
                link.link("set", index=bridge, state="up")
                for number in range(self._guests):
                    step = f"tap{number}"
                    link.link("add", ifname=step, kind="tuntap", mode="tap")
                    link.link("set", index=index_of(step), master=bridge, state="up")
        except (OSError, NetlinkError) as error:
            raise LabError(
                f"{step} cannot be made ({error}): run the doctor, or use the network kind 'user'"
            ) from error

    def netdev_args(self, index: int, link: int | None = None) -> list[str]:
        link = index if link is None else link
        if not 0 <= link < self._guests:
            raise LabError(f"guest number {link}: this network was made for {self._guests}")
        return [
            "-netdev", f"tap,id=net0,ifname=tap{link},script=no,downscript=no", *_card(index)
        ]  # fmt: skip

    def prefix(self) -> list[str]:
        # Not `ip netns exec`: it mounts another /sys and so hides the cgroups from QEMU.
        return ["nsenter", f"--net={_NETNS_DIR / self.name}", "--"]

    def handle(self, index: int) -> str:
        return f"tap:{self.name}"

    def connect(
        self, index: int, timeout: float, port: int = 22, link: int | None = None
    ) -> socket.socket:
        address = (_guest_ip(index), port)
        return _retry(
            lambda left: self._inside(lambda: socket.create_connection(address, timeout=left)),
            timeout, address[0],
        )

    def _inside(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread that has moved into the namespace; only that thread moves."""

        def enter_and_work() -> T:
            with (_NETNS_DIR / self.name).open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return work()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(enter_and_work).result()


class UserNetwork(Network):
    """QEMU's user networking: each guest alone, SSH through a forwarded port of 127.0.0.1."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def _port(self, index: int) -> int:
        if index not in self._ports:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = int(probe.getsockname()[1])
                if port not in self._ports.values():
                    break
            self._ports[index] = port
        return self._ports[index]

    def netdev_args(self, index: int, link: int | None = None) -> list[str]:
        ip = _guest_ip(index)
        port = self._port(index if link is None else link)
        # Host, DNS and DHCP stay clear of the guests' addresses.
        net = "net=10.77.0.0/24,host=10.77.0.1,dns=10.77.0.253,dhcpstart=10.77.0.254"
        forward = f"hostfwd=tcp:127.0.0.1:{port}-{ip}:22"
        return ["-netdev", f"user,id=net0,{net},{forward}", *_card(index)]

    def prefix(self) -> list[str]:
        return []

    def handle(self, index: int) -> str:
        return f"user:{self._port(index)}"

    def connect(
        self, index: int, timeout: float, port: int = 22, link: int | None = None
    ) -> socket.socket:
        if port != 22:
            raise LabError(f"port {port}: user networking forwards 22 only; use sudo for taps")
        address = ("127.0.0.1", self._port(index if link is None else link))
        return _retry(
            lambda left: socket.create_connection(address, timeout=left),
            timeout,
            f"guest {index} at {address[0]}:{address[1]}",
        )


def open_network(kind: str = "auto", guests: int = 4) -> Network:
    """Choose a network, not yet entered: ``tap``, ``user``, or ``auto`` (tap when root)."""
    if kind == "auto":
        kind = "tap" if os.geteuid() == 0 and Path("/dev/net/tun").exists() else "user"
    if kind == "tap":
        return LabNetwork(guests)
    if kind == "user":
        return UserNetwork()
    raise LabError(f"network kind {kind!r}: use auto, tap or user")


def attach(handle: str, index: int) -> Network:
    """The network of another process, by what its `handle` told; only `connect` is of use."""
    kind, _, where = handle.partition(":")
    if kind == "tap":
        tap = LabNetwork()
        tap.name = where
        return tap
    user = UserNetwork()
    user._ports[index] = int(where)
    return user

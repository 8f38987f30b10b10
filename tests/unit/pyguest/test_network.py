# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's networks: made, used and removed for real; no guest needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyguest import network
from pyguest.errors import LabError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
needs_tun = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun")
needs_qemu = pytest.mark.skipif(
    not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64"
)


@pytest.fixture
def lab() -> Iterator[network.LabNetwork]:
    with network.LabNetwork(2) as made:
        yield made


def _inside(lab: network.LabNetwork, *command: str) -> str:
    return subprocess.run(
        [*lab.prefix(), *command], capture_output=True, text=True, check=True
    ).stdout


@needs_root
@needs_tun
def test_namespace_holds_bridge_and_taps_and_is_removed() -> None:
    own = sorted(Path("/sys/class/net").iterdir())
    with network.LabNetwork(2) as lab:
        assert "10.77.0.1/24" in _inside(lab, "ip", "-br", "address", "show", "ab0")
        for tap in ("tap0", "tap1"):
            assert "master ab0" in _inside(lab, "ip", "link", "show", tap)
        assert sorted(Path("/sys/class/net").iterdir()) == own
        assert Path("/run/netns", lab.name).exists()
    assert not Path("/run/netns", lab.name).exists()


@needs_root
@needs_tun
def test_removed_when_the_body_raises() -> None:
    lab = network.LabNetwork(1)
    with pytest.raises(ValueError, match="inner"), lab:
        raise ValueError("inner")
    assert not Path("/run/netns", lab.name).exists()


@needs_root
@needs_tun
def test_removed_when_setting_up_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyroute2

    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(pyroute2, "IPRoute", refuse)
    lab = network.LabNetwork(1)
    with pytest.raises(LabError, match="network kind 'user'"):
        lab.__enter__()
    assert not Path("/run/netns", lab.name).exists()


@needs_root
@needs_tun
def test_leftover_of_a_dead_process_is_reaped() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    name = f"ab-{child.pid}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    assert name in network.reap_leftovers()
    assert not Path("/run/netns", name).exists()


@needs_root
@needs_tun
def test_connect_reaches_a_server_inside_and_the_caller_stays_outside(
    lab: network.LabNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_guest_ip", lambda _: "10.77.0.1")
    code = (
        "import socket; s = socket.create_server(('10.77.0.1', 2222)); c, _ = s.accept(); "
        "c.sendall(b'hello'); c.close()"
    )
    here = Path("/proc/thread-self/ns/net").readlink()
    server = subprocess.Popen([*lab.prefix(), "python3", "-c", code])
    try:
        with lab.connect(0, 10.0, port=2222) as connection:
            assert connection.gettimeout() is None
            assert connection.recv(5) == b"hello"
    finally:
        server.kill()
        server.wait()
    assert Path("/proc/thread-self/ns/net").readlink() == here


@needs_root
@needs_tun
@needs_qemu
def test_qemu_opens_its_tap(lab: network.LabNetwork) -> None:
    done = subprocess.run(
        [
            *lab.prefix(), "qemu-system-x86_64", "-accel", "tcg", "-S", "-nodefaults", "-display",
            "none", "-monitor", "stdio", *lab.netdev_args(1),
        ],
        input="info network\nquit\n", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ifname=tap1" in done.stdout
    assert "52:54:00:ab:00:03" in done.stdout


@needs_root
@needs_tun
def test_guest_beyond_the_number_made_is_refused(lab: network.LabNetwork) -> None:
    with pytest.raises(LabError, match="made for 2"):
        lab.netdev_args(2)
    with pytest.raises(LabError, match="made for 2"):
        lab.netdev_args(0, link=2)


@needs_qemu
def test_qemu_takes_the_user_network() -> None:
    with network.UserNetwork() as user:
        done = subprocess.run(
            [
                "qemu-system-x86_64", "-accel", "tcg", "-S", "-nodefaults", "-display", "none",
                "-monitor", "stdio", *user.netdev_args(0),
            ],
            input="info usernet\nquit\n", capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    if "not a valid value" in done.stderr or "not compiled" in done.stderr:
        pytest.skip("this QEMU has no user networking")
    assert done.returncode == 0, done.stderr
    assert "10.77.0.2" in done.stdout


def test_user_network_connects_to_its_port() -> None:
    user = network.UserNetwork()
    user.netdev_args(0)
    server = socket.create_server(("127.0.0.1", user._port(0)))
    threading.Thread(target=lambda: server.accept()[0].sendall(b"SSH"), daemon=True).start()
    with user.connect(0, 5.0) as connection:
        assert connection.recv(3) == b"SSH"
    server.close()


def test_user_ports_differ_and_stay() -> None:
    user = network.UserNetwork()
    ports = [user._port(index) for index in range(5)]
    assert len(set(ports)) == 5
    assert ports == [user._port(index) for index in range(5)]


def test_silent_guest_is_named_within_the_time() -> None:
    user = network.UserNetwork()
    with pytest.raises(LabError, match="did not answer within 0.5 s"):
        user.connect(0, 0.5)


def test_addresses_and_bad_input() -> None:
    user = network.UserNetwork()
    assert user.guest_address(0) == "10.77.0.2/24"
    with pytest.raises(LabError, match="guest number 200"):
        user.guest_address(200)
    with pytest.raises(LabError, match="'wifi'"):
        network.open_network("wifi")


def test_taps_without_root_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        network.LabNetwork(1).__enter__()
    assert isinstance(network.open_network("auto"), network.UserNetwork)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest is started with, which accelerator is chosen, and where running ones are found."""

from dataclasses import replace
from pathlib import Path

import pytest

from pyguest import accel, cli, kvm, network, paths, running
from pyguest.errors import LabError
from pyguest.vm import Vm, VmConfig, command, hostctl_socket


def config(tmp_path: Path) -> VmConfig:
    return VmConfig(
        name="a", qemu=Path("/q"), accel=accel.Accel("tcg", "as told"), vmlinux=Path("/k"),
        initrd=Path("/i"), disk=Path("/d"), ssh_key=Path("/s"), qmp_dir=tmp_path / "qmp",
        prefix=("enter",), append="more=1",
    )


def test_command_line(tmp_path: Path) -> None:
    argv = command(config(tmp_path), tmp_path, network.UserNetwork())
    line = " ".join(argv)
    # A guest never hangs its user, and dies with its parent.
    assert "-no-reboot" in argv and "panic=-1" in line and "--pdeathsig KILL" in line
    assert argv[0] == "enter"
    assert "tb-size=32" in line
    assert "snapshot=on" in line
    assert "lab.name=a" in line and "more=1" in line
    assert f"unix:{tmp_path}/qmp/a.qmp,server=on,wait=off" in argv
    assert hostctl_socket(config(tmp_path), tmp_path) == tmp_path / "qmp/a.qmp"


def test_another_link_of_the_same_guest(tmp_path: Path) -> None:
    user = network.UserNetwork()
    other = replace(config(tmp_path), link=7, keeps_disk=True)
    line = " ".join(command(other, tmp_path, user))
    assert f":{user._port(7)}-10.77.0.2:22" in line
    assert user._port(7) != user._port(0)
    assert "mac=52:54:00:ab:00:02" in line
    assert "snapshot=off" in line


@pytest.mark.parametrize("direct", [True, False])
def test_the_host_caches_a_disk_or_not(tmp_path: Path, direct: bool) -> None:
    argv = command(replace(config(tmp_path), direct=direct), tmp_path, network.UserNetwork())
    drive = next(one for one in argv if one.startswith("file=") and "id=root" in one)
    assert ("cache.direct=on" in drive.split(",")) == direct


def test_no_balloon(tmp_path: Path) -> None:
    bare = VmConfig(**{**config(tmp_path).__dict__, "balloon": ""})
    assert "virtio-balloon" not in " ".join(command(bare, tmp_path, network.UserNetwork()))


@pytest.mark.parametrize(("wanted", "usable", "kind"), [
    ("auto", True, "kvm"), ("auto", False, "tcg"), ("tcg", True, "tcg"), ("kvm", False, "kvm"),
])
def test_accelerator(
    monkeypatch: pytest.MonkeyPatch, wanted: str, usable: bool, kind: str
) -> None:
    monkeypatch.setattr(kvm, "probe", lambda: kvm.KvmProbe(usable, "the reason", 0.1))
    chosen = accel.choose(wanted)
    assert chosen.kind == kind
    assert chosen.reason


def test_fall_back_is_loud(capsys: pytest.CaptureFixture[str]) -> None:
    assert accel.fall_back("it hung").kind == "tcg"
    assert "*** WARNING: KVM started but it hung" in capsys.readouterr().err


def test_no_running_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert running.names() == []
    assert cli.main(["ssh", "a", "true"]) == 1
    assert "no guest 'a': none is running; start one" in capsys.readouterr().err


def test_a_dead_labs_guest_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = paths.state_dir("running") / "a.json"
    entry.write_text('{"pid": 4194305, "index": 0, "network": "user:1", "ssh_key": "k"}')
    assert running.names() == []
    assert not entry.exists()


def test_unknown_kernel_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERNEL", "2.4")
    assert cli.main(["build", "kernel"]) == 1
    said = capsys.readouterr().err
    assert "no kernel '2.4': there are" in said
    assert said.count("\n") == 1


def test_attach_needs_what_handle_tells() -> None:
    user = network.UserNetwork()
    again = network.attach(user.handle(3), 3)
    assert again.handle(3) == user.handle(3)
    with pytest.raises(LabError):
        network.open_network("carrier-pigeon")


def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    vm = Vm(config(tmp_path), tmp_path / ("x" * 120), network.UserNetwork())
    with pytest.raises(LabError, match="too many for a socket"):
        vm.start()

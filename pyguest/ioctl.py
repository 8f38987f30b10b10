# SPDX-License-Identifier: GPL-2.0-or-later
"""ioctl through ctypes, for requests that ``fcntl.ioctl`` cannot carry.

``fcntl.ioctl`` refuses buffers above 1024 bytes and integers above 2**31; KVM has both.
Request numbers are composed as in the kernel's ``include/uapi/asm-generic/ioctl.h``.
"""

from __future__ import annotations

import ctypes
import os

_NONE, _WRITE, _READ = 0, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.restype = ctypes.c_int


def _request(direction: int, kind: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | kind << 8 | number


def io(kind: int, number: int) -> int:
    """Request number of an ioctl without a buffer (``_IO``)."""
    return _request(_NONE, kind, number, 0)


def ior(kind: int, number: int, size: int) -> int:
    """Request number of an ioctl that fills a buffer of ``size`` bytes (``_IOR``)."""
    return _request(_READ, kind, number, size)


def iow(kind: int, number: int, size: int) -> int:
    """Request number of an ioctl that reads a buffer of ``size`` bytes (``_IOW``)."""
    return _request(_WRITE, kind, number, size)


def iowr(kind: int, number: int, size: int) -> int:
    """Request number of an ioctl that reads and fills ``size`` bytes (``_IOWR``)."""
    return _request(_READ | _WRITE, kind, number, size)


def call(fd: int, request: int, arg: int | ctypes.Structure = 0) -> int:
    """Issue the ioctl and return its result; the GIL is released meanwhile.

    ``arg`` is a number, or a ctypes structure that is passed by reference.
    Raises OSError with the errno of the kernel.
    """
    passed = ctypes.c_ulong(arg) if isinstance(arg, int) else ctypes.byref(arg)
    result: int = _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(request), passed)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

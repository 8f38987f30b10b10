# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes that never wait: a reader that has stalled must not stop the daemon's loop."""

from __future__ import annotations

import errno
import os
import select
import stat

AT_ONCE = 4096
"""Bytes that a pipe takes whole when it takes any (PIPE_BUF); sockets and terminals do not wait
for as much either."""


def is_file(fd: int) -> bool:
    """Whether `fd` is a regular file: it has no reader to wait for."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def write_some(fd: int, data: bytes) -> int:
    """Write the beginning of `data`, as much as goes without waiting; how many bytes.

    Raises OSError: BlockingIOError where not even a byte goes.
    """
    if is_file(fd):
        return os.write(fd, data)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, "its reader has stalled")
    return os.write(fd, data[:AT_ONCE])

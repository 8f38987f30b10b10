# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that a user of hostctl gets to see."""


class HostctlError(Exception):
    """What is wrong, the value, and the remedy: one line for each fault found."""


class QmpDataError(HostctlError):
    """A QEMU's reply or event is not what QMP says it is. QEMU is not trusted here."""

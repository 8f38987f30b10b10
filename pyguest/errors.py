# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's one exception."""


class LabError(Exception):
    """Something that the user can mend: one line with the thing, its value and the remedy."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of automatic ballooning: from pressure to balloon targets."""

__version__ = "0.1.0"

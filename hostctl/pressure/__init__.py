# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's memory: pools of it, their limits and usage, and when they run short."""

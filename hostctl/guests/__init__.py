# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests: finding their QEMUs, hearing them, setting their targets."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: builds, boots, presses, traces and measures ballooning guests."""

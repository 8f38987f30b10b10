# SPDX-License-Identifier: GPL-2.0-or-later
"""Measurements. They report and never gate."""

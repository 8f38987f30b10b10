# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulator: many hosts and guests in numpy arrays, under the daemon's engine and policies."""

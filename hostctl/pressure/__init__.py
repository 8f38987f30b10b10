# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the host's memory pressure comes from."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration: two guests share a host that is too small for both at their largest.

`scenario` says what happens, `run` makes it happen, `record` reads back what was written down
meanwhile, and `verdict`, `view`, `table` and `picture` look at nothing but that record.
"""

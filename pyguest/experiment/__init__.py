# SPDX-License-Identifier: GPL-2.0-or-later
"""Experiments: contestants on the same loads, guests and host, interleaved.

`contestants` says who takes part, `loads` what the guests do (`postgres` the real program among
them), `plan` what is run. `trial` runs one contestant on one load, `disturbance` sees what spoils
it, `outcome` is what is measured of it, `reaction` what a journal says of how fast a guest was
helped, `record` keeps it all in a file, and `command` runs a plan. `report` makes tables of
outcomes, by `compare` as sure as they are, `pictures` draws them, and `results` is the report.
"""

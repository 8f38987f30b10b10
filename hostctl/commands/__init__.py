# SPDX-License-Identifier: GPL-2.0-or-later
"""The subcommands: each module has add_parser(commands) and a run that gives the exit status."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: a request and its answer, a line of JSON each."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m hostctl`."""

import sys

from hostctl.cli import main

if __name__ == "__main__":
    sys.exit(main())

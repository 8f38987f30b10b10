# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a part of the daemon at work, whatever it meets: the others never notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from hostctl.journal import Reporter

FIRST = 1.0
MOST = 60.0
"""Seconds between the first failure and the next try, and the longest such time."""


async def supervise(
    about: str,
    run: Callable[[], Awaitable[None]],
    report: Reporter,
    *,
    first: float = FIRST,
    most: float = MOST,
) -> None:
    """Run `run` until cancelled, again when it fails or returns, which is said once."""
    delay = first
    while True:
        started = time.monotonic()
        why = "it ended"
        try:
            await run()
        except Exception as exc:  # whatever it is: this part alone may suffer from it
            why = f"{type(exc).__name__}: {exc}"
        if time.monotonic() - started > most:
            delay = first
            report.clear(about)
        report.problem(about, f"{why}; it is started again")
        await asyncio.sleep(delay)
        delay = min(2 * delay, most)

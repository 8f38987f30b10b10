# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads for calls that may block for good, as libvirt's on a frozen QEMU."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

IDLE = 30.0
"""Seconds after which a thread without work ends."""


class Workers:
    """As many threads as there are calls at the same time.

    Unlike an executor of the standard library it does not hold up the end of the program.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run `call` in a thread; what it returns or raises is the future's."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, exc: BaseException | None) -> None:
            if future.done():
                return
            if exc is not None:
                future.set_exception(exc)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # no exception: it is a T

        def work() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = call()
            except BaseException as exc:
                failure = exc
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, result, failure)

        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._run, name="guest call", daemon=True).start()
        self._work.put(work)
        return future

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                continue  # it was counted on just now
            work()
            with self._lock:
                self._idle += 1

# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of all guests of many hosts, a step at a time, in arrays of hosts by guests.

What a guest has is kernel, anonymous memory (resident or in its own swap), page cache, free
memory and balloon. What the host has of it is what the guest has ever touched and not given
back, resident or in the host's swap. Reclaim takes cold page cache first, then hot page cache
and cold anonymous memory, then what is in use. The host knows what is in use but roughly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hostctl.sim.parameters import Parameters

Array = NDArray[np.float64]
PAGE = 4096.0
WINDOW = 512 * PAGE
"""Bytes that are scanned before a message: vmpressure's window."""


@dataclass(slots=True)
class Demand:
    """What the loads want now, of each guest."""

    anon: Array
    """Bytes of anonymous memory."""
    hot: Array
    """Share of it that is used all the time."""
    stream: Array
    """Bytes a second of files read once."""
    files: Array
    """Bytes of files read again and again."""


class Memory:
    """The state of all guests; every array has a row for each host. Bytes."""

    def __init__(
        self,
        ram: Array,
        limit: Array,
        demand: Demand,
        parameters: Parameters,
        reporting: bool,
        touched: float = 0.0,
    ) -> None:
        """Guests of `ram` on hosts of `limit`, both with what `demand` wants as far as it fits.

        Each has touched so much before, free or not, of which none is left with reporting.
        """
        self.p = parameters
        self.reporting = reporting
        self.ram, self.limit = ram, limit
        self.size, self.target = ram.copy(), ram.copy()
        self.watermark = parameters.watermark * ram
        self.kernel = parameters.kernel * ram
        self.anon = np.minimum(demand.anon, ram - self.kernel - self.watermark)
        self.cache = np.minimum(demand.files, ram - self.kernel - self.watermark - self.anon)
        zeros = np.zeros_like(ram)
        self.guest_swap, self.host_swap = zeros.copy(), zeros.copy()
        self.touched = self.kernel + self.anon + self.cache
        if not reporting:
            self.touched = np.maximum(self.touched, np.minimum(touched, ram))
        self.level = np.zeros(ram.shape, np.int8)
        """Of the last step: 0 no pressure, 1 low, 2 medium, 3 critical."""
        self._pressed = np.zeros(ram.shape, bool)
        """Reclaims for its loads: its driver holds inflation back."""
        self._through = np.zeros(ram.shape, bool)
        """Its inflation reclaims."""
        # Counters since boot, as statistics have them.
        self.swap_in, self.swap_out = zeros.copy(), zeros.copy()
        self.refault, self.scanned, self.reclaimed = zeros.copy(), zeros.copy(), zeros.copy()
        self.unmet = zeros.copy()
        """Byte-seconds that were wanted and not to be had."""
        self.host_in, self.host_out = np.zeros(len(ram)), np.zeros(len(ram))
        self._swaps = np.zeros(len(ram), bool)
        """Hosts that have something in swap."""
        self.last_out = np.zeros(len(ram))
        """Swapped out by the host in the last step."""

    @property
    def used(self) -> Array:
        """What a guest has in use."""
        return self.kernel + self.anon - self.guest_swap + self.cache

    @property
    def free(self) -> Array:
        """What a guest has free."""
        return self.size - self.used

    @property
    def available(self) -> Array:
        """As MemAvailable: free memory and page cache, less watermarks."""
        cache = self.cache - np.minimum(self.cache / 2, self.watermark)
        available: Array = np.maximum(self.free - self.watermark + cache, 0)
        return available

    @property
    def usage(self) -> Array:
        """A host's memory in use."""
        overhead = self.p.overhead * self.ram.shape[1]
        usage: Array = (self.touched - self.host_swap).sum(1) + overhead
        return usage

    def usage_of(self, host: int) -> float:
        """That of one host."""
        overhead = self.p.overhead * self.ram.shape[1]
        return float((self.touched[host] - self.host_swap[host]).sum() + overhead)

    def step(self, demand: Demand) -> None:
        """Let a step's time pass."""
        shape = self.ram.shape
        before = self.used
        self.level = np.zeros(shape, np.int8)
        dropped = self._guests(demand)
        taken, discarded = self._balloons(demand)
        self._hosts(demand, before, dropped, taken, discarded)

    def _guests(self, demand: Demand) -> Array:
        """What the loads do in their guests; the page cache that went for it.

        Only guests that must reclaim are looked at closely, and they are few at a time.
        """
        p, dt = self.p, self.p.step
        np.minimum(self.size + p.deflate * dt, np.maximum(self.target, self.size), out=self.size)
        wanted = np.minimum(demand.anon, self.ram)
        if (freed := np.nonzero(wanted < self.anon)) and len(freed[0]):
            kept = wanted[freed] / self.anon[freed]
            self.anon[freed] *= kept
            self.guest_swap[freed] *= kept
        need = np.minimum(wanted - self.anon, p.touch * dt)
        resident = self.anon - self.guest_swap
        back = np.minimum(np.maximum(demand.hot * self.anon - resident, 0), p.swap * dt)
        lack = np.maximum(demand.files - self.cache, 0)
        again = np.minimum(lack, lack / np.maximum(demand.files, 1) * p.read * dt)
        file = demand.stream * dt + again
        free = np.maximum(self.size - self.kernel - resident - self.cache - self.watermark, 0)

        dropped: Array = np.zeros_like(need)
        self._pressed = np.zeros(need.shape, bool)
        short = np.nonzero(need + back + file > free)
        if len(short[0]):
            self._short(demand, short, free, need, back, file, dropped)
        self.anon += need
        self.guest_swap -= back
        self.cache += file
        self.swap_in += back
        self.refault += np.minimum(again, np.maximum(file, 0))
        return dropped

    def _short(
        self,
        demand: Demand,
        who: tuple[NDArray[np.intp], ...],
        free: Array,
        needs: Array,
        backs: Array,
        files: Array,
        dropped: Array,
    ) -> None:
        """Reclaim of the guests `who`; what they do not get is taken off what they wanted.

        Anonymous memory is served first: who reads files waits for memory too, but can go on.
        """
        p, dt = self.p, self.p.step
        need, back, file, free = needs[who], backs[who], files[who], free[who]
        cache, anon, swapped = self.cache[who], self.anon[who], self.guest_swap[who]
        hot = np.minimum(demand.hot[who] * anon, anon - swapped)
        idle = anon - swapped - hot
        short = np.maximum(need + back - free, 0)
        file_short = np.maximum(file - np.maximum(free - need - back, 0), 0)
        from_cold = np.minimum(short, np.maximum(cache - demand.files[who], 0))
        short = short - from_cold
        space = np.maximum(p.swap_space * self.ram[who] - swapped, 0)
        most = np.minimum(p.swap * dt, space)
        warm = cache - np.maximum(cache - demand.files[who], 0)
        half = np.minimum(np.minimum(short / 2, idle), most)
        from_files = np.minimum(short - half, warm)
        from_anon = np.minimum(np.minimum(short - from_files, idle), most)
        short = short - from_files - from_anon
        from_hot = np.minimum(np.minimum(short, hot), most - from_anon)
        missing = np.minimum(np.maximum(short - from_hot, 0), need + back)
        # Files read replace other files; what is hot loses against what streams by as well.
        turned = np.minimum(file_short, cache - from_cold - from_files)

        lost = np.minimum(missing, back)
        backs[who] = back - lost
        needs[who] = need - (missing - lost)
        out = from_anon + from_hot
        self.guest_swap[who] += out
        self.swap_out[who] += out
        self.unmet[who] += missing * dt
        cold = from_cold + turned
        # What is read comes in, and what went for it and for the rest goes out.
        files[who] = file - file_short + turned
        self.cache[who] -= cold + from_files
        dropped[who] = cold
        self._pressed[who] = cold + from_files + out + missing > WINDOW
        self._scan(who, cold, from_files + from_anon, from_hot, missing)

    def _scan(
        self,
        who: tuple[NDArray[np.intp], ...],
        cold: Array,
        lukewarm: Array,
        hot: Array,
        missing: Array,
    ) -> None:
        """Levels by the share of scanned pages that was reclaimed, as the driver has them."""
        found = self.p.found
        got = cold + lukewarm + hot
        scanned = cold / found[0] + lukewarm / found[1] + hot / found[2] + missing / found[3]
        missed = 1 - got / np.maximum(scanned, 1)
        told = scanned >= WINDOW
        level = told.astype(np.int8)
        level += (missed >= 0.6) & told
        level += (missed >= 0.95) & told
        self.level[who] = np.maximum(self.level[who], level)
        self.scanned[who] += scanned / PAGE
        self.reclaimed[who] += got / PAGE

    def _balloons(self, demand: Demand) -> tuple[Array, Array]:
        """Inflation: what of free memory it took, and what of memory in use."""
        p, dt = self.p, self.p.step
        taken, discarded = np.zeros_like(self.ram), np.zeros_like(self.ram)
        who = np.nonzero(self.size > self.target)
        through, self._through = self._through, np.zeros(self.ram.shape, bool)
        if not len(who[0]):
            return taken, discarded
        cache, size = self.cache[who], self.size[who]
        resident = self.anon[who] - self.guest_swap[who]
        wish = size - self.target[who]
        free = np.maximum(size - self.kernel[who] - resident - cache - self.watermark[who], 0)
        free = np.minimum(np.minimum(free, wish), p.inflate_free * dt)
        wish = wish - free
        # The guest's message comes soon after the first page, and may end it; and while its loads
        # reclaim, the driver holds back.
        time = np.where(through[who] & ~self._pressed[who], dt, p.reaction)
        time = time * (free < p.inflate_free * dt)
        cold = np.maximum(cache - demand.files[who], 0)
        from_cold = np.minimum(np.minimum(wish, cold), p.inflate_cache * time)
        rest = np.where(from_cold < p.inflate_cache * time, wish - from_cold, 0)
        from_hot = np.minimum(np.minimum(rest, cache - from_cold), p.inflate_swap * time)
        space = np.maximum(p.swap_space * self.ram[who] - self.guest_swap[who], 0)
        rest = np.where(from_hot < p.inflate_swap * time, rest - from_hot, 0)
        swapped = np.minimum(np.minimum(np.minimum(rest, resident), space), p.inflate_swap * time)
        used = from_cold + from_hot + swapped
        self._through[who] = used > 0
        self.cache[who] -= from_cold + from_hot
        self.guest_swap[who] += swapped
        self.swap_out[who] += swapped
        self.size[who] -= free + used
        taken[who], discarded[who] = free, used
        zero = np.zeros_like(used)
        self._scan(who, from_cold, from_hot + swapped, zero, zero)
        return taken, discarded

    def _hosts(
        self, demand: Demand, before: Array, dropped: Array, taken: Array, discarded: Array
    ) -> None:
        """What the host backs, and what it swaps."""
        p = self.p
        used = self.used
        garbage = np.maximum(self.touched - before, 0)
        # Of free memory the balloon gets what was touched and what was not alike.
        unused = np.maximum(self.size + taken + discarded - before, 1)
        freed = taken * np.minimum(garbage / unused, 1)
        for host in np.nonzero(self._swaps)[0]:
            self._swap_in(
                int(host), demand, used, before, garbage, freed, dropped + discarded, discarded
            )
        left = np.maximum(self.touched - freed - discarded, used)
        if self.reporting:
            left = np.minimum(left, (1 + p.reported) * used)
        self.touched = np.minimum(left, np.maximum(self.size, used))
        usage = self.usage
        self.last_out = np.maximum(usage - self.limit, 0)
        for host in np.nonzero(self.last_out)[0]:
            self._swap_out(int(host), demand)
        self._swaps |= self.last_out > 0

    def _swap_in(
        self,
        host: int,
        demand: Demand,
        used: Array,
        before: Array,
        garbage: Array,
        freed: Array,
        dropped: Array,
        discarded: Array,
    ) -> None:
        """Of one host: what is used comes back, and so does what the guests zero.

        They zero pages for the balloon, and pages that they use anew.
        """
        p = self.p
        out, garbage, freed = self.host_swap[host], garbage[host], freed[host]
        in_garbage = np.minimum(out, garbage)
        resident = self.anon[host] - self.guest_swap[host]
        cold = np.maximum(self.cache[host] - demand.files[host], 0)
        cold += (1 - demand.hot[host]) * np.maximum(resident, 0)
        in_cold = np.minimum(out - in_garbage, cold)
        in_hot = out - in_garbage - in_cold
        reused = np.clip(used[host] + discarded[host] - before[host], 0, garbage)
        back = (freed + reused) * in_garbage / np.maximum(garbage, 1)
        back += dropped[host] * in_cold / np.maximum(cold, 1)
        back = np.minimum(back, out) + in_hot
        back = np.minimum(back, out)
        back *= min(p.swap * p.step / max(back.sum(), 1.0), 1.0)
        self.host_in[host] += back.sum()
        # With pages that are given up goes what of them is in swap.
        left = np.minimum(out - back, np.maximum(self.touched[host] - freed - discarded[host], 0))
        if self.reporting:
            left = np.minimum(left, (1 + p.reported) * used[host])
        self.host_swap[host] = left
        self._swaps[host] = left.any()

    def _swap_out(self, host: int, demand: Demand) -> None:
        """Of one host: what is above its limit goes, and some of it is in use."""
        over = float(self.last_out[host])
        anon = self.anon[host] - self.guest_swap[host]
        hot = self.kernel[host] + demand.hot[host] * anon
        hot += np.minimum(self.cache[host], demand.files[host])
        resident = np.maximum(self.touched[host] - self.host_swap[host], 0)
        in_use = np.minimum(hot, resident)
        unused = resident - in_use
        wrong = max(min(self.p.misjudged * over, in_use.sum()), over - unused.sum())
        out = unused * ((over - wrong) / max(unused.sum(), 1.0))
        out += in_use * (wrong / max(in_use.sum(), 1.0))
        out = np.minimum(out, resident)
        self.host_swap[host] += out
        self.host_out[host] += out.sum()

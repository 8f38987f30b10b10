# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory goes from guests that have it idle to guests that are short: the policy `transfer`.

A guest's message is answered at once, from the pool's room and then from other guests' idle
memory. A pool that runs into its reserve gets it back from all idle memory at once. Between the
two, guests are probed for how small they can be, as senpai does it by PSI (Meta, TMO: "Transparent
Memory Offloading in Datacenters", ASPLOS 2022) and TCP by lost packets. docs/policy.md has the
rules, and why they neither oscillate nor starve a guest; tuning.py has the constants.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from math import inf

from hostctl.policy.donors import Donor, donors, idle_of, lacks_below, reserve_of, turns_over
from hostctl.policy.memo import GuestMemo, Move, PoolMemo, Sizes, strained
from hostctl.policy.model import (
    PAGE,
    Decision,
    Event,
    GuestActual,
    GuestLost,
    GuestMessage,
    GuestRead,
    GuestState,
    HostPressure,
    HostState,
    Level,
    PoolLost,
    PoolRead,
    Reason,
    Released,
    Stats,
    StatsRead,
    Tick,
)
from hostctl.policy.tuning import Tuning

MIB = 1 << 20
CLOSE_MOST = 100
"""Guests of a pool whose statistics are read often, at most: that is a percent of a CPU."""
PAUSES = 9
"""By so many intervals at most the next look at who could shrink is later, where nobody can."""


class Transfer:
    """The policy `transfer`. What it remembers is of guests and pools that are there."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._steps = {
            Level.LOW: tuning.low,
            Level.MEDIUM: tuning.medium,
            Level.CRITICAL: tuning.critical,
        }
        self._guests: dict[str, GuestMemo] = {}
        self._pools: dict[str, PoolMemo] = {}

    def decide(self, state: HostState, event: Event) -> list[Decision]:
        """What `event` calls for; `state` is the host after the event."""
        match event:
            case GuestMessage() if event.guest in state.guests:
                return self._message(state, state.guests[event.guest], event)
            case StatsRead() if event.guest in state.guests:
                return self._told(state, state.guests[event.guest], event.stats, event.time)
            case GuestRead() | GuestActual() if event.guest in state.guests:
                self._guest(state.guests[event.guest], event.time)
            case Released() if event.guest in state.guests:
                self._pool(state.guests[event.guest].pool).barren = event.time
            case PoolRead():
                self._read(state, event, self._pool(event.pool))
                return self._balance(state, event.pool, event.time)
            case HostPressure():
                return self._balance(state, event.pool, event.time, event.level)
            case Tick():
                found: list[Decision] = []
                for pool in state.pools:
                    found += self._balance(state, pool, event.time)
                return found
            case GuestLost():
                self._guests.pop(event.guest, None)
                for one in self._pools.values():
                    one.wants.pop(event.guest, None)
                    one.close.pop(event.guest, None)
            case PoolLost():
                self._pools.pop(event.pool, None)
        return []

    def closely(self, now: float) -> Collection[str]:
        """Guests whose memory changes, as far as their pool has not room for that anyway."""
        found: list[str] = []
        for memo in self._pools.values():
            memo.close = {name: until for name, until in memo.close.items() if until > now}
            # First those whose memory is taken.
            first = [name for name in memo.close if name in memo.moving]
            others = (name for name in memo.close if name not in memo.moving)
            found += islice([*first, *others], CLOSE_MOST)
        return found

    def _watch(self, state: HostState, guest: GuestState, now: float) -> None:
        """Its memory changes: have newer statistics of it soon, if its pool is so full that they
        matter, and see then whether it has something to give."""
        tuning, read, memo = self._tuning, state.pools.get(guest.pool), self._pool(guest.pool)
        if read is None or read.room < tuning.reach_room * read.limit:
            memo.close[guest.name] = now + tuning.window
            if memo.fruitless:
                memo.fruitless = 0
                memo.next_probe = min(memo.next_probe, now + tuning.reach_every)

    def _guest(self, guest: GuestState, now: float) -> GuestMemo:
        """What is remembered of the guest, its present size with it.

        Of a guest that is new here nobody knows what it has said: it counts as heard just now.
        """
        memo = self._guests.get(guest.name)
        if memo is None:
            memo = GuestMemo(Sizes(guest.actual), now + self._tuning.acquaint)
            self._guests[guest.name] = memo
        if guest.actual != memo.sizes.last:
            memo.moved = now
        memo.sizes.add(guest.actual, now, self._tuning.stats_age)
        return memo

    def _pool(self, name: str) -> PoolMemo:
        return self._pools.setdefault(name, PoolMemo())

    # The pool's room.

    def _read(self, state: HostState, event: PoolRead, memo: PoolMemo) -> None:
        """A new reading has in it what was freed and what was used until now."""
        now, total = event.time, event.usage + (event.swapped or 0)
        if memo.totals is None:
            memo.totals = Sizes(total)
        memo.totals.add(total, now, self._tuning.stats_age)
        for name, held in event.occupied.items():
            if (known := self._guests.get(name)) is not None:
                known.occupied(held, now, self._tuning)
                if name in state.guests and known.outgrew(state.guests[name], self._tuning):
                    self._watch(state, state.guests[name], now)
        if event.limit - event.usage < self._tuning.contended * event.limit:
            # Nothing but statistics says that a guest without messages is short.
            silent = (guest.name for guest in state.of_pool(event.pool) if not guest.tells)
            memo.close |= dict.fromkeys(silent, now + self._tuning.window)
        for name, move in list(memo.moving.items()):
            guest = state.guests.get(name)
            if guest is None or guest.target >= guest.actual:
                del memo.moving[name]
            elif guest.actual != move.seen:
                move.seen, move.since = guest.actual, now
        memo.grants = {k: v for k, v in memo.grants.items() if v[1] > now and k in state.guests}

    def _room(self, state: HostState, pool: str, now: float) -> int | None:
        """What is left of the limit once what was decided has happened; None: not known."""
        read = state.pools.get(pool)
        if read is None:
            return None
        memo = self._pool(pool)
        room = read.limit - read.usage
        for name, move in memo.moving.items():
            guest = state.guests.get(name)
            # Guests that make no progress free nothing.
            if guest is not None and (
                now - move.since <= self._tuning.stuck or guest.actual < move.seen
            ):
                room += int(max(move.seen - guest.target, 0) * move.gain)
        return room - sum(size for size, _ in memo.grants.values())

    # A guest's message.

    def _message(self, state: HostState, guest: GuestState, event: GuestMessage) -> list[Decision]:
        tuning, now = self._tuning, event.time
        memo = self._guest(guest, now)
        if now - memo.last > tuning.window:
            memo.series, memo.before, memo.doubled = now, guest.stats, 0
        memo.last = now
        self._watch(state, guest, now)
        if event.level is Level.LOW:
            if self._inflating(guest, memo, now):
                if not strained(memo.start, guest.stats, tuning):
                    return self._expected(guest, memo, now)
                memo.hurt = now
            if turns_over(guest, memo, tuning):
                memo.unbidden = now
                memo.edge = None  # it was found before that was known, or with other needs
                return self._relieve(state, guest, memo, event, streams=True)
        memo.unbidden = now
        memo.stops(now + tuning.back_off)
        memo.pressed = now + tuning.back_off
        memo.short_at(guest, now, tuning)
        return self._relieve(state, guest, memo, event, streams=False)

    def _inflating(self, guest: GuestState, memo: GuestMemo, now: float) -> bool:
        """Whether an inflation is under way, or so lately that the guest still reclaims for it."""
        # A driver pauses while its guest is pressed: then the pressure is not the inflation's.
        if guest.target < guest.actual and now - memo.moved <= self._tuning.quarantine:
            memo.inflated = now
        if not guest.tells:
            # Its statistics have in them all that it reclaimed since those before.
            return memo.sizes.since(memo.earlier)[1] > guest.target
        return now - memo.inflated <= self._tuning.quarantine

    def _expected(self, guest: GuestState, memo: GuestMemo, now: float) -> list[Decision]:
        """Low is what taking page cache makes a guest say: slow down."""
        memo.stops(now + self._tuning.quarantine)
        memo.probe = 0.0
        left = guest.actual - guest.target
        idle = idle_of(guest, memo, self._tuning, now) + left
        if not guest.balloon or guest.held is not None or left <= 0:
            return []
        if left <= self._tuning.patience * idle:
            return []
        why = f"low while {_mib(left)} MiB of {_mib(idle)} MiB idle are still to be taken"
        return [Decision(guest.name, guest.target, guest.actual, Reason.CANCEL, why)]

    def _relieve(
        self,
        state: HostState,
        guest: GuestState,
        memo: GuestMemo,
        event: GuestMessage,
        *,
        streams: bool,
    ) -> list[Decision]:
        """Give by level and history, once a beat; what was under inflation is cancelled first."""
        tuning, now = self._tuning, event.time
        if not guest.balloon or guest.held is not None:
            return []
        if now - memo.beat >= tuning.beat:
            memo.doubled = memo.doubled + 1 if memo.beat >= memo.series else 0
            memo.beat, memo.given = now, 0
        share = min(self._steps[event.level] * (1 << min(memo.doubled, 8)), tuning.most)
        want = int(share * guest.ram) - memo.given
        base = max(guest.target, guest.actual)
        given, taken = self._grant(state, guest, memo, want, base, event, streams=streams)
        why = f"{event.level} at {_mib(guest.actual)} MiB, {_mib(given)} of {_mib(want)} MiB given"
        if given > 0:
            memo.given += given
            reason = Reason.GUEST_PRESSURE
        elif base > guest.target:
            reason = Reason.CANCEL
        else:
            return taken
        return [Decision(guest.name, guest.target, base + given, reason, why), *taken]

    def _grant(
        self,
        state: HostState,
        guest: GuestState,
        memo: GuestMemo,
        want: int,
        base: int,
        event: GuestMessage,
        *,
        streams: bool,
    ) -> tuple[int, list[Decision]]:
        """What of `want` bytes above `base` there is for the guest, and from whom it is taken."""
        tuning, now = self._tuning, event.time
        want = _pages(min(want, guest.ceiling - base))
        if want <= 0:
            return 0, []
        room = self._room(state, guest.pool, now)
        taken: list[Decision] = []
        if room is None:
            given = want
        elif streams:
            given = min(want, max(room - self._limit(state, guest.pool, tuning.leave), 0))
        else:
            spare = max(room - self._limit(state, guest.pool, tuning.last), 0)
            got = 0
            if want > spare:
                need = want - spare
                taken, got = self._take(state, guest.pool, need, now, Reason.TRANSFER, guest.name)
            # Above low the guest swaps next: then the host should, as it has colder memory.
            given = min(want, spare + got) if event.level is Level.LOW else want
        given = _pages(given)
        if given < want and not streams:
            self._pool(guest.pool).wants[guest.name] = event.level
        self._give(guest, memo, given, now)
        return given, taken

    def _give(self, guest: GuestState, memo: GuestMemo, size: int, now: float) -> None:
        """Note that the guest gets `size` bytes."""
        if size <= 0:
            return
        pool = self._pool(guest.pool)
        old = pool.grants.get(guest.name, (0, 0.0))[0]
        pool.grants[guest.name] = (old + size, now + self._tuning.settle)
        memo.gave = now
        memo.stops(now + self._tuning.back_off)

    # A guest's statistics.

    def _told(
        self, state: HostState, guest: GuestState, stats: Stats, now: float
    ) -> list[Decision]:
        tuning, memo = self._tuning, self._guest(guest, now)
        old = memo.before_that(stats)
        memo.earlier = -inf if old is None else old.time
        memo.smallest, memo.largest = memo.sizes.since(stats.time)
        strains = strained(old, stats, tuning)
        if strains:
            memo.hurt = now
        self._calm(guest, memo, stats, now)
        whole = guest.actual >= guest.ceiling and guest.target >= guest.ceiling
        if strains and not whole:
            memo.stops(now + tuning.back_off)
            if now - memo.inflated <= tuning.back_off:
                memo.short_at(guest, now, tuning)
        self._revive(state, guest, memo, now)
        if whole or stats.available is None or guest.target < guest.actual:
            return []
        if stats.available >= lacks_below(guest, tuning):
            return []
        memo.short_at(guest, now, tuning)
        self._pool(guest.pool).wants.setdefault(guest.name, None)
        room = self._room(state, guest.pool, now)
        return [] if room is None else self._serve(state, guest.pool, room, now)

    def _revive(self, state: HostState, guest: GuestState, memo: GuestMemo, now: float) -> None:
        """A pool in which nobody could give is looked at again, if this guest can now."""
        pool, tuning = self._pool(guest.pool), self._tuning
        if now >= pool.barren or idle_of(guest, memo, tuning, now) <= 0:
            return
        # Without its occupancy all guests of the pool would have to be looked at for the answer.
        if memo.occupancy is None or donors(
            state, guest.pool, self._guests, pool, tuning, now, only=guest
        ):
            pool.barren = now

    def _calm(self, guest: GuestState, memo: GuestMemo, stats: Stats, now: float) -> None:
        """Page cache that was turned over is no shortage, once statistics show that it was that.

        The guest's memory is full of it, so that its size says nothing of what it needs.
        """
        tuning = self._tuning
        if now >= memo.until or now - memo.last < tuning.quiet or memo.hurt >= memo.series:
            return
        if now - memo.gave < tuning.back_off:
            return  # what was given is not taken back sooner
        if stats.time <= memo.last or not turns_over(guest, memo, tuning):
            return
        if stats.free is None or stats.free >= reserve_of(guest, tuning):
            return
        if memo.edge is not None and memo.edge.time >= memo.series:
            if memo.edge.probed:
                return
            memo.edge = None
        memo.until = now

    # The pool.

    def _balance(
        self, state: HostState, pool: str, now: float, level: Level | None = None
    ) -> list[Decision]:
        """Serve who waits, fill the reserve, or look for what is idle, in this order."""
        tuning, memo = self._tuning, self._pool(pool)
        room = self._room(state, pool, now)
        if room is None:
            if level is None or now < memo.next_take:
                return []
            idle = sum(one.idle for one in self._able(state, pool, now))
            need = int(2 * self._steps[level] * idle)
            return self._take(state, pool, need, now, Reason.HOST_PRESSURE)[0]
        limit = state.pools[pool].limit
        memo.short = room < (tuning.leave if memo.short else tuning.enter) * limit
        found = self._serve(state, pool, room, now) if memo.wants else []
        room -= sum(one.new_target - one.old_target for one in found)
        need = int(tuning.leave * limit) - room if memo.short else 0
        reason = Reason.RESERVE
        if level is not None:
            reason = Reason.HOST_PRESSURE
            coming = room - (limit - state.pools[pool].usage)
            asked = int(tuning.pressing[level.rank] * limit) - max(coming, 0)
            # With more room, it is the host's own page cache that is turned over.
            need = max(need, min(asked, int(tuning.contended * limit) - room))
        searched: list[Decision] = []
        if level is None and now >= memo.next_probe:
            searched = self._search(state, pool, room, now)
        if not searched and need > 0 and now >= memo.next_take:
            found += self._take(state, pool, need, now, reason)[0]
        return found + searched

    def _search(self, state: HostState, pool: str, room: int, now: float) -> list[Decision]:
        """Probe, if the pool's guests could outgrow it without a word, or it has little room."""
        tuning, memo, limit = self._tuning, self._pool(pool), state.pools[pool].limit
        if tuning.reach_most and room < tuning.reach_room * limit:
            memo.next_probe = now + tuning.reach_every
            excess = self._reach(state, pool, now) - int((1 - tuning.leave) * limit)
            if excess > 0:
                found = self._shrink(state, pool, excess, now)
                if found:
                    memo.shrunk = now
                # Where nobody has anything to give, most of the time nobody has. Who gave of late
                # may only wait for newer statistics.
                lately = now - memo.shrunk <= tuning.back_off
                memo.fruitless = 0 if lately else min(memo.fruitless + 1, PAUSES)
                memo.next_probe += memo.fruitless * tuning.reach_every
                return found
            memo.fruitless = 0
        if not memo.short and room < tuning.contended * limit:
            memo.next_probe = now + tuning.probe_every
            return self._probe(state, pool, int(tuning.contended * limit) - room, now)
        return []

    def _reach(self, state: HostState, pool: str, now: float) -> int:
        """What the pool's guests can come to use without a word, once what is moving has moved."""
        memo, total = self._pool(pool), 0
        for guest in state.of_pool(pool):
            move = memo.moving.get(guest.name)
            comes = move is not None and now - move.since <= self._tuning.stuck
            total += guest.target if comes else max(guest.actual, guest.target)
            total += self._tuning.own
        return total

    def _serve(self, state: HostState, pool: str, room: int, now: float) -> list[Decision]:
        """Give what room there is to those who wait, the longest waiting first."""
        tuning, memo = self._tuning, self._pool(pool)
        found = []
        for name, level in list(memo.wants.items()):
            guest = state.guests[name]
            known = self._guest(guest, now)
            size = self._lacks(guest, known, level, now)
            if size <= 0:
                del memo.wants[name]
                continue
            least = tuning.leave if level is None else tuning.enter
            spare = room - self._limit(state, pool, least)
            if spare < min(size, int(tuning.least * guest.ram)):
                continue
            size = _pages(min(size, spare))
            why = f"{'statistics' if level is None else level} a while ago, room {_mib(room)} MiB"
            found.append(Decision(name, guest.target, guest.target + size, Reason.GIVE_BACK, why))
            del memo.wants[name]
            self._give(guest, known, size, now)
            room -= size
        return found

    def _lacks(self, guest: GuestState, memo: GuestMemo, level: Level | None, now: float) -> int:
        """What the guest still waits for, in bytes; 0 when it needs it no more."""
        if not guest.balloon or guest.held is not None or guest.target < guest.actual:
            return 0
        stats = guest.stats
        if level is None:
            if stats is None or stats.available is None:
                return 0
            # What was given since the statistics is in its size and not yet in them.
            given = max(guest.target - memo.smallest, 0)
            size = reserve_of(guest, self._tuning) - stats.available - given
        else:
            size = int(self._steps[level] * guest.ram) if now < memo.pressed else 0
        return min(size, guest.ceiling - guest.target)

    # Taking.

    def _take(
        self,
        state: HostState,
        pool: str,
        need: int,
        now: float,
        reason: Reason,
        taker: str | None = None,
    ) -> tuple[list[Decision], int]:
        """Have the host get `need` bytes, or what there is, from idle memory; and how much it gets.

        For the host from all in proportion, so that nobody gives much; for a guest from those
        that have most, so that few are disturbed. Guests of whose memory the host gets but a
        small part give what the others cannot.
        """
        tuning, memo = self._tuning, self._pool(pool)
        able = self._able(state, pool, now)
        offers = [(self._offer(one), one) for one in able if one.guest.name != taker]
        memo.next_take = now + tuning.beat
        total = sum(gain for gain, _ in offers)
        found: list[Decision] = []
        left = need
        for hollow in (False, True):
            group = [(gain, one) for gain, one in offers if self._hollow(one) is hollow]
            wanted, most = left, sum(gain for gain, _ in group)
            for gain, donor in sorted(group, key=lambda offer: -offer[0]):
                part = min(left, gain)
                if taker is None and most > wanted:
                    least = int(tuning.least * donor.guest.ram)
                    part = min(part, max(gain * wanted // most, least))
                size = min(donor.cost(part), int(tuning.step * donor.guest.ram))
                if size < PAGE:
                    break
                why = (
                    f"{_mib(need)} MiB needed, {_mib(gain)} MiB of {_mib(total)} MiB to be had "
                    f"here, {_mib(donor.free)} MiB free"
                )
                found.append(self._inflate(state, donor, size, now, reason, why))
                left -= donor.gain(size)
        return found, need - left

    def _able(self, state: HostState, pool: str, now: float) -> list[Donor]:
        """Who can give. Where nobody could, that is asked again when statistics tell of one who
        can, when a guest's time without inflation ends, and now and then, as readings change what
        it would bring."""
        tuning, memo = self._tuning, self._pool(pool)
        if now < memo.barren:
            return []
        able = donors(state, pool, self._guests, memo, tuning, now)
        if not able:
            ends = (self._guest(guest, now).until for guest in state.of_pool(pool))
            again = min([now + tuning.window, *(end for end in ends if end > now)])
            memo.barren = max(again, now + tuning.beat)
        return able

    def _hollow(self, donor: Donor) -> bool:
        """Whether the host gets but a small part of what is taken from it: it gives last."""
        return donor.gain(donor.idle) < self._tuning.ahead * donor.idle

    def _offer(self, donor: Donor) -> int:
        """What the host can get from it now: a part, as newer statistics will tell of more."""
        least = int(self._tuning.least * donor.guest.ram)
        gain = donor.gain(donor.idle)
        return least if donor.streams else min(max(int(self._tuning.part * gain), least), gain)

    def _inflate(
        self, state: HostState, donor: Donor, size: int, now: float, reason: Reason, why: str
    ) -> Decision:
        guest, memo, size = donor.guest, donor.memo, _pages(size)
        memo.inflated = memo.moved = now
        memo.start = guest.stats
        self._watch(state, guest, now)
        moving = self._pool(guest.pool).moving
        move = moving.setdefault(guest.name, Move(guest.actual, now))
        left = max(move.seen - guest.target, 0)
        move.gain = (move.gain * left + donor.gain(size)) / max(left + size, 1)
        return Decision(guest.name, guest.target, guest.target - size, reason, why)

    def _shrink(self, state: HostState, pool: str, excess: int, now: float) -> list[Decision]:
        """Growing steps from those with most idle memory, until the guests' sizes fit."""
        tuning, found = self._tuning, []
        for donor in sorted(self._able(state, pool, now), key=lambda one: -one.idle):
            guest, known = donor.guest, donor.memo
            pause = now - known.inflated
            # A stock driver's statistics have to show what the last step did before the next.
            early = not guest.tells and pause < tuning.stats_age
            if guest.target < guest.actual or donor.streams or early or excess < PAGE:
                continue
            if self._hollow(donor):
                continue
            if pause > tuning.back_off:
                known.reach = 0.0
            known.reach = min(max(2 * known.reach, tuning.reach_least), tuning.reach_most)
            share = min(known.reach, tuning.step)
            size = min(int(share * guest.ram), int(tuning.part * donor.idle), excess)
            why = (
                f"sizes are {_mib(excess)} MiB above what fits, step {share:.2%} of RAM, "
                f"{_mib(donor.idle)} MiB idle"
            )
            found.append(self._inflate(state, donor, size, now, Reason.PROBE, why))
            excess -= size
        return [one for one in found if one.new_target < one.old_target]

    def _probe(self, state: HostState, pool: str, most: int, now: float) -> list[Decision]:
        """A growing step from each guest that is not at its edge, up to `most` bytes in all."""
        tuning, found = self._tuning, []
        for donor in self._able(state, pool, now):
            guest, known = donor.guest, donor.memo
            if guest.target < guest.actual or donor.streams or most <= 0:
                continue
            known.probe = min(max(2 * known.probe, tuning.probe_least), tuning.probe_most)
            size = min(int(known.probe * guest.ram), donor.idle)
            why = f"step {known.probe:.2%} of RAM, {_mib(donor.idle)} MiB idle"
            found.append(self._inflate(state, donor, size, now, Reason.PROBE, why))
            most -= donor.gain(size)
        return [one for one in found if one.new_target < one.old_target]

    def _limit(self, state: HostState, pool: str, share: float) -> int:
        return int(share * state.pools[pool].limit)


def _pages(size: int) -> int:
    """Rounded down to whole pages."""
    return size - size % PAGE


def _mib(size: int) -> int:
    return size // MIB

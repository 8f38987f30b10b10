# SPDX-License-Identifier: GPL-2.0-or-later
"""The constants of `transfer`, each with its unit and reason; docs/policy.md argues with them.

Those of the pool are shares of its limit, those of a guest are shares of its RAM, so that one
set serves a lab of two guests with half a gigabyte and a host with a hundred of 64.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """What can be set of `transfer`. Shares are of 1, times are seconds."""

    # The pool.
    enter: float = 0.06
    """Share of the limit: with less room the pool is short. ESX begins at its 6 % as well."""
    leave: float = 0.10
    """Share of the limit: with as much room it is short no more. The gap of 4 % is what demand
    has to grow before the direction changes: what is given back ends at this border."""
    last: float = 0.02
    """Share of the limit that relief at low leaves: below it the host swaps, and page cache is
    worth less than that. Above low relief knows no such border."""
    contended: float = 0.12
    """Share of the limit: with less room guests are probed ahead of need. Little above `leave`: in
    the simulator 20 % cost guests twice what it saved the hosts."""
    pressing: tuple[float, float, float] = (0.01, 0.02, 0.04)
    """Share of the limit that a host's message at low, medium, critical asks for when the pool's
    reading shows no shortage: pressure is felt before a reading says so, and after."""
    settle: float = 5.0
    """For how long what was given counts as used although the reading does not show it yet: a
    pressed guest touches it within a second or two, and the pool is read every few seconds."""
    stuck: float = 10.0
    """An inflation that has made no progress for so long frees nothing: a driver moves 5 MiB a
    second at its slowest, and tells its size within the second."""
    beat: float = 1.0
    """Least time between two rounds of taking in a pool, and of one relief of a guest. A message
    takes milliseconds, its effect up to a second: faster would be to act twice on one cause."""

    # The relief of a guest.
    low: float = 1 / 32
    """Share of RAM given on a message at low: the seed's 32 MiB of 1.3 GiB is 1/42."""
    medium: float = 1 / 16
    critical: float = 1 / 2
    """At critical next to nothing that was looked at could be reclaimed: the next is the OOM. In
    the simulator a quarter has guests swap meanwhile, and more memory turned round."""
    most: float = 1 / 2
    """Share of RAM: most that is given in a beat; any guest is full after a few seconds."""
    window: float = 10.0
    """Messages at most so far apart are one want: each beat of it doubles the step. A guest that
    still reclaims after a step of 3 % is far from having enough, and a slow one says so late."""

    # What is taken from a guest.
    acquaint: float = 20.0
    """No inflation of a guest that is new here, for so long: its statistics, and any message that
    a guest that is short repeats. Nobody knows what it has said before, or been given."""
    back_off: float = 60.0
    """No inflation for so long after a message that counts, or after anything was given. The
    seed's hysteresis; it is also what bounds the changes of direction to one a minute."""
    quiet: float = 20.0
    """Of a guest that was found to turn page cache over, and got nothing for it, for so long after
    its last message: statistics since then show that nothing was missed."""
    quarantine: float = 3.0
    """No further inflation for so long after a low message that an inflation brought forth
    itself: statistics come every 2 s then, so that the next step sees newer ones."""
    part: float = 0.5
    """Share of a guest's idle memory that is taken at once: the rest is for what it has begun to
    use since its statistics, and newer ones will tell."""
    patience: float = 0.75
    """While a guest says low under inflation, it goes on if at most this share of its idle memory
    is still to be taken, else it is cancelled: more than `part` means that the guest has begun to
    use memory. 0 cancels always; docs/policy.md has what that costs."""
    reserve: float = 0.15
    """Share of its present size that stays available in a guest when memory is taken: MOM leaves
    20 %. In the simulator less than 15 % costs guests more than it brings the hosts."""
    lacking: float = 0.05
    """Share of RAM: a guest with less available gets memory back without having asked, up to its
    reserve. That is at least twice as much, so that taking and giving do not meet while what is
    available varies by less than this; beyond, the size at which it lacked is its edge."""
    reserve_least: int = 32 << 20
    """Bytes of that at least: Linux keeps some 20 MiB of watermarks in a guest of 1 GiB."""
    own: int = 64 << 20
    """Bytes of the pool's usage that are a QEMU's own, and no guest's memory: 64 to 90 MiB in the
    lab, under TCG. Taken for backed free memory, it would have guests give for nothing."""
    worth: float = 0.25
    """Share of a guest's idle memory that the host must have a page for at least."""
    ahead: float = 0.5
    """The same for taking ahead of need, and before others: memory that the host hardly backs is
    next to nothing to the host, and is what its guest uses next."""
    resident: float = 0.25
    """Share of a guest's idle memory that the host must not have swapped at least: to take what
    it has swapped brings nothing, and is swapped in first where the guest's kernel zeroes pages."""
    least: float = 1 / 64
    """Share of RAM that is worth a change at least, and what a streaming guest gives a time."""
    stats_age: float = 30.0
    """Older statistics count for nothing: the guard's own limit."""
    step: float = 0.25
    """Share of RAM taken at most at once: the guard's own limit."""
    swap_rate: float = 256 << 10
    """Bytes swapped in a second that say that too much was taken: some pages always come back."""
    fault_rate: float = 20.0
    """Major faults a second that say so; the start of a program makes a few dozen in all."""

    # The search for a guest's edge.
    probe_least: float = 1 / 256
    probe_most: float = 0.02
    """Shares of RAM: a probe's first and largest step. Senpai takes 1 % at most, every 6 s."""
    probe_every: float = 20.0
    """Seconds between two probes of a guest: its statistics of 10 s, each 2 s new, judge a step."""
    reach_least: float = 1 / 16
    reach_most: float = 1 / 4
    """The same while the guests' sizes add up to more than the limit less `leave`: they could
    outgrow the pool without a word, and what is kept for nothing has to be gone before then. 0:
    never."""
    reach_room: float = 0.5
    """Share of the limit: with more room this has time, and what the host holds of each guest is
    not looked at."""
    reach_every: float = 2.0
    """Seconds between two of these, as between two statistics of a guest under inflation."""
    half_life: float = 600.0
    """In so many seconds half of the way from the edge to the floor is open again: working sets
    change within minutes to hours, and a probe too many costs a low message."""
    confirmed: int = 3
    """A guest that is met at its old edge again doubles that time, so often at most (80 min)."""

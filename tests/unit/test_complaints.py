# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests take for a complaint of the guest's kernel, and what not."""

from guests import complained

FAILED = """\
[   17.424262] kswapd0: page allocation failure: order:0, mode:0xc0de0(GFP_KERNEL)
[   17.433420] Call Trace:
[   17.434490]  <TASK>
[   17.436422]  warn_alloc.cold+0x4a/0x5e
[   17.436506]  {function}+0x2b/0x90
[   17.437164]  </TASK>
[   17.439414] Mem-Info:
"""
BUG = "[   20.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008"


def test_another_ones_failed_allocation_is_none() -> None:
    assert complained(FAILED.format(function="swap_cluster_alloc_table")) == []


def test_our_own_failed_allocation_is_one() -> None:
    assert complained(FAILED.format(function="balloon_page_alloc"))


def test_what_is_left_on_the_stack_has_not_allocated() -> None:
    """kswapd asks the balloon's shrinker before it fails."""
    stale = FAILED.format(function="? balloon_pressure_count+0x5/0x40 [virtio_balloon]\n"
                                   "[   17.436506]  swap_cluster_alloc_table")
    assert complained(stale) == []


def test_a_trace_that_is_not_written_yet_is_none() -> None:
    begun = FAILED.format(function="swap_cluster_alloc_table").splitlines()[:3]
    assert complained("\n".join(begun)) == []


def test_what_comes_after_a_trace_without_an_end_is_found() -> None:
    begun = FAILED.format(function="swap_cluster_alloc_table").splitlines()[:3]
    assert BUG in complained("\n".join([*begun, BUG]))


def test_what_stands_beside_a_failed_allocation_is_found() -> None:
    other = FAILED.format(function="swap_cluster_alloc_table")
    assert complained(f"{BUG}\n{other}{other}{BUG}\n") == [BUG, BUG]

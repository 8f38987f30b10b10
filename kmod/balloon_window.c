// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How hard guest-wide reclaim is: from the guest's scan and steal counters, with
 * vmpressure's window and thresholds (not its look at the scan priority, which
 * no module can see). A container that meets its own limit does not count.
 *
 * With the multi-generational LRU the scan counters hold the pages that were
 * taken off the lists, and not those that were passed over as young: the same
 * guest looks better than with the classic LRU.
 */
#include <linux/jiffies.h>
#include <linux/mm.h>
#include "balloon_compat.h"
#include "balloon_pressure.h"

#ifndef CONFIG_VM_EVENT_COUNTERS
#error "memory pressure is computed from VM event counters: set CONFIG_VM_EVENT_COUNTERS"
#endif

/* As mm/vmpressure.c has them: pages scanned, then per cent not reclaimed. */
#define BALLOON_WINDOW_PAGES	512
#define BALLOON_WINDOW_MEDIUM	60
#define BALLOON_WINDOW_CRITICAL	95

static unsigned int balloon_window_level(unsigned long scanned,
					 unsigned long reclaimed)
{
	unsigned long missed;

	/*
	 * The counters are not read at one instant, and node statistics lag
	 * behind by up to 125 pages a CPU. Freed slab pages are in neither: unlike
	 * in vmpressure, a guest that frees mostly slab looks worse than it is.
	 */
	if (reclaimed >= scanned)
		return VIRTIO_BALLOON_MSG_PRESSURE;

	missed = (scanned - reclaimed) * 100 / scanned;
	if (missed >= BALLOON_WINDOW_CRITICAL)
		return VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL;
	if (missed >= BALLOON_WINDOW_MEDIUM)
		return VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM;
	return VIRTIO_BALLOON_MSG_PRESSURE;
}

/*
 * Process context: all_vm_events() takes cpus_read_lock(). What khugepaged does
 * is left out because nobody waits for it, and proactive reclaim because it is
 * somebody's wish and no shortage.
 */
static void balloon_window_counters(struct balloon_reclaim *now)
{
	unsigned long events[NR_VM_EVENT_ITEMS];
	unsigned int zid;

	now->looked = get_jiffies_64();
	all_vm_events(events);
	now->scanned = balloon_reclaim_state(events, PGSCAN_KSWAPD);
	now->reclaimed = balloon_reclaim_state(events, PGSTEAL_KSWAPD);
	now->direct_scanned = balloon_reclaim_state(events, PGSCAN_DIRECT);
	now->direct_reclaimed = balloon_reclaim_state(events, PGSTEAL_DIRECT);
	now->stalls = 0;
	for (zid = 0; zid < MAX_NR_ZONES; zid++)
		now->stalls += events[ALLOCSTALL_NORMAL - ZONE_NORMAL + zid];
	now->stalls_looked = now->stalls;
	now->seen = 0;
}

/**
 * balloon_window_start() - the first window begins now
 * @mark: where the window under way began
 *
 * Context: process.
 */
void balloon_window_start(struct balloon_reclaim *mark)
{
	balloon_window_counters(mark);
}

/**
 * balloon_window_look() - look at what reclaim did since the window began
 * @mark: where the window under way began
 * @window: zeroed, and filled in here
 *
 * Context: process.
 * Return: whether the window is complete; then it has a level, and the next one
 * begins now.
 */
bool balloon_window_look(struct balloon_reclaim *mark,
			 struct balloon_window *window)
{
	struct balloon_reclaim now;

	balloon_window_counters(&now);

#ifdef HAVE_NODE_PGSCAN
	/*
	 * As node statistics, the counters of direct reclaim hold containers'
	 * reclaim at their own limits as well. Those of kswapd do not, and
	 * ALLOCSTALL counts guest-wide direct reclaim alone: without such a
	 * stall in the window, what was added is containers'. So is most of it
	 * when nobody has looked for a while; then the next look will tell, and
	 * stalls from before the last look are over.
	 */
	window->again = time_after64(now.looked, mark->looked +
				     msecs_to_jiffies(BALLOON_PRESSURE_OVER_MS));
	if (window->again)
		mark->stalls = mark->stalls_looked;
	if (window->again || now.stalls == mark->stalls) {
		mark->direct_scanned = now.direct_scanned;
		mark->direct_reclaimed = now.direct_reclaimed;
	}
	mark->looked = now.looked;
	mark->stalls_looked = now.stalls;
#endif

	window->scanned = now.scanned - mark->scanned +
			  now.direct_scanned - mark->direct_scanned;
	window->reclaimed = now.reclaimed - mark->reclaimed +
			    now.direct_reclaimed - mark->direct_reclaimed;
	/* Within a pass no shrinker is asked again: look until it has ended. */
	if (window->scanned > mark->seen)
		window->again = true;
	mark->seen = window->scanned;
	if (window->scanned < BALLOON_WINDOW_PAGES)
		return false;

	window->level = balloon_window_level(window->scanned, window->reclaimed);
	*mark = now;
	return true;
}

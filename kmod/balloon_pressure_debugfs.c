// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the balloon's pressure messages did so far, for a person to read:
 * <debugfs>/virtio_balloon-<device>/pressure, in the form of /proc/vmstat.
 * No stable interface; virtio-balloon-pressure.rst has the names' meaning.
 */
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/jiffies.h>
#include <linux/seq_file.h>
#include "balloon_pressure.h"

static void balloon_pressure_show_levels(struct seq_file *m, const char *what,
					 const unsigned long *counts)
{
	seq_printf(m, "%s_low %lu\n", what,
		   counts[VIRTIO_BALLOON_MSG_PRESSURE]);
	seq_printf(m, "%s_medium %lu\n", what,
		   counts[VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM]);
	seq_printf(m, "%s_critical %lu\n", what,
		   counts[VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL]);
}

static int balloon_pressure_show(struct seq_file *m, void *unused)
{
	struct balloon_pressure *bp = m->private;
	struct balloon_message_counts counts;
	unsigned int in_flight, last_level;
	s64 age = -1;

	spin_lock_irq(&bp->lock);
	counts = bp->counts;
	in_flight = bp->in_flight;
	last_level = bp->last_level;
	if (last_level)
		age = jiffies64_to_msecs(get_jiffies_64() - bp->last_sent);
	spin_unlock_irq(&bp->lock);

	balloon_pressure_show_levels(m, "sent", counts.sent);
	balloon_pressure_show_levels(m, "acked", counts.acked);
	balloon_pressure_show_levels(m, "suppressed", counts.suppressed);
	seq_printf(m, "in_flight %u\n", in_flight);
	seq_printf(m, "last_level %u\n", last_level);
	seq_printf(m, "last_age_ms %lld\n", age);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(balloon_pressure);

/**
 * balloon_pressure_debugfs_init() - make the device's directory
 * @bp: the pressure
 *
 * Context: process.
 */
void balloon_pressure_debugfs_init(struct balloon_pressure *bp)
{
	char name[48];

	snprintf(name, sizeof(name), "virtio_balloon-%s",
		 dev_name(&bp->vdev->dev));
	bp->debugfs = debugfs_create_dir(name, NULL);
	debugfs_create_file("pressure", 0444, bp->debugfs, bp,
			    &balloon_pressure_fops);
}

/**
 * balloon_pressure_debugfs_exit() - remove it, and wait for those inside
 * @bp: the pressure
 *
 * Context: process.
 */
void balloon_pressure_debugfs_exit(struct balloon_pressure *bp)
{
	debugfs_remove(bp->debugfs);
}

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The tests' door, in the same debugfs directory as the counters. Included by
 * balloon_pressure.c in the lab's build and in no other.
 */
#include <linux/debugfs.h>

/*
 * A level is sent as if a window had shown it; any other value at once, as a
 * buffer with that one message, which counts as one of level low.
 */
static int balloon_pressure_inject(void *data, u64 value)
{
	struct balloon_pressure *bp = data;
	struct balloon_window window = { .level = value };
	bool notify = false;
	int err = 0;

	if (value > U32_MAX)
		return -EINVAL;
	if (value >= 1 && value <= BALLOON_PRESSURE_LEVELS) {
		balloon_pressure_send(bp, &window);
		return 0;
	}

	window.level = VIRTIO_BALLOON_MSG_PRESSURE;
	spin_lock_irq(&bp->lock);
	if (!bp->running) {
		err = -ENODEV;
	} else if (bp->in_flight) {
		err = -EBUSY;
	} else {
		bp->msg[0] = cpu_to_virtio32(bp->vdev, value);
		notify = balloon_pressure_queue(bp, 1, &window);
	}
	spin_unlock_irq(&bp->lock);

	/* The queue stays: this file is gone before it, and freeze waits for us. */
	if (notify)
		virtqueue_notify(bp->vq);
	return err;
}
DEFINE_DEBUGFS_ATTRIBUTE(balloon_pressure_inject_fops, NULL,
			 balloon_pressure_inject, "%llu\n");

/* A host that does not ack, until 0 is written. */
static int balloon_pressure_drop_acks_set(void *data, u64 value)
{
	struct balloon_pressure *bp = data;

	spin_lock_irq(&bp->lock);
	bp->drop_acks = value;
	spin_unlock_irq(&bp->lock);
	if (!value)
		balloon_pressure_acked(bp);
	return 0;
}

static int balloon_pressure_drop_acks_get(void *data, u64 *value)
{
	struct balloon_pressure *bp = data;

	spin_lock_irq(&bp->lock);
	*value = bp->drop_acks;
	spin_unlock_irq(&bp->lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(balloon_pressure_drop_acks_fops,
			 balloon_pressure_drop_acks_get,
			 balloon_pressure_drop_acks_set, "%llu\n");

static void balloon_pressure_lab_init(struct balloon_pressure *bp)
{
	debugfs_create_file_unsafe("inject", 0200, bp->debugfs, bp,
				   &balloon_pressure_inject_fops);
	debugfs_create_file_unsafe("drop_acks", 0600, bp->debugfs, bp,
				   &balloon_pressure_drop_acks_fops);
}

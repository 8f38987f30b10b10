// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guest memory pressure, told to the host over the balloon's message virtqueue.
 *
 * A shrinker that is not memcg-aware is called by guest-wide reclaim and by
 * nothing else, so being asked for a count is the sign that the guest has begun
 * to reclaim. How hard it is follows from the guest-wide scan and steal
 * counters, with vmpressure's window and thresholds (not its look at the scan
 * priority, which no module can see). A container that meets its own limit moves
 * neither. Without reclaim nothing here runs.
 *
 * What runs where:
 *   count_objects	reclaim (kswapd or a task that allocates): one flag and
 *			a timer; takes no sleeping lock, allocates nothing
 *   sample_work,
 *   resume_work	process context, one at a time, on a queue with a
 *			rescuer: no worker can be forked when it is needed most
 *   acked		the virtqueue's interrupt
 */
#include <linux/debugfs.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <linux/vmstat.h>
#include "balloon_compat.h"
#include "balloon_pressure.h"

#ifndef CONFIG_VM_EVENT_COUNTERS
#error "memory pressure is computed from VM event counters: set CONFIG_VM_EVENT_COUNTERS"
#endif

#define CREATE_TRACE_POINTS
#include "virtio_balloon_trace.h"

/* As mm/vmpressure.c has them: pages scanned, then per cent not reclaimed. */
#define BALLOON_PRESSURE_WINDOW		512
#define BALLOON_PRESSURE_MEDIUM		60
#define BALLOON_PRESSURE_CRITICAL	95

/*
 * From reclaim's first sign to the look at its counters. Summing them up is not
 * free, and what a burst of reclaim did is known at its end.
 */
#define BALLOON_PRESSURE_SAMPLE_MS	10

/* Pressure is over when no window was completed for this long. */
#define BALLOON_PRESSURE_OVER_MS	250

static unsigned int message_interval_ms = 100;
module_param(message_interval_ms, uint, 0644);
MODULE_PARM_DESC(message_interval_ms,
		 "Least time between two messages of the same level (ms, 0: none)");

static unsigned int balloon_pressure_level(unsigned long scanned,
					   unsigned long reclaimed)
{
	unsigned long missed;

	/*
	 * The counters are not read at one instant. Freed slab pages are in
	 * neither: unlike in vmpressure, a guest that frees mostly slab looks
	 * worse than it is.
	 */
	if (reclaimed >= scanned)
		return VIRTIO_BALLOON_MSG_PRESSURE;

	missed = (scanned - reclaimed) * 100 / scanned;
	if (missed >= BALLOON_PRESSURE_CRITICAL)
		return VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL;
	if (missed >= BALLOON_PRESSURE_MEDIUM)
		return VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM;
	return VIRTIO_BALLOON_MSG_PRESSURE;
}

/* Process context: all_vm_events() takes cpus_read_lock(). */
static void balloon_pressure_counters(unsigned long *scanned,
				      unsigned long *reclaimed)
{
	unsigned long events[NR_VM_EVENT_ITEMS];

	all_vm_events(events);
	*scanned = events[PGSCAN_KSWAPD] + events[PGSCAN_DIRECT];
	*reclaimed = events[PGSTEAL_KSWAPD] + events[PGSTEAL_DIRECT];
}

/* Process context. The window is only told to the trace event. */
static void balloon_pressure_send(struct balloon_pressure *bp,
				  unsigned int level, unsigned long scanned,
				  unsigned long reclaimed)
{
	struct virtqueue *vq;
	struct scatterlist sg;
	unsigned int i;
	bool notify;

	spin_lock_irq(&bp->lock);
	vq = bp->vq;
	if (!vq)
		goto unlock;

	if (bp->in_flight) {
		if (level > bp->in_flight && level > bp->pending)
			bp->pending = level;
		goto unlock;
	}
	if (level <= bp->last_level &&
	    time_before64(get_jiffies_64(), bp->next_send))
		goto unlock;

	for (i = 0; i < level; i++)
		bp->msg[i] = cpu_to_virtio32(bp->vdev, i + 1);
	sg_init_one(&sg, bp->msg, level * sizeof(bp->msg[0]));
	/* One buffer to an empty queue: fails only when the device is broken. */
	if (virtqueue_add_outbuf(vq, &sg, 1, bp, GFP_NOWAIT | __GFP_NOWARN))
		goto unlock;

	bp->in_flight = level;
	bp->last_level = level;
	bp->next_send = get_jiffies_64() +
			msecs_to_jiffies(READ_ONCE(message_interval_ms));
	trace_balloon_message_queued(level, scanned, reclaimed,
				     READ_ONCE(*bp->actual), bp->num_pages);
	notify = virtqueue_kick_prepare(vq);
	spin_unlock_irq(&bp->lock);

	/*
	 * Outside of the lock, because the exit to the host may take long. The
	 * queue cannot go away: balloon_pressure_stop() waits for sample_work.
	 */
	if (notify)
		virtqueue_notify(vq);
	return;

unlock:
	spin_unlock_irq(&bp->lock);
}

static void balloon_pressure_sample(struct work_struct *work)
{
	struct balloon_pressure *bp =
		container_of(work, struct balloon_pressure, sample_work.work);
	unsigned long scanned, reclaimed;
	unsigned int level = BALLOON_PRESSURE_NONE;
	unsigned int pending;

	if (!READ_ONCE(bp->vq))
		return;

	balloon_pressure_counters(&scanned, &reclaimed);
	scanned -= bp->scanned;
	reclaimed -= bp->reclaimed;
	if (scanned >= BALLOON_PRESSURE_WINDOW) {
		level = balloon_pressure_level(scanned, reclaimed);
		bp->scanned += scanned;
		bp->reclaimed += reclaimed;
		trace_balloon_pressure(level, scanned, reclaimed);

		WRITE_ONCE(bp->pressed, true);
		mod_delayed_work(bp->wq, &bp->resume_work,
				 msecs_to_jiffies(BALLOON_PRESSURE_OVER_MS));
	}

	spin_lock_irq(&bp->lock);
	pending = bp->in_flight ? BALLOON_PRESSURE_NONE : bp->pending;
	if (pending)
		bp->pending = BALLOON_PRESSURE_NONE;
	spin_unlock_irq(&bp->lock);

	level = max(level, pending);
	if (level)
		balloon_pressure_send(bp, level, scanned, reclaimed);
}

/* Process context. The target may have been left alone meanwhile: look again. */
static void balloon_pressure_resume(struct work_struct *work)
{
	struct balloon_pressure *bp =
		container_of(work, struct balloon_pressure, resume_work.work);

	WRITE_ONCE(bp->pressed, false);
	queue_work(system_freezable_wq, bp->size_work);
}

/* Reclaim context. Frees nothing: it only learns that reclaim is under way. */
static unsigned long balloon_pressure_count(struct shrinker *shrinker,
					    struct shrink_control *sc)
{
	struct balloon_pressure *bp = balloon_shrinker_private(shrinker);

	if (READ_ONCE(bp->vq) && !delayed_work_pending(&bp->sample_work))
		queue_delayed_work(bp->wq, &bp->sample_work,
				   msecs_to_jiffies(BALLOON_PRESSURE_SAMPLE_MS));
	return 0;
}

static unsigned long balloon_pressure_scan(struct shrinker *shrinker,
					   struct shrink_control *sc)
{
	return SHRINK_STOP;
}

/**
 * balloon_pressure_acked() - the device has used the message's buffer
 * @bp: the pressure
 *
 * Context: the message virtqueue's interrupt.
 */
void balloon_pressure_acked(struct balloon_pressure *bp)
{
	unsigned int len, pending = BALLOON_PRESSURE_NONE;
	unsigned long flags;

	spin_lock_irqsave(&bp->lock, flags);
	if (bp->vq && bp->in_flight && virtqueue_get_buf(bp->vq, &len)) {
		trace_balloon_message_acked(bp->in_flight);
		bp->in_flight = BALLOON_PRESSURE_NONE;
		pending = bp->pending;
	}
	spin_unlock_irqrestore(&bp->lock, flags);

	if (pending)
		mod_delayed_work(bp->wq, &bp->sample_work, 0);
}

/**
 * balloon_pressure_target() - note the balloon's size that the host asks for
 * @bp: the pressure, started or not
 * @num_pages: as read from the device's configuration, in 4 KiB pages
 * @actual: the balloon's size, in the same unit
 *
 * Context: process.
 */
void balloon_pressure_target(struct balloon_pressure *bp, u32 num_pages,
			     u32 actual)
{
	if (bp->num_pages == num_pages)
		return;
	trace_balloon_target(num_pages, actual);
	bp->num_pages = num_pages;
}

/**
 * balloon_pressure_pressed() - must inflation pause?
 * @bp: the pressure
 *
 * When the answer is yes, the size work is queued again once pressure is over,
 * whether or not the host changes its target meanwhile.
 *
 * Context: any.
 * Return: true while reclaim is under way or was a moment ago.
 */
bool balloon_pressure_pressed(struct balloon_pressure *bp)
{
	return READ_ONCE(bp->pressed);
}

/**
 * balloon_pressure_start() - from here on messages may be sent
 * @bp: the pressure
 * @vq: the message virtqueue
 *
 * Context: process, after DRIVER_OK.
 */
void balloon_pressure_start(struct balloon_pressure *bp, struct virtqueue *vq)
{
	balloon_pressure_counters(&bp->scanned, &bp->reclaimed);

	spin_lock_irq(&bp->lock);
	bp->in_flight = BALLOON_PRESSURE_NONE;
	bp->pending = BALLOON_PRESSURE_NONE;
	bp->last_level = BALLOON_PRESSURE_NONE;
	WRITE_ONCE(bp->vq, vq);
	spin_unlock_irq(&bp->lock);
}

/**
 * balloon_pressure_stop() - send no message any more, and let inflation go on
 * @bp: the pressure
 *
 * A buffer in flight stays with the device until its reset.
 *
 * Context: process, before the device's reset.
 */
void balloon_pressure_stop(struct balloon_pressure *bp)
{
	spin_lock_irq(&bp->lock);
	WRITE_ONCE(bp->vq, NULL);
	spin_unlock_irq(&bp->lock);

	cancel_delayed_work_sync(&bp->sample_work);
	cancel_delayed_work_sync(&bp->resume_work);
	WRITE_ONCE(bp->pressed, false);
}

static int balloon_pressure_watch(struct balloon_pressure *bp)
{
	int err;

	bp->shrinker = shrinker_alloc(0, "virtio-balloon-pressure");
	if (!bp->shrinker)
		return -ENOMEM;

	bp->shrinker->count_objects = balloon_pressure_count;
	bp->shrinker->scan_objects = balloon_pressure_scan;
	balloon_shrinker_set_private(bp->shrinker, bp);
	err = balloon_shrinker_register(bp->shrinker);
	if (err)
		shrinker_free(bp->shrinker);
	return err;
}

#ifdef BALLOON_PRESSURE_LAB
/* For tests: a level written here is sent as if a window had shown it. */
static int balloon_pressure_inject(void *data, u64 level)
{
	if (level < 1 || level > BALLOON_PRESSURE_LEVELS)
		return -EINVAL;
	balloon_pressure_send(data, level, 0, 0);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(balloon_pressure_inject_fops, NULL,
			 balloon_pressure_inject, "%llu\n");

static void balloon_pressure_lab_init(struct balloon_pressure *bp)
{
	bp->debugfs = debugfs_create_dir("virtio_balloon", NULL);
	debugfs_create_file_unsafe("inject", 0200, bp->debugfs, bp,
				   &balloon_pressure_inject_fops);
}

static void balloon_pressure_lab_exit(struct balloon_pressure *bp)
{
	debugfs_remove(bp->debugfs);
}
#else
static void balloon_pressure_lab_init(struct balloon_pressure *bp) { }
static void balloon_pressure_lab_exit(struct balloon_pressure *bp) { }
#endif

/**
 * balloon_pressure_init() - begin to watch for reclaim
 * @bp: the pressure
 * @vdev: the balloon device
 * @size_work: inflates or deflates towards the target
 * @actual: the number of 4 KiB pages in the balloon, for trace events
 *
 * Nothing is sent before balloon_pressure_start().
 *
 * Context: process.
 * Return: 0 or -ENOMEM.
 */
int balloon_pressure_init(struct balloon_pressure *bp,
			  struct virtio_device *vdev,
			  struct work_struct *size_work,
			  const unsigned int *actual)
{
	int err;

	bp->vdev = vdev;
	bp->size_work = size_work;
	bp->actual = actual;
	bp->next_send = get_jiffies_64();
	spin_lock_init(&bp->lock);
	INIT_DELAYED_WORK(&bp->sample_work, balloon_pressure_sample);
	INIT_DELAYED_WORK(&bp->resume_work, balloon_pressure_resume);

	/* Ordered: sample_work sets what resume_work clears. */
	bp->wq = alloc_ordered_workqueue("balloon-pressure",
					 WQ_MEM_RECLAIM | WQ_FREEZABLE | WQ_HIGHPRI);
	if (!bp->wq)
		return -ENOMEM;

	err = balloon_pressure_watch(bp);
	if (err)
		goto out_destroy_wq;

	balloon_pressure_lab_init(bp);
	return 0;

out_destroy_wq:
	destroy_workqueue(bp->wq);
	return err;
}

/**
 * balloon_pressure_exit() - undo balloon_pressure_init()
 * @bp: the pressure
 *
 * Context: process, after balloon_pressure_stop().
 */
void balloon_pressure_exit(struct balloon_pressure *bp)
{
	balloon_pressure_lab_exit(bp);
	shrinker_free(bp->shrinker);
	/* The shrinker may have queued it once more after the stop. */
	cancel_delayed_work_sync(&bp->sample_work);
	cancel_delayed_work_sync(&bp->resume_work);
	destroy_workqueue(bp->wq);
}

MODULE_VERSION(BALLOON_PRESSURE_VERSION);

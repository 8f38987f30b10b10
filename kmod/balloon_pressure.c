// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guest memory pressure, told to the host over the balloon's message virtqueue.
 *
 * A shrinker that is not memcg-aware is called by guest-wide reclaim and by no
 * container's, so being asked for a count is the sign that the guest has begun
 * to reclaim; balloon_window.c tells how hard it is. Without reclaim nothing
 * here runs. Shrinkers are asked when the root memcg's turn comes, before others
 * are reclaimed from: once asked, the counters are looked at for as long as they
 * move. A walk that takes the memcgs in turns (the multi-generational LRU's, and
 * direct reclaim's from 6.12 on) may come to the root a round late.
 *
 * What runs where:
 *   count_objects	reclaim (kswapd or a task that allocates): two flags are
 *			looked at, and once in a sample's time an irq_work is
 *			queued on this CPU. No lock, no allocation, no sleep
 *   sign		that irq_work's interrupt, or its thread: sets the timer,
 *			whose base's lock is another CPU's at times
 *   sample_work,
 *   resume_work	process context, one at a time, on a queue with a
 *			rescuer: no worker can be forked when it is needed most
 *   acked		the virtqueue's interrupt
 *   pressed, hold	the driver's size work
 *   target		the same, and probe and restore
 *   debugfs		a reader's process context
 */
#include <linux/irq_work.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/virtio_config.h>
#include "balloon_compat.h"
#include "balloon_pressure.h"

#define CREATE_TRACE_POINTS
#include "virtio_balloon_trace.h"

/*
 * From reclaim's first sign to the look at its counters. Summing them up is not
 * free, and what a burst of reclaim did is known at its end.
 */
#define BALLOON_PRESSURE_SAMPLE_MS	10

#define BALLOON_PRESSURE_INTERVAL_MAX_MS	60000

static int balloon_pressure_set_interval(const char *val,
					 const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0,
				     BALLOON_PRESSURE_INTERVAL_MAX_MS);
}

static const struct kernel_param_ops balloon_pressure_interval_ops = {
	.set = balloon_pressure_set_interval,
	.get = param_get_uint,
};

static unsigned int message_interval_ms = 100;
module_param_cb(message_interval_ms, &balloon_pressure_interval_ops,
		&message_interval_ms, 0644);
__MODULE_PARM_TYPE(message_interval_ms, "uint");
MODULE_PARM_DESC(message_interval_ms,
		 "Least time between a message and one of the same level or a lower one (ms, 0 to 60000, 0: none)");

/*
 * Give the first @count of msg[] to the device, for @window. The lock is held
 * and nothing is in flight. Return: whether to notify the device afterwards.
 */
static bool balloon_pressure_queue(struct balloon_pressure *bp,
				   unsigned int count,
				   const struct balloon_window *window)
{
	struct scatterlist sg;

	sg_init_one(&sg, bp->msg, count * sizeof(bp->msg[0]));
	/* One buffer to an empty queue: fails only when the device is broken. */
	if (virtqueue_add_outbuf(bp->vq, &sg, 1, bp, GFP_NOWAIT | __GFP_NOWARN)) {
		bp->counts.suppressed[window->level]++;
		return false;
	}

	bp->in_flight = window->level;
	bp->last_level = window->level;
	bp->last_sent = get_jiffies_64();
	bp->counts.sent[window->level]++;
	trace_balloon_message_queued(window->level, window->scanned,
				     window->reclaimed, READ_ONCE(*bp->actual),
				     READ_ONCE(bp->num_pages));
	return virtqueue_kick_prepare(bp->vq);
}

/* With the lock held. This window's message is not sent, if it has one. */
static void balloon_pressure_suppress(struct balloon_pressure *bp,
				      struct balloon_window *window)
{
	if (window->level)
		bp->counts.suppressed[window->level]++;
	window->level = BALLOON_PRESSURE_NONE;
}

/* With the lock held. Lower levels and the same one keep the interval. */
static bool balloon_pressure_too_soon(struct balloon_pressure *bp,
				      unsigned int level)
{
	u64 next = bp->last_sent +
		   msecs_to_jiffies(READ_ONCE(message_interval_ms));

	return level <= bp->last_level && time_before64(get_jiffies_64(), next);
}

/*
 * With the lock held. Inflation pauses, until no window was completed for a
 * while.
 */
static void balloon_pressure_pause(struct balloon_pressure *bp)
{
	WRITE_ONCE(bp->pressed, true);
	mod_delayed_work(bp->wq, &bp->resume_work,
			 msecs_to_jiffies(BALLOON_PRESSURE_OVER_MS));
}

/*
 * Process context. A window's level, or none: the worst that is not told yet is
 * pending, and is sent unless a message is in flight. It tells the others as
 * well, which count as lost.
 */
static void balloon_pressure_send(struct balloon_pressure *bp,
				  struct balloon_window *window)
{
	struct balloon_window *pending = &bp->pending;
	bool notify = false;
	unsigned int i;

	spin_lock_irq(&bp->lock);
	if (!bp->running ||
	    window->level <= max(bp->in_flight, pending->level)) {
		balloon_pressure_suppress(bp, window);
	} else {
		balloon_pressure_suppress(bp, pending);
		*pending = *window;
	}

	if (pending->level && !bp->in_flight) {
		if (balloon_pressure_too_soon(bp, pending->level)) {
			balloon_pressure_suppress(bp, pending);
		} else {
			/* A host that knows only the lowest message still acts. */
			for (i = 0; i < pending->level; i++)
				bp->msg[i] = cpu_to_virtio32(bp->vdev, i + 1);
			notify = balloon_pressure_queue(bp, pending->level,
							pending);
			pending->level = BALLOON_PRESSURE_NONE;
		}
	}
	spin_unlock_irq(&bp->lock);

	/*
	 * Outside of the lock, because the exit to the host may take long. The
	 * queue cannot go away: balloon_pressure_stop() waits for sample_work.
	 */
	if (notify)
		virtqueue_notify(bp->vq);
}

static void balloon_pressure_sample(struct work_struct *work)
{
	struct balloon_pressure *bp =
		container_of(work, struct balloon_pressure, sample_work.work);
	struct balloon_window window = {};

	if (!READ_ONCE(bp->running))
		return;

	if (balloon_window_look(&bp->mark, &window)) {
		trace_balloon_pressure(window.level, window.scanned,
				       window.reclaimed);
		spin_lock_irq(&bp->lock);
		if (bp->running)
			balloon_pressure_pause(bp);
		spin_unlock_irq(&bp->lock);
	}
	if (window.again)
		queue_delayed_work(bp->wq, &bp->sample_work,
				   msecs_to_jiffies(BALLOON_PRESSURE_SAMPLE_MS));

	/* Without a level as well: the ack may have come that one waits for. */
	balloon_pressure_send(bp, &window);
}

/*
 * Process context. Pressure is over. Have the driver look at its target again,
 * if it was left alone meanwhile, and only then: what was given to a guest that
 * was out of memory (VIRTIO_BALLOON_F_DEFLATE_ON_OOM) stays until the host has a
 * word.
 */
static void balloon_pressure_resume(struct work_struct *work)
{
	struct balloon_pressure *bp =
		container_of(work, struct balloon_pressure, resume_work.work);
	bool deferred;

	spin_lock_irq(&bp->lock);
	WRITE_ONCE(bp->pressed, false);
	/* The ack has not come in time for this one to be true still. */
	balloon_pressure_suppress(bp, &bp->pending);
	deferred = bp->deferred;
	bp->deferred = false;
	spin_unlock_irq(&bp->lock);

	if (deferred)
		bp->changed(bp->vdev);
}

/* Hard interrupt, or a thread of its own where the kernel is PREEMPT_RT. */
static void balloon_pressure_sign(struct irq_work *work)
{
	struct balloon_pressure *bp =
		container_of(work, struct balloon_pressure, sign);

	queue_delayed_work(bp->wq, &bp->sample_work,
			   msecs_to_jiffies(BALLOON_PRESSURE_SAMPLE_MS));
}

/*
 * Reclaim context, see the top of the file for what it costs. Frees nothing: it
 * only learns that reclaim is under way.
 */
static unsigned long balloon_pressure_count(struct shrinker *shrinker,
					    struct shrink_control *sc)
{
	struct balloon_pressure *bp = balloon_shrinker_private(shrinker);

	if (READ_ONCE(bp->running) && !delayed_work_pending(&bp->sample_work))
		irq_work_queue(&bp->sign);
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
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&bp->lock, flags);
#ifdef BALLOON_PRESSURE_LAB
	if (bp->drop_acks) {
		bp->drop_acks--;
		spin_unlock_irqrestore(&bp->lock, flags);
		return;
	}
#endif
	if (bp->in_flight && virtqueue_get_buf(bp->vq, &len)) {
		trace_balloon_message_acked(bp->in_flight);
		bp->counts.acked[bp->in_flight]++;
		bp->in_flight = BALLOON_PRESSURE_NONE;
		/* Under the lock: once stopped, nothing is queued any more. */
		if (bp->running && bp->pending.level)
			mod_delayed_work(bp->wq, &bp->sample_work, 0);
	}
	spin_unlock_irqrestore(&bp->lock, flags);
}

/**
 * balloon_pressure_target() - note the balloon's size that the host asks for
 * @bp: the pressure, initialised or not
 * @num_pages: as read from the device's configuration, in 4 KiB pages
 * @actual: the balloon's size, in the same unit
 *
 * Context: process.
 */
void balloon_pressure_target(struct balloon_pressure *bp, u32 num_pages,
			     u32 actual)
{
	if (READ_ONCE(bp->num_pages) == num_pages)
		return;
	trace_balloon_target(num_pages, actual);
	WRITE_ONCE(bp->num_pages, num_pages);
}

/**
 * balloon_pressure_pressed() - must inflation pause?
 * @bp: the pressure, initialised or not
 *
 * When the answer is yes, the size work is queued again once pressure is over,
 * whether or not the host changes its target meanwhile.
 *
 * Context: process.
 * Return: true while reclaim is under way or was a moment ago.
 */
bool balloon_pressure_pressed(struct balloon_pressure *bp)
{
	bool pressed;

	/* Never set without the feature: then the lock is not initialised. */
	if (!READ_ONCE(bp->pressed))
		return false;

	spin_lock_irq(&bp->lock);
	pressed = bp->pressed;
	if (pressed)
		bp->deferred = true;
	spin_unlock_irq(&bp->lock);
	return pressed;
}

/**
 * balloon_pressure_hold() - inflation must pause: there is no page for it
 * @bp: the pressure, initialised or not
 *
 * Context: process.
 * Return: true if the size work is queued again once pressure is over, false if
 * that is left to the caller: there is no message virtqueue, or it is stopped.
 */
bool balloon_pressure_hold(struct balloon_pressure *bp)
{
	bool running;

	/* Never set without the feature: then the lock is not initialised. */
	if (!READ_ONCE(bp->running))
		return false;

	spin_lock_irq(&bp->lock);
	running = bp->running;
	if (running) {
		balloon_pressure_pause(bp);
		bp->deferred = true;
	}
	spin_unlock_irq(&bp->lock);
	return running;
}

/**
 * balloon_pressure_start() - from here on messages may be sent
 * @bp: the pressure, stopped, and reset if it was started before
 * @vq: the message virtqueue
 *
 * Context: process, after DRIVER_OK.
 */
void balloon_pressure_start(struct balloon_pressure *bp, struct virtqueue *vq)
{
	balloon_window_start(&bp->mark);

	spin_lock_irq(&bp->lock);
	bp->vq = vq;
	bp->last_level = BALLOON_PRESSURE_NONE;
	WRITE_ONCE(bp->running, true);
	spin_unlock_irq(&bp->lock);
}

/**
 * balloon_pressure_stop() - send no message any more, and let inflation go on
 * @bp: the pressure
 *
 * The size work is not queued any more when this returns. A buffer in flight
 * stays with the device until its reset.
 *
 * Context: process, before the size work is cancelled and the device is reset.
 */
void balloon_pressure_stop(struct balloon_pressure *bp)
{
	spin_lock_irq(&bp->lock);
	WRITE_ONCE(bp->running, false);
	balloon_pressure_suppress(bp, &bp->pending);
	spin_unlock_irq(&bp->lock);

	irq_work_sync(&bp->sign);
	cancel_delayed_work_sync(&bp->sample_work);
	cancel_delayed_work_sync(&bp->resume_work);

	spin_lock_irq(&bp->lock);
	WRITE_ONCE(bp->pressed, false);
	bp->deferred = false;
	spin_unlock_irq(&bp->lock);
}

/**
 * balloon_pressure_reset() - take the buffer in flight back
 * @bp: the pressure, initialised or not; stopped
 *
 * Context: process, between the device's reset and the end of its virtqueues.
 */
void balloon_pressure_reset(struct balloon_pressure *bp)
{
	/* Never started, or the device has not come back since the last reset. */
	if (!bp->vq)
		return;

	spin_lock_irq(&bp->lock);
	virtqueue_detach_unused_buf(bp->vq);
	bp->in_flight = BALLOON_PRESSURE_NONE;
	bp->vq = NULL;
	spin_unlock_irq(&bp->lock);
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
#include "balloon_pressure_lab.c"
#endif

/**
 * balloon_pressure_init() - begin to watch for reclaim
 * @bp: the pressure
 * @vdev: the balloon device
 * @changed: has the driver look at its target, as the device's interrupt does
 * @actual: the number of 4 KiB pages in the balloon, for trace events
 *
 * Nothing is sent before balloon_pressure_start().
 *
 * Context: process.
 * Return: 0 or -ENOMEM.
 */
int balloon_pressure_init(struct balloon_pressure *bp,
			  struct virtio_device *vdev,
			  void (*changed)(struct virtio_device *vdev),
			  const unsigned int *actual)
{
	int err;

	bp->vdev = vdev;
	bp->changed = changed;
	bp->actual = actual;
	spin_lock_init(&bp->lock);
	init_irq_work(&bp->sign, balloon_pressure_sign);
	INIT_DELAYED_WORK(&bp->sample_work, balloon_pressure_sample);
	INIT_DELAYED_WORK(&bp->resume_work, balloon_pressure_resume);

	/*
	 * Ordered: sample_work sets what resume_work clears. Not freezable: the
	 * driver's freeze stops both. Where a work is cancelled on an unbound
	 * queue that is frozen, pwq->pending_node keeps the queue from ever
	 * running another one after the thaw (Linux 6.9 and later).
	 */
	bp->wq = alloc_ordered_workqueue("balloon-pressure",
					 WQ_MEM_RECLAIM | WQ_HIGHPRI);
	if (!bp->wq)
		return -ENOMEM;

	err = balloon_pressure_watch(bp);
	if (err)
		goto out_destroy_wq;

	balloon_pressure_debugfs_init(bp);
#ifdef BALLOON_PRESSURE_LAB
	balloon_pressure_lab_init(bp);
#endif
	return 0;

out_destroy_wq:
	destroy_workqueue(bp->wq);
	return err;
}

/**
 * balloon_pressure_exit() - undo balloon_pressure_init()
 * @bp: the pressure
 *
 * Context: process, after balloon_pressure_stop(). An interrupt may still come.
 */
void balloon_pressure_exit(struct balloon_pressure *bp)
{
	balloon_pressure_debugfs_exit(bp);
	shrinker_free(bp->shrinker);
	/* The shrinker may have queued both once more after the stop. */
	irq_work_sync(&bp->sign);
	cancel_delayed_work_sync(&bp->sample_work);
	cancel_delayed_work_sync(&bp->resume_work);
	destroy_workqueue(bp->wq);
}

MODULE_VERSION(BALLOON_PRESSURE_VERSION);

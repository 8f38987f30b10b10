/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory pressure, told to the host over the balloon's message virtqueue.
 *
 * One struct balloon_pressure lives inside of each struct virtio_balloon, zeroed
 * when the device is bound. The driver proper calls the functions of the first
 * group below and nothing else of it.
 */
#ifndef _BALLOON_PRESSURE_H
#define _BALLOON_PRESSURE_H

#include <linux/irq_work.h>
#include <linux/shrinker.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/virtio_types.h>
#include <linux/workqueue.h>
#include <uapi/linux/virtio_balloon_message.h>

#define BALLOON_PRESSURE_VERSION "0.1.0"

/* A level is the value of its message; no pressure is 0. */
#define BALLOON_PRESSURE_NONE	0
#define BALLOON_PRESSURE_LEVELS	VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL

/* Pressure is over when no window was completed for this long. */
#define BALLOON_PRESSURE_OVER_MS	250

/* Reclaim's totals since boot, in pages, and when they were looked at. */
struct balloon_reclaim {
	u64 looked;			/* jiffies */
	unsigned long scanned;		/* by kswapd */
	unsigned long reclaimed;
	unsigned long direct_scanned;	/* by tasks that allocate */
	unsigned long direct_reclaimed;
	unsigned long stalls;		/* times that a task began guest-wide */
	unsigned long stalls_looked;	/* the same at the last look */
	unsigned long seen;		/* scanned in the window, then */
};

/* What reclaim did in one window, in pages, and the level that it shows. */
struct balloon_window {
	unsigned int level;
	unsigned long scanned;
	unsigned long reclaimed;
	bool again;			/* another look is due, sign or not */
};

/* Messages by level, since the device was bound; index 0 is not used. */
struct balloon_message_counts {
	unsigned long sent[BALLOON_PRESSURE_LEVELS + 1];
	unsigned long acked[BALLOON_PRESSURE_LEVELS + 1];
	unsigned long suppressed[BALLOON_PRESSURE_LEVELS + 1];
};

#if IS_ENABLED(CONFIG_VIRTIO_BALLOON_PRESSURE)

struct balloon_pressure {
	struct virtio_device *vdev;
	/* Has the driver look at its target again. */
	void (*changed)(struct virtio_device *vdev);
	/* The driver's own count of pages in the balloon. */
	const unsigned int *actual;
	/* The balloon's size that the host asked for last. */
	u32 num_pages;

	/* Reclaim has begun: the shrinker says so, sign queues sample_work. */
	struct shrinker *shrinker;
	struct irq_work sign;
	struct workqueue_struct *wq;
	struct delayed_work sample_work;

	/* Where the window under way began. Sample_work's while running. */
	struct balloon_reclaim mark;

	/* When pressure is over. */
	struct delayed_work resume_work;

	/* Protects what follows, against the queue's interrupt. */
	spinlock_t lock;
	/* Inflation pauses while set; resume_work clears it. */
	bool pressed;
	/* The size work has left the target alone meanwhile. */
	bool deferred;
	/* Messages may be sent. */
	bool running;
	/* From the start to the device's reset. */
	struct virtqueue *vq;
	/* The level in flight, and a higher one that waits for its ack. */
	unsigned int in_flight;
	struct balloon_window pending;
	unsigned int last_level;
	u64 last_sent;
	struct balloon_message_counts counts;
#ifdef BALLOON_PRESSURE_LAB
	u64 drop_acks;
#endif

	struct dentry *debugfs;

	/* Belongs to the device while in_flight is set. */
	__virtio32 msg[BALLOON_PRESSURE_LEVELS];
};

int balloon_pressure_init(struct balloon_pressure *bp,
			  struct virtio_device *vdev,
			  void (*changed)(struct virtio_device *vdev),
			  const unsigned int *actual);
void balloon_pressure_exit(struct balloon_pressure *bp);

void balloon_pressure_start(struct balloon_pressure *bp, struct virtqueue *vq);
void balloon_pressure_stop(struct balloon_pressure *bp);
void balloon_pressure_reset(struct balloon_pressure *bp);

void balloon_pressure_acked(struct balloon_pressure *bp);
void balloon_pressure_target(struct balloon_pressure *bp, u32 num_pages,
			     u32 actual);
bool balloon_pressure_pressed(struct balloon_pressure *bp);
bool balloon_pressure_hold(struct balloon_pressure *bp);

/* balloon_window.c, balloon_pressure_debugfs.c: for balloon_pressure.c */
void balloon_window_start(struct balloon_reclaim *mark);
bool balloon_window_look(struct balloon_reclaim *mark,
			 struct balloon_window *window);
void balloon_pressure_debugfs_init(struct balloon_pressure *bp);
void balloon_pressure_debugfs_exit(struct balloon_pressure *bp);

#else

struct balloon_pressure { };

static inline int balloon_pressure_init(struct balloon_pressure *bp,
					struct virtio_device *vdev,
					void (*changed)(struct virtio_device *),
					const unsigned int *actual)
{
	return 0;
}

static inline void balloon_pressure_exit(struct balloon_pressure *bp) { }

static inline void balloon_pressure_start(struct balloon_pressure *bp,
					  struct virtqueue *vq) { }
static inline void balloon_pressure_stop(struct balloon_pressure *bp) { }
static inline void balloon_pressure_reset(struct balloon_pressure *bp) { }

static inline void balloon_pressure_acked(struct balloon_pressure *bp) { }
static inline void balloon_pressure_target(struct balloon_pressure *bp,
					   u32 num_pages, u32 actual) { }

static inline bool balloon_pressure_pressed(struct balloon_pressure *bp)
{
	return false;
}

static inline bool balloon_pressure_hold(struct balloon_pressure *bp)
{
	return false;
}

#endif

#endif /* _BALLOON_PRESSURE_H */

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest memory pressure, told to the host over the balloon's message virtqueue.
 *
 * One struct balloon_pressure lives inside of each struct virtio_balloon. The
 * driver proper calls the functions below and nothing else of it.
 */
#ifndef _BALLOON_PRESSURE_H
#define _BALLOON_PRESSURE_H

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

struct balloon_pressure {
	struct virtio_device *vdev;
	/* The driver's own work: inflate or deflate towards the target. */
	struct work_struct *size_work;
	/* The driver's own count of pages in the balloon. */
	const unsigned int *actual;
	/* The balloon's size that the host asked for last. */
	u32 num_pages;

	/* Reclaim has begun: the shrinker says so and queues sample_work. */
	struct shrinker *shrinker;
	struct workqueue_struct *wq;
	struct delayed_work sample_work;

	/* Start of the window under way. Once started, sample_work's alone. */
	unsigned long scanned;
	unsigned long reclaimed;

	/* Inflation pauses while set; resume_work clears it. */
	bool pressed;
	struct delayed_work resume_work;

	/* Protects what follows, against the queue's interrupt. */
	spinlock_t lock;
	/* NULL unless messages may be sent. */
	struct virtqueue *vq;
	/* The level in flight, and a higher one that waits for its ack. */
	unsigned int in_flight;
	unsigned int pending;
	u64 next_send;
	unsigned int last_level;

	/* Belongs to the device while in_flight is set. */
	__virtio32 msg[BALLOON_PRESSURE_LEVELS] ____cacheline_aligned;

#ifdef BALLOON_PRESSURE_LAB
	struct dentry *debugfs;
#endif
};

int balloon_pressure_init(struct balloon_pressure *bp,
			  struct virtio_device *vdev,
			  struct work_struct *size_work,
			  const unsigned int *actual);
void balloon_pressure_exit(struct balloon_pressure *bp);

void balloon_pressure_start(struct balloon_pressure *bp, struct virtqueue *vq);
void balloon_pressure_stop(struct balloon_pressure *bp);

void balloon_pressure_acked(struct balloon_pressure *bp);
void balloon_pressure_target(struct balloon_pressure *bp, u32 num_pages,
			     u32 actual);
bool balloon_pressure_pressed(struct balloon_pressure *bp);

#endif /* _BALLOON_PRESSURE_H */

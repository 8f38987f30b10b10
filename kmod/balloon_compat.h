/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One interface for all kernels that we build on, as the newest has it. Kbuild
 * looks into the kernel's headers for what is there:
 *   HAVE_SHRINKER_ALLOC	the shrinker interface of 6.7 (c42d50aefd17)
 *   HAVE_NODE_PGSCAN		PGSCAN_* and PGSTEAL_* are node statistics; they
 *				were VM events, as in 6.12
 *   HAVE_NODE_MONOTONIC	node statistics can be read as counters that wrap
 *   HAVE_VIRTQUEUE_INFO	virtio_find_vqs() of 6.11
 */
#ifndef _BALLOON_COMPAT_H
#define _BALLOON_COMPAT_H

#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#ifndef HAVE_NODE_MONOTONIC
#define global_node_page_state_monotonic	global_node_page_state
#endif

/* A PGSCAN_* or PGSTEAL_* counter of the whole guest, beside its VM events. */
static inline unsigned long balloon_reclaim_state(const unsigned long *events,
						  int item)
{
#ifdef HAVE_NODE_PGSCAN
	return global_node_page_state_monotonic(item);
#else
	return events[item];
#endif
}

#ifdef HAVE_VIRTQUEUE_INFO

/*
 * virtio_find_vqs() without holes in the array: 6.11 and the first releases of
 * 6.12 take a queue's index for its place there when they remove the queues.
 * Queues are numbered by those that are there, with holes or without.
 */
static inline int balloon_find_vqs(struct virtio_device *vdev,
				   unsigned int count,
				   struct virtqueue *vqs[],
				   struct virtqueue_info info[])
{
	unsigned long present = 0;
	unsigned int i, n = 0;
	int err;

	for (i = 0; i < count; i++) {
		if (!info[i].name)
			continue;
		present |= BIT(i);
		info[n++] = info[i];
	}
	err = virtio_find_vqs(vdev, n, vqs, info, NULL);
	if (err)
		return err;

	for (i = count; i-- > 0; )
		vqs[i] = present & BIT(i) ? vqs[--n] : NULL;
	return 0;
}

#endif

#ifdef HAVE_SHRINKER_ALLOC

static inline void *balloon_shrinker_private(struct shrinker *shrinker)
{
	return shrinker->private_data;
}

static inline void balloon_shrinker_set_private(struct shrinker *shrinker,
						void *data)
{
	shrinker->private_data = data;
}

static inline int balloon_shrinker_register(struct shrinker *shrinker)
{
	shrinker_register(shrinker);
	return 0;
}

#else

struct balloon_shrinker {
	struct shrinker shrinker;
	const char *name;
	void *private_data;
};

static inline struct shrinker *shrinker_alloc(unsigned int flags,
					      const char *name)
{
	struct balloon_shrinker *bs = kzalloc(sizeof(*bs), GFP_KERNEL);

	if (!bs)
		return NULL;
	bs->shrinker.flags = flags;
	bs->shrinker.seeks = DEFAULT_SEEKS;
	bs->name = name;
	return &bs->shrinker;
}

static inline void *balloon_shrinker_private(struct shrinker *shrinker)
{
	return container_of(shrinker, struct balloon_shrinker,
			    shrinker)->private_data;
}

static inline void balloon_shrinker_set_private(struct shrinker *shrinker,
						void *data)
{
	container_of(shrinker, struct balloon_shrinker,
		     shrinker)->private_data = data;
}

static inline int balloon_shrinker_register(struct shrinker *shrinker)
{
	struct balloon_shrinker *bs =
		container_of(shrinker, struct balloon_shrinker, shrinker);

	return register_shrinker(shrinker, "%s", bs->name);
}

/* Also one that was never registered: unregister_shrinker() looks. */
static inline void shrinker_free(struct shrinker *shrinker)
{
	unregister_shrinker(shrinker);
	kfree(container_of(shrinker, struct balloon_shrinker, shrinker));
}

#endif
#endif /* _BALLOON_COMPAT_H */

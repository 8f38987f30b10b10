/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One shrinker interface for all kernels that we build on: the one of 6.7
 * (commit c42d50aefd17). Kbuild looks into the kernel's header and defines
 * HAVE_SHRINKER_ALLOC where it is there.
 */
#ifndef _BALLOON_COMPAT_H
#define _BALLOON_COMPAT_H

#include <linux/shrinker.h>
#include <linux/slab.h>

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

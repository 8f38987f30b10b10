/*
 * Virtio balloon: automatic ballooning
 *
 * Built for Linux hosts. Elsewhere none of the properties exist, and what is
 * called here does nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_AUTOMATIC_H
#define HW_VIRTIO_BALLOON_AUTOMATIC_H

#include "qapi/qapi-types-virtio-balloon.h"

typedef struct VirtIOBalloon VirtIOBalloon;

#ifdef CONFIG_LINUX

#include "qemu/units.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio-balloon-pressure.h"

/*
 * What the rule remembers, and what another QEMU that goes on with the guest
 * has to know (virtio-balloon-migration.c). Times are nanoseconds of
 * QEMU_CLOCK_VIRTUAL, which stands still with the guest.
 */
#define VIRTIO_BALLOON_NEVER INT64_MIN

typedef struct VirtIOBalloonAutomaticState {
    int64_t guest_pressure;
    int64_t host_pressure;
    int64_t changed;
    /* Of the last change; means nothing if there was none. */
    int32_t reason;
    uint64_t host_events;
    uint64_t host_events_skipped;
} VirtIOBalloonAutomaticState;

/* Everything here is touched with the BQL held. */
typedef struct VirtIOBalloonAutomatic {
    bool on;
    /* Bytes. */
    uint64_t step;
    uint64_t floor;
    uint32_t hysteresis_ms;
    VirtIOBalloonPressureConf pressure;
    /* NULL while off, and if the source has gone. */
    VirtIOBalloonPressure *source;
    VirtIOBalloonAutomaticState state;
} VirtIOBalloonAutomatic;

extern const PropertyInfo virtio_balloon_prop_automatic;
extern const PropertyInfo virtio_balloon_prop_pressure_source;
extern const PropertyInfo virtio_balloon_prop_pressure_level;

extern const VMStateDescription vmstate_virtio_balloon_automatic;

/* Nothing has happened yet. */
void virtio_balloon_automatic_forget(VirtIOBalloon *s);

/* Open the source of host pressure if automatic=on. */
bool virtio_balloon_automatic_realize(VirtIOBalloon *s, Error **errp);
void virtio_balloon_automatic_unrealize(VirtIOBalloon *s);

/* The guest has sent a message. */
void virtio_balloon_automatic_message(VirtIOBalloon *s,
                                      BalloonPressureLevel level);

/* May somebody set the target by hand? */
bool virtio_balloon_automatic_allows_manual(VirtIOBalloon *s, Error **errp);

/* ObjectPropertyAccessor of "automatic-state". */
void virtio_balloon_automatic_get_state(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp);

#else

typedef struct VirtIOBalloonAutomatic {
} VirtIOBalloonAutomatic;

static inline void virtio_balloon_automatic_forget(VirtIOBalloon *s)
{
}

static inline bool virtio_balloon_automatic_realize(VirtIOBalloon *s,
                                                    Error **errp)
{
    return true;
}

static inline void virtio_balloon_automatic_unrealize(VirtIOBalloon *s)
{
}

static inline void virtio_balloon_automatic_message(VirtIOBalloon *s,
                                                    BalloonPressureLevel level)
{
}

static inline bool virtio_balloon_automatic_allows_manual(VirtIOBalloon *s,
                                                          Error **errp)
{
    return true;
}

#endif

#endif

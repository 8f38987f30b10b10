/*
 * Virtio balloon: migration and snapshots
 *
 * What virtio and the balloon always saved is most of it: the rings, the
 * features that were negotiated, num_pages and actual. The roles of the queues
 * follow from the features, and are set when these are loaded. No buffer of the
 * message queue is ever held, and the queue is looked at when the machine runs
 * again (set_status): what is left in it needs no word here.
 *
 * The rest is in two subsections of the device. Each is sent only when there is
 * something in it: a guest that never used the message queue is saved as it
 * was without this file, and what a stream does not have has not happened.
 *
 * What the rule remembers are times, and they are saved as ages: a clock of the
 * other side may have another zero. QEMU_CLOCK_VIRTUAL itself is loaded before
 * any device, and stands still from the save on until the machine runs again,
 * so an age means the same on both sides.
 *
 * Not saved: the properties, "automatic" as well, and the source of host
 * pressure. They belong to the host and to its QEMU's command line.
 *
 * A stream is not trusted more than a guest is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "migration/vmstate.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-balloon.h"

/* What a loaded snapshot has no subsection for had not happened by then. */
int virtio_balloon_message_pre_load(void *opaque)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(opaque);

    s->message.stats = (VirtIOBalloonMessageStats) {};
    /* A period begins, with kicks on: where the ring was, they may be off. */
    s->message.period_start = INT64_MAX;
    virtio_balloon_automatic_forget(s);
    return 0;
}

static int check_offered(void *opaque, int version_id)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(opaque);

    if (!virtio_has_feature(s->host_features, VIRTIO_BALLOON_F_MESSAGE_VQ)) {
        error_report("virtio-balloon: the guest was saved with a message "
                     "queue; create the device with message-vq=on to load it");
        return -EINVAL;
    }
    return 0;
}

static bool message_needed(void *opaque)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(opaque);

    return !buffer_is_zero(&s->message.stats, sizeof(s->message.stats));
}

/* Any value is as good as another: these are only counted up and shown. */
const VMStateDescription vmstate_virtio_balloon_message = {
    .name = "virtio-balloon-device/message",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = message_needed,
    .post_load = check_offered,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(message.stats.low, VirtIOBalloon),
        VMSTATE_UINT64(message.stats.medium, VirtIOBalloon),
        VMSTATE_UINT64(message.stats.critical, VirtIOBalloon),
        VMSTATE_UINT64(message.stats.unknown, VirtIOBalloon),
        VMSTATE_UINT64(message.stats.excess, VirtIOBalloon),
        VMSTATE_UINT64(message.stats.truncated, VirtIOBalloon),
        VMSTATE_END_OF_LIST()
    }
};

#ifdef CONFIG_LINUX

#define NEVER VIRTIO_BALLOON_NEVER

/* In the stream; no age is negative. */
#define AGE_NEVER (-1)

/* 146 years: what is more cannot be, and could not be reckoned with. */
#define AGE_MAX (INT64_MAX / 2)

/* Nanoseconds. */
typedef struct Ages {
    VirtIOBalloon *parent;
    int64_t guest_pressure;
    int64_t host_pressure;
    int64_t changed;
} Ages;

static int64_t age_of(int64_t now, int64_t then)
{
    return then == NEVER ? AGE_NEVER : MAX(now - then, 0);
}

static int64_t time_of(int64_t now, int64_t age)
{
    return age == AGE_NEVER ? NEVER : now - age;
}

static int ages_pre_save(void *opaque)
{
    Ages *ages = opaque;
    const VirtIOBalloonAutomaticState *state = &ages->parent->automatic.state;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    ages->guest_pressure = age_of(now, state->guest_pressure);
    ages->host_pressure = age_of(now, state->host_pressure);
    ages->changed = age_of(now, state->changed);
    return 0;
}

static bool age_is_valid(int64_t age, const char *what)
{
    if (age < AGE_NEVER || age > AGE_MAX) {
        error_report("virtio-balloon: the saved state is damaged: the age of "
                     "the last %s is %" PRId64 " ns", what, age);
        return false;
    }
    return true;
}

static int ages_post_load(void *opaque, int version_id)
{
    const Ages *ages = opaque;
    VirtIOBalloonAutomaticState *state = &ages->parent->automatic.state;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    if (!age_is_valid(ages->guest_pressure, "guest pressure") ||
        !age_is_valid(ages->host_pressure, "host pressure") ||
        !age_is_valid(ages->changed, "change of the target")) {
        return -EINVAL;
    }
    state->guest_pressure = time_of(now, ages->guest_pressure);
    state->host_pressure = time_of(now, ages->host_pressure);
    state->changed = time_of(now, ages->changed);
    return 0;
}

static const VMStateDescription vmstate_ages = {
    .name = "virtio-balloon-device/automatic/ages",
    .pre_save = ages_pre_save,
    .post_load = ages_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_INT64(guest_pressure, Ages),
        VMSTATE_INT64(host_pressure, Ages),
        VMSTATE_INT64(changed, Ages),
        VMSTATE_END_OF_LIST()
    }
};

static bool automatic_needed(void *opaque)
{
    const VirtIOBalloonAutomaticState *state =
        &VIRTIO_BALLOON(opaque)->automatic.state;

    /* A target is changed by either of the two alone. */
    return state->guest_pressure != NEVER || state->host_pressure != NEVER;
}

static int automatic_post_load(void *opaque, int version_id)
{
    const VirtIOBalloonAutomaticState *state =
        &VIRTIO_BALLOON(opaque)->automatic.state;

    if (state->changed != NEVER &&
        (state->reason < 0 || state->reason >= BALLOON_AUTOMATIC_REASON__MAX)) {
        error_report("virtio-balloon: the saved state is damaged: the target "
                     "was changed for reason number %" PRId32, state->reason);
        return -EINVAL;
    }
    if (state->host_events_skipped > state->host_events) {
        error_report("virtio-balloon: the saved state is damaged: %" PRIu64
                     " of %" PRIu64 " host pressure events skipped",
                     state->host_events_skipped, state->host_events);
        return -EINVAL;
    }
    return check_offered(opaque, version_id);
}

const VMStateDescription vmstate_virtio_balloon_automatic = {
    .name = "virtio-balloon-device/automatic",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = automatic_needed,
    .post_load = automatic_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_WITH_TMP(VirtIOBalloon, Ages, vmstate_ages),
        VMSTATE_INT32(automatic.state.reason, VirtIOBalloon),
        VMSTATE_UINT64(automatic.state.host_events, VirtIOBalloon),
        VMSTATE_UINT64(automatic.state.host_events_skipped, VirtIOBalloon),
        VMSTATE_END_OF_LIST()
    }
};

#endif

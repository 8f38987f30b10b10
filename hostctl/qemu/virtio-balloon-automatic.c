/*
 * Virtio balloon: automatic ballooning
 *
 * The rule
 * --------
 * On host pressure the balloon grows by a step, unless the guest's last message
 * is at most the hysteresis old. On a guest's message an inflation under way is
 * cancelled; if there is none, the balloon shrinks by a step. The guest's RAM
 * less the balloon never goes below the floor. A guest that is at level medium
 * or critical says low in the same buffer: a message of any level is
 * remembered, that of level low is acted on, or one shortage would act twice.
 *
 * When it does nothing
 * --------------------
 * On doubt the guest is not made smaller. Host pressure is taken note of and
 * dropped, never saved up:
 * - while the machine is stopped: the guest could not follow, and nothing of a
 *   stopped machine may change;
 * - before DRIVER_OK, after a reset until the next DRIVER_OK, and when the
 *   device is broken: nobody is there who could follow, or say that it hurts;
 * - if the driver did not accept the message queue: such a guest cannot say
 *   that it is short;
 * - while discards are inhibited (a device that pins memory, postcopy): the
 *   guest would lose memory and the host gain none.
 * A message before DRIVER_OK, which a legacy driver can send, is remembered and
 * not acted on.
 *
 * What stays
 * ----------
 * The target survives a reset as one that was set by hand does: the host is no
 * less short because a guest reboots. So does the time of the last message. The
 * target stays as well when automatic is switched off. Unrealize and unplug
 * close the source: there is no call after it.
 *
 * Locking: all of this runs with the BQL held: host pressure in the main loop,
 * messages there or in a vCPU's exit, properties in the monitor's commands.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-events-virtio-balloon.h"
#include "qapi/qapi-visit-virtio-balloon.h"
#include "qapi/visitor.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-balloon.h"
#include "hw/virtio/virtio-balloon-compat.h"
#include "trace.h"

#define BALLOON_PAGE_SIZE (1ULL << VIRTIO_BALLOON_PFN_SHIFT)
#define NEVER VIRTIO_BALLOON_NEVER

/* The default floor: a small guest needs more of its RAM than a large one. */
#define FLOOR_LEAST (128 * MiB)
#define FLOOR_SHARE 4

/* What the rule decides on, in pages of the balloon. */
typedef struct Rule {
    uint32_t num_pages;
    uint32_t actual;
    uint32_t step;
} Rule;

/* @most is RAM less the floor. */
static uint32_t pages_after_host_pressure(const Rule *rule, uint32_t most)
{
    /* Somebody may have set more by hand: it is not taken back here. */
    if (rule->num_pages >= most) {
        return rule->num_pages;
    }
    return rule->num_pages + MIN(rule->step, most - rule->num_pages);
}

static uint32_t pages_after_guest_pressure(const Rule *rule,
                                           BalloonAutomaticReason *reason)
{
    if (rule->num_pages > rule->actual) {
        *reason = BALLOON_AUTOMATIC_REASON_CANCEL;
        return rule->actual;
    }
    *reason = BALLOON_AUTOMATIC_REASON_GUEST_PRESSURE;
    return rule->num_pages - MIN(rule->step, rule->num_pages);
}

static bool pressed_at(const VirtIOBalloonAutomaticState *state, int64_t now,
                       uint32_t hysteresis_ms)
{
    return state->guest_pressure != NEVER &&
           now - state->guest_pressure <= (int64_t)hysteresis_ms * SCALE_MS;
}

static uint64_t floor_bytes(uint64_t ram, uint64_t configured)
{
    return configured ?: MAX(ram / FLOOR_SHARE, FLOOR_LEAST);
}

static uint32_t to_pages(uint64_t bytes)
{
    return MIN(bytes >> VIRTIO_BALLOON_PFN_SHIFT, UINT32_MAX);
}

static Rule rule_now(const VirtIOBalloon *s)
{
    return (Rule) {
        .num_pages = s->num_pages,
        .actual = s->actual,
        .step = to_pages(s->automatic.step),
    };
}

static uint32_t most_pages(const VirtIOBalloon *s)
{
    uint64_t ram = get_current_ram_size();
    uint64_t floor = floor_bytes(ram, s->automatic.floor);

    return to_pages(ram - MIN(ram, floor));
}

/* A snapshot that was loaded sets the clock back: what is to come is now. */
static int64_t now_ns(VirtIOBalloonAutomaticState *state)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    state->guest_pressure = MIN(state->guest_pressure, now);
    state->host_pressure = MIN(state->host_pressure, now);
    state->changed = MIN(state->changed, now);
    return now;
}

/* Is a driver there that follows the target and says when it hurts? */
static bool driver_follows(VirtIOBalloon *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    return vdev->vm_running && !vdev->broken &&
           (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
           virtio_vdev_has_feature(vdev, VIRTIO_BALLOON_F_MESSAGE_VQ);
}

static bool change_target(VirtIOBalloon *s, uint32_t num_pages,
                          BalloonAutomaticReason reason)
{
    VirtIOBalloonAutomaticState *state = &s->automatic.state;
    g_autofree char *path = NULL;
    uint64_t old, new;

    if (num_pages == s->num_pages) {
        return false;
    }
    old = virtio_balloon_ram_without(s->num_pages);
    new = virtio_balloon_ram_without(num_pages);
    s->num_pages = num_pages;
    state->changed = now_ns(state);
    state->reason = reason;
    virtio_notify_config(VIRTIO_DEVICE(s));

    trace_virtio_balloon_automatic(BalloonAutomaticReason_str(reason), old,
                                   new);
    path = object_get_canonical_path(OBJECT(s));
    qapi_event_send_balloon_automatic(path, reason, old, new);
    return true;
}

static void host_pressure(void *opaque, bool gone)
{
    VirtIOBalloon *s = opaque;
    VirtIOBalloonAutomatic *a = &s->automatic;
    Rule rule = rule_now(s);

    if (gone) {
        /* The guest's messages are acted on all the same. */
        warn_report("virtio-balloon: the host's pressure cannot be watched any "
                    "more, its cgroup is gone; switch automatic off and on "
                    "when it is back");
        virtio_balloon_pressure_close(a->source);
        a->source = NULL;
        return;
    }

    a->state.host_pressure = now_ns(&a->state);
    a->state.host_events++;
    if (!driver_follows(s) || virtio_balloon_inhibited() ||
        pressed_at(&a->state, a->state.host_pressure, a->hysteresis_ms) ||
        !change_target(s, pages_after_host_pressure(&rule, most_pages(s)),
                       BALLOON_AUTOMATIC_REASON_HOST_PRESSURE)) {
        a->state.host_events_skipped++;
        trace_virtio_balloon_automatic_skip(s->num_pages);
    }
}

void virtio_balloon_automatic_message(VirtIOBalloon *s,
                                      BalloonPressureLevel level)
{
    VirtIOBalloonAutomatic *a = &s->automatic;
    BalloonAutomaticReason reason;
    Rule rule = rule_now(s);
    uint32_t num_pages;

    /* Also while off: the guest is no less short when it is switched on. */
    a->state.guest_pressure = now_ns(&a->state);
    if (a->on && level == BALLOON_PRESSURE_LEVEL_LOW && driver_follows(s)) {
        num_pages = pages_after_guest_pressure(&rule, &reason);
        change_target(s, num_pages, reason);
    }
}

static bool start(VirtIOBalloon *s, Error **errp)
{
    VirtIOBalloonAutomatic *a = &s->automatic;

    if (!virtio_has_feature(s->host_features, VIRTIO_BALLOON_F_MESSAGE_VQ)) {
        error_setg(errp, "automatic=on needs message-vq=on: without it the "
                   "guest cannot say that it is short of memory");
        return false;
    }
    if (!a->step || a->step % BALLOON_PAGE_SIZE) {
        error_setg(errp, "automatic-step is %" PRIu64 " bytes; set it to a "
                   "multiple of %llu", a->step, BALLOON_PAGE_SIZE);
        return false;
    }
    a->source = virtio_balloon_pressure_open(&a->pressure, host_pressure, s,
                                             errp);
    return a->source;
}

static void stop(VirtIOBalloon *s)
{
    if (s->automatic.source) {
        virtio_balloon_pressure_close(s->automatic.source);
        s->automatic.source = NULL;
    }
}

void virtio_balloon_automatic_forget(VirtIOBalloon *s)
{
    s->automatic.state = (VirtIOBalloonAutomaticState) {
        .guest_pressure = NEVER,
        .host_pressure = NEVER,
        .changed = NEVER,
    };
}

bool virtio_balloon_automatic_realize(VirtIOBalloon *s, Error **errp)
{
    return !s->automatic.on || start(s, errp);
}

void virtio_balloon_automatic_unrealize(VirtIOBalloon *s)
{
    stop(s);
}

bool virtio_balloon_automatic_allows_manual(VirtIOBalloon *s, Error **errp)
{
    g_autofree char *path = NULL;

    if (!s->automatic.on) {
        return true;
    }
    path = object_get_canonical_path(OBJECT(s));
    error_setg(errp, "The balloon is automatic and not set by hand; to do so, "
               "first set property 'automatic' of '%s' to false", path);
    return false;
}

static void get_automatic(Object *obj, Visitor *v, const char *name,
                          void *opaque, Error **errp)
{
    visit_type_bool(v, name, &VIRTIO_BALLOON(obj)->automatic.on, errp);
}

static void set_automatic(Object *obj, Visitor *v, const char *name,
                          void *opaque, Error **errp)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(obj);
    bool on;

    if (!visit_type_bool(v, name, &on, errp)) {
        return;
    }
    if (DEVICE(obj)->realized) {
        /* Switching on what is on opens a source that has gone. */
        if (on && !s->automatic.source && !start(s, errp)) {
            return;
        }
        if (!on) {
            stop(s);
        }
    }
    s->automatic.on = on;
}

static void set_default_automatic(ObjectProperty *op, const Property *prop)
{
    object_property_set_default_bool(op, prop->defval.u);
}

static void get_enum(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    Property *prop = opaque;
    int value = *(int *)object_field_prop_ptr(obj, prop);

    visit_type_enum(v, name, &value, prop->info->enum_table, errp);
}

/* qdev does not call this once the device is realized. */
static void set_enum(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    Property *prop = opaque;

    visit_type_enum(v, name, object_field_prop_ptr(obj, prop),
                    prop->info->enum_table, errp);
}

static void set_default_enum(ObjectProperty *op, const Property *prop)
{
    object_property_set_default_str(
        op, qapi_enum_lookup(prop->info->enum_table, prop->defval.i));
}

const PropertyInfo virtio_balloon_prop_automatic = {
    PROPERTY_INFO_TYPE = "bool",
    .description = "balance the guest by host and guest pressure",
    .realized_set_allowed = true,
    .get = get_automatic,
    .set = set_automatic,
    .set_default_value = set_default_automatic,
};

const PropertyInfo virtio_balloon_prop_pressure_source = {
    PROPERTY_INFO_TYPE = "BalloonPressureSource",
    .description = "auto/vmpressure/psi",
    .enum_table = &BalloonPressureSource_lookup,
    .get = get_enum,
    .set = set_enum,
    .set_default_value = set_default_enum,
};

const PropertyInfo virtio_balloon_prop_pressure_level = {
    PROPERTY_INFO_TYPE = "BalloonPressureLevel",
    .description = "low/medium/critical",
    .enum_table = &BalloonPressureLevel_lookup,
    .get = get_enum,
    .set = set_enum,
    .set_default_value = set_default_enum,
};

static bool age_ms(int64_t now, int64_t then, uint64_t *ms)
{
    *ms = then == NEVER ? 0 : (now - then) / SCALE_MS;
    return then != NEVER;
}

void virtio_balloon_automatic_get_state(Object *obj, Visitor *v,
                                        const char *name, void *opaque,
                                        Error **errp)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(obj);
    VirtIOBalloonAutomatic *a = &s->automatic;
    int64_t now = now_ns(&a->state);
    BalloonAutomaticState state = {
        .on = a->on,
        .has_source = a->source,
        .target = virtio_balloon_ram_without(s->num_pages),
        .floor = floor_bytes(get_current_ram_size(), a->floor),
        .has_reason = a->state.changed != NEVER,
        .reason = a->state.reason,
        .host_pressure_events = a->state.host_events,
        .host_pressure_skipped = a->state.host_events_skipped,
    };
    BalloonAutomaticState *pointer = &state;

    if (a->source) {
        state.source = virtio_balloon_pressure_source(a->source);
    }
    state.has_change_age_ms =
        age_ms(now, a->state.changed, &state.change_age_ms);
    state.has_host_pressure_age_ms =
        age_ms(now, a->state.host_pressure, &state.host_pressure_age_ms);
    state.has_guest_pressure_age_ms =
        age_ms(now, a->state.guest_pressure, &state.guest_pressure_age_ms);
    visit_type_BalloonAutomaticState(v, name, &pointer, errp);
}

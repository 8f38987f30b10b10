/*
 * Virtio balloon: the message virtqueue
 *
 * A buffer holds one or more 32-bit messages, little-endian on a modern device
 * and in the guest's byte order on a legacy one. Each known message becomes a
 * BALLOON_PRESSURE event; what is not known is counted and ignored.
 *
 * Which queue is which
 * --------------------
 * The driver numbers its queues by the features that were negotiated; queues
 * are allocated at realize, by the features that are offered. The two differ
 * as soon as the driver declines one that has a queue. So with the message
 * queue offered, an optional queue's role is looked up in the negotiated
 * features: the negotiated ones come first, in their order, and the declined
 * ones get the queues that are left over. Each role has a queue of its own at
 * any time, hence none of the pointers in VirtIOBalloon is ever NULL or stands
 * for a queue that another role uses. A kick on a queue whose role was
 * declined does nothing.
 *
 * The ring size belongs to the index and not to the role: it is that of the
 * queue which was allocated there. A message queue in the place of page
 * reporting has 32 entries instead of 128, page reporting in the place of the
 * free page hint has 1024 instead of 32. Drivers read the size, and each of
 * the queues works with any of them.
 *
 * Roles follow set_features, and so they are right after a migration (the
 * negotiated features are loaded through it), after a reset (no features: the
 * order of realize) and for a legacy driver, which may write its features at
 * any time, also more than once.
 *
 * Locking: all of this runs in the main loop or in a vCPU's exit, with the BQL
 * held. The free page hint is the one queue that is served in an iothread. It
 * takes free_page_lock for each buffer and, where a descriptor or a ring lies
 * outside of RAM, waits for the BQL with that lock held. So the lock must not
 * be taken here, where a guest decides when. The iothread reads the pointer to
 * its queue once for each buffer; a driver that changes the roles while its
 * hint is worked on may find that one buffer used in the wrong queue, just as
 * one that resets a queue in use.
 *
 * A flood of messages must not cost the host more than a small part of a CPU:
 * in each period a fixed number of buffers is read, the first of them at once.
 * Then kicks are off, and the rest waits in the ring for the next period.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qapi/qapi-events-virtio-balloon.h"
#include "qapi/visitor.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-access.h"
#include "hw/virtio/virtio-balloon.h"
#include "hw/virtio/virtio-balloon-compat.h"
#include "trace.h"

#define MESSAGE_QUEUE_SIZE 128

/* Inflate and deflate are always there. */
#define FIRST_OPTIONAL_QUEUE 2

/*
 * The guest is not trusted: a driver sends no more than one message of each
 * level in a buffer, and has one buffer in flight.
 */
#define MAX_MESSAGES_PER_BUFFER 16
#define MAX_BUFFERS_PER_PERIOD 8
#define PERIOD_NS (100 * SCALE_MS)

static bool message_queue_offered(const VirtIOBalloon *s)
{
    return virtio_has_feature(s->host_features, VIRTIO_BALLOON_F_MESSAGE_VQ);
}

uint64_t virtio_balloon_ram_without(uint32_t pages)
{
    uint64_t ram = get_current_ram_size();
    uint64_t balloon = (uint64_t)pages << VIRTIO_BALLOON_PFN_SHIFT;

    return ram > balloon ? ram - balloon : 0;
}

/* @actual is the VM's logical size in bytes. */
static void message_received(VirtIOBalloon *s, uint32_t message,
                             uint64_t actual)
{
    VirtIOBalloonMessageStats *stats = &s->message.stats;
    g_autofree char *path = NULL;
    BalloonPressureLevel level;

    switch (message) {
    case VIRTIO_BALLOON_MSG_PRESSURE:
        level = BALLOON_PRESSURE_LEVEL_LOW;
        stats->low++;
        break;
    case VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM:
        level = BALLOON_PRESSURE_LEVEL_MEDIUM;
        stats->medium++;
        break;
    case VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL:
        level = BALLOON_PRESSURE_LEVEL_CRITICAL;
        stats->critical++;
        break;
    default:
        trace_virtio_balloon_message_unknown(message);
        stats->unknown++;
        return;
    }

    trace_virtio_balloon_message(BalloonPressureLevel_str(level), actual);
    path = object_get_canonical_path(OBJECT(s));
    qapi_event_send_balloon_pressure(path, level, actual);
    virtio_balloon_automatic_message(s, level);
}

static void message_buffer_received(VirtIOBalloon *s,
                                    const VirtQueueElement *elem)
{
    VirtIOBalloonMessageStats *stats = &s->message.stats;
    uint32_t messages[MAX_MESSAGES_PER_BUFFER];
    size_t size = iov_size(elem->out_sg, elem->out_num);
    size_t count = size / sizeof(messages[0]);
    size_t taken = MIN(count, ARRAY_SIZE(messages));
    /* Once a buffer: there are QEMUs that look for DIMMs in all of QOM. */
    uint64_t actual = virtio_balloon_ram_without(s->actual);
    size_t i;

    iov_to_buf(elem->out_sg, elem->out_num, 0, messages,
               taken * sizeof(messages[0]));
    for (i = 0; i < taken; i++) {
        message_received(s, virtio_ldl_p(VIRTIO_DEVICE(s), &messages[i]),
                         actual);
    }

    stats->excess += count - taken;
    if (size % sizeof(messages[0])) {
        stats->truncated++;
    }
    if (count > taken || size % sizeof(messages[0])) {
        trace_virtio_balloon_message_ignored(size, taken);
    }
}

static void message_queue_run(VirtIOBalloon *s)
{
    VirtIOBalloonMessage *m = &s->message;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    VirtQueueElement *elem;
    bool any = false;

    /* A snapshot that was loaded sets the clock back. */
    if (now < m->period_start || now - m->period_start >= PERIOD_NS) {
        m->period_start = now;
        m->buffers = 0;
        virtio_queue_set_notification(m->vq, 1);
    }

    while (m->buffers < MAX_BUFFERS_PER_PERIOD &&
           (elem = virtqueue_pop(m->vq, sizeof(VirtQueueElement)))) {
        message_buffer_received(s, elem);
        virtqueue_push(m->vq, elem, 0);
        g_free(elem);
        m->buffers++;
        any = true;
    }

    if (any) {
        virtio_notify(VIRTIO_DEVICE(s), m->vq);
    }
    if (m->buffers == MAX_BUFFERS_PER_PERIOD) {
        virtio_queue_set_notification(m->vq, 0);
        timer_mod(m->timer, m->period_start + PERIOD_NS);
    }
}

static void message_queue_bh(void *opaque)
{
    VirtIOBalloon *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    /* A stopped machine's memory must not change; set_status comes back. */
    if (vdev->vm_running &&
        virtio_vdev_has_feature(vdev, VIRTIO_BALLOON_F_MESSAGE_VQ)) {
        message_queue_run(s);
    }
}

/*
 * The queue is read in the BH alone: it is guarded against a buffer that lies
 * in the device's own registers, which a kick by eventfd and a timer are not.
 */
static void message_queue_kicked(VirtIODevice *vdev, VirtQueue *vq)
{
    qemu_bh_schedule(VIRTIO_BALLOON(vdev)->message.bh);
}

static void next_period(void *opaque)
{
    VirtIOBalloon *s = opaque;

    qemu_bh_schedule(s->message.bh);
}

static void optional_queue_run(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(vdev);
    unsigned int i;

    for (i = 0; i < s->message.nr_roles; i++) {
        const VirtIOBalloonRole *role = &s->message.roles[i];

        if (*role->vq == vq && virtio_vdev_has_feature(vdev, role->feature)) {
            role->handler(vdev, vq);
            return;
        }
    }
}

/* Hand out queues to the roles that are, or are not, in @features. */
static int assign_queues(VirtIOBalloon *s, int index, uint64_t features,
                         bool negotiated)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    unsigned int i;

    for (i = 0; i < s->message.nr_roles; i++) {
        const VirtIOBalloonRole *role = &s->message.roles[i];

        if (virtio_has_feature(features, role->feature) == negotiated) {
            trace_virtio_balloon_queue_role(role->feature, index, negotiated);
            qatomic_set(role->vq, virtio_get_queue(vdev, index++));
        }
    }
    return index;
}

void virtio_balloon_message_set_features(VirtIODevice *vdev, uint64_t features)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(vdev);
    VirtQueue *old_message_vq = s->message.vq;
    VirtQueue *old_svq = s->svq;
    int index;

    if (!message_queue_offered(s)) {
        return;
    }

    index = assign_queues(s, FIRST_OPTIONAL_QUEUE, features, true);
    assign_queues(s, index, features, false);
    if (!virtio_has_feature(features, VIRTIO_BALLOON_F_FREE_PAGE_HINT)) {
        /* Nobody is left who could end a hinting that is under way. */
        qatomic_set(&s->free_page_hint_status, FREE_PAGE_HINT_S_STOP);
    }

    /* A legacy driver can change its mind at any time: with kicks off... */
    if (s->message.vq != old_message_vq) {
        virtio_queue_set_notification(old_message_vq, 1);
    }
    /* ... and with a statistics buffer held. */
    if (s->stats_vq_elem &&
        (s->svq != old_svq ||
         !virtio_has_feature(features, VIRTIO_BALLOON_F_STATS_VQ))) {
        virtqueue_unpop(old_svq, s->stats_vq_elem, 0);
        g_free(s->stats_vq_elem);
        s->stats_vq_elem = NULL;
    }
}

void virtio_balloon_message_add_queue(VirtIOBalloon *s, VirtQueue **vq,
                                      int size, unsigned int feature,
                                      VirtIOHandleOutput handler)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    VirtIOBalloonMessage *m = &s->message;

    if (!message_queue_offered(s)) {
        *vq = virtio_add_queue(vdev, size, handler);
        return;
    }

    assert(m->nr_roles < ARRAY_SIZE(m->roles));
    m->roles[m->nr_roles++] = (VirtIOBalloonRole) {
        .feature = feature,
        .handler = handler,
        .vq = vq,
    };
    *vq = virtio_add_queue(vdev, size, optional_queue_run);
}

void virtio_balloon_message_realize(VirtIOBalloon *s)
{
    if (!message_queue_offered(s)) {
        return;
    }
    virtio_balloon_message_add_queue(s, &s->message.vq, MESSAGE_QUEUE_SIZE,
                                     VIRTIO_BALLOON_F_MESSAGE_VQ,
                                     message_queue_kicked);
    s->message.bh = virtio_bh_new_guarded(DEVICE(s), message_queue_bh, s);
    s->message.timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, next_period, s);
}

void virtio_balloon_message_unrealize(VirtIOBalloon *s)
{
    if (!message_queue_offered(s)) {
        return;
    }
    timer_free(s->message.timer);
    s->message.timer = NULL;
    qemu_bh_delete(s->message.bh);
    s->message.bh = NULL;
    virtio_delete_queue(s->message.vq);
    s->message.vq = NULL;
    s->message.nr_roles = 0;
}

void virtio_balloon_message_reset(VirtIOBalloon *s)
{
    if (s->message.bh) {
        timer_del(s->message.timer);
        qemu_bh_cancel(s->message.bh);
    }
    /* The period goes on: a reset is no way to more buffers. */
    s->message.stats = (VirtIOBalloonMessageStats) {};
}

void virtio_balloon_message_set_status(VirtIOBalloon *s, uint8_t status)
{
    /* Buffers may have been left over when the machine was stopped. */
    if (s->message.bh && VIRTIO_DEVICE(s)->vm_running &&
        (status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        qemu_bh_schedule(s->message.bh);
    }
}

static void get_target(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    VirtIOBalloon *s = VIRTIO_BALLOON(obj);
    uint64_t target = virtio_balloon_ram_without(s->num_pages);

    visit_type_uint64(v, name, &target, errp);
}

static void get_message_stats(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    VirtIOBalloonMessageStats stats = VIRTIO_BALLOON(obj)->message.stats;

    if (!visit_start_struct(v, name, NULL, 0, errp)) {
        return;
    }
    if (visit_type_uint64(v, "low", &stats.low, errp) &&
        visit_type_uint64(v, "medium", &stats.medium, errp) &&
        visit_type_uint64(v, "critical", &stats.critical, errp) &&
        visit_type_uint64(v, "unknown", &stats.unknown, errp) &&
        visit_type_uint64(v, "excess", &stats.excess, errp) &&
        visit_type_uint64(v, "truncated", &stats.truncated, errp)) {
        visit_check_struct(v, errp);
    }
    visit_end_struct(v, NULL);
}

static const struct {
    const char *name;
    const char *type;
    ObjectPropertyAccessor *get;
    const char *description;
} properties[] = {
    { "target", "uint64", get_target,
      "RAM in bytes that the guest is asked to get along with" },
    { "message-stats", "struct", get_message_stats,
      "messages of the guest since the last reset of the device" },
#ifdef CONFIG_LINUX
    { "automatic-state", "BalloonAutomaticState",
      virtio_balloon_automatic_get_state,
      "what automatic ballooning is at" },
#endif
};

void virtio_balloon_message_instance_init(Object *obj)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(properties); i++) {
        object_property_add(obj, properties[i].name, properties[i].type,
                            properties[i].get, NULL, NULL, NULL);
        object_property_set_description(obj, properties[i].name,
                                        properties[i].description);
    }
    virtio_balloon_automatic_forget(VIRTIO_BALLOON(obj));
}

void virtio_balloon_message_add_aliases(Object *proxy, Object *obj)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(properties); i++) {
        object_property_add_alias(proxy, properties[i].name, obj,
                                  properties[i].name);
    }
}

/*
 * Virtio balloon: how long a queue is served at a time
 *
 * A guest can fill a queue with one CPU as fast as the device empties it. If
 * the queues of page frames were served until they are empty, such a guest
 * would keep the BQL for good, and nobody could talk to its QEMU any more. So
 * a turn ends after a fixed amount of work, and the main loop gives the queue
 * its next turn after everybody else had theirs.
 *
 * Locking: all of this runs with the BQL held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/virtio/virtio-balloon.h"
#include "hw/virtio/virtio-balloon-compat.h"
#include "trace.h"

/*
 * A full ring of what Linux sends, 128 buffers of 256 page frames, is one turn.
 * The most is 40 Ki frames and those of the last buffer.
 */
#define MAX_WORK (160 * 1024)

static void again(VirtIOBalloon *s, VirtQueue *vq)
{
    s->turns.queues |= 1u << virtio_get_queue_index(vq);
    qemu_bh_schedule(s->turns.bh);
}

bool virtio_balloon_turn_is_over(VirtIOBalloon *s, VirtQueue *vq, size_t work)
{
    if (work < MAX_WORK) {
        return false;
    }
    trace_virtio_balloon_turn_over(virtio_get_queue_index(vq));
    again(s, vq);
    return true;
}

static void turns_bh(void *opaque)
{
    VirtIOBalloon *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    uint32_t queues = s->turns.queues;
    int i;

    /* A stopped machine's memory must not change; set_status comes back. */
    if (!vdev->vm_running) {
        return;
    }
    s->turns.queues = 0;
    for (i = 0; queues >> i; i++) {
        if (queues >> i & 1) {
            virtio_queue_notify(vdev, i);
        }
    }
}

void virtio_balloon_turns_realize(VirtIOBalloon *s)
{
    s->turns.bh = virtio_bh_new_guarded(DEVICE(s), turns_bh, s);
}

void virtio_balloon_turns_unrealize(VirtIOBalloon *s)
{
    qemu_bh_delete(s->turns.bh);
    s->turns.bh = NULL;
}

void virtio_balloon_turns_reset(VirtIOBalloon *s)
{
    s->turns.queues = 0;
}

void virtio_balloon_turns_set_status(VirtIOBalloon *s, uint8_t status)
{
    /* A turn may have been due when this machine, or its source, stopped. */
    if (VIRTIO_DEVICE(s)->vm_running && (status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        again(s, s->ivq);
        again(s, s->dvq);
        if (s->reporting_vq) {
            again(s, s->reporting_vq);
        }
    }
}

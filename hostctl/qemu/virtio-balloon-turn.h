/*
 * Virtio balloon: how long a queue is served at a time
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_TURN_H
#define HW_VIRTIO_BALLOON_TURN_H

#include "hw/virtio/virtio.h"

typedef struct VirtIOBalloon VirtIOBalloon;

/* Everything here is touched with the BQL held. */
typedef struct VirtIOBalloonTurns {
    QEMUBH *bh;
    /* Bit n: queue n is to be served again. */
    uint32_t queues;
} VirtIOBalloonTurns;

/* What a buffer counts for beside its bytes. */
#define VIRTIO_BALLOON_TURN_BUFFER 256

/* And a descriptor, which has to be mapped: as much as a page frame. */
#define VIRTIO_BALLOON_TURN_DESCRIPTOR 4

/* The list of page frames that is read from one buffer, in bytes. */
#define VIRTIO_BALLOON_MAX_LIST (256 * 1024)

/*
 * Has @vq been served for long enough, with @work of VIRTIO_BALLOON_TURN_BUFFER
 * a buffer, VIRTIO_BALLOON_TURN_DESCRIPTOR a descriptor and the bytes of its
 * page frames? If so, the caller returns, and is called again soon. BQL held.
 */
bool virtio_balloon_turn_is_over(VirtIOBalloon *s, VirtQueue *vq, size_t work);

void virtio_balloon_turns_realize(VirtIOBalloon *s);
void virtio_balloon_turns_unrealize(VirtIOBalloon *s);
void virtio_balloon_turns_reset(VirtIOBalloon *s);
void virtio_balloon_turns_set_status(VirtIOBalloon *s, uint8_t status);

#endif

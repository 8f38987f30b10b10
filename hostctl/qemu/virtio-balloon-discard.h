/*
 * Virtio balloon: page frames of the guest as runs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_DISCARD_H
#define HW_VIRTIO_BALLOON_DISCARD_H

#include "hw/virtio/virtio-balloon.h"

/*
 * Discard the page frames that are listed in @elem when @inflate, otherwise
 * tell the host that they will be needed.
 *
 * Returns the number of bytes of @elem that are dealt with. The caller takes
 * the rest a frame at a time: all of it where frames cannot be merged, or are
 * not to be, otherwise no more than a part of a frame's number.
 *
 * Context: with the BQL held.
 */
size_t virtio_balloon_discard_runs(VirtIOBalloon *s,
                                   const VirtQueueElement *elem, bool inflate);

#endif

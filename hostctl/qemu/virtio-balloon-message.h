/*
 * Virtio balloon: the message virtqueue
 *
 * The guest says over this queue that it is short of memory, and the device
 * hands each message on as a QMP event. The feature is off by default; the
 * balloon is then what it was without this file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_MESSAGE_H
#define HW_VIRTIO_BALLOON_MESSAGE_H

#include "standard-headers/linux/virtio_balloon_message.h"
#include "hw/virtio/virtio.h"

typedef struct VirtIOBalloon VirtIOBalloon;

/* Statistics, free page hint, page reporting, message. */
#define VIRTIO_BALLOON_OPTIONAL_QUEUES 4

/* A queue that exists only if its feature was negotiated. */
typedef struct VirtIOBalloonRole {
    unsigned int feature;
    VirtIOHandleOutput handler;
    /* Where the device keeps the queue that has this role. */
    VirtQueue **vq;
} VirtIOBalloonRole;

/* What has come over the message queue since the last device reset. */
typedef struct VirtIOBalloonMessageStats {
    uint64_t low;
    uint64_t medium;
    uint64_t critical;
    /* Messages whose number means nothing to the device. */
    uint64_t unknown;
    /* Messages beyond those that are read from one buffer. */
    uint64_t excess;
    /* Buffers that end in a part of a message. */
    uint64_t truncated;
} VirtIOBalloonMessageStats;

/* Everything here is touched with the BQL held. */
typedef struct VirtIOBalloonMessage {
    VirtQueue *vq;
    QEMUBH *bh;
    /* Runs while the buffers of a period are used up. */
    QEMUTimer *timer;
    /* When the current period began, and the buffers that were read in it. */
    int64_t period_start;
    unsigned int buffers;
    VirtIOBalloonRole roles[VIRTIO_BALLOON_OPTIONAL_QUEUES];
    unsigned int nr_roles;
    VirtIOBalloonMessageStats stats;
} VirtIOBalloonMessage;

/* RAM of the machine in bytes, with what was plugged in; virtio-balloon.c. */
ram_addr_t get_current_ram_size(void);

/* Are discards switched off at the moment? virtio-balloon.c. */
bool virtio_balloon_inhibited(void);

/* RAM in bytes less @pages of the balloon; the guest may claim any number. */
uint64_t virtio_balloon_ram_without(uint32_t pages);

/* Add the properties that are read only: "target", "message-stats", ... */
void virtio_balloon_message_instance_init(Object *obj);

/* Give @proxy, the transport's device, the same properties. */
void virtio_balloon_message_add_aliases(Object *proxy, Object *obj);

/*
 * Add the queue of an optional feature and store it in @vq. Call it in the
 * order in which the queues are laid out.
 */
void virtio_balloon_message_add_queue(VirtIOBalloon *s, VirtQueue **vq,
                                      int size, unsigned int feature,
                                      VirtIOHandleOutput handler);

/* Add the message queue, if it is offered; after all other queues. */
void virtio_balloon_message_realize(VirtIOBalloon *s);
void virtio_balloon_message_unrealize(VirtIOBalloon *s);

void virtio_balloon_message_reset(VirtIOBalloon *s);
void virtio_balloon_message_set_status(VirtIOBalloon *s, uint8_t status);

/* VMStateDescription::pre_load of the balloon, and what is saved of this. */
int virtio_balloon_message_pre_load(void *opaque);
extern const VMStateDescription vmstate_virtio_balloon_message;

/* VirtioDeviceClass::set_features of the balloon. */
void virtio_balloon_message_set_features(VirtIODevice *vdev,
                                         uint64_t features);

#endif

/* SPDX-License-Identifier: ((GPL-2.0-or-later WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * The virtio balloon's message virtqueue: the guest tells the host that it is
 * short of memory. The protocol's text is in message-virtqueue.rst.
 *
 * This file is the one place where the protocol's numbers stand. The driver,
 * the QEMU device and the Python tools all take them from here, so it holds
 * plain numeric definitions and includes nothing.
 */
#ifndef _LINUX_VIRTIO_BALLOON_MESSAGE_H
#define _LINUX_VIRTIO_BALLOON_MESSAGE_H

/*
 * Message virtqueue.
 *
 * The virtio specification has given the balloon bits 0 to 5; 6, 7, 8, 16 and
 * 20 are in use outside of it. 23 is the top of the first range of
 * device-specific bits (0 to 23; another begins at 50), which is given out
 * upwards. (The series of 2014 used bit 2, which is
 * VIRTIO_BALLOON_F_DEFLATE_ON_OOM today.)
 */
#define VIRTIO_BALLOON_F_MESSAGE_VQ	23

/*
 * Messages, each a little-endian 32-bit value (guest-endian on a legacy
 * device). A guest at one level sends the lower levels' messages before it in
 * the same buffer: a host that knows only the first still acts.
 */
#define VIRTIO_BALLOON_MSG_PRESSURE		1 /* reclaim has begun */
#define VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM	2 /* reclaim is getting hard */
#define VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL	3 /* reclaim hardly frees anything */

#endif /* _LINUX_VIRTIO_BALLOON_MESSAGE_H */

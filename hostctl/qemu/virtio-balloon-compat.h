/*
 * Virtio balloon: what older QEMUs call otherwise
 *
 * Our files are written for the newest QEMU; here is what they need to compile
 * in older ones. Asked is for what exists, not for a version. Include it last.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_COMPAT_H
#define HW_VIRTIO_BALLOON_COMPAT_H

#include "qemu/main-loop.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio.h"

/* Without a guard against a device that is entered by its own DMA. */
#ifndef virtio_bh_new_guarded
#define virtio_bh_new_guarded(dev, cb, opaque) \
    qemu_bh_new_full((cb), (opaque), (stringify(cb)))
#endif

/* As long as lists of properties had an end, the type was the info's name. */
#ifdef DEFINE_PROP_END_OF_LIST
#define PROPERTY_INFO_TYPE .name
#else
#define PROPERTY_INFO_TYPE .type
#endif

#endif

/*
 * Virtio balloon: the host's memory pressure
 *
 * Tells when the host, or the part of it that a cgroup limits, runs short of
 * memory. Linux only.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_VIRTIO_BALLOON_PRESSURE_H
#define HW_VIRTIO_BALLOON_PRESSURE_H

#include "qapi/qapi-types-virtio-balloon.h"

typedef struct VirtIOBalloonPressure VirtIOBalloonPressure;

typedef struct VirtIOBalloonPressureConf {
    /* Folder of a cgroup; NULL: the whole machine. */
    char *memcg_path;
    BalloonPressureSource source;
    BalloonPressureLevel level;
    /* Microseconds; a threshold of 0 is a share of the window, by level. */
    uint32_t psi_threshold_us;
    uint32_t psi_window_us;
} VirtIOBalloonPressureConf;

/*
 * The host is short of memory or, if @gone, there will be no more calls: the
 * cgroup was removed. It may close the source. Main loop, BQL held.
 */
typedef void VirtIOBalloonPressureFn(void *opaque, bool gone);

/*
 * Register with the kernel. NULL and an error that says what is missing if the
 * host has no such source or the kernel refuses it. BQL held.
 */
VirtIOBalloonPressure *
virtio_balloon_pressure_open(const VirtIOBalloonPressureConf *conf,
                             VirtIOBalloonPressureFn *fn, void *opaque,
                             Error **errp);

/* Unregister; there are no calls after it. BQL held. */
void virtio_balloon_pressure_close(VirtIOBalloonPressure *p);

/* What was chosen: never "auto". */
BalloonPressureSource
virtio_balloon_pressure_source(const VirtIOBalloonPressure *p);

#endif

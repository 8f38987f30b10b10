/*
 * Virtio balloon: the host's memory pressure
 *
 * Two sources. vmpressure is the notification of a version 1 memory cgroup
 * (Documentation/admin-guide/cgroup-v1/memory.rst, "Memory Pressure"), PSI a
 * trigger on the pressure stall information of a version 2 cgroup or of the
 * machine (Documentation/accounting/psi.rst).
 *
 * PSI knows no levels. Those here follow the meaning of vmpressure's: low is a
 * stall that somebody notices, medium that swapping has begun to cost,
 * critical that all work waits.
 *
 * Locking: all of this runs in the main loop with the BQL held.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib-unix.h>
#include <sys/eventfd.h>
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "hw/virtio/virtio-balloon-pressure.h"

/* The root of the v1 memory hierarchy, where it usually is. */
#define V1_ROOT "/sys/fs/cgroup/memory"
#define V1_LEVEL_FILE "memory.pressure_level"
#define V1_CONTROL_FILE "cgroup.event_control"
#define PSI_MACHINE "/proc/pressure/memory"
#define PSI_GROUP_FILE "memory.pressure"

struct VirtIOBalloonPressure {
    BalloonPressureSource source;
    VirtIOBalloonPressureFn *fn;
    void *opaque;
    /* vmpressure: an eventfd; PSI: the file with the trigger. */
    int fd;
    /* vmpressure: the cgroup's folder, to see whether it still exists. */
    int group;
    /* PSI: the source in the main loop's context. */
    guint watch;
};

static const struct {
    const char *who;
    unsigned int permille;
} psi_stall[BALLOON_PRESSURE_LEVEL__MAX] = {
    [BALLOON_PRESSURE_LEVEL_LOW] = { "some", 50 },
    [BALLOON_PRESSURE_LEVEL_MEDIUM] = { "some", 200 },
    [BALLOON_PRESSURE_LEVEL_CRITICAL] = { "full", 100 },
};

static void vmpressure_event(void *opaque)
{
    VirtIOBalloonPressure *p = opaque;
    uint64_t count;

    /* However many the kernel has counted, they are one event. */
    if (read(p->fd, &count, sizeof(count)) != sizeof(count)) {
        return;
    }
    /* The removal of the group is signalled in the same way. */
    p->fn(p->opaque, faccessat(p->group, V1_LEVEL_FILE, F_OK, 0) < 0);
}

static bool vmpressure_open(VirtIOBalloonPressure *p, const char *path,
                            BalloonPressureLevel level, Error **errp)
{
    const char *name = BalloonPressureLevel_str(level);
    g_autofree char *order = NULL;
    const char *failed = V1_LEVEL_FILE;
    int file, control = -1;
    bool ok = false;

    p->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->fd < 0) {
        error_setg_errno(errp, errno, "cannot create an eventfd");
        return false;
    }

    p->group = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    file = p->group < 0 ? -1 :
        openat(p->group, V1_LEVEL_FILE, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        failed = V1_CONTROL_FILE;
        control = openat(p->group, V1_CONTROL_FILE, O_WRONLY | O_CLOEXEC);
    }
    if (control >= 0) {
        order = g_strdup_printf("%d %d %s", p->fd, file, name);
        ok = write(control, order, strlen(order)) == strlen(order);
    }
    if (!ok) {
        error_setg_errno(errp, errno,
                         "no vmpressure at level '%s' from '%s/%s'; set "
                         "memcg-path to a cgroup v1 memory group that QEMU "
                         "may write to, or pressure-source=psi",
                         name, path, failed);
    }

    /* The registration is the eventfd's: these two are not needed any more. */
    if (control >= 0) {
        close(control);
    }
    if (file >= 0) {
        close(file);
    }
    if (ok) {
        qemu_set_fd_handler(p->fd, vmpressure_event, NULL, p);
    }
    return ok;
}

static gboolean psi_event(gint fd, GIOCondition condition, gpointer opaque)
{
    VirtIOBalloonPressure *p = opaque;

    /* Nothing is to be read: a poll takes the event. */
    p->fn(p->opaque, condition & (G_IO_ERR | G_IO_HUP | G_IO_NVAL));
    /* If it was closed meanwhile, this is not looked at. */
    return G_SOURCE_CONTINUE;
}

static bool psi_open(VirtIOBalloonPressure *p, const char *file,
                     const VirtIOBalloonPressureConf *conf, Error **errp)
{
    g_autofree char *trigger = NULL;
    uint64_t threshold = conf->psi_threshold_us;

    if (!threshold) {
        threshold = (uint64_t)conf->psi_window_us *
                    psi_stall[conf->level].permille / 1000;
    }

    p->fd = open(file, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (p->fd < 0) {
        error_setg_errno(errp, errno,
                         "cannot open '%s' for a PSI trigger; the host has to "
                         "have PSI (psi=1) and QEMU has to be allowed to write "
                         "the file, or set pressure-source=vmpressure", file);
        return false;
    }

    trigger = g_strdup_printf("%s %" PRIu64 " %" PRIu32,
                              psi_stall[conf->level].who, threshold,
                              conf->psi_window_us);
    /* The kernel wants to see the terminating zero. */
    if (write(p->fd, trigger, strlen(trigger) + 1) < 0) {
        error_setg_errno(errp, errno,
                         "'%s' refuses the PSI trigger '%s'; psi-window-us has "
                         "to be 500000 to 10000000, for a QEMU without "
                         "CAP_SYS_RESOURCE a multiple of 2000000, and "
                         "psi-threshold-us at most that", file, trigger);
        return false;
    }

    /*
     * A trigger signals POLLPRI, which fd handlers do not know. The main loop
     * polls GLib's default context with the BQL dropped and calls back with it
     * held, as it does for them.
     */
    p->watch = g_unix_fd_add(p->fd, G_IO_PRI | G_IO_ERR, psi_event, p);
    return true;
}

static bool group_allows(const char *path, const char *file, int mode)
{
    g_autofree char *name = g_build_filename(path, file, NULL);

    return access(name, mode) == 0;
}

VirtIOBalloonPressure *
virtio_balloon_pressure_open(const VirtIOBalloonPressureConf *conf,
                             VirtIOBalloonPressureFn *fn, void *opaque,
                             Error **errp)
{
    const char *group = conf->memcg_path ?: V1_ROOT;
    g_autofree char *psi = conf->memcg_path ?
        g_build_filename(conf->memcg_path, PSI_GROUP_FILE, NULL) :
        g_strdup(PSI_MACHINE);
    BalloonPressureSource source = conf->source;
    VirtIOBalloonPressure *p;
    bool ok;

    if (conf->memcg_path && !g_file_test(conf->memcg_path,
                                         G_FILE_TEST_IS_DIR)) {
        error_setg(errp, "memcg-path '%s' is no folder that QEMU can see; set "
                   "it to that of a memory cgroup (v1) or a cgroup (v2), or "
                   "leave it out for the whole machine", conf->memcg_path);
        return NULL;
    }

    if (source == BALLOON_PRESSURE_SOURCE_AUTO) {
        if (group_allows(group, V1_LEVEL_FILE, R_OK) &&
            group_allows(group, V1_CONTROL_FILE, W_OK)) {
            source = BALLOON_PRESSURE_SOURCE_VMPRESSURE;
        } else if (access(psi, R_OK | W_OK) == 0) {
            source = BALLOON_PRESSURE_SOURCE_PSI;
        } else {
            error_setg(errp, "no host memory pressure source: QEMU may use "
                       "neither '%s/" V1_LEVEL_FILE "' (cgroup v1) nor '%s' "
                       "(PSI); set memcg-path to a memory cgroup that QEMU may "
                       "write to, or boot the host with psi=1", group, psi);
            return NULL;
        }
    }

    p = g_new0(VirtIOBalloonPressure, 1);
    *p = (VirtIOBalloonPressure) {
        .source = source,
        .fn = fn,
        .opaque = opaque,
        .fd = -1,
        .group = -1,
    };
    if (source == BALLOON_PRESSURE_SOURCE_VMPRESSURE) {
        ok = vmpressure_open(p, group, conf->level, errp);
    } else {
        ok = psi_open(p, psi, conf, errp);
    }
    if (!ok) {
        virtio_balloon_pressure_close(p);
        return NULL;
    }
    return p;
}

void virtio_balloon_pressure_close(VirtIOBalloonPressure *p)
{
    if (p->watch) {
        g_source_remove(p->watch);
    }
    if (p->fd >= 0) {
        qemu_set_fd_handler(p->fd, NULL, NULL, NULL);
        close(p->fd);
    }
    if (p->group >= 0) {
        close(p->group);
    }
    g_free(p);
}

BalloonPressureSource
virtio_balloon_pressure_source(const VirtIOBalloonPressure *p)
{
    return p->source;
}

/*
 * Virtio balloon: page frames of the guest as runs
 *
 * What a driver lists in one buffer is a set: it waits for the buffer before it
 * uses any of the frames again. So they are sorted and merged, and the host
 * hears of a run of neighbours once, and not of each 4 KiB page.
 *
 * Where memory comes in host pages larger than the balloon's, the order of the
 * frames decides which host pages get complete. There, nothing is merged:
 * virtio-balloon.c goes on frame by frame.
 *
 * The guest is not trusted. A buffer may repeat frames, list what is no RAM, or
 * be as large as the guest; it is read in batches of a fixed size, and only so
 * much of it. Ignoring the rest is allowed: a device may leave a page of the
 * balloon alone, and what deflation asks for is a hint.
 *
 * Locking: all of this runs with the BQL held, and so the memory map stays as
 * it is while a buffer is worked on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/madvise.h"
#include "exec/address-spaces.h"
#include "exec/ramblock.h"
#include "hw/virtio/virtio.h"
#include "hw/virtio/virtio-access.h"
#include "hw/virtio/virtio-balloon-discard.h"
#include "trace.h"

#define FRAME_SIZE (UINT64_C(1) << VIRTIO_BALLOON_PFN_SHIFT)

/* Guest-physical addresses that a frame's 32-bit number can name. */
#define FRAMES_END ((UINT64_C(1) << 32) << VIRTIO_BALLOON_PFN_SHIFT)

/* Drivers send 256 frames in a buffer (Linux, FreeBSD) or 1024 (Windows). */
#define BATCH 1024
#define MAX_FRAMES_PER_BUFFER (VIRTIO_BALLOON_MAX_LIST / sizeof(uint32_t))

/* Numbers of frames; the last one belongs to it, so that none overflows. */
typedef struct Run {
    uint32_t first;
    uint32_t last;
} Run;

typedef struct Work {
    bool inflate;
    /* Where the last run was; with a reference while .mr is set. */
    MemoryRegionSection section;
} Work;

static hwaddr section_start(const Work *work)
{
    return work->section.offset_within_address_space;
}

static hwaddr section_end(const Work *work)
{
    return section_start(work) + int128_get64(work->section.size);
}

static void forget_section(Work *work)
{
    if (work->section.mr) {
        memory_region_unref(work->section.mr);
        work->section.mr = NULL;
    }
}

/* Find what is at @addr or, if there is nothing, what comes next. */
static bool find_section(Work *work, hwaddr addr)
{
    if (work->section.mr &&
        addr >= section_start(work) && addr < section_end(work)) {
        return true;
    }
    forget_section(work);
    work->section = memory_region_find(get_system_memory(), addr,
                                       FRAMES_END - addr);
    return work->section.mr;
}

static bool is_writable_ram(MemoryRegion *mr)
{
    return memory_region_is_ram(mr) && !memory_region_is_rom(mr) &&
           !memory_region_is_romd(mr);
}

/* From @start, @size bytes are in the section, which is RAM. */
static void ram_run(Work *work, hwaddr start, size_t size)
{
    MemoryRegion *mr = work->section.mr;
    hwaddr offset = work->section.offset_within_region +
                    (start - section_start(work));
    void *addr = memory_region_get_ram_ptr(mr) + offset;
    ram_addr_t rb_offset;
    RAMBlock *rb;

    /* Not asked once for all: an incoming postcopy begins at any time. */
    if (virtio_balloon_inhibited()) {
        return;
    }
    trace_virtio_balloon_discard_run(memory_region_name(mr), start, size,
                                     work->inflate);

    if (!work->inflate) {
        if (qemu_madvise(addr, size, QEMU_MADV_WILLNEED)) {
            warn_report_once("Couldn't MADV_WILLNEED on balloon deflate: %s",
                             strerror(errno));
        }
        return;
    }

    rb = qemu_ram_block_from_host(addr, false, &rb_offset);
    if (rb) {
        /* It reports its errors itself, and they do no harm. */
        ram_block_discard_range(rb, rb_offset, size);
    }
}

/* A run may lie in several regions, and in none. */
static void guest_run(Work *work, hwaddr start, hwaddr end)
{
    hwaddr stop;

    for (; start < end; start = stop) {
        if (!find_section(work, start)) {
            trace_virtio_balloon_discard_bad_run(start, end - start);
            return;
        }
        if (section_start(work) > start) {
            stop = MIN(end, ROUND_UP(section_start(work), FRAME_SIZE));
            trace_virtio_balloon_discard_bad_run(start, stop - start);
            continue;
        }

        /* A frame of which only a part is in the section stays as it is. */
        stop = MIN(end, ROUND_DOWN(section_end(work), FRAME_SIZE));
        if (stop > start && is_writable_ram(work->section.mr)) {
            ram_run(work, start, stop - start);
        } else {
            stop = MAX(stop, start + FRAME_SIZE);
            trace_virtio_balloon_discard_bad_run(start, stop - start);
        }
    }
}

static int compare_runs(const void *a, const void *b)
{
    const Run *left = a;
    const Run *right = b;

    return left->first < right->first ? -1 : left->first > right->first;
}

/*
 * Neighbours in the buffer are mostly neighbours in memory, upwards or
 * downwards. Taken together first, they leave little to sort.
 */
static size_t collect_runs(VirtIODevice *vdev, const uint32_t *frames,
                           size_t count, Run *runs, bool *sorted)
{
    size_t nr = 0;
    size_t i;

    *sorted = true;
    for (i = 0; i < count; i++) {
        uint32_t frame = virtio_ldl_p(vdev, &frames[i]);
        Run *run = nr ? &runs[nr - 1] : NULL;

        if (run && run->last != UINT32_MAX && frame == run->last + 1) {
            run->last++;
        } else if (run && run->first != 0 && frame == run->first - 1) {
            run->first--;
            /* It may have grown down into those before it. */
            *sorted &= nr < 2 || runs[nr - 2].first <= run->first;
        } else {
            *sorted &= !run || run->first <= frame;
            runs[nr++] = (Run) { .first = frame, .last = frame };
        }
    }
    return nr;
}

static void frames_batch(Work *work, VirtIODevice *vdev,
                         const uint32_t *frames, size_t count)
{
    Run runs[BATCH];
    bool sorted;
    size_t nr = collect_runs(vdev, frames, count, runs, &sorted);
    size_t i = 0;

    if (!sorted) {
        qsort(runs, nr, sizeof(runs[0]), compare_runs);
    }
    while (i < nr) {
        Run run = runs[i++];

        /* What overlaps it or begins where it ends. */
        while (i < nr && (uint64_t)runs[i].first <= (uint64_t)run.last + 1) {
            run.last = MAX(run.last, runs[i].last);
            i++;
        }
        guest_run(work, (hwaddr)run.first << VIRTIO_BALLOON_PFN_SHIFT,
                  ((hwaddr)run.last + 1) << VIRTIO_BALLOON_PFN_SHIFT);
    }
}

static bool have_larger_host_pages(void)
{
    RCU_READ_LOCK_GUARD();
    return qemu_ram_pagesize_largest() > FRAME_SIZE;
}

size_t virtio_balloon_discard_runs(VirtIOBalloon *s,
                                   const VirtQueueElement *elem, bool inflate)
{
    uint32_t frames[BATCH];
    size_t count = iov_size(elem->out_sg, elem->out_num) / sizeof(frames[0]);
    size_t taken = MIN(count, MAX_FRAMES_PER_BUFFER);
    Work work = { .inflate = inflate };
    size_t done, some;

    if (!s->merge_discards || have_larger_host_pages()) {
        return 0;
    }

    for (done = 0; done < taken; done += some) {
        some = MIN(taken - done, BATCH);
        iov_to_buf(elem->out_sg, elem->out_num, done * sizeof(frames[0]),
                   frames, some * sizeof(frames[0]));
        frames_batch(&work, VIRTIO_DEVICE(s), frames, some);
    }
    forget_section(&work);

    if (count > taken) {
        trace_virtio_balloon_discard_excess(count - taken);
    }
    return count * sizeof(frames[0]);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trace events of the balloon's message virtqueue. Names and fields are stable:
 * tools read them; virtio-balloon-pressure.rst has them all. The balloon's sizes
 * are in 4 KiB pages, as on the wire; scanned and reclaimed are guest pages.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM virtio_balloon

#if !defined(_VIRTIO_BALLOON_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VIRTIO_BALLOON_TRACE_H

#include <linux/tracepoint.h>
#include <uapi/linux/virtio_balloon_message.h>

#define balloon_level_name(level)					\
	__print_symbolic(level,						\
		{ VIRTIO_BALLOON_MSG_PRESSURE,		"low" },	\
		{ VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM,	"medium" },	\
		{ VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL,	"critical" })

/* A window of reclaim is complete. */
TRACE_EVENT(balloon_pressure,

	TP_PROTO(unsigned int level, unsigned long scanned,
		 unsigned long reclaimed),

	TP_ARGS(level, scanned, reclaimed),

	TP_STRUCT__entry(
		__field(u64, scanned)
		__field(u64, reclaimed)
		__field(u32, level)
	),

	TP_fast_assign(
		__entry->scanned = scanned;
		__entry->reclaimed = reclaimed;
		__entry->level = level;
	),

	TP_printk("level=%s scanned=%llu reclaimed=%llu",
		  balloon_level_name(__entry->level),
		  __entry->scanned, __entry->reclaimed)
);

/* A message is given to the device. The window is the one that caused it. */
TRACE_EVENT(balloon_message_queued,

	TP_PROTO(unsigned int level, unsigned long scanned,
		 unsigned long reclaimed, u32 actual, u32 num_pages),

	TP_ARGS(level, scanned, reclaimed, actual, num_pages),

	TP_STRUCT__entry(
		__field(u64, scanned)
		__field(u64, reclaimed)
		__field(u32, level)
		__field(u32, actual)
		__field(u32, num_pages)
	),

	TP_fast_assign(
		__entry->scanned = scanned;
		__entry->reclaimed = reclaimed;
		__entry->level = level;
		__entry->actual = actual;
		__entry->num_pages = num_pages;
	),

	TP_printk("level=%s scanned=%llu reclaimed=%llu actual=%u num_pages=%u",
		  balloon_level_name(__entry->level),
		  __entry->scanned, __entry->reclaimed,
		  __entry->actual, __entry->num_pages)
);

/* The device has taken the message. */
TRACE_EVENT(balloon_message_acked,

	TP_PROTO(unsigned int level),

	TP_ARGS(level),

	TP_STRUCT__entry(
		__field(u32, level)
	),

	TP_fast_assign(
		__entry->level = level;
	),

	TP_printk("level=%s", balloon_level_name(__entry->level))
);

/* The host asks for another size of the balloon. */
TRACE_EVENT(balloon_target,

	TP_PROTO(u32 num_pages, u32 actual),

	TP_ARGS(num_pages, actual),

	TP_STRUCT__entry(
		__field(u32, num_pages)
		__field(u32, actual)
	),

	TP_fast_assign(
		__entry->num_pages = num_pages;
		__entry->actual = actual;
	),

	TP_printk("num_pages=%u actual=%u",
		  __entry->num_pages, __entry->actual)
);

#endif /* _VIRTIO_BALLOON_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE virtio_balloon_trace
#include <trace/define_trace.h>

#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The balloon tells the host about memory pressure: about the guest's own, and
# not about what happens inside of a cgroup, nor what a user asks for. Needs a
# balloon device that offers VIRTIO_BALLOON_F_MESSAGE_VQ. Pressure is made with
# the page cache of a file without blocks: no memory is pinned, no disk is used.

DIR="$(dirname "$(readlink -f "$0")")"
. "$DIR"/../kselftest/ktap_helpers.sh

DEBUGFS=/sys/kernel/debug
CGROUP=/sys/fs/cgroup
GROUP=
FILE=
READER=

skip_all()
{
	ktap_skip_all "$*"
	exit "$KSFT_SKIP"
}

clean_up()
{
	[ -z "$READER" ] || kill "$READER" 2> /dev/null
	[ -z "$FILE" ] || rm -f "$FILE"
	[ -z "$GROUP" ] || rmdir "$GROUP"
}

# sum REGEX: of the counters whose names begin so.
sum()
{
	awk -v names="^($1)_" '$1 ~ names { sum += $2 } END { print sum + 0 }' "$COUNTERS"
}

# windows: how often reclaim was found to be under way, whether told or not.
windows()
{
	sum "sent|suppressed"
}

counter()
{
	awk -v name="$1" '$1 == name { print $2 }' "$COUNTERS"
}

# guest_wide: the guest's own reclaim, which other tasks may cause at any time.
guest_wide()
{
	awk '/^(pgscan_kswapd|allocstall_[a-z0-9]*) / { sum += $2 } END { print sum + 0 }' \
		/proc/vmstat
}

# Allow for the sample that comes after reclaim has begun.
settle()
{
	sleep 1
}

# quiet NAME COMMAND...: the command reclaims, and nothing comes of it.
quiet()
{
	name=$1
	shift

	settle
	before=$(windows)
	wide=$(guest_wide)
	if ! "$@"; then
		ktap_test_skip "$name"
		return
	fi
	settle
	if [ "$(windows)" -eq "$before" ]; then
		ktap_test_pass "$name"
	elif [ "$(guest_wide)" -ne "$wide" ]; then
		ktap_print_msg "the guest itself reclaimed meanwhile"
		ktap_test_skip "$name"
	else
		ktap_print_msg "$before windows before, $(windows) after"
		ktap_test_fail "$name"
	fi
}

limits_hit()
{
	awk '$1 == "max" { print $2 }' "$GROUP"/memory.events
}

at_its_limit()
{
	[ -n "$GROUP" ] || return 1
	sh -c 'echo 0 > "$1"/cgroup.procs && exec head -c 256M "$2"' sh \
		"$GROUP" "$FILE" > /dev/null
	ktap_print_msg "the cgroup met its limit $(limits_hit) times"
	[ "$(limits_hit)" -gt 0 ]
}

proactive()
{
	[ -w "$CGROUP"/memory.reclaim ] || return 1
	head -c 64M "$FILE" > /dev/null
	# EAGAIN: less than that was there to be reclaimed.
	echo 32M 2> /dev/null > "$CGROUP"/memory.reclaim
	return 0
}

short_of_memory()
{
	before=$(windows)
	wide=$(guest_wide)
	cat "$FILE" > /dev/null &
	READER=$!
	while kill -0 "$READER" 2> /dev/null; do
		[ "$(windows)" -eq "$before" ] || break
		sleep 0.2
	done
	kill "$READER" 2> /dev/null
	wait "$READER" 2> /dev/null
	READER=
	settle

	name="the guest's own reclaim is told"
	if [ "$(windows)" -gt "$before" ] && [ "$(counter last_level)" -gt 0 ]; then
		ktap_test_pass "$name"
	elif [ "$(guest_wide)" -eq "$wide" ]; then
		ktap_print_msg "the guest did not reclaim"
		ktap_test_skip "$name"
	else
		ktap_test_fail "$name"
	fi
}

taken()
{
	name="the host takes the messages"
	if [ "$(sum sent)" -eq 0 ]; then
		ktap_test_skip "$name"
	elif [ "$(counter in_flight)" -eq 0 ] && [ "$(sum acked)" -gt 0 ]; then
		ktap_test_pass "$name"
	else
		ktap_print_msg "$(sum sent) sent, $(sum acked) acknowledged"
		ktap_test_fail "$name"
	fi
}

ktap_print_header

[ "$(id -u)" -eq 0 ] || skip_all "needs root"
grep -q " $DEBUGFS debugfs " /proc/mounts || skip_all "needs debugfs at $DEBUGFS"
COUNTERS=
for file in "$DEBUGFS"/virtio_balloon-*/pressure; do
	[ -r "$file" ] && COUNTERS=$file
done
[ -n "$COUNTERS" ] || skip_all "needs a balloon device with a message virtqueue"

trap clean_up EXIT
trap 'exit 1' HUP INT TERM
FILE=$(mktemp "${TMPDIR:-/var/tmp}"/pressure.XXXXXX) || skip_all "needs a folder to write to"
case $(stat -f -c %T "$FILE") in
tmpfs | ramfs)
	skip_all "needs TMPDIR= on a file system on disk: $FILE has no page cache of its own"
	;;
esac
total=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
truncate -s $((total * 2))K "$FILE" || skip_all "needs files of twice the memory's size"
if grep -qw memory "$CGROUP"/cgroup.controllers 2> /dev/null &&
	echo +memory > "$CGROUP"/cgroup.subtree_control &&
	mkdir "$CGROUP/pressure.$$"; then
	GROUP=$CGROUP/pressure.$$
	echo 32M > "$GROUP"/memory.max
fi

ktap_set_plan 4

quiet "a cgroup at its own limit is no pressure" at_its_limit
quiet "proactive reclaim is no pressure" proactive
short_of_memory
taken

ktap_finished

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * anonload - take anonymous memory at a rate up to a size, hold it, free it.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inject.h"

#define TICK 0.05 /* seconds between two portions */

static const char usage[] =
	"usage: anonload -s SIZE [-r RATE] [-H SECONDS] [-k]\n"
	"  -s SIZE     bytes to take, suffix K, M or G\n"
	"  -r RATE     bytes a second, suffix K, M or G (default 0: at once)\n"
	"  -H SECONDS  hold that long, then free (default 10)\n"
	"  -k          keep touching all of it while holding\n"
	"Prints each second: 'touched BYTES', at the end 'freed BYTES'.\n";

static void touch(char *memory, unsigned long from, unsigned long to, unsigned long page)
{
	/* Distinct contents, so that neither zswap nor KSM makes it cheap. */
	for (unsigned long at = from; at < to; at += page)
		for (unsigned long word = 0; word < page; word += sizeof(long))
			*(volatile unsigned long *)(memory + at + word) += (at + word) * 0x9e3779b9UL + 1;
}

static void report(const char *key, unsigned long bytes)
{
	printf("%s %lu\n", key, bytes);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	unsigned long size = 0, rate = 0, hold = 10, done = 0;
	unsigned long page = sysconf(_SC_PAGESIZE);
	double begin, last, end;
	int option, keep = 0;
	char *memory;

	program = "anonload";
	while ((option = getopt_long(argc, argv, "s:r:H:kh", options, NULL)) != -1) {
		switch (option) {
		case 's':
			size = parse_number('s', optarg, page, 1UL << 44, 1);
			break;
		case 'r':
			rate = parse_number('r', optarg, 0, 1UL << 44, 1);
			break;
		case 'H':
			hold = parse_number('H', optarg, 0, 1000000, 0);
			break;
		case 'k':
			keep = 1;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc || !size) {
		fprintf(stderr, "%s: %s; see --help\n", program,
			size ? "takes options only" : "-s SIZE is missing");
		return EXIT_USAGE;
	}
	size &= ~(page - 1);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		fprintf(stderr, "%s: -s %lu: %s: use a smaller size\n", program, size,
			strerror(errno));
		return 1;
	}
	/* Page by page, or the rate would be that of huge pages. */
	madvise(memory, size, MADV_NOHUGEPAGE);

	begin = last = now();
	while (done < size) {
		unsigned long until = due(now() - begin, rate, size) & ~(page - 1);

		/* At most 16 MiB without a look at the clock. */
		if (until > done + (16UL << 20))
			until = done + (16UL << 20);
		touch(memory, done, until, page);
		if (until == done)
			sleep_for(TICK);
		done = until;
		if (now() - last >= 1 || done == size) {
			last = now();
			report("touched", done);
		}
	}
	end = now() + hold;
	last = now();
	for (unsigned long at = 0; now() < end;) {
		if (keep) {
			unsigned long to = at + (4UL << 20) < size ? at + (4UL << 20) : size;

			touch(memory, at, to, page);
			at = to == size ? 0 : to;
		} else {
			sleep_for(end - now() < TICK ? end - now() : TICK);
		}
		if (now() - last >= 1) {
			last = now();
			report("touched", size);
		}
	}
	munmap(memory, size);
	report("freed", size);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cacheload - read a file or a block device again and again through the page
 * cache, at a rate, for some seconds. The file stays open.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <unistd.h>

#include "inject.h"

#define BLOCK (256UL << 10)
#define TICK 0.05 /* seconds between two portions */

static const char usage[] =
	"usage: cacheload [-r RATE] [-S SECONDS] [-s SIZE] FILE\n"
	"  -r RATE     bytes a second, suffix K, M or G (default 0: as fast as can be)\n"
	"  -S SECONDS  how long (default 10)\n"
	"  -s SIZE     bytes of it, suffix K, M or G (default 0: all)\n"
	"FILE is a file or a block device. Prints each second and at the end:\n"
	"'read BYTES'.\n";

static void report(unsigned long bytes)
{
	printf("read %lu\n", bytes);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	unsigned long rate = 0, seconds = 10, size = 0, total = 0, round = 0;
	static char block[BLOCK];
	double begin, last;
	const char *path;
	int option, fd;

	program = "cacheload";
	while ((option = getopt_long(argc, argv, "r:S:s:h", options, NULL)) != -1) {
		switch (option) {
		case 'r':
			rate = parse_number('r', optarg, 0, 1UL << 44, 1);
			break;
		case 'S':
			seconds = parse_number('S', optarg, 1, 1000000, 0);
			break;
		case 's':
			size = parse_number('s', optarg, 0, 1UL << 44, 1);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "%s: one FILE is needed; see --help\n", program);
		return EXIT_USAGE;
	}
	path = argv[optind];
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "%s: %s: %s\n", program, path, strerror(errno));
		return 1;
	}
	begin = last = now();
	while (now() - begin < seconds) {
		if (rate && total >= (now() - begin) * rate) {
			sleep_for(TICK);
		} else {
			unsigned long left = size ? size - round : BLOCK;
			ssize_t got = read(fd, block, left < BLOCK ? left : BLOCK);

			if (got < 0 || (!got && !round)) {
				fprintf(stderr, "%s: %s: %s\n", program, path,
					got ? strerror(errno) : "is empty");
				return 1;
			}
			total += got;
			round += got;
			if (!got) {
				lseek(fd, 0, SEEK_SET);
				round = 0;
			}
		}
		if (now() - last >= 1) {
			last = now();
			report(total);
		}
	}
	report(total);
	return 0;
}

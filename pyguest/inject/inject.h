/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the injectors share: sizes on the command line, the clock, pacing. */
#ifndef INJECT_H
#define INJECT_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXIT_USAGE 2

static const char *program;

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static inline void sleep_for(double seconds)
{
	struct timespec ts;

	if (seconds <= 0)
		return;
	ts.tv_sec = (time_t)seconds;
	ts.tv_nsec = (long)((seconds - ts.tv_sec) * 1e9);
	nanosleep(&ts, NULL);
}

static inline void bad_option(char option, const char *text, const char *want)
{
	fprintf(stderr, "%s: -%c %s: %s; see --help\n", program, option, text, want);
	exit(EXIT_USAGE);
}

/* A whole number from min to max, with a suffix K, M or G if suffix is set. */
static inline unsigned long parse_number(char option, const char *text, unsigned long min,
					 unsigned long max, int suffix)
{
	unsigned long value, shift = 0;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (end == text || errno || *text < '0' || *text > '9')
		bad_option(option, text, "not a whole number");
	if (suffix && *end) {
		if (*end == 'K' || *end == 'k')
			shift = 10;
		else if (*end == 'M' || *end == 'm')
			shift = 20;
		else if (*end == 'G' || *end == 'g')
			shift = 30;
		if (shift)
			end++;
	}
	if (*end)
		bad_option(option, text, suffix ? "suffixes are K, M and G" : "not a whole number");
	if (value > (max >> shift) || (value << shift) < min) {
		fprintf(stderr, "%s: -%c %s: must be from %lu to %lu\n", program, option, text, min,
			max);
		exit(EXIT_USAGE);
	}
	return value << shift;
}

/* How many bytes are due at this rate, at most size; rate 0 means all at once. */
static inline unsigned long due(double elapsed, unsigned long rate, unsigned long size)
{
	double bytes = elapsed * rate;

	return !rate || bytes >= size ? size : (unsigned long)bytes;
}

#endif /* INJECT_H */

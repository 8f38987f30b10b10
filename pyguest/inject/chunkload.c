// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chunkload - a load in the manner of ebizzy: many chunks of memory, each
 * record picks one at random, copies it into fresh memory and searches there.
 * Its speed falls as soon as a part of the chunks is not resident.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "inject.h"

static const char usage[] =
	"usage: chunkload [-s SIZE] [-n CHUNKS] [-t THREADS] [-S SECONDS]\n"
	"  -s SIZE     bytes in a chunk, suffix K, M or G (default 512K)\n"
	"  -n CHUNKS   number of chunks (default 10)\n"
	"  -t THREADS  threads (default: one per processor)\n"
	"  -S SECONDS  how long (default 10)\n"
	"Prints 'key value' lines: records/s, records, elapsed, real, user, sys.\n";

static unsigned long chunk_bytes = 512 << 10;
static unsigned long chunk_count = 10;
static unsigned long seconds = 10;
static uint64_t **chunks;
static atomic_int stop;

struct worker {
	pthread_t thread;
	uint64_t seed;
	unsigned long records;
	int failed;
};

/* xorshift64: the load must not be the random numbers. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int contains(const uint64_t *values, unsigned long count, uint64_t key)
{
	unsigned long low = 0, high = count;

	while (low < high) {
		unsigned long middle = low + (high - low) / 2;

		if (values[middle] < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && values[low] == key;
}

static void *work(void *data)
{
	unsigned long count = chunk_bytes / sizeof(uint64_t);
	struct worker *worker = data;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		const uint64_t *chunk = chunks[next_random(&worker->seed) % chunk_count];
		uint64_t key = next_random(&worker->seed) % count;
		uint64_t *copy = malloc(chunk_bytes);

		if (!copy) {
			worker->failed = ENOMEM;
			break;
		}
		memcpy(copy, chunk, chunk_bytes);
		/* Chunks hold the even numbers, so each key has one answer. */
		if (!contains(copy, count, key * 2) || contains(copy, count, key * 2 + 1))
			worker->failed = EILSEQ;
		free(copy);
		if (worker->failed)
			break;
		worker->records++;
	}
	return NULL;
}

static void fill_chunks(void)
{
	unsigned long count = chunk_bytes / sizeof(uint64_t);

	chunks = calloc(chunk_count, sizeof(*chunks));
	for (unsigned long i = 0; chunks && i < chunk_count; i++) {
		chunks[i] = mmap(NULL, chunk_bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (chunks[i] == MAP_FAILED) {
			chunks = NULL;
			break;
		}
		for (unsigned long k = 0; k < count; k++)
			chunks[i][k] = k * 2;
	}
	if (!chunks) {
		fprintf(stderr, "%s: no memory for %lu chunks of %lu bytes: use fewer or smaller\n",
			program, chunk_count, chunk_bytes);
		exit(1);
	}
}

static void wait_until(double end)
{
	double left;

	while ((left = end - now()) > 0)
		sleep_for(left);
}

static double cpu_seconds(struct timeval tv)
{
	return tv.tv_sec + tv.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	unsigned long threads = sysconf(_SC_NPROCESSORS_ONLN);
	double born = now(), begin, elapsed;
	unsigned long records = 0;
	struct worker *workers;
	struct rusage usage_now;
	int option, failed = 0;

	program = "chunkload";
	while ((option = getopt_long(argc, argv, "s:n:t:S:h", options, NULL)) != -1) {
		switch (option) {
		case 's':
			chunk_bytes = parse_number('s', optarg, 4096, 1UL << 40, 1);
			break;
		case 'n':
			chunk_count = parse_number('n', optarg, 1, 10000000, 0);
			break;
		case 't':
			threads = parse_number('t', optarg, 1, 1024, 0);
			break;
		case 'S':
			seconds = parse_number('S', optarg, 1, 1000000, 0);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: %s: takes options only; see --help\n", program, argv[optind]);
		return EXIT_USAGE;
	}
	/* A fixed threshold, so that each copy is fresh memory from the kernel. */
	mallopt(M_MMAP_THRESHOLD, 64 << 10);
	fill_chunks();
	workers = calloc(threads, sizeof(*workers));
	if (!workers)
		return 1;
	begin = now();
	for (unsigned long i = 0; i < threads; i++) {
		workers[i].seed = 0x9e3779b97f4a7c15UL * (i + 1);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
			fprintf(stderr, "%s: -t %lu: cannot start thread %lu: use fewer\n",
				program, threads, i);
			return 1;
		}
	}
	wait_until(begin + seconds);
	atomic_store(&stop, 1);
	for (unsigned long i = 0; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		records += workers[i].records;
		if (workers[i].failed)
			failed = workers[i].failed;
	}
	elapsed = now() - begin;
	if (failed) {
		fprintf(stderr, "%s: %s\n", program, failed == ENOMEM ?
			"no memory for a copy: use smaller chunks" :
			"memory holds wrong values: it was corrupted");
		return 1;
	}
	getrusage(RUSAGE_SELF, &usage_now);
	printf("records/s %.1f\nrecords %lu\nelapsed %.3f\n", records / elapsed, records, elapsed);
	printf("real %.3f\nuser %.3f\nsys %.3f\n", now() - born, cpu_seconds(usage_now.ru_utime),
	       cpu_seconds(usage_now.ru_stime));
	return 0;
}

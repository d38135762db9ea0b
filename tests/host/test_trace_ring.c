/* SPDX-License-Identifier: MIT */
/* The trace's ring against an array that forgets nothing. */
#include <stdlib.h>
#include <string.h>

#include "hv/core/trace_ring.h"
#include "test.h"

#define HEAD sizeof(struct tally_trace)
#define RECORD sizeof(struct tally_trace_record)

static struct tally_trace_record record_of(u64 number)
{
	return (struct tally_trace_record){.time = number, .value = ~number, .kind = (u8)number};
}

/* One read, from `position` into exactly `bytes`, of a ring that `written` records went through. */
static void check_read(const struct trace_ring *ring, u64 written, u64 position, size_t bytes)
{
	u64 oldest = written > ring->capacity ? written - ring->capacity : 0, after = position;
	u64 first = position < oldest ? oldest : position;
	u64 there = first < written ? written - first : 0;
	u64 fit = bytes < HEAD ? 0 : (bytes - HEAD) / RECORD, n = there < fit ? there : fit;
	/* an allocation of its own, so that ASan sees a byte too many */
	u8 *out = malloc(bytes ? bytes : 1);
	struct tally_trace head;
	size_t used;

	memset(out, 0x55, bytes);
	used = trace_ring_read(ring, &after, out, bytes);
	if (bytes < HEAD) {
		CHECK_EQ(used, 0);
		CHECK_EQ(after, position);
		free(out);
		return;
	}
	memcpy(&head, out, HEAD);
	CHECK_EQ(used, HEAD + n * RECORD);
	CHECK_EQ(after, first + n);
	CHECK_EQ(head.first, first);
	CHECK_EQ(head.dropped, first - position);
	CHECK_EQ(head.written, written);
	CHECK_EQ(head.records, n);
	CHECK_EQ(head.record_bytes, RECORD);
	for (u64 i = 0; i < n; i++) {
		struct tally_trace_record want = record_of(first + i);

		CHECK(!memcmp(out + HEAD + i * RECORD, &want, RECORD));
	}
	for (size_t i = used; i < bytes; i++)
		CHECK_EQ(out[i], 0x55);
	free(out);
}

TEST(trace_ring_reads)
{
	for (u64 capacity = 1; capacity <= 16; capacity *= 2) {
		struct tally_trace_record records[16];
		struct trace_ring ring = {records, capacity, 0};

		for (u64 written = 0; written < 40; written++) {
			struct tally_trace_record next = record_of(written);

			for (u64 position = 0; position < 44; position++)
				for (size_t bytes = 0; bytes < HEAD + 18 * RECORD; bytes += 8)
					check_read(&ring, written, position, bytes);
			check_read(&ring, written, ~0ull, HEAD + RECORD);
			check_read(&ring, written, 1ull << 63, HEAD + RECORD);
			trace_ring_put(&ring, &next);
		}
	}
}

/* A reader that comes often enough gets each record once; one that does not is told how many it missed. */
TEST(trace_ring_followed)
{
	struct tally_trace_record records[8];
	struct trace_ring ring = {records, 8, 0};
	u64 position = 0, seen = 0, dropped = 0, buffer[(HEAD + 3 * RECORD) / 8];

	for (unsigned int step = 0; step < 5000; step++) {
		for (u64 n = test_below(12); n; n--) {
			struct tally_trace_record next = record_of(ring.written);

			trace_ring_put(&ring, &next);
		}
		for (u64 n = test_below(4); n; n--) {
			const struct tally_trace *t = (const struct tally_trace *)buffer;

			trace_ring_read(&ring, &position, buffer, sizeof(buffer));
			dropped += t->dropped;
			CHECK_EQ(t->first, seen + dropped);
			for (u32 i = 0; i < t->records; i++)
				CHECK_EQ(t->record[i].time, t->first + i);
			seen += t->records;
			CHECK_EQ(seen + dropped, position);
		}
	}
	CHECK(seen > 1000 && dropped > 1000);
}

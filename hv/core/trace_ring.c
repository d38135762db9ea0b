/* SPDX-License-Identifier: MIT */
#include "hv/core/trace_ring.h"

void trace_ring_put(struct trace_ring *ring, const struct tally_trace_record *record)
{
	ring->records[ring->written++ & (ring->capacity - 1)] = *record;
}

size_t trace_ring_read(const struct trace_ring *ring, u64 *position, void *out, size_t bytes)
{
	struct tally_trace head = {.written = ring->written,
				   .record_bytes = sizeof(struct tally_trace_record)};
	u64 oldest = ring->written > ring->capacity ? ring->written - ring->capacity : 0, n, room;
	struct tally_trace_record *to;

	if (bytes < sizeof(head))
		return 0;
	to = ((struct tally_trace *)out)->record;
	room = (bytes - sizeof(head)) / sizeof(*to);
	if (*position < oldest) {
		head.dropped = oldest - *position;
		*position = oldest;
	}
	n = *position < ring->written ? ring->written - *position : 0;
	if (n > room)
		n = room;
	head.first = *position;
	head.records = (u32)n;
	for (u64 i = 0; i < n; i++)
		to[i] = ring->records[(*position)++ & (ring->capacity - 1)];
	*(struct tally_trace *)out = head;
	return sizeof(head) + n * sizeof(*to);
}

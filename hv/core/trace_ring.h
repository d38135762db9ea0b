/* SPDX-License-Identifier: MIT */
/* A ring of trace records that keeps the newest. Records are numbered from 0; what a reader asks for and does not find
 * any more is counted for it. */
#ifndef TALLY_CORE_TRACE_RING_H
#define TALLY_CORE_TRACE_RING_H

#include "abi/hypercall.h"
#include "types.h"

struct trace_ring {
	struct tally_trace_record *records;
	u64 capacity; /* a power of two */
	u64 written;  /* records ever: the number of the next one */
};

void trace_ring_put(struct trace_ring *ring, const struct tally_trace_record *record);

/*
 * Fills `out`, of `bytes`, with the header and as many records from number *position on as there are and fit; *position
 * becomes the number after the last of them. A number that is overwritten already becomes the oldest one there is, one
 * that is in the future gets nothing and stays. Returns the bytes used; 0: not even the header fits.
 */
size_t trace_ring_read(const struct trace_ring *ring, u64 *position, void *out, size_t bytes);

#endif

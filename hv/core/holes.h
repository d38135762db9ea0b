/* SPDX-License-Identifier: MIT */
/* What the guests do not have though it is there: L0's own memory, and the registers of the IOMMUs that L0 uses. */
#ifndef TALLY_CORE_HOLES_H
#define TALLY_CORE_HOLES_H

#include "abi/handoff.h"
#include "types.h"

struct range {
	u64 start, end; /* [start, end) */
};

struct holes {
	struct range
		all; /* from the first byte to the last: for one compare, where most addresses are outside */
	u32 count;
	struct range range[1 + IOMMU_MAX]; /* whole pages; the first is L0's memory */
};

static inline bool range_overlaps(const struct range *range, u64 start, u64 bytes)
{
	return start < range->end && start + bytes > range->start;
}

static inline void holes_add(struct holes *holes, u64 start, u64 bytes)
{
	struct range *all = &holes->all;

	if (!holes->count || start < all->start)
		all->start = start;
	if (!holes->count || start + bytes > all->end)
		all->end = start + bytes;
	holes->range[holes->count++] = (struct range){start, start + bytes};
}

static inline bool holes_overlap(const struct holes *holes, u64 start, u64 bytes)
{
	for (u32 i = 0; i < holes->count; i++)
		if (range_overlaps(&holes->range[i], start, bytes))
			return true;
	return false;
}

#endif

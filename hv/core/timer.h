/* SPDX-License-Identifier: MIT */
/* The arithmetic of the local APIC's timer, one-shot. AMD64 APM vol. 2, rev. 3.44, §16.4.1. */
#ifndef TALLY_CORE_TIMER_H
#define TALLY_CORE_TIMER_H

#include "types.h"

#define TIMER_COUNT_MAX 0xffffffffull

/* log2 of the divider that the register's bits 3 and 1:0 stand for: 2, 4, ... 128, and 1 at the end. */
static inline unsigned int timer_shift(u32 divide)
{
	return ((divide & 3) + (divide >> 1 & 4) + 1) & 7;
}

/*
 * When a timer that shows `current` now is due: at the end of the last unit of its count, which is in
 * (current, current + 1] units from now; the later end. 0 if it does not run.
 */
static inline u64 timer_due(u64 now, u32 current, u32 divide)
{
	return current ? now + ((current + 1ull) << timer_shift(divide)) : 0;
}

/* The count that makes a timer, started now, due then: not before, unless it is too far, and at least 1. */
static inline u32 timer_count(u64 now, u64 due, u32 divide)
{
	u64 unit = 1ull << timer_shift(divide), units;

	units = due > now ? (due - now + unit - 1) >> timer_shift(divide) : 0;
	if (units < 2)
		return 1;
	return (u32)(units - 1 < TIMER_COUNT_MAX ? units - 1 : TIMER_COUNT_MAX);
}

/* What may go into the count less `lead`, at most, if `due` (0: never) must not be missed. */
static inline u64 timer_limit(u64 now, u64 due, u64 lead)
{
	u64 limit = TIMER_COUNT_MAX - lead;

	if (!due)
		return limit;
	if (due <= now + lead)
		return 0;
	return due - now - lead < limit ? due - now - lead : limit;
}

#endif

/* SPDX-License-Identifier: MIT */
/* How two exceptions combine once more. */
#ifndef TALLY_EVENT_NAIVE_H
#define TALLY_EVENT_NAIVE_H

#include "types.h"

/* Table 8-4 by hand: rows are the first exception, columns the second. */
enum naive_outcome { SERIAL, DOUBLE, SHUTDOWN };

static inline bool naive_contributory(unsigned int vector)
{
	return vector == 0 || (vector >= 10 && vector <= 13);
}

static inline enum naive_outcome naive_combined(unsigned int first, unsigned int second)
{
	switch (first) {
	case 8:
		return SHUTDOWN;
	case 14:
		return second == 14 || naive_contributory(second) ? DOUBLE : SERIAL;
	case 0:
	case 10:
	case 11:
	case 12:
	case 13:
		return naive_contributory(second) ? DOUBLE : SERIAL;
	default:
		return SERIAL;
	}
}

/* The same for events of any type; 0: shutdown. */
static inline u64 naive_combine(u64 first, u64 second)
{
	bool exceptions = (first >> 8 & 7) == 3 && (second >> 8 & 7) == 3;

	if (!(first >> 31 & 1) || !exceptions)
		return second;
	switch (naive_combined((unsigned int)(first & 0xff), (unsigned int)(second & 0xff))) {
	case SHUTDOWN:
		return 0;
	case DOUBLE:
		return 0x80000b08; /* valid, error code 0, exception, 8 */
	default:
		return second;
	}
}

#endif

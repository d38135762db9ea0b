/* SPDX-License-Identifier: MIT */
/* Whose exit it is once more: word and bit of APM2 table B-1, byte of APM2 table 15-8, written out. */
#ifndef TALLY_ROUTE_NAIVE_H
#define TALLY_ROUTE_NAIVE_H

#include "x86/svm.h"

/* Byte offset of an MSR in the map, straight from APM2 table 15-8, or -1. */
static inline int naive_msrpm_byte(u32 msr)
{
	if (msr <= 0x1fff)
		return (int)(msr / 4);
	if (msr >= 0xc0000000 && msr <= 0xc0001fff)
		return (int)(0x800 + (msr - 0xc0000000) / 4);
	if (msr >= 0xc0010000 && msr <= 0xc0011fff)
		return (int)(0x1000 + (msr - 0xc0010000) / 4);
	return -1;
}

/* Whether an MSR exits under a map of its own; outside the map all do. */
static inline bool naive_msr_exits(const u8 *map, u32 msr, bool write)
{
	int byte = naive_msrpm_byte(msr);

	return byte < 0 || (map[byte] >> (2 * (msr % 4) + write) & 1);
}

/* CR reads and writes, DR reads and writes, exceptions, words 3 to 5; -1: not an intercept's. */
static inline int naive_intercept_bit(u64 code)
{
	return code < 0x20   ? 0 * 32 + (int)code
	       : code < 0x40 ? 1 * 32 + (int)code - 0x20
	       : code < 0x60 ? 2 * 32 + (int)code - 0x40
	       : code < 0xc0 ? 3 * 32 + (int)code - 0x60
			     : -1;
}

static inline bool naive_is_l1s(const u32 intercepts[6], u64 code, const u8 *msrpm, u32 msr,
				bool write)
{
	int bit = naive_intercept_bit(code);

	if (bit < 0 || !(intercepts[bit / 32] >> (bit % 32) & 1))
		return false;
	return code != 0x7c || naive_msr_exits(msrpm, msr, write);
}

#endif

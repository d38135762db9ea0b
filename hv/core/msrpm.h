/* SPDX-License-Identifier: MIT */
/* The permission map of MSRs, APM2 §15.11. */
#ifndef TALLY_CORE_MSRPM_H
#define TALLY_CORE_MSRPM_H

#include "types.h"
#include "x86/svm.h"

/* Bit index of an MSR's read bit in the 8-Kbyte map; its write bit is the next one.
 * -E_RANGE for an MSR that the map does not cover: such an MSR is always intercepted. */
int msrpm_bit(u32 msr);

/* Which u64 of the map holds the bits of an MSR that the map covers. */
#define MSRPM_WORD(msr)                                                                            \
	((((msr) >= 0xc0010000u	  ? 0x1000u                                                        \
	   : (msr) >= 0xc0000000u ? 0x800u                                                         \
				  : 0) +                                                           \
	  ((msr)&0x1fffu) / 4) /                                                                   \
	 8)

/* Makes reads and writes of an MSR intercepted (true) or not. -E_RANGE as msrpm_bit(). */
int msrpm_set(u8 *map, u32 msr, bool read, bool write);

/* Whether RDMSR (write = false) or WRMSR of msr exits under this map. */
bool msrpm_intercepts(const u8 *map, u32 msr, bool write);

#endif

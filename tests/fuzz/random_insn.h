/* SPDX-License-Identifier: MIT */
#ifndef TALLY_FUZZ_RANDOM_INSN_H
#define TALLY_FUZZ_RANDOM_INSN_H

#include "hv/core/insn.h"
#include "fuzz.h"

#define RANDOM_INSN_BYTES 20 /* more than an instruction can have */

/* Any bytes, but with prefixes, opcode maps and SIB more often than chance would have them. */
static inline void random_insn(enum insn_mode mode, u8 bytes[RANDOM_INSN_BYTES])
{
	static const u8 legacy[] = {0x66, 0x66, 0x67, 0x67, 0xf0, 0xf2, 0xf3,
				    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
	unsigned int map = (unsigned int)test_below(9), at = 0;

	for (u64 n = test_below(8) ? test_below(3) : test_below(15); n; n--)
		bytes[at++] = legacy[test_below(sizeof(legacy))];
	if (mode == INSN_64 && test_below(2))
		bytes[at++] = (u8)(0x40 | test_below(16));
	if (at && test_below(8) == 0) /* REX may be where it does not count */
		bytes[test_below(at)] = 0x48;
	if (map >= 4)
		bytes[at++] = 0x0f;
	if (map >= 6)
		bytes[at++] = map == 6 ? 0x38 : map == 7 ? 0x3a : 0x0f;
	fuzz_bytes(bytes + at, RANDOM_INSN_BYTES - at);
	if (test_below(4) == 0)
		bytes[at + 1] = (u8)((bytes[at + 1] & 0xf8) | 4);
}

#endif

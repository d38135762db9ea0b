/* SPDX-License-Identifier: MIT */
/* The firmware's description of the IOMMUs: as bytes, and as a table of blocks with something wrong in it. */
#include "tests/host/ivrs_naive.h"
#include "fuzz.h"

void fuzz_one(void)
{
	u8 table[IVRS_TEST_MAX];
	size_t length = random_ivrs(table);

	if (test_below(4) == 0) {
		fuzz_bytes(table + 48, length - 48);
		fix_checksum(table, length);
	}
	if (test_below(8) == 0)
		length -= test_below(length + 1);
	check_ivrs(table, length, 32 + (unsigned int)test_below(16));
}

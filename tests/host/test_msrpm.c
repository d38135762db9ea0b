/* SPDX-License-Identifier: MIT */
/* The permission map: each MSR alone, against the addresses of APM2 §15.11 written out. */
#include <string.h>

#include "hv/core/msrpm.h"
#include "route_naive.h"
#include "test.h"

TEST(msrpm_every_msr)
{
	static u8 map[MSRPM_BYTES], empty[MSRPM_BYTES];

	/* the ranges and a margin around each */
	for (u32 block = 0; block < 4; block++) {
		u32 first =
			(const u32[]){0, 0xc0000000 - 0x100, 0xc0010000 - 0x100, 0xffffff00}[block];

		for (u32 i = 0; i < (block == 3 ? 0x100 : 0x2200); i++) {
			u32 msr = first + i;
			int byte = naive_msrpm_byte(msr);

			if (byte < 0) {
				CHECK_EQ(msrpm_bit(msr), -E_RANGE);
				CHECK_EQ(msrpm_set(map, msr, true, true), -E_RANGE);
				CHECK(msrpm_intercepts(map, msr, false));
				CHECK(msrpm_intercepts(map, msr, true));
				continue;
			}
			CHECK_EQ(msrpm_bit(msr), 8 * (u32)byte + 2 * (msr % 4));
			for (unsigned int v = 0; v < 4; v++) {
				CHECK_EQ(msrpm_set(map, msr, v & 1, v & 2), 0);
				CHECK_EQ(map[byte], v << (2 * (msr % 4)));
				CHECK_EQ(msrpm_intercepts(map, msr, false), v & 1);
				CHECK_EQ(msrpm_intercepts(map, msr, true), v >> 1);
			}
			map[byte] = 0;
		}
	}
	/* nothing else was touched */
	CHECK(!memcmp(map, empty, sizeof(map)));
}

TEST(msrpm_neighbours)
{
	static u8 map[MSRPM_BYTES];

	memset(map, 0xff, sizeof(map));
	CHECK_EQ(msrpm_set(map, 0xc0000080, false, true), 0);
	CHECK_EQ(map[0x820], 0xfe);
	CHECK_EQ(msrpm_set(map, 0xc0000083, true, false), 0);
	CHECK_EQ(map[0x820], 0x7e);
	CHECK(msrpm_intercepts(map, 0xc0000081, false) && msrpm_intercepts(map, 0xc0000084, true));
}

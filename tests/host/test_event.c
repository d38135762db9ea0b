/* SPDX-License-Identifier: MIT */
#include "hv/core/event.h"
#include "test.h"

/* Every type and vector as the first event; table 8-4 by hand. */
TEST(event_gp_combines_as_the_manual_says)
{
	for (unsigned int type = 0; type < 8; type++) {
		for (unsigned int vector = 0; vector < 256; vector++) {
			u64 first = BIT(31) | (u64)type << 8 | vector, want;
			bool exception = type == 3;

			want = 0x80000b0dull | 0x1234ull << 32;
			if (exception && vector == 8)
				want = 0;
			else if (exception && (vector == 0 || (vector >= 10 && vector <= 14)))
				want = 0x80000b08ull;
			CHECK_EQ(event_gp_during(first, 0x1234), want);
			CHECK_EQ(event_gp_during(first & ~BIT(31), 0x1234),
				 0x80000b0dull | 0x1234ull << 32);
		}
	}
}

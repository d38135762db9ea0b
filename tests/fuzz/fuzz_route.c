/* SPDX-License-Identifier: MIT */
/* Whose exit it is, and the map of MSRs, against the twin. */
#include <string.h>

#include "hv/core/route.h"
#include "tests/host/route_naive.h"
#include "fuzz.h"

/* In, next to, or far from the three blocks of the map. */
static u32 random_msr(void)
{
	static const u32 block[] = {0, 0xc0000000, 0xc0010000, 0};

	switch (test_below(4)) {
	case 0:
		return (u32)test_random();
	case 1:
		return block[test_below(4)] + 0x2000 - 8 + (u32)test_below(16);
	default:
		return block[test_below(4)] + (u32)test_below(0x2000);
	}
}

void fuzz_one(void)
{
	static u8 map[MSRPM_BYTES], want[MSRPM_BYTES];
	struct vmcb_control ctl;

	memset(&ctl, 0, sizeof(ctl));
	fuzz_bytes(ctl.intercepts, sizeof(ctl.intercepts));
	if (test_below(2))
		vmcb_set_intercept(&ctl, INTERCEPT(MSR));
	memset(map, test_below(2) ? 0xff : 0, sizeof(map));
	for (u64 n = test_below(32); n; n--) {
		u32 msr = random_msr();
		bool read = test_below(2), write = test_below(2);
		int byte = naive_msrpm_byte(msr);
		unsigned int shift = 2 * (msr % 4);
		u64 code;

		memcpy(want, map, sizeof(map));
		if (byte >= 0)
			want[byte] = (u8)((want[byte] & ~(3u << shift)) |
					  (unsigned int)(read + 2 * write) << shift);
		CHECK_EQ(msrpm_set(map, msr, read, write), byte < 0 ? -E_RANGE : 0);
		CHECK(!memcmp(want, map, sizeof(map)));
		if (byte >= 0) {
			CHECK_EQ(msrpm_bit(msr), 8 * (u32)byte + shift);
			CHECK_EQ(MSRPM_WORD(msr), (u32)byte / 8);
		}
		msr = test_below(2) ? msr : random_msr();
		write = test_below(2);
		CHECK_EQ(msrpm_intercepts(map, msr, write), naive_msr_exits(map, msr, write));

		code = test_below(4) ? test_below(0x100) : test_random() >> test_below(64);
		code = test_below(4) ? code : VMEXIT_MSR;
		CHECK_EQ(route_to_l1(&ctl, code, map, msr, write),
			 naive_is_l1s(ctl.intercepts, code, map, msr, write));
	}
}

/* SPDX-License-Identifier: MIT */
/* The shadow as L2 sees it, through a TLB: accesses, flushes, other spaces, tables that change, a pool of any size. */
#include "tests/host/shadow_naive.h"
#include "fuzz.h"

void fuzz_one(void)
{
	struct npt_mode mode = random_mode();
	unsigned int vasids = 1 + (unsigned int)test_below(12);
	u32 pages = test_below(2) ? SHADOW_MIN_PAGES
				  : SHADOW_MIN_PAGES + (u32)test_below(POOL_MAX - SHADOW_MIN_PAGES);

	init(pages);
	new_world(&mode);
	for (u64 n = test_below(200); n; n--)
		shadow_step(&mode, vasids);
	check_pool();
}

/* SPDX-License-Identifier: MIT */
/* Walks of nested tables, of a guest's own, of both together, and instruction fetch, in every format. */
#include "tests/host/walk_naive.h"
#include "fuzz.h"

static struct walk_state random_state(const struct npt_mode *mode)
{
	struct walk_state st = state_of(mode, test_below(TABLES) << 12);

	if (mode->levels == 3)
		st.cr3 |= test_below(8) ? 0 : 0xfe0;
	if (test_below(16) == 0) {
		st.cr0 &= ~CR0_PG;
		st.efer &= ~EFER_LMA;
	}
	if (test_below(32) == 0)
		st.cr3 = test_random();
	return st;
}

static u64 random_gva(const struct npt_mode *mode)
{
	u64 gva = random_address(mode->levels);

	return test_below(16) ? sign_extend(gva, mode->levels) : gva;
}

void fuzz_one(void)
{
	static const unsigned int odds[] = {12, 40, 300};
	static u8 before[TABLE_BYTES];
	struct npt_mode mode = random_mode(), guest = mode;
	struct naive_space l1 = {0}, l2 = {.npt = &mode};
	struct walk_state st;

	memory();
	random_tables(&mode, odds[test_below(3)]);
	for (u64 n = test_below(8); n; n--)
		walk_nested_once(&mode);

	/* the same pages are the guest's tables too, which must have entries of the same size */
	memcpy(before, mem.base, TABLE_BYTES);
	if (guest.levels != 2)
		guest.levels = (u8)(3 + test_below(3));
	for (u64 n = test_below(16); n; n--) {
		l2.ncr3 = test_below(TABLES) << 12;
		st = random_state(&guest);
		walk_guest_once(test_below(2) ? &l1 : &l2, &st, random_gva(&guest));
	}
	if (test_below(4) == 0) {
		st = random_state(&guest);
		walk_fetch_once(test_below(2) ? &l1 : &l2, &st, random_gva(&guest));
	}
	CHECK(!memcmp(before, mem.base, TABLE_BYTES));
}

/* SPDX-License-Identifier: MIT */
/* vmcb12 into vmcb02 and back, all 8 KByte of both, against the tables of the twin. */
#include "hv/core/merge.h"
#include "tests/host/merge_naive.h"
#include "fuzz.h"

static void equal(const char *what, const struct vmcb *got, const struct vmcb *want)
{
	if (!memcmp(got, want, sizeof(*got)))
		return;
	for (size_t at = 0; at < sizeof(*got); at++)
		if (((const u8 *)got)[at] != ((const u8 *)want)[at])
			test_fail(__FILE__, __LINE__, "byte %zx of %s", at, what);
}

/* Random bytes, or a few in zeroes or ones: what is wrong by one bit shows only next to what is not. */
static void fill(struct vmcb *v)
{
	u64 kind = test_below(4);

	if (kind == 0) {
		fuzz_bytes(v, sizeof(*v));
		return;
	}
	memset(v, kind == 1 ? 0xff : 0, sizeof(*v));
	for (u64 n = test_below(20); n; n--) {
		size_t at = test_below(2) ? test_below(0x100) : 0x400 + test_below(0x300);

		((u8 *)v)[at] = (u8)test_random();
	}
}

void fuzz_one(void)
{
	static struct vmcb vmcb12, vmcb02, want;
	static struct vmcb_control ctl;
	bool cr_quirk = test_below(2), own_pat = test_below(2);
	u32 l0[6], int_ctl, back;

	fill(&vmcb12);
	fill(&vmcb02);
	memset(l0, 0, sizeof(l0));
	if (test_below(2))
		fuzz_bytes(l0, sizeof(l0));
	want = vmcb02;
	naive_merge(&want, &vmcb12, l0, cr_quirk);
	merge_read_vmcb12(&ctl, &vmcb02.save, &vmcb12);
	/* from here on only the copy counts */
	fill(&vmcb12);
	merge_control(&vmcb02.control, &ctl, l0, cr_quirk);
	merge_save(&vmcb02.save);
	equal("vmcb02", &vmcb02, &want);

	fill(&vmcb02); /* L2 has run */
	int_ctl = (u32)test_random();
	back = test_below(2) ? 0x1ff : 0xff;
	want = vmcb12;
	naive_write_back(&want, &vmcb02, int_ctl, back, own_pat);
	merge_write_back(&vmcb12, &vmcb02, int_ctl, back, own_pat);
	equal("vmcb12", &vmcb12, &want);

	naive_lbr(&want, &vmcb02);
	merge_lbr(&vmcb12.save, &vmcb02.save);
	equal("vmcb12 with LBRs", &vmcb12, &want);
	CHECK_EQ(merge_vgif_holds(int_ctl), naive_vgif_holds(int_ctl));
}

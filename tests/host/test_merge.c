/* SPDX-License-Identifier: MIT */
/*
 * The merge of vmcb12 and the routing of exits, byte by byte: what of vmcb12 reaches vmcb02, what of vmcb02 comes back,
 * and nothing else does.
 */
#include <string.h>

#include "hv/core/merge.h"
#include "hv/core/route.h"
#include "merge_naive.h"
#include "route_naive.h"
#include "test.h"

static struct vmcb vmcb12, vmcb02;
static struct vmcb_control ctl;
static bool cr_quirk;

static void vmrun(const u32 l0[6])
{
	merge_read_vmcb12(&ctl, &vmcb02.save, &vmcb12);
	merge_control(&vmcb02.control, &ctl, l0, cr_quirk);
	merge_save(&vmcb02.save);
}

static void randomize(struct vmcb *vmcb)
{
	u64 words[sizeof(*vmcb) / 8];

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = test_random();
	memcpy(vmcb, words, sizeof(words));
}

TEST(merge_loads_exactly_the_fields_of_the_manual)
{
	static const u32 none[6];

	for (size_t at = 0; at < sizeof(vmcb12); at++) {
		struct vmcb before;
		u8 *byte = (u8 *)&vmcb12 + at;

		memset(&vmcb12, 0, sizeof(vmcb12));
		memset(&vmcb02, 0, sizeof(vmcb02));
		vmrun(none);
		before = vmcb02;
		*byte = 0xff;
		vmrun(none);
		if (naive_among(naive_apart, ARRAY_SIZE(naive_apart), at))
			continue;
		if (!naive_among(naive_loaded, ARRAY_SIZE(naive_loaded), at)) {
			if (memcmp(&before, &vmcb02, sizeof(before)))
				test_fail(__FILE__, __LINE__, "byte %zx of vmcb12 reaches vmcb02",
					  at);
			continue;
		}
		*((u8 *)&before + at) = 0xff;
		if (memcmp(&before, &vmcb02, sizeof(before)))
			test_fail(__FILE__, __LINE__,
				  "byte %zx of vmcb12 does not reach vmcb02 as it is", at);
	}
}

TEST(merge_control_is_l1s_with_l0s_on_top)
{
	for (unsigned int n = 0; n < 20000; n++) {
		static struct vmcb want;
		u32 l0[6];

		randomize(&vmcb12);
		randomize(&vmcb02);
		for (unsigned int i = 0; i < ARRAY_SIZE(l0); i++)
			l0[i] = (u32)(test_random() & test_random() & test_random());
		for (unsigned int i = 0; i < 2; i++)
			vmcb12.control.intercepts[0] &= (u32)test_random();
		cr_quirk = n & 1;
		want = vmcb02;
		naive_merge(&want, &vmcb12, l0, cr_quirk);
		vmrun(l0);
		for (size_t at = 0; at < sizeof(want); at++)
			if (((u8 *)&want)[at] != ((u8 *)&vmcb02)[at])
				test_fail(__FILE__, __LINE__, "byte %zx", at);
	}
}

TEST(merge_uses_only_its_copy)
{
	static const u32 none[6];
	struct vmcb before;

	randomize(&vmcb12);
	vmrun(none);
	before = vmcb02;
	merge_read_vmcb12(&ctl, &vmcb02.save, &vmcb12);
	randomize(&vmcb12); /* L1 changes it behind our back */
	merge_control(&vmcb02.control, &ctl, none, false);
	merge_save(&vmcb02.save);
	CHECK(!memcmp(&before, &vmcb02, sizeof(before)));
}

TEST(merge_writes_back_exactly_the_fields_of_the_manual)
{
	for (unsigned int own_pat = 0; own_pat < 2; own_pat++) {
		for (size_t at = 0; at < sizeof(vmcb02); at++) {
			struct vmcb before;

			memset(&vmcb12, 0, sizeof(vmcb12));
			memset(&vmcb02, 0, sizeof(vmcb02));
			merge_write_back(&vmcb12, &vmcb02, 0, 0x1ff, own_pat);
			before = vmcb12;
			*((u8 *)&vmcb02 + at) = 0xff;
			merge_write_back(&vmcb12, &vmcb02, 0, 0x1ff, own_pat);
			if (at == 0x60) /* V_TPR */
				before.control.int_ctl |= 0xff;
			else if (at == 0x61) /* V_IRQ */
				before.control.int_ctl |= 0x100;
			else if (at == 0x68)
				before.control.int_state = 1;
			else if (at >= 0x88 && at < 0x90)
				before.control.exit_int_info =
					vmcb12.control.exit_int_info; /* tested below */
			else if (naive_is_stored(at, own_pat))
				*((u8 *)&before + at) = 0xff;
			if (memcmp(&before, &vmcb12, sizeof(before)))
				test_fail(__FILE__, __LINE__, "byte %zx of vmcb02, own_pat=%u", at,
					  own_pat);
		}
	}
}

TEST(merge_write_back_keeps_what_is_l1s)
{
	for (unsigned int n = 0; n < 1000; n++) {
		u32 int_ctl;

		randomize(&vmcb12);
		randomize(&vmcb02);
		int_ctl = vmcb12.control.int_ctl;
		merge_write_back(&vmcb12, &vmcb02, int_ctl, 0x1ff, true);
		CHECK_EQ(vmcb12.control.int_ctl,
			 (int_ctl & ~0x1ffu) | (vmcb02.control.int_ctl & 0x1ff));
		CHECK_EQ(vmcb12.control.event_inj, 0);
		merge_write_back(&vmcb12, &vmcb02, int_ctl, 0xff, true); /* V_IRQ is held */
		CHECK_EQ(vmcb12.control.int_ctl,
			 (int_ctl & ~0xffu) | (vmcb02.control.int_ctl & 0xff));
	}
}

TEST(merge_vgif_holds_where_it_is_in_use_and_zero)
{
	for (unsigned int n = 0; n < 1000; n++) {
		u32 int_ctl = (u32)test_random();

		CHECK_EQ(merge_vgif_holds(int_ctl), (int_ctl >> 25 & 1) && !(int_ctl >> 9 & 1));
	}
}

/* DBGCTL to LASTEXCPTO, 670h to 697h, and nothing else. */
TEST(merge_lbr_moves_five_fields)
{
	randomize(&vmcb12);
	randomize(&vmcb02);
	for (size_t at = 0; at < sizeof(vmcb02); at++) {
		struct vmcb before = vmcb02;

		*((u8 *)&vmcb12 + at) ^= 0xff;
		merge_lbr(&vmcb02.save, &vmcb12.save);
		for (size_t i = 0x670; i < 0x698; i++)
			*((u8 *)&before + i) = *((u8 *)&vmcb12 + i);
		CHECK(!memcmp(&before, &vmcb02, sizeof(before)));
	}
}

/* V_IRQ goes with an interrupt in EXITINTINFO only where that has TCG's type, and its vector. */
TEST(merge_virq_is_not_pending_in_its_own_delivery)
{
	for (unsigned int type = 0; type < 8; type++) {
		for (unsigned int vector = 0; vector < 256; vector++) {
			struct vmcb_control c = {.int_ctl = 0x105, .int_vector = 0x45};
			bool stale = type == 3 && vector == 0x45;

			c.exit_int_info = BIT(31) | (u64)type << 8 | vector;
			CHECK_EQ(merge_int_ctl_left(&c), stale ? 5 : 0x105);
			c.exit_int_info &= ~BIT(31);
			CHECK_EQ(merge_int_ctl_left(&c), 0x105);
			/* an exception with the same number is none */
			c.exit_int_info = BIT(31) | (u64)type << 8 | 14;
			c.int_vector = 14;
			CHECK_EQ(merge_int_ctl_left(&c), 0x105);
			c.int_ctl = 5;
			CHECK_EQ(merge_int_ctl_left(&c), 5);
		}
	}
	memset(&vmcb02, 0, sizeof(vmcb02));
	vmcb02.control.int_ctl = 0x103;
	vmcb02.control.int_vector = 0x45;
	vmcb02.control.exit_int_info = 0x80000345;
	merge_write_back(&vmcb12, &vmcb02, 0x1050107, 0x1ff, true);
	CHECK_EQ(vmcb12.control.int_ctl, 0x1050003);
}

TEST(merge_exit_int_info_has_silicons_types)
{
	for (unsigned int type = 0; type < 8; type++) {
		for (unsigned int vector = 0; vector < 256; vector++) {
			u64 event = BIT(31) | (u64)type << 8 | vector | 0x1234ull << 32,
			    want = event;

			CHECK_EQ(merge_exit_int_info(event & ~BIT(31)), 0);
			if (type == 3 && vector == 2)
				want = (event & ~0x700ull) | 2 << 8;
			else if (type == 3 && vector >= 32)
				want = event & ~0x700ull;
			CHECK_EQ(merge_exit_int_info(event), want);
		}
	}
}

/* Every exit code up to 2000h with one intercept bit set or all but that one: the code's own bit alone decides. */
TEST(route_goes_by_the_intercept_bit)
{
	static u8 nothing[MSRPM_BYTES];
	static u8 everything[MSRPM_BYTES];

	memset(everything, 0xff, sizeof(everything));
	for (u64 code = 0; code < 0x2000; code++) {
		int bit = naive_intercept_bit(code);

		memset(&ctl, 0, sizeof(ctl));
		CHECK(!route_to_l1(&ctl, code, everything, 0x10, false));
		for (unsigned int i = 0; i < INTERCEPT_BITS; i++) {
			memset(&ctl, 0, sizeof(ctl));
			vmcb_set_intercept(&ctl, i);
			CHECK_EQ(route_to_l1(&ctl, code, everything, 0x10, false), (int)i == bit);
		}
		memset(&ctl, 0xff, sizeof(ctl));
		CHECK_EQ(route_to_l1(&ctl, code, nothing, 0x10, false), bit >= 0 && code != 0x7c);
	}
	memset(&ctl, 0xff, sizeof(ctl));
	CHECK(!route_to_l1(&ctl, VMEXIT_INVALID, everything, 0, false));
	CHECK(!route_to_l1(&ctl, (u32)VMEXIT_INVALID, everything, 0, false));
	CHECK(!route_to_l1(&ctl, VMEXIT_NPF, everything, 0, false));
}

TEST(route_asks_the_msr_permission_map)
{
	static const u32 msrs[] = {0,	       0x10,	   0x1fff,     0xc0000000, 0xc0000080,
				   0xc0001fff, 0xc0010000, 0xc0010200, 0xc0011fff};
	static u8 map[MSRPM_BYTES];

	memset(&ctl, 0, sizeof(ctl));
	vmcb_set_intercept(&ctl, INTERCEPT(MSR));
	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
		for (unsigned int bits = 0; bits < 4; bits++) {
			memset(map, 0, sizeof(map));
			msrpm_set(map, msrs[i], bits & 1, bits & 2);
			CHECK_EQ(route_to_l1(&ctl, VMEXIT_MSR, map, msrs[i], false), bits & 1);
			CHECK_EQ(route_to_l1(&ctl, VMEXIT_MSR, map, msrs[i], true), bits >> 1);
		}
		memset(map, 0, sizeof(map));
		msrpm_set(map, msrs[i], true, true);
		CHECK(((u64 *)(void *)map)[MSRPM_WORD(msrs[i])]);
	}
	memset(map, 0, sizeof(map));
	CHECK(route_to_l1(&ctl, VMEXIT_MSR, map, 0x2000, false)); /* outside the map: always */
}

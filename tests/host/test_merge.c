/* SPDX-License-Identifier: MIT */
/*
 * The merge of vmcb12 and the routing of exits, byte by byte: what of vmcb12 reaches vmcb02, what of vmcb02 comes back,
 * and nothing else does.
 */
#include <string.h>

#include "hv/core/merge.h"
#include "hv/core/route.h"
#include "test.h"

static struct vmcb vmcb12, vmcb02;
static struct vmcb_control ctl;

/* Bytes of vmcb12 that VMRUN loads into vmcb02 unchanged: APM2 tables B-1 and B-2 by hand. */
static const struct field {
	u16 offset, bytes;
	const char *name;
} loaded[] = {
	{0x050, 8, "TSC_OFFSET"}, {0x400, 0x40, "ES CS SS DS"},
	{0x460, 0x10, "GDTR"},	  {0x480, 0x10, "IDTR"},
	{0x4cb, 1, "CPL"},	  {0x548, 8, "CR4"},
	{0x550, 8, "CR3"},	  {0x558, 8, "CR0"},
	{0x560, 8, "DR7"},	  {0x568, 8, "DR6"},
	{0x570, 8, "RFLAGS"},	  {0x578, 8, "RIP"},
	{0x5d8, 8, "RSP"},	  {0x5e0, 0x18, "CET"},
	{0x5f8, 8, "RAX"},	  {0x640, 8, "CR2"},
	{0x668, 8, "G_PAT"},	  {0x0c8, 8, "nRIP"},
};

/* Bytes whose way is tested apart: intercepts, interrupt control, shadow, EVENTINJ, EFER, EXITINTINFO. */
static const struct field apart[] = {
	{0x000, 0x18, "intercepts"},	{0x060, 8, "interrupt control"},
	{0x068, 8, "interrupt shadow"}, {0x088, 8, "EXITINTINFO"},
	{0x0a8, 8, "EVENTINJ"},		{0x4d0, 8, "EFER"},
};

static bool among(const struct field *fields, size_t n, size_t offset)
{
	for (size_t i = 0; i < n; i++)
		if (offset >= fields[i].offset &&
		    offset < (size_t)fields[i].offset + fields[i].bytes)
			return true;
	return false;
}

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
		if (among(apart, ARRAY_SIZE(apart), at))
			continue;
		if (!among(loaded, ARRAY_SIZE(loaded), at)) {
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
		u32 l0[6];
		const struct vmcb_control *c = &vmcb02.control;

		randomize(&vmcb12);
		randomize(&vmcb02);
		for (unsigned int i = 0; i < ARRAY_SIZE(l0); i++)
			l0[i] = (u32)(test_random() & test_random() & test_random());
		for (unsigned int i = 0; i < 2; i++)
			vmcb12.control.intercepts[0] &= (u32)test_random();
		cr_quirk = n & 1;
		vmrun(l0);
		for (unsigned int i = 0; i < INTERCEPT_BITS; i++) {
			bool l1 = vmcb12.control.intercepts[i / 32] >> i % 32 & 1,
			     ours = l0[i / 32] >> i % 32 & 1;
			bool cr8 = i == 24 && (vmcb12.control.int_ctl & BIT(8));

			/* reads of CR2, CR3, CR4 or CR8 */
			bool quirk = i == 0 && cr_quirk &&
				     ((vmcb12.control.intercepts[0] | l0[0]) & 0x11c);

			CHECK_EQ(vmcb_intercepts(c, i), l1 || ours || cr8 || quirk);
		}
		/* V_TPR, V_IRQ, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING and no more */
		CHECK_EQ(c->int_ctl, vmcb12.control.int_ctl & 0x011f01ff);
		CHECK_EQ(c->int_vector, vmcb12.control.int_vector & 0xff);
		CHECK_EQ(c->int_state, vmcb12.control.int_state & 1);
		CHECK_EQ(c->event_inj, vmcb12.control.event_inj & 0xffffffff80000fffull);
		CHECK_EQ(c->exit_int_info, 0);
		CHECK_EQ(vmcb02.save.rflags, vmcb12.save.rflags | 2);
		CHECK_EQ(vmcb02.save.efer & ~BIT(10), vmcb12.save.efer & ~BIT(10));
		CHECK_EQ(vmcb02.save.efer >> 10 & 1,
			 (vmcb12.save.efer >> 8 & 1) && (vmcb12.save.cr0 >> 31 & 1));
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

/* Bytes of vmcb02 that #VMEXIT stores into vmcb12, the ones above but TSC_OFFSET, and EFER. */
static bool is_stored(size_t at, bool own_pat)
{
	if (at >= 0x668 && at < 0x670)
		return own_pat;
	return (at >= 0x4d0 && at < 0x4d8) ||
	       (at >= 0x400 && among(loaded, ARRAY_SIZE(loaded), at));
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
			else if (is_stored(at, own_pat))
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
		/* by hand: word and bit of table B-1 for CRs, DRs, exceptions, and words 3 to 5 */
		int bit = code < 0x20	? 0 * 32 + (int)code
			  : code < 0x40 ? 1 * 32 + (int)code - 0x20
			  : code < 0x60 ? 2 * 32 + (int)code - 0x40
			  : code < 0xc0 ? 3 * 32 + (int)code - 0x60
					: -1;

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

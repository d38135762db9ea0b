/* SPDX-License-Identifier: MIT */
/* What is left of the CPU's CPUID, and of registers that come with it. */
#include "hv/core/cpuid.h"
#include "test.h"

static struct cpuid_leaf random_leaf(void)
{
	u64 a = test_random(), b = test_random();

	return (struct cpuid_leaf){(u32)a, (u32)(a >> 32), (u32)b, (u32)(b >> 32)};
}

/* By the manual's numbers: of each leaf the bits that are not the CPU's, and what they are. */
static void check_leaf(const struct cpuid_view *view, u32 leaf)
{
	struct cpuid_leaf was = random_leaf(), ours = {0}, want = {0}, got = was;

	switch (leaf) {
	case 0x80000000:
		if (view->perfmon_v2 && was.eax < 0x80000022) {
			ours.eax = ~0u;
			want.eax = 0x80000022;
		}
		break;
	case 0x80000001:
		ours.ecx = 1u << 12 | 1u << 23 | 1u << 24 | 1u << 28;
		want.ecx = view->core_extra ? 1u << 23 : 0;
		break;
	case 0x80000008: /* PhysAddrSize, and GuestPhysAddrSize, of which 0 means the same */
		ours.eax = 0xff00ff;
		want.eax = view->phys_bits;
		ours.ebx = 1u << 1 | 1u << 20; /* IRPERF; EferLmsleUnsupported */
		want.ebx = 1u << 20 | (view->irperf ? 1u << 1 : 0);
		break;
	case 0x8000000a:
		ours.ecx = ours.edx = ~0u;
		want.edx = view->svm;
		break;
	case 0x8000001f: /* SME and SEV */
		ours = (struct cpuid_leaf){~0u, ~0u, ~0u, ~0u};
		break;
	case 0x80000021:
		ours.eax = 1u << 12; /* PreciseRetire */
		break;
	case 0x80000022: /* PerfMonV2, and neither the LBR stack nor freezing; six counters */
		ours = (struct cpuid_leaf){~0u, ~0u, ~0u, ~0u};
		want.eax = view->perfmon_v2;
		want.ebx = view->perfmon_v2 ? 6 : 0;
		break;
	}
	cpuid_extended(view, leaf, &got);
	if (leaf > view->ext_max)
		was = (struct cpuid_leaf){0};
	CHECK_EQ(got.eax, (was.eax & ~ours.eax) | want.eax);
	CHECK_EQ(got.ebx, (was.ebx & ~ours.ebx) | want.ebx);
	CHECK_EQ(got.ecx, (was.ecx & ~ours.ecx) | want.ecx);
	CHECK_EQ(got.edx, (was.edx & ~ours.edx) | want.edx);
}

TEST(cpuid_extended_leaves)
{
	static const u32 lasts[] = {0x8000000a, 0x80000020, 0x80000021, 0x80000022, 0x80000028};

	for (unsigned int i = 0; i < 2000; i++) {
		struct cpuid_view view = {lasts[test_below(ARRAY_SIZE(lasts))],
					  (u32)test_random(),
					  (u8)(36 + test_below(13)),
					  i & 1,
					  i & 2,
					  i & 4};

		for (u32 leaf = 0x80000000; leaf < 0x80000030; leaf++)
			check_leaf(&view, leaf);
	}
}

TEST(cpuid_debugctl)
{
	for (unsigned int bit = 0; bit < 64; bit++) {
		CHECK_EQ(debugctl_valid(1ull << bit), bit != 11 && bit != 12);
		CHECK_EQ(debugctl_valid(~(1ull << bit)), false);
	}
	CHECK(debugctl_valid(~0x1800ull));
}

/* 8.32 fixed point, by long multiplication. */
TEST(cpuid_tsc_ratio)
{
	for (unsigned int i = 0; i < 100000; i++) {
		u64 ticks = test_random() >> test_below(64),
		    ratio = test_random() >> (24 + test_below(40));
		u64 low = (ticks & 0xffffffff) * (ratio & 0xffffffff);
		u64 want = (low >> 32) + (ticks >> 32) * (ratio & 0xffffffff) +
			   (ticks & 0xffffffff) * (ratio >> 32) +
			   ((ticks >> 32) * (ratio >> 32) << 32);

		CHECK_EQ(tsc_ratio_scale(ticks, ratio), want);
		CHECK_EQ(tsc_ratio_scale(ticks, 1ull << 32), ticks);
	}
}

/* SPDX-License-Identifier: MIT */
/* The PMU model: truth table, registers, bitmaps, commits. Backends have their own files. */
#include "pmu/pmu.h"
#include "pmu_naive.h"
#include "test.h"

#define EXTENDED_SEL(n) (0xc0010200u + 2 * (n))
#define EXTENDED_CTR(n) (0xc0010201u + 2 * (n))
#define LEGACY_SEL(n) (0xc0010000u + (n))
#define LEGACY_CTR(n) (0xc0010004u + (n))

#define PLAIN (0xc0 | NAIVE_USR | NAIVE_OS | NAIVE_EN)

static const enum svme0_rule rules[] = {SVME0_STOP, SVME0_COUNT};

static u64 host_guest(unsigned int two_bits)
{
	return (u64)two_bits << 40;
}

static u64 rdmsr(struct pmu *pmu, u32 msr)
{
	u64 value = ~0ull;

	CHECK_EQ(pmu_rdmsr(pmu, msr, &value), 0);
	return value;
}

static void wrmsr(struct pmu *pmu, u32 msr, u64 value)
{
	CHECK_EQ(pmu_wrmsr(pmu, msr, value), 0);
}

TEST(pmu_counts_is_the_table)
{
	for (unsigned int r = 0; r < 2; r++)
		for (unsigned int hg = 0; hg < 4; hg++)
			for (unsigned int svme = 0; svme < 2; svme++)
				for (unsigned int in_l2 = 0; in_l2 < 2; in_l2++)
					CHECK_EQ(pmu_counts(host_guest(hg), svme, in_l2, rules[r]),
						 naive_counts(host_guest(hg), svme, in_l2,
							      rules[r]));
}

/* Every selector, in every mode reached from every other, with and without the bit in GLOBAL_CTL
 * before and after, through registers, triggers, one commit or two. */
TEST(pmu_every_mode_from_every_mode)
{
	for (unsigned int bits = 0; bits < 512 * 3 * 3; bits++) {
		unsigned int from = bits / 512 % 3, to = bits / 512 / 3;
		u64 eventsel = 0xc0 | (bits & 2 ? NAIVE_EN : 0) | host_guest(bits >> 2 & 3) |
			       (bits & 16 ? NAIVE_USR : 0) | (bits & 32 ? NAIVE_OS : 0);
		struct pmu_recorder recorder = recorder_for(NULL);
		struct naive naive = naive_new(rules[bits & 1]);
		struct pmu pmu;

		pmu_init(&pmu, &recorder.hw, naive.rule);
		pmu.has_v2 = true;
		naive_go_to(&naive, &pmu, from);
		wrmsr(&pmu, EXTENDED_SEL(3), eventsel);
		naive_write_eventsel(&naive, 3, eventsel);
		wrmsr(&pmu, EXTENDED_SEL(5), PLAIN); /* a neighbour that nothing here concerns */
		naive_write_eventsel(&naive, 5, PLAIN);
		if (bits & 64)
			naive_write_global(&naive, &pmu, NAIVE_CTL, 0x3f & ~8u);
		if (bits & 128) {
			pmu_commit(&pmu);
			naive_commit(&naive);
			naive_check_selectors(&naive, &pmu, &recorder);
		}

		naive_go_to(&naive, &pmu, to);
		naive_write_global(&naive, &pmu, NAIVE_CTL, bits & 256 ? 0x3f : 0x3f & ~8u);
		pmu_commit(&pmu);
		naive_commit(&naive);
		naive_check_selectors(&naive, &pmu, &recorder);
		naive_check_global(&naive, &pmu);
	}
}

TEST(pmu_init_touches_nothing)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	recorder.ctr[2] = 77;
	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu_commit(&pmu);
	pmu_svme_toggle(&pmu, true);
	pmu_nested_transition(&pmu, true);
	pmu_commit(&pmu);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		wrmsr(&pmu, EXTENDED_SEL(idx), 0);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.calls, 0);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(idx)), 0);
	CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(2)), 77);
}

TEST(pmu_msr_aliases)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	for (unsigned int idx = 0; idx < 6; idx++) {
		wrmsr(&pmu, EXTENDED_SEL(idx), 0x1000 + idx);
		wrmsr(&pmu, EXTENDED_CTR(idx), 0x2000 + idx);
	}
	for (unsigned int idx = 0; idx < 6; idx++) {
		CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(idx)), 0x1000 + idx);
		CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(idx)), 0x2000 + idx);
		CHECK_EQ(recorder.ctr[idx], 0x2000 + idx);
	}
	for (unsigned int idx = 0; idx < 4; idx++) {
		CHECK_EQ(rdmsr(&pmu, LEGACY_SEL(idx)), 0x1000 + idx);
		CHECK_EQ(rdmsr(&pmu, LEGACY_CTR(idx)), 0x2000 + idx);
		wrmsr(&pmu, LEGACY_SEL(idx), 0x3000 + idx);
		wrmsr(&pmu, LEGACY_CTR(idx), 0x4000 + idx);
		CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(idx)), 0x3000 + idx);
		CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(idx)), 0x4000 + idx);
	}
	CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(4)), 0x1004);
	CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(5)), 0x2005);
}

TEST(pmu_msr_others_are_not_ours)
{
	static const u32 others[] = {0,		 0x10,	     0xc0000080, 0xc0000300, 0xc000ffff,
				     0xc000fffc, 0xc0010008, 0xc0010015, 0xc00101ff, 0xc001020c,
				     0xc001020d, 0xc0010230, ~0u};
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 value;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		CHECK_EQ(pmu_rdmsr(&pmu, others[i], &value), -E_NOENT);
		CHECK_EQ(pmu_wrmsr(&pmu, others[i], ~0ull), -E_NOENT);
	}
	pmu_commit(&pmu);
	CHECK_EQ(recorder.calls, 0);
}

TEST(pmu_reserved_bits_and_width)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_COUNT);
	for (unsigned int bit = 0; bit < 64; bit++) {
		bool reserved = bit == 19 || bit == 21 || (bit >= 36 && bit <= 39) || bit >= 42;

		wrmsr(&pmu, EXTENDED_SEL(1), 1ull << bit);
		CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(1)), reserved ? 0 : 1ull << bit);
		pmu_commit(&pmu);
		CHECK_EQ(recorder.eventsel[1] & ~NAIVE_WRITABLE, 0);

		wrmsr(&pmu, EXTENDED_CTR(1), 1ull << bit);
		CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(1)), bit < 48 ? 1ull << bit : 0);
	}
	wrmsr(&pmu, LEGACY_SEL(0), ~0ull);
	CHECK_EQ(rdmsr(&pmu, LEGACY_SEL(0)), 0x30fffd7ffffull);

	/* A machine with wider registers must not show through. */
	recorder.ctr[1] = ~0ull;
	CHECK_EQ(rdmsr(&pmu, EXTENDED_CTR(1)), NAIVE_COUNTER);
}

TEST(pmu_rdpmc_indices)
{
	static const u32 none[] = {6,  7,	   9,	       10,	   15, 16,
				   64, 0x40000000, 0x80000000, 0x80000001, ~0u};
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 value = 0;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	for (u32 idx = 0; idx < 6; idx++) {
		recorder.ctr[idx] = 0xffff000000000000 | (100 + idx);
		CHECK_EQ(pmu_rdpmc(&pmu, idx, &value), 0);
		CHECK_EQ(value, 100 + idx);
	}
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		CHECK_EQ(pmu_rdpmc(&pmu, none[i], &value), -E_FAULT);
}

TEST(pmu_selector_waits_for_commit)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	wrmsr(&pmu, LEGACY_SEL(2), PLAIN);
	CHECK_EQ(recorder.calls, 0);
	CHECK_EQ(rdmsr(&pmu, LEGACY_SEL(2)), PLAIN);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.eventsel[2], PLAIN | NAIVE_GUESTONLY);
	CHECK_EQ(recorder.evtsel_writes, 1);

	/* Overwritten before it got there: one write, or none. */
	wrmsr(&pmu, LEGACY_SEL(2), 0);
	wrmsr(&pmu, LEGACY_SEL(2), PLAIN);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 1);
	wrmsr(&pmu, LEGACY_SEL(2), 0);
	wrmsr(&pmu, LEGACY_SEL(2), PLAIN ^ 0x1);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 2);
	CHECK_EQ(pmu.evtsel_writes, 2);
}

/* Membership follows HostOnly and GuestOnly as last written, whatever else happens. */
TEST(pmu_bitmaps_are_sticky)
{
	for (unsigned int r = 0; r < 2; r++) {
		struct pmu_recorder recorder = recorder_for(NULL);
		bool stop = rules[r] == SVME0_STOP;
		u64 nested, toggle;
		struct pmu pmu;

		pmu_init(&pmu, &recorder.hw, rules[r]);
		for (unsigned int hg = 0; hg < 4; hg++)
			wrmsr(&pmu, EXTENDED_SEL(hg), PLAIN | host_guest(hg));
		wrmsr(&pmu, EXTENDED_SEL(4), host_guest(1)); /* EN=0 counts as well */
		nested = 1 << 1 | 1 << 2 | 1 << 4;
		toggle = nested | (stop ? 1 << 3 : 0);
		pmu.has_v2 = true;
		for (unsigned int i = 0; i < 64; i++) {
			CHECK_EQ(pmu.reprogram_pmc_on_nested_transition, nested);
			CHECK_EQ(pmu.reprogram_pmc_on_svme_toggle, toggle);
			if (i & 1)
				pmu_svme_toggle(&pmu, i & 2);
			else if (i & 4)
				pmu_nested_transition(&pmu, i & 8);
			if (i & 16)
				pmu_commit(&pmu);
			wrmsr(&pmu, i & 32 ? EXTENDED_CTR(1) : NAIVE_CTL, i);
		}
		wrmsr(&pmu, LEGACY_SEL(1), PLAIN);
		wrmsr(&pmu, LEGACY_SEL(3), PLAIN | host_guest(2));
		wrmsr(&pmu, EXTENDED_SEL(4), 0);
		CHECK_EQ(pmu.reprogram_pmc_on_nested_transition, 1 << 2 | 1 << 3);
		CHECK_EQ(pmu.reprogram_pmc_on_svme_toggle, 1 << 2 | 1 << 3);
	}
}

/* With both bits set only the SVME toggle concerns a counter, and with SVME0_COUNT nothing. */
TEST(pmu_both_bits_pend_on_the_toggle_only)
{
	for (unsigned int r = 0; r < 2; r++) {
		struct pmu_recorder recorder = recorder_for(NULL);
		struct pmu pmu;

		pmu_init(&pmu, &recorder.hw, rules[r]);
		wrmsr(&pmu, EXTENDED_SEL(5), PLAIN | host_guest(3));
		pmu_commit(&pmu);
		pmu_svme_toggle(&pmu, true);
		CHECK_EQ(pmu.reprogram_pending, rules[r] == SVME0_STOP ? 1 << 5 : 0);
		pmu_commit(&pmu);
		pmu_nested_transition(&pmu, true);
		pmu_nested_transition(&pmu, false);
		CHECK_EQ(pmu.reprogram_pending, 0);
		CHECK_EQ(recorder.evtsel_writes, rules[r] == SVME0_STOP ? 2 : 1);
	}
}

TEST(pmu_triggers_coalesce)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 calls;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu_svme_toggle(&pmu, true);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		wrmsr(&pmu, EXTENDED_SEL(idx), PLAIN | host_guest(1 + idx % 2));
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 6);
	calls = recorder.calls;

	/* L1 -> L2 -> L1 between two VMRUNs: nothing has changed. */
	pmu_nested_transition(&pmu, true);
	pmu_nested_transition(&pmu, false);
	CHECK_EQ(pmu.reprogram_pending, 0x3f);
	pmu_commit(&pmu);
	CHECK_EQ(pmu.reprogram_pending, 0);
	CHECK_EQ(recorder.calls, calls);

	/* Several triggers: one evaluation, one call for all six. */
	pmu_nested_transition(&pmu, true);
	pmu_nested_transition(&pmu, false);
	pmu_svme_toggle(&pmu, false);
	pmu_svme_toggle(&pmu, true);
	pmu_nested_transition(&pmu, true);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.calls, calls + 1);
	CHECK_EQ(recorder.evtsel_writes, 12);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.calls, calls + 1);

	/* A selector write and a switch in one commit: one write per counter. */
	wrmsr(&pmu, EXTENDED_SEL(0), PLAIN | host_guest(2));
	pmu_nested_transition(&pmu, false);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes,
		 12 + 5); /* counter 0 did not run in L2, and does not with HostOnly there */
	CHECK_EQ(pmu.evtsel_writes, 12 + 5);
}

/* A commit goes by the pending word: who is not in it is not looked at, even if it were wrong. */
TEST(pmu_commit_looks_at_pending_only)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu_svme_toggle(&pmu, true);
	wrmsr(&pmu, EXTENDED_SEL(0), PLAIN | NAIVE_GUESTONLY);
	wrmsr(&pmu, EXTENDED_SEL(1), PLAIN);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 2);

	pmu.mode = PMU_MODE_L2; /* without the trigger */
	wrmsr(&pmu, EXTENDED_SEL(1), PLAIN & ~NAIVE_EN);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 3);
	CHECK(!(recorder.eventsel[0] & NAIVE_EN));
	pmu_nested_transition(&pmu, true);
	pmu_commit(&pmu);
	CHECK(recorder.eventsel[0] & NAIVE_EN);
}

/* The steps of Linux' svm_pmu_host_guest_test without the event filter, on four selectors. */
TEST(pmu_host_guest_steps)
{
	enum { NONE = 1, GUEST = 2, HOST = 4, BOTH = 8 };
	static const struct {
		bool svme, in_l2;
		u64 both_bits; /* what the fourth counter has */
		u64 run;
	} steps[] = {
		{false, false, 3, NONE},
		{true, false, 3, NONE | HOST | BOTH},
		{true, true, 3, NONE | GUEST | BOTH},
		{true, false, 3, NONE | HOST | BOTH},
		{true, false, 1, NONE | HOST},
		{true, false, 3, NONE | HOST | BOTH},
		{false, false, 3, NONE},
	};
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	for (unsigned int hg = 0; hg < 4; hg++)
		wrmsr(&pmu, LEGACY_SEL(hg), PLAIN | host_guest(hg));
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		u64 run = 0;

		if (i && steps[i - 1].in_l2)
			pmu_nested_transition(&pmu, false);
		pmu_svme_toggle(&pmu, steps[i].svme);
		if (steps[i].in_l2)
			pmu_nested_transition(&pmu, true);
		wrmsr(&pmu, LEGACY_SEL(3), PLAIN | steps[i].both_bits << 40);
		pmu_commit(&pmu);
		for (unsigned int idx = 0; idx < 4; idx++)
			run |= (u64) !!(recorder.eventsel[idx] & NAIVE_EN) << idx;
		CHECK_EQ(run, steps[i].run);
		CHECK_EQ(pmu.enabled_hw, steps[i].run);
	}
}

/* Without PerfCtrExtCore there are four pairs, at the legacy addresses, and nothing else. */
TEST(pmu_legacy)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 value = 77;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu.extended_msrs = 0;
	for (u32 msr = EXTENDED_SEL(0); msr <= EXTENDED_CTR(5); msr++) {
		CHECK_EQ(pmu_rdmsr(&pmu, msr, &value), -E_NOENT);
		CHECK_EQ(pmu_wrmsr(&pmu, msr, PLAIN), -E_NOENT);
	}
	for (u32 msr = NAIVE_STATUS; msr <= NAIVE_SET; msr++) {
		CHECK_EQ(pmu_rdmsr(&pmu, msr, &value), -E_NOENT);
		CHECK_EQ(pmu_wrmsr(&pmu, msr, 0), -E_NOENT);
	}
	CHECK_EQ(value, 77);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.calls, 0);
	for (u32 idx = 0; idx < 4; idx++) {
		wrmsr(&pmu, LEGACY_SEL(idx), PLAIN + idx);
		wrmsr(&pmu, LEGACY_CTR(idx), 1000 + idx);
		CHECK_EQ(rdmsr(&pmu, LEGACY_SEL(idx)), PLAIN + idx);
		CHECK_EQ(rdmsr(&pmu, LEGACY_CTR(idx)), 1000 + idx);
	}
	CHECK_EQ(pmu_rdmsr(&pmu, LEGACY_CTR(4), &value), -E_NOENT);
	pmu_commit(&pmu);
	CHECK_EQ(pmu.enabled_hw, 0xf);
	for (u32 idx = 0; idx < 8; idx++)
		CHECK_EQ(pmu_rdpmc(&pmu, idx, &value), idx < 4 ? 0 : -E_FAULT);
	CHECK_EQ(value, 1003);
}

/* ---- PerfMonV2 ---- */

TEST(pmu_global_absent)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 value = 77;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	recorder.overflows = 1;
	for (u32 msr = NAIVE_STATUS; msr <= NAIVE_SET; msr++) {
		CHECK_EQ(pmu_wrmsr(&pmu, msr, 0), -E_NOENT);
		CHECK_EQ(pmu_rdmsr(&pmu, msr, &value), -E_NOENT);
	}
	CHECK_EQ(value, 77);
	CHECK_EQ(recorder.calls, 0);
	wrmsr(&pmu, EXTENDED_SEL(0), PLAIN); /* and the writes stopped nothing */
	pmu_commit(&pmu);
	CHECK(recorder.eventsel[0] & NAIVE_EN);

	pmu.has_v2 = true;
	CHECK_EQ(pmu_rdmsr(&pmu, 0xc00002ff, &value), -E_NOENT);
	CHECK_EQ(pmu_rdmsr(&pmu, 0xc0000304, &value), -E_NOENT);
	CHECK_EQ(pmu_wrmsr(&pmu, 0xc00002ff, 0), -E_NOENT);
	CHECK_EQ(pmu_wrmsr(&pmu, 0xc0000304, 0), -E_NOENT);
	CHECK_EQ(pmu_wrmsr(&pmu, 0, 0), -E_NOENT);
}

TEST(pmu_global_ctl_reset_and_reserved_bits)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu.has_v2 = true;
	CHECK_EQ(rdmsr(&pmu, NAIVE_CTL), 0x3f);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0);
	for (unsigned int bit = 0; bit < 64; bit++) {
		wrmsr(&pmu, NAIVE_CTL, 1ull << bit);
		CHECK_EQ(rdmsr(&pmu, NAIVE_CTL), bit < 6 ? 1ull << bit : 0);
		wrmsr(&pmu, NAIVE_SET, 1ull << bit);
		CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), bit < 6 ? 1ull << bit : 0);
		wrmsr(&pmu, NAIVE_CLR, 1ull << bit);
		CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0);
	}
	wrmsr(&pmu, NAIVE_CTL, ~0ull);
	CHECK_EQ(rdmsr(&pmu, NAIVE_CTL), 0x3f);
}

/* Every two values of GLOBAL_CTL one after the other: the machine gets one call, for those that
 * differ and have EN; the selectors that the guest reads stay what they were. */
TEST(pmu_global_ctl_every_value_from_every_value)
{
	const u64 en = 0x2f; /* counter 4 has no EN */

	for (u64 old = 0; old < 64; old++) {
		for (u64 new = 0; new < 64; new ++) {
			u64 changed = (old ^ new) & en, calls, writes;
			struct pmu_recorder recorder = recorder_for(NULL);
			struct pmu pmu;

			pmu_init(&pmu, &recorder.hw, SVME0_STOP);
			pmu.has_v2 = true;
			for (unsigned int idx = 0; idx < 6; idx++)
				wrmsr(&pmu, EXTENDED_SEL(idx),
				      idx == 4 ? PLAIN & ~NAIVE_EN : PLAIN);
			wrmsr(&pmu, NAIVE_CTL, old);
			pmu_commit(&pmu);
			CHECK_EQ(pmu.enabled_hw, old & en);
			calls = recorder.calls;
			writes = recorder.evtsel_writes;

			wrmsr(&pmu, NAIVE_CTL, new);
			CHECK_EQ(pmu.reprogram_pending, old ^ new);
			CHECK_EQ(recorder.calls, calls);
			pmu_commit(&pmu);
			CHECK_EQ(pmu.enabled_hw, new &en);
			CHECK_EQ(recorder.calls - calls, changed != 0);
			CHECK_EQ(recorder.evtsel_writes - writes, __builtin_popcountll(changed));
			for (unsigned int idx = 0; idx < 6; idx++) {
				CHECK_EQ(!!(recorder.eventsel[idx] & NAIVE_EN),
					 (new &en) >> idx & 1);
				CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(idx)),
					 idx == 4 ? PLAIN & ~NAIVE_EN : PLAIN);
			}
		}
	}
}

/* A selector that changes while its bit is off, or with it in one commit. */
TEST(pmu_global_ctl_and_selector_writes)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu.has_v2 = true;
	wrmsr(&pmu, NAIVE_CTL, 0);
	wrmsr(&pmu, EXTENDED_SEL(1), PLAIN);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.eventsel[1], (PLAIN & ~NAIVE_EN) | NAIVE_GUESTONLY);
	CHECK_EQ(rdmsr(&pmu, EXTENDED_SEL(1)), PLAIN);
	wrmsr(&pmu, EXTENDED_SEL(1), PLAIN ^ 0x76 ^ 0xc0);
	wrmsr(&pmu, NAIVE_CTL, 2);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.eventsel[1], (PLAIN ^ 0x76 ^ 0xc0) | NAIVE_GUESTONLY);
	CHECK_EQ(recorder.evtsel_writes, 2);

	/* Off and on between two commits is nothing. */
	wrmsr(&pmu, NAIVE_CTL, 0);
	wrmsr(&pmu, NAIVE_CTL, 0x3f);
	pmu_commit(&pmu);
	CHECK_EQ(recorder.evtsel_writes, 2);
}

TEST(pmu_global_status_is_sticky)
{
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu.has_v2 = true;
	recorder.overflows = 0x15;
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x15);
	CHECK_EQ(recorder.overflows, 0);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x15);
	recorder.overflows = 0x04;
	wrmsr(&pmu, NAIVE_STATUS, 0);
	wrmsr(&pmu, NAIVE_STATUS, ~0ull);
	wrmsr(&pmu, EXTENDED_CTR(2), 0);
	wrmsr(&pmu, EXTENDED_SEL(2), 0);
	wrmsr(&pmu, NAIVE_CTL, 0);
	pmu_commit(&pmu);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x15);

	/* CLR takes only its bits, also one that nobody has read yet; what comes after it stays. */
	recorder.overflows = 0x22;
	wrmsr(&pmu, NAIVE_CLR, 0x03);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x34);
	recorder.overflows = 0x02;
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x36);
	wrmsr(&pmu, NAIVE_CLR, 0);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x36);

	/* SET only adds; with one that the machine has, too. */
	recorder.overflows = 0x08;
	wrmsr(&pmu, NAIVE_SET, 0x01);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x3f);
	CHECK_EQ(rdmsr(&pmu, NAIVE_SET), 0);
	CHECK_EQ(rdmsr(&pmu, NAIVE_CLR), 0);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0x3f);
	wrmsr(&pmu, NAIVE_CLR, ~0ull);
	CHECK_EQ(rdmsr(&pmu, NAIVE_STATUS), 0);
}

/* What a machine that is brought there really holds. */
static void check_selectors_in(const struct pmu *pmu, const struct pmu_recorder *recorder)
{
	for (enum pmu_mode mode = 0; mode < PMU_MODES; mode++) {
		struct pmu_recorder there = *recorder;
		struct pmu moved = *pmu;

		moved.hw = &there.hw;
		moved.mode = mode;
		pmu_mark(&moved, BITS(PMU_COUNTERS - 1, 0));
		pmu_commit(&moved);
		for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
			CHECK_EQ(pmu_machine_evtsel_in(pmu, idx, mode), there.eventsel[idx]);
	}
}

/* pmu_commit(), and what it says of itself. */
static void commit_counted(struct pmu *pmu)
{
	u64 pending = pmu->reprogram_pending, writes = pmu->evtsel_writes;
	u64 commits = pmu->commits, elided = pmu->evtsel_elided;

	pmu_commit(pmu);
	CHECK_EQ(pmu->commits, commits + (pending != 0));
	CHECK_EQ(pmu->evtsel_elided - elided + pmu->evtsel_writes - writes,
		 __builtin_popcountll(pending));
}

TEST(pmu_random_selectors)
{
	for (unsigned int seed = 0; seed < 40; seed++) {
		struct pmu_recorder recorder = recorder_for(NULL);
		struct naive naive = naive_new(rules[seed & 1]);
		struct pmu pmu;
		u64 overflows;

		test_seed(seed);
		pmu_init(&pmu, &recorder.hw, naive.rule);
		pmu.has_v2 = true;
		for (unsigned int step = 0; step < 10000; step++) {
			unsigned int idx = (unsigned int)test_below(PMU_COUNTERS);
			u64 value;

			switch (test_below(40) ? test_below(10) : 10) {
			case 0:
				value = naive_random_eventsel();
				wrmsr(&pmu,
				      idx < 4 && step & 1 ? LEGACY_SEL(idx) : EXTENDED_SEL(idx),
				      value);
				naive_write_eventsel(&naive, idx, value);
				break;
			case 1:
			case 2:
				naive_go_to(&naive, &pmu, naive.in_l2 ? 1 : 2);
				break;
			case 3:
				naive_go_to(&naive, &pmu, naive.svme ? 0 : 1);
				break;
			case 4: /* a trigger that changes nothing */
				if (naive.svme)
					naive_transition(&naive, &pmu, naive.in_l2);
				if (!naive.in_l2)
					naive_toggle(&naive, &pmu, naive.svme);
				break;
			case 5:
				naive_random_global(&naive, &pmu);
				break;
			case 6: /* counters wrap */
				overflows = test_random() & test_random() & 0x3f;
				recorder.overflows |= overflows;
				naive.global_status |= overflows;
				break;
			case 10:
				naive.filter = naive_random_filter();
				pmu_set_filter(&pmu, &naive.filter);
				break;
			default:
				check_selectors_in(&pmu, &recorder);
				commit_counted(&pmu);
				naive_commit(&naive);
				naive_check_selectors(&naive, &pmu, &recorder);
				if (step & 1)
					naive_check_global(&naive, &pmu);
			}
		}
	}
}

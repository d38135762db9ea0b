/* SPDX-License-Identifier: MIT */
/* Backend `clock`: exact counts at every shift, and against the naive model. */
#include "pmu/clock.h"
#include "pmu_naive.h"
#include "test.h"

#define BOTH_CPL (NAIVE_USR | NAIVE_OS)
#define INSTRUCTIONS (0xc0 | BOTH_CPL | NAIVE_EN)
#define CYCLES (0x76 | BOTH_CPL | NAIVE_EN)

struct clock_pmu {
	struct pmu_clock clock;
	struct pmu_recorder recorder;
	struct pmu pmu;
};

static void setup(struct clock_pmu *c, bool exact, unsigned int shift, enum svme0_rule rule)
{
	CHECK_EQ(pmu_clock_init(&c->clock, exact, shift), 0);
	c->recorder = recorder_for(&c->clock.hw);
	pmu_init(&c->pmu, &c->recorder.hw, rule);
}

static u64 count(struct clock_pmu *c, unsigned int idx)
{
	u64 value = ~0ull;

	CHECK_EQ(pmu_rdpmc(&c->pmu, idx, &value), 0);
	return value;
}

static void set_ctr(struct clock_pmu *c, unsigned int idx, u64 value)
{
	CHECK_EQ(pmu_wrmsr(&c->pmu, MSR_PERFCTR(idx), value), 0);
}

static void set_evtsel(struct clock_pmu *c, unsigned int idx, u64 eventsel)
{
	CHECK_EQ(pmu_wrmsr(&c->pmu, MSR_PERFEVTSEL(idx), eventsel), 0);
	pmu_commit(&c->pmu);
}

static bool naive_countable(u64 eventsel)
{
	u64 event = naive_event(eventsel);

	return (event == 0xc0 || event == 0x76) && naive_is_plain(eventsel) &&
	       (eventsel & BOTH_CPL) == BOTH_CPL;
}

TEST(clock_init_checks_shift)
{
	struct pmu_clock clock;

	CHECK_EQ(pmu_clock_init(&clock, true, 10), 0);
	CHECK_EQ(clock.insn_ticks, 1024);
	CHECK_EQ(pmu_clock_init(&clock, true, 11), -E_RANGE);
	CHECK_EQ(pmu_clock_init(&clock, false, 3), 0);
	CHECK_EQ(clock.insn_ticks, 1);
}

/* Each (HostOnly, GuestOnly) x SVME x level x EN x USR/OS x rule x exact: what ten instructions and
 * a retirement add. */
TEST(clock_every_mode)
{
	for (unsigned int bits = 0; bits < 1 << 9; bits++) {
		bool svme = bits & 1, in_l2 = bits & 2, exact = bits & 4;
		enum svme0_rule rule = bits & 8 ? SVME0_COUNT : SVME0_STOP;
		u64 filter = (u64)(bits >> 4 & 3) << 16, host_guest = (u64)(bits >> 6 & 3) << 40;
		u64 eventsel = 0xc0 | filter | host_guest | (bits & 256 ? NAIVE_EN : 0), want;
		struct clock_pmu c;

		setup(&c, exact, 4, rule);
		set_ctr(&c, 0, 1000);
		pmu_svme_toggle(&c.pmu, svme);
		pmu_nested_transition(&c.pmu, in_l2);
		set_evtsel(&c, 0, eventsel);
		c.clock.now += 160;
		pmu_clock_retire(&c.clock);

		want = (eventsel & NAIVE_EN) && filter == BOTH_CPL &&
		       naive_counts(eventsel, svme, in_l2, rule);
		CHECK_EQ(count(&c, 0), 1000 + want * (exact ? 11 : 161));
		CHECK_EQ(c.clock.counting, want);
		CHECK_EQ(!!c.clock.hw.unsupported(&c.clock.hw, eventsel),
			 filter == NAIVE_USR || filter == NAIVE_OS);
	}
}

TEST(clock_unsupported_reasons_differ)
{
	static const u64 selectors[] = {
		0xc1 | BOTH_CPL,	   0xc0 | 0x0100 | BOTH_CPL,  0xc0 | 1 << 18 | BOTH_CPL,
		0xc0 | 1 << 23 | BOTH_CPL, 0xc0 | 1 << 24 | BOTH_CPL, 0xc0 | NAIVE_USR,
		0xc0 | NAIVE_OS,
	};
	struct clock_pmu c;

	setup(&c, true, 0, SVME0_STOP);
	for (size_t i = 0; i < ARRAY_SIZE(selectors); i++) {
		const char *reason = c.clock.hw.unsupported(&c.clock.hw, selectors[i]);

		CHECK(reason && *reason);
		CHECK(reason == c.clock.hw.unsupported(&c.clock.hw, selectors[i] | NAIVE_EN));
		for (size_t j = 0; j < i; j++)
			CHECK(reason != c.clock.hw.unsupported(&c.clock.hw, selectors[j]));
		set_evtsel(&c, 0, selectors[i] | NAIVE_EN);
		set_ctr(&c, 0, 5);
		c.clock.now += 100;
		CHECK_EQ(count(&c, 0), 5);
		CHECK_EQ(c.clock.counting, 0);
	}
	CHECK(!c.clock.hw.unsupported(&c.clock.hw, 0));
	CHECK(!c.clock.hw.unsupported(&c.clock.hw,
				      0xc1 | 1 << 18)); /* USR=OS=0: legal, and counts nothing */
	CHECK(!c.clock.hw.unsupported(&c.clock.hw, INSTRUCTIONS | NAIVE_GUESTONLY));
	CHECK(!c.clock.hw.unsupported(&c.clock.hw, CYCLES | 1 << 20));
	CHECK(c.clock.hw.unsupported(&c.clock.hw, 0x100000000 | INSTRUCTIONS)); /* event 1C0h */
}

TEST(clock_exact_at_every_shift)
{
	for (unsigned int shift = 0; shift <= 10; shift++) {
		struct clock_pmu c;
		u64 insns = 0;

		test_seed(shift);
		setup(&c, true, shift, SVME0_STOP);
		c.clock.now = test_random() << shift;
		set_evtsel(&c, 0, INSTRUCTIONS);
		set_evtsel(&c, 1, CYCLES);
		for (unsigned int i = 0; i < 2000; i++) {
			u64 run = test_below(1000);

			c.clock.now += run << shift;
			insns += run;
			if (i % 3 == 0) {
				pmu_clock_retire(&c.clock);
				insns++;
			}
			if (i % 5 ==
			    0) { /* stop, let time pass, start: nothing lost, nothing doubled */
				set_evtsel(&c, 0, INSTRUCTIONS & ~NAIVE_EN);
				set_evtsel(&c, 1, CYCLES & ~NAIVE_EN);
				c.clock.now += test_below(1000) << shift;
				set_evtsel(&c, 1, CYCLES);
				set_evtsel(&c, 0, INSTRUCTIONS);
			}
			CHECK_EQ(count(&c, 0), insns);
			CHECK_EQ(count(&c, 1), insns << shift);
		}
	}
}

TEST(clock_wraps_at_48_bits)
{
	for (unsigned int shift = 0; shift <= 10; shift++) {
		for (unsigned int near_wrap = 0; near_wrap < 2; near_wrap++) {
			struct clock_pmu c;

			setup(&c, true, shift, SVME0_STOP);
			c.clock.now = near_wrap ? 0 - (2ull << shift)
						: 0; /* guest time itself wraps as well */
			set_evtsel(&c, 0, INSTRUCTIONS);
			set_evtsel(&c, 1, CYCLES);
			set_ctr(&c, 0, NAIVE_COUNTER - 2);
			set_ctr(&c, 1, NAIVE_COUNTER);
			c.clock.now += 2ull << shift;
			CHECK_EQ(count(&c, 0), NAIVE_COUNTER);
			CHECK_EQ(count(&c, 1), (2ull << shift) - 1);
			pmu_clock_retire(&c.clock);
			CHECK_EQ(count(&c, 0), 0);
			set_evtsel(&c, 0, INSTRUCTIONS & ~NAIVE_EN);
			set_evtsel(&c, 0, INSTRUCTIONS);
			pmu_clock_retire(&c.clock);
			CHECK_EQ(count(&c, 0), 1);
		}
	}
}

/* A caller whose time is not in whole instructions: a part of one survives a stop, so two counters
 * over the same time agree however often one of them is stopped and started, or changes groups. */
TEST(clock_keeps_the_remainder)
{
	struct clock_pmu c;

	setup(&c, true, 7, SVME0_STOP);
	pmu_svme_toggle(&c.pmu, true);
	set_evtsel(&c, 0, INSTRUCTIONS);
	set_evtsel(&c, 1, INSTRUCTIONS);
	set_evtsel(&c, 2, INSTRUCTIONS | NAIVE_HOSTONLY);
	set_evtsel(&c, 3, INSTRUCTIONS | NAIVE_GUESTONLY);
	for (unsigned int i = 0; i < 20000; i++) {
		c.clock.now += test_below(300);
		if (i & 1)
			pmu_nested_transition(&c.pmu, i & 2);
		pmu_commit(&c.pmu);
		if (i % 7 == 0) {
			set_evtsel(&c, 1, INSTRUCTIONS & ~NAIVE_EN);
			set_evtsel(&c, 1, INSTRUCTIONS);
		}
		CHECK_EQ(count(&c, 0), c.clock.now >> 7);
		CHECK_EQ(count(&c, 1), c.clock.now >> 7);
		/* The levels share the time between them, each with a remainder of its own. */
		CHECK(count(&c, 0) - (count(&c, 2) + count(&c, 3)) <= 1);
	}
}

TEST(clock_event_change_keeps_the_count)
{
	struct clock_pmu c;

	setup(&c, true, 5, SVME0_STOP);
	set_evtsel(&c, 0, INSTRUCTIONS);
	c.clock.now += 32 * 10;
	set_evtsel(&c, 0, CYCLES);
	CHECK_EQ(count(&c, 0), 10);
	c.clock.now += 32 * 10;
	CHECK_EQ(count(&c, 0), 330);
	set_evtsel(&c, 0, INSTRUCTIONS & ~NAIVE_EN);
	c.clock.now += 32 * 10;
	CHECK_EQ(count(&c, 0), 330);
	set_evtsel(&c, 0, INSTRUCTIONS);
	pmu_clock_retire(&c.clock);
	CHECK_EQ(count(&c, 0), 331);
}

static void naive_time(struct naive *naive, u64 insns, u64 ticks, bool exact)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (naive->hw[idx] & NAIVE_EN && naive_countable(naive->hw[idx]))
			naive_add(naive, idx,
				  naive_event(naive->hw[idx]) == 0xc0 && exact ? insns : ticks);
}

TEST(clock_random)
{
	for (unsigned int seed = 0; seed < 44; seed++) {
		bool exact = seed % 4 != 3;
		unsigned int shift = seed % 11;
		struct naive naive = {.rule = seed & 1 ? SVME0_COUNT : SVME0_STOP};
		struct clock_pmu c;

		test_seed(seed);
		setup(&c, exact, shift, naive.rule);
		for (unsigned int step = 0; step < 10000; step++) {
			unsigned int idx = (unsigned int)test_below(PMU_COUNTERS);
			u64 value;

			switch (test_below(8)) {
			case 0:
				value = naive_random_eventsel();
				CHECK_EQ(pmu_wrmsr(&c.pmu, MSR_PERFEVTSEL(idx), value), 0);
				naive_write_eventsel(&naive, idx, value);
				break;
			case 1:
				value = naive_random_count();
				set_ctr(&c, idx, value);
				naive.count[idx] = value & NAIVE_COUNTER;
				break;
			case 2:
			case 3:
				pmu_nested_transition(&c.pmu, naive.in_l2 = !naive.in_l2);
				break;
			case 4:
				pmu_svme_toggle(&c.pmu, naive.svme = test_below(4));
				break;
			case 5:
				pmu_clock_retire(&c.clock);
				naive_time(&naive, 1, exact ? 1ull << shift : 1, exact);
				break;
			case 6:
				value = test_below(100000);
				c.clock.now += value << shift;
				naive_time(&naive, value, value << shift, exact);
				break;
			default:
				pmu_commit(&c.pmu);
				naive_commit(&naive);
				naive_check_selectors(&naive, &c.pmu, &c.recorder);
			}
			CHECK_EQ(count(&c, idx), naive.count[idx]);
		}
		for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
			CHECK_EQ(count(&c, idx), naive.count[idx]);
	}
}

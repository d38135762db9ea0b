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
	CHECK_EQ(pmu_clock_init(&c->clock, exact, exact ? shift : 0), 0);
	c->recorder = recorder_for(&c->clock.hw);
	pmu_init(&c->pmu, &c->recorder.hw, rule);
	c->pmu.has_v2 = true;
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

static u64 status(struct clock_pmu *c)
{
	u64 value = ~0ull;

	CHECK_EQ(pmu_rdmsr(&c->pmu, NAIVE_STATUS, &value), 0);
	return value;
}

static void set_global(struct clock_pmu *c, u32 msr, u64 value)
{
	CHECK_EQ(pmu_wrmsr(&c->pmu, msr, value), 0);
	pmu_commit(&c->pmu);
}

static void set_evtsel(struct clock_pmu *c, unsigned int idx, u64 eventsel)
{
	CHECK_EQ(pmu_wrmsr(&c->pmu, MSR_PERFEVTSEL(idx), eventsel), 0);
	pmu_commit(&c->pmu);
}

/* APM2 table 13-5 for one cycle with so many events. */
static u64 naive_cycle(u64 eventsel, u64 events)
{
	u64 cmask = eventsel >> 24 & 0xff;

	if (!cmask)
		return events;
	return eventsel & 1 << 23 ? events < cmask : events >= cmask;
}

/* What `ticks` cycles add in which `insns` instructions retire, each in a cycle of its own. False: not countable. */
static bool naive_clock(u64 eventsel, u64 insns, u64 ticks, u64 *adds)
{
	u64 event = naive_event(eventsel), with = event == 0xc0 ? insns : ticks;

	*adds = 0;
	if (!(eventsel & BOTH_CPL))
		return true;
	if ((event != 0xc0 && event != 0x76) || eventsel & 0x04ff00)
		return false;
	if (event == 0xc0 && eventsel & 1 << 23 && (eventsel >> 24 & 0xff) == 1)
		return false;
	*adds = with * naive_cycle(eventsel, 1) + (ticks - with) * naive_cycle(eventsel, 0);
	return true;
}

TEST(clock_init_checks_shift)
{
	struct pmu_clock clock;

	CHECK_EQ(pmu_clock_init(&clock, true, 10), 0);
	CHECK_EQ(clock.insn_ticks, 1024);
	CHECK_EQ(pmu_clock_init(&clock, true, 11), -E_RANGE);
	CHECK_EQ(pmu_clock_init(&clock, false, 0), 0);
	CHECK_EQ(clock.insn_ticks, 1);
}

/* Each (HostOnly, GuestOnly) x mode x EN x GLOBAL_CTL x USR/OS x CPL x rule x exact: what ten instructions
 * and a retirement add. */
TEST(clock_every_mode)
{
	for (unsigned int bits = 0; bits < 256 * 3 * 2; bits++) {
		bool exact = bits & 1, global = bits & 2, user = bits / 256 & 1;
		struct naive naive = naive_new(bits & 4 ? SVME0_COUNT : SVME0_STOP);
		u64 filter = (u64)(bits >> 3 & 3) << 16, host_guest = (u64)(bits >> 5 & 3) << 40;
		u64 eventsel = 0xc0 | filter | host_guest | (bits & 128 ? NAIVE_EN : 0), want;
		struct clock_pmu c;

		setup(&c, exact, 4, naive.rule);
		set_ctr(&c, 0, 1000);
		naive_cpl(&naive, &c.pmu, user);
		naive_go_to(&naive, &c.pmu, bits / 512);
		set_evtsel(&c, 0, eventsel);
		if (!global)
			set_global(&c, NAIVE_CTL, 0x3e);
		c.clock.now += 160;
		pmu_clock_retire(&c.clock);

		want = (eventsel & NAIVE_EN) && global && naive_passes(filter, user) &&
		       naive_counts(eventsel, naive.svme, naive.in_l2, naive.rule);
		CHECK_EQ(count(&c, 0), 1000 + want * (exact ? 11 : 161));
		CHECK_EQ(c.clock.counting, want);
		CHECK(!c.clock.hw.unsupported(&c.clock.hw, eventsel));
	}
}

TEST(clock_unsupported_reasons_differ)
{
	static const u64 selectors[] = {
		0xc1 | BOTH_CPL,
		0xc0 | 0x0100 | BOTH_CPL,
		0xc0 | 1 << 18 | BOTH_CPL,
		0xc0 | 1 << 23 | 1 << 24 | BOTH_CPL,
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

/* Each INV and CMASK on both events: a thousand instructions and one that is emulated. */
TEST(clock_inv_and_cmask)
{
	for (unsigned int bits = 0; bits < 256 * 2 * 2 * 11; bits++) {
		unsigned int shift = bits / 1024;
		u64 eventsel = bits & 512 ? INSTRUCTIONS : CYCLES, want;
		bool countable;
		struct clock_pmu c;

		eventsel |= (u64)(bits & 255) << 24 | (u64)(bits & 256) << 15;
		setup(&c, true, shift, SVME0_STOP);
		set_ctr(&c, 0, 5);
		set_evtsel(&c, 0, eventsel);
		c.clock.now += 1000ull << shift;
		pmu_clock_retire(&c.clock);
		countable = naive_clock(eventsel, 1001, 1001ull << shift, &want);
		CHECK_EQ(count(&c, 0), 5 + want);
		CHECK_EQ(!c.clock.hw.unsupported(&c.clock.hw, eventsel), countable);
		/* and it is whole again without */
		set_evtsel(&c, 0, INSTRUCTIONS);
		c.clock.now += 7ull << shift;
		CHECK_EQ(count(&c, 0), 5 + want + 7);
	}
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

/* A carry out of bit 47 is one status bit, once, whenever somebody asks: while the counter runs,
 * when it was stopped since, when it counts something else by now, when it was written over. */
TEST(clock_overflow_at_every_shift)
{
	enum { RUNNING, STOPPED, GLOBAL_STOPPED, OTHER_EVENT, SWITCHED, MEANWHILE };

	for (unsigned int bits = 0; bits < 11 * 2 * 2 * (MEANWHILE + 1); bits++) {
		unsigned int shift = bits % 11, what = bits / 44;
		bool exact = bits / 11 % 2;
		u64 eventsel = bits / 22 % 2 ? CYCLES : INSTRUCTIONS;
		u64 unit = exact && eventsel == INSTRUCTIONS ? 1ull << shift : 1, want;
		struct clock_pmu c;

		setup(&c, exact, shift, SVME0_STOP);
		c.clock.now = test_random() & ~1023ull;
		pmu_svme_toggle(&c.pmu, true);
		set_evtsel(&c, 2, eventsel | NAIVE_HOSTONLY);
		set_evtsel(&c, 4, eventsel | NAIVE_HOSTONLY);
		set_ctr(&c, 2, NAIVE_COUNTER - 9);
		set_ctr(&c, 4, NAIVE_COUNTER - 10);
		c.clock.now += 9 * unit;
		CHECK_EQ(count(&c, 2), NAIVE_COUNTER);
		CHECK_EQ(status(&c), 0);
		c.clock.now += unit - 1;
		CHECK_EQ(status(&c), 0);
		c.clock.now++;

		if (what == STOPPED)
			set_evtsel(&c, 2, 0);
		if (what == GLOBAL_STOPPED)
			set_global(&c, NAIVE_CTL, 0);
		if (what == OTHER_EVENT)
			set_evtsel(&c, 2, eventsel ^ INSTRUCTIONS ^ CYCLES);
		for (unsigned int i = 0; what == SWITCHED && i < 3; i++) {
			pmu_nested_transition(&c.pmu, !(i & 1));
			pmu_commit(&c.pmu);
		}
		want = 0;
		if (what == MEANWHILE) {
			set_ctr(&c, 4, 0); /* all ones: it has not wrapped */
			set_ctr(&c, 2, 5);
			c.clock.now += 3 * unit;
			want = 5 + 3;
		}
		CHECK_EQ(count(&c, 2), want);
		CHECK_EQ(status(&c), 4);
		CHECK_EQ(status(&c), 4);
		CHECK_EQ(count(&c, 2), want);

		set_global(&c, NAIVE_CLR, 0x3b);
		CHECK_EQ(status(&c), 4);
		set_global(&c, NAIVE_CLR, 4);
		CHECK_EQ(status(&c), 0);
		c.clock.now += 100 * unit; /* one wrap is one overflow; counter 4 wraps now */
		if (what == RUNNING || what == MEANWHILE)
			CHECK_EQ(count(&c, 2), want + 100);
		want = what == RUNNING || what == STOPPED || what == OTHER_EVENT;
		CHECK_EQ(status(&c), want << 4);
		set_ctr(&c, 2, NAIVE_COUNTER); /* and again */
		set_evtsel(&c, 2, eventsel | NAIVE_HOSTONLY | NAIVE_GUESTONLY);
		set_global(&c, NAIVE_CTL, 0x3f);
		c.clock.now += unit;
		CHECK_EQ(count(&c, 2), 0);
		CHECK_EQ(status(&c) & 4, 4);
	}
}

/* Asking does not change what a counter counts, not even by a part of an instruction. */
TEST(clock_overflow_keeps_the_remainder)
{
	struct clock_pmu c;

	setup(&c, true, 9, SVME0_STOP);
	set_evtsel(&c, 0, INSTRUCTIONS);
	set_ctr(&c, 0, NAIVE_COUNTER);
	c.clock.now += 512 + 511;
	CHECK_EQ(status(&c), 1);
	CHECK_EQ(count(&c, 0), 0);
	c.clock.now++;
	CHECK_EQ(count(&c, 0), 1);
}

/* Counters that one write starts agree from then on. */
TEST(clock_global_ctl_starts_at_once)
{
	for (unsigned int shift = 0; shift <= 10; shift++) {
		struct clock_pmu c;
		u64 start = 0;

		test_seed(shift);
		setup(&c, true, shift, SVME0_STOP);
		set_global(&c, NAIVE_CTL, 0);
		for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
			set_evtsel(&c, idx, INSTRUCTIONS);
			c.clock.now += test_below(5000);
			CHECK_EQ(count(&c, idx), 0);
		}
		for (unsigned int i = 0; i < 300; i++) {
			u64 run = test_below(100);

			set_global(&c, NAIVE_CTL, 0x3f);
			c.clock.now += run << shift;
			start += run;
			for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
				CHECK_EQ(count(&c, idx), start);
			set_global(&c, NAIVE_CTL, i % 3 ? 0 : 0x3f);
			if (i % 3)
				c.clock.now += test_below(5000);
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
	u64 adds;

	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (naive->hw[idx] & NAIVE_EN &&
		    naive_clock(naive->hw[idx], exact ? insns : ticks, ticks, &adds))
			naive_add(naive, idx, adds);
}

TEST(clock_random)
{
	for (unsigned int seed = 0; seed < 44; seed++) {
		bool exact = seed % 4 != 3;
		unsigned int shift = seed % 11;
		struct naive naive = naive_new(seed & 1 ? SVME0_COUNT : SVME0_STOP);
		struct clock_pmu c;

		test_seed(seed);
		naive.ignores_cpl = true;
		setup(&c, exact, shift, naive.rule);
		for (unsigned int step = 0; step < 10000; step++) {
			unsigned int idx = (unsigned int)test_below(PMU_COUNTERS);
			u64 value;

			switch (test_below(11)) {
			case 10:
				naive_cpl(&naive, &c.pmu, test_below(2));
				break;
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
				naive_go_to(&naive, &c.pmu, naive.in_l2 ? 1 : 2);
				break;
			case 4:
				if (!naive.in_l2)
					naive_toggle(&naive, &c.pmu, test_below(4));
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
			case 7:
				naive_random_global(&naive, &c.pmu);
				break;
			case 8: /* not too often, or an overflow could not wait for long */
				if (test_below(4) == 0)
					naive_check_global(&naive, &c.pmu);
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
		naive_check_global(&naive, &c.pmu);
	}
}

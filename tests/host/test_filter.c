/* SPDX-License-Identifier: MIT */
/* The event filter: the matcher, what is refused, and what it does to counters. */
#include <string.h>

#include "pmu/filter.h"
#include "pmu/pmu.h"
#include "pmu_naive.h"
#include "test.h"

#define SEL(n) (0xc0010200u + 2 * (n))
#define C0 (0xc0ull | NAIVE_USR | NAIVE_OS | NAIVE_EN)
#define OF_76 (0x76ull | NAIVE_USR | NAIVE_OS | NAIVE_EN)

static u64 selector(unsigned int event, unsigned int umask)
{
	return (event & 0xff) | umask << 8 | (u64)(event >> 8) << 32;
}

static struct tally_filter one(u32 action, u16 event, u8 mask, u8 match)
{
	return (struct tally_filter){
		.version = 1, .action = action, .count = 1, .entry = {{event, mask, match, 0}}};
}

/* Every event and unit mask against an entry of each mask. */
TEST(filter_one_entry)
{
	for (unsigned int mask = 0; mask < 256; mask++) {
		struct tally_filter allow = one(1, 0x1c0, (u8)mask, (u8)(mask & 0xa5));
		struct tally_filter deny = allow;

		deny.action = 2;
		for (unsigned int umask = 0; umask < 256; umask++) {
			bool hit = (umask & mask) == (mask & 0xa5);

			CHECK_EQ(pmu_filter_passes(&allow, selector(0x1c0, umask)), hit);
			CHECK_EQ(pmu_filter_passes(&deny, selector(0x1c0, umask)), !hit);
			CHECK(!pmu_filter_passes(&allow, selector(0x0c0, umask)));
			CHECK(pmu_filter_passes(&deny, selector(0x0c0, umask)));
		}
	}
	for (unsigned int event = 0; event < 0x1000; event++) {
		struct tally_filter allow = one(1, (u16)event, 0, 0);

		for (unsigned int bit = 0; bit < 12; bit++)
			CHECK(!pmu_filter_passes(&allow, selector(event ^ 1u << bit, 0)));
		/* nothing of a selector but event and unit mask matters */
		CHECK(pmu_filter_passes(&allow, selector(event, 0x55) | 0x300fffd0000ull));
	}
}

TEST(filter_empty_lists)
{
	struct tally_filter filter = {.version = 1};

	for (u32 action = 0; action < 3; action++) {
		filter.action = action;
		CHECK_EQ(pmu_filter_check(&filter), 0);
		CHECK_EQ(pmu_filter_passes(&filter, C0), action != 1);
	}
}

/* An exclude wins, wherever it is in the list. */
TEST(filter_exclude)
{
	for (unsigned int place = 0; place < 3; place++) {
		struct tally_filter filter = {.version = 1, .action = 1, .count = 3};

		for (unsigned int i = 0; i < 3; i++)
			filter.entry[i] = (struct tally_filter_entry){0x60, 0, 0, 0};
		filter.entry[place] = (struct tally_filter_entry){0x60, 0x0f, 0x02, 1};
		CHECK_EQ(pmu_filter_check(&filter), 0);
		CHECK(pmu_filter_passes(&filter, selector(0x60, 0x01)));
		CHECK(!pmu_filter_passes(&filter, selector(0x60, 0x02)));
		CHECK(!pmu_filter_passes(&filter, selector(0x60, 0xf2)));
		filter.action = 2;
		CHECK(!pmu_filter_passes(&filter, selector(0x60, 0x01)));
		CHECK(pmu_filter_passes(&filter, selector(0x60, 0x02)));
	}
}

TEST(filter_random)
{
	for (unsigned int i = 0; i < 20000; i++) {
		struct tally_filter filter = naive_random_filter();

		CHECK_EQ(pmu_filter_check(&filter), 0);
		for (unsigned int n = 0; n < 50; n++) {
			u64 eventsel = n % 2 ? naive_random_eventsel() : test_random();

			if (filter.count && n % 4 == 0)
				eventsel = selector(filter.entry[test_below(filter.count)].event,
						    test_random() & test_random() & 0xff);
			CHECK_EQ(pmu_filter_passes(&filter, eventsel),
				 naive_filter_passes(&filter, eventsel));
		}
	}
}

/* Each field of a good filter, with each of its bits the other way round. */
TEST(filter_check_every_bit)
{
	struct tally_filter good = {.version = 1, .action = 2, .count = 3};

	for (unsigned int i = 0; i < 3; i++)
		good.entry[i] = (struct tally_filter_entry){0xfff, 0xf0, 0x50, i == 1};
	CHECK_EQ(pmu_filter_check(&good), 0);
	for (unsigned int bit = 0; bit < 32; bit++) {
		struct tally_filter f = good;

		f.version ^= 1u << bit;
		CHECK_EQ(pmu_filter_check(&f), -E_UNSUPP);
		f = good;
		f.action ^= 1u << bit;
		CHECK_EQ(pmu_filter_check(&f), -E_INVAL); /* 3, or 0 with entries, or too high */
		f = good;
		f.reserved ^= 1u << bit;
		CHECK_EQ(pmu_filter_check(&f), -E_INVAL);
		f = good;
		f.count = 1u << bit;
		memset(&f.entry[3], 0, sizeof(f.entry) - 3 * sizeof(f.entry[0]));
		CHECK_EQ(pmu_filter_check(&f), bit <= 6 ? 0 : -E_INVAL);
	}
	for (unsigned int i = 0; i < 3; i++) {
		for (unsigned int bit = 0; bit < 64; bit++) {
			struct tally_filter f = good;
			bool bad;
			u64 word;

			memcpy(&word, &f.entry[i], 8);
			word ^= 1ull << bit;
			memcpy(&f.entry[i], &word, 8);
			/* an event of over 12 bits; a match without its mask, either way; a flag */
			bad = (bit >= 12 && bit < 16) || bit == 16 + 4 || bit == 16 + 6 ||
			      (bit >= 24 && bit < 28) || bit > 32;
			CHECK_EQ(pmu_filter_check(&f), bad ? -E_INVAL : 0);
		}
	}
	good.count = 65;
	CHECK_EQ(pmu_filter_check(&good), -E_INVAL);
	good.action = 0;
	good.count = 0;
	CHECK_EQ(pmu_filter_check(&good), 0);
	good.count = 1;
	CHECK_EQ(pmu_filter_check(&good), -E_INVAL);
}

/* ---- what it does to counters ---- */

static u64 running(const struct pmu_recorder *recorder)
{
	u64 run = 0;

	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		run |= (u64) !!(recorder->eventsel[idx] & NAIVE_EN) << idx;
	return run;
}

static void write(struct pmu *pmu, u32 msr, u64 value)
{
	CHECK_EQ(pmu_wrmsr(pmu, msr, value), 0);
}

TEST(filter_stops_and_starts)
{
	const struct tally_filter off = {.version = 1}, deny = one(2, 0xc0, 0, 0),
				  allow = one(1, 0xc0, 0xff, 0);
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu_svme_toggle(&pmu, true);
	for (unsigned int hg = 0; hg < 4; hg++)
		write(&pmu, SEL(hg), C0 | (u64)hg << 40);
	write(&pmu, SEL(4), OF_76);
	write(&pmu, SEL(5), C0 | 0x100);
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 0x3d);

	/* waits for the commit; one call for all; the selectors stay */
	for (unsigned int round = 0; round < 2; round++) {
		u64 calls = recorder.calls, value;

		pmu_set_filter(&pmu, &deny);
		CHECK_EQ(pmu.reprogram_pending, 0x3f);
		CHECK_EQ(recorder.calls, calls);
		pmu_commit(&pmu);
		CHECK_EQ(recorder.calls, calls + 1);
		CHECK_EQ(running(&recorder), 0x10);
		CHECK_EQ(pmu_rdmsr(&pmu, SEL(2), &value), 0);
		CHECK_EQ(value, C0 | NAIVE_HOSTONLY);
		/* in every mode */
		pmu_nested_transition(&pmu, true);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), 0x10);
		pmu_nested_transition(&pmu, false);
		pmu_svme_toggle(&pmu, false);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), 0x10);
		/* changed while another mode is on, it holds in that one */
		pmu_svme_toggle(&pmu, true);
		pmu_nested_transition(&pmu, true);
		pmu_set_filter(&pmu, round ? &allow : &off);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), round ? 0x0b : 0x3b);
		pmu_nested_transition(&pmu, false);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), round ? 0x0d : 0x3d);
	}
}

/* Neither the sticky bitmaps nor the registers that the guest sees depend on it. */
TEST(filter_leaves_the_rest)
{
	const struct tally_filter nothing = {.version = 1, .action = 1}, off = {.version = 1};
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;
	u64 value;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu.has_v2 = true;
	pmu_set_filter(&pmu, &nothing);
	for (unsigned int hg = 0; hg < 4; hg++)
		write(&pmu, SEL(hg), C0 | (u64)hg << 40);
	CHECK_EQ(pmu.reprogram_pmc_on_nested_transition, 6);
	CHECK_EQ(pmu.reprogram_pmc_on_svme_toggle, 14);
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 0);
	write(&pmu, NAIVE_CTL, 0x3e);
	write(&pmu, SEL(1), OF_76); /* another event, kept off as well */
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 0);
	CHECK_EQ(pmu_rdmsr(&pmu, NAIVE_CTL, &value), 0);
	CHECK_EQ(value, 0x3e);
	for (unsigned int hg = 0; hg < 4; hg++) {
		CHECK_EQ(pmu_rdmsr(&pmu, SEL(hg), &value), 0);
		CHECK_EQ(value, hg == 1 ? OF_76 : C0 | (u64)hg << 40);
	}
	pmu_set_filter(&pmu, &off);
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 2);
	write(&pmu, NAIVE_CTL, 0x3f);
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 3);
}

/* An event written while a filter is there, and a counter that goes from an event to another. */
TEST(filter_asks_every_selector)
{
	const struct tally_filter deny = one(2, 0xc0, 0x01, 0x01);
	struct pmu_recorder recorder = recorder_for(NULL);
	struct pmu pmu;

	pmu_init(&pmu, &recorder.hw, SVME0_STOP);
	pmu_set_filter(&pmu, &deny);
	for (unsigned int umask = 0; umask < 256; umask++) {
		write(&pmu, SEL(0), C0 | umask << 8);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), !(umask & 1));
		write(&pmu, SEL(0), (C0 | umask << 8) & ~NAIVE_EN);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), 0);
		write(&pmu, SEL(0), C0 | umask << 8);
		pmu_commit(&pmu);
		CHECK_EQ(running(&recorder), !(umask & 1));
	}
	write(&pmu, SEL(0), C0 | 0x100 | 1ull << 32); /* event 1C0h */
	pmu_commit(&pmu);
	CHECK_EQ(running(&recorder), 1);
}

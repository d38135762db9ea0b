/* SPDX-License-Identifier: MIT */
/*
 * What the PMU tests compare with: the manual's table in full, a selector model that recomputes all
 * counters at every commit and knows no bitmap, and a recorder that stands between pmu/ and a
 * backend and counts what passes.
 */
#ifndef TALLY_TEST_PMU_NAIVE_H
#define TALLY_TEST_PMU_NAIVE_H

#include <string.h>

#include "pmu/pmu.h"
#include "test.h"

/* APM2 table 13-4 by hand; the last column is the rule of SVME0_COUNT. Below, numbers instead of
 * the names of x86/pmu.h, so that a wrong definition there is found. */
static const struct naive_row {
	u8 host_only, guest_only, svme, in_l2, stop, count;
} naive_table[] = {
	{0, 0, 0, 0, 1, 1}, {0, 0, 0, 1, 1, 1}, {0, 0, 1, 0, 1, 1}, {0, 0, 1, 1, 1, 1},
	{0, 1, 0, 0, 0, 1}, {0, 1, 0, 1, 0, 1}, {0, 1, 1, 0, 0, 0}, {0, 1, 1, 1, 1, 1},
	{1, 0, 0, 0, 0, 1}, {1, 0, 0, 1, 0, 1}, {1, 0, 1, 0, 1, 1}, {1, 0, 1, 1, 0, 0},
	{1, 1, 0, 0, 0, 1}, {1, 1, 0, 1, 0, 1}, {1, 1, 1, 0, 1, 1}, {1, 1, 1, 1, 1, 1},
};

#define NAIVE_HOSTONLY (1ull << 41)
#define NAIVE_GUESTONLY (1ull << 40)
#define NAIVE_EN (1ull << 22)
#define NAIVE_OS (1ull << 17)
#define NAIVE_USR (1ull << 16)
#define NAIVE_WRITABLE 0x30fffd7ffffull
#define NAIVE_COUNTER ((1ull << 48) - 1)

static inline bool naive_counts(u64 eventsel, bool svme, bool in_l2, enum svme0_rule rule)
{
	for (size_t i = 0; i < ARRAY_SIZE(naive_table); i++) {
		const struct naive_row *row = &naive_table[i];

		if (row->host_only == !!(eventsel & NAIVE_HOSTONLY) &&
		    row->guest_only == !!(eventsel & NAIVE_GUESTONLY) && row->svme == svme &&
		    row->in_l2 == in_l2)
			return rule == SVME0_STOP ? row->stop : row->count;
	}
	test_fail(__FILE__, __LINE__, "the table lacks a row");
	return false;
}

/* Does the selector's CPL filter pass this CPL? */
static inline bool naive_passes(u64 eventsel, unsigned int cpl)
{
	return eventsel & (cpl ? NAIVE_USR : NAIVE_OS);
}

static inline u64 naive_event(u64 eventsel)
{
	return (eventsel & 0xff) | ((eventsel >> 32 & 0xf) << 8);
}

/* No EDGE, CMASK or unit mask; and INV is about CMASK. */
static inline bool naive_is_plain(u64 eventsel)
{
	return !(eventsel & 0xff04ff00);
}

/* A filter as what it is meant to be: a set of event and unit mask, which includes add to and excludes take from. */
static inline bool naive_filter_passes(const struct tally_filter *filter, u64 eventsel)
{
	unsigned int in = 0, out = 0;

	for (u32 i = 0; i < filter->count; i++) {
		const struct tally_filter_entry *entry = &filter->entry[i];
		bool hit = entry->event == naive_event(eventsel);

		for (unsigned int bit = 0; bit < 8; bit++)
			if (entry->umask_mask >> bit & 1)
				hit &= (entry->umask_match >> bit & 1) ==
				       (eventsel >> (8 + bit) & 1);
		in += hit && entry->flags == 0;
		out += hit && entry->flags == 1;
	}
	switch (filter->action) {
	case 1:
		return in && !out;
	case 2:
		return !in || out;
	default:
		return true;
	}
}

/* Entries on few events and often with few bits, so that they meet each other and the selectors. */
static inline struct tally_filter naive_random_filter(void)
{
	static const u16 events[] = {0xc0, 0xc0, 0x76, 0xc2, 0xc6, 0xc1, 0x1c0, 0xfff, 0};
	struct tally_filter filter = {.version = 1, .action = (u32)test_below(3)};

	memset(filter.entry, 0xff, sizeof(filter.entry)); /* what is not counted is not looked at */
	filter.count = !filter.action  ? 0
		       : test_below(4) ? (u32)test_below(8)
				       : (u32)test_below(65);
	for (u32 i = 0; i < filter.count; i++) {
		struct tally_filter_entry *entry = &filter.entry[i];

		entry->event = test_below(8) ? events[test_below(ARRAY_SIZE(events))]
					     : (u16)test_below(4096);
		entry->umask_mask = (u8)(test_below(3) ? test_random() & test_random() : 0);
		entry->umask_match = (u8)(test_random() & test_random() & entry->umask_mask);
		entry->flags = !test_below(3);
	}
	return filter;
}

struct naive {
	enum svme0_rule rule;
	struct tally_filter filter;
	bool svme, in_l2;
	bool ignores_cpl, user; /* the machine counts whatever CPL, so EN follows it */
	u64 global_ctl, global_status;
	u64 eventsel[PMU_COUNTERS];
	u64 hw[PMU_COUNTERS]; /* the machine's, at the last commit */
	u64 hw_changes;
	u64 count[PMU_COUNTERS];
};

static inline struct naive naive_new(enum svme0_rule rule)
{
	return (struct naive){.rule = rule, .global_ctl = 0x3f};
}

/* The triggers, and what the manual says that they imply: VMRUN needs SVME=1, and in L2 there is no
 * way to change L1's. */
static inline void naive_transition(struct naive *naive, struct pmu *pmu, bool in_l2)
{
	CHECK(naive->svme);
	naive->in_l2 = in_l2;
	pmu_nested_transition(pmu, in_l2);
}

static inline void naive_toggle(struct naive *naive, struct pmu *pmu, bool svme)
{
	CHECK(!naive->in_l2);
	naive->svme = svme;
	pmu_svme_toggle(pmu, svme);
}

static inline void naive_cpl(struct naive *naive, struct pmu *pmu, bool user)
{
	naive->user = user;
	pmu_cpl_change(pmu, user);
}

/* 0: SVME=0, 1: L1, 2: L2. There one trigger after the other, as no guest can skip one. */
static inline void naive_go_to(struct naive *naive, struct pmu *pmu, unsigned int mode)
{
	if (naive->in_l2 && mode < 2)
		naive_transition(naive, pmu, false);
	if (naive->svme != (mode > 0))
		naive_toggle(naive, pmu, mode > 0);
	if (!naive->in_l2 && mode == 2)
		naive_transition(naive, pmu, true);
}

static inline void naive_write_eventsel(struct naive *naive, unsigned int idx, u64 value)
{
	naive->eventsel[idx] = value & NAIVE_WRITABLE;
}

static inline void naive_commit(struct naive *naive)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		u64 eventsel = naive->eventsel[idx], hw = naive->hw[idx] & ~NAIVE_EN;

		/* without EN the rest may stay as it was */
		if (eventsel & NAIVE_EN) {
			hw = (eventsel & ~NAIVE_HOSTONLY & ~NAIVE_EN) | NAIVE_GUESTONLY;
			if (naive->global_ctl >> idx & 1 &&
			    naive_filter_passes(&naive->filter, eventsel) &&
			    naive_counts(eventsel, naive->svme, naive->in_l2, naive->rule) &&
			    (!naive->ignores_cpl || naive_passes(eventsel, naive->user)))
				hw |= NAIVE_EN;
		}
		naive->hw_changes += hw != naive->hw[idx];
		naive->hw[idx] = hw;
	}
}

static inline void naive_add(struct naive *naive, unsigned int idx, u64 events)
{
	u64 sum = naive->count[idx] + events;

	if (sum >> 48)
		naive->global_status |= 1ull << idx;
	naive->count[idx] = sum & NAIVE_COUNTER;
}

/* PerfMonV2's registers. */
#define NAIVE_STATUS 0xc0000300u
#define NAIVE_CTL 0xc0000301u
#define NAIVE_CLR 0xc0000302u
#define NAIVE_SET 0xc0000303u

static inline void naive_write_global(struct naive *naive, struct pmu *pmu, u32 msr, u64 value)
{
	CHECK_EQ(pmu_wrmsr(pmu, msr, value), 0);
	value &= 0x3f;
	if (msr == NAIVE_CTL)
		naive->global_ctl = value;
	else if (msr == NAIVE_CLR)
		naive->global_status &= ~value;
	else if (msr == NAIVE_SET)
		naive->global_status |= value;
}

static inline void naive_check_global(const struct naive *naive, struct pmu *pmu)
{
	u64 status = ~0ull, ctl = ~0ull, clr = ~0ull, set = ~0ull;

	CHECK_EQ(pmu_rdmsr(pmu, NAIVE_STATUS, &status), 0);
	CHECK_EQ(pmu_rdmsr(pmu, NAIVE_CTL, &ctl), 0);
	CHECK_EQ(pmu_rdmsr(pmu, NAIVE_CLR, &clr), 0);
	CHECK_EQ(pmu_rdmsr(pmu, NAIVE_SET, &set), 0);
	CHECK_EQ(status, naive->global_status);
	CHECK_EQ(ctl, naive->global_ctl);
	CHECK_EQ(clr | set, 0);
}

/* One of the four registers, most often the control; reserved bits as well. */
static inline void naive_random_global(struct naive *naive, struct pmu *pmu)
{
	u64 random = test_random(), value = random % 4 ? random >> 32 & 0x3f : test_random();

	naive_write_global(naive, pmu, random & 16 ? NAIVE_CTL : NAIVE_STATUS + (random >> 5 & 3),
			   value);
}

/* Holds what a machine would, and hands every call on to `inner` if there is one. */
struct pmu_recorder {
	struct pmu_hw hw;
	struct pmu_hw *inner;
	u64 eventsel[PMU_COUNTERS];
	u64 ctr[PMU_COUNTERS];
	u64 overflows; /* without `inner`: what take_overflows() has to give */
	u64 evtsel_writes, calls;
};

static inline void recorder_write_evtsel(struct pmu_hw *hw, unsigned int idx, u64 eventsel)
{
	struct pmu_recorder *recorder = (struct pmu_recorder *)hw;

	CHECK(recorder->eventsel[idx] != eventsel);
	recorder->eventsel[idx] = eventsel;
	recorder->evtsel_writes++;
	recorder->calls++;
	if (recorder->inner)
		recorder->inner->write_evtsel(recorder->inner, idx, eventsel);
}

static inline void recorder_write_enables(struct pmu_hw *hw, u64 run, u64 changed)
{
	struct pmu_recorder *recorder = (struct pmu_recorder *)hw;

	CHECK(changed);
	CHECK_EQ((run | changed) >> PMU_COUNTERS, 0);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		CHECK_EQ(!!(recorder->eventsel[idx] & NAIVE_EN), (run ^ changed) >> idx & 1);
		if (!(changed >> idx & 1))
			continue;
		recorder->eventsel[idx] ^= NAIVE_EN;
		recorder->evtsel_writes++;
	}
	recorder->calls++;
	if (recorder->inner)
		recorder->inner->write_enables(recorder->inner, run, changed);
}

static inline u64 recorder_read_ctr(struct pmu_hw *hw, unsigned int idx)
{
	struct pmu_recorder *recorder = (struct pmu_recorder *)hw;

	recorder->calls++;
	return recorder->inner ? recorder->inner->read_ctr(recorder->inner, idx)
			       : recorder->ctr[idx];
}

static inline void recorder_write_ctr(struct pmu_hw *hw, unsigned int idx, u64 value)
{
	struct pmu_recorder *recorder = (struct pmu_recorder *)hw;

	CHECK_EQ(value & ~NAIVE_COUNTER, 0);
	recorder->ctr[idx] = value;
	recorder->calls++;
	if (recorder->inner)
		recorder->inner->write_ctr(recorder->inner, idx, value);
}

static inline u64 recorder_take_overflows(struct pmu_hw *hw)
{
	struct pmu_recorder *recorder = (struct pmu_recorder *)hw;
	u64 overflows = recorder->overflows;

	recorder->overflows = 0;
	recorder->calls++;
	return recorder->inner ? recorder->inner->take_overflows(recorder->inner) : overflows;
}

static inline struct pmu_recorder recorder_for(struct pmu_hw *inner)
{
	return (struct pmu_recorder){
		.hw =
			{
				.write_evtsel = recorder_write_evtsel,
				.write_enables = recorder_write_enables,
				.read_ctr = recorder_read_ctr,
				.write_ctr = recorder_write_ctr,
				.take_overflows = recorder_take_overflows,
				.ignores_cpl = inner && inner->ignores_cpl,
			},
		.inner = inner,
	};
}

/* The machine holds what the naive model says, and came to it with no write too many. */
static inline void naive_check_selectors(const struct naive *naive, const struct pmu *pmu,
					 const struct pmu_recorder *recorder)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		CHECK_EQ(recorder->eventsel[idx], naive->hw[idx]);
		CHECK_EQ(pmu_machine_evtsel(pmu, idx), naive->hw[idx]);
		CHECK_EQ(pmu->eventsel[idx], naive->eventsel[idx]);
	}
	CHECK_EQ(recorder->evtsel_writes, naive->hw_changes);
	CHECK_EQ(pmu->evtsel_writes, naive->hw_changes);
}

/* Selectors as guests write them, and now and then any 64 bits. */
static inline u64 naive_random_eventsel(void)
{
	static const u64 events[] = {0xc0, 0xc0, 0xc0, 0x76, 0xc2, 0xc6, 0xc1, 0x1000000c0};
	u64 random = test_random(), eventsel;

	if (random % 16 == 0)
		return test_random();
	eventsel = events[test_below(ARRAY_SIZE(events))] | test_below(4) << 40;
	eventsel |= test_below(8) ? NAIVE_USR | NAIVE_OS : test_below(4) << 16;
	eventsel |= test_below(8) ? NAIVE_EN : 0;
	if (random % 16 == 1)
		eventsel |= test_random() & 0xff84ff00;
	if (random % 16 == 2) /* INV and a CMASK that makes a difference */
		eventsel |= test_below(2) << 23 | test_below(4) << 24;
	return eventsel;
}

/* Counter values: often close to where they wrap. */
static inline u64 naive_random_count(void)
{
	u64 value = test_random();

	return value % 3 ? value : test_below(8) - 4;
}

#endif

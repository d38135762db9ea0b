/* SPDX-License-Identifier: MIT */
/*
 * PMU backend `clock`, for a machine without a PMU: the TSC is the event source. Under QEMU's
 * -icount shift=N it ticks 2^N times per instruction, so that retired instructions are exact;
 * elsewhere an instruction counts as many as the ticks it took. A counter is computed from guest
 * time when somebody looks at it; nothing happens while it runs.
 */
#ifndef TALLY_PMU_CLOCK_H
#define TALLY_PMU_CLOCK_H

#include "pmu/pmu.h"

/* QEMU's largest shift. The arithmetic would bear 16: 64 bits less the width of a counter. */
#define PMU_CLOCK_MAX_SHIFT 10

/* In `counting`: somebody else wants `now` advanced, too: the trace, IRPERF. */
#define PMU_CLOCK_TIME BIT(63)
#define PMU_CLOCK_IRPERF BIT(62)

struct pmu_clock {
	struct pmu_hw hw; /* first: the hw functions find the rest from it */
	/* Guest time in ticks, without L0's and without HLT's. The caller advances it before
	 * anything here is called; while `counting` is 0 it may stand still. */
	u64 now;
	u64 counting;	/* counters that run now; the caller may have one of the bits above in it */
	u64 insn_ticks; /* ticks per instruction; 1 if nobody knows */
	unsigned int shift;
	bool exact;

	u64 interrupting; /* counters with a selector that has INT */
	/* When the first running one of those carries, as `now` has it; PMU_CLOCK_NEVER. The caller looks at it, and calls
	 * pmu_clock_interrupts() then. */
	u64 deadline;
	bool interrupt; /* one has carried, and pmu_clock_interrupts() has not said so yet */

	u64 countable;	  /* counters with a selector that counts here */
	u64 instructions; /* counters whose unit is insn_ticks; all others count single ticks */
	/*
	 * In ticks, whatever the unit, so that a part of an instruction survives a stop. The count
	 * of a counter is its own ticks, plus those of the group that it is in, plus now while it
	 * runs: starting and stopping is one subtraction or addition. The counters that were
	 * started together last are one group, those that were stopped with them the other. As an
	 * L1<->L2 switch starts what the one before stopped, and stops what that one started, it
	 * costs the same for one counter as for six.
	 */
	u64 ticks[PMU_COUNTERS];
	struct pmu_clock_group {
		u64 counters;
		u64 ticks;
	} group[2];
};

/* All counters 0 and stopped. 2^shift ticks are one instruction; exact: and none are anybody else's. -E_RANGE if shift is
 * above the maximum. */
int pmu_clock_init(struct pmu_clock *clock, bool exact, unsigned int shift);

#define PMU_CLOCK_NEVER (~0ull)

/* Whether a counter with INT has carried since the last call: then one interrupt is due. */
bool pmu_clock_interrupts(struct pmu_clock *clock);

/* An instruction that L0 emulated retires, for the counters that run; see pmu.h for when. */
static inline void pmu_clock_retire(struct pmu_clock *clock)
{
	clock->now += clock->insn_ticks;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * PMU backend `guest-only`: the counters of a machine that honours GuestOnly. They are left in the
 * hardware, which does not count L0, so an ordinary exit touches no PMU register.
 *
 * The owed tick. The hardware counts each VMRUN that L0 executes in the guest that it enters: one
 * instruction, one branch, one far transfer, if the selector's USR/OS pass the CPL entered. After
 * an exit on an instruction that L0 emulates, this stray instruction is the very retirement that L0
 * owes the guest: nothing to do. Whenever the two differ (an NPF, an interrupt, an exit passed on
 * to L1; any branch counter) the counters concerned are corrected before VMRUN. Nothing races with
 * that: outside the guest they stand still.
 *
 * Nothing can be taken off a counter that holds 0: the VMRUN after it would carry out of bit 47,
 * which the hardware takes for an overflow, with an interrupt if the selector has INT. Such a
 * counter is let run one ahead of the guest's, and is put right at the next exit, when it holds 1
 * or more. Until then the guest must not reach the counters without an exit.
 *
 * With PerfMonV2 PerfCntGlobalCtl holds the counters that run: an L1<->L2 switch is one write, for
 * one counter as for six.
 *
 * A correction that carries is a register write, which the hardware takes for no overflow: its
 * status bit and its interrupt are L0's to give.
 */
#ifndef TALLY_PMU_GUEST_ONLY_H
#define TALLY_PMU_GUEST_ONLY_H

#include "pmu/pmu.h"

/* What one VMRUN adds, found out at boot by running a guest that does nothing. */
struct pmu_vmrun_ticks {
	bool instructions;  /* event 0C0h */
	bool branches;	    /* event 0C2h */
	bool far_transfers; /* event 0C6h */
};

struct pmu_guest_only {
	struct pmu_hw hw; /* first: the hw functions find the rest from it */
	u64 (*rdmsr)(struct pmu_guest_only *backend, u32 msr);
	void (*wrmsr)(struct pmu_guest_only *backend, u32 msr, u64 value);
	struct pmu_vmrun_ticks tick;
	bool global; /* EN stays set in the selectors, and PerfCntGlobalCtl is what starts and stops */
	/* Not 0: pmu_guest_only_switch() may not be used. `ahead`, or one bit more. */
	u64 detour;

	/* Counters that hold one more than the guest's while it runs: then all reads and writes of
	 * counters have to come here, from pmu_guest_only_entry() on until the next one. */
	u64 ahead;
	/* A correction made a counter with INT carry, which the hardware has not seen: the caller has to send its
	 * interrupt, and to clear this. */
	bool interrupt;

	u64 owed; /* instructions emulated since the last VMRUN: one PMU_AT_CPL() each */

	u64 enabled; /* counters with EN */
	/* Counters by selector, with EN or without: */
	u64 on_instructions; /* counts retired instructions, also emulated ones */
	u64 on_ticked;	     /* counts something that a VMRUN of L0's adds to */
	u64 on_either;
	u64 on_one;		    /* one of the two, but not the other */
	u64 eventsel[PMU_COUNTERS]; /* with `global`, EN is not kept here */
};

/* Numbers of instructions: those at CPL 0 in the low half of a word, those at CPL > 0 in the high
 * half. */
#define PMU_AT_CPL(cpl) ((cpl) ? 1ull << 32 : 1ull)

/* The selectors in the machine must be 0. Reads and writes no register, but that with `global`,
 * which needs PerfMonV2, PerfCntGlobalCtl becomes 0. */
void pmu_guest_only_init(struct pmu_guest_only *backend, struct pmu_vmrun_ticks tick, bool global,
			 u64 (*rdmsr)(struct pmu_guest_only *, u32),
			 void (*wrmsr)(struct pmu_guest_only *, u32, u64));

void pmu_guest_only_correct(struct pmu_guest_only *backend, u64 owed, u64 entered);

/* An instruction that L0 emulated retires at `cpl`; see pmu.h for when. */
static inline void pmu_guest_only_retire(struct pmu_guest_only *backend, unsigned int cpl)
{
	backend->owed += PMU_AT_CPL(cpl);
}

/* The last thing before VMRUN, which enters the guest at `cpl`. */
static inline void pmu_guest_only_entry(struct pmu_guest_only *backend, unsigned int cpl)
{
	u64 owed = backend->owed, enabled = backend->enabled;

	backend->owed = 0;
	if (likely(!((backend->on_either & enabled) | backend->ahead)))
		return;
	if (unlikely(owed != PMU_AT_CPL(cpl) || (backend->on_one & enabled) | backend->ahead))
		pmu_guest_only_correct(backend, owed, PMU_AT_CPL(cpl));
}

/* PerfCntGlobalCtl is not it, or somebody has to see what the backend is asked for. */
#define PMU_GUEST_ONLY_DETOUR BIT(63)

/*
 * An L1<->L2 switch that makes a difference for a counter, after pmu_nested_mode() and with nothing pending: what
 * pmu_commit() would do, where it is one write. True: *run is to be written to PerfCntGlobalCtl. False: pmu_mark() and
 * pmu_commit().
 */
static ALWAYS_INLINE bool pmu_guest_only_switch(struct pmu_guest_only *backend, struct pmu *pmu,
						bool in_l2, u32 *run)
{
	u64 counters = pmu->enabled & pmu->allowed[in_l2 ? PMU_MODE_L2 : PMU_MODE_L1];

	if (unlikely(backend->detour))
		return false;
	pmu->enabled_hw = backend->enabled = counters;
	*run = (u32)counters;
	return true;
}

/* All of an L1<->L2 switch, also where another backend is in use, whose `detour` is set. True: as above, *run is to be
 * written to PerfCntGlobalCtl. */
static ALWAYS_INLINE bool pmu_guest_only_transition(struct pmu_guest_only *backend, struct pmu *pmu,
						    bool in_l2, u32 *run)
{
	u64 counters = pmu_nested_mode(pmu, in_l2);

	if (likely(!counters))
		return false;
	if (pmu_guest_only_switch(backend, pmu, in_l2, run))
		return true;
	pmu_mark(pmu, counters);
	pmu_commit_pending(pmu);
	return false;
}

#endif

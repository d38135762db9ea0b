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
 * An L1<->L2 switch is a list of writes that was prepared when a selector changed: the selectors of
 * the counters that start or stop, or with PerfMonV2 PerfCntGlobalCtl alone, which then holds the
 * counters that run.
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

struct pmu_guest_only_write {
	u32 msr, low, high;
};

struct pmu_guest_only {
	struct pmu_hw hw; /* first: the hw functions find the rest from it */
	u64 (*rdmsr)(struct pmu_guest_only *backend, u32 msr);
	void (*wrmsr)(struct pmu_guest_only *backend, u32 msr, u64 value);
	struct pmu_vmrun_ticks tick;
	bool global; /* EN stays set in the selectors, and PerfCntGlobalCtl is what starts and stops */
	/* Not 0: the list of writes is not the way of a switch. `ahead`, or one of the bits below. */
	u64 detour;
	/* What a switch does, prepared: into L1, into L2. The number of writes is the same. */
	u32 writes;
	struct pmu_guest_only_switch {
		u64 run; /* counters that run then */
		struct pmu_guest_only_write write[PMU_COUNTERS];
	} into[2];

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
	u64 eventsel[PMU_COUNTERS]; /* EN is not kept here */
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

/* In `detour`: there is nothing to write; somebody has to see what the backend is asked for, or it is another. */
#define PMU_GUEST_ONLY_NOTHING BIT(PMU_COUNTERS)
#define PMU_GUEST_ONLY_DETOUR BIT(PMU_COUNTERS + 1)

/* To be called after a pmu_commit() that followed a change of a selector, of PerfCntGlobalCtl or of the filter: before the
 * next switch. */
void pmu_guest_only_prepare(struct pmu_guest_only *backend, const struct pmu *pmu);

/* What was emulated so far belongs to the counters as they run now. Before a #VMEXIT that follows an emulated instruction
 * without a VMRUN in between; what else changes or reads counters does so by itself. */
void pmu_guest_only_settle(struct pmu_guest_only *backend);

/* Of pmu_guest_only_transition(): where there is no list of writes, or another backend. */
void pmu_guest_only_detour(struct pmu *pmu, const struct pmu_guest_only *backend);

/*
 * All of an L1<->L2 switch, with SVME=1 and nothing pending: what pmu_nested_transition() and pmu_commit() would do. Also
 * where another backend is in use, whose `detour` is set. 8 instructions, and 6 for each write with its own four
 * (tests/host/transition-cost): so what is only looked at here must not be kept in a register.
 */
static ALWAYS_INLINE void pmu_guest_only_transition(
	struct pmu_guest_only *backend, struct pmu *pmu, bool in_l2,
	void (*wrmsr)(const struct pmu_guest_only_write *))
{
	const struct pmu_guest_only_switch *into = &backend->into[in_l2];

	if (likely(!pmu_nested_mode(pmu, in_l2)))
		return;
	if (unlikely(backend->detour)) {
		pmu_guest_only_detour(pmu, backend);
		return;
	}
	pmu->enabled_hw = backend->enabled = into->run;
	/* there is at least one; a loop would count as well */
	wrmsr(&into->write[0]);
	if (backend->writes == 1)
		return;
	wrmsr(&into->write[1]);
	if (backend->writes == 2)
		return;
	wrmsr(&into->write[2]);
	if (backend->writes == 3)
		return;
	wrmsr(&into->write[3]);
	if (backend->writes == 4)
		return;
	wrmsr(&into->write[4]);
	if (backend->writes == 5)
		return;
	wrmsr(&into->write[5]);
	static_assert(PMU_COUNTERS == 6, "as many writes");
}

#endif

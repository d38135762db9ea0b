/* SPDX-License-Identifier: MIT */
/*
 * PMU backend `switched`: the counters of a machine whose selectors drop HostOnly and GuestOnly, or
 * do not honour them. It would count L0 as well, so its counters are stopped at each #VMEXIT and
 * started before each VMRUN, by the writes of MSRs that `write` lists. While none is to run, there
 * is nothing to write.
 *
 * What L0 executes between the start and VMRUN, and between #VMEXIT and the stop, is counted all
 * the same. It is always the same code, so its share in a count of instructions, branches or far
 * transfers is a constant, found out at boot by running a guest that does nothing. Taking it off
 * costs nothing at an exit: only the entries are counted, and the sum is taken off when somebody
 * looks at a counter, or before it changes what it counts. So is what L0 emulates added.
 *
 * The guest must reach neither the counters nor the selectors without an exit. Its counts are kept
 * here, in 64 bits; of the machine's counters only the progress matters, and they are never
 * written. INT is not set in the machine: its counters run ahead of the guest's, and would
 * interrupt too early. Instead the counters with INT are looked at after each exit.
 */
#ifndef TALLY_PMU_SWITCHED_H
#define TALLY_PMU_SWITCHED_H

#include "pmu/pmu.h"

/* One WRMSR that starts counting and, with another low half, one that stops it. */
struct pmu_switched_write {
	u32 msr, start, stop, high;
};

/* The events that L0's own share can be taken off. */
enum pmu_switched_event {
	PMU_SWITCHED_INSTRUCTIONS,
	PMU_SWITCHED_BRANCHES,
	PMU_SWITCHED_FAR_TRANSFERS,
	PMU_SWITCHED_EVENTS,
};

/* A selector's USR and OS as an index. */
#define PMU_SWITCHED_FILTER(eventsel) ((eventsel) / EVTSEL_USR % 4)

/*
 * L0's share in a count, for each round of start, VMRUN, #VMEXIT and stop: by the event, the
 * selector's USR and OS, whether VMRUN enters CPL > 0 (it is itself counted there), and the number
 * of entries of `write`, less 1.
 */
struct pmu_switched_overhead {
	u32 at[PMU_SWITCHED_EVENTS][4][2][PMU_COUNTERS];
};

struct pmu_switched {
	struct pmu_hw hw; /* first: the hw functions find the rest from it */
	u64 (*rdmsr)(struct pmu_switched *backend, u32 msr);
	void (*wrmsr)(struct pmu_switched *backend, u32 msr, u64 value);

	u64 writes; /* entries of `write`: 0 while no counter runs */
	struct pmu_switched_write write[PMU_COUNTERS];
	/* VMRUNs with counters running since the last settlement, by the CPL entered. Whoever does
	 * the writes counts them. */
	u64 entries[4];
	u64 retired[4]; /* and instructions emulated, by their CPL */

	bool global; /* PerfCntGlobalCtl switches all counters at once */
	struct pmu_switched_overhead overhead;

	u64 running; /* counters that count while the guest runs */
	u64 eventsel[PMU_COUNTERS];
	enum pmu_switched_event event[PMU_COUNTERS]; /* PMU_SWITCHED_EVENTS: nothing is taken off */
	u64 correction[PMU_COUNTERS];		     /* still to be added to `value` */
	u64 value[PMU_COUNTERS]; /* the guest's, when the machine's was `seen` */
	u64 seen[PMU_COUNTERS];
	/* Counters whose selector has INT, and PMU_SWITCHED_DUE. While it is 0 nobody need ask for
	 * interrupts. */
	u64 interrupting;
};

/* The selectors in the machine must be 0. `global`: the machine has PerfMonV2; PerfCntGlobalCtl
 * becomes 0. The overhead is 0 until somebody sets it. */
void pmu_switched_init(struct pmu_switched *backend, bool global,
		       u64 (*rdmsr)(struct pmu_switched *, u32),
		       void (*wrmsr)(struct pmu_switched *, u32, u64));

/* In `interrupting`: a counter with INT has carried, and nobody was told. */
#define PMU_SWITCHED_DUE BIT(63)

/* Whether an overflow interrupt has to be sent; it is the caller's then. */
bool pmu_switched_interrupts(struct pmu_switched *backend);

/* An instruction that L0 emulated retires at `cpl`; see pmu.h for when. */
static inline void pmu_switched_retire(struct pmu_switched *backend, unsigned int cpl)
{
	backend->retired[cpl % 4]++;
}

#endif

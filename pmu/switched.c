/* SPDX-License-Identifier: MIT */
#include "pmu/switched.h"

static struct pmu_switched *to_switched(struct pmu_hw *hw)
{
	static_assert(offsetof(struct pmu_switched, hw) == 0, "cast");
	return (struct pmu_switched *)hw;
}

/* EDGE and CMASK make it a counter of cycles, and what a unit mask does to these events is not
 * documented: what is L0's in such a count is not known. */
static enum pmu_switched_event event_of(u64 eventsel)
{
	if (eventsel & (EVTSEL_UMASK | EVTSEL_EDGE | EVTSEL_CMASK))
		return PMU_SWITCHED_EVENTS;
	switch (EVTSEL_EVENT(eventsel)) {
	case EVENT_RETIRED_INSTRUCTIONS:
		return PMU_SWITCHED_INSTRUCTIONS;
	case EVENT_RETIRED_BRANCHES:
		return PMU_SWITCHED_BRANCHES;
	case EVENT_RETIRED_FAR_TRANSFERS:
		return PMU_SWITCHED_FAR_TRANSFERS;
	default:
		return PMU_SWITCHED_EVENTS;
	}
}

/* Sums by CPL: at CPL 0 and above. */
struct by_cpl {
	u64 os, usr;
};

static struct by_cpl take(u64 at_cpl[4])
{
	struct by_cpl sum = {at_cpl[0], at_cpl[1] + at_cpl[2] + at_cpl[3]};

	for (unsigned int cpl = 0; cpl < 4; cpl++)
		at_cpl[cpl] = 0;
	return sum;
}

/* What happened so far belongs to the counters as they run now. To be called before anything reads
 * or changes them. */
static void settle(struct pmu_switched *backend)
{
	struct by_cpl entries = take(backend->entries), retired = take(backend->retired);

	for (u64 left = backend->running; left; left &= left - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(left);
		enum pmu_switched_event event = backend->event[idx];
		u64 eventsel = backend->eventsel[idx], owed = 0;
		const u32(*overhead)[PMU_COUNTERS];

		if (event == PMU_SWITCHED_EVENTS)
			continue;
		if (event == PMU_SWITCHED_INSTRUCTIONS)
			owed = ((eventsel & EVTSEL_OS) ? retired.os : 0) +
			       ((eventsel & EVTSEL_USR) ? retired.usr : 0);
		overhead = backend->overhead.at[event][PMU_SWITCHED_FILTER(eventsel)];
		backend->correction[idx] += owed - entries.os * overhead[0][backend->writes - 1] -
					    entries.usr * overhead[1][backend->writes - 1];
	}
}

/* Brings the guest's count up to date. */
static void update(struct pmu_switched *backend, unsigned int idx)
{
	u64 now = backend->rdmsr(backend, MSR_PERFCTR(idx));
	u64 sum = backend->value[idx] + ((now - backend->seen[idx]) & PMU_COUNTER_MASK) +
		  backend->correction[idx];

	backend->seen[idx] = now;
	backend->correction[idx] = 0;
	if ((s64)sum < 0) { /* more was taken off than L0's share: it stays owed */
		backend->correction[idx] = sum;
		sum = 0;
	}
	if (sum >> PMU_COUNTER_BITS) {
		backend->hw.overflows |= BIT(idx);
		if (backend->interrupting & BIT(idx))
			backend->interrupting |= PMU_SWITCHED_DUE;
	}
	backend->value[idx] = sum & PMU_COUNTER_MASK;
}

bool pmu_switched_interrupts(struct pmu_switched *backend)
{
	bool due;

	settle(backend);
	for (u64 left = backend->interrupting & ~PMU_SWITCHED_DUE; left; left &= left - 1)
		update(backend, (unsigned int)__builtin_ctzll(left));
	due = backend->interrupting & PMU_SWITCHED_DUE;
	backend->interrupting &= ~PMU_SWITCHED_DUE;
	return due;
}

/* Lists the writes that the counters in `running` need. */
static void list_writes(struct pmu_switched *backend)
{
	u64 writes = 0;

	if (backend->global) {
		backend->write[0].start = (u32)backend->running;
		backend->writes = backend->running != 0;
		return;
	}
	/* in the same order to start and to stop, so that each is on for as long as any other */
	for (u64 left = backend->running; left; left &= left - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(left);
		u64 eventsel = backend->eventsel[idx];

		backend->write[writes++] = (struct pmu_switched_write){
			.msr = MSR_PERFEVTSEL(idx),
			.start = (u32)(eventsel | EVTSEL_EN),
			.stop = (u32)eventsel,
			.high = (u32)(eventsel >> 32),
		};
	}
	backend->writes = writes;
}

static void switched_write_evtsel(struct pmu_hw *hw, unsigned int idx, u64 eventsel)
{
	struct pmu_switched *backend = to_switched(hw);

	settle(backend);
	update(backend, idx); /* its carry is the old selector's */
	backend->interrupting &= ~BIT(idx);
	if (eventsel & EVTSEL_INT)
		backend->interrupting |= BIT(idx);
	backend->running &= ~BIT(idx);
	if (eventsel & EVTSEL_EN)
		backend->running |= BIT(idx);
	backend->event[idx] = event_of(eventsel);
	backend->eventsel[idx] = eventsel & ~(EVTSEL_EN | EVTSEL_INT | EVTSEL_HOST_GUEST);
	/* else it is written when it starts */
	if (backend->global)
		backend->wrmsr(backend, MSR_PERFEVTSEL(idx), backend->eventsel[idx] | EVTSEL_EN);
	list_writes(backend);
}

static void switched_write_enables(struct pmu_hw *hw, u64 run, u64 changed)
{
	struct pmu_switched *backend = to_switched(hw);

	(void)changed;
	settle(backend);
	backend->running = run;
	list_writes(backend);
}

static u64 switched_read_ctr(struct pmu_hw *hw, unsigned int idx)
{
	struct pmu_switched *backend = to_switched(hw);

	settle(backend);
	update(backend, idx);
	return backend->value[idx];
}

static void switched_write_ctr(struct pmu_hw *hw, unsigned int idx, u64 value)
{
	struct pmu_switched *backend = to_switched(hw);

	settle(backend);
	update(backend, idx); /* its carry is seen before the new value covers it */
	backend->correction[idx] = 0;
	backend->value[idx] = value;
}

static u64 switched_take_overflows(struct pmu_hw *hw)
{
	struct pmu_switched *backend = to_switched(hw);
	u64 overflows;

	settle(backend);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		update(backend, idx);
	overflows = backend->hw.overflows;
	backend->hw.overflows = 0;
	return overflows;
}

static const char *switched_unsupported(struct pmu_hw *hw, u64 eventsel)
{
	(void)hw;
	(void)eventsel;
	return NULL; /* the hardware decides what an event is */
}

void pmu_switched_init(struct pmu_switched *backend, bool global,
		       u64 (*rdmsr)(struct pmu_switched *, u32),
		       void (*wrmsr)(struct pmu_switched *, u32, u64))
{
	*backend = (struct pmu_switched){
		.hw =
			{
				.write_evtsel = switched_write_evtsel,
				.write_enables = switched_write_enables,
				.read_ctr = switched_read_ctr,
				.write_ctr = switched_write_ctr,
				.unsupported = switched_unsupported,
				.take_overflows = switched_take_overflows,
			},
		.rdmsr = rdmsr,
		.wrmsr = wrmsr,
		.global = global,
		.write[0].msr = MSR_PERF_GLOBAL_CTL,
	};
	if (global)
		wrmsr(backend, MSR_PERF_GLOBAL_CTL, 0);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		backend->event[idx] = PMU_SWITCHED_EVENTS;
		backend->seen[idx] = rdmsr(backend, MSR_PERFCTR(idx));
	}
}

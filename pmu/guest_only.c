/* SPDX-License-Identifier: MIT */
#include "pmu/guest_only.h"

static struct pmu_guest_only *to_guest_only(struct pmu_hw *hw)
{
	static_assert(offsetof(struct pmu_guest_only, hw) == 0, "cast");
	return (struct pmu_guest_only *)hw;
}

/* How many of the instructions in `at_cpl` pass the selector's CPL filter (table 13-6). */
static u64 passing(u64 eventsel, u64 at_cpl)
{
	return ((eventsel & EVTSEL_OS) ? (u32)at_cpl : 0) +
	       ((eventsel & EVTSEL_USR) ? at_cpl >> 32 : 0);
}

static void add(struct pmu_guest_only *backend, unsigned int idx, u64 correction)
{
	u64 value = backend->rdmsr(backend, MSR_PERFCTR(idx)) & PMU_COUNTER_MASK;
	u64 sum = value + correction;

	if ((s64)sum < 0) { /* by 1: no more than the tick of one VMRUN is ever taken off */
		backend->ahead |= BIT(idx);
		backend->detour |= BIT(idx);
		sum = 0;
	} else if (sum >> PMU_COUNTER_BITS) {
		backend->hw.overflows |= BIT(idx);
		backend->interrupt |= (backend->eventsel[idx] & EVTSEL_INT) != 0;
	}
	if (sum != value)
		backend->wrmsr(backend, MSR_PERFCTR(idx), sum & PMU_COUNTER_MASK);
}

/* Adds to the counters what the guest is owed, and takes off what the VMRUN into `entered` is going
 * to add and what the last one added too much; the first two as sums of PMU_AT_CPL(). A counter for
 * which they are the same is not touched. */
void pmu_guest_only_correct(struct pmu_guest_only *backend, u64 owed, u64 entered)
{
	u64 ahead = backend->ahead, owed_to = backend->on_instructions & backend->enabled;
	u64 ticked = backend->on_ticked & backend->enabled, counters = owed_to | ticked | ahead;

	backend->ahead = 0;
	backend->detour &= PMU_GUEST_ONLY_DETOUR | PMU_GUEST_ONLY_NOTHING;
	for (; counters; counters &= counters - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(counters);
		u64 eventsel = backend->eventsel[idx], correction = 0;

		if (owed_to & BIT(idx))
			correction += passing(eventsel, owed);
		if (ticked & BIT(idx))
			correction -= passing(eventsel, entered);
		correction -= ahead >> idx & 1;
		if (correction)
			add(backend, idx, correction);
	}
}

void pmu_guest_only_settle(struct pmu_guest_only *backend)
{
	u64 owed = backend->owed;

	backend->owed = 0;
	if (owed | backend->ahead)
		pmu_guest_only_correct(backend, owed, 0);
}

static void guest_only_write_evtsel(struct pmu_hw *hw, unsigned int idx, u64 eventsel)
{
	struct pmu_guest_only *backend = to_guest_only(hw);
	u64 bit = BIT(idx), was = backend->enabled;

	pmu_guest_only_settle(backend);
	backend->eventsel[idx] = eventsel & ~EVTSEL_EN;
	backend->enabled &= ~bit;
	backend->on_instructions &= ~bit;
	backend->on_ticked &= ~bit;

	if (eventsel & EVTSEL_EN)
		backend->enabled |= bit;
	/* EDGE and CMASK make it a counter of cycles, which one instruction more or less need
	 * not change; what a unit mask does to these events is not documented. Such counters are
	 * left alone. */
	if (!(eventsel & (EVTSEL_UMASK | EVTSEL_EDGE | EVTSEL_CMASK))) {
		u32 event = EVTSEL_EVENT(eventsel);

		if (event == EVENT_RETIRED_INSTRUCTIONS)
			backend->on_instructions |= bit;
		if ((event == EVENT_RETIRED_INSTRUCTIONS && backend->tick.instructions) ||
		    (event == EVENT_RETIRED_BRANCHES && backend->tick.branches) ||
		    (event == EVENT_RETIRED_FAR_TRANSFERS && backend->tick.far_transfers))
			backend->on_ticked |= bit;
	}
	backend->on_either = backend->on_instructions | backend->on_ticked;
	backend->on_one = backend->on_instructions ^ backend->on_ticked;
	backend->wrmsr(backend, MSR_PERFEVTSEL(idx), eventsel | (backend->global ? EVTSEL_EN : 0));
	if (backend->global && backend->enabled != was)
		backend->wrmsr(backend, MSR_PERF_GLOBAL_CTL, backend->enabled);
}

static void guest_only_write_enables(struct pmu_hw *hw, u64 run, u64 changed)
{
	struct pmu_guest_only *backend = to_guest_only(hw);

	pmu_guest_only_settle(backend);
	backend->enabled = run;
	for (; changed; changed &= changed - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(changed);

		backend->wrmsr(backend, MSR_PERFEVTSEL(idx),
			       backend->eventsel[idx] | (run & BIT(idx) ? EVTSEL_EN : 0));
	}
}

/* The same by PerfCntGlobalCtl. */
static void guest_only_write_global(struct pmu_hw *hw, u64 run, u64 changed)
{
	struct pmu_guest_only *backend = to_guest_only(hw);

	(void)changed;
	pmu_guest_only_settle(backend);
	backend->enabled = run;
	backend->wrmsr(backend, MSR_PERF_GLOBAL_CTL, run);
}

static struct pmu_guest_only_write write_of(u32 msr, u64 value)
{
	return (struct pmu_guest_only_write){msr, (u32)value, (u32)(value >> 32)};
}

void pmu_guest_only_prepare(struct pmu_guest_only *backend, const struct pmu *pmu)
{
	u64 changing = pmu->enabled & pmu->reprogram_pmc_on_nested_transition;

	for (unsigned int in_l2 = 0; in_l2 < 2; in_l2++) {
		enum pmu_mode mode = in_l2 ? PMU_MODE_L2 : PMU_MODE_L1;
		struct pmu_guest_only_switch *into = &backend->into[in_l2];

		into->run = pmu->enabled & pmu->allowed[mode];
		backend->writes = 0;
		if (backend->global) {
			into->write[backend->writes++] = write_of(MSR_PERF_GLOBAL_CTL, into->run);
			continue;
		}
		for (u64 left = changing; left; left &= left - 1) {
			unsigned int idx = (unsigned int)__builtin_ctzll(left);

			into->write[backend->writes++] = write_of(
				MSR_PERFEVTSEL(idx), pmu_machine_evtsel_in(pmu, idx, mode));
		}
	}
	if (changing)
		backend->detour &= ~PMU_GUEST_ONLY_NOTHING;
	else
		backend->detour |= PMU_GUEST_ONLY_NOTHING;
}

void pmu_guest_only_detour(struct pmu *pmu, const struct pmu_guest_only *backend)
{
	if (backend->detour != PMU_GUEST_ONLY_NOTHING)
		pmu_commit_counters(pmu, pmu->reprogram_pmc_on_nested_transition);
}

static u64 guest_only_read_ctr(struct pmu_hw *hw, unsigned int idx)
{
	struct pmu_guest_only *backend = to_guest_only(hw);

	pmu_guest_only_settle(backend);
	return backend->rdmsr(backend, MSR_PERFCTR(idx));
}

static void guest_only_write_ctr(struct pmu_hw *hw, unsigned int idx, u64 value)
{
	struct pmu_guest_only *backend = to_guest_only(hw);

	pmu_guest_only_settle(backend);
	backend->wrmsr(backend, MSR_PERFCTR(idx), value);
}

/* Asked for only where the machine has PerfMonV2: without it nothing tells of a carry. */
static u64 guest_only_take_overflows(struct pmu_hw *hw)
{
	struct pmu_guest_only *backend = to_guest_only(hw);
	u64 status = backend->rdmsr(backend, MSR_PERF_GLOBAL_STATUS) & BITS(PMU_COUNTERS - 1, 0);
	u64 overflows = backend->hw.overflows | status;

	backend->hw.overflows = 0;
	if (status)
		backend->wrmsr(backend, MSR_PERF_GLOBAL_STATUS_CLR, status);
	return overflows;
}

static const char *guest_only_unsupported(struct pmu_hw *hw, u64 eventsel)
{
	(void)hw;
	(void)eventsel;
	return NULL; /* the hardware decides what an event is */
}

void pmu_guest_only_init(struct pmu_guest_only *backend, struct pmu_vmrun_ticks tick, bool global,
			 u64 (*rdmsr)(struct pmu_guest_only *, u32),
			 void (*wrmsr)(struct pmu_guest_only *, u32, u64))
{
	*backend = (struct pmu_guest_only){
		.hw =
			{
				.write_evtsel = guest_only_write_evtsel,
				.write_enables =
					global ? guest_only_write_global : guest_only_write_enables,
				.read_ctr = guest_only_read_ctr,
				.write_ctr = guest_only_write_ctr,
				.unsupported = guest_only_unsupported,
				.take_overflows = guest_only_take_overflows,
			},
		.rdmsr = rdmsr,
		.wrmsr = wrmsr,
		.tick = tick,
		.global = global,
		.detour = PMU_GUEST_ONLY_NOTHING,
	};
	if (global)
		wrmsr(backend, MSR_PERF_GLOBAL_CTL, 0);
}

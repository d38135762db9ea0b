/* SPDX-License-Identifier: MIT */
/* The PMU model: truth table, guest registers, commit. AMD64 APM vol. 2, rev. 3.44, §13.2. */
#include "pmu/pmu.h"

#include "pmu/filter.h"

#define ALL_COUNTERS BITS(PMU_COUNTERS - 1, 0)

static_assert(SVME0_STOP == 0 && SVME0_COUNT == 1, "columns of the truth table");
static_assert(EVTSEL_HOSTONLY == EVTSEL_GUESTONLY << 1, "rows of the truth table");

bool pmu_counts(u64 eventsel, bool svme, bool in_l2, enum svme0_rule rule)
{
	static const bool counts[4][4] = {
		/*              SVME=0, stop | SVME=0, count | SVME=1, L1 | SVME=1, L2 */
		/* neither   */ {true, true, true, true},
		/* GuestOnly */ {false, true, false, true},
		/* HostOnly  */ {false, true, true, false},
		/* both      */ {false, true, true, true},
	};

	return counts[eventsel / EVTSEL_GUESTONLY % 4][svme ? 2u + in_l2 : (unsigned int)rule];
}

void pmu_init(struct pmu *pmu, struct pmu_hw *hw, enum svme0_rule rule)
{
	/* Member by member: a compound literal of this size would become a call of memset, which
	 * pure code does not have. */
	pmu->hw = hw;
	pmu->mode = PMU_MODE_SVME0;
	pmu->has_v2 = false;
	pmu->extended_msrs = 2 * PMU_COUNTERS;
	pmu->global_ctl = ALL_COUNTERS;
	pmu->global_status = 0;
	pmu->filter.version = TALLY_FILTER_VERSION;
	pmu->filter.action = TALLY_FILTER_OFF;
	pmu->filter.count = 0;
	pmu->filter.reserved = 0;
	pmu->en = 0;
	pmu->looked_at = EVTSEL_HOST_GUEST;
	pmu->passing = ALL_COUNTERS;
	pmu->open = ALL_COUNTERS;
	pmu->rule = rule;
	pmu->reprogram_pmc_on_nested_transition = 0;
	pmu->reprogram_pmc_on_svme_toggle = 0;
	pmu->reprogram_pmc_on_cpl_change = 0;
	pmu->reprogram_pending = 0;
	pmu->user = false;
	pmu->allowed_by_cpl[0] = pmu->allowed_by_cpl[1] = ALL_COUNTERS;
	for (unsigned int mode = 0; mode < PMU_MODES; mode++)
		pmu->allowed_by_mode[mode] = pmu->allowed[mode] = ALL_COUNTERS;
	pmu->enabled = 0;
	pmu->enabled_hw = 0;
	pmu->selectors_differ = 0;
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		pmu->eventsel[idx] = 0;
		pmu->eventsel_hw_no_en[idx] = 0;
	}
	pmu->evtsel_writes = 0;
	pmu->commits = 0;
	pmu->evtsel_elided = 0;
}

static inline void set_bit_to(u64 *word, unsigned int idx, bool set)
{
	*word = (*word & ~BIT(idx)) | ((u64)set << idx);
}

/* All that depends on HostOnly and GuestOnly alone. */
static void update_host_guest(struct pmu *pmu, unsigned int idx)
{
	u64 eventsel = pmu->eventsel[idx];
	bool svme0 = pmu_counts(eventsel, false, false, pmu->rule);
	bool l1 = pmu_counts(eventsel, true, false, pmu->rule);
	bool l2 = pmu_counts(eventsel, true, true, pmu->rule);

	set_bit_to(&pmu->allowed_by_mode[PMU_MODE_SVME0], idx, svme0);
	set_bit_to(&pmu->allowed_by_mode[PMU_MODE_L1], idx, l1);
	set_bit_to(&pmu->allowed_by_mode[PMU_MODE_L2], idx, l2);
	pmu_update_allowed(pmu);
	set_bit_to(&pmu->reprogram_pmc_on_nested_transition, idx, l1 != l2);
	set_bit_to(&pmu->reprogram_pmc_on_svme_toggle, idx, svme0 != l1 || svme0 != l2);
}

/* All that depends on USR and OS alone. Of a counter without EN it stays as it was, as the selector in the machine does. */
static void update_cpl(struct pmu *pmu, unsigned int idx)
{
	u64 eventsel = pmu->eventsel[idx];
	bool os = eventsel & EVTSEL_OS, usr = eventsel & EVTSEL_USR;

	set_bit_to(&pmu->allowed_by_cpl[0], idx, os);
	set_bit_to(&pmu->allowed_by_cpl[1], idx, usr);
	pmu_update_allowed(pmu);
	set_bit_to(&pmu->reprogram_pmc_on_cpl_change, idx, os != usr);
}

static void update_passing(struct pmu *pmu, unsigned int idx)
{
	set_bit_to(&pmu->passing, idx, pmu_filter_passes(&pmu->filter, pmu->eventsel[idx]));
}

/* All that a counter needs to run, but the mode and the CPL. */
static inline void update_enabled(struct pmu *pmu)
{
	pmu->enabled = pmu->en & pmu->open;
}

static void update_open(struct pmu *pmu)
{
	pmu->open = pmu->global_ctl & pmu->passing;
	update_enabled(pmu);
}

/* After a change of bits that are looked at. */
static NOINLINE void update_selector(struct pmu *pmu, unsigned int idx)
{
	update_host_guest(pmu, idx);
	if (pmu->filter.action == TALLY_FILTER_OFF)
		return;
	update_passing(pmu, idx);
	update_open(pmu);
}

void pmu_set_filter(struct pmu *pmu, const struct tally_filter *filter)
{
	pmu->filter = *filter;
	pmu->looked_at = EVTSEL_HOST_GUEST;
	if (filter->action != TALLY_FILTER_OFF)
		pmu->looked_at |= PMU_FILTER_EVENTSEL;
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		update_passing(pmu, idx);
	update_open(pmu);
	pmu_mark(pmu, ALL_COUNTERS);
}

/* The selector that the machine must hold, less EN: what the guest asked for, but GuestOnly and not
 * HostOnly, because it is L0 that must never be counted. */
static u64 eventsel_hw_no_en(u64 eventsel)
{
	return (eventsel & ~(EVTSEL_HOSTONLY | EVTSEL_EN)) | EVTSEL_GUESTONLY;
}

u64 pmu_machine_evtsel_in(const struct pmu *pmu, unsigned int idx, enum pmu_mode mode)
{
	u64 run = pmu->enabled & pmu->allowed_by_mode[mode] & BIT(idx);
	bool needed = pmu->eventsel[idx] & EVTSEL_EN;

	return (needed ? eventsel_hw_no_en(pmu->eventsel[idx]) : pmu->eventsel_hw_no_en[idx]) |
	       (run ? EVTSEL_EN : 0);
}

static void write_eventsel(struct pmu *pmu, unsigned int idx, u64 value)
{
	u64 eventsel = value & EVTSEL_WRITABLE, changed = pmu->eventsel[idx] ^ eventsel;

	if (!changed)
		return;
	pmu->eventsel[idx] = eventsel;
	set_bit_to(&pmu->en, idx, eventsel & EVTSEL_EN);
	update_enabled(pmu);
	/* A counter without EN does not care for the rest: it is brought when EN comes back, which in
	 * an on and off of the same event is never. */
	set_bit_to(&pmu->selectors_differ, idx,
		   (eventsel & EVTSEL_EN) &&
			   eventsel_hw_no_en(eventsel) != pmu->eventsel_hw_no_en[idx]);
	pmu_mark(pmu, BIT(idx));
	if (changed & pmu->looked_at)
		update_selector(pmu, idx); /* last: nothing has to be kept for after it */
}

int pmu_decode_msr(const struct pmu *pmu, u32 msr, unsigned int *idx, bool *is_ctr)
{
	u32 extended = msr - MSR_PERFEVTSEL(0), legacy = msr - MSR_LEGACY_PERFEVTSEL(0);

	if (extended < pmu->extended_msrs) {
		*idx = extended / 2;
		*is_ctr = extended % 2;
	} else if (legacy < 2 * PMU_LEGACY_COUNTERS) {
		*idx = legacy % PMU_LEGACY_COUNTERS;
		*is_ctr = legacy >= PMU_LEGACY_COUNTERS;
	} else {
		return -E_NOENT;
	}
	return 0;
}

static u64 read_ctr(struct pmu *pmu, unsigned int idx)
{
	return pmu->hw->read_ctr(pmu->hw, idx) & PMU_COUNTER_MASK;
}

/* PerfMonV2 (§13.2.1). The write-only registers read 0, and a write to the read-only one is dropped. */
static int read_global(struct pmu *pmu, u32 msr, u64 *value)
{
	switch (pmu->has_v2 ? msr : 0) {
	case MSR_PERF_GLOBAL_STATUS:
		pmu->global_status |= pmu->hw->take_overflows(pmu->hw);
		*value = pmu->global_status;
		return 0;
	case MSR_PERF_GLOBAL_CTL:
		*value = pmu->global_ctl;
		return 0;
	case MSR_PERF_GLOBAL_STATUS_CLR:
	case MSR_PERF_GLOBAL_STATUS_SET:
		*value = 0;
		return 0;
	default:
		return -E_NOENT;
	}
}

static int write_global(struct pmu *pmu, u32 msr, u64 value)
{
	value &= ALL_COUNTERS;
	switch (pmu->has_v2 ? msr : 0) {
	case MSR_PERF_GLOBAL_STATUS:
		return 0;
	case MSR_PERF_GLOBAL_CTL:
		pmu_mark(pmu, pmu->global_ctl ^ value);
		pmu->global_ctl = value;
		update_open(pmu);
		return 0;
	case MSR_PERF_GLOBAL_STATUS_CLR:
		pmu->global_status |= pmu->hw->take_overflows(pmu->hw);
		pmu->global_status &= ~value;
		return 0;
	case MSR_PERF_GLOBAL_STATUS_SET:
		pmu->global_status |= value;
		return 0;
	default:
		return -E_NOENT;
	}
}

int pmu_rdmsr(struct pmu *pmu, u32 msr, u64 *value)
{
	unsigned int idx;
	bool is_ctr;

	if (pmu_decode_msr(pmu, msr, &idx, &is_ctr))
		return read_global(pmu, msr, value);
	*value = is_ctr ? read_ctr(pmu, idx) : pmu->eventsel[idx];
	return 0;
}

int pmu_wrmsr(struct pmu *pmu, u32 msr, u64 value)
{
	unsigned int idx;
	bool is_ctr;

	if (pmu_decode_msr(pmu, msr, &idx, &is_ctr))
		return write_global(pmu, msr, value);
	if (is_ctr)
		pmu->hw->write_ctr(pmu->hw, idx, value & PMU_COUNTER_MASK);
	else
		write_eventsel(pmu, idx, value);
	return 0;
}

int pmu_rdpmc(struct pmu *pmu, u32 ecx, u64 *value)
{
	if (ecx >= pmu_counters(pmu))
		return -E_FAULT;
	*value = read_ctr(pmu, ecx);
	return 0;
}

/* Counters that run in the present mode. */
static inline u64 running(const struct pmu *pmu)
{
	return pmu->enabled & pmu->allowed[pmu->mode];
}

static ALWAYS_INLINE void write_enables(struct pmu *pmu, u64 run, u64 changed)
{
	pmu->enabled_hw = run;
	pmu->evtsel_writes += (unsigned int)__builtin_popcountll(changed);
	pmu->hw->write_enables(pmu->hw, run, changed);
}

static NOINLINE void write_some_enables(struct pmu *pmu, u64 differing, u64 pending)
{
	u64 changed = differing & pending, run = pmu->enabled_hw ^ changed;

	pmu->evtsel_elided += (unsigned int)__builtin_popcountll(pending ^ changed);
	if (changed)
		write_enables(pmu, run, changed);
}

/* Where nothing but EN can be wrong, all selectors are compared at once. This is the work of every
 * L1<->L2 switch: its length does not depend on how many there are. Most often all that are pending
 * change. */
static ALWAYS_INLINE void commit_enables(struct pmu *pmu, u64 pending)
{
	u64 run = running(pmu), differing = run ^ pmu->enabled_hw;

	if (likely(differing == pending))
		write_enables(pmu, run, pending);
	else
		write_some_enables(pmu, differing, pending);
}

static NOINLINE void commit_selectors(struct pmu *pmu, u64 pending)
{
	u64 run, counters = pmu->selectors_differ;

	pending &= ~counters;
	pmu->selectors_differ = 0;
	if (pmu->hw->ignores_cpl)
		for (u64 left = counters; left; left &= left - 1)
			update_cpl(pmu, (unsigned int)__builtin_ctzll(left));
	run = running(pmu);
	for (; counters; counters &= counters - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(counters);

		pmu->eventsel_hw_no_en[idx] = eventsel_hw_no_en(pmu->eventsel[idx]);
		set_bit_to(&pmu->enabled_hw, idx, run & BIT(idx));
		pmu->evtsel_writes++;
		pmu->hw->write_evtsel(pmu->hw, idx, pmu_machine_evtsel(pmu, idx));
	}
	if (pending)
		commit_enables(pmu, pending);
}

void pmu_commit_counters(struct pmu *pmu, u64 counters)
{
	pmu->commits++;
	if (unlikely(pmu->selectors_differ))
		commit_selectors(pmu, counters);
	else
		commit_enables(pmu, counters);
}

void pmu_commit_pending(struct pmu *pmu)
{
	pmu_commit_counters(pmu, __atomic_exchange_n(&pmu->reprogram_pending, 0, __ATOMIC_RELAXED));
}

/* SPDX-License-Identifier: MIT */
/*
 * The core PMU of one virtual CPU, as a model: what the guest wrote, what the machine must hold for
 * it now, and when the two have to be compared again. AMD64 APM vol. 2, rev. 3.44, §13.2.
 *
 * A change of mode (L1<->L2, EFER.SVME), of a selector or of the event filter only marks counters in
 * reprogram_pending; pmu_commit(), before the next VMRUN, is the one place that changes selectors
 * in the machine.
 *
 * When an instruction that L0 emulates retires. "retire" is pmu_clock_retire() or
 * pmu_guest_only_retire(). It counts on what was committed last, so the order of the calls decides
 * in which state the guest sees it:
 *
 *   most instructions            retire
 *   WRMSR to a selector          pmu_wrmsr, retire, pmu_commit
 *                                in the old state: counting starts or stops when the WRMSR
 *                                completes (§13.2.3)
 *   VMMCALL with a new filter    pmu_set_filter, pmu_commit, retire: by the new filter
 *   WRMSR to a counter           pmu_wrmsr, retire: counted on top of the new value
 *   RDMSR of a counter, RDPMC    pmu_rdmsr or pmu_rdpmc, retire: not in the value read
 *   WRMSR EFER with a new SVME   pmu_svme_toggle, pmu_commit, retire: in the new state
 *   VMRUN                        pmu_nested_transition(true), pmu_commit, retire at L2's CPL
 *                                in L2: a GuestOnly counter sees it, a HostOnly one does not
 *   VMRUN that fails its checks  retire: it never left L1
 *   SYSCALL, SYSRET and the like pmu_cpl_change, pmu_commit, retire: at the new CPL
 *   any #VMEXIT to L1            pmu_nested_transition(false), pmu_commit: the instruction that
 *                                caused it does not retire
 */
#ifndef TALLY_PMU_PMU_H
#define TALLY_PMU_PMU_H

#include <assert.h>

#include "abi/filter.h"
#include "abi/handoff.h"
#include "types.h"
#include "x86/pmu.h"

/*
 * The machine as the model sees it. Called with the guest stopped, on the CPU that the counters
 * belong to.
 */
struct pmu_hw {
	/* Replaces one selector; counting starts or stops with its EN. */
	void (*write_evtsel)(struct pmu_hw *hw, unsigned int idx, u64 eventsel_hw);
	/* EN is to be set in the selectors of the bitmap `run`, and clear in all others; in those of
	 * `changed` it is not so yet. One call for all counters: it is the work of every L1<->L2 switch. */
	void (*write_enables)(struct pmu_hw *hw, u64 run, u64 changed);
	/* Bits above PMU_COUNTER_BITS are ignored in what is read, and 0 in what is written. */
	u64 (*read_ctr)(struct pmu_hw *hw, unsigned int idx);
	void (*write_ctr)(struct pmu_hw *hw, unsigned int idx, u64 value);
	/* NULL, or why a counter with this selector does not move here. EN does not matter. */
	const char *(*unsupported)(struct pmu_hw *hw, u64 eventsel);
	/* Bitmap of the counters that have carried out of bit 47 since the last call. */
	u64 (*take_overflows)(struct pmu_hw *hw);
	/* Those that the backend has come across without being asked: take_overflows() will have them. */
	u64 overflows;
	/* USR and OS are not looked at here: the model has to start and stop the counters with the
	 * CPL, and the caller must tell it, by pmu_cpl_change(), before the guest runs at another. */
	bool ignores_cpl;
};

/* L1's virtual EFER.SVME and the level: what HostOnly and GuestOnly depend on. */
enum pmu_mode {
	PMU_MODE_SVME0,
	PMU_MODE_L1, /* with SVME=1 */
	PMU_MODE_L2,
	PMU_MODES,
};

struct pmu {
	struct pmu_hw *hw;
	enum pmu_mode mode; /* that the next VMRUN enters */
	enum svme0_rule rule;
	/* The caller may set one of them after pmu_init(): */
	bool has_v2; /* PerfMonV2's global registers exist */
	/* MSRs of the extended block; 0: no PerfCtrExtCore, only counters 0-3 at their legacy addresses */
	u32 extended_msrs;

	/* One bit per counter: whether it counts depends on the level. From HostOnly and GuestOnly
	 * of the selector as written, changed by nothing but a selector write, and kept while
	 * SVME=0 or EN=0. */
	u64 reprogram_pmc_on_nested_transition;
	/* The same for EFER.SVME. Differs for a counter with both bits set: under SVME0_STOP it
	 * depends on SVME, but not on the level. */
	u64 reprogram_pmc_on_svme_toggle;
	/* The same for the CPL: counters with one of USR and OS, where the machine ignores them. */
	u64 reprogram_pmc_on_cpl_change;
	/* Counters that pmu_commit() has to look at. Other CPUs may add to it. */
	u64 reprogram_pending;

	/* Where each counter may run by its HostOnly and GuestOnly: the truth table, looked up when
	 * they change. */
	u64 allowed_by_mode[PMU_MODES];
	/* The same by USR and OS: at CPL 0, and above. All, where the machine looks at them. */
	u64 allowed_by_cpl[2];
	u64 allowed[PMU_MODES]; /* by both, at the present CPL */
	bool user;	/* the next VMRUN enters at CPL > 0; kept only while somebody asks for it */
	u64 en;		/* counters whose selector has EN, as the guest wrote it */
	u64 open;	/* counters with their bit in global_ctl, whose event passes the filter */
	u64 enabled;	/* both: what runs, but for mode and CPL */
	u64 enabled_hw; /* as the machine holds it */
	/* Counters with EN whose selector in the machine differs in more than EN. */
	u64 selectors_differ;

	u64 global_ctl;	   /* PerfCntGlobalCtl; all enabled at reset */
	u64 global_status; /* PerfCntGlobalStatus, less what take_overflows() still has */

	/* As the guest wrote it, reserved bits dropped. */
	u64 eventsel[PMU_COUNTERS];
	/* As the machine holds it, less EN; see pmu_machine_evtsel(). Of a counter without EN it is
	 * what was last needed. */
	u64 eventsel_hw_no_en[PMU_COUNTERS];

	u64 evtsel_writes; /* selectors changed in the machine */
	u64 commits;	   /* times that pmu_commit() had something to look at */
	u64 evtsel_elided; /* counters that it looked at, and whose selector was right already */

	u64 looked_at; /* selector bits on which more depends than the selector itself */
	u64 passing;   /* counters whose event passes the filter */
	struct tally_filter filter;
};

static_assert(PMU_COUNTERS <= 64, "one bit per counter in a word");
#define PMU_IS_U64(member) __builtin_types_compatible_p(__typeof__(((struct pmu *)0)->member), u64)
static_assert(PMU_IS_U64(reprogram_pmc_on_nested_transition) &&
		      PMU_IS_U64(reprogram_pmc_on_svme_toggle) && PMU_IS_U64(reprogram_pending),
	      "a trigger is one OR of the whole bitmap into the pending word");

/* Selectors are 0 and not written to the machine, which must hold 0 there too; the counters keep
 * their values. */
void pmu_init(struct pmu *pmu, struct pmu_hw *hw, enum svme0_rule rule);

/* How many counters the guest has. */
static inline unsigned int pmu_counters(const struct pmu *pmu)
{
	return pmu->extended_msrs ? PMU_COUNTERS : PMU_LEGACY_COUNTERS;
}

/* PerfEvtSel and PerfCtr 0-5 as far as extended_msrs goes, the legacy addresses of 0-3, and with has_v2 the global registers;
 * -E_NOENT for any other MSR. Reserved bits are dropped and never fault. A selector write reaches the machine with the next
 * pmu_commit(), a counter write at once. */
int pmu_rdmsr(struct pmu *pmu, u32 msr, u64 *value);
int pmu_wrmsr(struct pmu *pmu, u32 msr, u64 value);

/* Which register of which counter an MSR is; -E_NOENT if it is neither a selector nor a counter. */
int pmu_decode_msr(const struct pmu *pmu, u32 msr, unsigned int *idx, bool *is_ctr);

/* -E_FAULT: #GP, no such counter (§13.2.1). CPL and CR4.PCE are not checked here: the CPU does so
 * before the RDPMC intercept (table 15-7). */
int pmu_rdpmc(struct pmu *pmu, u32 ecx, u64 *value);

/* The event filter from now on, which pmu_filter_check() has passed; off at first. Reaches the machine with the next
 * pmu_commit(), as a selector write does. */
void pmu_set_filter(struct pmu *pmu, const struct tally_filter *filter);

/* Table 13-4: does a counter with these HostOnly and GuestOnly bits count in this mode? EN and
 * USR/OS come on top. */
bool pmu_counts(u64 eventsel, bool svme, bool in_l2, enum svme0_rule rule);

/* What the machine holds now. 0 until the guest first sets EN. */
static inline u64 pmu_machine_evtsel(const struct pmu *pmu, unsigned int idx)
{
	return pmu->eventsel_hw_no_en[idx] | ((pmu->enabled_hw & BIT(idx)) ? EVTSEL_EN : 0);
}

/* What the machine holds in `mode`, as things are, at a CPL that the counter counts. */
u64 pmu_machine_evtsel_in(const struct pmu *pmu, unsigned int idx, enum pmu_mode mode);

/* What follows is in the exit path: a trigger with an empty bitmap is a store, a load, a test and a
 * branch (tests/host/trigger-cost holds it to that). Relaxed: the word says what to look at, it
 * guards no data. */
static ALWAYS_INLINE void pmu_mark(struct pmu *pmu, u64 counters)
{
	if (unlikely(counters))
		__atomic_fetch_or(&pmu->reprogram_pending, counters, __ATOMIC_RELAXED);
}

/* The next VMRUN enters L2 (an emulated VMRUN) or L1 (#VMEXIT): either way with SVME=1. Returns the counters for which that
 * makes a difference; pmu_nested_transition() leaves them to pmu_commit(). */
static ALWAYS_INLINE u64 pmu_nested_mode(struct pmu *pmu, bool in_l2)
{
	pmu->mode = in_l2 ? PMU_MODE_L2 : PMU_MODE_L1;
	return pmu->reprogram_pmc_on_nested_transition;
}

static ALWAYS_INLINE void pmu_nested_transition(struct pmu *pmu, bool in_l2)
{
	pmu_mark(pmu, pmu_nested_mode(pmu, in_l2));
}

/* L1 wrote EFER with another SVME. */
static ALWAYS_INLINE void pmu_svme_toggle(struct pmu *pmu, bool svme)
{
	pmu->mode = svme ? PMU_MODE_L1 : PMU_MODE_SVME0;
	pmu_mark(pmu, pmu->reprogram_pmc_on_svme_toggle);
}

/* `allowed` from its two parts. */
static inline void pmu_update_allowed(struct pmu *pmu)
{
	for (unsigned int mode = 0; mode < PMU_MODES; mode++)
		pmu->allowed[mode] = pmu->allowed_by_mode[mode] & pmu->allowed_by_cpl[pmu->user];
}

/* The guest goes on at CPL > 0 (user) or 0. */
static inline void pmu_cpl_change(struct pmu *pmu, bool user)
{
	if (pmu->user == user)
		return;
	pmu->user = user;
	pmu_update_allowed(pmu);
	pmu_mark(pmu, pmu->reprogram_pmc_on_cpl_change);
}

/* Whether a counter asks for pmu_cpl_change() at all, and in the present mode. */
static inline bool pmu_tracks_cpl(const struct pmu *pmu)
{
	return pmu->enabled & pmu->reprogram_pmc_on_cpl_change;
}

static inline bool pmu_tracks_cpl_now(const struct pmu *pmu)
{
	return pmu->enabled & pmu->reprogram_pmc_on_cpl_change & pmu->allowed_by_mode[pmu->mode];
}

/* Of these counters alone: what pmu_mark() and pmu_commit() do where nothing else is pending. */
void pmu_commit_counters(struct pmu *pmu, u64 counters);
void pmu_commit_pending(struct pmu *pmu);

/* Makes the machine's selectors what they must be in the present mode; writes only what differs. */
static ALWAYS_INLINE void pmu_commit(struct pmu *pmu)
{
	if (unlikely(__atomic_load_n(&pmu->reprogram_pending, __ATOMIC_RELAXED)))
		pmu_commit_pending(pmu);
}

#endif

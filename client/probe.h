/* SPDX-License-Identifier: MIT */
/*
 * tally probe: what the manuals leave open of a machine's PMU and SVM, found out by trying. probe.c asks, decides and
 * judges, and probe_page.c shows; both reach the machine only through struct probe_machine. That is probe_efi.c,
 * probe_linux.c, or a model of a machine in a test.
 */
#ifndef CLIENT_PROBE_H
#define CLIENT_PROBE_H

#include "client/out.h"
#include "types.h"

/* Where a counter is looked at: EFER.SVME=0; SVME=1, outside of guest mode; in a guest. */
enum probe_mode { PROBE_SVME0, PROBE_HOST, PROBE_GUEST, PROBE_MODES };

/* What is executed while it counts, so many times as the machine's repeats[] says. */
enum probe_code {
	PROBE_NOPS,
	PROBE_JUMPS,
	PROBE_IRETS,  /* to the same CPL */
	PROBE_VMRUNS, /* each of a guest that exits, and that itself adds guest_adds[] */
	PROBE_CODES
};

enum probe_bits { PROBE_NONE, PROBE_GUESTONLY, PROBE_HOSTONLY, PROBE_BOTH, PROBE_BITS };
enum probe_event { PROBE_INSTRUCTIONS, PROBE_BRANCHES, PROBE_FAR_TRANSFERS, PROBE_EVENTS };
/* How an overflow may tell: not at all, by an interrupt, by an NMI. */
enum probe_signal { PROBE_SILENT, PROBE_FIXED, PROBE_NMI, PROBE_SIGNALS };

#define PROBE_COSTS(X)                                                                             \
	X(EXIT_VMMCALL, "VMRUN to VMMCALL")                                                        \
	X(EXIT_CPUID, "VMRUN to CPUID")                                                            \
	X(EXIT_RDMSR, "VMRUN to RDMSR")                                                            \
	X(EXIT_WRMSR, "VMRUN to WRMSR")                                                            \
	X(EXIT_HLT, "VMRUN to HLT")                                                                \
	X(EXIT_OUT, "VMRUN to OUT")                                                                \
	X(CLGI, "CLGI")                                                                            \
	X(STGI, "STGI")                                                                            \
	X(VMLOAD, "VMLOAD")                                                                        \
	X(VMSAVE, "VMSAVE")                                                                        \
	X(CPUID, "CPUID, no guest")                                                                \
	X(RDMSR_COUNTER, "RDMSR of a counter")                                                     \
	X(WRMSR_SELECTOR, "WRMSR to a selector")

enum probe_cost {
#define X(name, text) PROBE_COST_##name,
	PROBE_COSTS(X)
#undef X
		PROBE_COST_KINDS
};

/* Counter 0 counts from the WRMSR of `eventsel` to its selector on, until 0 is written there. */
struct probe_run {
	enum probe_mode mode;
	enum probe_code code;
	bool any; /* or nothing in the place of the code */
	u32 selector_msr;
	u64 eventsel;
};

struct probe_overflow_run {
	u32 selector_msr;
	u64 eventsel;	 /* it is up to the caller whether it has INT */
	u64 to_overflow; /* NOPs that it takes */
	enum probe_signal signal;
};

struct probe_interrupts {
	const char *why; /* not known, or NULL */
	u64 count;
	bool lvtpc_masked; /* afterwards */
	const char *skid_why;
	u64 skid; /* instructions between the one that overflows and the first of the handler */
};

/* Functions that return a text return NULL, or why that cannot be done here. */
struct probe_machine {
	const char *system;
	u64 cpl; /* EVTSEL_USR, EVTSEL_OS: where its code runs */
	u64 repeats[PROBE_CODES];
	u64 guest_adds[PROBE_EVENTS];
	bool exact;	 /* nothing but the code is counted */
	u32 cost_rounds; /* at most PROBE_COST_ROUNDS */
	const char *costs;

	void (*cpuid)(u32 leaf, u32 regs[4]);
	/* false: it faults */
	bool (*rdmsr)(u32 msr, u64 *value);
	bool (*wrmsr)(u32 msr, u64 value);
	const char *(*begin)(void);
	void (*end)(void); /* all as it was before begin() */
	const char *(*run)(const struct probe_run *run);
	const char *(*overflow)(const struct probe_overflow_run *run,
				struct probe_interrupts *interrupts);
	const char *(*cost)(enum probe_cost what, u64 *ticks);
};

#define PROBE_COST_ROUNDS 64

/* Whatever has a `why` that is not NULL was not measured, for that reason. */
struct probe_value {
	const char *why;
	u64 value;
};

struct probe_count {
	const char *why;
	u64 least, most; /* of some tries */
};

struct probe {
	const char *system, *costs_are;
	bool exact;
	char vendor[13], cpu[49], hypervisor[13];
	u32 family, model, stepping;
	struct probe_value microcode;
	u32 svm_revision, asids, svm_features;
	bool perfctr_core, perfmon_v2;
	u32 cpuid_counters;

	u32 selector_base; /* MSR of counter 0's selector */
	char why_none[80]; /* text of the next */
	const char *no_pmu;
	const char *selector_reserved_why;
	struct probe_value counters, selector_bits, selector_bits_2, counter_bits;
	struct probe_value global_ctl_bits, global_ctl_stops, status_sets, status_clears;

	u64 nops;
	struct probe_count table[PROBE_BITS][PROBE_MODES];

	struct {
		u64 control_of;
		struct probe_count control; /* the event, outside of guests */
		struct probe_count vmruns[PROBE_BITS];
	} event[PROBE_EVENTS];
	u64 vmruns;

	struct {
		const char *why;
		u64 start, after;
		struct probe_value status;
		struct probe_interrupts interrupts;
	} overflow[PROBE_SIGNALS];

	struct {
		const char *why;
		u64 least, median;
	} cost[PROBE_COST_KINDS];
};

/* NULL, or in one line why nothing was done. With `force` also while somebody uses the PMU. */
const char *probe_measure(struct probe *p, const struct probe_machine *m, bool force);

enum probe_cell { PROBE_CELL_UNKNOWN, PROBE_CELL_NO, PROBE_CELL_PART, PROBE_CELL_YES };
/* Whether it counted, of so many that it could have. */
enum probe_cell probe_cell(const struct probe_count *count, u64 of);
/* What the truth table is. */
const char *probe_verdict(const struct probe *p);

void probe_show(const struct probe *p, struct out *o);

#endif

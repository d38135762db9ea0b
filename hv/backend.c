/* SPDX-License-Identifier: MIT */
/*
 * Chooses the PMU's backend at boot, by trying: the machine's own counters if they honour GuestOnly, or else if they count
 * L0's own part the same each time, else the TSC as a clock. The trials run a guest of a known number of instructions
 * through the same path as every other guest.
 */
#include "hv/cpu.h"
#include "hv/ipi.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/panic.h"
#include "hv/vcpu.h"
#include "pmu/filter.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* vmrun.asm: n NOPs and a VMMCALL, which exits and does not retire */
extern const u8 stub_0[], stub_1[], stub_100[], stub_1000[];
extern const u8 stub_read_cr3[]; /* reads CR3, and a VMMCALL */
extern const u8 stub_int[];	 /* INTn */

static struct vmcb stub_vmcb;

/* One round through the run loop with `stub` as the guest, which runs in L0's own address space. Ticks of the TSC
 * from entry to exit are added to clock.now. Returns the exit code. */
static u64 run_stub_to_exit(struct vcpu *v, const u8 *stub)
{
	stub_vmcb.save.rip = (u64)(uintptr_t)stub;
	stub_vmcb.control.event_inj = 0;
	vmrun_probe(v, vmrun_loop);
	return stub_vmcb.control.exit_code;
}

static void run_stub(struct vcpu *v, const u8 *stub)
{
	ASSERT(run_stub_to_exit(v, stub) == VMEXIT_VMMCALL);
}

/* Whether CR3's read intercept is dead, and CR0's stands for it (QEMU 10's TCG). */
static bool probe_cr_read(struct vcpu *v)
{
	bool dead;

	vmcb_set_intercept(&stub_vmcb.control, INTERCEPT_CR_READ(3));
	dead = run_stub_to_exit(v, stub_read_cr3) != VMEXIT_CR_READ(3);
	vmcb_clr_intercept(&stub_vmcb.control, INTERCEPT_CR_READ(3));
	return dead;
}

/* For irperf_probe(). */
static void run_instructions(struct vcpu *v, unsigned int n)
{
	run_stub(v, n == 0 ? stub_0 : n == 1 ? stub_1 : n == 100 ? stub_100 : stub_1000);
}

static u64 stub_ticks(struct vcpu *v, const u8 *stub)
{
	v->clock.now = 0;
	run_stub(v, stub);
	return v->clock.now;
}

/* Ticks that the clock takes for an INTn that exits: TCG counts it. */
static u64 probe_swint(struct vcpu *v)
{
	v->clock.now = 0;
	vmcb_set_intercept(&stub_vmcb.control, INTERCEPT(SWINT));
	ASSERT(run_stub_to_exit(v, stub_int) == VMEXIT_SWINT);
	vmcb_clr_intercept(&stub_vmcb.control, INTERCEPT(SWINT));
	return v->clock.now;
}

/* For apic_timer_probe(). */
static u64 run_interrupted(struct vcpu *v)
{
	u64 code;

	vmcb_set_intercept(&stub_vmcb.control, INTERCEPT(INTR));
	vcpu_set_host_if(v, true);
	code = run_stub_to_exit(v, stub_1000);
	vcpu_set_host_if(v, false);
	vmcb_clr_intercept(&stub_vmcb.control, INTERCEPT(INTR));
	return code == VMEXIT_INTR ? stub_vmcb.save.rip - (u64)(uintptr_t)stub_1000 : ~0ull;
}

static void set_stub_cpl(u8 cpl)
{
	struct vmcb_save *s = &stub_vmcb.save;
	u16 dpl = (u16)(cpl << SEG_ATTR_DPL_SHIFT);

	s->cs = (struct vmcb_seg){(u16)(0x08 | cpl),
				  dpl | SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_L | SEG_ATTR_G | 0xb,
				  0xffffffff, 0};
	s->ss = (struct vmcb_seg){(u16)(0x10 | cpl),
				  dpl | SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_DB | SEG_ATTR_G | 3,
				  0xffffffff, 0};
	s->cpl = cpl;
}

static void begin_stubs(struct vcpu *v)
{
	struct vmcb_control *c = &stub_vmcb.control;
	struct vmcb_save *s = &stub_vmcb.save;

	vmcb_set_intercept(c, INTERCEPT(VMRUN));
	vmcb_set_intercept(c, INTERCEPT(VMMCALL));
	vmcb_set_intercept(c, INTERCEPT(SHUTDOWN));
	vmcb_set_intercept(c, INTERCEPT_EXCEPTION(VEC_PF)); /* at CPL 3 the stubs are none */
	c->int_ctl = (u32)V_INTR_MASKING; /* and L0's IF is 0: nothing comes in between */
	vmcb_set_intercept(c, INTERCEPT(NMI));
	c->asid = ASID_L1;
	*s = v->vmcb01->save;
	set_stub_cpl(0);
	s->ds = s->es = s->ss;
	s->cr3 = cpu_read_cr3();
	s->cr4 = cpu_read_cr4();
	s->cr0 = cpu_read_cr0();
	s->rflags = RFLAGS_FIXED;
	s->dr7 = DR7_RESET;
	v->vmcb = &stub_vmcb;
	v->vmcb_hpa = memory_hpa(&stub_vmcb);
	v->clock.counting = 1; /* take the way through the run loop that reads the TSC */
	v->on_exit = exit_probed;
}

static void end_stubs(struct vcpu *v)
{
	v->vmcb = v->vmcb01;
	v->vmcb_hpa = v->vmcb01_hpa;
	v->on_exit = exit_special;
	v->clock.counting = 0;
	v->clock.now = 0;
}

static int calibrate_clock_once(struct vcpu *v)
{
	int shift;
	u64 ticks;

	v->clock_overhead = 0;
	v->clock_overhead = stub_ticks(v, stub_0);
	ticks = stub_ticks(v, stub_1);
	if (!ticks || (ticks & (ticks - 1)))
		return -1;
	shift = __builtin_ctzll(ticks);
	for (unsigned int i = 0; i < 16; i++)
		if (stub_ticks(v, stub_0) != 0 || stub_ticks(v, stub_1) != 1ull << shift ||
		    stub_ticks(v, stub_100) != 100ull << shift ||
		    stub_ticks(v, stub_1000) != 1000ull << shift)
			return -1;
	return shift <= PMU_CLOCK_MAX_SHIFT ? shift : -1;
}

/*
 * log2 of the ticks per instruction if the TSC is an exact instruction clock, else -1. Sets clock_overhead. With several
 * CPUs it is tried again, because the clock is one for all, and another may be on its last instructions before its HLT.
 * Not on top of a hypervisor: what its exits take may be the same for a while, and then vary.
 */
static int calibrate_clock(struct vcpu *v)
{
	unsigned int tries = v->smp && v->depth == 1 ? 4 : 1;
	int shift = -1;

	while (shift < 0 && tries--)
		shift = calibrate_clock_once(v);
	return shift;
}

static u64 msr_read(struct pmu_guest_only *backend, u32 msr)
{
	(void)backend;
	return cpu_rdmsr(msr);
}

static void msr_write(struct pmu_guest_only *backend, u32 msr, u64 value)
{
	(void)backend;
	cpu_wrmsr(msr, value);
}

/* What counter 0 shows of `stub`, which stays at CPL 0, on `event`. */
static u64 count_stub(struct vcpu *v, const u8 *stub, u32 event)
{
	cpu_wrmsr(MSR_PERFCTR(0), 0);
	cpu_wrmsr(MSR_PERFEVTSEL(0), event | EVTSEL_OS | EVTSEL_GUESTONLY | EVTSEL_EN);
	run_stub(v, stub);
	cpu_wrmsr(MSR_PERFEVTSEL(0), 0);
	return cpu_rdmsr(MSR_PERFCTR(0));
}

/* A selector that counts nothing keeps `value`, as far as `mask` goes. */
static bool evtsel_keeps(unsigned int n, u64 value, u64 mask, u64 *read)
{
	cpu_wrmsr(MSR_PERFEVTSEL(n), value & mask);
	*read = cpu_rdmsr(MSR_PERFEVTSEL(n));
	cpu_wrmsr(MSR_PERFEVTSEL(n), 0);
	return (*read & mask) == (value & mask);
}

static bool ctr_keeps(unsigned int n, u64 value)
{
	cpu_wrmsr(MSR_PERFCTR(n), value);
	return cpu_rdmsr(MSR_PERFCTR(n)) == value;
}

/* NULL if the machine has the six selectors and counters that the guests are to have, else why not. */
static const char *probe_counters(void)
{
	const u64 bits = EVTSEL_WRITABLE & ~(EVTSEL_EN | EVTSEL_INT | EVTSEL_HOST_GUEST);
	const u64 patterns[] = {0x5555555555555555, 0xaaaaaaaaaaaaaaaa};
	u64 value;

	if (!(cpu_cpuid(CPUID_EXT_FEATURES, 0).ecx & CPUID_EXT1_ECX_PERFCTREXTCORE))
		return "CPUID shows no core performance counters";
	for (unsigned int n = 0; n < PMU_COUNTERS; n++) {
		if (!cpu_wrmsr_safe(MSR_PERFEVTSEL(n), 0) ||
		    !cpu_rdmsr_safe(MSR_PERFEVTSEL(n), &value) ||
		    !cpu_rdmsr_safe(MSR_PERFCTR(n), &value) || !cpu_wrmsr_safe(MSR_PERFCTR(n), 0))
			return "the performance counter MSRs fault";
		for (unsigned int i = 0; i < ARRAY_SIZE(patterns); i++) {
			if (evtsel_keeps(n, patterns[i], bits, &value))
				continue;
			log_info("event=pmu_probe selector=%u wrote=%lx read=%lx", n,
				 patterns[i] & bits, value);
			if (value)
				return "the selectors lose bits";
			return n ? "there are fewer than six counters"
				 : "the selectors drop what is written to them";
		}
	}
	return NULL;
}

/* NULL if the machine's PMU can be left to the guests, else why not. */
static const char *probe_guest_only(struct vcpu *v, struct pmu_vmrun_ticks *tick)
{
	u64 value, instructions, branches, far_transfers;

	for (unsigned int n = 0; n < PMU_COUNTERS; n++) {
		if (!evtsel_keeps(n, EVTSEL_GUESTONLY, EVTSEL_GUESTONLY, &value))
			return "the selectors do not keep GuestOnly";
		if (!ctr_keeps(n, 0x555555555555) || !ctr_keeps(n, 0xaaaaaaaaaaaa))
			return "the counters drop what is written to them";
	}
	instructions = count_stub(v, stub_1000, EVENT_RETIRED_INSTRUCTIONS);
	branches = count_stub(v, stub_1000, EVENT_RETIRED_BRANCHES);
	far_transfers = count_stub(v, stub_1000, EVENT_RETIRED_FAR_TRANSFERS);
	if (instructions - 1000 > 1 || branches > 1 || far_transfers > 1) {
		log_info("event=pmu_probe instructions=%lu branches=%lu far_transfers=%lu",
			 instructions, branches, far_transfers);
		return "a guest of 1000 instructions is not counted as that";
	}
	*tick = (struct pmu_vmrun_ticks){instructions == 1001, branches == 1, far_transfers == 1};
	return NULL;
}

static u64 switched_rdmsr(struct pmu_switched *backend, u32 msr)
{
	(void)backend;
	return cpu_rdmsr(msr);
}

static void switched_wrmsr(struct pmu_switched *backend, u32 msr, u64 value)
{
	(void)backend;
	cpu_wrmsr(msr, value);
}

#define EXACT_ROUNDS 16
static const u32 switched_events[PMU_SWITCHED_EVENTS] = {
	EVENT_RETIRED_INSTRUCTIONS, EVENT_RETIRED_BRANCHES, EVENT_RETIRED_FAR_TRANSFERS};

/*
 * What `running` counters with the same selector show of a stub at that CPL, by the run loop of `switched`: the least and
 * the most of them, less the overhead as far as it is known.
 */
struct range_of_counts {
	u64 least, most;
};

static struct range_of_counts count_switched(struct vcpu *v, const u8 *stub, u8 cpl, u64 eventsel,
					     unsigned int running)
{
	struct pmu_hw *hw = &v->switched.hw;
	struct range_of_counts range = {~0ull, 0};

	for (unsigned int n = 0; n < running; n++) {
		hw->write_ctr(hw, n, 0);
		hw->write_evtsel(hw, n, eventsel | EVTSEL_EN);
	}
	set_stub_cpl(cpl);
	stub_vmcb.save.rip = (u64)(uintptr_t)stub;
	vmrun_probe(v, vmrun_loop_switched);
	ASSERT(stub_vmcb.control.exit_code ==
	       (cpl ? VMEXIT_EXCEPTION(VEC_PF) : (u64)VMEXIT_VMMCALL));
	for (unsigned int n = 0; n < running; n++) {
		u64 count = hw->read_ctr(hw, n);

		range.least = count < range.least ? count : range.least;
		range.most = count > range.most ? count : range.most;
		hw->write_evtsel(hw, n, 0);
	}
	set_stub_cpl(0);
	return range;
}

/* L0's own part in a count, and whether it is always the same. */
static bool probe_overhead(struct vcpu *v, struct pmu_switched_overhead *overhead,
			   unsigned int event, unsigned int filter, u8 cpl, unsigned int writes)
{
	u64 eventsel = switched_events[event] | filter * EVTSEL_USR;
	unsigned int running = v->switched.global ? PMU_COUNTERS : writes;
	struct range_of_counts all = count_switched(v, stub_0, cpl, eventsel, running);

	for (unsigned int i = 1; i < EXACT_ROUNDS; i++) {
		struct range_of_counts now = count_switched(v, stub_0, cpl, eventsel, running);

		all.least = now.least < all.least ? now.least : all.least;
		all.most = now.most > all.most ? now.most : all.most;
	}
	overhead->at[event][filter][cpl != 0][writes - 1] = (u32)all.least;
	return all.least == all.most;
}

static bool switched_counts(struct vcpu *v, const u8 *stub, u64 instructions, unsigned int running)
{
	const u64 eventsel = EVENT_RETIRED_INSTRUCTIONS | EVTSEL_USR | EVTSEL_OS;
	struct range_of_counts now = count_switched(v, stub, 0, eventsel, running);

	return now.least == instructions && now.most == instructions;
}

/*
 * NULL if the machine's PMU can be stopped and started around the guest, else why not. v->switched is ready to use then;
 * `exact` tells whether L0's own part in a count is always the same. If not, the least of it is taken off.
 */
static const char *probe_switched(struct vcpu *v, bool global, bool *exact)
{
	const u64 eventsel = EVENT_RETIRED_INSTRUCTIONS | EVTSEL_USR | EVTSEL_OS;
	static struct pmu_switched_overhead overhead;
	struct range_of_counts thousand;

	pmu_switched_init(&v->switched, global, switched_rdmsr, switched_wrmsr);
	*exact = true;
	for (unsigned int event = 0; event < PMU_SWITCHED_EVENTS; event++)
		for (unsigned int filter = 1; filter < 4; filter++)
			for (u8 cpl = 0; cpl < 4; cpl += 3)
				for (unsigned int n = 1; n <= (global ? 1 : PMU_COUNTERS); n++)
					*exact &=
						probe_overhead(v, &overhead, event, filter, cpl, n);
	v->switched.overhead = overhead;

	for (unsigned int i = 0; i < EXACT_ROUNDS; i++)
		for (unsigned int n = 1; n <= PMU_COUNTERS; n += PMU_COUNTERS - 1)
			*exact &= switched_counts(v, stub_0, 0, n) &&
				  switched_counts(v, stub_1, 1, n) &&
				  switched_counts(v, stub_100, 100, n) &&
				  switched_counts(v, stub_1000, 1000, n);
	thousand = count_switched(v, stub_1000, 0, eventsel, PMU_COUNTERS);
	if (thousand.least >= 1000 && thousand.most < 2000)
		return NULL;
	log_info("event=pmu_probe switch=%s least=%lu most=%lu",
		 global ? "global-ctl" : "selectors", thousand.least, thousand.most);
	return "a guest of 1000 instructions is not counted as about that";
}

/* With all selectors 0. */
static bool global_ctl_works(void)
{
	const u64 all = BITS(PMU_COUNTERS - 1, 0);
	u64 read;

	cpu_wrmsr(MSR_PERF_GLOBAL_CTL, 0);
	read = cpu_rdmsr(MSR_PERF_GLOBAL_CTL);
	cpu_wrmsr(MSR_PERF_GLOBAL_CTL, all);
	return !(read & all) && (cpu_rdmsr(MSR_PERF_GLOBAL_CTL) & all) == all;
}

static bool machine_has_v2(void)
{
	return cpu_cpuid(CPUID_EXT_MAX, 0).eax >= CPUID_PERFMON_V2 &&
	       (cpu_cpuid(CPUID_PERFMON_V2, 0).eax & CPUID_22_EAX_PERFMON_V2);
}

/* What came out of the trials: on one CPU, and it holds for all. */
static struct decision {
	enum tally_backend backend;
	const char *why; /* it is not a better one */
	bool cr_read_quirk;
	bool global;			       /* PerfCntGlobalCtl starts and stops the counters */
	struct pmu_vmrun_ticks tick;	       /* guest-only */
	bool exact;			       /* switched */
	struct pmu_switched_overhead overhead; /* switched */
	int shift;			       /* clock: -1 if it is none */
	u64 clock_overhead, swint_ticks;
	const char *no_irperf; /* why it is not offered */
	u64 irperf_overhead;   /* guest-only */
} decision;

static void use_guest_only(struct vcpu *v, enum svme0_rule rule)
{
	const struct pmu_vmrun_ticks *tick = &decision.tick;

	for (unsigned int n = 0; n < PMU_COUNTERS; n++)
		cpu_wrmsr(MSR_PERFEVTSEL(n), 0);
	pmu_guest_only_init(&v->guest_only, *tick, decision.global, msr_read, msr_write);
	pmu_init(&v->pmu, &v->guest_only.hw, rule);
	v->pmu.has_v2 = machine_has_v2();
	nested_intercept_pmu(v, false);
	log_info("event=pmu backend=guest-only tick_instructions=%u tick_branches=%u "
		 "tick_far_transfers=%u switch=%s",
		 tick->instructions, tick->branches, tick->far_transfers,
		 decision.global ? "global-ctl" : "selectors");
}

/* The guests reach no register of the PMU's without an exit. */
static void intercept_all(struct vcpu *v)
{
	nested_intercept_pmu(v, true);
	vcpu_set_l0_intercept(v, INTERCEPT(RDPMC), true);
	vcpu_reset_intercepts(v);
}

static void use_switched(struct vcpu *v, enum svme0_rule rule)
{
	const struct pmu_switched_overhead *overhead = &decision.overhead;
	unsigned int both = PMU_SWITCHED_FILTER(EVTSEL_USR | EVTSEL_OS);

	v->switched_exact = decision.exact;
	pmu_switched_init(&v->switched, decision.global, switched_rdmsr, switched_wrmsr);
	v->switched.overhead = *overhead;
	pmu_init(&v->pmu, &v->switched.hw, rule);
	v->pmu.has_v2 = true;
	intercept_all(v);
	log_info("event=pmu backend=switched exact=%u switch=%s overhead_instructions=%u "
		 "overhead_branches=%u overhead_far_transfers=%u why=\"%s\"",
		 decision.exact, decision.global ? "global-ctl" : "selectors",
		 overhead->at[PMU_SWITCHED_INSTRUCTIONS][both][0][0],
		 overhead->at[PMU_SWITCHED_BRANCHES][both][0][0],
		 overhead->at[PMU_SWITCHED_FAR_TRANSFERS][both][0][0], decision.why);
}

/*
 * An instruction clock ticks for whatever CPU executes: with more than one, a CPU counts what the others execute meanwhile,
 * if they do.
 */
static void use_clock(struct vcpu *v, enum svme0_rule rule)
{
	int shift = decision.shift;
	bool exact = shift >= 0 && !v->smp;

	ASSERT(!pmu_clock_init(&v->clock, exact, shift >= 0 ? (unsigned int)shift : 0));
	pmu_init(&v->pmu, &v->clock.hw, rule);
	v->pmu.has_v2 = true;
	intercept_all(v);
	if (exact)
		log_info("event=pmu backend=clock exact=1 shift=%d overhead_ticks=%lu pmi=%s "
			 "lead_ticks=%lu why=\"%s\"",
			 shift, v->clock_overhead, v->apic_timer.usable ? "exact" : "next-exit",
			 v->apic_timer.lead + 1, decision.why);
	else
		log_warn("event=pmu backend=clock exact=0 why=\"%s\" note=\"%s\"", decision.why,
			 shift >= 0 ? "the clock is one for all CPUs: each counts what the others "
				      "execute, too"
				    : "no exact clock: TSC ticks are counted");
}

static const char *const choice_names[] = {
	[PMU_GUEST_ONLY] = "guest-only",
	[PMU_SWITCHED] = "switched",
};

/* The machine's counters, if they will do. */
static enum tally_backend choose_backend(struct vcpu *v, u32 configured)
{
	const char *guest_only, *switched = NULL;
	struct decision *d = &decision;

	d->why = "configured";
	if (configured == PMU_OFF || configured == PMU_CLOCK)
		return configured == PMU_OFF ? TALLY_BACKEND_OFF : TALLY_BACKEND_CLOCK;
	guest_only = switched = probe_counters();
	d->global = !switched && machine_has_v2() && global_ctl_works();
	if (!guest_only)
		guest_only = probe_guest_only(v, &d->tick);
	if (!switched && (guest_only || configured == PMU_SWITCHED)) {
		switched = probe_switched(v, d->global, &d->exact);
		if (switched && d->global) {
			cpu_wrmsr(MSR_PERF_GLOBAL_CTL, BITS(PMU_COUNTERS - 1, 0));
			d->global = false;
			switched = probe_switched(v, false, &d->exact);
		}
		d->overhead = v->switched.overhead;
	}

	if ((configured == PMU_GUEST_ONLY && guest_only) ||
	    (configured == PMU_SWITCHED && switched))
		log_warn("event=pmu note=\"pmu=%s is not possible here\" why=\"%s\"",
			 choice_names[configured],
			 configured == PMU_SWITCHED ? switched : guest_only);
	if (configured != PMU_SWITCHED || switched)
		d->why = guest_only;
	if (!guest_only && (configured != PMU_SWITCHED || switched))
		return TALLY_BACKEND_GUEST_ONLY;
	if (!switched && (d->exact || d->shift < 0 || configured == PMU_SWITCHED))
		return TALLY_BACKEND_SWITCHED;
	d->why = switched ? switched : "L0's own part in a count varies";
	return TALLY_BACKEND_CLOCK;
}

static const char *choose_irperf(struct vcpu *v, bool wanted)
{
	if (!wanted)
		return "not configured";
	switch (decision.backend) {
	case TALLY_BACKEND_CLOCK:
		return decision.shift >= 0 && !v->smp ? NULL : "the clock is not exact";
	case TALLY_BACKEND_GUEST_ONLY:
		return irperf_probe(v, run_instructions);
	default:
		return "not with this backend";
	}
}

static void decide(struct vcpu *v, const struct config *config)
{
	ASSERT(!pmu_clock_init(&v->clock, false, 0)); /* the trials' */
	begin_stubs(v);
	decision.cr_read_quirk = probe_cr_read(v);
	decision.shift = calibrate_clock(v);
	/* what varies cannot be taken off: a count that went backwards would be worse than one that has some of L0's path */
	if (decision.shift >= 0) {
		decision.clock_overhead = v->clock_overhead;
		decision.swint_ticks = probe_swint(v);
		if (!v->smp)
			apic_timer_probe(v, (unsigned int)decision.shift, run_interrupted);
	}
	decision.backend = choose_backend(v, config->pmu);
	decision.no_irperf = choose_irperf(v, config->irperf);
	decision.irperf_overhead = v->irperf.overhead;
	end_stubs(v);
}

/* What the guests see of what the backend has. */
static void choose_version(struct vcpu *v, u32 version)
{
	if (version == PMU_VERSION_V2 && !v->pmu.has_v2)
		log_warn("event=pmu note=\"pmu.version=v2 is not possible here\" why=\"the machine "
			 "has no PerfMonV2\"");
	if (version == PMU_VERSION_LEGACY || version == PMU_VERSION_CORE)
		v->pmu.has_v2 = false;
	if (version == PMU_VERSION_LEGACY) {
		v->pmu.extended_msrs = 0;
		if (v->backend == TALLY_BACKEND_GUEST_ONLY)
			backend_hide_counters(v, false);
	}
	log_info("event=pmu_version version=%s counters=%u",
		 v->pmu.has_v2		? "v2"
		 : v->pmu.extended_msrs ? "core"
					: "legacy",
		 pmu_counters(&v->pmu));
}

static void offer_irperf(struct vcpu *v, bool wanted)
{
	v->irperf.offered = !decision.no_irperf;
	v->irperf.overhead = decision.irperf_overhead;
	if (v->irperf.offered) {
		nested_intercept_msr(v, MSR_HWCR);
		log_info("event=irperf overhead=%lu", v->irperf.overhead);
	} else if (wanted) {
		log_warn("event=pmu note=\"pmu.irperf=on is not possible here\" why=\"%s\"",
			 decision.no_irperf);
	}
}

static struct tally_filter all_cpus_filter;
static bool filter_changing;

void backend_take_filter(struct vcpu *v)
{
	pmu_set_filter(&v->pmu, &all_cpus_filter);
	backend_selector_written(v);
}

/* One CPU at a time; a CPU that waits for its turn must do what the other asks of it. */
void backend_set_filter(struct vcpu *v, const struct tally_filter *filter)
{
	while (__atomic_exchange_n(&filter_changing, true, __ATOMIC_ACQUIRE)) {
		ipi_serve(v);
		cpu_pause();
	}
	all_cpus_filter = *filter;
	backend_take_filter(v);
	ipi_ask_all(v, (u32)IPI_FILTER);
	__atomic_store_n(&filter_changing, false, __ATOMIC_RELEASE);
}

void backend_join(struct vcpu *v, const struct config *config)
{
	enum svme0_rule rule = config->svme0 == SVME0_COUNT ? SVME0_COUNT : SVME0_STOP;

	v->cr_read_quirk = decision.cr_read_quirk;
	v->clock_overhead = decision.clock_overhead;
	v->track.swint_ticks = decision.swint_ticks;
	v->backend = decision.backend;
	v->guest_only.detour = PMU_GUEST_ONLY_DETOUR; /* if it is another */
	switch (decision.backend) {
	case TALLY_BACKEND_OFF:
		ASSERT(!pmu_clock_init(&v->clock, false, 0)); /* nobody starts it */
		pmu_init(&v->pmu, &v->clock.hw, rule);
		v->pmu_odd = true;
		intercept_all(v);
		log_info("event=pmu backend=off why=configured");
		return;
	case TALLY_BACKEND_GUEST_ONLY:
		use_guest_only(v, rule);
		break;
	case TALLY_BACKEND_SWITCHED:
		use_switched(v, rule);
		break;
	case TALLY_BACKEND_CLOCK:
		use_clock(v, rule);
		break;
	}
	choose_version(v, config->pmu_version);
	offer_irperf(v, config->irperf);
	ASSERT(!pmu_filter_check(&config->filter));
	pmu_set_filter(&v->pmu, &config->filter);
	if (config->filter.action != TALLY_FILTER_OFF)
		log_info("event=filter action=%u entries=%u", config->filter.action,
			 config->filter.count);
	if (config->pmu_flaw) {
		v->pmu_flaw = config->pmu_flaw;
		v->pmu_odd = true;
		if (v->pmu_flaw == PMU_FLAW_NO_VMRUN_TICK)
			vcpu_set_special(v, SPECIAL_FLAW);
		log_warn("event=pmu_flaw flaw=%u note=\"for tests: the PMU that L1 gets is not as "
			 "it should be\"",
			 v->pmu_flaw);
	}
}

void backend_init(struct vcpu *v, const struct config *config)
{
	decide(v, config);
	backend_join(v, config);
}

/* Not by vcpu_reset_intercepts(): L0 may have others set in the VMCB that runs, for one instruction. */
NOINLINE void backend_hide_counters(struct vcpu *v, bool hide)
{
	struct vmcb_control *c1 = &v->vmcb01->control, *c2 = &v->vmcb02->control;

	v->counters_hidden = hide;
	hide |= !v->pmu.extended_msrs; /* the machine has two counters that the guest has not */
	nested_intercept_pmu(v, hide);
	c1->clean &= ~(u32)CLEAN_IOPM;
	vcpu_set_l0_intercept(v, INTERCEPT(RDPMC), hide);
	if (hide) {
		vmcb_set_intercept(c1, INTERCEPT(RDPMC));
		vmcb_set_intercept(c2, INTERCEPT(RDPMC));
	} else {
		vmcb_clr_intercept(c1, INTERCEPT(RDPMC));
		if (!vmcb_intercepts(&v->nested.ctl, INTERCEPT(RDPMC)))
			vmcb_clr_intercept(c2, INTERCEPT(RDPMC));
	}
}

static NOINLINE void note_unsupported(struct vcpu *v, u64 counters)
{
	for (; counters; counters &= counters - 1) {
		unsigned int n = (unsigned int)__builtin_ctzll(counters);
		const char *why = v->pmu.hw->unsupported(v->pmu.hw, v->pmu.eventsel[n]);

		if (!why)
			continue; /* counts nothing by definition: USR=OS=0, or a CMASK that is never reached */
		v->unsupported_logged |= BIT(n);
		log_warn("event=pmu_unsupported counter=%u eventsel=%lx why=\"%s\" note=\"does not "
			 "count\"",
			 n, v->pmu.eventsel[n], why);
	}
}

/* Two words of intercepts at once, which need not be aligned for that. */
static ALWAYS_INLINE void words_or(void *words, u64 bits)
{
	u64 value;

	__builtin_memcpy(&value, words, sizeof(value));
	value |= bits;
	__builtin_memcpy(words, &value, sizeof(value));
}

static ALWAYS_INLINE void words_and(void *words, u64 bits)
{
	u64 value;

	__builtin_memcpy(&value, words, sizeof(value));
	value &= bits;
	__builtin_memcpy(words, &value, sizeof(value));
}

/*
 * With the clock, HLT and MWAIT exit as long as a counter is enabled, or IRPERF is, in whatever mode (exit_halt()). Decided
 * here and not when the counter starts, so that a transition has nothing to do for it.
 */
static void set_halt_intercepts(struct vcpu *v, bool on)
{
	/* both are in words 3 and 4 */
	const u64 mask = 1ull << (INTERCEPT(HLT) - 96) | 1ull << (INTERCEPT(MWAIT) - 96);
	void *l0 = &v->l0_intercepts[3], *c1 = &v->vmcb01->control.intercepts[3],
	     *c2 = &v->vmcb02->control.intercepts[3];
	u64 ctl;

	v->halt_intercepted = on;
	if (on) {
		words_or(l0, mask);
		words_or(c1, mask);
		words_or(c2, mask);
	} else {
		__builtin_memcpy(&ctl, &v->nested.ctl.intercepts[3], sizeof(ctl));
		words_and(l0, ~mask);
		words_and(c1, ~mask);
		words_and(c2, ~mask | ctl);
	}
}

/* The same where the machine's counters are used. */
static NOINLINE void machine_selector_written(struct vcpu *v)
{
	v->settles = v->pmu.enabled || v->irperf.on;
	if (v->backend == TALLY_BACKEND_GUEST_ONLY)
		pmu_guest_only_prepare(&v->guest_only, &v->pmu);
	else if (v->backend == TALLY_BACKEND_SWITCHED)
		interrupts_choose(v, v->pmu.enabled & v->switched.interrupting);
}

void backend_selector_written(struct vcpu *v)
{
	u64 unsupported;

	pmu_commit(&v->pmu);
	if (unlikely(v->backend != TALLY_BACKEND_CLOCK)) {
		machine_selector_written(v);
		return;
	}
	if (v->halt_intercepted != ((v->pmu.enabled | v->irperf.on) != 0))
		set_halt_intercepts(v, !v->halt_intercepted);
	if (unlikely(v->clock.interrupting | v->interrupts_taken |
		     v->pmu.reprogram_pmc_on_cpl_change)) {
		interrupts_choose(v, v->pmu.enabled & v->clock.interrupting);
		track_begin(v);
		if (v->special & SPECIAL_PMI)
			apic_timer_entry(v); /* this may not be an exit that does so at its end */
	}
	unsupported = v->pmu.enabled & ~(v->clock.countable | v->unsupported_logged);
	if (unlikely(unsupported))
		note_unsupported(v, unsupported);
}

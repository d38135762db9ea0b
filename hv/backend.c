/* SPDX-License-Identifier: MIT */
/*
 * Chooses the PMU's backend at boot, by trying: the machine's own counters if they honour GuestOnly, else the TSC as a
 * clock. The trials run a guest of a known number of instructions through the same path as every other guest.
 */
#include "hv/cpu.h"
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
	vmrun_probe(v);
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

static void begin_stubs(struct vcpu *v)
{
	struct vmcb_control *c = &stub_vmcb.control;
	struct vmcb_save *s = &stub_vmcb.save;

	vmcb_set_intercept(c, INTERCEPT(VMRUN));
	vmcb_set_intercept(c, INTERCEPT(VMMCALL));
	vmcb_set_intercept(c, INTERCEPT(SHUTDOWN));
	c->int_ctl = (u32)V_INTR_MASKING; /* and L0's IF is 0: nothing comes in between */
	vmcb_set_intercept(c, INTERCEPT(NMI));
	c->asid = ASID_L1;
	*s = v->vmcb01->save;
	s->cs = (struct vmcb_seg){0x08, SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_L | SEG_ATTR_G | 0xb,
				  0xffffffff, 0};
	s->ss = (struct vmcb_seg){0x10, SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_DB | SEG_ATTR_G | 3,
				  0xffffffff, 0};
	s->ds = s->es = s->ss;
	s->cpl = 0;
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

/* log2 of the ticks per instruction if the TSC is an exact instruction clock, else -1. Sets clock_overhead. */
static int calibrate_clock(struct vcpu *v)
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

/* What counter 0 shows of `stub` on `event`, GuestOnly. USR too, though the stub stays at CPL 0: a PMU of our own, one
 * level down, cannot filter by CPL. */
static u64 count_stub(struct vcpu *v, const u8 *stub, u32 event)
{
	cpu_wrmsr(MSR_PERFCTR(0), 0);
	cpu_wrmsr(MSR_PERFEVTSEL(0), event | EVTSEL_USR | EVTSEL_OS | EVTSEL_GUESTONLY | EVTSEL_EN);
	run_stub(v, stub);
	cpu_wrmsr(MSR_PERFEVTSEL(0), 0);
	return cpu_rdmsr(MSR_PERFCTR(0));
}

/* NULL if the machine's PMU can be left to the guests, else why not. */
static const char *probe_guest_only(struct vcpu *v, struct pmu_vmrun_ticks *tick)
{
	const u64 wanted = EVENT_RETIRED_INSTRUCTIONS | EVTSEL_USR | EVTSEL_OS | EVTSEL_GUESTONLY;
	u64 value, instructions, branches, far_transfers;

	if (!(cpu_cpuid(CPUID_EXT_FEATURES, 0).ecx & CPUID_EXT1_ECX_PERFCTREXTCORE))
		return "CPUID shows no core performance counters";
	if (!cpu_wrmsr_safe(MSR_PERFEVTSEL(0), wanted) ||
	    !cpu_rdmsr_safe(MSR_PERFEVTSEL(0), &value))
		return "the performance counter MSRs fault";
	cpu_wrmsr(MSR_PERFEVTSEL(0), 0);
	if (value != wanted)
		return "the selectors do not keep GuestOnly";
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

static bool machine_has_v2(void)
{
	return cpu_cpuid(CPUID_EXT_MAX, 0).eax >= CPUID_PERFMON_V2 &&
	       (cpu_cpuid(CPUID_PERFMON_V2, 0).eax & CPUID_22_EAX_PERFMON_V2);
}

static void use_guest_only(struct vcpu *v, struct pmu_vmrun_ticks tick, enum svme0_rule rule)
{
	v->backend = TALLY_BACKEND_GUEST_ONLY;
	pmu_guest_only_init(&v->guest_only, tick, msr_read, msr_write);
	for (unsigned int n = 0; n < PMU_COUNTERS; n++)
		cpu_wrmsr(MSR_PERFEVTSEL(n), 0);
	pmu_init(&v->pmu, &v->guest_only.hw, rule);
	v->pmu.has_v2 = machine_has_v2();
	if (v->pmu.has_v2)
		cpu_wrmsr(MSR_PERF_GLOBAL_CTL,
			  BITS(PMU_COUNTERS - 1, 0)); /* L1's is folded into EN */
	nested_intercept_pmu(false);
	log_info("event=pmu backend=guest-only tick_instructions=%u tick_branches=%u "
		 "tick_far_transfers=%u",
		 tick.instructions, tick.branches, tick.far_transfers);
}

static void use_clock(struct vcpu *v, int shift, enum svme0_rule rule, const char *why)
{
	u64 overhead = v->clock_overhead;

	v->backend = TALLY_BACKEND_CLOCK;
	ASSERT(!pmu_clock_init(&v->clock, shift >= 0, shift >= 0 ? (unsigned int)shift : 0));
	pmu_init(&v->pmu, &v->clock.hw, rule);
	v->pmu.has_v2 = true;
	nested_intercept_pmu(true);
	vcpu_set_l0_intercept(v, INTERCEPT(RDPMC), true);
	vcpu_reset_intercepts(v);
	if (shift >= 0)
		log_info("event=pmu backend=clock exact=1 shift=%d overhead_ticks=%lu why=\"%s\"",
			 shift, overhead, why);
	else
		log_warn("event=pmu backend=clock exact=0 why=\"%s\" note=\"no exact clock: TSC "
			 "ticks are counted\"",
			 why);
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

void backend_init(struct vcpu *v, const struct config *config)
{
	enum svme0_rule rule = config->svme0 == SVME0_COUNT ? SVME0_COUNT : SVME0_STOP;
	const char *why = "configured";
	struct pmu_vmrun_ticks tick;
	int shift;

	ASSERT(!pmu_clock_init(&v->clock, false, 0)); /* with pmu=off nobody starts it */
	pmu_init(&v->pmu, &v->clock.hw, rule);
	begin_stubs(v);
	v->cr_read_quirk = probe_cr_read(v);
	if (config->pmu == PMU_OFF) {
		end_stubs(v);
		v->backend = TALLY_BACKEND_OFF;
		nested_intercept_pmu(true);
		vcpu_set_l0_intercept(v, INTERCEPT(RDPMC), true);
		vcpu_reset_intercepts(v);
		log_info("event=pmu backend=off why=configured");
		return;
	}
	shift = calibrate_clock(v);
	/* what varies cannot be taken off: a count that went backwards would be worse than one that has some of L0's path */
	if (shift < 0)
		v->clock_overhead = 0;
	else
		v->track.swint_ticks = probe_swint(v);
	if (config->pmu != PMU_CLOCK)
		why = probe_guest_only(v, &tick);
	end_stubs(v);
	if (config->pmu == PMU_GUEST_ONLY && why)
		log_warn("event=pmu note=\"pmu=guest-only is not possible here\" why=\"%s\"", why);
	if (!why)
		use_guest_only(v, tick, rule);
	else
		use_clock(v, shift, rule, why);
	choose_version(v, config->pmu_version);
	ASSERT(!pmu_filter_check(&config->filter));
	pmu_set_filter(&v->pmu, &config->filter);
	if (config->filter.action != TALLY_FILTER_OFF)
		log_info("event=filter action=%u entries=%u", config->filter.action,
			 config->filter.count);
}

/* Not by vcpu_reset_intercepts(): L0 may have others set in the VMCB that runs, for one instruction. */
NOINLINE void backend_hide_counters(struct vcpu *v, bool hide)
{
	struct vmcb_control *c1 = &v->vmcb01->control, *c2 = &v->vmcb02->control;

	v->counters_hidden = hide;
	hide |= !v->pmu.extended_msrs; /* the machine has two counters that the guest has not */
	nested_intercept_pmu(hide);
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

		v->unsupported_logged |= BIT(n);
		if (!why)
			continue; /* USR=OS=0: counts nothing by definition */
		log_warn("event=pmu_unsupported counter=%u eventsel=%lx why=\"%s\" note=\"does not "
			 "count\"",
			 n, v->pmu.eventsel[n], why);
	}
}

/*
 * With the clock, HLT and MWAIT exit as long as a counter is enabled, in whatever mode (exit_halt()). Decided here and
 * not when the counter starts, so that a transition has nothing to do for it.
 */
static void set_halt_intercepts(struct vcpu *v, bool on)
{
	/* both are in words 3 and 4, which makes it one u64 for each of the three */
	const u64 mask = 1ull << (INTERCEPT(HLT) - 96) | 1ull << (INTERCEPT(MWAIT) - 96),
		  wanted = on ? mask : 0;
	void *words[] = {&v->l0_intercepts[3], &v->vmcb01->control.intercepts[3],
			 &v->vmcb02->control.intercepts[3]};
	u64 ctl, word;

	v->halt_intercepted = on;
	__builtin_memcpy(&ctl, &v->nested.ctl.intercepts[3], sizeof(ctl));
	for (unsigned int i = 0; i < ARRAY_SIZE(words); i++) {
		__builtin_memcpy(&word, words[i], sizeof(word));
		word = (word & ~mask) | wanted | (i == 2 ? ctl & mask : 0);
		__builtin_memcpy(words[i], &word, sizeof(word));
	}
}

void backend_selector_written(struct vcpu *v)
{
	u64 unsupported;

	pmu_commit(&v->pmu);
	if (v->backend != TALLY_BACKEND_CLOCK)
		return;
	if (v->halt_intercepted != (v->pmu.enabled != 0))
		set_halt_intercepts(v, v->pmu.enabled);
	if (unlikely(v->clock.interrupting | v->interrupts_taken |
		     v->pmu.reprogram_pmc_on_cpl_change)) {
		interrupts_choose(v, v->pmu.enabled & v->clock.interrupting);
		track_begin(v);
	}
	unsupported = v->pmu.enabled & ~(v->clock.countable | v->unsupported_logged);
	if (unlikely(unsupported))
		note_unsupported(v, unsupported);
}

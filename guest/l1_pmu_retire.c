/* SPDX-License-Identifier: MIT */
/*
 * Every instruction counts exactly once, at the level where it retires, whether it exits or not.
 * Each case is: read three counters (no bit, HostOnly, GuestOnly), one piece of code, read them
 * again; what the reading itself counts is known (lib/pmu.h).
 */
#include "abi/hypercall.h"
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

enum { NONE, HOST, GUEST, COUNTERS };

static const char *const counter_name[COUNTERS] = {"no bit", "HostOnly", "GuestOnly"};

static struct {
	u64 before[COUNTERS], after[COUNTERS];
} sample;

/*
 * A reading is five instructions: MOV, RDPMC, SHL, OR, MOV. Of counter i's readings, those
 * between its RDPMC (itself included) and the code are AHEAD(i), those between the code and its
 * second RDPMC are BEHIND(i).
 */
#define AHEAD(i) (4 + 5 * (COUNTERS - 1 - (i)))
#define BEHIND(i) (5 * (i) + 1)

#define READ(i, where)                                                                             \
	"mov $" #i ", %%ecx\n\trdpmc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\t"                     \
	"mov %%rax, 8*" #i "(%[" #where "])\n\t"

/* The code finds a, b in r9 and r10, may use rax, rbx, rcx, rdx, r11, and counts its instructions
 * in the table. */
#define MEASURED(name, code, a, b)                                                                 \
	static void name(void)                                                                     \
	{                                                                                          \
		register u64 r9 asm("r9") = (a);                                                   \
		register u64 r10 asm("r10") = (b);                                                 \
		asm volatile(READ(0, before) READ(1, before) READ(2, before) code                  \
			     "\n\t" READ(0, after) READ(1, after) READ(2, after)                   \
			     :                                                                     \
			     : [before] "r"(sample.before), [after] "r"(sample.after), "r"(r9),    \
			       "r"(r10)                                                            \
			     : "rax", "rbx", "rcx", "rdx", "r11", "memory", "cc");                 \
	}

#define WRMSR_R10 "mov %%r9d, %%ecx\n\tmov %%r10d, %%eax\n\txor %%edx, %%edx\n\twrmsr"

MEASURED(m_nothing, "", 0, 0)
MEASURED(m_nop, "nop", 0, 0)
MEASURED(m_cpuid, "cpuid", 0, 0)
MEASURED(m_cpuid_rep, ".byte 0xf3\n\tcpuid\n\tinc %%r9", 0, 0)
MEASURED(m_cpuid_66, ".byte 0x66\n\tcpuid\n\tinc %%r9", 0, 0)
MEASURED(m_cpuid_rex, ".byte 0x48\n\tcpuid\n\tinc %%r9", 0, 0)
MEASURED(m_cpuid_many, ".byte 0x66, 0x67, 0x2e, 0xf2, 0x4f\n\tcpuid\n\tinc %%r9", 0, 0)
MEASURED(m_cpuid_ten, ".rept 10\n\tcpuid\n\t.endr", 0, 0)
MEASURED(m_rdmsr, "mov %%r9d, %%ecx\n\trdmsr", MSR_EFER, 0)
MEASURED(m_rdmsr_counter, "mov %%r9d, %%ecx\n\trdmsr", MSR_PERFCTR(0), 0)
MEASURED(m_wrmsr_efer, WRMSR_R10, MSR_EFER, rdmsr(MSR_EFER))
MEASURED(m_svme_set, WRMSR_R10, MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME)
MEASURED(m_svme_clear, WRMSR_R10, MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME)
MEASURED(m_hsave, WRMSR_R10, MSR_VM_HSAVE_PA, (u64)hsave)
MEASURED(m_rdpmc, "xor %%ecx, %%ecx\n\trdpmc", 0, 0)
MEASURED(m_vmload, "mov %%r9, %%rax\n\tvmload %%rax", (u64)&l2.vmcb, 0)
MEASURED(m_vmsave, "mov %%r9, %%rax\n\tvmsave %%rax", (u64)&l2.vmcb, 0)
MEASURED(m_clgi_stgi, "clgi\n\tstgi", 0, 0)
MEASURED(m_invlpga, "mov %%r9, %%rax\n\txor %%ecx, %%ecx\n\tinvlpga %%rax, %%ecx", (u64)&l2.vmcb, 0)
MEASURED(m_vmmcall, "mov %%r9, %%rax\n\tmov %%r10, %%rbx\n\tvmmcall", TALLY_CALL_STATUS,
	 (u64)&l2.stack)
MEASURED(m_vmrun, "mov %%r9, %%rax\n\tclgi\n\tvmrun %%rax\n\tstgi", (u64)&l2.vmcb, 0)
MEASURED(m_hlt, "sti\n\thlt\n\tcli", 0, 0)

/* L2's code: what it counts before its exit is in the table. */
L2_CODE(l2_nothing, "");
L2_CODE(l2_ten_nops, ".rept 10\n\tnop\n\t.endr");
L2_CODE(l2_cpuid, "cpuid\n\tnop");
L2_CODE(l2_cpuid_prefixed, ".byte 0x66, 0xf3, 0x4f\n\tcpuid\n\tnop");
L2_CODE(l2_cpuid_hundred, ".rept 100\n\tcpuid\n\t.endr");
L2_CODE(l2_rdmsr, "mov $0xc0000080, %ecx\n\trdmsr");
L2_CODE(l2_rdpmc, "xor %ecx, %ecx\n\trdpmc");
L2_CODE(l2_ud, "ud2");
L2_CODE(l2_de, "xor %ecx, %ecx\n\tdiv %ecx");

/* Trap-like: an interrupt handler of one instruction; the EOI comes later. */
asm(".pushsection .text\n.balign 16\nlone_iretq:\n\tiretq\n.popsection");
extern const u8 lone_iretq[];

#define TIMER_VECTOR 0x50u
#define TIMER_COUNT 1000000u

static void svme0(void)
{
	svm_disable();
}

static void l2_nothing_ready(void)
{
	l2_reset(l2_nothing);
}

static void l2_refused(void)
{
	l2_reset(l2_nothing);
	l2.vmcb.control.asid = 0;
}

static void vmload_ready(void)
{
	l2_reset(l2_nothing);
	vmsave((u64)&l2.vmcb);
}

#define L2_READY(name, entry, bit)                                                                 \
	static void name(void)                                                                     \
	{                                                                                          \
		l2_reset(entry);                                                                   \
		if ((bit) >= 0)                                                                    \
			l2_intercept((unsigned int)(bit));                                         \
	}
L2_READY(ready_ten_nops, l2_ten_nops, -1)
L2_READY(ready_cpuid, l2_cpuid, -1)
L2_READY(ready_cpuid_prefixed, l2_cpuid_prefixed, -1)
L2_READY(ready_cpuid_hundred, l2_cpuid_hundred, -1)
L2_READY(ready_cpuid_exits, l2_cpuid, INTERCEPT(CPUID))
L2_READY(ready_rdmsr, l2_rdmsr, -1)
L2_READY(ready_rdpmc, l2_rdpmc, -1)
L2_READY(ready_rdpmc_exits, l2_rdpmc, INTERCEPT(RDPMC))
L2_READY(ready_ud_exits, l2_ud, INTERCEPT_EXCEPTION(VEC_UD))
L2_READY(ready_de_exits, l2_de, INTERCEPT_EXCEPTION(VEC_DE))

static void ready_cpuid_traps(void)
{
	l2_reset(l2_cpuid);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_DB));
	l2.vmcb.save.rflags |= RFLAGS_TF;
}

static void ready_npt(void)
{
	l2_reset(l2_ten_nops);
	l2_use_npt();
}

static void timer_ready(void)
{
	trap_gate(TIMER_VECTOR, lone_iretq);
	apic_timer(TIMER_VECTOR, TIMER_COUNT);
}

static void timer_done(void)
{
	apic_eoi();
	apic_timer_stop();
	trap_gate(TIMER_VECTOR, NULL);
}

enum kind {
	IN_L1,	   /* all of it counts in L1 */
	SETS_SVME, /* the last instruction is the WRMSR, which retires in the new state */
	CLEARS_SVME,
};

static const struct retire {
	const char *name;
	void (*ready)(void);
	void (*measured)(void);
	u64 in_l1, in_l2; /* instructions of the code */
	enum kind kind;
	bool ours_only;
	void (*done)(void);
} cases[] = {
	{"nothing", NULL, m_nothing, 0, 0, IN_L1, false, NULL},
	{"NOP", NULL, m_nop, 1, 0, IN_L1, false, NULL},
	{"CPUID", NULL, m_cpuid, 1, 0, IN_L1, false, NULL},
	{"REP CPUID, then INC", NULL, m_cpuid_rep, 2, 0, IN_L1, false, NULL},
	{"66h CPUID, then INC", NULL, m_cpuid_66, 2, 0, IN_L1, false, NULL},
	{"REX.W CPUID, then INC", NULL, m_cpuid_rex, 2, 0, IN_L1, false, NULL},
	{"CPUID with five prefixes, then INC", NULL, m_cpuid_many, 2, 0, IN_L1, false, NULL},
	{"ten CPUIDs", NULL, m_cpuid_ten, 10, 0, IN_L1, false, NULL},
	{"CPUID with SVME=0", svme0, m_cpuid, 1, 0, IN_L1, false, svm_enable},
	{"RDMSR EFER", NULL, m_rdmsr, 2, 0, IN_L1, false, NULL},
	{"RDMSR of a running counter", NULL, m_rdmsr_counter, 2, 0, IN_L1, false, NULL},
	{"RDPMC", NULL, m_rdpmc, 2, 0, IN_L1, false, NULL},
	{"WRMSR EFER that changes nothing", NULL, m_wrmsr_efer, 4, 0, IN_L1, false, NULL},
	{"WRMSR EFER sets SVME: retires with SVME=1", svme0, m_svme_set, 4, 0, SETS_SVME, false,
	 NULL},
	{"WRMSR EFER clears SVME: retires with SVME=0", NULL, m_svme_clear, 4, 0, CLEARS_SVME,
	 false, svm_enable},
	{"WRMSR VM_HSAVE_PA", NULL, m_hsave, 4, 0, IN_L1, false, NULL},
	{"VMLOAD", vmload_ready, m_vmload, 2, 0, IN_L1, false, NULL},
	{"VMSAVE", vmload_ready, m_vmsave, 2, 0, IN_L1, false, NULL},
	{"CLGI, STGI", NULL, m_clgi_stgi, 2, 0, IN_L1, false, NULL},
	{"INVLPGA", NULL, m_invlpga, 3, 0, IN_L1, false, NULL},
	{"VMMCALL from L1", NULL, m_vmmcall, 3, 0, IN_L1, true, NULL},
	/* MOV, CLGI and STGI in L1; VMRUN in L2; the VMMCALL that exits nowhere. */
	{"VMRUN retires in L2", l2_nothing_ready, m_vmrun, 3, 1, IN_L1, false, NULL},
	{"VMRUN that is refused retires in L1", l2_refused, m_vmrun, 4, 0, IN_L1, false, NULL},
	{"L2: ten NOPs", ready_ten_nops, m_vmrun, 3, 11, IN_L1, false, NULL},
	{"L2 with NPT: ten NOPs", ready_npt, m_vmrun, 3, 11, IN_L1, false, NULL},
	{"L2: CPUID that L1 does not intercept", ready_cpuid, m_vmrun, 3, 3, IN_L1, false, NULL},
	{"L2: CPUID with prefixes", ready_cpuid_prefixed, m_vmrun, 3, 3, IN_L1, false, NULL},
	{"L2: a hundred CPUIDs", ready_cpuid_hundred, m_vmrun, 3, 101, IN_L1, false, NULL},
	{"L2: CPUID, and its single-step trap that L1 intercepts", ready_cpuid_traps, m_vmrun, 3, 2,
	 IN_L1, false, NULL},
	{"L2: CPUID that L1 intercepts", ready_cpuid_exits, m_vmrun, 3, 1, IN_L1, false, NULL},
	{"L2: RDMSR EFER", ready_rdmsr, m_vmrun, 3, 3, IN_L1, false, NULL},
	{"L2: RDPMC", ready_rdpmc, m_vmrun, 3, 3, IN_L1, false, NULL},
	{"L2: RDPMC that L1 intercepts", ready_rdpmc_exits, m_vmrun, 3, 2, IN_L1, false, NULL},
	{"L2: #DE that L1 intercepts", ready_de_exits, m_vmrun, 3, 2, IN_L1, false, NULL},
	{"L2: UD2 that L1 intercepts", ready_ud_exits, m_vmrun, 3, 1, IN_L1, false, NULL},
	/* STI, HLT, IRETQ, CLI: the interrupt comes a million clocks later and the waiting counts
	 * nothing. */
	{"HLT: waiting is not counted", timer_ready, m_hlt, 4, 0, IN_L1, false, timer_done},
};

static u64 wanted(const struct retire *c, u32 i)
{
	u64 ahead = AHEAD(i) + c->in_l1, behind = BEHIND(i);

	switch (i) {
	case NONE:
		return ahead + behind + c->in_l2;
	case GUEST:
		if (platform.svme0_count && c->kind == SETS_SVME)
			return ahead - 1;
		if (platform.svme0_count && c->kind == CLEARS_SVME)
			return behind + 1;
		return c->in_l2;
	}
	if (platform.svme0_count)
		return ahead + behind;
	switch (c->kind) {
	case SETS_SVME:
		return 1 + behind;
	case CLEARS_SVME:
		return ahead - 1;
	default:
		return ahead + behind;
	}
}

static void run_case(const void *arg)
{
	const struct retire *c = arg;
	bool svme0_case = c->ready == svme0 && c->kind == IN_L1;

	if (c->ours_only && !platform.under_us) {
		tap_skip("this VMMCALL is a hypercall of Tallyvisor");
		return;
	}
	if (c->ready)
		c->ready();
	c->measured();
	if (c->done)
		c->done();
	for (u32 i = 0; i < COUNTERS; i++) {
		u64 got = (sample.after[i] - sample.before[i]) & PMU_COUNTER_MASK;
		u64 want = wanted(c, i);

		if (svme0_case && i != NONE)
			want = platform.svme0_count ? wanted(c, NONE) : 0;
		if (c->ready == ready_ud_exits && i != HOST && departs(DEPARTURE_FAULT_TICKS))
			want++;
		tap_equal(got, want, counter_name[i]);
	}
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!pmu_start_exact() || !svm_start())
		return;
	pmu_stop_all();
	wrmsr(MSR_PERFEVTSEL(NONE), SEL_INSTRUCTIONS);
	wrmsr(MSR_PERFEVTSEL(HOST), SEL_INSTRUCTIONS | EVTSEL_HOSTONLY);
	wrmsr(MSR_PERFEVTSEL(GUEST), SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, run_case, &cases[i]);
	pmu_stop_all();
}

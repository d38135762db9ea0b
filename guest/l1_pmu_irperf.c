/* SPDX-License-Identifier: MIT */
/*
 * IRPERF, where it is offered (pmu.irperf=on): instructions retired at any level, and none of L0's, while HWCR[30] is set.
 * A reading delivers the value from before its own retirement, as with a counter.
 */
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define TIMER_VECTOR 0x50u
#define TIMER_COUNT 1000000u

/* Instructions between the two readings: those of `code`, which finds `a` in r9, and the first reading, MOV, MOV. */
#define AROUND 3
#define MEASURED(name, code)                                                                       \
	static u32 name(u64 a)                                                                     \
	{                                                                                          \
		register u64 r9 asm("r9") = a;                                                     \
		u32 moved;                                                                         \
		asm volatile("mov %[msr], %%ecx\n\trdmsr\n\tmov %%eax, %%r8d\n\t" code             \
			     "\n\tmov %[msr], %%ecx\n\trdmsr\n\tsub %%r8d, %%eax"                  \
			     : "=a"(moved)                                                         \
			     : [msr] "i"(MSR_IRPERF), "r"(r9)                                      \
			     : "rbx", "rcx", "rdx", "r8", "r10", "memory", "cc");                  \
		return moved;                                                                      \
	}

MEASURED(m_nothing, "")
MEASURED(m_nops, ".rept 100\n\tnop\n\t.endr")
MEASURED(m_cpuid, ".rept 10\n\tcpuid\n\t.endr")
MEASURED(m_vmrun, "mov %%r9, %%rax\n\tclgi\n\tvmrun %%rax\n\tstgi")
MEASURED(m_hlt, "sti\n\thlt\n\tcli")
/* the WRMSR retires in the state before */
MEASURED(m_off, "mov $0xc0010015, %%ecx\n\trdmsr\n\tand $~(1 << 30), %%eax\n\twrmsr")
MEASURED(m_on, "mov $0xc0010015, %%ecx\n\trdmsr\n\tor $1 << 30, %%eax\n\twrmsr")
MEASURED(m_off_on, "mov $0xc0010015, %%ecx\n\trdmsr\n\tand $~(1 << 30), %%eax\n\twrmsr\n\t"
		   ".rept 100\n\tnop\n\t.endr\n\tor $1 << 30, %%eax\n\twrmsr")

L2_CODE(l2_ten_nops, ".rept 10\n\tnop\n\t.endr");
L2_CODE(l2_cpuid, ".rept 10\n\tcpuid\n\t.endr");
L2_CODE(l2_rdmsr, "mov $0xc00000e9, %ecx\n\trdmsr\n\tnop");

/* Trap-like: an interrupt handler of one instruction; the EOI comes later. */
asm(".pushsection .text\n.balign 16\nlone_iretq:\n\tiretq\n.popsection");
extern const u8 lone_iretq[];

static void enable(bool on)
{
	u64 hwcr = rdmsr(MSR_HWCR) & ~HWCR_IRPERF_EN;

	wrmsr(MSR_HWCR, on ? hwcr | HWCR_IRPERF_EN : hwcr);
	CHECK_EQ(rdmsr(MSR_HWCR), on ? hwcr | HWCR_IRPERF_EN : hwcr);
}

static void check_off(const void *arg)
{
	(void)arg;
	CHECK(!(rdmsr(MSR_HWCR) & HWCR_IRPERF_EN));
	wrmsr(MSR_IRPERF, 0x123456789abcdef0);
	CHECK_EQ(m_nops(0), 0);
	CHECK_EQ(rdmsr(MSR_IRPERF), 0x123456789abcdef0);
}

static void check_l1(const void *arg)
{
	(void)arg;
	enable(true);
	CHECK_EQ(m_nothing(0), AROUND);
	CHECK_EQ(m_nops(0), AROUND + 100);
	CHECK_EQ(m_cpuid(0), AROUND + 10);
	enable(false);
}

/* It keeps what it had, and counts on top of what is written. */
static void check_values(const void *arg)
{
	u64 value;

	(void)arg;
	enable(true);
	CHECK_EQ(m_off_on(0), AROUND + 4);
	CHECK_EQ(m_off(0), AROUND - 1 + 4);
	CHECK_EQ(m_on(0), 1);
	wrmsr(MSR_IRPERF, ~0ull - 1000);
	value = rdmsr(MSR_IRPERF);
	CHECK(value > ~0ull - 1000 && value < ~0ull - 900);
	enable(false);
	value = rdmsr(MSR_IRPERF);
	CHECK_EQ(rdmsr(MSR_IRPERF), value);
	wrmsr(MSR_IRPERF, 5);
	enable(true);
	value = rdmsr(MSR_IRPERF);
	CHECK(value >= 5 && value < 100);
	enable(false);
}

static void check_l2(const void *arg)
{
	static const struct {
		const u8 *code;
		u32 instructions;
	} runs[] = {{l2_ten_nops, 10}, {l2_cpuid, 10}, {l2_rdmsr, 3}};

	(void)arg;
	enable(true);
	for (u32 i = 0; i < ARRAY_SIZE(runs); i++) {
		l2_reset(runs[i].code);
		CHECK_EQ(m_vmrun((u64)&l2.vmcb), AROUND + 4 + runs[i].instructions);
	}
	enable(false);
}

static void check_user_and_hlt(const void *arg)
{
	(void)arg;
	enable(true);
	l2_reset(l2_ten_nops);
	l2_user();
	CHECK_EQ(m_vmrun((u64)&l2.vmcb), AROUND + 4 + 10);
	trap_gate(TIMER_VECTOR, lone_iretq);
	apic_timer(TIMER_VECTOR, TIMER_COUNT);
	CHECK_EQ(m_hlt(0), AROUND + 4);
	apic_eoi();
	apic_timer_stop();
	trap_gate(TIMER_VECTOR, NULL);
	enable(false);
}

/* Neither takes anything from the other. */
static void check_counters(const void *arg)
{
	u64 before, after;

	(void)arg;
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	CHECK_EQ(m_nops(0), 0);
	enable(true);
	CHECK_EQ(m_nops(0), AROUND + 100);
	wrmsr(MSR_PERFEVTSEL(0), 0);
	CHECK_EQ(m_nops(0), AROUND + 100);
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	enable(false);
	before = rdmsr(MSR_PERFCTR(0));
	after = rdmsr(MSR_PERFCTR(0));
	CHECK(after - before < 20);
	pmu_stop_all();
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"off, it stands still and holds 64 bits", check_off},
	{"in L1", check_l1},
	{"on and off, and what is written", check_values},
	{"in L2, VMRUN and what L0 emulates there", check_l2},
	{"at CPL 3; not while the CPU sleeps", check_user_and_hlt},
	{"beside a counter", check_counters},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!pmu_start_exact())
		return;
	if (!(cpuid(CPUID_ADDR_SIZES).ebx & CPUID_8_EBX_IRPERF)) {
		tap_skip_all("no IRPERF (CPUID 8000_0008 EBX[1])");
		return;
	}
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * An overflow interrupts right behind the instruction that overflows, for which the hypervisor borrows the APIC's timer:
 * and nobody sees that.
 */
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define PMI_VECTOR 0x61u
#define TIMER_VECTOR 0x52u
#define ENTER_USER 0x90u

#define COUNT (SEL_INSTRUCTIONS | EVTSEL_INT)
#define COUNT_USR (COUNT & ~EVTSEL_OS)

static const u32 lengths[] = {1, 2, 3, 10, 100, 1000, 12345};
#define SLED_BYTES "13000"

/* void nops_from(u64 selector): WRMSR to PERFEVTSEL0, SLED_BYTES NOPs from `sled` on, and back. */
void nops_from(u64 selector);
extern const u8 sled[];
asm(".pushsection .text\n"
    "nops_from:\n\tmov $0xc0010200, %ecx\n\tmov %edi, %eax\n\tmov %rdi, %rdx\n\tshr $32, %rdx\n"
    "\twrmsr\nsled:\n\t.skip " SLED_BYTES ", 0x90\n\tret\n.popsection");
static_assert(MSR_PERFEVTSEL(0) == 0xc0010200, "nops_from");

L2_CODE(l2_sled, ".skip " SLED_BYTES ", 0x90");
/* at CPL 3 */
extern const u8 user_sled[];
asm(".pushsection .text\nuser_sled:\n\t.skip " SLED_BYTES ", 0x90\n\tint $0x80\n.popsection");
static_assert(VEC_TRY_RETURN == 0x80, "user_sled");

static u64 insn_ticks;
static volatile u64 pmi_rip, timer_late_tsc;
static volatile u32 pmis, timers;
static u64 timer_due;

static void on_pmi(struct trap_frame *frame)
{
	if (!pmis++)
		pmi_rip = frame->rip;
	wrmsr(MSR_PERFEVTSEL(0), 0);
	if (frame->vector != VEC_NMI)
		apic_eoi();
}

static void on_timer(struct trap_frame *frame)
{
	u64 now = rdtsc();

	(void)frame;
	timers++;
	timer_late_tsc = now - timer_due;
	apic_eoi();
}

static void begin(u32 lvtpc, u64 events_to_go)
{
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ~0ull);
	apic_write(APIC_LVTPC, lvtpc);
	trap_hook(PMI_VECTOR, on_pmi);
	trap_hook(VEC_NMI, on_pmi);
	trap_hook(TIMER_VECTOR, on_timer);
	pmis = timers = 0;
	pmi_rip = 0;
	wrmsr(MSR_PERFCTR(0), -events_to_go & PMU_COUNTER_MASK);
}

static void end(void)
{
	cli();
	pmu_stop_all();
	apic_timer_stop();
	apic_write(APIC_LVTPC, (u32)APIC_LVT_MASKED);
	interrupt_window(); /* a counter may have gone round again */
	trap_hook(PMI_VECTOR, NULL);
	trap_hook(VEC_NMI, NULL);
	trap_hook(TIMER_VECTOR, NULL);
}

/* Once in a while an interrupt that is injected comes again there (docs/testing.md, INJECTED_TWICE). */
static bool came_again(void)
{
	static u32 times;

	return pmis == 2 && times < 4 && departs(DEPARTURE_INJECTED_TWICE) && ++times;
}

/* One PMI, `behind` instructions after `from` where the count began. */
static void check_pmi(u32 n, const u8 *from, u32 behind)
{
	bool right = pmis == 1 || came_again();

	if (!right || pmi_rip - (u64)from != behind)
		note("%u instructions: ", n);
	if (!right)
		CHECK_EQ(pmis, 1);
	CHECK_EQ(pmi_rip - (u64)from, behind);
}

static void check_l1(u32 lvtpc)
{
	for (u32 i = 0; i < ARRAY_SIZE(lengths); i++) {
		begin(lvtpc, lengths[i]);
		sti();
		nops_from(COUNT);
		cli();
		check_pmi(lengths[i], sled, lengths[i]);
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS), 1);
		end();
	}
}

static void check_fixed(void)
{
	check_l1(PMI_VECTOR);
}

static void check_nmi(void)
{
	check_l1(APIC_DELIVERY_NMI);
}

/* Another exit on the way does not put it off. */
static void check_over_exits(void)
{
	for (u32 n = 1; n < 40; n++) {
		u64 eax = (u32)COUNT, ecx = MSR_PERFEVTSEL(0), from = COUNT >> 32;

		begin(PMI_VECTOR, n);
		sti();
		/* the third instruction that counts is a CPUID, the 22nd an RDMSR */
		asm volatile("wrmsr\n"
			     "1:\tnop\n\txor %%eax, %%eax\n\tcpuid\n\t.skip 17, 0x90\n"
			     "\tmov $0xc0010201, %%ecx\n\trdmsr\n\t.skip 40, 0x90\n"
			     "\tlea 1b(%%rip), %%rdx\n"
			     : "+a"(eax), "+c"(ecx), "+d"(from)
			     :
			     : "rbx", "memory");
		cli();
		CHECK_EQ(pmis, 1);
		/* in bytes: 1, 2, 2, 17 times 1, 5, 2, 1 each */
		tap_equal(pmi_rip - from,
			  n == 1    ? 1
			  : n == 2  ? 3
			  : n < 21  ? n + 2
			  : n == 21 ? 27
				    : n + 7,
			  "where");
		end();
	}
}

static u8 user_stack[PAGE_SIZE] ALIGNED(16);
static struct trap_frame kernel_frame;

static void enter_user(struct trap_frame *frame)
{
	kernel_frame = *frame;
	frame->cs = GDT_USER_CODE;
	frame->ss = GDT_USER_DATA;
	frame->rip = (u64)user_sled;
	frame->rsp = (u64)(user_stack + sizeof(user_stack));
	frame->rflags |= RFLAGS_IF;
}

static void leave_user(struct trap_frame *frame)
{
	*frame = kernel_frame;
}

static void check_user(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(lengths); i++) {
		begin(PMI_VECTOR, lengths[i]);
		trap_hook(ENTER_USER, enter_user);
		trap_hook(VEC_TRY_RETURN, leave_user);
		wrmsr(MSR_PERFEVTSEL(0), COUNT_USR);
		asm volatile("int %0" : : "i"(ENTER_USER) : "memory");
		trap_hook(ENTER_USER, NULL);
		trap_hook(VEC_TRY_RETURN, NULL);
		check_pmi(lengths[i], user_sled, lengths[i] - 1); /* IRET counts there */
		end();
	}
}

/* VMRUN itself counts in L2. */
static void check_l2(u64 bits, bool intercepted, bool npt)
{
	for (u32 i = 0; i < ARRAY_SIZE(lengths); i++) {
		begin(PMI_VECTOR, lengths[i]);
		l2_reset(l2_sled);
		if (npt)
			l2_use_npt();
		l2.vmcb.save.rflags |= RFLAGS_IF;
		if (!(bits & EVTSEL_OS))
			l2_user();
		if (intercepted) {
			l2_intercept(INTERCEPT(INTR));
			l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
			sti();
		}
		wrmsr(MSR_PERFEVTSEL(0), bits);
		if (intercepted) {
			CHECK_EQ(l2_run(), VMEXIT_INTR);
			cli();
			CHECK_EQ(pmis, 1); /* after L1's STGI */
			pmi_rip = l2.vmcb.save.rip;
		} else {
			CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		}
		check_pmi(lengths[i], l2_sled, lengths[i] - 1);
		end();
	}
}

static void check_l2_intercepted(void)
{
	check_l2(COUNT | EVTSEL_GUESTONLY, true, false);
}

static void check_l2_own(void)
{
	check_l2(COUNT | EVTSEL_GUESTONLY, false, false);
}

static void check_l2_npt(void)
{
	check_l2(COUNT | EVTSEL_GUESTONLY, true, true);
}

static void check_l2_user(void)
{
	check_l2(COUNT_USR | EVTSEL_GUESTONLY, true, false);
}

/* What ends L2 for the hypervisor, when there is nothing for L1, is not L1's. */
static void check_l2_masked(void)
{
	begin(PMI_VECTOR | (u32)APIC_LVT_MASKED, 500);
	l2_reset(l2_sled);
	l2_intercept(INTERCEPT(INTR));
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	sti();
	wrmsr(MSR_PERFEVTSEL(0), COUNT | EVTSEL_GUESTONLY);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	cli();
	CHECK_EQ(pmis, 0);
	CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS), 1);
	end();
}

L2_CODE(l2_reads_lvtt, ".skip 100, 0x90\n\tmov $0xfee00320, %ebx\n\tmov (%rbx), %eax\n\t"
		       ".skip 1000, 0x90");
static_assert(APIC_DEFAULT_PAGE + APIC_LVT_TIMER == 0xfee00320, "l2_reads_lvtt");

/* L2 looks at the APIC that is L1's and its own. */
static void l2_looks(bool npt)
{
	begin(PMI_VECTOR, 500);
	apic_timer(TIMER_VECTOR, (u32)(300000 * insn_ticks));
	l2_reset(l2_reads_lvtt);
	if (npt)
		l2_use_npt();
	l2_intercept(INTERCEPT(INTR));
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	sti();
	wrmsr(MSR_PERFEVTSEL(0), COUNT | EVTSEL_GUESTONLY);
	CHECK_EQ(l2_run(), npt ? VMEXIT_VMMCALL : VMEXIT_INTR);
	cli();
	CHECK_EQ(l2.vmcb.save.rax, TIMER_VECTOR);
	CHECK_EQ(pmis, 1);
	if (!npt) /* VMRUN, 100 NOPs, and 2 instructions of 7 bytes are among the 500 */
		CHECK_EQ(l2.vmcb.save.rip - (u64)l2_reads_lvtt, 107 + 500 - 103);
	CHECK_EQ(timers, 0);
	end();
}

static void check_l2_looks(void)
{
	l2_looks(false);
}

/* From now on the timer is not borrowed from an L2 under nested paging. */
static void check_l2_looks_npt(void)
{
	l2_looks(true);
}

/* The timer's interrupt may be late by what L0 executes. */
#define TIMER_SLACK (3000 * insn_ticks)

static void start_timer(u64 ticks)
{
	apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, TIMER_VECTOR);
	timer_due = rdtsc() + ticks;
	apic_write(APIC_TIMER_COUNT, (u32)ticks);
}

/* The guest's own timer, before, at about the same time as, and after the overflow. */
static void check_own_timer(void)
{
	static const u32 after[] = {1,	  100,	400,  600,  800,  1000, 1100, 1200,
				    1300, 1400, 1500, 1600, 1700, 2000, 5000, 50000};
	u64 latest = 0;

	for (u32 i = 0; i < ARRAY_SIZE(after); i++) {
		begin(PMI_VECTOR, 500);
		sti();
		start_timer(after[i] * insn_ticks);
		nops_from(COUNT);
		for (u32 n = 0; n < 1000000 && !timers; n++)
			asm volatile("pause");
		cli();
		CHECK_EQ(timers, 1);
		CHECK_EQ(pmis, 1);
		if (after[i] >= 5000) /* otherwise the timer's handler counts as well */
			check_pmi(500, sled, 500);
		CHECK(timer_late_tsc < TIMER_SLACK);
		latest = timer_late_tsc > latest ? timer_late_tsc : latest;
		end();
	}
	note("the timer's interrupt late by %lu instructions at most", latest / insn_ticks);
}

/* Its registers, while the hypervisor has the timer. */
static void check_registers(void)
{
	u64 ticks = 300000 * insn_ticks, furthest = 0, before, after, off;

	begin(PMI_VECTOR, 3000);
	start_timer(ticks);
	sti();
	wrmsr(MSR_PERFEVTSEL(0), COUNT);
	for (u32 i = 0; i < 100; i++) {
		u32 current;

		before = timer_due - rdtsc();
		current = apic_read(APIC_TIMER_CURRENT);
		after = timer_due - rdtsc();
		off = current > before ? current - before : current < after ? after - current : 0;
		furthest = off > furthest ? off : furthest;
		CHECK_EQ(apic_read(APIC_LVT_TIMER), TIMER_VECTOR);
		CHECK_EQ(apic_read(APIC_TIMER_DIVIDE), APIC_DIVIDE_BY_1);
		CHECK(!apic_bit(APIC_IRR, 0xff));
		CHECK(!apic_bit(APIC_ISR, 0xff));
	}
	CHECK_EQ(pmis, 1);
	CHECK_EQ(timers, 0);
	apic_write(APIC_TIMER_COUNT, 0);
	cli();
	note("TMCCT off by %lu instructions at most", furthest / insn_ticks);
	CHECK(furthest < 64 * insn_ticks);
	end();
}

/* A timer that the guest stops, or sets anew, is so. */
static void check_changed(void)
{
	begin(PMI_VECTOR, 10000000);
	sti();
	start_timer(20000 * insn_ticks);
	wrmsr(MSR_PERFEVTSEL(0), COUNT);
	apic_write(APIC_TIMER_COUNT, 0);
	nops_from(COUNT);
	nops_from(COUNT);
	CHECK_EQ(timers, 0);
	start_timer(1000 * insn_ticks);
	nops_from(COUNT);
	CHECK_EQ(timers, 1);
	CHECK(timer_late_tsc < TIMER_SLACK);
	start_timer(9000 * insn_ticks);
	apic_write(APIC_LVT_TIMER, TIMER_VECTOR | (u32)APIC_LVT_MASKED);
	nops_from(COUNT);
	CHECK_EQ(timers, 1);
	start_timer(100000 * insn_ticks);
	asm volatile("hlt");
	CHECK_EQ(timers, 2);
	CHECK(timer_late_tsc < TIMER_SLACK);
	cli();
	CHECK_EQ(pmis, 0);
	end();
}

static volatile u64 count_least, count_most;
#define PERIOD 1000

static void on_sample(struct trap_frame *frame)
{
	u64 late = rdmsr(MSR_PERFCTR(0));

	pmis++;
	count_least = late < count_least ? late : count_least;
	count_most = late > count_most ? late : count_most;
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, 1);
	wrmsr(MSR_PERFCTR(0), -(u64)PERIOD & PMU_COUNTER_MASK);
	if (frame->vector != VEC_NMI)
		apic_eoi();
}

/* The same number of instructions lies between the overflow and the handler's RDMSR, each time. */
static void check_samples(u32 lvtpc)
{
	begin(lvtpc, PERIOD);
	trap_hook(PMI_VECTOR, on_sample);
	trap_hook(VEC_NMI, on_sample);
	count_least = ~0ull;
	count_most = 0;
	sti();
	nops_from(COUNT);
	while (pmis < 1000)
		asm volatile("pause");
	cli();
	note("%u samples, each read %lu to %lu instructions behind its overflow", pmis, count_least,
	     count_most);
	CHECK_EQ(count_least, count_most);
	end();
}

static void check_thousand(void)
{
	check_samples(PMI_VECTOR);
}

static void check_thousand_nmi(void)
{
	check_samples(APIC_DELIVERY_NMI);
}

/* The last: there is no way back. In that mode the timer is not borrowed. */
static void check_x2(void)
{
	if (!(cpuid(CPUID_FEATURES).ecx & BIT(21))) {
		tap_skip("no x2APIC");
		return;
	}
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2);
	begin(PMI_VECTOR, 1000);
	sti();
	nops_from(COUNT);
	CHECK_EQ(pmis, 0);
	(void)cpuid(0);
	cli();
	CHECK_EQ(pmis, 1);
	end();
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{"fixed", check_fixed},
	{"NMI", check_nmi},
	{"exits on the way", check_over_exits},
	{"USR alone, in user mode", check_user},
	{"L2, L1 intercepts INTR", check_l2_intercepted},
	{"L2, its own", check_l2_own},
	{"L2 at CPL 3, USR alone", check_l2_user},
	{"L2 under nested paging", check_l2_npt},
	{"L2, LVTPC masked: no #VMEXIT", check_l2_masked},
	{"the guest's timer interrupts, once and at its time", check_own_timer},
	{"the guest's timer reads as its own", check_registers},
	{"the guest's timer stopped, set anew, masked; HLT", check_changed},
	{"a thousand samples", check_thousand},
	{"a thousand samples by NMI", check_thousand_nmi},
	{"L2 reads the APIC", check_l2_looks},
	{"L2 reads the APIC under nested paging", check_l2_looks_npt},
	{"x2APIC mode: at the next exit", check_x2},
};

static void run(const void *arg)
{
	tests[(u64)arg].run();
}

void guest_main(void)
{
	u64 from;

	tap_plan(ARRAY_SIZE(tests));
	if (!pmu_start_exact() || !svm_start())
		return;
	if (!platform.pmi_exact) {
		tap_skip_all("overflow interrupts come at the next exit here");
		return;
	}
	apic_timer_stop();
	from = rdtsc();
	nops_from(0);
	insn_ticks = (rdtsc() - from) / 13000;
	for (u64 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, run, (const void *)i);
}

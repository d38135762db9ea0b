/* SPDX-License-Identifier: MIT */
/*
 * Overflow interrupts: carried through LVTPC to whoever runs, none lost. How soon is docs/pmu.md's, and l1_pmu_skid's: at
 * the latest with the next exit or physical interrupt.
 */
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define PMI_VECTOR 0x61u
#define TIMER_VECTOR 0x62u
#define TIMER_PERIOD 2000000u

static volatile u32 timers;

static void start(u32 n, u64 selector, u64 events_to_go)
{
	wrmsr(MSR_PERFCTR(n), -events_to_go & PMU_COUNTER_MASK);
	wrmsr(MSR_PERFEVTSEL(n), selector);
}

static u64 status(void)
{
	return rdmsr(MSR_PERF_GLOBAL_STATUS);
}

static void begin(u32 lvtpc)
{
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ~0ull);
	apic_write(APIC_LVTPC, lvtpc);
	apic_count(PMI_VECTOR);
}

static void end(void)
{
	apic_settle();
	apic_count_end(PMI_VECTOR);
	apic_write(APIC_LVTPC, (u32)APIC_LVT_MASKED);
	pmu_stop_all();
}

static void nops(u64 n)
{
	/* two instructions each */
	asm volatile("1:\tdec %0\n\tjnz 1b" : "+r"(n));
}

static void an_exit(void)
{
	u32 a = 0, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
}

#define COUNT (SEL_INSTRUCTIONS | EVTSEL_INT)

static void check_fixed(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	asm volatile("sti");
	start(0, COUNT, 1000);
	nops(400);
	an_exit();
	CHECK_EQ(interrupts, 0);
	CHECK_EQ(status(), 0);
	nops(200);
	an_exit();
	apic_settle();
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(status(), 1);
	nops(1000);
	an_exit();
	apic_settle();
	CHECK_EQ(interrupts, 1); /* at the carry, and not for as long as the status bit is set */
	CHECK_EQ(apic_read(APIC_LVTPC), PMI_VECTOR); /* AMD's APIC does not mask it */
	asm volatile("cli");
	end();
}

static void check_without_int(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	asm volatile("sti");
	start(0, SEL_INSTRUCTIONS, 1000);
	nops(1000);
	an_exit();
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(interrupts, 0);
	CHECK_EQ(status(), 1);
	end();
}

static void check_masked(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR | (u32)APIC_LVT_MASKED);
	asm volatile("sti");
	start(0, COUNT, 1000);
	nops(1000);
	an_exit();
	apic_write(APIC_LVTPC, PMI_VECTOR);
	an_exit();
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(interrupts, 0); /* lost, not held */
	CHECK_EQ(status(), 1);
	end();
}

static void check_nmi(const void *arg)
{
	bool x2 = apic_x2(); /* its ICR is one register */
	u32 high = 0;

	(void)arg;
	begin(APIC_DELIVERY_NMI);
	if (!x2)
		apic_write(APIC_ICR_HIGH, 0x55000000);
	start(0, COUNT, 1000);
	nops(1000);
	an_exit();
	apic_settle();
	if (!x2)
		high = apic_read(APIC_ICR_HIGH);
	CHECK_EQ(interrupts, 0);
	CHECK_EQ(nmis, 1); /* whatever IF is */
	if (!x2)
		CHECK_EQ(high, 0x55000000);
	end();
}

/* ExtINT: the vector is the PIC's. It has no request, so it says its own IR7; it is left as OVMF has it. */
#define PIC_VECTORS 0x68u
#define PIC_SPURIOUS (PIC_VECTORS + 7)
static void pic_init(void)
{
	const struct {
		u16 port;
		u8 value;
	} words[] = {
		{0x20, 0x11}, {0xa0, 0x11}, {0x21, PIC_VECTORS}, {0xa1, PIC_VECTORS + 8},
		{0x21, 4},    {0xa1, 2},    {0x21, 1},		 {0xa1, 1},
		{0x21, 0xff}, {0xa1, 0xff},
	};

	for (u32 i = 0; i < ARRAY_SIZE(words); i++)
		outb(words[i].port, words[i].value);
}

static void check_extint(const void *arg)
{
	(void)arg;
	pic_init();
	begin(APIC_DELIVERY_EXTINT | PMI_VECTOR);
	apic_count(PIC_SPURIOUS);
	asm volatile("sti");
	start(0, COUNT, 1000);
	nops(1000);
	an_exit();
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(status(), 1);
	CHECK(!apic_bit(APIC_IRR, PMI_VECTOR));
	if (departs(DEPARTURE_EXTINT_IPI)) {
		CHECK_EQ(interrupts, 0);
		CHECK(apic_bit(APIC_IRR, 0)); /* it was sent */
	} else {
		CHECK_EQ(interrupts, 1);
	}
	apic_count_end(PIC_SPURIOUS);
	end();
}

/* A message type that is none (APM2 §16.4): the status bit, and nothing breaks. */
static void check_reserved_type(const void *arg)
{
	const u32 reserved[] = {0x100, 0x300, 0x500, 0x600};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(reserved); i++) {
		begin(reserved[i] | PMI_VECTOR);
		asm volatile("sti");
		start(0, COUNT, 1000);
		nops(1000);
		an_exit();
		apic_settle();
		asm volatile("cli");
		CHECK_EQ(interrupts, 0);
		CHECK_EQ(nmis, 0);
		CHECK_EQ(status(), 1);
		end();
	}
}

/* Instructions that a hypervisor carries out carry as others do, and interrupt. */
static void check_emulated(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	asm volatile("sti");
	for (u32 i = 1; i <= 10; i++) {
		u32 a = (u32)COUNT, b, c = MSR_PERFEVTSEL(0), d = 0;

		wrmsr(MSR_PERFCTR(0), PMU_COUNTER_MASK - 4);
		/* CPUID is the fifth, and carries */
		asm volatile("wrmsr\n\txor %%eax, %%eax\n\tnop\n\tnop\n\tnop\n\tcpuid"
			     : "+a"(a), "=b"(b), "+c"(c), "+d"(d));
		an_exit();
		apic_settle();
		CHECK_EQ(interrupts, i);
		CHECK_EQ(status(), 1);
		wrmsr(MSR_PERFEVTSEL(0), 0);
		wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, 1);
	}
	asm volatile("cli");
	end();
}

static void check_held_by_if(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	start(0, COUNT, 1000);
	nops(1000);
	an_exit();
	apic_settle();
	CHECK_EQ(interrupts, 0);
	CHECK(apic_bit(APIC_IRR, PMI_VECTOR));
	asm volatile("sti\n\tnop\n\tcli");
	CHECK_EQ(interrupts, 1);
	end();
}

static void check_two_at_once(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	asm volatile("sti");
	wrmsr(MSR_PERF_GLOBAL_CTL, 0);
	start(2, COUNT, 1000);
	start(5, COUNT, 1000);
	wrmsr(MSR_PERF_GLOBAL_CTL, BITS(PMU_COUNTERS - 1, 0));
	nops(1000);
	an_exit();
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(status(), BIT(2) | BIT(5));
	end();
}

static void on_timer(struct trap_frame *frame)
{
	(void)frame;
	timers++;
	apic_eoi();
}

/* No exit comes by itself: the next physical interrupt is what the PMI comes with. */
static void check_physical_interrupt(const void *arg)
{
	u64 i = 0;

	(void)arg;
	begin(PMI_VECTOR);
	trap_hook(TIMER_VECTOR, on_timer);
	timers = 0;
	asm volatile("sti");
	start(0, COUNT, 1000);
	apic_timer(TIMER_VECTOR, TIMER_PERIOD);
	while (!timers && i < 100000000)
		i++;
	asm volatile("cli");
	trap_hook(TIMER_VECTOR, NULL);
	apic_timer_stop();
	CHECK_EQ(timers, 1);
	CHECK_EQ(interrupts, 1);
	end();
}

static volatile u64 late_most;
static u64 period;

static void on_pmi(struct trap_frame *frame)
{
	u64 late = rdmsr(MSR_PERFCTR(0));

	(void)frame;
	late_most = late > late_most ? late : late_most;
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, 1);
	wrmsr(MSR_PERFCTR(0), (late - period) & PMU_COUNTER_MASK);
	interrupts++;
	apic_eoi();
}

/* A profiler: with something that exits every now and then none is lost. */
static void check_periodic(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	trap_hook(PMI_VECTOR, on_pmi);
	late_most = 0;
	period = 10000;
	asm volatile("sti");
	start(0, COUNT, period);
	for (u32 i = 0; i < 10000; i++) {
		nops(50);
		an_exit();
	}
	asm volatile("cli");
	wrmsr(MSR_PERFEVTSEL(0), 0);
	/* 10,000 rounds of 104 and more instructions, and the handlers' own */
	note("%u interrupts, the latest %lu instructions behind its overflow", interrupts,
	     late_most);
	CHECK(interrupts >= 104 && interrupts <= 140);
	CHECK(late_most < 1000);
	end();
}

/* ---- L2 ---- */

L2_CODE(l2_long, "sti\n\tmov $600, %ecx\n1:\tdec %ecx\n\tjnz 1b\n\tcpuid\n\tnop\n\tcli");

static void l2_ready(u64 bits)
{
	begin(PMI_VECTOR);
	l2_reset(l2_long);
	start(0, COUNT | bits, 1000);
}

static void check_l2_intercepted(const void *arg)
{
	(void)arg;
	l2_ready(EVTSEL_GUESTONLY);
	l2_intercept(INTERCEPT(INTR));
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	asm volatile("sti");
	CHECK_EQ(l2_run(), VMEXIT_INTR);
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(status(), 1);
	CHECK(l2.vmcb.save.rip > (u64)l2_long && l2.vmcb.save.rip < (u64)l2_long_end);
	end();
}

static void check_l2_own(const void *arg)
{
	(void)arg;
	l2_ready(EVTSEL_GUESTONLY);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(interrupts, 1); /* by the IDT that L1 and L2 share here, at L2's SS:RSP */
	CHECK_EQ(status(), 1);
	end();
}

static void check_l2_host_only(const void *arg)
{
	(void)arg;
	l2_ready(EVTSEL_HOSTONLY);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(interrupts, 0);
	CHECK_EQ(status(), 0);
	asm volatile("sti");
	nops(1000);
	an_exit();
	apic_settle();
	asm volatile("cli");
	CHECK_EQ(interrupts, 1);
	end();
}

/* HLT does not count, so it does not overflow either. */
static void check_halt(const void *arg)
{
	(void)arg;
	begin(PMI_VECTOR);
	trap_hook(TIMER_VECTOR, on_timer);
	timers = 0;
	start(0, COUNT, 5000);
	apic_timer(TIMER_VECTOR, TIMER_PERIOD);
	asm volatile("sti\n\thlt\n\tcli");
	CHECK_EQ(timers, 1);
	CHECK_EQ(interrupts, 0);
	CHECK_EQ(status(), 0);
	trap_hook(TIMER_VECTOR, NULL);
	apic_timer_stop();
	end();
}

static const struct {
	const char *name;
	void (*run)(const void *arg);
} tests[] = {
	{"INT and a fixed vector: once, and not before", check_fixed},
	{"INT=0: the status bit only", check_without_int},
	{"LVTPC masked: the status bit only", check_masked},
	{"LVTPC with delivery mode NMI", check_nmi},
	{"LVTPC with delivery mode ExtINT", check_extint},
	{"LVTPC with a reserved delivery mode", check_reserved_type},
	{"an emulated instruction that carries", check_emulated},
	{"RFLAGS.IF=0 holds it", check_held_by_if},
	{"two counters: one interrupt, two status bits", check_two_at_once},
	{"no later than the next physical interrupt", check_physical_interrupt},
	{"a hundred samples, none lost", check_periodic},
	{"HLT does not overflow", check_halt},
	{"overflow in L2, L1 intercepts INTR: #VMEXIT", check_l2_intercepted},
	{"overflow in L2, not intercepted: L2's IDT", check_l2_own},
	{"HostOnly: L2 does not count, L1 does", check_l2_host_only},
};

static void run(const void *arg)
{
	tests[(u64)arg].run(NULL);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!pmu_start_exact() || !svm_start())
		return;
	for (u64 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, run, (const void *)i);
}

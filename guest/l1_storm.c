/* SPDX-License-Identifier: MIT */
/*
 * Storms on all CPUs at once: counters that overflow in L1 and in L2 as soon as they are started again, fixed IPIs and NMIs
 * from each CPU to all others, exits of L1 and L2 in between. Nothing that was sent is lost, and nothing comes that was not:
 * - a counter is started again only by the handler that finds its bit in PERF_GLOBAL_STATUS, so each start is one overflow;
 *   at the end all have come, and no bit is left that no interrupt told of;
 * - a fixed IPI has its sender's vector, and that sender waits until all have taken it: as many are taken as were sent;
 * - NMIs merge: after one is sent each CPU takes at least one, and no more in all than were sent.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define ROUNDS 50u
#define OVERFLOWS 40u	      /* in each round: nothing but handlers may run until then */
#define FIRST_OVERFLOWS 5000u /* in the first round */
#define PMI_VECTOR 0x61u
#define FIRST_VECTOR 0x70u /* of the first sender */
#define TWICE 4u	   /* see is_twice() */
#define FEW_NMIS 10u
#define CANARY 0x5a17c0de00000000ull

const bool guest_wants_cpus = true;

enum counter { IN_L1, IN_L2, COUNTERS };

static const u64 selectors[COUNTERS] = {
	[IN_L1] = SEL_INSTRUCTIONS | EVTSEL_INT | EVTSEL_HOSTONLY,
	[IN_L2] = SEL_INSTRUCTIONS | EVTSEL_INT | EVTSEL_GUESTONLY,
};

struct storm {
	bool as_nmi;	  /* LVTPC's delivery */
	bool intercepted; /* interrupts and NMIs end L2; else it takes them */
};

static struct own {
	volatile u32 fixed[MP_CPUS]; /* by sender */
	volatile u32 nmis;
	u32 nmis_sent; /* to this one, by all */
	/* overflow */
	volatile u32 starts, overflows, interrupts;
	volatile u32 started; /* counters that have not overflowed yet */
	volatile u32 most;    /* overflows until no counter is started again */
	u32 random;
	/* what was wrong */
	u32 late, exits, canaries, left;
} cpus[MP_CPUS];

/* CPUID, which exits, and a loop; RSI times. */
L2_CODE(l2_storm, "1:\txor %eax, %eax\n\tcpuid\n\tmov $50, %ecx\n2:\tdec %ecx\n\tjnz 2b\n\tdec "
		  "%esi\n\tjnz 1b");

static struct own *me(void)
{
	return &cpus[smp_this()];
}

/* ---- overflow ---- */

static void start_counter(struct own *own, u32 n)
{
	own->random = own->random * 1664525u + 1013904223u;
	/* atomic: an NMI may do the same in between */
	__atomic_fetch_or(&own->started, 1u << n, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&own->starts, 1, __ATOMIC_SEQ_CST);
	wrmsr(MSR_PERFCTR(n), -(500ull + (own->random >> 16) % 4096) & PMU_COUNTER_MASK);
}

static void take_overflows(struct own *own)
{
	u64 status = rdmsr(MSR_PERF_GLOBAL_STATUS);

	own->interrupts++;
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, status);
	for (u32 n = 0; n < COUNTERS; n++)
		if (status & BIT(n)) {
			own->overflows++;
			__atomic_fetch_and(&own->started, ~(1u << n), __ATOMIC_SEQ_CST);
			if (own->overflows < own->most)
				start_counter(own, n);
		}
}

static void on_pmi(struct trap_frame *frame)
{
	(void)frame;
	take_overflows(me());
	apic_eoi();
}

static void on_nmi(struct trap_frame *frame)
{
	(void)frame;
	me()->nmis++;
}

static void on_nmi_pmi(struct trap_frame *frame)
{
	on_nmi(frame);
	take_overflows(me());
}

static void on_fixed(struct trap_frame *frame)
{
	me()->fixed[frame->vector - FIRST_VECTOR]++;
	apic_eoi();
}

/* ---- the storm ---- */

static void an_exit(void)
{
	cpuid(0);
	rdmsr(MSR_PERFCTR(COUNTERS));
}

/* An L2 to its end, however often it is interrupted. */
static void run_l2(struct own *own)
{
	struct smp_l2 *s = smp_l2();
	u64 code;

	s->vmcb.save.rip = (u64)l2_storm;
	s->regs.rsi = 20;
	s->regs.r14 = CANARY + smp_this();
	s->regs.r15 = ~s->regs.r14;
	do {
		code = smp_l2_run();
	} while (code == VMEXIT_INTR || code == VMEXIT_NMI);
	own->exits += code != VMEXIT_VMMCALL || s->regs.rsi;
	own->canaries += s->regs.r14 != CANARY + smp_this() || s->regs.r15 != ~s->regs.r14 ||
			 s->regs.rbp != CANARY;
}

/* All others have taken the fixed IPI and an NMI. */
static bool taken(u32 from, u32 round, const u32 *nmis_before)
{
	for (u32 i = 0; i < smp_cpus(); i++)
		if (i != from && (cpus[i].fixed[from] < round || cpus[i].nmis == nmis_before[i]))
			return false;
	return true;
}

static bool in_time(u64 begin, struct own *own)
{
	if (smp_in_time(begin))
		return true;
	own->late++;
	return false;
}

static void send_round(struct own *own, u32 round)
{
	u32 from = smp_this(), nmis_before[MP_CPUS] = {0};
	u64 begin = rdtsc();

	own->most = own->overflows + (round == 1 ? FIRST_OVERFLOWS : OVERFLOWS);
	for (u32 n = 0; n < COUNTERS; n++)
		if (!(own->started & 1u << n))
			start_counter(own, n);
	for (u32 i = 0; i < smp_cpus(); i++) {
		nmis_before[i] = cpus[i].nmis;
		if (i != from)
			__atomic_fetch_add(&cpus[i].nmis_sent, 1, __ATOMIC_SEQ_CST);
	}
	smp_command(0, (FIRST_VECTOR + from) | (u32)APIC_ICR_OTHERS);
	smp_command(0, APIC_DELIVERY_NMI | (u32)APIC_ICR_OTHERS);
	run_l2(own);
	while (!taken(from, round, nmis_before) && in_time(begin, own))
		an_exit();
}

static void storm(void *arg)
{
	const struct storm *s = arg;
	struct own *own = me();
	u64 begin;

	smp_l2_enable();
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ~0ull);
	apic_write(APIC_LVTPC, s->as_nmi ? APIC_DELIVERY_NMI : PMI_VECTOR);
	own->random = smp_this();
	for (u32 n = 0; n < COUNTERS; n++)
		wrmsr(MSR_PERFEVTSEL(n), selectors[n]);
	smp_meet();
	sti();
	for (u32 round = 1; round <= ROUNDS && !own->late; round++)
		send_round(own, round);
	own->most = 0;
	begin = rdtsc();
	while (own->started && in_time(begin, own)) {
		an_exit();
		run_l2(own);
	}
	smp_meet();
	an_exit();
	own->left += (rdmsr(MSR_PERF_GLOBAL_STATUS) & BITS(COUNTERS - 1, 0)) != 0;
	cli();
	apic_write(APIC_LVTPC, (u32)APIC_LVT_MASKED);
	pmu_stop_all();
}

static void forget(void)
{
	for (u32 i = 0; i < smp_cpus(); i++)
		cpus[i] = (struct own){0};
}

static void prepare(const struct storm *s)
{
	forget();
	l2_reset(l2_storm);
	l2.regs.rbp = CANARY;
	l2.vmcb.save.rflags |= RFLAGS_IF;
	/* Where L2 takes them a nested page fault would end a delivery, and what is injected again may come twice on TCG. */
	if (s->intercepted) {
		l2_use_npt();
		l2_intercept(INTERCEPT(INTR));
		l2_intercept(INTERCEPT(NMI));
		l2.vmcb.control.int_ctl |= (u32)V_INTR_MASKING;
	}
	smp_l2_prepare();
	for (u32 i = 0; i < smp_cpus(); i++)
		trap_hook(FIRST_VECTOR + i, on_fixed);
	trap_hook(PMI_VECTOR, on_pmi);
	trap_hook(VEC_NMI, s->as_nmi ? on_nmi_pmi : on_nmi);
}

/*
 * While a counter may interrupt, L0 takes the interrupts, and gives L2 its own by EVENTINJ: of these one comes twice now and
 * then on TCG, under -icount. So a few are let pass there, and said.
 */
static bool is_twice(const struct storm *s, u32 got, u32 want)
{
	if (s->intercepted || got <= want || got > want + TWICE ||
	    !departs(DEPARTURE_INJECTED_TWICE))
		return false;
	note("%u interrupts instead of %u", got, want);
	return true;
}

static void check_cpu(const struct storm *s, u32 cpu)
{
	const struct own *own = &cpus[cpu];

	note("CPU %u: %u overflows, %u interrupts of them, %u NMIs of %u", cpu, own->overflows,
	     own->interrupts, own->nmis, own->nmis_sent);
	CHECK_EQ(own->late, 0);
	CHECK_EQ(own->exits, 0);
	CHECK_EQ(own->canaries, 0);
	CHECK_EQ(own->left, 0);
	CHECK_EQ(own->started, 0);
	CHECK_EQ(own->overflows, own->starts);
	CHECK(own->overflows >= ROUNDS);
	for (u32 from = 0; from < smp_cpus(); from++)
		if (from == cpu || !is_twice(s, own->fixed[from], ROUNDS))
			CHECK_EQ(own->fixed[from], from == cpu ? 0 : ROUNDS);
	CHECK(own->nmis >= ROUNDS);
	if (s->as_nmi) {
		CHECK(own->nmis <= own->nmis_sent + own->overflows);
		return;
	}
	CHECK(own->nmis <= own->nmis_sent);
	CHECK(own->interrupts <= own->overflows || is_twice(s, own->interrupts, own->overflows));
}

/* Each CPU answers, and is asked. */
static void alive(void *arg)
{
	static struct tally_status status[MP_CPUS] ALIGNED(512);
	struct tally_status *own = &status[smp_this()];
	u32 *answers = arg;

	if (cpuid(CPUID_HYPERVISOR).ebx == TALLY_CPUID_EBX &&
	    !hypercall(TALLY_CALL_STATUS, (u64)own, 0, 0) && own->version == TALLY_ABI_VERSION &&
	    own->counters == PMU_COUNTERS && !own->counting)
		__atomic_fetch_add(answers, 1, __ATOMIC_SEQ_CST);
}

static void check_storm(const void *arg)
{
	struct storm s = *(const struct storm *)arg;
	u32 answers = 0;

	prepare(&s);
	smp_run_all(storm, &s);
	smp_settle();
	for (u32 i = 0; i < smp_cpus(); i++)
		check_cpu(&s, i);
	for (u32 i = 0; i < smp_cpus(); i++)
		trap_hook(FIRST_VECTOR + i, NULL);
	trap_hook(PMI_VECTOR, NULL);
	trap_hook(VEC_NMI, NULL);
	smp_run_all(alive, &answers);
	CHECK_EQ(answers, smp_cpus());
	CHECK_EQ(trap_strays, 0);
}

/* ---- without a storm ---- */

static u64 iret_exits(void)
{
	const u64 bytes = sizeof(struct tally_stats) + sizeof(struct tally_exit);
	static u8 answers[MP_CPUS][128] ALIGNED(128);
	const struct tally_stats *s = (const struct tally_stats *)answers[smp_this()];

	if (hypercall(TALLY_CALL_STATS, (u64)s, bytes, VMEXIT_IRET) != (s64)bytes ||
	    s->exit[0].code != VMEXIT_IRET)
		return 0; /* none so far */
	return s->exit[0].exits;
}

static void few_nmis(void *exits)
{
	struct own *own = me();
	u64 before = iret_exits();

	for (u32 n = 1; n <= FEW_NMIS && !own->late; n++) {
		u64 begin = rdtsc();

		apic_self_nmi();
		while (own->nmis < n && in_time(begin, own))
			asm volatile("pause");
	}
	((u64 *)exits)[smp_this()] = iret_exits() - before;
}

/* L0 must see the IRET that ends the blocking of NMIs, and then let it be executed. */
static void check_iret(const void *arg)
{
	static u64 exits[MP_CPUS];

	(void)arg;
	forget();
	trap_hook(VEC_NMI, on_nmi);
	smp_run_all(few_nmis, exits);
	trap_hook(VEC_NMI, NULL);
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(exits[i], FEW_NMIS);
}

static const struct test {
	const char *name;
	struct storm storm;
} tests[] = {
	{"PMIs, IPIs and NMIs, which L2 takes", {false, false}},
	{"PMIs, IPIs and NMIs, which end L2", {false, true}},
	{"PMIs that are NMIs, which L2 takes", {true, false}},
	{"PMIs that are NMIs, which end L2", {true, true}},
};

void guest_main(void)
{
	static struct tally_status status ALIGNED(512);

	tap_plan(1 + ARRAY_SIZE(tests));
	if (!platform.pmu) {
		tap_skip_all("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return;
	}
	if (!smp_begin_on_us(&status))
		return;
	tap_run("the IRET of an NMI's handler exits once", check_iret, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, check_storm, &tests[i].storm);
	smp_end();
}

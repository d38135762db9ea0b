/* SPDX-License-Identifier: MIT */
/*
 * What one CPU does to another: INIT, SIPI, NMI and fixed interrupts by the ICR, in every way to name the others and in
 * every state that they may be in. APM2 §14.1.3, §15.17, §15.21.8, §16.5, §16.6.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define VECTOR 0x51u
#define INIT (APIC_DELIVERY_INIT | (u32)APIC_ICR_ASSERT)
#define LOGICAL ((u32)APIC_ICR_LOGICAL)
#define OTHERS ((u32)APIC_ICR_OTHERS)
#define STORM 2000u
#define MARKER 0x5a5a5a5a12345678ull

const bool guest_wants_cpus = true;

/* How far a CPU has come in what it was asked to do; and what lets it go on. */
static volatile u32 stage[MP_CPUS];
static volatile u32 go;
static volatile u64 seen;

static u32 cpu_flag(u32 cpu)
{
	return 1u << cpu;
}

static u32 all_flags(void)
{
	return (1u << smp_cpus()) - 1;
}

static void set_stage(u32 value)
{
	stage[smp_this()] = value;
}

static void wait_go(void)
{
	while (!go)
		asm volatile("pause" : : : "memory");
}

static bool call_until(u32 cpu, void (*run)(void *arg), void *arg)
{
	stage[cpu] = 0;
	go = 0;
	smp_call(cpu, run, arg);
	return smp_reaches(&stage[cpu], 1, "a CPU is where it should be");
}

/* ---- INIT and SIPI: to whom ---- */

static void name_flat(void *arg)
{
	(void)arg;
	apic_write(APIC_DFR, ~0u);
	apic_write(APIC_LDR, cpu_flag(smp_this()) << APIC_XAPIC_ID_SHIFT);
}

static u32 cluster_name(u32 cpu)
{
	return cpu / 4 << 4 | 1u << cpu % 4;
}

static void name_cluster(void *arg)
{
	(void)arg;
	apic_write(APIC_DFR, 0x0fffffff);
	apic_write(APIC_LDR, cluster_name(smp_this()) << APIC_XAPIC_ID_SHIFT);
}

static void check_physical(const void *arg)
{
	(void)arg;
	for (u32 i = 1; i < smp_cpus(); i++) {
		CHECK(smp_start(i));
		CHECK_EQ(smp_at(i)->apic.id, smp_at(i)->id);
		CHECK(smp_beats(i));
	}
}

/* INIT is for `flags`, and nobody else: those stand, until a SIPI; the others go on and ignore theirs. */
static void init_only(u32 flags)
{
	u32 starts[MP_CPUS] = {0};

	for (u32 i = 1; i < smp_cpus(); i++) {
		starts[i] = smp_at(i)->starts;
		if (flags & cpu_flag(i))
			CHECK(smp_stands(i));
		else
			CHECK(smp_beats(i));
	}
	for (u32 i = 1; i < smp_cpus(); i++)
		smp_send(i, smp_sipi());
	for (u32 i = 1; i < smp_cpus(); i++) {
		if (flags & cpu_flag(i))
			smp_started(i, starts[i] + 1);
		CHECK(smp_beats(i));
	}
	smp_settle();
	for (u32 i = 1; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->starts, starts[i] + !!(flags & cpu_flag(i)));
}

/* Flags of the other CPUs: each alone, all, and all but one. */
static u32 flag_set(u32 n)
{
	u32 others = all_flags() & ~1u, aps = smp_cpus() - 1;

	return n < aps ? cpu_flag(n + 1) : n == aps ? others : others & ~cpu_flag(n - aps);
}

static u32 flag_sets(void)
{
	return smp_cpus() < 3 ? 1 : 2 * smp_cpus() - 1;
}

static void check_flat(const void *arg)
{
	(void)arg;
	for (u32 n = 0; n < flag_sets(); n++) {
		smp_run_all(name_flat, NULL);
		smp_command(flag_set(n), INIT | LOGICAL);
		init_only(flag_set(n));
	}
}

static void check_cluster(const void *arg)
{
	(void)arg;
	for (u32 n = 0; n < flag_sets(); n++) {
		u32 flags = flag_set(n);

		smp_run_all(name_cluster, NULL);
		for (u32 cluster = 0; cluster * 4 < smp_cpus(); cluster++)
			if (flags >> cluster * 4 & 0xf)
				smp_command(cluster << 4 | (flags >> cluster * 4 & 0xf),
					    INIT | LOGICAL);
		init_only(flags);
	}
	name_flat(NULL);
}

/* INIT names nobody here: no logical name, no such ID. */
static void check_nobody(const void *arg)
{
	(void)arg;
	smp_run_all(name_flat, NULL);
	smp_command(0, INIT | LOGICAL);
	init_only(0);
	smp_command(0xe0, INIT);
	init_only(0);
	/* a level de-assert, as in the old protocol, does nothing */
	smp_command(0, APIC_DELIVERY_INIT | (u32)(APIC_ICR_LEVEL | APIC_ICR_OTHERS));
	init_only(0);
}

static void check_others(const void *arg)
{
	u32 starts[MP_CPUS] = {0};

	(void)arg;
	smp_command(0, INIT | OTHERS);
	init_only(all_flags() & ~1u);
	/* and SIPI by it, after which several come at once */
	for (u32 i = 1; i < smp_cpus(); i++)
		starts[i] = smp_at(i)->starts;
	smp_command(0, INIT | OTHERS);
	smp_settle();
	smp_command(0, smp_sipi() | OTHERS);
	for (u32 i = 1; i < smp_cpus(); i++) {
		smp_started(i, starts[i] + 1);
		CHECK(smp_beats(i));
	}
}

/* ---- INIT and SIPI: when ---- */

static void check_second_sipi(const void *arg)
{
	u32 starts = smp_at(1)->starts;

	(void)arg;
	smp_send(1, INIT);
	smp_settle();
	smp_send(1, smp_sipi());
	if (departs(DEPARTURE_SIPI_REPLACED))
		smp_started(1, starts + 1);
	smp_send(1, smp_sipi_other());
	smp_started(1, starts + 1);
	CHECK(smp_beats(1));
	CHECK_EQ(smp_at(1)->first.cs, mp_low >> 4);
	/* a SIPI of before the INIT is forgotten */
	smp_send(1, smp_sipi_other());
	if (departs(DEPARTURE_SIPI_REPLACED))
		CHECK(smp_beats(1)); /* it has seen that one */
	smp_send(1, INIT);
	CHECK(smp_stands(1));
	CHECK_EQ(smp_at(1)->starts, starts + 1);
	/* and any page is as good */
	smp_send(1, smp_sipi_other());
	smp_started(1, starts + 2);
	CHECK_EQ(smp_at(1)->first.cs, (mp_low >> 4) + 0x100);
	/* INIT while it waits for a SIPI changes nothing */
	smp_send(1, INIT);
	smp_settle();
	smp_send(1, INIT);
	CHECK(smp_stands(1));
	smp_send(1, smp_sipi());
	smp_started(1, starts + 3);
	CHECK(smp_beats(1));
}

static void check_sipi_ignored(const void *arg)
{
	u32 starts = smp_at(1)->starts;

	(void)arg;
	for (u32 i = 0; i < 10; i++)
		smp_send(1, smp_sipi());
	CHECK(smp_beats(1));
	smp_settle();
	CHECK_EQ(smp_at(1)->starts, starts);
	/* to oneself */
	smp_send(0, smp_sipi());
}

static void in_loop(void *arg)
{
	(void)arg;
	set_stage(1);
	for (;;)
		asm volatile("1: jmp 1b");
}

static void in_hlt(void *arg)
{
	set_stage(1);
	for (;;) {
		if (arg)
			asm volatile("sti; hlt" : : : "memory");
		else
			asm volatile("cli; hlt" : : : "memory");
	}
}

static void loop_in_nmi(struct trap_frame *frame)
{
	(void)frame;
	in_loop(NULL);
}

static void in_nmi(void *arg)
{
	(void)arg;
	apic_self_nmi();
	for (;;)
		asm volatile("pause");
}

L2_CODE(l2_loop, "movl $1, (%rdi)\n2:\tcmpl $0, (%rsi)\n\tje 2b");
L2_CODE(l2_hlt, "movl $1, (%rdi)\n\tsti\n2:\thlt\n\tjmp 2b");

static void in_l2(void *arg)
{
	(void)arg;
	smp_l2_enable();
	smp_l2()->regs.rdi = (u64)&stage[smp_this()];
	smp_l2()->regs.rsi = (u64)&go;
	clgi();
	svm_vmrun(&smp_l2()->vmcb, &smp_l2()->regs);
	seen = smp_l2()->vmcb.control.exit_code;
	set_stage(2);
	while (!go)
		asm volatile("pause");
	stgi();
	set_stage(3);
	for (;;)
		stage[smp_this()]++;
}

static void l2_for_all(const void *entry)
{
	l2_reset(entry);
	l2_use_npt();
	smp_l2_prepare();
}

static void restart(u32 cpu)
{
	u32 starts = smp_at(cpu)->starts;

	smp_send(cpu, smp_sipi());
	smp_started(cpu, starts + 1);
	CHECK(smp_beats(cpu));
	CHECK_EQ(smp_at(cpu)->first.cs, mp_low >> 4);
	CHECK_EQ(smp_at(cpu)->first.efer, 0);
	CHECK_EQ(smp_at(cpu)->first.ip, 0);
}

/* A CPU in `where`: INIT, and it waits for SIPI. */
static void init_in(u32 cpu, void (*where)(void *arg), void *arg)
{
	if (!call_until(cpu, where, arg))
		return;
	smp_settle();
	smp_send(cpu, INIT);
	CHECK(smp_stands(cpu));
	restart(cpu);
}

static void check_init_loop(const void *arg)
{
	(void)arg;
	for (u32 i = 1; i < smp_cpus(); i++)
		init_in(i, in_loop, NULL);
}

static void check_init_hlt(const void *arg)
{
	static u32 with_if;

	(void)arg;
	init_in(1, in_hlt, NULL);
	init_in(1, in_hlt, &with_if);
}

/* INIT ends the blocking of NMIs as well. */
static void check_init_nmi(const void *arg)
{
	(void)arg;
	trap_hook(VEC_NMI, loop_in_nmi);
	init_in(1, in_nmi, NULL);
	smp_count(VECTOR);
	smp_send(1, APIC_DELIVERY_NMI);
	smp_reaches(&smp_at(1)->nmis, 1, "an NMI after INIT");
	smp_count_end(VECTOR);
}

static void check_init_l2(const void *arg)
{
	(void)arg;
	for (u32 i = 1; i < smp_cpus(); i++) {
		l2_for_all(l2_loop);
		init_in(i, in_l2, NULL);
		l2_for_all(l2_hlt);
		init_in(i, in_l2, NULL);
	}
}

static void let_init_in(u32 from)
{
	u32 before;

	smp_settle();
	CHECK_EQ(stage[1], from);
	go = 1;
	/* its STGI lets the INIT in: before that a SIPI would be void */
	for (u32 n = 0; n < 5; n++)
		smp_settle();
	before = stage[1];
	smp_settle();
	CHECK_EQ(stage[1], before);
}

/* The INIT stays pending behind #VMEXIT, until STGI. */
static void check_init_exit(const void *arg)
{
	(void)arg;
	if (departs(DEPARTURE_INIT_TAKEN)) {
		tap_skip("the CPU takes INIT in any case");
		return;
	}
	l2_reset(l2_loop);
	l2_use_npt();
	l2_intercept(INTERCEPT(INIT));
	smp_l2_prepare();
	seen = 0;
	if (!call_until(1, in_l2, NULL))
		return;
	smp_settle();
	smp_send(1, INIT);
	smp_reaches(&stage[1], 2, "#VMEXIT");
	CHECK_EQ(seen, VMEXIT_INIT);
	let_init_in(2);
	restart(1);
}

static void with_gif0(void *arg)
{
	(void)arg;
	smp_l2_enable();
	clgi();
	set_stage(1);
	wait_go();
	stgi();
	for (;;)
		stage[smp_this()]++;
}

static void check_init_gif(const void *arg)
{
	u32 starts;

	(void)arg;
	if (departs(DEPARTURE_INIT_TAKEN)) {
		tap_skip("the CPU takes INIT in any case");
		return;
	}
	if (!call_until(1, with_gif0, NULL))
		return;
	starts = smp_at(1)->starts;
	smp_send(1, INIT);
	smp_settle();
	smp_send(1, smp_sipi()); /* it does not wait for that yet */
	let_init_in(1);
	CHECK_EQ(smp_at(1)->starts, starts);
	restart(1);
}

/* ---- the state after INIT and SIPI (APM2 table 14-1, §16.3.2 and following) ---- */

static void make_dirty(void *arg)
{
	(void)arg;
	apic_write(APIC_TPR, 0x20);
	apic_write(APIC_LDR, 0x80000000);
	apic_write(APIC_DFR, 0x0fffffff);
	apic_write(APIC_LVT_LINT0, 0x31);
	apic_write(APIC_LVT_LINT1, 0x400);
	apic_write(APIC_LVT_ERROR, 0x32);
	apic_write(APIC_LVTPC, 0x33);
	apic_timer(0x34, ~0u);
	apic_self_ipi(VECTOR);
	apic_self_ipi(VECTOR + 0x20);
	apic_settle();
	interrupt_window(); /* is in service, for its handler does no EOI */
	write_cr2(0x1000);
	asm volatile("mov %0, %%dr0" : : "r"(0x1234ull));
	asm volatile("mov %0, %%dr6" : : "r"(DR6_RESET | DR6_BS));
	wrmsr(MSR_LSTAR, MARKER);
	wrmsr(MSR_KERNEL_GS_BASE, 0x12345678);
	smp_l2_enable();
	if (platform.pmu) {
		wrmsr(MSR_PERFEVTSEL(2), 0x4300c0);
		wrmsr(MSR_PERFCTR(3), 0x1234);
		wrmsr(MSR_PERFEVTSEL(3), 0x0100c0);
	}
	set_stage(1);
	for (;;)
		asm volatile("pause");
}

static u64 kept[4];

static void read_kept(void *arg)
{
	(void)arg;
	kept[0] = rdmsr(MSR_LSTAR);
	kept[1] = rdmsr(MSR_KERNEL_GS_BASE);
	if (platform.pmu) {
		kept[2] = rdmsr(MSR_PERFEVTSEL(2));
		kept[3] = rdmsr(MSR_PERFCTR(3));
		wrmsr(MSR_PERFEVTSEL(2), 0);
		wrmsr(MSR_PERFEVTSEL(3), 0);
	}
}

static void no_eoi(struct trap_frame *frame)
{
	(void)frame;
}

static void check_registers(const struct smp_first *f)
{
	CHECK_EQ(f->edx, cpuid(CPUID_FEATURES).eax);
	CHECK_EQ(f->eax, 0);
	CHECK_EQ(f->ebx, 0);
	CHECK_EQ(f->ecx, 0);
	CHECK_EQ(f->esi, 0);
	CHECK_EQ(f->edi, 0);
	CHECK_EQ(f->ebp, 0);
	CHECK_EQ(f->esp, 0);
	CHECK_EQ(f->cs, mp_low >> 4);
	CHECK_EQ(f->ip, 0);
	CHECK_EQ(f->ds | f->es | f->ss | f->fs | f->gs, 0);
	/* INIT leaves CD and NW as they were, which is 0 */
	if (departs(DEPARTURE_INIT_CR0))
		CHECK_EQ(f->cr0 & ~(u32)(CR0_CD | CR0_NW), CR0_ET);
	else
		CHECK_EQ(f->cr0, CR0_ET);
	CHECK_EQ(f->cr2 | f->cr3 | f->cr4 | f->efer, 0);
	CHECK_EQ(f->flags, RFLAGS_FIXED);
	CHECK_EQ(f->dr6, DR6_RESET);
	CHECK_EQ(f->dr7, DR7_RESET);
	CHECK_EQ(f->gdtr.limit, 0xffff);
	CHECK_EQ(f->gdtr.base, 0);
	CHECK_EQ(f->idtr.limit, 0xffff);
	CHECK_EQ(f->idtr.base, 0);
}

static void check_apic(u32 cpu, const struct smp_first_apic *a)
{
	CHECK_EQ(a->id, smp_at(cpu)->id);
	CHECK_EQ(a->base, rdmsr(MSR_APIC_BASE) & ~APIC_BASE_BSP);
	CHECK_EQ(a->tpr, 0);
	CHECK_EQ(a->ldr, 0);
	CHECK_EQ(a->dfr, ~0u);
	CHECK_EQ(a->svr, 0xff);
	CHECK_EQ(a->timer_count, 0);
	CHECK_EQ(a->timer_divide, 0);
	CHECK_EQ(a->lvt_timer, APIC_LVT_MASKED);
	CHECK_EQ(a->lvt_lint0, APIC_LVT_MASKED);
	CHECK_EQ(a->lvt_lint1, APIC_LVT_MASKED);
	CHECK_EQ(a->lvt_error, APIC_LVT_MASKED);
	CHECK_EQ(a->lvt_pc, APIC_LVT_MASKED);
	CHECK_EQ(a->pending, 0);
}

static void check_state(const void *arg)
{
	(void)arg;
	trap_hook(VECTOR + 0x20, no_eoi);
	for (u32 i = 1; i < smp_cpus(); i++) {
		init_in(i, make_dirty, NULL);
		check_registers(&smp_at(i)->first);
		check_apic(i, &smp_at(i)->apic);
		smp_run(i, read_kept, NULL);
		CHECK_EQ(kept[0], MARKER);
		CHECK_EQ(kept[1], 0x12345678);
		if (platform.pmu) {
			CHECK_EQ(kept[2], 0x4300c0);
			CHECK_EQ(kept[3], 0x1234);
		}
	}
	trap_hook(VECTOR + 0x20, NULL);
}

/* ---- NMI ---- */

static void nmi_first(void *arg)
{
	(void)arg;
	for (u32 n = 1; n <= 100; n++) {
		smp_send(0, APIC_DELIVERY_NMI);
		if (!smp_reaches(&smp_at(0)->nmis, n, "an NMI reaches the first CPU"))
			return;
	}
}

static void check_nmi(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	for (u32 n = 1; n <= 200; n++)
		for (u32 i = 1; i < smp_cpus(); i++) {
			smp_send(i, APIC_DELIVERY_NMI);
			if (!smp_reaches(&smp_at(i)->nmis, n, "an NMI arrives"))
				return;
		}
	smp_run(1, nmi_first, NULL);
	smp_settle();
	CHECK_EQ(smp_at(0)->nmis, 100);
	for (u32 i = 1; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->nmis, 200);
	/* all but self, and those that a mask names */
	smp_command(0, APIC_DELIVERY_NMI | OTHERS);
	smp_run_all(name_flat, NULL);
	for (u32 i = 1; i < smp_cpus(); i++)
		smp_reaches(&smp_at(i)->nmis, 201, "an NMI for all others");
	smp_command(cpu_flag(1), APIC_DELIVERY_NMI | LOGICAL);
	smp_reaches(&smp_at(1)->nmis, 202, "an NMI by logical destination");
	smp_settle();
	CHECK_EQ(smp_at(0)->nmis, 100);
	for (u32 i = 2; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->nmis, 201);
	smp_count_end(VECTOR);
}

static volatile u32 in_handler, handled;

static void slow_nmi(struct trap_frame *frame)
{
	(void)frame;
	in_handler++;
	wait_go();
	handled++;
}

static void check_nmi_held(const void *arg)
{
	(void)arg;
	in_handler = handled = go = 0;
	trap_hook(VEC_NMI, slow_nmi);
	smp_send(1, APIC_DELIVERY_NMI);
	smp_reaches(&in_handler, 1, "the first NMI");
	for (u32 i = 0; i < 3; i++)
		smp_send(1, APIC_DELIVERY_NMI);
	smp_settle();
	CHECK_EQ(in_handler, 1);
	go = 1;
	smp_reaches(&handled, 2, "the second NMI");
	CHECK(smp_beats(1));
	smp_settle();
	CHECK_EQ(handled, 2);
	CHECK_EQ(in_handler, 2);
	trap_hook(VEC_NMI, NULL);
}

static void check_nmi_hlt(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	if (!call_until(1, in_hlt, NULL))
		return;
	for (u32 n = 1; n <= 20; n++) {
		smp_settle();
		smp_send(1, APIC_DELIVERY_NMI);
		if (!smp_reaches(&smp_at(1)->nmis, n, "an NMI ends HLT"))
			break;
	}
	smp_count_end(VECTOR);
	smp_start(1);
}

static void check_nmi_gif(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	if (!call_until(1, with_gif0, NULL))
		return;
	smp_send(1, APIC_DELIVERY_NMI);
	smp_send(1, APIC_DELIVERY_NMI);
	smp_settle();
	CHECK_EQ(smp_at(1)->nmis, 0);
	go = 1;
	smp_reaches(&smp_at(1)->nmis, 1, "the NMI, after STGI");
	smp_settle();
	CHECK_EQ(smp_at(1)->nmis, 1);
	smp_count_end(VECTOR);
	smp_start(1);
}

/* L2 takes them by itself. */
static void check_nmi_l2(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	l2_for_all(l2_loop);
	if (!call_until(1, in_l2, NULL))
		return;
	for (u32 n = 1; n <= 100; n++) {
		smp_send(1, APIC_DELIVERY_NMI);
		if (!smp_reaches(&smp_at(1)->nmis, n, "an NMI in L2"))
			break;
	}
	CHECK_EQ(stage[1], 1);
	go = 1;
	smp_reaches(&stage[1], 3, "L2 ends");
	CHECK_EQ(seen, VMEXIT_VMMCALL);
	CHECK_EQ(smp_at(1)->nmis, 100);
	smp_count_end(VECTOR);
	smp_start(1);
}

static void check_nmi_exit(const void *arg)
{
	(void)arg;
	for (u32 n = 0; n < 20; n++) {
		smp_count(VECTOR);
		l2_reset(l2_loop);
		l2_intercept(INTERCEPT(NMI));
		smp_l2_prepare();
		if (!call_until(1, in_l2, NULL))
			return;
		smp_send(1, APIC_DELIVERY_NMI);
		smp_reaches(&stage[1], 2, "#VMEXIT");
		CHECK_EQ(seen, VMEXIT_NMI);
		smp_settle();
		CHECK_EQ(smp_at(1)->nmis, 0);
		go = 1;
		smp_reaches(&stage[1], 3, "L1 goes on");
		smp_settle();
		CHECK_EQ(smp_at(1)->nmis, 1);
		smp_count_end(VECTOR);
		smp_start(1);
	}
}

/* ---- fixed interrupts ---- */

static void take_all(void *arg)
{
	(void)arg;
	set_stage(1);
	sti();
	wait_go();
}

static void others_take(void)
{
	for (u32 i = 1; i < smp_cpus(); i++)
		call_until(i, take_all, NULL);
	sti();
}

static void others_done(void)
{
	cli();
	go = 1;
	for (u32 i = 1; i < smp_cpus(); i++)
		smp_done(i);
}

/* Exactly `flags` take one more. */
static void fixed(u32 destination, u32 command, u32 flags)
{
	u32 before[MP_CPUS] = {0};

	for (u32 i = 0; i < smp_cpus(); i++)
		before[i] = smp_at(i)->interrupts;
	smp_command(destination, VECTOR | command);
	for (u32 i = 0; i < smp_cpus(); i++)
		if (flags & cpu_flag(i))
			smp_reaches(&smp_at(i)->interrupts, before[i] + 1, "a fixed IPI");
	smp_settle();
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->interrupts, before[i] + (flags >> i & 1));
}

static void check_fixed(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	others_take();
	for (u32 i = 0; i < smp_cpus(); i++)
		fixed(smp_at(i)->id, 0, cpu_flag(i));
	fixed(0xff, 0, all_flags());
	fixed(0, (u32)APIC_ICR_SELF, 1);
	fixed(0, (u32)APIC_ICR_ALL, all_flags());
	fixed(0, OTHERS, all_flags() & ~1u);
	fixed(0xe0, 0, 0);
	others_done();
	smp_count_end(VECTOR);
}

static void check_fixed_logical(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	smp_run_all(name_flat, NULL);
	others_take();
	for (u32 n = 0; n < flag_sets(); n++)
		fixed(flag_set(n), LOGICAL, flag_set(n));
	fixed(0xff, LOGICAL, all_flags());
	fixed(0, LOGICAL, 0);
	others_done();
	smp_run_all(name_cluster, NULL);
	others_take();
	for (u32 i = 0; i < smp_cpus(); i++)
		fixed(cluster_name(i), LOGICAL, cpu_flag(i));
	fixed(0x0f, LOGICAL, all_flags() & 0xf);
	fixed(0x3f, LOGICAL, 0);
	others_done();
	smp_run_all(name_flat, NULL);
	smp_count_end(VECTOR);
}

static u32 all_interrupts(void)
{
	u32 sum = 0;

	for (u32 i = 0; i < smp_cpus(); i++)
		sum += smp_at(i)->interrupts;
	return sum;
}

/* One of those named takes it. */
static void check_lowest(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	smp_run_all(name_flat, NULL);
	others_take();
	for (u32 n = 1; n <= 50; n++) {
		u64 begin = rdtsc();

		smp_command(all_flags(), VECTOR | LOGICAL | APIC_DELIVERY_LOWEST);
		while (all_interrupts() < n && rdtsc() - begin < 10000000000ull)
			asm volatile("pause");
	}
	smp_settle();
	CHECK_EQ(all_interrupts(), 50);
	others_done();
	smp_count_end(VECTOR);
}

/* ---- storms: each CPU sends to the next one, and waits until that has taken it ---- */

static volatile u32 finished;

static void wait_finished(void)
{
	__atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
	while (finished < smp_cpus())
		asm volatile("pause" : : : "memory");
}

struct storm {
	u32 fixed, nmi;
};

/* Of each CPU: with more CPUs than the machine that runs QEMU has, each of them waits for its turn. */
static u32 storm_rounds(void)
{
	return smp_cpus() > 4 ? STORM / 10 : STORM;
}

static void storm(void *arg)
{
	const struct storm *s = arg;
	u32 next = (smp_this() + 1) % smp_cpus();
	struct smp_cpu *to = smp_at(next);

	sti();
	for (u32 n = 1; n <= storm_rounds(); n++) {
		if (s->fixed)
			smp_send(next, VECTOR);
		if (s->nmi)
			smp_send(next, APIC_DELIVERY_NMI);
		if (s->fixed && !smp_reaches(&to->interrupts, n, "an IPI of the storm"))
			break;
		if (s->nmi && !smp_reaches(&to->nmis, n, "an NMI of the storm"))
			break;
	}
	wait_finished();
	cli();
}

static void check_storm(const void *arg)
{
	struct storm s = *(const struct storm *)arg;

	smp_count(VECTOR);
	finished = 0;
	smp_run_all(storm, &s);
	smp_settle();
	for (u32 i = 0; i < smp_cpus(); i++) {
		CHECK_EQ(smp_at(i)->interrupts, (u64)s.fixed * storm_rounds());
		CHECK_EQ(smp_at(i)->nmis, (u64)s.nmi * storm_rounds());
	}
	smp_count_end(VECTOR);
}

static const struct test {
	const char *name;
	void (*run)(const void *arg);
	const void *arg;
} tests[] = {
	{"INIT and SIPI to each CPU by its ID", check_physical, NULL},
	{"INIT by logical destination, flat", check_flat, NULL},
	{"INIT by logical destination, clusters", check_cluster, NULL},
	{"INIT to nobody, and de-asserted", check_nobody, NULL},
	{"INIT and SIPI to all but oneself", check_others, NULL},
	{"the first SIPI after INIT counts, and only that", check_second_sipi, NULL},
	{"SIPI to a running CPU is ignored", check_sipi_ignored, NULL},
	{"INIT in a loop with IF=0", check_init_loop, NULL},
	{"INIT in HLT, with IF=0 and IF=1", check_init_hlt, NULL},
	{"INIT in an NMI's handler", check_init_nmi, NULL},
	{"INIT in L2", check_init_l2, NULL},
	{"INIT in L2, intercepted", check_init_exit, NULL},
	{"INIT waits for STGI", check_init_gif, NULL},
	{"state after INIT and SIPI", check_state, NULL},
	{"NMIs to each CPU, one by one", check_nmi, NULL},
	{"NMIs during an NMI's handler: one comes after it", check_nmi_held, NULL},
	{"NMI in HLT with IF=0", check_nmi_hlt, NULL},
	{"NMI waits for STGI", check_nmi_gif, NULL},
	{"NMI in L2", check_nmi_l2, NULL},
	{"NMI in L2, intercepted", check_nmi_exit, NULL},
	{"fixed IPIs, physical and by shorthand", check_fixed, NULL},
	{"fixed IPIs, logical", check_fixed_logical, NULL},
	{"lowest priority", check_lowest, NULL},
	{"a storm of fixed IPIs", check_storm, &(const struct storm){1, 0}},
	{"a storm of NMIs", check_storm, &(const struct storm){0, 1}},
	{"a storm of both", check_storm, &(const struct storm){1, 1}},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!smp_begin(true))
		return;
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, tests[i].run, tests[i].arg);
	smp_end();
}

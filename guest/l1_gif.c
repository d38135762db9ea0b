/* SPDX-License-Identifier: MIT */
/*
 * The global interrupt flag and real interrupts: what CLGI holds and STGI releases, who gets a
 * physical INTR or NMI while L2 runs, and the task priority in step with CR8 across CLGI and
 * STGI. APM2 §15.17, §15.21.
 */
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"

#define VECTOR 0x51u /* priority class 5 */
#define TIMER_COUNT 400000u

L2_CODE(l2_nops, "nop\n\tnop\n\tnop");
L2_CODE(l2_hlt, "hlt");
L2_CODE(l2_clgi, "clgi");
L2_CODE(l2_clgi_cr8, "clgi\n\tmov %rax, %cr8");
L2_CODE(l2_clgi_stgi, "clgi\n\tstgi");

/* ---- CLGI and STGI in L1 ---- */

static void check_intr(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	clgi();
	sti();
	apic_raise(VECTOR);
	CHECK_EQ(interrupts, 0);
	stgi();
	apic_settle();
	cli();
	CHECK_EQ(interrupts, 1);

	/* IF=0 holds it beyond STGI. */
	clgi();
	apic_raise(VECTOR);
	stgi();
	apic_settle();
	CHECK_EQ(interrupts, 1);
	interrupt_window();
	CHECK_EQ(interrupts, 2);

	/* And one that was pending before CLGI stays so. */
	apic_raise(VECTOR);
	clgi();
	interrupt_window();
	CHECK_EQ(interrupts, 2);
	stgi();
	interrupt_window();
	CHECK_EQ(interrupts, 3);
}

static void check_nmi(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	apic_raise_nmi();
	CHECK_EQ(nmis, 1);
	clgi();
	apic_raise_nmi();
	CHECK_EQ(nmis, 1);
	stgi();
	apic_settle();
	CHECK_EQ(nmis, 2);
	clgi();
	stgi();
	apic_settle();
	CHECK_EQ(nmis, 2);
}

static void check_nmi_and_intr(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	clgi();
	apic_raise(VECTOR);
	apic_raise_nmi();
	sti();
	CHECK_EQ(interrupts + nmis, 0);
	stgi();
	apic_settle();
	cli();
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(nmis, 1);
}

/* Faults are not interrupts: GIF does not hold them. */
static void ud2(const void *arg)
{
	(void)arg;
	asm volatile("ud2");
}

static void check_exception(const void *arg)
{
	clgi();
	CHECK_EQ(try_call(ud2, arg), VEC_UD);
	stgi();
}

/* ---- a physical interrupt while L2 runs ---- */

static const struct physical {
	const char *name;
	bool intercept, masking, l1_if, l2_if;
	bool exits; /* #VMEXIT(INTR), and L1 takes it after STGI */
	bool in_l2; /* delivered through L2's IDT */
} physicals[] = {
	/* With V_INTR_MASKING, RFLAGS.IF of the host at VMRUN decides; without, that of the guest. */
	{"INTR intercepted, V_INTR_MASKING=1, host IF=1, guest IF=0", true, true, true, false, true,
	 false},
	{"INTR intercepted, V_INTR_MASKING=1, host IF=1, guest IF=1", true, true, true, true, true,
	 false},
	{"INTR intercepted, V_INTR_MASKING=1, host IF=0, guest IF=1", true, true, false, true,
	 false, false},
	{"INTR intercepted, V_INTR_MASKING=0, host IF=0, guest IF=1", true, false, false, true,
	 true, false},
	{"INTR intercepted, V_INTR_MASKING=0, host IF=1, guest IF=0", true, false, true, false,
	 false, false},
	{"not intercepted, V_INTR_MASKING=0, host IF=0, guest IF=1", false, false, false, true,
	 false, true},
	{"not intercepted, V_INTR_MASKING=0, host IF=1, guest IF=0", false, false, true, false,
	 false, false},
	{"not intercepted, V_INTR_MASKING=1, host IF=1, guest IF=0", false, true, true, false,
	 false, true},
	{"not intercepted, V_INTR_MASKING=1, host IF=0, guest IF=1", false, true, false, true,
	 false, false},
};

/* VMRUN with a physical interrupt already pending: CLGI first, so that L1 cannot take it. */
static void check_physical(const void *arg)
{
	const struct physical *p = arg;

	apic_count(VECTOR);
	l2_reset(l2_nops);
	l2_catch_events();
	if (p->intercept)
		l2_intercept(INTERCEPT(INTR));
	l2.vmcb.control.int_ctl = p->masking ? (u32)V_INTR_MASKING : 0;
	l2.vmcb.save.rflags |= p->l2_if ? RFLAGS_IF : 0;
	clgi();
	apic_raise(VECTOR);
	if (p->l1_if)
		sti();
	svm_vmrun(&l2.vmcb, &l2.regs);

	/* GIF=0 again: L1 has not taken anything yet. */
	apic_settle();
	CHECK_EQ(interrupts, 0);
	if (p->exits) {
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_INTR);
		CHECK_EQ(l2.vmcb.save.rip, (u64)l2_nops);
	} else {
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
		CHECK_EQ(l2_caught(), p->in_l2 ? VECTOR : VEC_NONE);
	}
	stgi();
	if (p->in_l2)
		apic_eoi();
	if (p->l1_if)
		apic_settle();
	else
		interrupt_window();
	cli();
	CHECK_EQ(interrupts, !p->in_l2);
}

static void check_nmi_in_l2(const void *arg)
{
	bool intercept = arg != NULL;

	apic_count(VECTOR);
	l2_reset(l2_nops);
	l2_catch_events();
	if (intercept)
		l2_intercept(INTERCEPT(NMI));
	clgi();
	apic_raise_nmi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	apic_settle();
	CHECK_EQ(nmis, 0);
	if (intercept) {
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NMI);
		CHECK_EQ(l2.vmcb.save.rip, (u64)l2_nops);
	} else {
		CHECK_EQ(l2_caught(), VEC_NMI);
		nmi_unmask();
	}
	stgi();
	apic_settle();
	CHECK_EQ(nmis, intercept);
	/* NMIs are as before. */
	apic_raise_nmi();
	CHECK_EQ(nmis, intercept + 1u);
}

/* L2 sends the IPI itself, with all held: L1 gets it when it says STGI. */
static void l2_sends(void)
{
	apic_raise(VECTOR);
	apic_raise_nmi();
	vmmcall();
}

static void check_sent_by_l2(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	l2_reset((const void *)l2_sends);
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	l2_intercept(INTERCEPT(INTR));
	l2_intercept(INTERCEPT(NMI));
	clgi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NMI);
	CHECK_EQ(nmis + interrupts, 0);
	stgi();
	interrupt_window();
	apic_settle();
	CHECK_EQ(nmis, 1);
	CHECK_EQ(interrupts, 1);
}

/* Long after the VMRUN, which takes the more instructions the more of us are below. */
static u32 timer_count(void)
{
	u32 count = TIMER_COUNT;

	for (u32 level = 1; level < platform.depth; level++)
		count *= 16;
	return count;
}

static void check_hlt(const void *arg)
{
	(void)arg;
	l2_reset(l2_hlt);
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	l2_intercept(INTERCEPT(INTR));
	/* where the clock is the wall's, the timer may be faster than a machine that is busy with other things */
	for (u32 tries = 0; tries < 20; tries++) {
		apic_count(VECTOR);
		clgi();
		sti();
		apic_timer(VECTOR, timer_count());
		svm_vmrun(&l2.vmcb, &l2.regs);
		if (l2.vmcb.save.rip != (u64)l2_hlt)
			break;
		cli();
		stgi();
		interrupt_window();
	}
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_INTR);
	CHECK_EQ(l2.vmcb.save.rip, (u64)l2_hlt_end);
	CHECK_EQ(interrupts, 0);
	stgi();
	apic_settle();
	cli();
	apic_timer_stop();
	CHECK_EQ(interrupts, 1);
}

static void check_hlt_l1(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	apic_timer(VECTOR, TIMER_COUNT);
	asm volatile("sti\n\thlt\n\tcli" : : : "memory");
	apic_timer_stop();
	CHECK_EQ(interrupts, 1);
}

/* ---- task priority ---- */

static u64 apic_priority(void)
{
	return apic_read(APIC_TPR) >> 4;
}

static void check_tpr_hold(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	write_cr8(5);
	sti();
	apic_raise(VECTOR);
	CHECK_EQ(interrupts, 0);
	clgi();
	stgi();
	apic_settle();
	CHECK_EQ(interrupts, 0);
	/* Lowered while GIF=0: comes with STGI. */
	clgi();
	write_cr8(4);
	apic_settle();
	CHECK_EQ(interrupts, 0);
	stgi();
	apic_settle();
	CHECK_EQ(interrupts, 1);
	/* Raised while GIF=0: holds after it. */
	clgi();
	write_cr8(5);
	apic_raise(VECTOR);
	stgi();
	apic_settle();
	CHECK_EQ(interrupts, 1);
	write_cr8(0);
	apic_settle();
	CHECK_EQ(interrupts, 2);
	cli();
}

static void check_tpr_cr8(const void *arg)
{
	(void)arg;
	write_cr8(3);
	CHECK_EQ(apic_priority(), 3);
	clgi();
	CHECK_EQ(read_cr8(), 3);
	write_cr8(7);
	CHECK_EQ(read_cr8(), 7);
	stgi();
	CHECK_EQ(read_cr8(), 7);
	CHECK_EQ(apic_priority(), 7);
	write_cr8(0);
	CHECK_EQ(apic_priority(), 0);
}

static void check_tpr_inside(const void *arg)
{
	u64 inside;

	(void)arg;
	clgi();
	write_cr8(7);
	inside = apic_priority();
	stgi();
	write_cr8(0);
	CHECK_EQ(inside, 7);
}

static void check_tpr_mmio(const void *arg)
{
	u64 inside, after;

	(void)arg;
	write_cr8(0);
	apic_write(APIC_TPR, 0x20);
	CHECK_EQ(read_cr8(), 2);
	clgi();
	CHECK_EQ(read_cr8(), 2);
	apic_write(APIC_TPR, 0x60);
	inside = read_cr8();
	stgi();
	after = read_cr8();
	write_cr8(0);
	if (!departs(DEPARTURE_TPR_WHILE_GIF0))
		CHECK_EQ(inside, 6);
	CHECK_EQ(after, 6);
}

/* CLGI of L2's says nothing about V_TPR, which without V_INTR_MASKING only MOV CR8 changes. */
static void check_tpr_of_l2(const void *arg)
{
	const u8 *code = arg;
	const bool writes = code == l2_clgi_cr8;

	write_cr8(0);
	l2_reset(code);
	l2.vmcb.control.int_ctl = 5;
	l2.vmcb.save.rax = 3;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.control.int_ctl, writes ? 3 : 5);
	CHECK_EQ(read_cr8(), writes ? 3 : 0);
	write_cr8(0);
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} cases[] = {
	{"CLGI holds INTR until STGI", check_intr, NULL},
	{"CLGI holds NMI until STGI", check_nmi, NULL},
	{"CLGI holds both", check_nmi_and_intr, NULL},
	{"CLGI does not hold exceptions", check_exception, NULL},
	{"NMI intercepted", check_nmi_in_l2, "intercept"},
	{"NMI not intercepted", check_nmi_in_l2, NULL},
	{"IPIs that L2 sends", check_sent_by_l2, NULL},
	{"HLT in L1, woken by the timer", check_hlt_l1, NULL},
	{"HLT in L2, woken by the timer", check_hlt, NULL},
	{"CR8 holds and releases across CLGI and STGI", check_tpr_hold, NULL},
	{"CR8 and the APIC's TPR agree after STGI", check_tpr_cr8, NULL},
	{"the APIC's TPR follows CR8 while GIF=0", check_tpr_inside, NULL},
	{"CR8 follows the APIC's TPR", check_tpr_mmio, NULL},
	{"V_TPR stays across CLGI of L2", check_tpr_of_l2, l2_clgi},
	{"V_TPR stays across CLGI and STGI of L2", check_tpr_of_l2, l2_clgi_stgi},
	{"MOV CR8 of L2 with GIF=0 writes V_TPR and CR8", check_tpr_of_l2, l2_clgi_cr8},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases) + ARRAY_SIZE(physicals));
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, cases[i].arg);
	for (u32 i = 0; i < ARRAY_SIZE(physicals); i++)
		tap_run(physicals[i].name, check_physical, &physicals[i]);
}

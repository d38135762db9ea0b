/* SPDX-License-Identifier: MIT */
/*
 * Virtual GIF: with V_GIF_ENABLE, STGI and CLGI of L2 change V_GIF and nothing else, and V_GIF=0
 * holds virtual interrupts. Where CPUID does not have it, both bits are ignored. Without it, they change the real GIF.
 * APM2 §15.17, §15.33.2.
 */
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

#define VECTOR 0x45u
#define PHYSICAL 0x51u

L2_CODE(v_exit, "");
L2_CODE(v_nops, "nop\n\tnop");
L2_CODE(v_clgi, "clgi");
L2_CODE(v_stgi, "stgi");
L2_CODE(v_both, "clgi\n\tstgi\n\tclgi");
L2_CODE(v_open, "nop\n\tstgi\nv_opened:\n\tnop\n\tnop");
L2_CODE(v_close, "clgi\n\tsti\n\tnop\n\tnop");
extern const u8 v_opened[];

static void ready(const u8 *code, bool gif)
{
	l2_reset(code);
	l2_catch_events();
	l2.vmcb.control.int_ctl = (u32)(V_GIF_ENABLE | V_INTR_MASKING | (gif ? V_GIF : 0));
}

static bool gif(void)
{
	return l2.vmcb.control.int_ctl & V_GIF;
}

static void check_instructions(const void *arg)
{
	static const struct {
		const u8 *code;
		bool before, after;
	} tries[] = {
		{v_exit, false, false}, {v_exit, true, true},  {v_clgi, true, false},
		{v_clgi, false, false}, {v_stgi, false, true}, {v_stgi, true, true},
		{v_both, false, false}, {v_both, true, false},
	};

	(void)arg;
	for (u32 npt = 0; npt < (platform.svm_edx & SVM_NP ? 2u : 1u); npt++)
		for (u32 i = 0; i < ARRAY_SIZE(tries); i++) {
			ready(tries[i].code, tries[i].before);
			if (npt)
				l2_use_npt();
			CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
			if (!CHECK_EQ(gif(), tries[i].after))
				note("try %u", i);
			CHECK_EQ(l2.vmcb.control.int_ctl & V_GIF_ENABLE, V_GIF_ENABLE);
			/* and so it stays at the next VMRUN */
			l2.vmcb.save.rip = (u64)v_nops;
			CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
			CHECK_EQ(gif(), tries[i].after);
		}
}

static void check_intercepts(const void *arg)
{
	(void)arg;
	ready(v_clgi, true);
	l2_intercept(INTERCEPT(CLGI));
	CHECK_EQ(l2_run(), VMEXIT_CLGI);
	CHECK(gif());
	ready(v_stgi, false);
	l2_intercept(INTERCEPT(STGI));
	CHECK_EQ(l2_run(), VMEXIT_STGI);
	CHECK(!gif());
}

static void virq(const u8 *code, bool on)
{
	ready(code, on);
	l2.vmcb.control.int_ctl |= (u32)(V_IRQ | 5u << V_INTR_PRIO_SHIFT);
	l2.vmcb.control.int_vector = VECTOR;
	l2.vmcb.save.rflags |= RFLAGS_IF;
}

static void check_virq(const void *arg)
{
	(void)arg;
	virq(v_nops, true);
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, 0);

	virq(v_nops, false);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2_caught(), VEC_NONE);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);
	CHECK(!gif());

	/* L2 lets it in. */
	virq(v_open, false);
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)v_opened);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, 0);
	CHECK(gif());

	/* L2 keeps it out. */
	virq(v_close, true);
	l2.vmcb.save.rflags &= ~RFLAGS_IF;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2_caught(), VEC_NONE);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);
	CHECK(!gif());
}

static void check_vintr(const void *arg)
{
	(void)arg;
	virq(v_nops, false);
	l2_intercept(INTERCEPT(VINTR));
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);

	virq(v_open, false);
	l2_intercept(INTERCEPT(VINTR));
	CHECK_EQ(l2_run(), VMEXIT_VINTR);
	CHECK_EQ(l2.vmcb.save.rip, (u64)v_opened);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);
	CHECK(gif());
}

/* An injected event is not held, as it is not by RFLAGS.IF. */
static void check_injection(const void *arg)
{
	(void)arg;
	ready(v_nops, false);
	l2.vmcb.control.event_inj = EVENT_V | EVENT_TYPE_INTR | VECTOR;
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK(!gif());
}

/* The real GIF is 1 while L2 runs: what is L1's exits, and L1's own GIF is as after any exit. */
static void check_physical(const void *arg)
{
	(void)arg;
	apic_count(PHYSICAL);
	ready(v_nops, false);
	l2_intercept(INTERCEPT(INTR));
	clgi();
	apic_raise(PHYSICAL);
	sti();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_INTR);
	CHECK(!gif());
	CHECK_EQ(interrupts, 0);
	stgi();
	apic_settle();
	cli();
	CHECK_EQ(interrupts, 1);

	ready(v_nops, false);
	l2_intercept(INTERCEPT(NMI));
	clgi();
	apic_raise_nmi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NMI);
	CHECK_EQ(nmis, 0);
	stgi();
	apic_settle();
	CHECK_EQ(nmis, 1);

	/* L2's STGI is not L1's. */
	ready(v_stgi, false);
	clgi();
	apic_raise(PHYSICAL);
	svm_vmrun(&l2.vmcb, &l2.regs);
	sti();
	apic_settle();
	CHECK_EQ(interrupts, 1);
	stgi();
	apic_settle();
	cli();
	CHECK_EQ(interrupts, 2);
	apic_count_end(PHYSICAL);
}

/* Without V_GIF_ENABLE it is the real GIF that L2's CLGI clears: what L1 intercepts waits for L2's STGI, or for L1's. */
static void l2_nmi_held(void)
{
	clgi();
	apic_raise_nmi();
	vmmcall();
	stgi();
	apic_settle();
	vmmcall();
}

static void l2_intr_held(void)
{
	clgi();
	apic_raise(PHYSICAL);
	vmmcall();
	stgi();
	apic_settle();
	vmmcall();
}

/* What L2's CLGI is to hold. */
enum held { HELD_INTR, HELD_INTR_UNMASKED, HELD_NMI };

static void check_real_gif(const void *arg)
{
	enum held held = (enum held)(u64)arg;
	bool nmi = held == HELD_NMI;
	u64 exit = nmi ? VMEXIT_NMI : VMEXIT_INTR;

	for (u32 over_l1 = 0; over_l1 < 2; over_l1++) {
		apic_count(PHYSICAL);
		l2_reset(nmi ? (const void *)l2_nmi_held : (const void *)l2_intr_held);
		/* whose RFLAGS.IF would let it in */
		l2.vmcb.control.int_ctl = held == HELD_INTR_UNMASKED ? 0 : (u32)V_INTR_MASKING;
		l2.vmcb.save.rflags |= held == HELD_INTR_UNMASKED ? RFLAGS_IF : 0;
		l2_intercept(INTERCEPT(INTR));
		l2_intercept(INTERCEPT(NMI));
		clgi();
		sti();
		if (over_l1)
			l2_intercept(INTERCEPT(STGI)); /* so it does not come to that */
		svm_vmrun(&l2.vmcb, &l2.regs);
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
		CHECK_EQ(interrupts + nmis, 0);
		if (!over_l1) {
			/* VMRUN sets GIF: it exits before L2 does anything */
			l2.vmcb.save.rip += 3;
			svm_vmrun(&l2.vmcb, &l2.regs);
			CHECK_EQ(l2.vmcb.control.exit_code, exit);
			CHECK_EQ(interrupts + nmis, 0);
		}
		stgi();
		apic_settle();
		cli();
		CHECK_EQ(interrupts, !nmi);
		CHECK_EQ(nmis, nmi);
	}
	apic_count_end(PHYSICAL);
}

L2_CODE(v_held_stgi, "clgi\n\tmov %ebx, (%rdi)\n\tmov $1000, %ecx\n1:\tpause\n\tloop "
		     "1b\n\tstgi\nv_released:\n\tnop\n\tnop");
extern const u8 v_released[];

/* L2's own STGI releases it. */
static void check_real_stgi(const void *arg)
{
	(void)arg;
	if (rdmsr(MSR_APIC_BASE) & APIC_BASE_X2) {
		tap_skip("the APIC is not in memory");
		return;
	}
	apic_count(PHYSICAL);
	l2_reset(v_held_stgi);
	l2_intercept(INTERCEPT(NMI));
	apic_write(APIC_ICR_HIGH, apic_read(0x20));
	l2.regs.rdi = (u64)apic_register(APIC_ICR);
	l2.regs.rbx = APIC_DELIVERY_NMI;
	clgi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NMI);
	CHECK_EQ(l2.vmcb.save.rip, (u64)v_released);
	stgi();
	apic_settle();
	CHECK_EQ(nmis, 1);
	apic_count_end(PHYSICAL);
}

/* Not offered: the bits mean nothing, and no instruction of L2 changes them. */
static void check_hidden(const void *arg)
{
	(void)arg;
	virq(v_nops, false);
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	ready(v_stgi, false);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK(!gif());
	ready(v_clgi, true);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK(gif());
	ready(v_clgi, true);
	l2_intercept(INTERCEPT(CLGI));
	CHECK_EQ(l2_run(), VMEXIT_CLGI);
}

static void run_case(const void *arg)
{
	bool offered = platform.svm_edx & SVM_VGIF;
	void (*run)(const void *) = *(void (*const *)(const void *))arg;

	if (offered == (run == check_hidden))
		tap_skip(offered ? "CPUID has VGIF" : "no VGIF in CPUID");
	else
		run(NULL);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"STGI and CLGI of L2 change V_GIF", check_instructions},
	{"intercepts of STGI and CLGI win over V_GIF", check_intercepts},
	{"V_GIF=0 holds V_IRQ", check_virq},
	{"V_GIF=0 holds VINTR", check_vintr},
	{"V_GIF=0 does not hold EVENTINJ", check_injection},
	{"V_GIF=0 does not hold what L1 intercepts", check_physical},
	{"V_GIF without VGIF", check_hidden},
};

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} real_cases[] = {
	{"CLGI of L2 holds INTR, V_INTR_MASKING=1", check_real_gif, (const void *)HELD_INTR},
	{"CLGI of L2 holds INTR, V_INTR_MASKING=0", check_real_gif,
	 (const void *)HELD_INTR_UNMASKED},
	{"CLGI of L2 holds NMI", check_real_gif, (const void *)HELD_NMI},
	{"STGI of L2 releases NMI", check_real_stgi, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases) + ARRAY_SIZE(real_cases));
	if (!svm_start())
		return;
	note("VGIF: %s", platform.svm_edx & SVM_VGIF ? "yes" : "no");
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, run_case, &cases[i].run);
	for (u32 i = 0; i < ARRAY_SIZE(real_cases); i++)
		tap_run(real_cases[i].name, real_cases[i].run, real_cases[i].arg);
}

/* SPDX-License-Identifier: MIT */
/*
 * Events that L1 gives to L2: EVENTINJ of every type, EXITINTINFO when the delivery itself exits,
 * virtual interrupts with priority, TPR, interrupt shadow and the VINTR intercept.
 */
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

#define VECTOR 0x45u
#define UNMAPPED (1ull << 40)

L2_CODE(l2_nops, "nop\n\tnop\n\tnop");
L2_CODE(l2_int, "int $0x81");
L2_CODE(l2_ud, "ud2");
L2_CODE(l2_lower_cr8, "xor %eax, %eax\n\tmov %rax, %cr8\nl2_cr8_lowered:\n\tnop\n\tnop");
L2_CODE(l2_set_cr8, "mov $7, %eax\n\tmov %rax, %cr8\n\tmov %cr8, %rbx");
extern const u8 l2_cr8_lowered[];
L2_CODE(l2_sti, "nop\n\tsti\n\tnop\nl2_after_sti:\n\tnop\n\tnop");
extern const u8 l2_after_sti[];

/* ---- EVENTINJ ---- */

static const struct injection {
	const char *name;
	u64 event;
	u32 vector; /* what L2 sees */
	bool has_error;
} injections[] = {
	{"INTR", EVENT_TYPE_INTR | VECTOR, VECTOR, false},
	{"INTR, vector of an exception", EVENT_TYPE_INTR | VEC_GP, VEC_GP, false},
	{"NMI", EVENT_TYPE_NMI | VEC_NMI, VEC_NMI, false},
	{"NMI, whose vector is ignored", EVENT_TYPE_NMI | 99, VEC_NMI, false},
	{"#DE", EVENT_TYPE_EXCEPTION | VEC_DE, VEC_DE, false},
	{"#UD", EVENT_TYPE_EXCEPTION | VEC_UD, VEC_UD, false},
	{"#GP with an error code",
	 0x1234ull << EVENT_ERROR_SHIFT | EVENT_EV | EVENT_TYPE_EXCEPTION | VEC_GP, VEC_GP, true},
	{"#PF with an error code",
	 0x6ull << EVENT_ERROR_SHIFT | EVENT_EV | EVENT_TYPE_EXCEPTION | VEC_PF, VEC_PF, true},
	{"software INTn", EVENT_TYPE_SWINT | 0x81, 0x81, false},
};

/* The frame that L2's CPU pushed: error code, RIP, CS, RFLAGS, RSP, SS. */
static void check_frame(const struct injection *i, u64 rip, u64 rsp)
{
	const u64 *frame = (const u64 *)l2.vmcb.save.rsp;

	CHECK_EQ(l2_caught(), i->vector);
	if (i->has_error)
		CHECK_EQ(*frame++, i->event >> EVENT_ERROR_SHIFT);
	CHECK_EQ(frame[0], rip);
	CHECK_EQ(frame[1], GDT_CODE);
	CHECK_EQ(frame[2] & ~RFLAGS_RF, RFLAGS_FIXED);
	CHECK_EQ(frame[3], rsp);
	CHECK_EQ(frame[4], GDT_DATA);
}

static u64 inject_ready(const struct injection *i)
{
	l2_reset(l2_nops);
	l2_catch_events();
	l2.vmcb.control.event_inj = EVENT_V | i->event;
	/* A software interrupt returns behind its INTn where nRIP tells where that is (APM2
	 * §15.20). */
	if ((i->event & EVENT_TYPE) == EVENT_TYPE_SWINT && platform.svm_edx & SVM_NRIPS) {
		l2.vmcb.control.next_rip = (u64)l2_nops + 2;
		return (u64)l2_nops + 2;
	}
	return (u64)l2_nops;
}

static void check_injection(const void *arg)
{
	const struct injection *i = arg;
	u64 rip = inject_ready(i), rsp = l2.vmcb.save.rsp;

	/* Intercepts are for events that arise, not for those injected; IF=0 and a shadow do not
	 * hold them. */
	if (i->vector < 32)
		l2_intercept(INTERCEPT_EXCEPTION(i->vector));
	l2_intercept(INTERCEPT(SWINT));
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	check_frame(i, rip, rsp);
	CHECK_EQ(l2.vmcb.control.event_inj & EVENT_V, 0);
	CHECK_EQ(l2.vmcb.control.exit_int_info & EVENT_V, 0);

	/* With nested paging. */
	if (!(platform.svm_edx & SVM_NP))
		return;
	rip = inject_ready(i);
	l2_use_npt();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	check_frame(i, rip, rsp);
}

/* ---- delivery that exits ---- */

static u64 expected_info(const struct injection *i)
{
	u64 event = EVENT_V | i->event;

	/* NMI: the vector is 2, whatever was asked for. */
	return (event & EVENT_TYPE) == EVENT_TYPE_NMI ? (event & ~EVENT_VECTOR) | VEC_NMI : event;
}

static u64 without_vector_of_nmi(u64 info)
{
	return (info & EVENT_TYPE) == EVENT_TYPE_NMI ? (info & ~EVENT_VECTOR) | VEC_NMI : info;
}

static void check_delivery_npf(const void *arg)
{
	const struct injection *i = arg;

	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	for (u32 stack = 0; stack < 2; stack++) {
		u64 rip = inject_ready(i), rsp = l2.vmcb.save.rsp;
		u64 page = stack ? ALIGN_DOWN(rsp - 8, PAGE_SIZE) : (u64)l2.idt;
		u64 *entry;

		l2_use_npt();
		entry = paging_split(&l2.npt, page);
		*entry &= ~PTE_P;
		CHECK_EQ(l2_run(), VMEXIT_NPF);
		CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U | (stack ? PFERR_W : 0));
		CHECK_EQ(ALIGN_DOWN(l2.vmcb.control.exit_info_2, PAGE_SIZE), page);
		CHECK_EQ(without_vector_of_nmi(l2.vmcb.control.exit_int_info), expected_info(i));
		CHECK_EQ(l2.vmcb.save.rip, (u64)l2_nops);
		CHECK_EQ(l2.vmcb.save.rsp, rsp);

		/* What a hypervisor does then: mend, and inject what was interrupted. */
		*entry |= PTE_P;
		l2_flush();
		l2.vmcb.control.event_inj = l2.vmcb.control.exit_int_info;
		if (platform.svm_edx & SVM_NRIPS)
			l2.vmcb.control.next_rip = rip; /* 0 after an exit by no instruction */
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		check_frame(i, rip, rsp);
	}
}

/* A guest's own fault during delivery, which L1 intercepts. */
static void check_delivery_pf(const void *arg)
{
	const struct injection *i = arg;

	inject_ready(i);
	l2.vmcb.save.idtr.base = UNMAPPED;
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_DF));
	/* #PF after #PF, or after a contributory exception, makes #DF only after the intercept of
	 * #PF. */
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2.vmcb.control.exit_info_2, UNMAPPED + i->vector * sizeof(struct idt_gate));
	CHECK_EQ(without_vector_of_nmi(l2.vmcb.control.exit_int_info), expected_info(i));
}

/* Events that arise in L2 itself. */
static void check_own_events(const void *arg)
{
	const struct {
		const u8 *code;
		u64 info;
	} own[] = {
		{l2_int, EVENT_V | EVENT_TYPE_SWINT | 0x81},
		{l2_ud, EVENT_V | EVENT_TYPE_EXCEPTION | VEC_UD},
	};

	(void)arg;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(own); i++) {
		l2_reset(own[i].code);
		l2_catch_events();
		l2_use_npt();
		*paging_split(&l2.npt, (u64)l2.idt) &= ~PTE_P;
		CHECK_EQ(l2_run(), VMEXIT_NPF);
		CHECK_EQ(l2.vmcb.control.exit_int_info & BITS(31, 0), own[i].info);
		CHECK_EQ(l2.vmcb.save.rip, (u64)own[i].code);
	}
}

/* ---- virtual interrupts ---- */

static const struct virq {
	const char *name;
	u64 priority, tpr;
	bool ignore_tpr, interrupts, shadow, intercept;
	const u8 *code;
	const u8 *at; /* RIP where it is taken; NULL: it is not */
	int departure;
} virqs[] = {
	{"V_IRQ", 5, 0, false, true, false, false, l2_nops, l2_nops, -1},
	{"V_IRQ, masked by RFLAGS.IF", 5, 0, false, false, false, false, l2_nops, NULL, -1},
	{"V_IRQ, masked by V_TPR", 5, 6, false, true, false, false, l2_nops, NULL, -1},
	{"V_IRQ, V_TPR equal to the priority", 5, 5, false, true, false, false, l2_nops, NULL,
	 DEPARTURE_TPR_PRIORITY},
	{"V_IRQ, V_TPR below the priority", 5, 4, false, true, false, false, l2_nops, l2_nops, -1},
	{"V_IRQ, V_IGN_TPR", 5, 15, true, true, false, false, l2_nops, l2_nops, -1},
	{"V_IRQ, in an interrupt shadow", 5, 0, false, true, true, false, l2_nops, l2_nops + 1, -1},
	{"V_IRQ, after STI and its shadow", 5, 0, false, false, false, false, l2_sti, l2_after_sti,
	 -1},
	{"VINTR intercept", 5, 0, false, true, false, true, l2_nops, l2_nops, -1},
	{"VINTR intercept, in an interrupt shadow", 5, 0, false, true, true, true, l2_nops,
	 l2_nops + 1, -1},
	{"VINTR intercept, after STI and its shadow", 5, 0, false, false, false, true, l2_sti,
	 l2_after_sti, -1},
	{"VINTR intercept, masked by RFLAGS.IF", 5, 0, false, false, false, true, l2_nops, NULL,
	 -1},
};

static void check_virq(const void *arg)
{
	const struct virq *v = arg;
	struct vmcb_control *c = &l2.vmcb.control;

	if (v->departure >= 0 && departs((enum departure)v->departure)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	l2_reset(v->code);
	l2_catch_events();
	c->int_ctl = (u32)(V_IRQ | V_INTR_MASKING | v->priority << V_INTR_PRIO_SHIFT | v->tpr |
			   (v->ignore_tpr ? V_IGN_TPR : 0));
	c->int_vector = VECTOR;
	c->int_state = v->shadow ? INTERRUPT_SHADOW : 0;
	l2.vmcb.save.rflags |= v->interrupts ? RFLAGS_IF : 0;
	if (v->intercept)
		l2_intercept(INTERCEPT(VINTR));
	l2_run();
	if (!v->at) {
		CHECK_EQ(c->exit_code, VMEXIT_VMMCALL);
		CHECK_EQ(l2_caught(), VEC_NONE);
		CHECK_EQ(c->int_ctl & V_IRQ, V_IRQ);
		CHECK_EQ(c->int_ctl & V_TPR_MASK, v->tpr);
	} else if (v->intercept) {
		CHECK_EQ(c->exit_code, VMEXIT_VINTR);
		CHECK_EQ(l2.vmcb.save.rip, (u64)v->at);
		CHECK_EQ(c->int_ctl & V_IRQ, V_IRQ);
	} else {
		CHECK_EQ(l2_caught(), VECTOR);
		CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)v->at);
		CHECK_EQ(c->int_ctl & V_IRQ, 0);
	}
}

/* L2 lets the interrupt in by lowering its TPR. */
static void check_cr8_opens(const void *arg)
{
	(void)arg;
	if (departs(DEPARTURE_CR8_ABORT)) {
		tap_skip("QEMU would abort");
		return;
	}
	l2_reset(l2_lower_cr8);
	l2_catch_events();
	l2.vmcb.control.int_ctl = (u32)(V_IRQ | V_INTR_MASKING | 5u << V_INTR_PRIO_SHIFT | 6);
	l2.vmcb.control.int_vector = VECTOR;
	l2.vmcb.save.rflags |= RFLAGS_IF;
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)l2_cr8_lowered);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_TPR_MASK, 0);
}

/* CR8 of L2: V_TPR with V_INTR_MASKING, the machine's own TPR as well without. */
static void check_cr8(const void *arg)
{
	u64 before = read_cr8();

	(void)arg;
	write_cr8(2);
	l2_reset(l2_set_cr8);
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING | 3;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.regs.rbx, 7);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_TPR_MASK, 7);
	CHECK_EQ(read_cr8(), 2);

	l2_reset(l2_set_cr8);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.regs.rbx, 7);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_TPR_MASK, 7);
	CHECK_EQ(read_cr8(), 7);
	write_cr8(before);
}

/* EVENTINJ and V_IRQ at once: EVENTINJ first, whose interrupt gate then masks the other. */
static void check_both(const void *arg)
{
	(void)arg;
	l2_reset(l2_nops);
	l2_catch_events();
	l2.vmcb.control.int_ctl = (u32)(V_IRQ | V_INTR_MASKING | 5u << V_INTR_PRIO_SHIFT);
	l2.vmcb.control.int_vector = VECTOR;
	l2.vmcb.control.event_inj = EVENT_V | EVENT_TYPE_INTR | 0x66;
	l2.vmcb.save.rflags |= RFLAGS_IF;
	l2_run();
	CHECK_EQ(l2_caught(), 0x66);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);
}

/* A handler without an exit, an exception or a device access, and L2 with none for a while, until a timer is due. */
u64 inject_delivered;
asm(".pushsection .text\n.balign 16\nlone_count:\n\tincq "
    "inject_delivered(%rip)\n\tiretq\n.popsection");
extern const u8 lone_count[];
L2_CODE(l2_loop, "mov $1000000, %ecx\n1:\tdec %ecx\n\tjnz 1b");

#define TIMER_VECTOR 0x62u
/* bus clocks, well within l2_loop with any shift of -icount that the tests use, and without */
#define TIMER_COUNT 1000000u
#define TIMER_TRIES 50u /* without that clock QEMU's thread for timers may come after l2_loop */

/* L2, with this event or none; whether the timer was due meanwhile. */
static bool run_over_timer(u64 event, u32 count)
{
	inject_delivered = 0;
	apic_count(TIMER_VECTOR);
	l2_reset(l2_loop); /* IF=0: the timer's interrupt stays pending */
	l2.vmcb.control.event_inj = event;
	apic_timer(TIMER_VECTOR, count);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	return apic_bit(APIC_IRR, TIMER_VECTOR);
}

static void check_once(const void *arg)
{
	u32 count = TIMER_COUNT;

	(void)arg;
	for (u32 level = 1; level < platform.depth; level++)
		count *= 8; /* as VMRUN takes longer */
	trap_gate(VECTOR, lone_count);
	for (u32 type = 0; type < 2; type++) {
		u64 event = type ? EVENT_V | EVENT_TYPE_INTR | VECTOR : 0;

		for (u32 n = 1; !run_over_timer(event, count) && n < TIMER_TRIES; n++)
			apic_timer_stop();
		CHECK(apic_bit(APIC_IRR, TIMER_VECTOR));
		asm volatile("sti\n\tnop\n\tcli");
		apic_timer_stop();
		apic_count_end(TIMER_VECTOR);
		CHECK_EQ(interrupts, 1);
		/* under us the handler's IRET may exit, for the sake of a counter: that ends it */
		if (type && departs(DEPARTURE_INJECTED_TWICE))
			CHECK(inject_delivered == 2 ||
			      (platform.under_us && inject_delivered == 1));
		else
			CHECK_EQ(inject_delivered, type);
	}
	trap_gate(VECTOR, NULL);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} others[] = {
	{"EXITINTINFO of L2's own INTn and #UD", check_own_events},
	{"L2 lowers its TPR below a pending V_IRQ", check_cr8_opens},
	{"CR8 of L2 with V_INTR_MASKING 1 and 0", check_cr8},
	{"EVENTINJ and V_IRQ at once", check_both},
	{"an injected interrupt comes once", check_once},
};

void guest_main(void)
{
	tap_plan(3 * ARRAY_SIZE(injections) + ARRAY_SIZE(virqs) + ARRAY_SIZE(others));
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(injections); i++)
		tap_run(injections[i].name, check_injection, &injections[i]);
	note("the same, with an NPF on the IDT and on the stack");
	for (u32 i = 0; i < ARRAY_SIZE(injections); i++)
		tap_run(injections[i].name, check_delivery_npf, &injections[i]);
	note("the same, with #PF on the IDT, intercepted");
	for (u32 i = 0; i < ARRAY_SIZE(injections); i++)
		tap_run(injections[i].name, check_delivery_pf, &injections[i]);
	for (u32 i = 0; i < ARRAY_SIZE(virqs); i++)
		tap_run(virqs[i].name, check_virq, &virqs[i]);
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		tap_run(others[i].name, others[i].run, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Events whose delivery is cut off: by a nested page fault that nobody but the hypervisor below may
 * notice, by one that L1 gets, by an exception that L1 intercepts; and exceptions that combine to
 * #DF and shutdown. Then NMIs, which mask each other until IRET. APM2 §8.2.9, §15.7.2, §15.20,
 * §15.21.
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
#define BAD_SELECTOR 0x58u	     /* behind the GDT */
#define NOT_THERE 0x40u		     /* a selector whose segment is not present */
#define NO_STACK (UNMAPPED + 0x1000) /* what interrupt stack 1 points to */

/* What a delivery touches, each in a page that only this test's nested tables map, at ALIAS. */
enum page { IDT, STACK, GDT, TSS, PAGES };
#define ALIAS 0xc0000000ull
#define AT(page) (ALIAS + (page)*PAGE_SIZE)

static union {
	u8 bytes[PAGES][PAGE_SIZE];
	struct idt_gate idt[256];
} pages ALIGNED(4096);
static struct vmcb l1_state, l2_state; /* for VMLOAD: TR */

#define TSS_RSP0 0x04u
#define TSS_IST1 0x24u

L2_CODE(d_nops, "nop\n\tnop\n\tnop");
L2_CODE(d_int, "int $0x81");
L2_CODE(d_int3, "int3");
L2_CODE(d_ud, "ud2");
L2_CODE(d_de, "div %ecx");
L2_CODE(d_load, "mov (%rcx), %rax");
L2_CODE(d_store, "mov %rax, (%rcx)");
L2_CODE(d_selector, "mov %ecx, %ds");
L2_CODE(d_ss, "mov %ecx, %ss");
L2_CODE(d_iret, "iretq");

extern const u8 l2_event_stubs[];

/* How an event comes about. */
enum raise { BY_CODE, BY_STEP, BY_VIRQ, BY_INTR, BY_NMI };

static const struct event {
	const char *idle;      /* name of the test in which L1 notices nothing */
	const char *npf;       /* in which L1 gets an NPF */
	const char *intercept; /* in which L1 gets the #PF of the delivery */
	const u8 *code;
	u64 rcx;
	enum raise raise;
	u32 vector;
	bool has_error;
	u64 error;
	u64 type;
	u8 length; /* of the instruction that the handler returns behind */
} events[] = {
	{"INTn, L0 fills", "INTn, NPF", "INTn, #PF", d_int, 0, BY_CODE, 0x81, false, 0,
	 EVENT_TYPE_SWINT, 2},
	{"INT3, L0 fills", "INT3, NPF", "INT3, #PF", d_int3, 0, BY_CODE, VEC_BP, false, 0,
	 EVENT_TYPE_EXCEPTION, 1},
	{"#UD, L0 fills", "#UD, NPF", "#UD, #PF", d_ud, 0, BY_CODE, VEC_UD, false, 0,
	 EVENT_TYPE_EXCEPTION, 0},
	{"#DE, L0 fills", "#DE, NPF", "#DE, #PF", d_de, 0, BY_CODE, VEC_DE, false, 0,
	 EVENT_TYPE_EXCEPTION, 0},
	{"#GP(0), L0 fills", "#GP(0), NPF", "#GP(0), #PF", d_load, 1ull << 62, BY_CODE, VEC_GP,
	 true, 0, EVENT_TYPE_EXCEPTION, 0},
	{"#GP(selector), L0 fills", "#GP(selector), NPF", "#GP(selector), #PF", d_selector,
	 BAD_SELECTOR, BY_CODE, VEC_GP, true, BAD_SELECTOR, EVENT_TYPE_EXCEPTION, 0},
	{"#PF, L0 fills", "#PF, NPF", "#PF, #PF", d_store, UNMAPPED, BY_CODE, VEC_PF, true, PFERR_W,
	 EVENT_TYPE_EXCEPTION, 0},
	{"#DB of a single step, L0 fills", "#DB of a single step, NPF", "#DB of a single step, #PF",
	 d_nops, 0, BY_STEP, VEC_DB, false, 0, EVENT_TYPE_EXCEPTION, 1},
	{"V_IRQ, L0 fills", "V_IRQ, NPF", "V_IRQ, #PF", d_nops, 0, BY_VIRQ, VECTOR, false, 0,
	 EVENT_TYPE_INTR, 0},
	{"INTR, L0 fills", "INTR, NPF", "INTR, #PF", d_nops, 0, BY_INTR, VECTOR, false, 0,
	 EVENT_TYPE_INTR, 0},
	{"NMI, L0 fills", "NMI, NPF", "NMI, #PF", d_nops, 0, BY_NMI, VEC_NMI, false, 0,
	 EVENT_TYPE_NMI, 0},
};

static volatile u32 nested_nmis;

/* An L2 with all that a delivery needs in pages of its own; npt: behind nested tables, which are
 * as if never used. */
static void ready(const u8 *code, bool npt)
{
	struct vmcb_save *s = &l2.vmcb.save;
	struct table_register gdtr;
	u8 *gdt = pages.bytes[GDT], *tss = pages.bytes[TSS];

	l2_reset(code);
	asm volatile("sgdt %0" : "=m"(gdtr));
	for (u32 i = 0; i <= gdtr.limit; i++)
		gdt[i] = ((const u8 *)gdtr.base)[i];
	for (u32 v = 0; v < ARRAY_SIZE(pages.idt); v++)
		idt_gate_set(&pages.idt[v], l2_event_stubs + v * 4ul, 3);
	*(u64 *)(tss + TSS_IST1) = NO_STACK;
	vmsave((u64)&l2_state);
	l2_state.save.tr.base = npt ? AT(TSS) : (u64)tss;
	vmload((u64)&l2_state);

	s->idtr = (struct vmcb_seg){.limit = PAGE_SIZE - 1, .base = (u64)pages.idt};
	s->gdtr.base = (u64)gdt;
	s->gdtr.limit = NOT_THERE + 7;
	*(u64 *)(gdt + NOT_THERE) = 0x00cf13000000ffffull; /* a data segment with P=0 */
	s->rsp = (u64)pages.bytes[STACK] + PAGE_SIZE - 8;
	if (!npt)
		return;
	l2_use_npt();
	paging_split(&l2.npt, ALIAS);
	for (u32 i = 0; i < PAGES; i++)
		l2.npt.pt[i] = (u64)pages.bytes[i] | PTE_P | PTE_W | PTE_U;
	s->idtr.base = AT(IDT);
	s->gdtr.base = AT(GDT);
	s->rsp = AT(STACK) + PAGE_SIZE - 8;
}

static const u64 *frame(void)
{
	return (const u64 *)&pages.bytes[STACK][l2.vmcb.save.rsp % PAGE_SIZE];
}

/* VMRUN with the event on its way. */
static u64 run(const struct event *e)
{
	struct vmcb_control *c = &l2.vmcb.control;
	struct vmcb_save *s = &l2.vmcb.save;

	l2.regs.rcx = e->rcx;
	if (e->raise == BY_STEP)
		s->rflags |= RFLAGS_TF;
	if (e->raise == BY_VIRQ) {
		c->int_ctl = (u32)(V_IRQ | V_INTR_MASKING | 5u << V_INTR_PRIO_SHIFT);
		c->int_vector = VECTOR;
	}
	if (e->raise == BY_VIRQ || e->raise == BY_INTR)
		s->rflags |= RFLAGS_IF;
	clgi();
	if (e->raise == BY_INTR)
		apic_raise(VECTOR);
	if (e->raise == BY_NMI)
		apic_raise_nmi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	c->tlb_control = TLB_CONTROL_NONE;
	return c->exit_code;
}

/* L1 as before, whatever L2 took and did not end. */
static void finish(const struct event *e)
{
	vmload((u64)&l1_state);
	if (e->raise == BY_NMI)
		nmi_unmask();
	if (e->raise == BY_INTR)
		apic_eoi();
	stgi();
}

static void check_frame(const struct event *e)
{
	const u64 *f = frame();

	if (!CHECK_EQ(l2_caught(), e->vector))
		return;
	if (e->has_error)
		CHECK_EQ(*f++, e->error);
	CHECK_EQ(f[0], (u64)e->code + e->length);
	CHECK_EQ(f[1], GDT_CODE);
	CHECK_EQ(f[3] % PAGE_SIZE, PAGE_SIZE - 8);
	CHECK_EQ(l2.vmcb.control.exit_int_info & EVENT_V, 0);
	if (e->vector == VEC_PF)
		CHECK_EQ(l2.vmcb.save.cr2, UNMAPPED);
	if (e->raise == BY_VIRQ)
		CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, 0);
}

static bool no_npt(void)
{
	if (platform.svm_edx & SVM_NP)
		return false;
	tap_skip("no nested paging");
	return true;
}

static void check_idle(const void *arg)
{
	const struct event *e = arg;

	if (no_npt())
		return;
	for (u32 ist = 0; ist < 2; ist++) {
		ready(e->code, true);
		/* with an interrupt stack the TSS is read as well */
		pages.idt[e->vector].ist = (u8)ist;
		*(u64 *)(pages.bytes[TSS] + TSS_IST1) = AT(STACK) + PAGE_SIZE;
		CHECK_EQ(run(e), VMEXIT_VMMCALL);
		check_frame(e);
		finish(e);
	}
}

/* What EXITINTINFO must say. */
static u64 info_of(const struct event *e)
{
	return EVENT_V | e->type | e->vector | (e->has_error ? EVENT_EV : 0) |
	       e->error << EVENT_ERROR_SHIFT;
}

/* As the platform says it. */
static void check_info(const struct event *e)
{
	u64 got = l2.vmcb.control.exit_int_info, want = info_of(e);

	if (!(got & EVENT_EV))
		got &= BITS(31, 0); /* an error code that is none */
	if (e->code == d_int3 && departs(DEPARTURE_INT3_TYPE))
		want = (want & ~EVENT_TYPE) | EVENT_TYPE_SWINT;
	if (e->type != EVENT_TYPE_SWINT && e->raise >= BY_VIRQ &&
	    departs(DEPARTURE_EXITINTINFO_TYPE))
		want = (want & ~EVENT_TYPE) | EVENT_TYPE_EXCEPTION;
	CHECK_EQ(got, want);
	if (e->raise == BY_VIRQ && !departs(DEPARTURE_VIRQ_KEPT))
		CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, 0);
}

static void check_npf(const void *arg)
{
	const struct event *e = arg;

	if (no_npt())
		return;
	for (u32 page = 0; page < PAGES; page++) {
		struct vmcb_control *c = &l2.vmcb.control;
		u64 rsp;

		ready(e->code, true);
		pages.idt[e->vector].ist = page == TSS;
		*(u64 *)(pages.bytes[TSS] + TSS_IST1) = AT(STACK) + PAGE_SIZE;
		rsp = l2.vmcb.save.rsp;
		l2.npt.pt[page] &= ~PTE_P;
		if (!CHECK_EQ(run(e), VMEXIT_NPF))
			note("page %u", page);
		CHECK_EQ(c->exit_info_1, NPF_FINAL | PFERR_U | (page == STACK ? PFERR_W : 0));
		CHECK_EQ(ALIGN_DOWN(c->exit_info_2, PAGE_SIZE), AT(page));
		check_info(e);
		CHECK_EQ(l2.vmcb.save.rip, (u64)e->code + (e->raise == BY_STEP ? 1 : 0));
		CHECK_EQ(l2.vmcb.save.rsp, rsp);

		/* What a hypervisor does: mend it and inject the event, or let INTn and INT3 execute
		 * again, which needs no nRIP. */
		l2.npt.pt[page] |= PTE_P;
		l2_flush();
		if (!e->length || e->raise == BY_STEP)
			c->event_inj = info_of(e);
		c->int_ctl &= ~(u32)V_IRQ;
		svm_vmrun(&l2.vmcb, &l2.regs);
		check_frame(e);
		finish(e);
	}
}

static void check_intercepted(const void *arg)
{
	const struct event *e = arg;

	for (u32 npt = 0; npt < (platform.svm_edx & SVM_NP ? 2u : 1u); npt++) {
		ready(e->code, npt);
		l2.vmcb.save.idtr.base = NO_STACK;
		l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
		l2.vmcb.save.cr2 = 0x1111;
		if (e->vector == VEC_PF) { /* the first one would exit by itself */
			vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT_EXCEPTION(VEC_PF));
			l2_intercept(INTERCEPT_EXCEPTION(VEC_DF));
			run(e);
			finish(e);
			if (departs(DEPARTURE_DF_INTERCEPT))
				continue;
			CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_EXCEPTION(VEC_DF));
			CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
			continue;
		}
		CHECK_EQ(run(e), VMEXIT_EXCEPTION(VEC_PF));
		CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
		CHECK_EQ(l2.vmcb.control.exit_info_2,
			 NO_STACK + e->vector * sizeof(struct idt_gate));
		if (e->vector != VEC_GP || !departs(DEPARTURE_GP_CR2))
			CHECK_EQ(l2.vmcb.save.cr2, 0x1111);
		check_info(e);
		finish(e);
	}
}

/* ---- exceptions in a row ---- */

/* What is wrong with the handler of a vector. */
enum fault {
	GOOD,
	NOT_PRESENT, /* #NP */
	NO_GATE,     /* #GP */
	BAD_STACK,   /* #PF */
	NO_TSS,	     /* #TS: an interrupt stack that is not in the TSS */
};

#define EXT 1u
#define IDT_ERROR(vector) ((vector)*8u + 2)

static const struct combination {
	const char *name;
	const u8 *code;
	u64 rcx;
	enum raise raise;
	struct {
		u32 vector;
		enum fault fault;
	} bad[3];
	u64 intercepts; /* of exceptions, bit n */
	u64 code_want;	/* exit code; VMMCALL: caught by the handler of ... */
	u32 vector;
	u64 error; /* of that handler, or EXITINFO1 */
	u64 info;  /* EXITINTINFO, if the exit is an intercepted exception */
} combinations[] = {
	{"#GP then #NP are #DF",
	 d_load,
	 1ull << 62,
	 BY_CODE,
	 {{VEC_GP, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_DF,
	 0,
	 0},
	{"#DE then #GP are #DF",
	 d_de,
	 0,
	 BY_CODE,
	 {{VEC_DE, NO_GATE}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_DF,
	 0,
	 0},
	{"#PF then #NP are #DF",
	 d_load,
	 UNMAPPED,
	 BY_CODE,
	 {{VEC_PF, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_DF,
	 0,
	 0},
	{"#PF then #PF are #DF",
	 d_load,
	 UNMAPPED,
	 BY_CODE,
	 {{VEC_PF, BAD_STACK}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_DF,
	 0,
	 0},
	{"#GP then #PF are a #PF",
	 d_load,
	 1ull << 62,
	 BY_CODE,
	 {{VEC_GP, BAD_STACK}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_PF,
	 PFERR_W,
	 0},
	{"#UD then #NP are a #NP",
	 d_ud,
	 0,
	 BY_CODE,
	 {{VEC_UD, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_NP,
	 IDT_ERROR(VEC_UD) | EXT,
	 0},
	{"INTn then #NP are a #NP",
	 d_int,
	 0,
	 BY_CODE,
	 {{0x81, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_NP,
	 IDT_ERROR(0x81),
	 0},
	{"V_IRQ then #NP are a #NP",
	 d_nops,
	 0,
	 BY_VIRQ,
	 {{VECTOR, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_NP,
	 IDT_ERROR(VECTOR) | EXT,
	 0},
	{"NMI then #GP are a #GP",
	 d_nops,
	 0,
	 BY_NMI,
	 {{VEC_NMI, NO_GATE}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_GP,
	 IDT_ERROR(VEC_NMI) | EXT,
	 0},
	{"#UD, #NP and #NP are #DF",
	 d_ud,
	 0,
	 BY_CODE,
	 {{VEC_UD, NOT_PRESENT}, {VEC_NP, NOT_PRESENT}},
	 0,
	 VMEXIT_VMMCALL,
	 VEC_DF,
	 0,
	 0},
	{"#GP, #NP and #NP are shutdown",
	 d_load,
	 1ull << 62,
	 BY_CODE,
	 {{VEC_GP, NOT_PRESENT}, {VEC_DF, NOT_PRESENT}},
	 0,
	 VMEXIT_SHUTDOWN,
	 0,
	 0,
	 0},
	{"#PF, #PF and #PF are shutdown",
	 d_load,
	 UNMAPPED,
	 BY_CODE,
	 {{VEC_PF, BAD_STACK}, {VEC_DF, BAD_STACK}},
	 0,
	 VMEXIT_SHUTDOWN,
	 0,
	 0,
	 0},
	{"#NP intercepted while #GP is delivered",
	 d_load,
	 1ull << 62,
	 BY_CODE,
	 {{VEC_GP, NOT_PRESENT}},
	 BIT(VEC_NP) | BIT(VEC_DF),
	 VMEXIT_EXCEPTION(VEC_NP),
	 0,
	 IDT_ERROR(VEC_GP) | EXT,
	 EVENT_V | EVENT_TYPE_EXCEPTION | EVENT_EV | VEC_GP},
	{"#PF intercepted while #GP is delivered",
	 d_load,
	 1ull << 62,
	 BY_CODE,
	 {{VEC_GP, BAD_STACK}},
	 BIT(VEC_PF),
	 VMEXIT_EXCEPTION(VEC_PF),
	 0,
	 PFERR_W,
	 EVENT_V | EVENT_TYPE_EXCEPTION | EVENT_EV | VEC_GP},
	{"#SS intercepted",
	 d_ss,
	 NOT_THERE,
	 BY_CODE,
	 {{0, GOOD}},
	 BIT(VEC_SS),
	 VMEXIT_EXCEPTION(VEC_SS),
	 0,
	 NOT_THERE,
	 0},
	{"#TS intercepted while #UD is delivered",
	 d_ud,
	 0,
	 BY_CODE,
	 {{VEC_UD, NO_TSS}},
	 BIT(VEC_TS),
	 VMEXIT_EXCEPTION(VEC_TS),
	 0,
	 GDT_TSS,
	 EVENT_V | EVENT_TYPE_EXCEPTION | VEC_UD},
	{"#DF intercepted",
	 d_load,
	 UNMAPPED,
	 BY_CODE,
	 {{VEC_PF, NOT_PRESENT}},
	 BIT(VEC_DF),
	 VMEXIT_EXCEPTION(VEC_DF),
	 0,
	 0,
	 0},
};

static void spoil(const struct combination *k)
{
	for (u32 i = 0; i < ARRAY_SIZE(k->bad); i++) {
		struct idt_gate *gate = &pages.idt[k->bad[i].vector];

		switch (k->bad[i].fault) {
		case NOT_PRESENT:
			gate->type &= (u8)~0x80;
			break;
		case NO_GATE:
			gate->type = 0x80 | 0x60 | 0x2; /* an LDT */
			break;
		case BAD_STACK:
			gate->ist = 1;
			break;
		case NO_TSS:
			gate->ist = 1;
			l2_state.save.tr.limit = 0x10;
			vmload((u64)&l2_state);
			break;
		case GOOD:
			break;
		}
	}
}

static bool combines(const struct combination *k)
{
	return k->vector == VEC_DF || k->code_want == VMEXIT_SHUTDOWN ||
	       k->code_want == VMEXIT_EXCEPTION(VEC_DF);
}

static u64 error_of(const struct combination *k)
{
	return k->error & EXT && departs(DEPARTURE_EXT_BIT) ? k->error & ~(u64)EXT : k->error;
}

static void check_combination(const void *arg)
{
	const struct combination *k = arg;
	const struct event e = {.code = k->code, .rcx = k->rcx, .raise = k->raise};

	for (u32 npt = 0; npt < (platform.svm_edx & SVM_NP ? 2u : 1u); npt++) {
		u64 code;

		ready(k->code, npt);
		spoil(k);
		for (u32 v = 0; v < 32; v++)
			if (k->intercepts >> v & 1)
				l2_intercept(INTERCEPT_EXCEPTION(v));
		code = run(&e);
		finish(&e);
		/* the hypervisor below has injected the first exception again, after a nested page fault */
		if (npt && platform.under_us && combines(k) && departs(DEPARTURE_INJECTED_COMBINE))
			continue;
		if (k->code_want == VMEXIT_EXCEPTION(VEC_DF) && departs(DEPARTURE_DF_INTERCEPT))
			continue;
		if (!CHECK_EQ(code, k->code_want))
			note("%s nested paging; EXITINTINFO 0x%lx", npt ? "with" : "without",
			     l2.vmcb.control.exit_int_info);
		if (code == VMEXIT_VMMCALL) {
			CHECK_EQ(l2_caught(), k->vector);
			CHECK_EQ(frame()[0], error_of(k));
		} else if (code != VMEXIT_SHUTDOWN) {
			CHECK_EQ(l2.vmcb.control.exit_info_1, error_of(k));
			if (k->info)
				CHECK_EQ(l2.vmcb.control.exit_int_info, k->info);
		}
	}
	/* The machine goes on. */
	CHECK_EQ(l2_run_from(d_nops), VMEXIT_VMMCALL);
}

/* ---- NMIs mask each other ---- */

static void on_nmi(struct trap_frame *f)
{
	static bool inside;

	(void)f;
	nested_nmis += inside;
	inside = true;
	if (!nmis++) {
		apic_raise_nmi();
	}
	inside = false;
}

/* The second NMI, sent in the handler of the first, waits for its IRET. held: the first one waits
 * for STGI. */
static void check_nmi_l1(const void *arg)
{
	bool held = arg != NULL;

	nmis = nested_nmis = 0;
	trap_hook(VEC_NMI, on_nmi);
	if (held)
		clgi();
	apic_raise_nmi();
	if (held) {
		CHECK_EQ(nmis, 0);
		stgi();
	}
	apic_settle();
	CHECK_EQ(nmis, 2);
	CHECK_EQ(nested_nmis, 0);
	trap_hook(VEC_NMI, NULL);
}

static void check_nmi_l2(const void *arg)
{
	struct vmcb_save *s = &l2.vmcb.save;

	(void)arg;
	ready(d_nops, false);
	clgi();
	apic_raise_nmi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2_caught(), VEC_NMI);
	/* L2 is in its handler: the next one waits, across #VMEXIT and VMRUN */
	apic_raise_nmi();
	s->rip = (u64)d_nops;
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2_caught(), VEC_NONE);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
	/* ... for L2's IRET, and is taken before what it returns to */
	s->rip = (u64)d_iret;
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2_caught(), VEC_NMI);
	CHECK_EQ(frame()[0], (u64)d_nops);
	nmi_unmask();
	vmload((u64)&l1_state);
	stgi();
}

/* One that is injected masks none (APM2 §15.20). */
static void check_nmi_injected(const void *arg)
{
	(void)arg;
	ready(d_nops, false);
	clgi();
	apic_raise_nmi();
	l2.vmcb.control.event_inj = EVENT_V | EVENT_TYPE_NMI | VEC_NMI;
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2_caught(), VEC_NMI);
	if (!departs(DEPARTURE_NMI_AFTER_INJECTION))
		CHECK_EQ(frame()[0], (u64)l2_event_stubs + VEC_NMI * 4ul);
	nmi_unmask();
	vmload((u64)&l1_state);
	nmis = 1;
	trap_hook(VEC_NMI, on_nmi); /* where it is late */
	stgi();
	apic_settle();
	trap_hook(VEC_NMI, NULL);
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} nmi_cases[] = {
	{"NMIs in L1 wait for IRET", check_nmi_l1, NULL},
	{"NMIs in L1 wait for IRET, the first held by GIF=0", check_nmi_l1, "held"},
	{"NMIs in L2 wait for L2's IRET", check_nmi_l2, NULL},
	{"an injected NMI masks none", check_nmi_injected, NULL},
};

void guest_main(void)
{
	tap_plan(3 * ARRAY_SIZE(events) + ARRAY_SIZE(combinations) + ARRAY_SIZE(nmi_cases));
	if (!svm_start())
		return;
	vmsave((u64)&l1_state);
	for (u32 i = 0; i < ARRAY_SIZE(events); i++)
		tap_run(events[i].idle, check_idle, &events[i]);
	for (u32 i = 0; i < ARRAY_SIZE(events); i++)
		tap_run(events[i].npf, check_npf, &events[i]);
	for (u32 i = 0; i < ARRAY_SIZE(events); i++)
		tap_run(events[i].intercept, check_intercepted, &events[i]);
	for (u32 i = 0; i < ARRAY_SIZE(combinations); i++)
		tap_run(combinations[i].name, check_combination, &combinations[i]);
	for (u32 i = 0; i < ARRAY_SIZE(nmi_cases); i++)
		tap_run(nmi_cases[i].name, nmi_cases[i].run, nmi_cases[i].arg);
}

/* SPDX-License-Identifier: MIT */
/*
 * VMCB clean bits (APM2 §15.15): what changes with its bit clear is taken; with its bit set the CPU
 * may use what it knows, but only of the VMCB at that address; and some fields have no bit and are
 * always taken. One L2 shows a field of each group.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

#define ALIAS 0xc0000000ull
#define ALL_CLEAN ((u32)BITS(12, 0))
#define PORT 0x80u

L2_CODE(show, "mov %cr8, %rbx\n\t"
	      "mov %cr4, %rcx\n\t"
	      "mov %dr7, %rdx\n\t"
	      "mov %ds, %esi\n\t"
	      "mov %cr2, %rdi\n\t"
	      "sidt (%r8)\n\t"
	      "mov (%rbp), %r9\n\t"
	      "out %al, $0x80\n\t"
	      "pause");
L2_CODE(nops, "nop\n\tnop");

static struct paging other_npt;
static struct vmcb other_vmcb;
static u8 no_ports[IOPM_BYTES] ALIGNED(4096);
static u64 page_a[PAGE_SIZE / 8] ALIGNED(4096), page_b[PAGE_SIZE / 8] ALIGNED(4096);
static struct table_register idtr;

/* A field of each group, with two values that L2 shows. */
enum group {
	G_INTERCEPTS,
	G_IOPM,
	G_TPR,
	G_NP,
	G_CR,
	G_DR,
	G_DT,
	G_SEG,
	G_CR2,
	GROUPS,
};

static const struct {
	const char *name;
	u64 clean;
} groups[GROUPS] = {
	[G_INTERCEPTS] = {"intercepts", CLEAN_INTERCEPTS},
	[G_IOPM] = {"IOPM_BASE_PA", CLEAN_IOPM},
	[G_TPR] = {"V_TPR", CLEAN_TPR},
	[G_NP] = {"nCR3", CLEAN_NP},
	[G_CR] = {"CR4", CLEAN_CR},
	[G_DR] = {"DR7", CLEAN_DR},
	[G_DT] = {"IDTR", CLEAN_DT},
	[G_SEG] = {"DS", CLEAN_SEG},
	[G_CR2] = {"CR2", CLEAN_CR2},
};

static bool group_exists(enum group g)
{
	return g != G_NP || platform.svm_edx & SVM_NP;
}

static void set(struct vmcb *v, enum group g, bool second)
{
	struct vmcb_control *c = &v->control;

	switch (g) {
	case G_INTERCEPTS:
		if (second)
			vmcb_set_intercept(c, INTERCEPT(PAUSE));
		else
			vmcb_clr_intercept(c, INTERCEPT(PAUSE));
		break;
	case G_IOPM:
		c->iopm_base_pa = second ? (u64)l2.iopm : (u64)no_ports;
		break;
	case G_TPR:
		c->int_ctl = (u32)V_INTR_MASKING | (second ? 7 : 3);
		break;
	case G_NP:
		c->nested_cr3 = paging_root(second ? &other_npt : &l2.npt);
		break;
	case G_CR:
		v->save.cr4 = second ? v->save.cr4 | CR4_TSD : v->save.cr4 & ~CR4_TSD;
		break;
	case G_DR:
		v->save.dr7 = DR7_RESET | (second ? BIT(8) : 0);
		break;
	case G_DT:
		v->save.idtr.limit = second ? 0x7ff : 0xfff;
		break;
	case G_SEG:
		v->save.ds.selector = second ? GDT_USER_DATA : GDT_DATA;
		break;
	case G_CR2:
		v->save.cr2 = second ? 0x2000 : 0x1000;
		break;
	case GROUPS:
		break;
	}
}

/* Whether L2 has shown the second value; -1: neither. */
static int shown(const struct vmcb *v, enum group g)
{
	u64 got, first, second;
	bool port = v->control.exit_code == VMEXIT_IOIO;

	switch (g) {
	case G_INTERCEPTS:
		got = v->control.exit_code, first = VMEXIT_VMMCALL, second = VMEXIT_PAUSE;
		if (port)
			return -1; /* L2 did not come so far */
		break;
	case G_IOPM:
		return port;
	case G_TPR:
		got = l2.regs.rbx, first = 3, second = 7;
		break;
	case G_NP:
		got = l2.regs.r9, first = 0xaaaa, second = 0xbbbb;
		break;
	case G_CR:
		got = l2.regs.rcx & CR4_TSD, first = 0, second = CR4_TSD;
		break;
	case G_DR:
		got = l2.regs.rdx, first = DR7_RESET, second = DR7_RESET | BIT(8);
		break;
	case G_DT:
		got = idtr.limit, first = 0xfff, second = 0x7ff;
		break;
	case G_SEG:
		got = l2.regs.rsi & 0xffff, first = GDT_DATA, second = GDT_USER_DATA;
		break;
	case G_CR2:
		got = l2.regs.rdi, first = 0x1000, second = 0x2000;
		break;
	default:
		return -1;
	}
	return got == second ? 1 : got == first ? 0 : -1;
}

static void clean(struct vmcb *v, u32 bits)
{
	v->control.clean = bits;
}

static void begin(void)
{
	l2_reset(show);
	l2_intercept(INTERCEPT(IOIO));
	iopm_set(PORT);
	page_a[0] = 0xaaaa;
	page_b[0] = 0xbbbb;
	if (platform.svm_edx & SVM_NP) {
		l2_use_npt();
		paging_identity(&other_npt, PTE_ALL);
		*paging_split(&l2.npt, ALIAS) = (u64)page_a | PTE_ALL;
		*paging_split(&other_npt, ALIAS) = (u64)page_b | PTE_ALL;
	}
	for (u32 g = 0; g < GROUPS; g++)
		set(&l2.vmcb, g, false);
	clean(&l2.vmcb, 0);
}

static void run(struct vmcb *v)
{
	v->save.rip = (u64)show;
	l2.regs.r8 = (u64)&idtr;
	l2.regs.rbp = platform.svm_edx & SVM_NP ? ALIAS : (u64)page_a;
	v->control.tlb_control = platform.svm_edx & SVM_FLUSH_BY_ASID ? TLB_CONTROL_FLUSH_ASID
								      : TLB_CONTROL_FLUSH_ALL;
	clgi();
	svm_vmrun(v, &l2.regs);
	stgi();
}

/* All groups but `g` show their first value. */
static void check_shown(const struct vmcb *v, enum group g, int want)
{
	for (u32 other = 0; other < GROUPS; other++) {
		int expect = other == g ? want : 0;

		if (!group_exists(other) || (other == G_INTERCEPTS && g == G_IOPM && want))
			continue;
		if (!tap_check(shown(v, other) == expect, groups[other].name))
			note("shows %d instead of %d", shown(v, other), expect);
	}
}

static void check_group(const void *arg)
{
	enum group g = (enum group)(u64)arg;
	u32 others = ALL_CLEAN & ~(u32)groups[g].clean;

	if (!group_exists(g)) {
		tap_skip("no nested paging");
		return;
	}
	begin();
	run(&l2.vmcb);
	check_shown(&l2.vmcb, GROUPS, 0);
	for (u32 i = 0; i < 4; i++) {
		/* #VMEXIT has written some of them */
		for (u32 all = 0; all < GROUPS; all++)
			set(&l2.vmcb, all, false);
		set(&l2.vmcb, g, !(i % 2));
		clean(&l2.vmcb, others);
		run(&l2.vmcb);
		check_shown(&l2.vmcb, g, !(i % 2));
	}
	/* With its bit set: the old or the new one. */
	set(&l2.vmcb, g, true);
	clean(&l2.vmcb, ALL_CLEAN);
	run(&l2.vmcb);
	CHECK(shown(&l2.vmcb, g) >= 0);
	/* Another VMCB is not known, whatever its clean bits say. */
	for (u32 i = 0; i < 4; i++) {
		struct vmcb *v = i % 2 ? &l2.vmcb : &other_vmcb;

		begin();
		if (i == 0) {
			run(&l2.vmcb);
			other_vmcb = l2.vmcb;
		}
		for (u32 all = 0; all < GROUPS; all++)
			set(v, all, false);
		set(v, g, v == &other_vmcb);
		/* the first one was changed since: its bits are clear, as software must */
		clean(v, v == &other_vmcb && !i ? ALL_CLEAN : 0);
		run(v);
		check_shown(v, g, v == &other_vmcb);
	}
}

/* RIP, RSP, RAX, RFLAGS, EVENTINJ, the shadow and TLB_CONTROL have no bit. */
L2_CODE(show_registers, "pushfq\n\tpop %rcx\n\tmov %rsp, %rdx\n\tmov %rax, %rbx");

static void check_never_cached(const void *arg)
{
	struct vmcb_save *s = &l2.vmcb.save;

	(void)arg;
	begin();
	run(&l2.vmcb);
	clean(&l2.vmcb, ALL_CLEAN);
	s->rip = (u64)show_registers;
	s->rsp = (u64)l2.stack + 0x800;
	s->rax = 0x1234567;
	s->rflags = RFLAGS_FIXED | RFLAGS_CF | RFLAGS_ZF;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(s->rip, (u64)show_registers_end);
	CHECK_EQ(l2.regs.rbx, 0x1234567);
	CHECK_EQ(l2.regs.rcx, RFLAGS_FIXED | RFLAGS_CF | RFLAGS_ZF);
	CHECK_EQ(l2.regs.rdx, (u64)l2.stack + 0x800);

	/* EVENTINJ, and once only */
	l2_reset(nops);
	l2_catch_events();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2_caught(), VEC_NONE);
	for (u32 i = 0; i < 2; i++) {
		clean(&l2.vmcb, ALL_CLEAN);
		s->rip = (u64)nops;
		l2.vmcb.control.event_inj = i ? 0 : EVENT_V | EVENT_TYPE_INTR | 0x66;
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2_caught(), i ? VEC_NONE : 0x66);
	}

	/* the interrupt shadow, seen by where a virtual interrupt is taken */
	for (u32 shadow = 0; shadow < 2; shadow++) {
		clean(&l2.vmcb, ALL_CLEAN & ~(u32)CLEAN_TPR);
		s->rip = (u64)nops;
		s->rflags = RFLAGS_FIXED | RFLAGS_IF;
		l2.vmcb.control.int_ctl = (u32)(V_IRQ | V_INTR_MASKING | V_IGN_TPR);
		l2.vmcb.control.int_vector = 0x45;
		l2.vmcb.control.int_state = shadow;
		l2_run();
		CHECK_EQ(l2_caught(), 0x45);
		CHECK_EQ(*(const u64 *)s->rsp, (u64)nops + shadow);
	}
}

void guest_main(void)
{
	tap_plan(GROUPS + 1);
	if (!svm_start())
		return;
	note("VmcbClean: %s", platform.svm_edx & SVM_VMCB_CLEAN ? "yes" : "no");
	for (u64 g = 0; g < GROUPS; g++)
		tap_run(groups[g].name, check_group, (const void *)g);
	tap_run("fields without a clean bit", check_never_cached, NULL);
}

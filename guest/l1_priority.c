/* SPDX-License-Identifier: MIT */
/*
 * Exception or intercept, where an instruction of L2 deserves both: APM2 table 15-7. Each row is an
 * instruction that would raise an exception if it were not intercepted.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define UNMAPPED (1ull << 40)
#define CPUID_1_ECX_XSAVE BIT(26)

L2_CODE(p_pushf, "pushfq");
L2_CODE(p_popf, "popfq");
L2_CODE(p_iret, "iretq");
L2_CODE(p_int, "int $0x81");
L2_CODE(p_rsm, "rsm");
L2_CODE(p_vmmcall, "");
L2_CODE(p_lidt, "lidt (%rdi)");
L2_CODE(p_sgdt, "sgdt (%rdi)");
L2_CODE(p_lldt, "lldt %cx");
L2_CODE(p_ltr, "ltr %cx");
L2_CODE(p_rdtsc, "rdtsc");
L2_CODE(p_rdpmc, "rdpmc");
L2_CODE(p_hlt, "hlt");
L2_CODE(p_invlpg, "invlpg (%rdi)");
L2_CODE(p_cr3, "mov %rax, %cr3");
L2_CODE(p_cr0, "mov %rax, %cr0");
L2_CODE(p_cr8, "mov %rcx, %cr8");
L2_CODE(p_dr4, "mov %dr4, %rax");
L2_CODE(p_dr7, "mov %rcx, %dr7");
L2_CODE(p_invd, "invd");
L2_CODE(p_wbinvd, "wbinvd");
L2_CODE(p_monitor, "monitor");
L2_CODE(p_mwait, "mwait");
L2_CODE(p_cpuid, "cpuid");
L2_CODE(p_pause, "pause");
L2_CODE(p_rdmsr, "rdmsr");
L2_CODE(p_wrmsr, "wrmsr");
L2_CODE(p_in, "in $0x80, %al");
L2_CODE(p_outs, "outsb");

enum { USER = 1, NO_STACK = 2, TSD = 4, DE = 8, MAPS = 16 };

static const struct row {
	const char *name;
	const u8 *code;
	u32 bit; /* of the intercept */
	u32 flags;
	u64 rcx;
	u32 vector;    /* of the exception; VEC_NONE: the intercept comes first */
	int departure; /* 1 + enum departure, or 0 */
} rows[] = {
	/* before all exceptions */
	{"PUSHF before its stack", p_pushf, INTERCEPT(PUSHF), NO_STACK, 0, VEC_NONE, 0},
	{"POPF before its stack", p_popf, INTERCEPT(POPF), NO_STACK, 0, VEC_NONE, 0},
	{"IRET before its stack", p_iret, INTERCEPT(IRET), NO_STACK, 0, VEC_NONE, 0},
	{"INTn before its gate's privilege", p_int, INTERCEPT(SWINT), USER, 0, VEC_NONE, 0},
	{"RSM before #UD", p_rsm, INTERCEPT(RSM), 0, 0, VEC_NONE, 0},
	{"VMMCALL at CPL 3", p_vmmcall, INTERCEPT(VMMCALL), USER, 0, VEC_NONE, 0},
	/* before memory, behind the rest */
	{"LIDT before its memory", p_lidt, INTERCEPT(IDTR_WRITE), 0, 0, VEC_NONE, 0},
	{"SGDT before its memory", p_sgdt, INTERCEPT(GDTR_READ), 0, 0, VEC_NONE, 0},
	{"LLDT before its selector", p_lldt, INTERCEPT(LDTR_WRITE), 0, 0x58, VEC_NONE, 0},
	{"LTR before its selector", p_ltr, INTERCEPT(TR_WRITE), 0, 0x58, VEC_NONE, 0},
	{"LIDT after the privilege", p_lidt, INTERCEPT(IDTR_WRITE), USER, 0, VEC_GP, 0},
	{"LLDT after the privilege", p_lldt, INTERCEPT(LDTR_WRITE), USER, 0, VEC_GP, 0},
	{"MOV CR0 after the privilege", p_cr0, INTERCEPT_CR_WRITE(0), USER, 0, VEC_GP, 0},
	{"MOV CR3 after the privilege", p_cr3, INTERCEPT_CR_WRITE(3), USER, 0, VEC_GP, 0},
	/* behind all exceptions */
	{"RDTSC after CR4.TSD", p_rdtsc, INTERCEPT(RDTSC), USER | TSD, 0, VEC_GP, 0},
	{"RDPMC after CR4.PCE", p_rdpmc, INTERCEPT(RDPMC), USER, 0, VEC_GP, 0},
	{"HLT after the privilege", p_hlt, INTERCEPT(HLT), USER, 0, VEC_GP, 0},
	{"INVLPG after the privilege", p_invlpg, INTERCEPT(INVLPG), USER, 0, VEC_GP, 0},
	{"MOV CR8 after its value", p_cr8, INTERCEPT_CR_WRITE(8), 0, 0x10, VEC_GP,
	 DEPARTURE_CR8_VALUE + 1},
	{"MOV DR4 after CR4.DE", p_dr4, INTERCEPT_DR_READ(4), DE, 0, VEC_UD,
	 DEPARTURE_DR_PRIORITY + 1},
	{"MOV DR7 after its value", p_dr7, INTERCEPT_DR_WRITE(7), 0, BIT(40), VEC_GP,
	 DEPARTURE_DR_PRIORITY + 1},
	{"INVD after the privilege", p_invd, INTERCEPT(INVD), USER, 0, VEC_GP,
	 DEPARTURE_INVD_CPL + 1},
	{"WBINVD after the privilege", p_wbinvd, INTERCEPT(WBINVD), USER, 0, VEC_GP,
	 DEPARTURE_INVD_CPL + 1},
	{"MONITOR after ECX", p_monitor, INTERCEPT(MONITOR), 0, 1, VEC_GP, 0},
	{"MWAIT after ECX", p_mwait, INTERCEPT(MWAIT), 0, 2, VEC_GP, 0},
	/* no exceptions at all */
	{"CPUID at CPL 3", p_cpuid, INTERCEPT(CPUID), USER, 0, VEC_NONE, 0},
	{"PAUSE at CPL 3", p_pause, INTERCEPT(PAUSE), USER, 0, VEC_NONE, 0},
	/* permission maps: behind the common exceptions, before the particular ones */
	{"RDMSR after the privilege", p_rdmsr, INTERCEPT(MSR), USER, MSR_LSTAR, VEC_GP, 0},
	{"WRMSR after the privilege", p_wrmsr, INTERCEPT(MSR), USER, MSR_LSTAR, VEC_GP, 0},
	{"RDMSR before what the MSR says", p_rdmsr, INTERCEPT(MSR), 0, 0x4000, VEC_NONE, 0},
	{"WRMSR before what the MSR says", p_wrmsr, INTERCEPT(MSR), MAPS, MSR_VM_HSAVE_PA, VEC_NONE,
	 0},
	{"IN after IOPL", p_in, INTERCEPT(IOIO), USER | MAPS, 0, VEC_GP, 0},
	{"OUTS before its memory", p_outs, INTERCEPT(IOIO), MAPS, 0, VEC_NONE, 0},
};

static void check_row(const void *arg)
{
	const struct row *r = arg;
	struct vmcb_save *s = &l2.vmcb.save;
	bool mwait = r->code == p_monitor || r->code == p_mwait;

	if (mwait && !(cpuid(CPUID_FEATURES).ecx & CPUID_1_ECX_MONITOR)) {
		tap_skip("no MONITOR in CPUID");
		return;
	}
	if (r->departure && departs((enum departure)(r->departure - 1))) {
		tap_skip("QEMU TCG departs");
		return;
	}
	l2_reset(r->code);
	l2_intercept(r->bit);
	for (u32 v = 0; v < 32; v++)
		l2_intercept(INTERCEPT_EXCEPTION(v));
	l2.regs.rcx = r->rcx;
	l2.regs.rdi = l2.regs.rsi = UNMAPPED;
	l2.regs.rdx = 0x80;
	s->rax = 1;
	if (r->flags & USER)
		l2_user();
	if (r->flags & NO_STACK)
		s->rsp = UNMAPPED;
	if (r->flags & TSD)
		s->cr4 |= CR4_TSD;
	if (r->flags & DE)
		s->cr4 |= CR4_DE;
	if (r->flags & MAPS) {
		iopm_set(0x80);
		msrpm_set(MSR_VM_HSAVE_PA, true, true);
	}
	if (r->vector == VEC_NONE)
		CHECK_EQ(l2_run(), r->bit < 64 ? r->bit : r->bit - 96 + 0x60);
	else
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(r->vector));
	CHECK_EQ(s->rip, (u64)r->code);

	/* Without the intercept there is an exception indeed, but for those that have none. */
	if (r->vector != VEC_NONE) {
		s->rip = (u64)r->code;
		vmcb_clr_intercept(&l2.vmcb.control, r->bit);
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(r->vector));
	}
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(rows));
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		tap_run(rows[i].name, check_row, &rows[i]);
}

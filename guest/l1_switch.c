/* SPDX-License-Identifier: MIT */
/*
 * Around VMRUN and #VMEXIT: interrupt shadows in and out, RF, what L1 and L2 share because no
 * switch moves it, what of L2's stays behind, and which of two pending interrupts comes first.
 * APM2 §15.5, §15.6, §15.21.
 */
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define VECTOR 0x45u
#define PHYSICAL 0x51u

L2_CODE(s_exit, "");
L2_CODE(s_nops, "nop\n\tnop");
L2_CODE(s_sti, "sti\ns_after_sti:\n\tcpuid\ns_after_cpuid:\n\tnop");
L2_CODE(s_mov_ss, "mov %ss, %ecx\n\tmov %ecx, %ss\ns_after_mov_ss:\n\tcpuid");
L2_CODE(s_cpuid, "nop\n\tcpuid");
L2_CODE(s_cr2, "mov %rbx, %cr2");
L2_CODE(s_dr, "mov %dr0, %rcx\n\tmov %rbx, %dr0\n\tmov %rbx, %dr3");
L2_CODE(s_hlt, "hlt");
L2_CODE(s_jump, "jmp 2f\n2:\tnop");
extern const u8 s_after_sti[], s_after_cpuid[], s_after_mov_ss[];

/* ---- interrupt shadows ---- */

static void check_shadow_out(const void *arg)
{
	static const struct {
		const u8 *code, *at;
		u64 shadow;
	} exits[] = {
		{s_sti, s_after_sti, INTERRUPT_SHADOW},
		{s_mov_ss, s_after_mov_ss, INTERRUPT_SHADOW},
		{s_cpuid, s_cpuid + 1, 0},
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(exits); i++) {
		l2_reset(exits[i].code);
		l2_intercept(INTERCEPT(CPUID));
		/* and all other bits come back as 0 */
		l2.vmcb.control.int_state = i == 2 ? INTERRUPT_SHADOW : 0;
		CHECK_EQ(l2_run(), VMEXIT_CPUID);
		CHECK_EQ(l2.vmcb.save.rip, (u64)exits[i].at);
		CHECK_EQ(l2.vmcb.control.int_state, exits[i].shadow);
	}
}

static void virq(const u8 *code, bool interrupts_on)
{
	l2_reset(code);
	l2_catch_events();
	l2.vmcb.control.int_ctl = (u32)(V_IRQ | V_INTR_MASKING | 5u << V_INTR_PRIO_SHIFT);
	l2.vmcb.control.int_vector = VECTOR;
	l2.vmcb.save.rflags |= interrupts_on ? RFLAGS_IF : 0;
}

/* An instruction that the hypervisor below carries out ends a shadow as any other does. */
static void check_shadow_emulated(const void *arg)
{
	(void)arg;
	virq(s_sti, false);
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)s_after_cpuid);
}

/* L1's own shadow stays in L1. */
static void check_shadow_of_l1(const void *arg)
{
	(void)arg;
	virq(s_nops, true);
	clgi();
	asm volatile("cli\n\tsti\n\tvmrun %%rax\n\tcli"
		     :
		     : "a"(&l2.vmcb)
		     : "memory", "cc", "rbx", "rcx", "rdx");
	stgi();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)s_nops);
}

/* ---- RF and breakpoints ---- */

static void breakpoint(const void *at)
{
	asm volatile("mov %0, %%dr0" : : "r"(at));
}

static void check_rf(const void *arg)
{
	(void)arg;
	for (u32 rf = 0; rf < 2; rf++) {
		l2_reset(s_jump);
		l2_intercept(INTERCEPT_EXCEPTION(VEC_DB));
		breakpoint(s_jump);
		l2.vmcb.save.dr7 = DR7_RESET | BIT(0);
		l2.vmcb.save.rflags |= rf ? RFLAGS_RF : 0;
		CHECK_EQ(l2_run(), rf ? VMEXIT_VMMCALL : VMEXIT_EXCEPTION(VEC_DB));
		CHECK_EQ(l2.vmcb.save.rip, rf ? (u64)s_jump_end : (u64)s_jump);
		CHECK_EQ(l2.vmcb.save.dr6 & 1, !rf);
		/* it is for one instruction */
		if (rf)
			CHECK_EQ(l2.vmcb.save.rflags & RFLAGS_RF, 0);
	}
	breakpoint(NULL);
}

/* ---- shared ---- */

static void check_debug_addresses(const void *arg)
{
	u64 dr0, dr3;

	(void)arg;
	l2_reset(s_dr);
	l2.regs.rbx = 0x5678;
	breakpoint((const void *)0x1234);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.regs.rcx, 0x1234);
	asm volatile("mov %%dr0, %0" : "=r"(dr0));
	asm volatile("mov %%dr3, %0" : "=r"(dr3));
	CHECK_EQ(dr0, 0x5678);
	CHECK_EQ(dr3, 0x5678);
	breakpoint(NULL);
}

/* #VMEXIT restores no CR2. */
static void check_cr2(const void *arg)
{
	(void)arg;
	asm volatile("mov %0, %%cr2" : : "r"(0x1111ull));
	l2_reset(s_cr2);
	l2.regs.rbx = 0x3000;
	l2.vmcb.save.cr2 = 0x2000;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.cr2, 0x3000);
	CHECK_EQ(read_cr2(), 0x3000);
}

/* ---- who comes first ---- */

/* A physical interrupt goes before a virtual one, and leaves it pending. */
static void check_intr_before_virq(const void *arg)
{
	(void)arg;
	apic_count(PHYSICAL);
	virq(s_nops, true);
	l2_intercept(INTERCEPT(INTR));
	l2_intercept(INTERCEPT(VINTR));
	clgi();
	apic_raise(PHYSICAL);
	sti();
	svm_vmrun(&l2.vmcb, &l2.regs);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_INTR);
	CHECK_EQ(l2.vmcb.save.rip, (u64)s_nops);
	CHECK_EQ(l2.vmcb.control.int_ctl & V_IRQ, V_IRQ);
	stgi();
	apic_settle();
	cli();
	apic_count_end(PHYSICAL);
	CHECK_EQ(interrupts, 1);
}

/* A virtual interrupt wakes L2 from HLT. */
static void check_hlt_virq(const void *arg)
{
	(void)arg;
	virq(s_hlt, true);
	l2.vmcb.control.int_state = INTERRUPT_SHADOW;
	l2_run();
	CHECK_EQ(l2_caught(), VECTOR);
	CHECK_EQ(*(const u64 *)l2.vmcb.save.rsp, (u64)s_hlt_end);
}

/* ---- what stays as L1 left it ---- */

static void check_vmcb_untouched(const void *arg)
{
	struct vmcb before;
	const u8 *was = (const u8 *)&before, *is = (const u8 *)&l2.vmcb;
	u32 wrong = 0;

	(void)arg;
	l2_reset(s_exit);
	for (u32 i = 0; i < sizeof(l2.vmcb.control.host_sw); i++)
		l2.vmcb.control.host_sw[i] = (u8)(i + 1);
	for (u32 i = 0; i < sizeof(l2.vmcb.control.reserved_018); i++)
		l2.vmcb.control.reserved_018[i] = (u8)(i + 1);
	l2.vmcb.control.exit_info_1 = l2.vmcb.control.exit_info_2 = 0;
	l2.vmcb.save.star = 0x1234; /* VMSAVE's */
	l2.vmcb.save.fs.base = 0x5678;
	before = l2.vmcb;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	before.control.exit_code = VMEXIT_VMMCALL;
	before.control.next_rip = l2.vmcb.control.next_rip;
	for (u32 i = 0; i < sizeof(before); i++)
		if (was[i] != is[i] && wrong++ < 8)
			note("byte 0x%x: 0x%x, was 0x%x", i, is[i], was[i]);
	CHECK_EQ(wrong, 0);
}

/* ---- MSRs ---- */

static void check_svm_key(const void *arg)
{
	(void)arg;
	wrmsr(MSR_SVM_KEY, 0x1234);
	CHECK_EQ(rdmsr(MSR_SVM_KEY), 0);
	wrmsr(MSR_SVM_KEY, 0);
}

static void write_back(const void *arg)
{
	u32 msr = (u32)(u64)arg;

	wrmsr(msr, rdmsr(msr));
}

/* They are nobody's but the CPU's. */
static void check_other_msrs(const void *arg)
{
	u64 hwcr = rdmsr(MSR_HWCR), vector;

	(void)arg;
	CHECK_EQ(try_call(write_back, (const void *)(u64)MSR_HWCR), VEC_NONE);
	CHECK_EQ(rdmsr(MSR_HWCR), hwcr);
	CHECK_EQ(try_call(write_back, (const void *)(u64)MSR_IGNNE), VEC_NONE);
	/* write-only, and not on every CPU */
	vector = try_call(write_back, (const void *)(u64)MSR_SMM_CTL);
	CHECK(vector == VEC_NONE || vector == VEC_GP);
}

/* ---- CR0.WP is of the guest's own tables only ---- */

#define ALIAS 0xc0000000ull
static u64 page[PAGE_SIZE / 8] ALIGNED(4096);
L2_CODE(s_write, "mov %rsi, (%rdi)");

static void check_wp(const void *arg)
{
	u64 *entry;

	(void)arg;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	page[0] = 0;
	l2_reset(s_write);
	l2_use_npt();
	entry = paging_split(&l2.npt, ALIAS);
	*entry = (u64)page | PTE_P | PTE_U;
	l2.vmcb.save.cr0 &= ~CR0_WP;
	l2.regs.rdi = ALIAS;
	l2.regs.rsi = 0x1234;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U | PFERR_W | PFERR_P);
	CHECK_EQ(l2.vmcb.control.exit_info_2, ALIAS);
	CHECK_EQ(page[0], 0);
	*entry |= PTE_W;
	l2_flush();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(page[0], 0x1234);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"interrupt shadow at #VMEXIT", check_shadow_out},
	{"interrupt shadow over an emulated instruction", check_shadow_emulated},
	{"interrupt shadow of L1 at VMRUN", check_shadow_of_l1},
	{"RF of L2 and its breakpoint", check_rf},
	{"DR0 to DR3 are shared", check_debug_addresses},
	{"CR2 after #VMEXIT is L2's", check_cr2},
	{"INTR before V_IRQ", check_intr_before_virq},
	{"V_IRQ ends HLT of L2", check_hlt_virq},
	{"what #VMEXIT does not write", check_vmcb_untouched},
	{"SVM_KEY reads 0", check_svm_key},
	{"HWCR, IGNNE and SMM_CTL", check_other_msrs},
	{"CR0.WP of L2 and a read-only nested page", check_wp},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

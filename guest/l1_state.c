/* SPDX-License-Identifier: MIT */
/*
 * State across the world switch: what VMSAVE stores and VMLOAD loads, what VMRUN loads for L2 and
 * #VMEXIT gives back, L1's own state behind it, TSC_OFFSET, PAT, single steps. APM2 §15.5, §15.6,
 * §15.9, §15.25.8, §15.30.5.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

L2_CODE(l2_exit, "");
L2_CODE(l2_nops, "nop\n\tnop");
L2_CODE(l2_rdtsc, "rdtsc");
L2_CODE(l2_read_pat, "mov $0x277, %ecx\n\trdmsr");
L2_CODE(l2_write_pat, "mov $0x277, %ecx\n\tmov $0x01010101, %eax\n\tmov %eax, %edx\n\twrmsr");

static struct vmcb original, area;
static struct paging l2_tables;

/* ---- VMLOAD and VMSAVE ---- */

static const struct extra {
	const char *name;
	u32 msr;
	u64 offset; /* in the save area */
	u64 value;
} extras[] = {
#define E(name, msr, field, value)                                                                 \
	{                                                                                          \
		name, msr, offsetof(struct vmcb_save, field), value                                \
	}
	E("STAR", MSR_STAR, star, 0x0023001000000000ull),
	E("LSTAR", MSR_LSTAR, lstar, 0x11223344ull),
	E("CSTAR", MSR_CSTAR, cstar, 0x55667788ull),
	E("SFMASK", MSR_SFMASK, sfmask, 0x47700ull),
	E("KernelGSBase", MSR_KERNEL_GS_BASE, kernel_gs_base, 0xffff800012345000ull),
	E("SYSENTER_CS", MSR_SYSENTER_CS, sysenter_cs, 0x10),
	E("SYSENTER_ESP", MSR_SYSENTER_ESP, sysenter_esp, 0x99aabbull),
	E("SYSENTER_EIP", MSR_SYSENTER_EIP, sysenter_eip, 0xccddeeull),
	E("FS base", MSR_FS_BASE, fs.base, 0x7000ull),
	E("GS base", MSR_GS_BASE, gs.base, 0x8000ull),
#undef E
};

static u64 *field(struct vmcb *v, const struct extra *e)
{
	return (u64 *)((u8 *)&v->save + e->offset);
}

#define PATTERN 0x5a

static void pattern_fill(void)
{
	for (u32 i = 0; i < sizeof(area); i++)
		((u8 *)&area)[i] = PATTERN;
}

static void check_vmsave(const void *arg)
{
	const u8 *b = (const u8 *)&area;

	(void)arg;
	vmsave((u64)&original);
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		wrmsr(extras[i].msr, extras[i].value);
	pattern_fill();
	vmsave((u64)&area);
	vmload((u64)&original);
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		tap_equal(*field(&area, &extras[i]), extras[i].value, extras[i].name);
	CHECK_EQ(area.save.tr.selector, GDT_TSS);
	CHECK_EQ(area.save.tr.base, original.save.tr.base);
	CHECK_EQ(area.save.tr.limit, original.save.tr.limit);
	/* Nothing else is written: the control area, and the fields of VMRUN. */
	for (u32 i = 0; i < sizeof(area.control); i++)
		if (b[i] != PATTERN) {
			CHECK_EQ(i, ~0u);
			break;
		}
	CHECK_EQ(area.save.cs.base, 0x0101010101010101ull * PATTERN);
	CHECK_EQ(area.save.gdtr.base, 0x0101010101010101ull * PATTERN);
	CHECK_EQ(area.save.efer, 0x0101010101010101ull * PATTERN);
	CHECK_EQ(area.save.rax, 0x0101010101010101ull * PATTERN);
	CHECK_EQ(area.save.cr3, 0x0101010101010101ull * PATTERN);
	CHECK_EQ(area.save.g_pat, 0x0101010101010101ull * PATTERN);
}

static void check_vmload(const void *arg)
{
	(void)arg;
	vmsave((u64)&original);
	area = original;
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		*field(&area, &extras[i]) = extras[i].value;
	vmload((u64)&area);
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		tap_equal(rdmsr(extras[i].msr), extras[i].value, extras[i].name);
	/* L2 runs with them, and VMRUN and #VMEXIT leave them. */
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		tap_equal(rdmsr(extras[i].msr), extras[i].value, extras[i].name);
	/* Bases are made canonical, not checked; bits 56:47 are equal, so 48 and 57 bits of address
	 * agree. */
	area.save.fs.base = BITS(56, 47) | 0x1000;
	vmload((u64)&area);
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0xffff800000001000ull);
	vmload((u64)&original);
	for (u32 i = 0; i < ARRAY_SIZE(extras); i++)
		tap_equal(rdmsr(extras[i].msr), *field(&original, &extras[i]), extras[i].name);
}

/* ---- L2's state in and out ---- */

#define SAME(f) tap_equal((u64)after->f, (u64)before.f, #f)
#define SAME_SEGMENT(f) (SAME(f.selector), SAME(f.attrib), SAME(f.limit), SAME(f.base))

static void check_guest_state(const void *arg)
{
	bool user = arg != NULL;
	struct vmcb_save before, *after = &l2.vmcb.save;

	l2_reset(l2_exit);
	paging_identity(&l2_tables, PTE_ALL);
	after->cr3 = paging_root(&l2_tables);
	after->cr0 |= CR0_TS | CR0_AM;
	after->cr4 |= CR4_PCE | CR4_TSD;
	after->efer |= EFER_SCE;
	after->dr6 = DR6_RESET | BIT(3);
	after->dr7 = DR7_RESET | BIT(8);
	after->cr2 = 0xdeadbeef000ull;
	after->rflags = RFLAGS_FIXED | RFLAGS_CF | RFLAGS_ZF | RFLAGS_DF;
	after->rax = 0x0123456789abcdefull;
	after->rsp = (u64)l2.stack + 0x100;
	after->gdtr.limit = 0x2f;
	after->idtr = (struct vmcb_seg){.limit = 0x123, .base = 0x4567000};
	after->ds =
		(struct vmcb_seg){.selector = 0x33, .attrib = 0xcf3, .limit = ~0u, .base = 0x9000};
	after->es = (struct vmcb_seg){
		.selector = 0x2b, .attrib = 0x0f3, .limit = 0x4321, .base = 0x77000};
	if (user)
		l2_user();
	before = *after;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	SAME_SEGMENT(cs);
	SAME_SEGMENT(ss);
	SAME_SEGMENT(ds);
	SAME_SEGMENT(es);
	SAME(gdtr.limit);
	SAME(gdtr.base);
	SAME(idtr.limit);
	SAME(idtr.base);
	SAME(cpl);
	SAME(efer);
	SAME(cr0);
	SAME(cr2);
	SAME(cr3);
	SAME(cr4);
	SAME(dr6);
	SAME(dr7);
	SAME(rflags);
	SAME(rax);
	SAME(rsp);
	SAME(rip);
}

/* ---- L1's state behind it ---- */

struct l1_state {
	u64 cr0, cr3, cr4, cr8, efer, flags;
	struct table_register gdtr, idtr;
	u16 cs, ss, ds, es;
};

static struct l1_state l1_state(void)
{
	struct l1_state s = {
		.cr0 = read_cr0(),
		.cr3 = read_cr3(),
		.cr4 = read_cr4(),
		.cr8 = read_cr8(),
		.efer = rdmsr(MSR_EFER),
		.flags = read_flags() & (RFLAGS_IF | RFLAGS_DF | RFLAGS_TF),
	};

	asm volatile("sgdt %0" : "=m"(s.gdtr));
	asm volatile("sidt %0" : "=m"(s.idtr));
	asm volatile("mov %%cs, %0" : "=r"(s.cs));
	asm volatile("mov %%ss, %0" : "=r"(s.ss));
	asm volatile("mov %%ds, %0" : "=r"(s.ds));
	asm volatile("mov %%es, %0" : "=r"(s.es));
	return s;
}

static void check_host_state(const void *arg)
{
	struct l1_state before, after;
	u64 dr7 = DR7_RESET | BIT(0), host_dr7;

	/* Whatever L2's state was (the case before). */
	check_guest_state(arg);
	check_guest_state("user");
	before = l1_state();
	/* A breakpoint of L1 that is armed at VMRUN is not any more after it. */
	asm volatile("mov %0, %%dr0" : : "r"(0x10ull));
	asm volatile("mov %0, %%dr7" : : "r"(dr7));
	check_guest_state(arg);
	asm volatile("mov %%dr7, %0" : "=r"(host_dr7));
	after = l1_state();
	CHECK_EQ(host_dr7 & 0xff, 0);
	asm volatile("mov %0, %%dr7" : : "r"((u64)DR7_RESET));
	CHECK_EQ(after.cr0, before.cr0);
	CHECK_EQ(after.cr3, before.cr3);
	CHECK_EQ(after.cr4, before.cr4);
	CHECK_EQ(after.cr8, before.cr8);
	CHECK_EQ(after.efer, before.efer);
	CHECK_EQ(after.flags, before.flags);
	CHECK_EQ(after.gdtr.base, before.gdtr.base);
	CHECK_EQ(after.gdtr.limit, before.gdtr.limit);
	CHECK_EQ(after.idtr.base, before.idtr.base);
	CHECK_EQ(after.idtr.limit, before.idtr.limit);
	CHECK_EQ(after.cs, before.cs);
	CHECK_EQ(after.ss, before.ss);
	CHECK_EQ(after.ds, before.ds);
	CHECK_EQ(after.es, before.es);
}

/* ---- TSC ---- */

static void check_tsc_offset(const void *arg)
{
	const u64 offsets[] = {0, 1000000000000ull, -(u64)5000, BIT(60)};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(offsets); i++) {
		u64 before, in_l2, after;

		l2_reset(l2_rdtsc);
		l2.vmcb.control.tsc_offset = offsets[i];
		before = rdtsc();
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		after = rdtsc();
		in_l2 = (l2.regs.rdx << 32 | (u32)l2.vmcb.save.rax) - offsets[i];
		tap_check(before < in_l2, "L2's TSC, less its offset, is later than L1's before");
		tap_check(in_l2 < after, "L1's TSC is later than L2's, and without its offset");
	}
}

/* ---- PAT ---- */

#define OTHER_PAT 0x0606060606060606ull

static void check_pat(const void *arg)
{
	u64 pat = rdmsr(MSR_PAT);

	(void)arg;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	if (departs(DEPARTURE_G_PAT)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	/* With nested paging L2 has a PAT of its own (APM2 §15.25.8). */
	l2_reset(l2_read_pat);
	l2_use_npt();
	l2.vmcb.save.g_pat = OTHER_PAT;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.regs.rdx << 32 | (u32)l2.vmcb.save.rax, OTHER_PAT);
	l2_reset(l2_write_pat);
	l2_use_npt();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.g_pat, 0x0101010101010101ull);
	CHECK_EQ(rdmsr(MSR_PAT), pat);
	/* A memory type that does not exist. */
	l2_reset(l2_exit);
	l2_use_npt();
	l2.vmcb.save.g_pat = 0x0606060606060602ull;
	CHECK_EQ(l2_run(), VMEXIT_INVALID);
}

/* ---- single steps ---- */

static volatile u32 steps;
static volatile u64 step_rip;

static void on_debug(struct trap_frame *frame)
{
	steps++;
	step_rip = frame->rip;
	frame->rflags &= ~RFLAGS_TF;
}

/* VMRUN is one instruction of L1: the trap comes after the exit, and L2 sees nothing of it. */
static void check_step_over_vmrun(const void *arg)
{
	u64 after;

	(void)arg;
	steps = 0;
	trap_hook(VEC_DB, on_debug);
	l2_reset(l2_nops);
	l2_catch_events();
	clgi();
	asm volatile("lea 1f(%%rip), %0\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tvmrun "
		     "%%rax\n1:\tnop"
		     : "=&r"(after)
		     : "a"(&l2.vmcb)
		     : "memory", "cc", "rcx", "rdx", "rbx", "rsi", "rdi");
	stgi();
	trap_hook(VEC_DB, NULL);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
	CHECK_EQ(l2_caught(), VEC_NONE);
	CHECK_EQ(steps, 1);
	CHECK_EQ(step_rip, after);
}

/* TF of L2: a trap after its first instruction, not before. */
static void check_step_in_l2(const void *arg)
{
	(void)arg;
	l2_reset(l2_nops);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_DB));
	l2.vmcb.save.rflags |= RFLAGS_TF;
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_DB));
	CHECK_EQ(l2.vmcb.save.rip, (u64)l2_nops + 1);
	CHECK_EQ(l2.vmcb.save.dr6 & DR6_BS, DR6_BS);
}

L2_CODE(l2_load_microcode,
	"mov $0xc0010020, %ecx\n\tmov $0x12345678, %eax\n\txor %edx, %edx\n\twrmsr");

static void load_microcode(const void *arg)
{
	wrmsr(MSR_PATCH_LOADER, (u64)arg);
}

/* Under us a patch is not loaded, and nobody is told. The log line is the harness's to look for. */
static void check_microcode(const void *arg)
{
	u64 level = rdmsr(MSR_PATCH_LEVEL);

	(void)arg;
	if (!platform.under_us) {
		tap_skip("a CPU alone would load it");
		return;
	}
	CHECK_EQ(try_call(load_microcode, (const void *)0x12345000), VEC_NONE);
	CHECK_EQ(try_call(load_microcode, (const void *)~0ull), VEC_NONE);
	CHECK_EQ(l2_run_from(l2_load_microcode), VMEXIT_VMMCALL);
	l2_reset(l2_load_microcode);
	l2_intercept(INTERCEPT(MSR));
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	msrpm_set(MSR_PATCH_LOADER, false, true);
	l2.vmcb.save.rip = (u64)l2_load_microcode;
	CHECK_EQ(l2_run(), VMEXIT_MSR);
	CHECK_EQ(rdmsr(MSR_PATCH_LEVEL), level);
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} cases[] = {
	{"VMSAVE", check_vmsave, NULL},
	{"VMLOAD", check_vmload, NULL},
	{"L2's state in and out", check_guest_state, NULL},
	{"L2's state in and out, CPL 3", check_guest_state, "user"},
	{"L1's state after #VMEXIT", check_host_state, NULL},
	{"TSC_OFFSET", check_tsc_offset, NULL},
	{"PAT of L2", check_pat, NULL},
	{"single step over VMRUN", check_step_over_vmrun, NULL},
	{"single step in L2", check_step_in_l2, NULL},
	{"a microcode patch", check_microcode, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, cases[i].arg);
}

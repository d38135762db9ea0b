/* SPDX-License-Identifier: MIT */
/*
 * What #VMEXIT tells besides the code: nRIP (APM2 §15.7.1), decode assists for MOV CR, MOV DR, INTn
 * and INVLPG, the instruction bytes of data faults (§15.8). Where CPUID does not have them, the
 * fields stay as they are.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define UNMAPPED (1ull << 40)
#define ALIAS 0xc0000000ull
#define SEGMENT_BASE 0x12345000ull
#define PATTERN 0xa5a5a5a5a5a5a5a5ull
#define MOV_CR BIT(63) /* EXITINFO1: a MOV, with its register in bits 3:0 */

static bool nrips, decode;

/* As l2_reset, and every field of interest holds something that no exit writes. */
static void ready(const u8 *code)
{
	l2_reset(code);
	l2.vmcb.control.next_rip = PATTERN;
	l2.vmcb.control.insn_len = (u8)PATTERN;
	for (u32 i = 0; i < sizeof(l2.vmcb.control.insn_bytes); i++)
		l2.vmcb.control.insn_bytes[i] = (u8)PATTERN;
}

/* nRIP of the exit; 0: of one that has none. */
static void check_nrip(u64 want)
{
	CHECK_EQ(l2.vmcb.control.next_rip, nrips ? want : PATTERN);
}

/* The bytes of the instruction at `code`, at least `least` of them and at most `most`. */
static void check_bytes(const u8 *code, u32 least, u32 most)
{
	const struct vmcb_control *c = &l2.vmcb.control;

	if (!decode) {
		CHECK_EQ(c->insn_len, PATTERN & 0xff);
		CHECK_EQ(c->insn_bytes[0], PATTERN & 0xff);
		return;
	}
	if (!CHECK(c->insn_len >= least) || !CHECK(c->insn_len <= most))
		note("%u bytes", c->insn_len);
	for (u32 i = 0; i < c->insn_len; i++)
		if (c->insn_bytes[i] != code[i]) {
			CHECK_EQ(c->insn_bytes[i], code[i]);
			break;
		}
}

/* ---- instructions whose operands are told ---- */

L2_CODE(x_cr0_r15, "mov %cr0, %r15");
L2_CODE(x_cr0_rsp, "mov %cr0, %rsp");
L2_CODE(x_cr2_rcx, "mov %cr2, %rcx");
L2_CODE(x_cr3_rsi, "mov %cr3, %rsi");
L2_CODE(x_cr4_r9, "mov %cr4, %r9");
L2_CODE(x_cr8_r11, "mov %cr8, %r11");
L2_CODE(x_rbx_cr0, "mov %rbx, %cr0");
L2_CODE(x_rdi_cr2, "mov %rdi, %cr2");
L2_CODE(x_r8_cr3, "mov %r8, %cr3");
L2_CODE(x_rdx_cr4, "mov %rdx, %cr4");
L2_CODE(x_r10_cr8, "mov %r10, %cr8");
L2_CODE(x_lock_cr8, ".byte 0xf0\n\tmov %rbp, %cr0");
L2_CODE(x_smsw, "smsw %eax");
L2_CODE(x_lmsw, "lmsw %bx");
L2_CODE(x_clts, "clts");
L2_CODE(x_dr7_r12, "mov %dr7, %r12");
L2_CODE(x_dr6_rbx, "mov %dr6, %rbx");
L2_CODE(x_rbp_dr0, "mov %rbp, %dr0");
L2_CODE(x_r14_dr7, "mov %r14, %dr7");
L2_CODE(x_int, "int $0x81");
L2_CODE(x_int_long3, ".byte 0xcd, 0x03");
L2_CODE(x_int_prefixed, ".byte 0x66, 0x40\n\tint $0x82");
L2_CODE(x_invlpg, "invlpg (%rdi)");
L2_CODE(x_invlpg_sib, "invlpg 0x40(%rdi, %rcx, 4)");
L2_CODE(x_invlpg_high, "invlpg -8(%r13, %r12, 8)");
L2_CODE(x_invlpg_fs, "invlpg %fs:8(%rdi)");
L2_CODE(x_invlpg_32, "invlpg (%edi)");
L2_CODE(x_invlpg_rip, "invlpg 0x100(%rip)");
L2_CODE(x_invlpg_abs, "invlpg 0x7654321");
L2_CODE(x_cpuid_long, ".byte 0x66, 0x2e, 0xf3, 0x48\n\tcpuid");

#define RDI 0x1122334455667788ull
#define RCX 0x1000ull
#define R12 0x20ull
#define R13 0x0000700000000000ull

static const struct operand {
	const char *name;
	const u8 *code, *end;
	u32 bit;
	u64 mask, info; /* of EXITINFO1 with decode assists */
	bool read_departs;
} operands[] = {
#define O(name, code, bit, mask, info)                                                             \
	{                                                                                          \
		name, code, code##_end, bit, mask, info, false                                     \
	}
#define R(name, code, bit, info)                                                                   \
	{                                                                                          \
		name, code, code##_end, bit, MOV_CR | 15, MOV_CR | (info), true                    \
	}
	O("MOV CR0 to R15", x_cr0_r15, INTERCEPT_CR_READ(0), MOV_CR | 15, MOV_CR | 15),
	O("MOV CR0 to RSP", x_cr0_rsp, INTERCEPT_CR_READ(0), MOV_CR | 15, MOV_CR | 4),
	R("MOV CR2 to RCX", x_cr2_rcx, INTERCEPT_CR_READ(2), 1),
	R("MOV CR3 to RSI", x_cr3_rsi, INTERCEPT_CR_READ(3), 6),
	R("MOV CR4 to R9", x_cr4_r9, INTERCEPT_CR_READ(4), 9),
	R("MOV CR8 to R11", x_cr8_r11, INTERCEPT_CR_READ(8), 11),
	O("MOV RBX to CR0", x_rbx_cr0, INTERCEPT_CR_WRITE(0), MOV_CR | 15, MOV_CR | 3),
	O("MOV RBX to CR0, selective", x_rbx_cr0, INTERCEPT(CR0_SEL_WRITE), MOV_CR | 15,
	  MOV_CR | 3),
	O("MOV RDI to CR2", x_rdi_cr2, INTERCEPT_CR_WRITE(2), MOV_CR | 15, MOV_CR | 7),
	O("MOV R8 to CR3", x_r8_cr3, INTERCEPT_CR_WRITE(3), MOV_CR | 15, MOV_CR | 8),
	O("MOV RDX to CR4", x_rdx_cr4, INTERCEPT_CR_WRITE(4), MOV_CR | 15, MOV_CR | 2),
	O("MOV R10 to CR8", x_r10_cr8, INTERCEPT_CR_WRITE(8), MOV_CR | 15, MOV_CR | 10),
	O("LOCK MOV RBP to CR0, which is CR8", x_lock_cr8, INTERCEPT_CR_WRITE(8), MOV_CR | 15,
	  MOV_CR | 5),
	O("SMSW tells nothing", x_smsw, INTERCEPT_CR_READ(0), MOV_CR, 0),
	O("LMSW tells nothing", x_lmsw, INTERCEPT_CR_WRITE(0), MOV_CR, 0),
	O("CLTS tells nothing", x_clts, INTERCEPT_CR_WRITE(0), MOV_CR, 0),
	O("MOV DR7 to R12", x_dr7_r12, INTERCEPT_DR_READ(7), 15, 12),
	O("MOV DR6 to RBX", x_dr6_rbx, INTERCEPT_DR_READ(6), 15, 3),
	O("MOV RBP to DR0", x_rbp_dr0, INTERCEPT_DR_WRITE(0), 15, 5),
	O("MOV R14 to DR7", x_r14_dr7, INTERCEPT_DR_WRITE(7), 15, 14),
	O("INT 81h", x_int, INTERCEPT(SWINT), 0xff, 0x81),
	O("INT 3, two bytes long", x_int_long3, INTERCEPT(SWINT), 0xff, 3),
	O("INT 82h with prefixes", x_int_prefixed, INTERCEPT(SWINT), 0xff, 0x82),
	O("INVLPG, base", x_invlpg, INTERCEPT(INVLPG), ~0ull, RDI),
	O("INVLPG, base, index and displacement", x_invlpg_sib, INTERCEPT(INVLPG), ~0ull,
	  RDI + RCX * 4 + 0x40),
	O("INVLPG, base and index above R7", x_invlpg_high, INTERCEPT(INVLPG), ~0ull,
	  R13 + R12 * 8 - 8),
	O("INVLPG, FS", x_invlpg_fs, INTERCEPT(INVLPG), ~0ull, SEGMENT_BASE + RDI + 8),
	O("INVLPG, 32-bit address", x_invlpg_32, INTERCEPT(INVLPG), ~0ull, (u32)RDI),
	O("INVLPG, absolute", x_invlpg_abs, INTERCEPT(INVLPG), ~0ull, 0x7654321),
	O("CPUID with prefixes", x_cpuid_long, INTERCEPT(CPUID), 0, 0),
#undef O
#undef R
};

static void check_operand(const void *arg)
{
	const struct operand *o = arg;
	u64 code = o->bit < 64 ? o->bit : o->bit - 96 + 0x60;

	if (o->read_departs && departs(DEPARTURE_CR_READ)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	ready(o->code);
	l2_intercept(o->bit);
	l2.regs.rdi = RDI;
	l2.regs.rcx = RCX;
	l2.regs.r12 = R12;
	l2.regs.r13 = R13;
	l2.regs.rbx = l2.vmcb.save.cr0 ^ CR0_AM; /* for CR0: a change that is not TS or MP */
	CHECK_EQ(l2_run(), code);
	CHECK_EQ(l2.vmcb.save.rip, (u64)o->code);
	if (decode)
		CHECK_EQ(l2.vmcb.control.exit_info_1 & o->mask, o->info);
	check_nrip((u64)o->end);
	check_bytes(o->code, 0, 0);
}

/* Relative to the instruction behind it. */
static void check_invlpg_rip(const void *arg)
{
	(void)arg;
	ready(x_invlpg_rip);
	l2_intercept(INTERCEPT(INVLPG));
	CHECK_EQ(l2_run(), VMEXIT_INVLPG);
	if (decode)
		CHECK_EQ(l2.vmcb.control.exit_info_1, (u64)x_invlpg_rip_end + 0x100);
	check_nrip((u64)x_invlpg_rip_end);
}

/* ---- 32-bit code under long mode ---- */

asm(".pushsection .text\n.code32\n"
    "x32_invlpg:\n\tinvlpg 0x10(%edi)\nx32_invlpg_end:\n\tvmmcall\n"
    "x32_invlpg_16:\n\taddr16 invlpg 0x10(%di)\nx32_invlpg_16_end:\n\tvmmcall\n"
    "x32_invlpg_ss:\n\tinvlpg 4(%ebp)\nx32_invlpg_ss_end:\n\tvmmcall\n"
    "x32_into:\n\tinto\nx32_into_end:\n\tvmmcall\n"
    "x32_bound:\n\tbound %eax, (%edi)\nx32_bound_end:\n\tvmmcall\n"
    "x32_cr0:\n\tmov %cr0, %edx\nx32_cr0_end:\n\tvmmcall\n"
    ".code64\n.popsection");
extern const u8 x32_invlpg[], x32_invlpg_end[], x32_invlpg_16[], x32_invlpg_16_end[],
	x32_invlpg_ss[], x32_invlpg_ss_end[], x32_into[], x32_into_end[], x32_bound[],
	x32_bound_end[], x32_cr0[], x32_cr0_end[];

static void ready32(const u8 *code)
{
	struct vmcb_save *s = &l2.vmcb.save;

	ready(code);
	s->cs.selector = GDT_CODE32;
	s->cs.attrib = (u16)((s->cs.attrib & ~SEG_ATTR_L) | SEG_ATTR_DB);
}

static void check_invlpg_32(const void *arg)
{
	static const struct {
		const u8 *code, *end;
		u64 ds, ss, reg, address;
	} tries[] = {
		{x32_invlpg, x32_invlpg_end, SEGMENT_BASE, 0, 0xfffffff8, SEGMENT_BASE + 8},
		{x32_invlpg_16, x32_invlpg_16_end, SEGMENT_BASE, 0, 0x1fff8, SEGMENT_BASE + 8},
		{x32_invlpg_ss, x32_invlpg_ss_end, 0, 0xffffff00, 0x1000, 0xf04},
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(tries); i++) {
		ready32(tries[i].code);
		l2_intercept(INTERCEPT(INVLPG));
		l2.vmcb.save.ds.base = tries[i].ds;
		l2.vmcb.save.ss.base = tries[i].ss;
		l2.regs.rdi = l2.regs.rbp = tries[i].reg;
		CHECK_EQ(l2_run(), VMEXIT_INVLPG);
		if (decode)
			CHECK_EQ(l2.vmcb.control.exit_info_1, tries[i].address);
		check_nrip((u64)tries[i].end);
	}

	ready32(x32_cr0);
	l2_intercept(INTERCEPT_CR_READ(0));
	CHECK_EQ(l2_run(), VMEXIT_CR_READ(0));
	if (decode)
		CHECK_EQ(l2.vmcb.control.exit_info_1 & (MOV_CR | 15), MOV_CR | 2);
	check_nrip((u64)x32_cr0_end);
}

/* The three exceptions that have an nRIP are those of instructions made to raise them. */
static void check_traps(const void *arg)
{
	static const u32 bounds[2] = {1, 2};

	(void)arg;
	ready32(x32_bound);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_BR));
	l2.regs.rdi = (u64)bounds;
	l2.vmcb.save.rax = 3;
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_BR));
	CHECK_EQ(l2.vmcb.save.rip, (u64)x32_bound);
	check_nrip((u64)x32_bound_end);
	if (departs(DEPARTURE_BP_INTERCEPT))
		return;
	ready32(x32_into);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_OF));
	l2.vmcb.save.rflags |= BIT(11);
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_OF));
	CHECK_EQ(l2.vmcb.save.rip, (u64)x32_into);
	check_nrip((u64)x32_into_end);
}

/* ---- instructions that exit by a permission map ---- */

L2_CODE(x_rdmsr, "rdmsr");
L2_CODE(x_wrmsr, "wrmsr");
L2_CODE(x_in, "in $0x80, %al");
L2_CODE(x_rep_out, "rep outsb");

static void check_maps(const void *arg)
{
	static const struct {
		const u8 *code, *end;
		u64 exit;
	} mapped[] = {
		{x_rdmsr, x_rdmsr_end, VMEXIT_MSR},
		{x_wrmsr, x_wrmsr_end, VMEXIT_MSR},
		{x_in, x_in_end, VMEXIT_IOIO},
		{x_rep_out, x_rep_out_end, VMEXIT_IOIO},
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(mapped); i++) {
		ready(mapped[i].code);
		l2_intercept((unsigned int)mapped[i].exit);
		l2.regs.rcx = mapped[i].exit == VMEXIT_MSR ? MSR_LSTAR : 1;
		l2.regs.rdx = 0x80;
		msrpm_set(MSR_LSTAR, true, true);
		iopm_set(0x80);
		CHECK_EQ(l2_run(), mapped[i].exit);
		check_nrip((u64)mapped[i].end);
		check_bytes(mapped[i].code, 0, 0);
	}
}

/* ---- exits that are not an instruction's ---- */

L2_CODE(x_ud, "ud2");
L2_CODE(x_de, "div %ecx");
L2_CODE(x_load, "mov (%rcx), %rax");
L2_CODE(x_store, "mov %rax, 0x8(%rcx)");
L2_CODE(x_jump, "jmp *%rcx");
L2_CODE(x_nops, "nop\n\tnop");

static void check_exceptions(const void *arg)
{
	static const struct {
		const u8 *code;
		u64 rcx;
		u32 vector;
	} raised[] = {{x_ud, 0, VEC_UD}, {x_de, 0, VEC_DE}, {x_load, 1ull << 62, VEC_GP}};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(raised); i++) {
		ready(raised[i].code);
		l2_intercept(INTERCEPT_EXCEPTION(raised[i].vector));
		l2.regs.rcx = raised[i].rcx;
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(raised[i].vector));
		check_nrip(0);
		check_bytes(NULL, 0, 0);
	}
	ready(x_ud);
	l2.vmcb.save.idtr.limit = 0;
	CHECK_EQ(l2_run(), VMEXIT_SHUTDOWN);
	CHECK_EQ(l2_run_from(x_nops), VMEXIT_VMMCALL);
}

L2_CODE(x_mf, "fninit\n\tpush $0x37b\n\tfldcw (%rsp)\n\tfld1\n\tfldz\n\tfdivrp\nx_mf_at:\n\tfwait");
L2_CODE(x_ac, "x_ac_at:\n\tmov 1(%rdi), %eax");
L2_CODE(x_xf,
	"push $0x1d80\n\tldmxcsr (%rsp)\n\txorps %xmm0, %xmm0\nx_xf_at:\n\tdivss %xmm0, %xmm0");
extern const u8 x_mf_at[], x_ac_at[], x_xf_at[];

/* Where the instruction that faults is not the first one. */
static void check_later_exception(const void *arg)
{
	static const struct later {
		const u8 *code, *at;
		u32 vector;
		bool has_error;
		int departure; /* enum departure, or -1 */
	} later[] = {
		{x_mf, x_mf_at, VEC_MF, false, -1},
		{x_ac, x_ac_at, VEC_AC, true, DEPARTURE_NO_AC_XF},
		{x_xf, x_xf_at, VEC_XF, false, DEPARTURE_NO_AC_XF},
	};
	const struct later *l = &later[(u64)arg];
	struct vmcb_save *s = &l2.vmcb.save;

	if (l->departure >= 0 && departs((enum departure)l->departure)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	ready(l->code);
	l2_intercept(INTERCEPT_EXCEPTION(l->vector));
	l2.regs.rdi = (u64)l2.stack;
	s->cr0 |= CR0_NE | CR0_AM;
	s->cr0 &= ~(CR0_EM | CR0_TS);
	s->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (l->vector == VEC_AC) {
		s->rflags |= BIT(18);
		l2_user();
	}
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(l->vector));
	CHECK_EQ(s->rip, (u64)l->at);
	if (l->has_error)
		CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
	check_nrip(0);
	check_bytes(NULL, 0, 0);
	asm volatile("fninit");
}

static const char *const later_names[] = {"#MF", "#AC", "#XF"};

static void check_vintr(const void *arg)
{
	(void)arg;
	ready(x_nops);
	l2_intercept(INTERCEPT(VINTR));
	l2.vmcb.control.int_ctl = (u32)(V_IRQ | V_INTR_MASKING | V_IGN_TPR);
	l2.vmcb.save.rflags |= RFLAGS_IF;
	CHECK_EQ(l2_run(), VMEXIT_VINTR);
	check_nrip(0);
	check_bytes(NULL, 0, 0);
}

/* ---- the bytes of an instruction that faulted on data ---- */

static void check_pf(const void *arg)
{
	(void)arg;
	ready(x_store);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2.regs.rcx = UNMAPPED;
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	check_nrip(0);
	check_bytes(x_store, 4, 15);

	/* a fetch has no instruction yet */
	ready(x_jump);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2.regs.rcx = UNMAPPED;
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2.vmcb.save.rip, UNMAPPED);
	check_nrip(0);
	check_bytes(NULL, 0, 0);
}

static bool no_npt(void)
{
	if (platform.svm_edx & SVM_NP)
		return false;
	tap_skip("no nested paging");
	return true;
}

static void check_npf(const void *arg)
{
	(void)arg;
	if (no_npt())
		return;
	for (u32 write = 0; write < 2; write++) {
		const u8 *code = write ? x_store : x_load;

		ready(code);
		l2_use_npt();
		*paging_entry(&l2.npt, ALIAS, 2) = 0;
		l2.regs.rcx = ALIAS;
		CHECK_EQ(l2_run(), VMEXIT_NPF);
		check_nrip(0);
		check_bytes(code, write ? 4 : 3, 15);
	}
	ready(x_jump);
	l2_use_npt();
	*paging_entry(&l2.npt, ALIAS, 2) = 0;
	l2.regs.rcx = ALIAS;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.save.rip, ALIAS);
	check_nrip(0);
	check_bytes(NULL, 0, 0);
}

/* Code that ends with its page, and nothing behind it. */
static struct {
	u8 bytes[2 * PAGE_SIZE];
} code_pages ALIGNED(4096);
static struct paging tables;

static void check_page_end(const void *arg)
{
	u8 *at = &code_pages.bytes[PAGE_SIZE - 3];

	(void)arg;
	for (u32 i = 0; i < 3; i++)
		at[i] = x_load[i];
	for (u32 npt = 0; npt < (platform.svm_edx & SVM_NP ? 2u : 1u); npt++) {
		u64 *entry;

		ready(at);
		paging_identity(&tables, PTE_ALL);
		/* the split moves: the second page may be in the next 2 MiB */
		entry = paging_split(&tables, (u64)&code_pages.bytes[PAGE_SIZE]);
		*entry = 0;
		l2.vmcb.save.cr3 = paging_root(&tables);
		l2.regs.rcx = UNMAPPED;
		l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
		if (npt) {
			l2_use_npt();
			*paging_entry(&l2.npt, ALIAS, 2) = 0;
			l2.regs.rcx = ALIAS;
		}
		CHECK_EQ(l2_run(), npt ? VMEXIT_NPF : VMEXIT_EXCEPTION(VEC_PF));
		check_bytes(at, 3, 3);
	}
}

static const struct {
	const char *name;
	void (*run)(const void *);
} others[] = {
	{"INVLPG, relative to RIP", check_invlpg_rip},
	{"operands in 32-bit code", check_invlpg_32},
	{"nRIP of #BR and #OF", check_traps},
	{"nRIP of MSR and IOIO", check_maps},
	{"nRIP of other exceptions is 0", check_exceptions},
	{"nRIP of VINTR is 0", check_vintr},
	{"instruction bytes of #PF", check_pf},
	{"instruction bytes of NPF", check_npf},
	{"instruction bytes up to the end of a page", check_page_end},
};

void guest_main(void)
{
	u64 fs = rdmsr(MSR_FS_BASE);

	tap_plan(ARRAY_SIZE(operands) + ARRAY_SIZE(others) + ARRAY_SIZE(later_names));
	if (!svm_start())
		return;
	nrips = platform.svm_edx & SVM_NRIPS;
	decode = platform.svm_edx & SVM_DECODE_ASSISTS;
	note("NRIPS: %s, decode assists: %s", nrips ? "yes" : "no", decode ? "yes" : "no");
	wrmsr(MSR_FS_BASE, SEGMENT_BASE);
	for (u32 i = 0; i < ARRAY_SIZE(operands); i++)
		tap_run(operands[i].name, check_operand, &operands[i]);
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		tap_run(others[i].name, others[i].run, NULL);
	for (u64 i = 0; i < ARRAY_SIZE(later_names); i++)
		tap_run(later_names[i], check_later_exception, (const void *)i);
	wrmsr(MSR_FS_BASE, fs);
}

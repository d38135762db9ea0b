/* SPDX-License-Identifier: MIT */
/*
 * Where SVM instructions find their VMCB: RAX cut to the address size in every mode, any page that
 * a physical address can name, and, in L2, L1's memory. And when they are #UD or #GP before any
 * intercept. APM2 §15.4, §15.5.1, table 15-7.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define GARBAGE 0xdeadbeef00000000ull
#define STAR_A 0x0023001000000000ull
#define STAR_B 0x0033001800000000ull
#define LOW_PAGE 0x8000u /* has an address of 16 bits; put back afterwards */
#define ALIAS 0xc0000000ull

L2_CODE(o_exit, "");
L2_CODE(o_vmrun, "vmrun %rax");
L2_CODE(o_vmload, "vmload %rax");
L2_CODE(o_vmsave, "vmsave %rax");
L2_CODE(o_clgi, "clgi");
L2_CODE(o_stgi, "stgi");
L2_CODE(o_invlpga, "invlpga %rax, %ecx");
L2_CODE(o_vmmcall, "");
L2_CODE(o_read, "mov (%rdi), %rax");

static struct vmcb original, area, other;

/* ---- 64-bit L1, with an address-size prefix ---- */

static void do_vmrun32(const void *arg)
{
	struct l2_regs *r = &l2.regs;

	/* L2 changes no register but RAX */
	asm volatile("clgi\n\t.byte 0x67, 0x0f, 0x01, 0xd8\n\tstgi"
		     : "+a"(arg)
		     : "m"(*r)
		     : "memory", "cc");
}

static void do_vmload32(const void *arg)
{
	asm volatile(".byte 0x67, 0x0f, 0x01, 0xda" : : "a"(arg) : "memory");
}

static void do_vmsave32(const void *arg)
{
	asm volatile(".byte 0x67, 0x0f, 0x01, 0xdb" : : "a"(arg) : "memory");
}

static void check_prefix(const void *arg)
{
	u64 star = rdmsr(MSR_STAR);

	(void)arg;
	vmsave((u64)&original);
	wrmsr(MSR_STAR, STAR_A);
	area = (struct vmcb){0};
	CHECK_EQ(try_call(do_vmsave32, (const void *)(GARBAGE | (u64)&area)), VEC_NONE);
	CHECK_EQ(area.save.star, STAR_A);
	area.save.star = STAR_B;
	CHECK_EQ(try_call(do_vmload32, (const void *)(GARBAGE | (u64)&area)), VEC_NONE);
	CHECK_EQ(rdmsr(MSR_STAR), STAR_B);
	vmload((u64)&original);
	CHECK_EQ(rdmsr(MSR_STAR), star);

	l2_reset(o_exit);
	CHECK_EQ(try_call(do_vmrun32, (const void *)(GARBAGE | (u64)&l2.vmcb)), VEC_NONE);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rip, (u64)o_exit);
	/* an unaligned address is one in every size */
	CHECK_EQ(try_call(do_vmsave32, (const void *)(GARBAGE | ((u64)&area + 8))), VEC_GP);
}

/* ---- 32-bit L1, under long mode ---- */

/* void in_32_bit(u32 which, u64 rax): runs the instruction in 32-bit code. */
asm(".pushsection .text\n"
    "in_32_bit:\n\t"
    "push %rbx\n\tpush %rbp\n\t"
    "mov %rsi, %rax\n\t"
    "lea 1f(%rip), %rcx\n\tmov %ecx, -16(%rsp)\n\tmovw $0x28, -12(%rsp)\n\t"
    "lea 9f(%rip), %rcx\n\tmov %ecx, -32(%rsp)\n\tmovw $0x08, -28(%rsp)\n\t"
    "clgi\n\t"
    "ljmp *-16(%rsp)\n"
    ".code32\n"
    "1:\n\t"
    "cmp $1, %edi\n\tjb 2f\n\tje 3f\n\tcmp $3, %edi\n\tjb 4f\n\tje 5f\n\tjmp 6f\n"
    "2:\t.byte 0x0f, 0x01, 0xd8\n\tjmp 8f\n"	   /* VMRUN */
    "3:\t.byte 0x0f, 0x01, 0xda\n\tjmp 8f\n"	   /* VMLOAD */
    "4:\t.byte 0x0f, 0x01, 0xdb\n\tjmp 8f\n"	   /* VMSAVE */
    "5:\t.byte 0x67, 0x0f, 0x01, 0xda\n\tjmp 8f\n" /* VMLOAD, 16-bit address */
    "6:\t.byte 0x67, 0x0f, 0x01, 0xdb\n"	   /* VMSAVE, 16-bit address */
    "8:\tljmp *-32(%esp)\n"
    ".code64\n"
    "9:\tstgi\n\t"
    "pop %rbp\n\tpop %rbx\n\tret\n"
    ".popsection");
void in_32_bit(u32 which, u64 rax);
enum { VMRUN_32, VMLOAD_32, VMSAVE_32, VMLOAD_16, VMSAVE_16 };

static void check_32_bit(const void *arg)
{
	(void)arg;
	vmsave((u64)&original);
	wrmsr(MSR_STAR, STAR_A);
	area = (struct vmcb){0};
	in_32_bit(VMSAVE_32, (u64)&area);
	CHECK_EQ(area.save.star, STAR_A);
	area.save.star = STAR_B;
	in_32_bit(VMLOAD_32, (u64)&area);
	CHECK_EQ(rdmsr(MSR_STAR), STAR_B);
	vmload((u64)&original);
	l2_reset(o_exit);
	in_32_bit(VMRUN_32, (u64)&l2.vmcb);
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
}

static void check_16_bit(const void *arg)
{
	struct vmcb *low = (struct vmcb *)(u64)LOW_PAGE;

	(void)arg;
	if (tap_instances() > 1) {
		tap_skip("one page below 64 KByte, and others write to it");
		return;
	}
	if (departs(DEPARTURE_ADDRESS_16)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	asm("" : "+r"(low));
	vmsave((u64)&original);
	other = *low;
	wrmsr(MSR_STAR, STAR_A);
	in_32_bit(VMSAVE_16, 0x5a5a0000u | LOW_PAGE);
	CHECK_EQ(low->save.star, STAR_A);
	low->save.star = STAR_B;
	in_32_bit(VMLOAD_16, 0x5a5a0000u | LOW_PAGE);
	CHECK_EQ(rdmsr(MSR_STAR), STAR_B);
	vmload((u64)&original);
	*low = other;
}

/* ---- the last page of the address space, where nothing is ---- */

#define HYPERTRANSPORT_BYTES (12ull << 30)

static void do_vmload(const void *arg)
{
	vmload((u64)arg);
	vmload((u64)&original);
}

static void do_vmsave(const void *arg)
{
	vmsave((u64)arg);
}

static void do_vmrun(const void *arg)
{
	asm volatile("clgi\n\tvmrun %%rax\n\tstgi" : : "a"(arg) : "memory", "cc");
}

static void check_last_page(const void *arg)
{
	/* the top of an address space of 40 bits and more is HyperTransport's, where no VMCB can be */
	const u64 end = BIT(platform.phys_bits),
		  taken = platform.phys_bits < 40 ? 0 : HYPERTRANSPORT_BYTES;
	const void *last = (const void *)(end - taken - PAGE_SIZE);

	(void)arg;
	if (platform.under_us && taken)
		CHECK_EQ(try_call(do_vmrun, (const void *)(end - PAGE_SIZE)), VEC_GP);
	if (departs(DEPARTURE_NO_MEMORY_ABORT)) {
		if (!platform.under_us) {
			tap_skip("QEMU would abort");
			return;
		}
	} else {
		vmsave((u64)&original);
		CHECK_EQ(try_call(do_vmsave, last), VEC_NONE);
		CHECK_EQ(try_call(do_vmload, last), VEC_NONE);
	}
	/* no VMCB that VMRUN takes; but its address is good */
	CHECK_EQ(try_call(do_vmrun, last), VEC_NONE);
	CHECK_EQ(l2_run_from(o_exit), VMEXIT_VMMCALL);
}

/* ---- L2's VMLOAD and VMSAVE, not intercepted ---- */

static void check_l2_address(const void *arg)
{
	u64 *entry;

	(void)arg;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	vmsave((u64)&original);
	wrmsr(MSR_STAR, STAR_A);
	l2_reset(o_vmsave);
	l2_use_npt();
	/* for L2 the page is another one: VMSAVE does not look at nested tables */
	entry = paging_split(&l2.npt, (u64)&area);
	*entry = (u64)&other | PTE_P | PTE_W | PTE_U;
	l2.vmcb.save.rax = (u64)&area;
	area = other = (struct vmcb){0};
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(area.save.star, STAR_A);
	CHECK_EQ(other.save.star, 0);

	area.save.star = STAR_B;
	area.save.tr = original.save.tr;
	l2_reset(o_vmload);
	l2_use_npt();
	*entry = (u64)&other | PTE_P | PTE_W | PTE_U;
	l2.vmcb.save.rax = (u64)&area;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(rdmsr(MSR_STAR), STAR_B);
	vmload((u64)&original);
}

/* ---- before the intercept ---- */

static const struct svm_instruction {
	const char *cpl_name, *address_name, *real_name;
	const u8 *code;
	u32 bit;
	u8 opcode; /* behind 0F 01 */
} instructions[] = {
	{"VMRUN of L2 at CPL 3", "VMRUN of L2, bad RAX", "VMRUN of L2 in real mode", o_vmrun,
	 INTERCEPT(VMRUN), 0xd8},
	{"VMLOAD of L2 at CPL 3", "VMLOAD of L2, bad RAX", "VMLOAD of L2 in real mode", o_vmload,
	 INTERCEPT(VMLOAD), 0xda},
	{"VMSAVE of L2 at CPL 3", "VMSAVE of L2, bad RAX", "VMSAVE of L2 in real mode", o_vmsave,
	 INTERCEPT(VMSAVE), 0xdb},
	{"STGI of L2 at CPL 3", NULL, "STGI of L2 in real mode", o_stgi, INTERCEPT(STGI), 0xdc},
	{"CLGI of L2 at CPL 3", NULL, "CLGI of L2 in real mode", o_clgi, INTERCEPT(CLGI), 0xdd},
	{"INVLPGA of L2 at CPL 3", NULL, "INVLPGA of L2 in real mode", o_invlpga,
	 INTERCEPT(INVLPGA), 0xdf},
};

static void ready(const struct svm_instruction *i)
{
	l2_reset(i->code);
	l2_intercept(i->bit);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
	l2.vmcb.save.rax = (u64)&area;
}

static void check_cpl(const void *arg)
{
	const struct svm_instruction *i = arg;
	struct vmcb_save *s = &l2.vmcb.save;

	ready(i);
	CHECK_EQ(l2_run(), i->bit - 96 + 0x60);
	ready(i);
	l2_user();
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_GP));
	CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
	CHECK_EQ(s->rip, (u64)i->code);
}

static void check_address(const void *arg)
{
	const struct svm_instruction *i = arg;
	const u64 bad[] = {1, (u64)&area + 0x800, BIT(platform.phys_bits), BIT(63)};

	for (u32 n = 0; n < ARRAY_SIZE(bad); n++) {
		ready(i);
		l2.vmcb.save.rax = bad[n];
		if (!CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_GP)))
			note("RAX was 0x%lx", bad[n]);
		CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
	}
}

/* Outside protected mode they do not exist. */
static void check_real(const void *arg)
{
	const struct svm_instruction *i = arg;
	struct vmcb_save *s = &l2.vmcb.save;
	u8 *low = (u8 *)(u64)LOW_PAGE;
	const u8 code[] = {0x0f, 0x01, i->opcode};

	asm("" : "+r"(low));
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip("no nested paging");
		return;
	}
	ready(i);
	l2_use_npt();
	for (u32 n = 0; n < sizeof(code); n++)
		((u8 *)&area)[n] = code[n];
	*paging_split(&l2.npt, LOW_PAGE) = (u64)&area | PTE_P | PTE_W | PTE_U;
	s->rip = LOW_PAGE;
	s->rax = 0;
	s->cr0 &= ~(CR0_PG | CR0_PE);
	s->cr4 &= ~CR4_PAE;
	s->efer &= ~(EFER_LME | EFER_LMA);
	s->cs = (struct vmcb_seg){.attrib = 0x9b, .limit = 0xffff};
	s->ds = s->es = s->ss = (struct vmcb_seg){.attrib = 0x93, .limit = 0xffff};
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_UD));
	CHECK_EQ(s->rip, LOW_PAGE);
}

/* ---- VMMCALL has no privilege and, not intercepted, does not exist ---- */

static void check_vmmcall(const void *arg)
{
	struct vmcb_save *s = &l2.vmcb.save;

	(void)arg;
	l2_reset(o_vmmcall);
	l2_user();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	l2_reset(o_vmmcall);
	vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT(VMMCALL));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_UD));
	CHECK_EQ(s->rip, (u64)o_vmmcall);
}

/* ---- INVLPGA ---- */

static struct paging tables;

static void invlpga(u64 address, u32 asid)
{
	asm volatile("invlpga %%rax, %%ecx" : : "a"(address), "c"(asid) : "memory");
}

static void check_invlpga_l2(const void *arg)
{
	u64 *entry;

	(void)arg;
	area = other = (struct vmcb){0};
	area.save.star = STAR_A;
	other.save.star = STAR_B;
	l2_reset(o_read);
	paging_identity(&tables, PTE_ALL);
	entry = paging_split(&tables, ALIAS);
	*entry = (u64)&area | PTE_ALL;
	l2.vmcb.save.cr3 = paging_root(&tables);
	l2.regs.rdi = ALIAS + offsetof(struct vmcb, save) + offsetof(struct vmcb_save, star);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, STAR_A);
	*entry = (u64)&other | PTE_ALL;
	invlpga(ALIAS, l2.vmcb.control.asid);
	l2.vmcb.save.rip = (u64)o_read;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, STAR_B);
}

static void check_invlpga_l1(const void *arg)
{
	u64 cr3 = read_cr3(), *entry, first, second;
	const volatile struct vmcb *at = (const volatile struct vmcb *)ALIAS;

	(void)arg;
	area = other = (struct vmcb){0};
	area.save.star = STAR_A;
	other.save.star = STAR_B;
	paging_identity(&tables, PTE_ALL & ~PTE_U);
	entry = paging_split(&tables, ALIAS);
	*entry = (u64)&area | PTE_ALL;
	write_cr3(paging_root(&tables));
	first = at->save.star;
	*entry = (u64)&other | PTE_ALL;
	invlpga(ALIAS, 0);
	second = at->save.star;
	write_cr3(cr3);
	CHECK_EQ(first, STAR_A);
	CHECK_EQ(second, STAR_B);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} others[] = {
	{"64-bit L1, 32-bit address", check_prefix},
	{"32-bit L1", check_32_bit},
	{"32-bit L1, 16-bit address", check_16_bit},
	{"the last page of the address space", check_last_page},
	{"VMLOAD and VMSAVE of L2 name L1's memory", check_l2_address},
	{"VMMCALL of L2", check_vmmcall},
	{"INVLPGA for an ASID of L2's", check_invlpga_l2},
	{"INVLPGA for ASID 0", check_invlpga_l1},
};

void guest_main(void)
{
	unsigned int with_address = 0;

	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
		with_address += !!instructions[i].address_name;
	tap_plan(ARRAY_SIZE(others) + 2 * ARRAY_SIZE(instructions) + with_address);
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		tap_run(others[i].name, others[i].run, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++) {
		tap_run(instructions[i].cpl_name, check_cpl, &instructions[i]);
		tap_run(instructions[i].real_name, check_real, &instructions[i]);
		if (instructions[i].address_name)
			tap_run(instructions[i].address_name, check_address, &instructions[i]);
	}
}

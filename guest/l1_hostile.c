/* SPDX-License-Identifier: MIT */
/*
 * An L1 that does everything wrong on purpose, from a seed: SVM instructions with any operand in any mode, MSRs, control
 * and debug registers, exceptions, its own page tables and L2's in odd places, VMCBs that are something else as well,
 * hypercalls, GIF, ASIDs. It recovers from every exception that it causes. At the end the hypervisor must be alive and
 * exact, its memory must have been neither read nor written, and its log must say what happened.
 *
 * A marker of 16 bytes is in everything that L1 can hand over: registers, memory, VMCBs, maps. tests/qemu/hostile looks
 * for it in a dump of the hypervisor's memory.
 *
 * On every CPU at once (guest/lib/every.h) each does its own steps with its own marker. What is checked at the end is so
 * when all have done theirs.
 *
 * Alone, this runs STEPS steps in all. With a COM2 there is a runner: the first CPU prints "ready" and waits for a line with
 * the seed and the first step, all go on until it gets an 's', and end after an 'e'.
 *
 * What a hypervisor can only answer by shutting L1 down, as the machine itself would, is not done:
 * - a fault that L1 cannot take: an IDT, a TSS with RSP0, or the page tables of the code itself in the hypervisor's memory;
 * - CR0.NW without CD: QEMU's MOV CR0 takes it, and then no VMRUN of L1 is possible; CR0.PG or PE, CR4.PAE, LA57 off;
 * - an L2 that clears its EFER.SVME, shuts down or runs for ever without L1 intercepting that;
 * - HLT without interrupts; INIT by the APIC's ICR, to itself or another CPU; I/O to L1's own devices (reset, debug exit);
 * - a write to the hypervisor's memory with a breakpoint on it: QEMU aborts when such a #DB exits;
 * - VMLOAD and VMSAVE of a page that is no memory: QEMU aborts under -icount;
 * - VM_CR.LOCK with SVMDIS: no SVM until reset.
 */
#include "abi/hypercall.h"
#include "guest/lib/apic.h"
#include "guest/lib/cage.h"
#include "guest/lib/cpu.h"
#include "guest/lib/every.h"
#include "guest/lib/legacy.h"
#include "guest/lib/mp.h"
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/random.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define SEED 0x686f7374ull
#define STEPS 6000 /* of all CPUs, without a runner */
#define PROGRESS_STEPS 2000
#define ALIVE_STEPS 64	   /* signature, status, log */
#define REGION_STEPS 4096u /* all of the hypervisor's memory */

#define COM2 0x2f8
#define TIMER_VECTOR 0x90
/* In QEMU, nanoseconds: of an L2 that may not end by itself, and of one that should. */
#define DEADLINE_CAGE 2000000
#define DEADLINE 500000000
#define ALIAS 0xc0000000ull

/* What all CPUs have in common is the first one's. */
static struct common {
	u64 seed, first_step;
	volatile bool stop;
} first = {.seed = SEED}, *common;

/* The random numbers of each step begin anew from (seed, CPU, step). */
static u64 step;

static u64 random_begin(u64 number)
{
	return common->seed ^ every_index() * 0xff51afd7ed558ccdull ^
	       number * 0xd1342543de82ef95ull;
}

/* ---- what is judged ---- */

static const char *attack_name = "start";
static unsigned int failures;

static bool expect(bool ok, const char *what)
{
	if (!ok && failures++ < 20) {
		tap_check(false, what);
		note("in %s, step %lu of CPU %u, seed 0x%lx", attack_name, step, every_index(),
		     common->seed);
	}
	return ok;
}

static bool expect_equal(u64 got, u64 want, const char *what)
{
	if (got != want && failures < 20)
		note("got 0x%lx want 0x%lx", got, want);
	return expect(got == want, what);
}

static u64 region, region_bytes; /* the hypervisor's memory */
static u64 l1_cr0, l1_cr3, l1_cr4, l1_efer;
static struct vmcb original; /* L1's FS, GS, TR, LDTR and MSRs, by VMSAVE */
static struct tally_status status ALIGNED(512);

/* ---- the marker, and where random things point ---- */

static u64 marker[2];
static u64 sprayed[8 * PAGE_SIZE / 8] ALIGNED(4096);
static u8 buffer[4 * PAGE_SIZE] ALIGNED(4096);
static u8 code_page[PAGE_SIZE] ALIGNED(4096);
static struct vmcb other_vmcb; /* a page of which L1 makes a VMCB, or not */
static struct paging odd, l2_tables;

static void spray(void *to, u64 bytes)
{
	for (u64 i = 0; i < bytes / 8; i++)
		((u64 *)to)[i] = marker[i % 2];
}

/* 0 in all but name: the marker where VMRUN looks at nothing. */
static void fresh_l2(const void *entry)
{
	struct vmcb_control *c = &l2.vmcb.control;

	l2_reset(entry);
	spray(&l2.regs, sizeof(l2.regs));
	spray(c->reserved_018, ALIGN_DOWN(sizeof(c->reserved_018), 16));
	spray(c->reserved_0e0, sizeof(c->reserved_0e0));
	spray(c->host_sw, sizeof(c->host_sw));
	spray(l2.vmcb.save.reserved_2a0, sizeof(l2.vmcb.save.reserved_2a0));
	spray(&l2.vmcb.save.star, 64);
	l2.vmcb.save.rax = marker[0];
	l2.vmcb.save.cr2 = marker[1];
	l2_intercept(INTERCEPT(INTR));
	c->int_ctl = (u32)V_INTR_MASKING;
}

#define NOTHING_THERE (BIT(39) - PAGE_1G) /* below every CPU's address size, above all memory */
#define MMIO_ABSENT 0xeffff000ull /* configuration space of a PCI device that is not there */
#define MMIO_HPET 0xfed00000ull
#define MMIO_APIC 0xfee00000ull

static u64 region_page(void)
{
	switch (below(4)) {
	case 0:
		return region;
	case 1:
		return region + region_bytes - PAGE_SIZE;
	default:
		return region + below(region_bytes / PAGE_SIZE) * PAGE_SIZE;
	}
}

/* A page that is no memory of L1's. */
static u64 evil_page(void)
{
	static const u64 mmio[] = {MMIO_ABSENT, MMIO_HPET, MMIO_APIC, NOTHING_THERE};

	switch (below(6)) {
	case 0:
		return BIT(platform.phys_bits) + below(16) * PAGE_SIZE;
	case 1:
		return (rnd() | BIT(platform.phys_bits + below(64 - platform.phys_bits))) &
		       ~(PAGE_SIZE - 1);
	case 2:
		return PICK(mmio);
	default:
		return region_page();
	}
}

static bool in_region(u64 gpa)
{
	return gpa + PAGE_SIZE > region && gpa < region + region_bytes;
}

static bool is_refused(u64 gpa)
{
	return gpa % PAGE_SIZE || gpa >> platform.phys_bits || in_region(gpa);
}

static bool is_mmio(u64 gpa)
{
	return (gpa >= 0xe0000000u && gpa < BIT(32)) || gpa == NOTHING_THERE;
}

static void expect_ones(u64 address)
{
	u64 got = *(volatile u64 *)address;

	if (!expect(got == ~0ull, "the hypervisor's memory reads something else than FFh"))
		note("at 0x%lx: 0x%lx", address, got);
}

/* ---- operations that may fault ---- */

static struct {
	u64 address, rax, rcx, rdx, value;
	u32 msr;
} op;

#define OPERATION(name, ...)                                                                       \
	static void name(const void *arg)                                                          \
	{                                                                                          \
		(void)arg;                                                                         \
		__VA_ARGS__;                                                                       \
	}
OPERATION(do_read, op.value = *(volatile u64 *)op.address)
OPERATION(do_write, *(volatile u64 *)op.address = op.value)
OPERATION(do_jump, ((void (*)(void))op.address)())
OPERATION(do_rdmsr, op.value = rdmsr(op.msr))
OPERATION(do_wrmsr, wrmsr(op.msr, op.value))
OPERATION(do_rdpmc, op.value = rdpmc(op.msr))
OPERATION(do_hypercall, op.rax = (u64)hypercall(op.rax, op.address, op.rcx, op.rdx))
OPERATION(do_hsave, wrmsr(MSR_VM_HSAVE_PA, op.address))

#define SVM_INSTRUCTION(name, text)                                                                \
	OPERATION(name, asm volatile(text : : "a"(op.address), "c"(op.rcx) : "memory", "cc"))
SVM_INSTRUCTION(do_vmrun, "vmrun %%rax")
SVM_INSTRUCTION(do_vmload, "vmload %%rax")
SVM_INSTRUCTION(do_vmsave, "vmsave %%rax")
SVM_INSTRUCTION(do_invlpga, "invlpga %%rax, %%ecx")

static const char *not_allowed(u64 vector, u64 allowed)
{
	return vector == VEC_NONE || (vector < 32 && allowed & BIT(vector)) ? NULL
									    : "this exception";
}

/* Runs fn; the exception must be one of those in the bit map, or none. */
static u64 attempt(void (*fn)(const void *), u64 allowed)
{
	u64 vector = try_call(fn, NULL);

	if (not_allowed(vector, allowed)) {
		expect(false, "an exception that no CPU raises here");
		note("vector %lu error 0x%lx rip 0x%lx cr2 0x%lx", vector, trap_info.error,
		     trap_info.rip, trap_info.cr2);
	}
	return vector;
}

/* ---- L2 ---- */

L2_CODE(h_exit, "");
L2_CODE(h_read, "mov (%rdi), %rax");
L2_CODE(h_write, "mov %rsi, (%rdi)\n\tmov (%rdi), %rax");
L2_CODE(h_add, "lock xadd %rsi, (%rdi)\n\tmov (%rdi), %rax");
L2_CODE(h_fill, "rep stosb\n\tmov -8(%rdi), %rax");
L2_CODE(h_push, "mov %rdi, %rsp\n\tpush %rsi\n\tpop %rax");
L2_CODE(h_jump, "jmp *%rdi");
L2_CODE(h_rdmsr, "rdmsr");
L2_CODE(h_wrmsr, "wrmsr");
L2_CODE(h_in, "in %dx, %al");
L2_CODE(h_int, "int $0x41");
/* RAX: ~0 if all RCX qwords from RDI on are */
L2_CODE(h_ones, "1:\n\tmov (%rdi), %rax\n\tcmp $-1, %rax\n\tjne 2f\n\tadd $8, %rdi\n\tloop 1b\n2:");
/* every RSIth byte from RDI on, RCX of them */
L2_CODE(h_stride, "1:\n\tmov (%rdi), %rax\n\tadd %rsi, %rdi\n\tloop 1b");
/* L2 writes RSI to RDI, which may be its own nested table or its VMCB, and then reads R8 */
L2_CODE(h_edit, "mov %rsi, (%rdi)\n\tmov (%r8), %rax");
L2_CODE(h_vmload, "vmload %rax");
L2_CODE(h_vmsave, "vmsave %rax");
L2_CODE(h_vmrun, "vmrun %rax");
L2_CODE(h_clgi, "clgi");
L2_CODE(h_stgi, "stgi");
L2_CODE(h_invlpga, "invlpga %rax, %ecx");
L2_CODE(h_skinit, "skinit %eax");

static u64 run_l2(void)
{
	return l2_run_for(TIMER_VECTOR, DEADLINE);
}

static void expect_exit(u64 code)
{
	if (!expect_equal(l2.vmcb.control.exit_code, code, "an exit of another kind"))
		note("info1 0x%lx info2 0x%lx rip 0x%lx", l2.vmcb.control.exit_info_1,
		     l2.vmcb.control.exit_info_2, l2.vmcb.save.rip);
}

static void good_l2(void)
{
	fresh_l2(h_exit);
	if (once_in(2))
		l2_use_npt();
	l2.vmcb.control.tlb_control = TLB_CONTROL_FLUSH_ALL;
	run_l2();
	expect_exit(VMEXIT_VMMCALL);
	expect(l2.vmcb.save.rax == marker[0] && l2.regs.r15 == marker[1],
	       "a good L2 lost its registers");
}

/* ==== attacks ==== */

/* ---- the CPU's own accesses to the hypervisor's memory ---- */

OPERATION(do_fxsave, asm volatile("fxsave (%0)" : : "r"(op.address) : "memory"))
OPERATION(do_fxrstor, asm volatile("fxrstor (%0)" : : "r"(op.address) : "memory"))
OPERATION(do_cmpxchg16b,
	  asm volatile("lock cmpxchg16b (%0)"
		       :
		       : "r"(op.address), "a"(~0ull), "d"(~0ull), "b"(marker[0]), "c"(marker[1])
		       : "memory", "cc"))

static void rep_to(u64 to, u64 bytes)
{
	const void *from = sprayed;

	asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(bytes) : : "memory");
}

static void at_cpu(void)
{
	u64 at = region + below(region_bytes - 4 * PAGE_SIZE);

	op.address = ALIGN_DOWN(at, 16);
	switch (below(16)) {
	case 0:
		*(volatile u64 *)at = marker[0];
		break;
	case 1:
		*(volatile u8 *)at = (u8)marker[0];
		break;
	case 2:
		asm volatile("lock xaddq %0, (%1)" : : "r"(marker[0]), "r"(at) : "memory", "cc");
		break;
	case 3: /* over a page border, sometimes */
		rep_to(at, 1 + below(PAGE_SIZE));
		break;
	case 4: {
		u64 bytes = 1 + below(2 * PAGE_SIZE), from = at;
		void *to = buffer;

		asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(bytes) : : "memory");
		expect(buffer[0] == 0xff, "MOVS reads something else than FFh");
		break;
	}
	case 5:
		asm volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tpush %1\n\tpush %1\n\tmov "
			     "%%rbx, %%rsp"
			     :
			     : "r"(at), "r"(marker[1])
			     : "rbx", "memory");
		break;
	case 6:
		attempt(do_fxsave, BIT(VEC_UD));
		break;
	case 7: /* MXCSR is all ones */
		attempt(do_fxrstor, BIT(VEC_UD) | BIT(VEC_GP));
		break;
	case 8:
		attempt(do_cmpxchg16b, BIT(VEC_UD));
		break;
	case 9: { /* half of it in L1's memory, which stays as it was */
		u32 *before = (u32 *)(region - 4);

		*(volatile u64 *)before = *before | marker[0] << 32;
		break;
	}
	case 10: {
		u64 last = region + region_bytes - 4;

		*(volatile u64 *)last = (u32)marker[0] | (u64) * (volatile u32 *)(last + 4) << 32;
		break;
	}
	case 11:
		op.address = at;
		if (attempt(do_jump, BIT(VEC_UD)) == VEC_UD)
			expect_equal(trap_info.rip, at, "#UD elsewhere");
		break;
	case 12: {
		u64 to = at, bytes = 1 + below(64);

		asm volatile("rep insb" : "+D"(to), "+c"(bytes) : "d"(0x80) : "memory");
		break;
	}
	case 13: {
		u64 from = at, bytes = 1 + below(64);

		asm volatile("rep outsb" : "+S"(from), "+c"(bytes) : "d"(0x80) : "memory");
		break;
	}
	case 14:
		asm volatile("sgdt (%0)\n\tsidt 16(%0)\n\tsmsw (%0)\n\tsldt (%0)\n\tclflush (%0)"
			     :
			     : "r"(at)
			     : "memory");
		break;
	default: /* reaches it by a bit number, from L1's memory */
		asm volatile("btcq %0, (%1)"
			     :
			     : "r"((at - (u64)buffer) * 8), "r"(buffer)
			     : "memory", "cc");
	}
	expect_ones(ALIGN_DOWN(at, 8));
	expect_ones(region);
	expect_ones(region + region_bytes - 8);
}

/* ---- L1's page tables in odd places ---- */

static void odd_enter(void)
{
	write_cr3(paging_root(&odd));
}

static void odd_leave(void)
{
	write_cr3(l1_cr3);
}

static u64 signature(void)
{
	return cpuid(CPUID_HYPERVISOR).ebx;
}

static void at_tables(void)
{
	const u64 pages[] = {PAGE_SIZE, PAGE_2M, PAGE_1G};
	u64 evil = evil_page(), vector;
	unsigned int level = 2 + (unsigned int)below(2);
	bool of_ones = false, refused = false;

	paging_identity(&odd, PTE_ALL);
	op.address = ALIAS + below(PAGE_SIZE / 8) * 8;
	op.value = marker[0];
	switch (below(5)) {
	case 0: /* a table where no memory is, or the hypervisor's */
		*paging_entry(&odd, ALIAS, level) = (evil & PTE_ADDR) | PTE_ALL;
		refused = true;
		break;
	case 1: { /* a page of it */
		u64 bytes = pages[level = (unsigned int)below(platform.long_1g ? 3 : 2)];

		evil = ALIGN_DOWN(region_page(), bytes);
		if (!level)
			*paging_split(&odd, ALIAS) = evil | PTE_ALL;
		else
			*paging_entry(&odd, ALIAS, level + 1) = evil | PTE_ALL | PTE_PS;
		op.address = ALIAS + (bytes == PAGE_SIZE ? 0 : region - ALIGN_DOWN(region, bytes));
		of_ones = true;
		break;
	}
	case 2: /* a VMCB, a map, a nested table as page table: whatever they say */
		*paging_entry(&odd, ALIAS, 2) =
			(once_in(2) ? (u64)&l2.vmcb : (u64)l2.msrpm) | PTE_ALL;
		break;
	case 3: /* a table that is its own next table */
		*paging_entry(&odd, ALIAS, 2) = (u64)odd.pd[3] | PTE_ALL;
		break;
	default: /* nothing is odd but the bits of CR3 that mean nothing */
		write_cr3(paging_root(&odd) | (rnd() & 0xfe0));
		expect_equal(signature(), TALLY_CPUID_EBX, "CPUID on such a CR3");
	}
	odd_enter();
	expect_equal(signature(), TALLY_CPUID_EBX, "CPUID on odd tables");
	vector = attempt(do_read, BIT(VEC_PF) | BIT(VEC_GP));
	if (of_ones && expect_equal(vector, VEC_NONE, "a page of the hypervisor's memory"))
		expect_equal(op.value, ~0ull, "its bytes");
	if (refused)
		expect(vector == VEC_PF, "a table that is no memory led somewhere");
	op.value = marker[0];
	if (of_ones) {
		attempt(do_write, 0);
		expect_ones(op.address);
	}
	odd_leave();
}

/* ---- an instruction whose mapping changes after the CPU has fetched it ---- */

static void at_stale(void)
{
	static const u8 cpuid_ret[] = {0x53, 0x0f, 0xa2, 0x5b,
				       0xc3}; /* PUSH RBX; CPUID; POP RBX; RET */
	/* Where nothing is, zeroes would be executed for ever: FFh, or a fault. */
	u64 *entry, evil = once_in(2) ? region_page() : BIT(51) | rnd();

	for (u32 i = 0; i < sizeof(cpuid_ret); i++)
		code_page[i] = cpuid_ret[i];
	paging_identity(&odd, PTE_ALL);
	entry = paging_split(&odd, ALIAS);
	*entry = (u64)code_page | PTE_ALL;
	odd_enter();
	/* The RET alone does not exit: now the TLB has the page, and L0 does not know. */
	op.address = ALIAS + sizeof(cpuid_ret) - 1;
	attempt(do_jump, 0);
	op.address = ALIAS;
	switch (below(4)) {
	case 0:
		*entry = (evil & PTE_ADDR) | PTE_ALL;
		break;
	case 1:
		*entry = 0;
		break;
	case 2:
		*entry = rnd() | BIT(51);
		break;
	default:
		*paging_entry(&odd, ALIAS, 2) = (evil & PTE_ADDR) | PTE_ALL;
	}
	attempt(do_jump, BIT(VEC_PF) | BIT(VEC_UD) | BIT(VEC_GP) | BIT(VEC_SS));
	odd_leave();
}

/* ---- descriptor tables in the hypervisor's memory ---- */

/* FFh is a conforming code segment, which any selector may load. */
static void at_segments(void)
{
	struct table_register gdtr, own, evil;
	u64 gdt[18], at = region + below(region_bytes - 0x9000), lar = 0;

	asm volatile("sgdt %0" : "=m"(gdtr));
	evil = (struct table_register){0xffff, at};
	/* No exception can come here: its CS would be from that table. */
	asm volatile("lgdt %1\n\tmov %2, %%fs\n\tmov %2, %%gs\n\tlar %2, %%eax\n\tlsl %2, "
		     "%%ecx\n\tverr %w2\n\tlgdt %3"
		     : "=&a"(lar)
		     : "m"(evil), "r"(0x7ff8 & (u32)rnd()), "m"(gdtr)
		     : "rcx", "memory", "cc");
	/* An LDT and a TSS there. */
	for (u32 i = 0; i < 16; i++)
		gdt[i] = i <= gdtr.limit / 8 ? ((const u64 *)gdtr.base)[i] : 0;
	gdt[14] = 0xffff | (at & BITS(23, 0)) << 16 | (once_in(2) ? 0x82ull : 0x89ull) << 40 |
		  (at & BITS(31, 24)) << 32;
	gdt[15] = at >> 32;
	own = (struct table_register){sizeof(gdt) - 1, (u64)gdt};
	if ((gdt[14] >> 40 & 0xff) == 0x82)
		asm volatile("lgdt %0\n\tlldt %w2\n\tmov %3, %%fs\n\tlgdt %1"
			     :
			     : "m"(own), "m"(gdtr), "r"(14 * 8), "r"(4 | (0x7ff8 & (u32)rnd()))
			     : "memory");
	else
		asm volatile("lgdt %0\n\tltr %w2\n\tlgdt %1"
			     :
			     : "m"(own), "m"(gdtr), "r"(14 * 8)
			     : "memory");
	vmload((u64)&original);
	expect_ones(ALIGN_DOWN(at, 8));
}

/* ---- exceptions ---- */

#define RAISE(name, ...) OPERATION(name, asm volatile(__VA_ARGS__))
RAISE(raise_ud, "ud2")
RAISE(raise_de, "xor %%ecx, %%ecx\n\tdiv %%ecx" : : : "rax", "rcx", "rdx", "cc")
RAISE(raise_bp, "int3")
RAISE(raise_int, "int $13")
RAISE(raise_int_df, "int $8")
RAISE(raise_icebp, ".byte 0xf1")
RAISE(raise_gp, "movabs $0x8000000000000000, %%rax\n\tmov (%%rax), %%rax" : : : "rax")
RAISE(raise_ss, "push %%rbp\n\tmovabs $0x8000000000000000, %%rbp\n\tmov (%%rbp), %%rax\n\tpop %%rbp"
      :
      :
      : "rax")
RAISE(raise_segment, "mov $0x1238, %%eax\n\tmov %%eax, %%ds" : : : "rax")
RAISE(raise_far, "push $0x1238\n\tpush $0\n\tlretq")
RAISE(raise_iret, "push $0x1238\n\tpush $0\n\tpush $2\n\tpush $0x1238\n\tpush $0\n\tiretq")
RAISE(raise_lock, ".byte 0xf0, 0x90")
RAISE(raise_long,
      ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x0f,0xa2"
      :
      :
      : "rax", "rbx", "rcx", "rdx")
RAISE(raise_prefixes,
      ".byte 0x66,0x2e,0x67,0x66,0x36,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x0f,0xa2"
      :
      :
      : "rax", "rbx", "rcx", "rdx")
RAISE(raise_step, "pushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\tcpuid\n\tnop"
      :
      :
      : "rax", "rbx", "rcx", "rdx", "cc", "memory")
RAISE(raise_syscall, "syscall" : : : "rcx", "r11")
RAISE(raise_rsm, "rsm")
RAISE(raise_nm, "mov %%cr0, %%rax\n\tmov %%rax, %%rcx\n\tor $8, %%rax\n\tmov %%rax, "
		"%%cr0\n\tfnop\n\tmov %%rcx, %%cr0"
      :
      :
      : "rax", "rcx", "cc")
RAISE(raise_hlt, "hlt")

/* The handler of at_frame(): away from the stack that the frame went to. */
extern u64 hostile_rsp, hostile_rip;
extern const u8 hostile_gate[];
asm(".pushsection .text\nhostile_gate:\n\tmov hostile_rsp(%rip), %rsp\n\tjmp "
    "*hostile_rip(%rip)\n.popsection");
u64 hostile_rsp, hostile_rip;

/* An exception whose frame goes into the hypervisor's memory. */
static void at_frame(void)
{
	u64 at = region + 64 + below(region_bytes / 16 - 4) * 16;
	const u32 vectors[] = {VEC_UD, VEC_BP, 0x41, VEC_DE};

	for (u32 i = 0; i < ARRAY_SIZE(vectors); i++)
		trap_gate(vectors[i], hostile_gate);
#define FRAME(insn)                                                                                \
	asm volatile("lea 1f(%%rip), %%rax\n\tmov %%rax, %1\n\tmov %%rsp, %0\n\tmov %2, "          \
		     "%%rsp\n\txor %%ecx, %%ecx\n\t" insn "\n1:"                                   \
		     : "=m"(hostile_rsp), "=m"(hostile_rip)                                        \
		     : "r"(at)                                                                     \
		     : "rax", "rcx", "rdx", "cc", "memory")
	switch (below(4)) {
	case 0:
		FRAME("ud2");
		break;
	case 1:
		FRAME("int3");
		break;
	case 2:
		FRAME("int $0x41");
		break;
	default:
		FRAME("div %%ecx");
	}
#undef FRAME
	for (u32 i = 0; i < ARRAY_SIZE(vectors); i++)
		trap_gate(vectors[i], NULL);
	asm volatile("mov %0, %%ss" : : "r"(GDT_DATA));
	if (departs(DEPARTURE_FRAME_IN_REGION))
		signature(); /* any exit */
	expect_ones(ALIGN_DOWN(at - 8, 8));
	expect_ones(at - 40);
}

static void at_exception(void)
{
	static const struct {
		void (*run)(const void *);
		u64 supervisor, user; /* the vector at each */
	} ways[] = {
		{raise_ud, VEC_UD, VEC_UD},	 {raise_de, VEC_DE, VEC_DE},
		{raise_bp, VEC_BP, VEC_GP},	 {raise_int, VEC_GP, VEC_GP},
		{raise_int_df, VEC_DF, VEC_GP},	 {raise_icebp, VEC_DB, VEC_DB},
		{raise_gp, VEC_GP, VEC_GP},	 {raise_ss, VEC_GP, VEC_GP},
		{raise_segment, VEC_GP, VEC_GP}, {raise_far, VEC_GP, VEC_GP},
		{raise_iret, VEC_GP, VEC_GP},	 {raise_lock, VEC_UD, VEC_UD},
		{raise_long, VEC_GP, VEC_GP},	 {raise_prefixes, VEC_NONE, VEC_NONE},
		{raise_step, VEC_DB, VEC_DB},	 {raise_syscall, VEC_UD, VEC_UD},
		{raise_rsm, VEC_UD, VEC_UD},	 {raise_nm, VEC_NM, VEC_GP},
		{raise_hlt, VEC_NONE, VEC_GP},
	};
	u64 which = below(ARRAY_SIZE(ways)), vector;
	bool user = once_in(2);

	if (!user && ways[which].run == raise_hlt)
		return;
	wrmsr(MSR_EFER, l1_efer & ~EFER_SCE);
	vector = user ? try_user(ways[which].run, NULL) : try_call(ways[which].run, NULL);
	wrmsr(MSR_EFER, l1_efer);
	write_cr0(l1_cr0);
	if (ways[which].run == raise_ss && vector == VEC_SS)
		vector = VEC_GP; /* which it is in TCG */
	if (!expect_equal(vector, user ? ways[which].user : ways[which].supervisor,
			  "another exception"))
		note("way %lu, %s", which, user ? "user" : "supervisor");
}

/* ---- control and debug registers ---- */

OPERATION(do_cr0, asm volatile("mov %0, %%cr0\n\tcpuid\n\tmov %1, %%cr0"
			       :
			       : "S"(op.value), "D"(l1_cr0)
			       : "rax", "rbx", "rcx", "rdx", "memory"))
OPERATION(do_cr4, asm volatile("mov %0, %%cr4\n\tcpuid\n\tmov %1, %%cr4"
			       :
			       : "S"(op.value), "D"(l1_cr4)
			       : "rax", "rbx", "rcx", "rdx", "memory"))
OPERATION(do_cr3, asm volatile("mov %0, %%cr3\n\tcpuid\n\tmov %1, %%cr3"
			       :
			       : "S"(op.value), "D"(l1_cr3)
			       : "rax", "rbx", "rcx", "rdx", "memory"))
OPERATION(do_cr8, write_cr8(op.value))
OPERATION(do_dr0, asm volatile("mov %0, %%dr0" : : "r"(op.value)))
OPERATION(do_dr3, asm volatile("mov %0, %%dr3" : : "r"(op.value)))
OPERATION(do_dr4, asm volatile("mov %0, %%db4" : : "r"(op.value)))
OPERATION(do_dr6, asm volatile("mov %0, %%dr6" : : "r"(op.value)))
OPERATION(do_dr7, asm volatile("mov %0, %%dr7" : : "r"(op.value)))
OPERATION(do_lmsw, asm volatile("lmsw %w0\n\tclts" : : "r"(op.value | CR0_PE)))

static void at_cr(void)
{
	const u64 cr0_free = CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_CD;
	const u64 cr4_kept =
		CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_CET | CR4_PCIDE;

	switch (below(6)) {
	case 0:
		op.value = (rnd() & cr0_free) | (l1_cr0 & ~cr0_free);
		attempt(do_cr0, 0);
		break;
	case 1: /* some of them reserved */
		op.value = rnd_sparse(1 + (unsigned int)below(3));
		if (once_in(2))
			op.value &= BITS(20, 0);
		op.value = (op.value & ~cr4_kept) | (l1_cr4 & cr4_kept);
		attempt(do_cr4, BIT(VEC_GP));
		break;
	case 2: /* beyond the address size */
		op.value = l1_cr3 | BIT(platform.phys_bits + below(64 - platform.phys_bits));
		attempt(do_cr3, BIT(VEC_GP));
		break;
	case 3:
		op.value = once_in(2) ? rnd() : below(16);
		/* TCG drops the reserved bits */
		if (attempt(do_cr8, BIT(VEC_GP)) == VEC_GP)
			expect(op.value > 15, "#GP of a good MOV CR8");
		break;
	case 4:
		op.value = rnd() & 0xe;
		attempt(do_lmsw, 0);
		break;
	default:
		write_cr2(marker[0]);
		expect_equal(signature(), TALLY_CPUID_EBX, "CPUID");
		expect_equal(read_cr2(), marker[0], "CR2 after an exit");
	}
	write_cr0(l1_cr0);
	write_cr4(l1_cr4);
	write_cr3(l1_cr3);
	write_cr8(0);
}

/* A breakpoint on the hypervisor's memory, on an instruction that exits, and garbage. */
static void at_dr(void)
{
	static void (*const moves[])(const void *) = {do_dr0, do_dr3, do_dr4, do_dr6};

	op.value = rnd();
	attempt(PICK(moves), BIT(VEC_GP) | BIT(VEC_UD));
	op.value = once_in(2) ? region + below(region_bytes / 8) * 8 : (u64)code_page;
	attempt(do_dr0, 0);
	op.address = op.value;
	code_page[0] = 0x0f; /* CPUID would lose RBX: RDMSR of EFER */
	code_page[1] = 0x32;
	code_page[2] = 0xc3;
	switch (below(3)) {
	case 0: /* reserved bits, or a trap of the next access to a debug register */
		op.value = once_in(2) ? rnd() : BIT(13) | DR7_RESET;
		op.value &= ~0xffull;
		attempt(do_dr7, BIT(VEC_GP));
		break;
	case 1: /* data, of 8 bytes */
		op.value = DR7_RESET | 3 | (once_in(2) ? 3ull : 1ull) << 16 | 2ull << 18;
		attempt(do_dr7, BIT(VEC_DB));
		attempt(do_read, BIT(VEC_DB));
		break;
	default: /* the instruction */
		op.value = DR7_RESET | 3;
		attempt(do_dr7, BIT(VEC_DB));
		attempt(do_jump, BIT(VEC_DB) | BIT(VEC_UD) | BIT(VEC_GP));
	}
	op.value = DR7_RESET;
	attempt(do_dr7, BIT(VEC_DB)); /* by the trap of DR7.GD, which clears it */
	attempt(do_dr7, 0);
	op.value = DR6_RESET;
	attempt(do_dr6, 0);
}

/* ---- MSRs ---- */

/* What this machine would not survive, or would not be itself after, with or without a hypervisor. */
static const struct {
	u32 first, last;
	const char *why;
} kept_msrs[] = {
	{MSR_TSC, MSR_TSC, "TSC, and its ADJUST (3B): the clock that the PMU check is made with"},
	{0x3b, 0x3b, NULL},
	{MSR_APIC_BASE, MSR_APIC_BASE, "APIC_BASE: the timer that ends L2 would be gone"},
	{0x79, 0x79, "PATCH_LOADER: an address that microcode is loaded from"},
	{0x48, 0x4f, "SPEC_CTRL, PRED_CMD: reserved bits are #GP, others change L0's speed only"},
	{0x1a0, 0x1a0, "MISC_ENABLE: TCG shows or hides NX and MONITOR by it"},
	{0x200, 0x2ff, "MTRRs, PAT apart: the memory types of everything, L0's too"},
	{0x800, 0x8ff, "x2APIC: INIT and SMI to oneself"},
	{0xd90, 0xd90, "BNDCFGS: changes what a branch does"},
	{MSR_STAR, MSR_SFMASK, NULL}, /* restored with FS and GS, see below */
	{MSR_FS_BASE, MSR_TSC_AUX, NULL},
	{MSR_HWCR, MSR_HWCR, "HWCR: SMM lock, MCE, the TSC's frequency"},
	{0xc0010010, 0xc001001f, "SYSCFG, IORRs, TOP_MEM: where memory is"},
	{0xc0010058, 0xc0010058, "MMIO_CONF_BASE: where PCI's configuration space is"},
	{0xc0010111, 0xc0010113, "SMM_BASE, SMM_ADDR, SMM_MASK: what an SMI would execute"},
	{0xc0010130, 0xc0010140, "SEV and OS visible workarounds: the machine's firmware's"},
	{0xc0011000, 0xc0011fff, "chicken bits of the core (LS_CFG, DE_CFG, ...)"},
};

static bool keep_msr(u32 msr)
{
	for (u32 i = 0; i < ARRAY_SIZE(kept_msrs); i++)
		if (msr >= kept_msrs[i].first && msr <= kept_msrs[i].last)
			return msr != MSR_PAT;
	return msr == MSR_EFER || msr == MSR_VM_CR;
}

static u32 random_msr(void)
{
	static const struct {
		u32 first, count;
	} ranges[] = {
		{0, 0x2000},	     {0xc0000000, 0x2000},    {0xc0010000, 0x2000},
		{0x40000000, 0x110}, {MSR_EFER, 5},	      {MSR_VM_CR, 5},
		{0xc0000300, 4},     {MSR_PERFEVTSEL(0), 12}, {0xc0010000, 8},
	};
	u64 which = below(ARRAY_SIZE(ranges) + 1);

	if (which == ARRAY_SIZE(ranges))
		return (u32)rnd();
	return ranges[which].first + (u32)below(ranges[which].count);
}

static void at_msr_read(void)
{
	op.msr = random_msr();
	attempt(do_rdmsr, BIT(VEC_GP));
	op.msr = (u32)(once_in(4) ? rnd() : below(8));
	attempt(do_rdpmc, BIT(VEC_GP));
}

static void at_msr_write(void)
{
	const u64 run_on = EFER_LME | EFER_LMA | EFER_NXE;
	u64 pat = rdmsr(MSR_PAT);

	do
		op.msr = random_msr();
	while (keep_msr(op.msr));
	op.value = once_in(3) ? marker[0] : once_in(2) ? rnd() : rnd_sparse(4);
	switch (below(8)) {
	case 0:
		op.msr = MSR_EFER;
		op.value = (op.value & ~run_on) | (l1_efer & run_on);
		break;
	case 1:
		op.msr = MSR_VM_CR;
		op.value &= ~(u64)VM_CR_LOCK & (once_in(2) ? VM_CR_VALID : ~0ull);
		if (once_in(2))
			svm_disable();
		break;
	case 2:
		op.msr = MSR_VM_HSAVE_PA;
		op.value = once_in(2) ? evil_page() : (u64)sprayed;
		break;
	case 3:
		op.msr = MSR_PAT;
		break;
	default:
		break;
	}
	attempt(do_wrmsr, BIT(VEC_GP));
	if (op.msr == MSR_VM_HSAVE_PA && is_refused(op.value))
		expect(rdmsr(MSR_VM_HSAVE_PA) != op.value, "VM_HSAVE_PA took a bad page");
	op.msr = MSR_VM_CR;
	op.value = 0;
	attempt(do_wrmsr, 0);
	wrmsr(MSR_EFER, l1_efer);
	wrmsr(MSR_PAT, pat);
}

/* ---- SVM instructions in all modes ---- */

static struct {
	u64 selector; /* the segment that run_compat() and run_user() go to */
} far;

static void write_svm_instruction(bool mode_64, const u8 *end, u64 end_bytes)
{
	static const u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
	u64 at = 0;

	for (u64 n = once_in(2) ? below(5) : 0; n; n--)
		code_page[at++] = PICK(prefixes);
	if (once_in(16))
		code_page[at++] = 0xf0;
	if (mode_64 && once_in(4))
		code_page[at++] = (u8)(0x40 + below(16));
	code_page[at++] = 0x0f;
	code_page[at++] = 0x01;
	code_page[at++] = (u8)(0xd8 + below(8));
	for (u64 i = 0; i < end_bytes; i++)
		code_page[at++] = end[i];
}

OPERATION(run_64, asm volatile("call *%0"
			       :
			       : "S"(code_page), "a"(op.rax), "c"(op.rcx), "d"(op.rdx)
			       : "memory", "cc"))

/* Into a 32- or 16-bit segment and back by its RETF. */
OPERATION(run_compat,
	  asm volatile("mov %%rsp, %%rbx\n\tsub $8, %%rsp\n\tlea 1f(%%rip), %%rdi\n\tmov %%edi, "
		       "(%%rsp)\n\tmovl %3, 4(%%rsp)\n\tpush %4\n\tpush %5\n\tlretq\n1:\n\tmov "
		       "%%rbx, %%rsp"
		       : "+a"(op.rax), "+c"(op.rcx), "+d"(op.rdx)
		       : "i"(GDT_CODE), "r"(far.selector), "S"(code_page)
		       : "rbx", "rdi", "memory", "cc"))

/* The same at CPL 3, from 64-bit user code; INT VEC_TRY_RETURN ends it. */
OPERATION(run_user, asm volatile("push %3\n\tpush %4\n\tlretq"
				 : "+a"(op.rax), "+c"(op.rcx), "+d"(op.rdx)
				 : "r"(far.selector), "S"((u64)code_page)
				 : "memory", "cc"))

static u64 svm_operand(void)
{
	static const void *const good[] = {&other_vmcb, buffer, sprayed};

	switch (below(6)) {
	case 0:
		return rnd() | 8;
	case 1:
		return evil_page() | (1 + below(PAGE_SIZE - 1));
	case 2:
		return (u64)PICK(good);
	case 3: /* in the low half, too, which is all that counts outside of 64-bit mode */
		return region_page() | rnd() << 32 | BIT(platform.phys_bits);
	default:
		return region_page();
	}
}

/* The same outside of long mode: without paging, or with PAE tables. */
static void svm_legacy(bool svme0)
{
	static const u8 ret[] = {0xc3};
	static struct legacy legacy;
	static u64 pdpt[4] ALIGNED(32);
	const bool paging = once_in(2);
	u8 *entry = code_page + PAGE_SIZE / 2; /* MOV EAX; MOV ECX; JMP to the instruction */
	u32 rax = (u32)svm_operand(), rcx = (u32)rnd(), back = 0u - (u32)(PAGE_SIZE / 2) - 15;
	u64 vector;

	write_svm_instruction(false, ret, sizeof(ret));
	entry[0] = 0xb8;
	__builtin_memcpy(entry + 1, &rax, 4);
	entry[5] = 0xb9;
	__builtin_memcpy(entry + 6, &rcx, 4);
	entry[10] = 0xe9;
	__builtin_memcpy(entry + 11, &back, 4);
	paging_identity(&odd, PTE_ALL);
	for (u32 g = 0; g < 4; g++)
		pdpt[g] = (u64)odd.pd[g] | PTE_P;
	legacy = (struct legacy){
		.cr0 = (u32)(paging ? l1_cr0 : l1_cr0 & ~CR0_PG),
		.cr3 = (u32)(u64)pdpt,
		.cr4 = paging ? CR4_PAE : 0,
		.efer = (u32)(l1_efer & EFER_NXE) | (svme0 ? 0 : (u32)EFER_SVME),
		.code = (u32)(u64)entry,
	};
	vector = legacy_run(&legacy);
	if (not_allowed(vector, BIT(VEC_UD) | BIT(VEC_GP))) {
		expect(false, "an exception that no CPU raises here");
		note("vector %lu error 0x%x eip 0x%x", vector, legacy.error, legacy.eip);
	}
}

static void at_svm(void)
{
	static const u8 ret[] = {0xc3}, retf[] = {0xcb}, retf_16[] = {0x66, 0xcb},
			out[] = {0xcd, VEC_TRY_RETURN};
	const u64 allowed = BIT(VEC_UD) | BIT(VEC_GP);
	bool svme0 = once_in(6);
	u64 vector;

	op.rax = svm_operand();
	op.rcx = once_in(2) ? below(10) : rnd();
	op.rdx = rnd();
	if (svme0)
		svm_disable();
	switch (below(7)) {
	case 0:
	case 1:
		write_svm_instruction(true, ret, sizeof(ret));
		attempt(run_64, allowed);
		break;
	case 4:
		svm_legacy(svme0);
		break;
	case 2:
		far.selector = GDT_CODE32;
		write_svm_instruction(false, retf, sizeof(retf));
		attempt(run_compat, allowed);
		break;
	case 3:
		far.selector = GDT_CODE16;
		write_svm_instruction(false, retf_16, sizeof(retf_16));
		attempt(run_compat, allowed);
		break;
	default: {
		static const u64 users[] = {GDT_USER_CODE, GDT_USER_CODE32, GDT_USER_CODE16};

		far.selector = PICK(users);
		write_svm_instruction(far.selector == GDT_USER_CODE, out, sizeof(out));
		vector = try_user(run_user, NULL);
		/* VMMCALL has no CPL check and is #UD; so is each of them with SVME=0 */
		expect(vector == VEC_GP || vector == VEC_UD, "an SVM instruction at CPL 3");
	}
	}
	svm_enable();
	stgi();
	vmload((u64)&original);
}

/* Addresses by name: #GP for what is no page of L1's. */
static void at_address(void)
{
	static void (*const names[])(const void *) = {do_vmrun, do_vmload, do_vmsave, do_hsave};
	void (*run)(const void *) = PICK(names);
	u64 vector;

	op.address = evil_page();
	if (once_in(4))
		op.address |= 1 + below(PAGE_SIZE - 1);
	else if ((run == do_vmload || run == do_vmsave) && is_mmio(op.address))
		return;
	vector = attempt(run, BIT(VEC_GP));
	stgi();
	vmload((u64)&original);
	expect((vector == VEC_GP) == is_refused(op.address), "#GP for an address, or none");
	op.rcx = rnd();
	op.address = rnd();
	attempt(do_invlpga, 0);
}

/* ---- VMCBs ---- */

/* Random bytes are refused: the chance that EFER's reserved bits are all 0 is 2^-50. */
static void at_vmcb_random(void)
{
	u64 *words = (u64 *)&other_vmcb;

	for (u64 i = 0; i < PAGE_SIZE / 8; i++)
		words[i] = once_in(8) ? marker[i % 2] : rnd();
	op.address = (u64)&other_vmcb;
	attempt(do_vmrun, 0);
	stgi();
	expect_equal(other_vmcb.control.exit_code, VMEXIT_INVALID, "random bytes were no VMCB");
}

/* A VMCB that is also a permission map, a nested table, L2's page table, and a page table of L1's. */
static void at_vmcb_alias(void)
{
	struct vmcb_control *c = &l2.vmcb.control;
	const u64 self = (u64)&l2.vmcb;

	fresh_l2(h_rdmsr);
	l2.regs.rcx = random_msr();
	l2_intercept(INTERCEPT(MSR));
	l2_intercept(INTERCEPT(IOIO));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
	if (once_in(2))
		l2_use_npt();
	if (once_in(2))
		c->msrpm_base_pa = self - (once_in(2) ? PAGE_SIZE : 0);
	if (once_in(2))
		c->iopm_base_pa = self - below(3) * PAGE_SIZE;
	if (once_in(3)) {
		c->np_ctl |= NP_ENABLE;
		c->nested_cr3 = self;
	}
	if (once_in(3))
		l2.vmcb.save.cr3 = self;
	if (once_in(3)) {
		paging_identity(&odd, PTE_ALL);
		*paging_entry(&odd, ALIAS, 2) = self | PTE_ALL;
		odd_enter();
		op.address = ALIAS + below(512) * PAGE_SIZE;
		attempt(do_read, BIT(VEC_PF));
	}
	wrmsr(MSR_VM_HSAVE_PA, self);
	run_l2();
	odd_leave();
	expect(c->exit_code != VMEXIT_SHUTDOWN, "shutdown");
	/* And a page of L1's tables as VMCB: the intercepts do not have VMRUN's. */
	paging_identity(&odd, PTE_ALL);
	odd_enter();
	op.address = once_in(2) ? (u64)odd.pml4 : (u64)odd.pdpt;
	attempt(do_vmrun, 0);
	stgi();
	odd_leave();
	wrmsr(MSR_VM_HSAVE_PA, (u64)hsave);
}

/* Maps where they cannot be: the hypervisor's, or partly. All ones there, so everything is intercepted. */
static void at_maps(void)
{
	struct vmcb_control *c = &l2.vmcb.control;
	bool io = once_in(2);
	u64 pages = io ? IOPM_BYTES / PAGE_SIZE : MSRPM_BYTES / PAGE_SIZE, evil;

	evil = once_in(2) ? region_page() : region - below(pages) * PAGE_SIZE;
	fresh_l2(io ? h_in : once_in(2) ? h_rdmsr : h_wrmsr);
	l2_intercept(INTERCEPT(IOIO));
	l2_intercept(INTERCEPT(MSR));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
	l2.regs.rdx = 0x80;
	l2.regs.rcx = MSR_SYSENTER_CS;
	l2.vmcb.save.rax = 0;
	if (once_in(8))
		evil = BIT(platform.phys_bits) - below(pages + 1) * PAGE_SIZE;
	if (io)
		c->iopm_base_pa = evil | below(PAGE_SIZE);
	else
		c->msrpm_base_pa = evil | below(PAGE_SIZE);
	run_l2();
	if (evil >= BIT(platform.phys_bits) - (pages - 1) * PAGE_SIZE)
		expect_exit(VMEXIT_INVALID);
	else if (evil >= region && evil < region + region_bytes)
		expect_exit(io ? VMEXIT_IOIO : VMEXIT_MSR);
	vmload((u64)&original);
}

/* ---- an L2 in a cage: random control and save areas, and nested tables of the cage only ---- */

static struct cage cages[2];

static void random_code(void)
{
	static const u8 pieces[][8] = {
		{0x0f, 0xa2},
		{0x0f, 0x01, 0xd8},
		{0x0f, 0x01, 0xda},
		{0x0f, 0x01, 0xdb},
		{0x0f, 0x01, 0xdc},
		{0x0f, 0x01, 0xdd},
		{0x0f, 0x01, 0xdf},
		{0x48, 0x8b, 0x07},	  /* MOV RAX, [RDI] */
		{0x48, 0x89, 0x37},	  /* MOV [RDI], RSI */
		{0xf0, 0x48, 0x01, 0x37}, /* LOCK ADD [RDI], RSI */
		{0xf3, 0xa4},		  /* REP MOVSB */
		{0xcd, 0x41},
		{0xcc},
		{0x0f, 0x0b},
		{0x0f, 0x32},
		{0x0f, 0x30},
		{0xe4, 0x80},
		{0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8},
		{0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0},
		{0x44, 0x0f, 0x22, 0xc0},
		{0x0f, 0x01, 0x38},
		{0xff, 0xe7}, /* JMP RDI */
		{0x54, 0x5c}, /* PUSH RSP; POP RSP */
		{0xfb},
	};
	u64 at = 0;

	cage_clear_code();
	for (u64 n = 1 + below(6); n; n--) {
		const u8 *piece = PICK(pieces);

		for (u64 i = 0; i < 8;
		     i++) /* zeroes behind: ADD [RAX], AL would be one: NOPs instead */
			cage->code[at + i] = piece[i] ? piece[i] : 0x90;
		at += 8;
	}
	cage_write_end(at);
}

/* Nested tables with the cage, and evil in what is left of its 2 MByte. */
static void random_cage_npt(void)
{
	const u64 evils[] = {region_page(), (u64)&l2.vmcb, (u64)l2.msrpm, NOTHING_THERE,
			     MMIO_ABSENT};

	cage_npt();
	for (u32 g = 0; g < ARRAY_SIZE(l2.npt.pd); g++)
		for (u32 i = 0; i < 512; i++)
			if (!l2.npt.pd[g][i] && once_in(64))
				l2.npt.pd[g][i] = region | PTE_ALL | PTE_PS;
	for (u32 i = 0; i < 512; i++)
		if (!l2.npt.pt[i] && once_in(4))
			l2.npt.pt[i] = PICK(evils) | PTE_ALL;
}

static void spoil(void *area, u64 first, u64 end)
{
	u64 *word = (u64 *)((u8 *)area + first + below((end - first) / 8) * 8);

	switch (below(5)) {
	case 0:
		*word = rnd();
		break;
	case 1:
		*word ^= BIT(below(64));
		break;
	case 2:
		*word = marker[0];
		break;
	case 3:
		*word = evil_page();
		break;
	default:
		*word = once_in(2) ? 0 : rnd_sparse(3);
	}
}

/* What L2 does must not get out, nor depend on the clock; QEMU aborts on the delivery of a single-step trap of HLT that
 * exits, and bare on MOV CR8. */
static void intercept_escapes(void)
{
	static const unsigned int intercepts[] = {
		INTERCEPT(IOIO),       INTERCEPT(MSR),	INTERCEPT(HLT), INTERCEPT(MWAIT),
		INTERCEPT_CR_WRITE(4), INTERCEPT(INIT), INTERCEPT(SMI),
	};

	cage_intercept(&l2.vmcb.control);
	for (u32 i = 0; i < ARRAY_SIZE(intercepts); i++)
		l2_intercept(intercepts[i]);
}

static void random_control(struct vmcb_control *c)
{
	static const u8 tlb[] = {0, 1, 3, 7, 2, 4, 0xff};

	for (u32 i = 0; i < ARRAY_SIZE(c->intercepts); i++)
		c->intercepts[i] |= (u32)rnd_sparse(once_in(3) ? 1 : 3);
	c->tlb_control = PICK(tlb);
	c->asid = once_in(8) ? (u32)rnd() : 1 + (u32)below(12);
	if (once_in(2))
		c->int_ctl = (u32)rnd();
	c->int_vector = (u32)rnd();
	if (once_in(3))
		c->int_state = rnd();
	if (once_in(3))
		c->tsc_offset = rnd();
	if (once_in(2))
		c->event_inj = EVENT_V | below(once_in(2) ? 32 : 256) | below(8) << 8 |
			       (once_in(2) ? EVENT_EV | marker[0] << EVENT_ERROR_SHIFT : 0);
	for (u64 n = below(4); n; n--)
		spoil(c, 0, sizeof(*c));
}

static void at_cage(void)
{
	struct vmcb_control *c = &l2.vmcb.control;
	struct vmcb_save *s = &l2.vmcb.save;
	const u64 page = ALIGN_DOWN((u64)cage, PAGE_2M);

	/* L2s before had all memory under the same ASIDs, and this one need not ask for a flush */
	fresh_l2(h_exit);
	c->tlb_control = TLB_CONTROL_FLUSH_ALL;
	run_l2();
	fresh_l2(cage->code);
	random_code();
	random_control(c);
	cage_fill();
	spray(cage->stack, sizeof(cage->stack));
	random_cage_npt();
	for (u64 i = 0; i < sizeof(l2.msrpm); i++)
		l2.msrpm[i] = l2.iopm[i] = 0xff;
	if (once_in(6)) {
		s->cs.attrib &= (u16) ~(SEG_ATTR_L | SEG_ATTR_DB);
		s->cs.attrib |= (u16)(once_in(2) ? SEG_ATTR_DB : 0);
	}
	if (once_in(6))
		s->rflags ^= rnd() & BITS(21, 0);
	for (u64 n = below(5); n; n--)
		spoil(s, 0, 0x2a0);
	if (once_in(4))
		(once_in(2) ? &s->idtr : &s->gdtr)->base = page + below(512) * PAGE_SIZE;
	if (once_in(4))
		s->cr3 = page + below(512) * PAGE_SIZE;
	l2.regs.rdi = page + below(PAGE_2M / 8) * 8;
	l2.regs.rsi = once_in(2) ? marker[0] : page + below(PAGE_2M);
	l2.regs.rcx = (u32)below(64);
	intercept_escapes();
	if (!once_in(32))
		vmcb_set_intercept(c, INTERCEPT(VMRUN));
	c->int_ctl |= (u32)V_INTR_MASKING;
	c->np_ctl |= NP_ENABLE;
	c->iopm_base_pa = once_in(8) ? region_page() : (u64)l2.iopm;
	c->msrpm_base_pa = once_in(8) ? region_page() : (u64)l2.msrpm;
	c->nested_cr3 = once_in(12) ? evil_page() : paging_root(&l2.npt);
	/* TCG's #VMEXIT from LME=1, PG=0, PAE=0 leaves its host without paging */
	if ((s->efer & EFER_LME) && !(s->cr0 & CR0_PG))
		s->cr4 |= CR4_PAE;
	l2_run_for(TIMER_VECTOR, DEADLINE_CAGE);
	expect(c->exit_code == VMEXIT_INVALID || c->exit_code == VMEXIT_NPF ||
		       c->exit_code < INTERCEPT_BITS,
	       "an exit that does not exist");
	vmload((u64)&original);
}

/* ---- nested tables that lead where they must not ---- */

/* L2 at ALIAS with a nested leaf on the hypervisor's memory, of any size. */
static void at_npt_leaf(void)
{
	static const u8 *const codes[] = {h_read, h_write, h_add, h_fill, h_push, h_jump};
	const u8 *code = PICK(codes);
	unsigned int level = 1 + (unsigned int)below(platform.long_1g ? 3 : 2);
	const u64 sizes[] = {0, PAGE_SIZE, PAGE_2M, PAGE_1G}, at = region_page();
	u64 flags = PTE_P | PTE_W | PTE_U | (once_in(2) ? PTE_A | PTE_D : 0);

	fresh_l2(code);
	l2_use_npt();
	if (level == 1)
		paging_split(&l2.npt, ALIAS);
	*paging_entry(&l2.npt, ALIAS, level) =
		ALIGN_DOWN(at, sizes[level]) | flags | (level > 1 ? PTE_PS : 0);
	if (level == 1)
		*(&l2.npt.pt[0]) = at | flags;
	l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
	l2.regs.rdi = ALIAS + (at & (sizes[level] - 1)) + 8 * below(500) + 16;
	l2.regs.rcx = 64;
	run_l2();
	if (code == h_jump) {
		expect_exit(VMEXIT_EXCEPTION(VEC_UD));
	} else {
		expect_exit(VMEXIT_VMMCALL);
		expect_equal(l2.vmcb.save.rax, ~0ull, "L2 reads something else than FFh");
	}
	expect_ones(at);
}

/* Tables of the nested walk in the hypervisor's memory, in MMIO, beyond everything, in themselves, in the VMCB. */
static void at_npt_table(void)
{
	const u64 places[] = {region_page(),	 region_page(),	    MMIO_ABSENT,   (u64)l2.npt.pdpt,
			      (u64)l2.npt.pd[3], (u64)&l2.vmcb,	    (u64)l2.msrpm, NOTHING_THERE,
			      (u64)l2.npt.pml4,	 paging_root(&odd), l1_cr3};
	unsigned int level = 2 + (unsigned int)below(2);
	u64 at = PICK(places);

	fresh_l2(h_read);
	l2_use_npt();
	intercept_escapes();
	l2.regs.rdi = ALIAS + below(PAGE_1G / 8) * 8;
	if (once_in(6)) {
		l2.vmcb.control.nested_cr3 = once_in(2) ? region_page() : at;
	} else {
		*paging_entry(&l2.npt, ALIAS, level) = at | PTE_P | PTE_W | PTE_U;
		if (level == 2)
			l2.regs.rdi = ALIAS + below(PAGE_2M / 8) * 8;
	}
	run_l2();
	if (at >= region && at < region + region_bytes) {
		expect_exit(VMEXIT_NPF);
		expect(l2.vmcb.control.exit_info_1 & PFERR_RSV, "all ones are reserved bits");
	}
}

/* L2's own tables, IDT and stack there. */
static void at_npt_l2_tables(void)
{
	u64 at = region_page();

	fresh_l2(h_int);
	if (once_in(2))
		l2_use_npt();
	intercept_escapes();
	switch (below(4)) {
	case 0:
		l2.vmcb.save.cr3 = at;
		break;
	case 1:
		l2.vmcb.save.idtr.base = at;
		break;
	case 2:
		l2_catch_events();
		l2.vmcb.save.rsp = at + 16 * below(200);
		break;
	default:
		l2_catch_events();
		paging_identity(&l2_tables, PTE_ALL);
		*paging_entry(&l2_tables, ALIAS, 2 + (unsigned int)below(2)) = at | PTE_ALL;
		l2.vmcb.save.cr3 = paging_root(&l2_tables);
		l2.vmcb.save.rsp = ALIAS + PAGE_SIZE;
	}
	run_l2();
	expect(l2.vmcb.control.exit_code == VMEXIT_VMMCALL ||
		       l2.vmcb.control.exit_code == VMEXIT_SHUTDOWN ||
		       l2.vmcb.control.exit_code == VMEXIT_NPF,
	       "neither the handler nor a shutdown");
	expect_ones(at);
}

/* L2 can write to its own nested tables, VMCB and maps, and gives itself the hypervisor's memory. */
static void at_l2_edits(void)
{
	fresh_l2(h_edit);
	l2_use_npt();
	intercept_escapes();
	l2.regs.r8 = ALIAS + 8 * below(512);
	switch (below(3)) {
	case 0: /* the nested leaf */
		l2.regs.rdi = (u64)paging_entry(&l2.npt, ALIAS, 2);
		l2.regs.rsi = ALIGN_DOWN(region_page(), PAGE_2M) | PTE_ALL | PTE_PS;
		l2.regs.r8 = ALIAS + (region & (PAGE_2M - 1));
		break;
	case 1: /* a nested table */
		l2.regs.rdi = (u64)paging_entry(&l2.npt, ALIAS, 2 + (unsigned int)below(2));
		l2.regs.rsi = region_page() | PTE_ALL;
		break;
	default: /* VMCB: nCR3, maps, ASID, intercepts: read once, at VMRUN */
		l2.regs.rdi = (u64)&l2.vmcb + below(0xc0 / 8) * 8;
		l2.regs.rsi = once_in(2) ? region_page() : marker[0];
		l2.regs.r8 = (u64)buffer;
		run_l2();
		expect_exit(VMEXIT_VMMCALL);
		return;
	}
	run_l2();
	if (l2.vmcb.control.exit_code == VMEXIT_VMMCALL)
		expect_equal(l2.vmcb.save.rax, ~0ull, "L2 gave itself something else than FFh");
	else
		expect_exit(VMEXIT_NPF);
}

/* Without nested paging, L2's physical memory is L1's. */
static void at_l2_without_npt(void)
{
	static const u8 *const codes[] = {h_read, h_write, h_add, h_fill, h_push};

	fresh_l2(PICK(codes));
	l2.regs.rdi = region_page() + 8 * below(500) + 16;
	l2.regs.rcx = 64;
	run_l2();
	expect_exit(VMEXIT_VMMCALL);
	expect_equal(l2.vmcb.save.rax, ~0ull, "L2 reads something else than FFh");
}

/* SVM instructions of L2, intercepted or not; the addresses are L1-physical. */
static void at_l2_svm(void)
{
	static const struct {
		const u8 *code;
		unsigned int intercept;
	} ways[] = {
		{h_vmload, INTERCEPT(VMLOAD)}, {h_vmsave, INTERCEPT(VMSAVE)},
		{h_vmrun, INTERCEPT(VMRUN)},   {h_clgi, INTERCEPT(CLGI)},
		{h_stgi, INTERCEPT(STGI)},     {h_invlpga, INTERCEPT(INVLPGA)},
		{h_skinit, INTERCEPT(SKINIT)},
	};
	u64 which = below(ARRAY_SIZE(ways)), at = svm_operand();
	bool intercepted = once_in(2);

	fresh_l2(ways[which].code);
	if (once_in(2))
		l2_use_npt();
	if (intercepted)
		l2_intercept(ways[which].intercept);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
	l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
	l2.vmcb.save.rax = at;
	run_l2();
	/* What the CPU refuses comes before the intercept, L0's own refusal after it. */
	if ((ways[which].code == h_vmload || ways[which].code == h_vmsave) && is_refused(at))
		expect_exit(intercepted && in_region(at) && !(at % PAGE_SIZE)
				    ? ways[which].intercept
				    : VMEXIT_EXCEPTION(VEC_GP));
	vmload((u64)&original);
}

/* ---- hypercalls ---- */

static const u64 known_calls[] = {TALLY_CALL_STATUS,	 TALLY_CALL_LOG_READ,
				  TALLY_CALL_STATS,	 TALLY_CALL_FILTER_SET,
				  TALLY_CALL_FILTER_GET, TALLY_CALL_TRACE_CONTROL,
				  TALLY_CALL_TRACE_READ};

/* A filter that is often nearly right; what is set by it is taken back, for the PMU is checked. */
static void random_filter(struct tally_filter *filter)
{
	for (u32 i = 0; i < sizeof(*filter) / 8; i++)
		((u64 *)filter)[i] = once_in(2) ? rnd() : rnd_sparse(4);
	if (once_in(4))
		return;
	*filter = (struct tally_filter){.version = TALLY_FILTER_VERSION,
					.action = (u32)below(4),
					.count = (u32)below(once_in(4) ? 80 : 3)};
}

static void at_hypercall(void)
{
	static const struct tally_filter off = {.version = TALLY_FILTER_VERSION};
	u64 call = PICK(known_calls), vector;
	bool known = false;

	op.rax = !once_in(6) ? call : once_in(2) ? call ^ BIT(below(64)) : marker[0];
	for (u64 i = 0; i < ARRAY_SIZE(known_calls); i++)
		known |= op.rax == known_calls[i];
	switch (below(4)) {
	case 0:
		op.address = (u64)buffer + below(2 * PAGE_SIZE);
		break;
	case 1:
		op.address = (u64)buffer + below(2 * PAGE_SIZE / 8) * 8;
		break;
	default: /* not the APIC: what is written there could be an INIT */
		do
			op.address = evil_page() + below(PAGE_SIZE);
		while (op.address - MMIO_APIC < PAGE_SIZE || op.address - MMIO_HPET < PAGE_SIZE);
	}
	op.rcx = once_in(4) ? rnd() : below(PAGE_SIZE + 100);
	op.rdx = once_in(2) ? rnd() : below(70000);
	call = op.rax;
	if (call == TALLY_CALL_FILTER_SET && once_in(2)) {
		op.address = (u64)buffer + below(4) * PAGE_SIZE;
		random_filter((struct tally_filter *)op.address);
	}
	vector = attempt(do_hypercall, BIT(VEC_UD));
	expect((vector == VEC_NONE) == known, "#UD of a hypercall, or none");
	if (call == TALLY_CALL_TRACE_CONTROL) /* has no buffer */
		hypercall(call, 0, 0, 0);
	else if (vector == VEC_NONE && is_refused(ALIGN_DOWN(op.address, PAGE_SIZE)))
		expect((s64)op.rax < 0, "a buffer that is no memory of L1's");
	if (call == TALLY_CALL_FILTER_SET && vector == VEC_NONE && !op.rax) {
		for (u64 i = 0; i < sizeof(off); i++)
			buffer[i] = ((const u8 *)&off)[i];
		expect_equal((u64)hypercall(call, (u64)buffer, sizeof(off), 0), 0, "filter off");
	}
	/* from CPL 3 each is #UD */
	op.rax = call;
	expect_equal(try_user(do_hypercall, NULL), VEC_UD, "a hypercall at CPL 3");
}

/* ---- GIF and interrupts ---- */

static void at_gif(void)
{
	u64 sent = 0, ipis = 0, strays = trap_strays;
	bool gif = true;

	apic_count(TIMER_VECTOR);
	for (u64 n = 1 + below(12); n; n--)
		switch (below(8)) {
		case 0:
			clgi();
			gif = false;
			break;
		case 1:
			stgi();
			gif = true;
			break;
		case 2:
			sent++;
			apic_self_nmi();
			break;
		case 3:
			ipis++;
			apic_self_ipi(TIMER_VECTOR);
			break;
		case 4:
			signature();
			break;
		case 5: /* whatever GIF is, L2 has 1, and after it L1 has 0 */
			fresh_l2(h_exit);
			l2_intercept(INTERCEPT(NMI));
			svm_vmrun(&l2.vmcb, &l2.regs);
			gif = false;
			break;
		case 6:
			write_cr8(below(16));
			write_cr8(0);
			break;
		default:
			interrupt_window();
		}
	stgi();
	interrupt_window();
	signature();
	interrupt_window();
	apic_count_end(TIMER_VECTOR);
	(void)gif;
	expect(!sent == !nmis && nmis <= sent, "NMIs lost or made up");
	expect(!ipis == !interrupts && interrupts <= ipis && trap_strays == strays,
	       "interrupts lost or made up");
}

/* ---- ASIDs, flushes, more spaces and tables than there are ---- */

static void at_tlb(void)
{
	static struct paging spaces[3];
	static bool ready;

	if (!ready) {
		for (u32 i = 0; i < ARRAY_SIZE(spaces); i++)
			paging_identity(&spaces[i], PTE_ALL & ~(PTE_A | PTE_D));
		ready = true;
	}
	for (u64 n = 1 + below(12); n; n--) {
		struct paging *p = &PICK(spaces);
		u64 to = once_in(3) ? region : (u64)sprayed;
		u64 *leaf = paging_entry(p, ALIAS, 2);

		fresh_l2(h_read);
		l2.vmcb.control.np_ctl = NP_ENABLE;
		l2.vmcb.control.nested_cr3 = paging_root(p) | (once_in(4) ? below(PAGE_SIZE) : 0);
		l2.vmcb.control.asid = once_in(3) ? (u32)rnd() | 1 : 1 + (u32)below(20);
		*leaf = ALIGN_DOWN(to, PAGE_2M) | PTE_P | PTE_W | PTE_U | PTE_PS;
		l2.vmcb.control.tlb_control = (u8)(1 + 2 * below(2)); /* 1 or 3 */
		l2.regs.rdi = ALIAS + (to & (PAGE_2M - 1));
		run_l2();
		expect_exit(VMEXIT_VMMCALL);
		expect_equal(l2.vmcb.save.rax, to == region ? ~0ull : marker[0],
			     "after a flush L2 reads what it is mapped to");
		/* Changed without a flush, it may be either. */
		to = to == region ? (u64)sprayed : region;
		*leaf = ALIGN_DOWN(to, PAGE_2M) | PTE_P | PTE_W | PTE_U | PTE_PS;
		l2.vmcb.control.tlb_control = TLB_CONTROL_NONE;
		l2.vmcb.save.rip = (u64)h_exit;
		run_l2();
		expect_exit(VMEXIT_VMMCALL);
		op.rcx = l2.vmcb.control.asid;
		op.address = l2.regs.rdi;
		attempt(do_invlpga, 0);
	}
}

/* 1024 page tables for the shadow, which has half as many pages. */
static void at_exhaust(void)
{
	fresh_l2(h_stride);
	l2_use_npt();
	paging_identity(&l2_tables, PTE_ALL);
	for (u32 i = 0; i < 512; i++)
		l2.npt.pt[i] = (once_in(2) ? region_page() : (u64)sprayed) | PTE_P | PTE_W | PTE_U;
	for (u32 g = 2; g < 4; g++)
		for (u32 i = 0; i < 512; i++)
			l2.npt.pd[g][i] = (u64)l2.npt.pt | PTE_P | PTE_W | PTE_U;
	l2.regs.rdi = 2 * PAGE_1G + below(512) * PAGE_SIZE;
	l2.regs.rsi = PAGE_2M;
	l2.regs.rcx = 1023;
	clgi();
	svm_vmrun(&l2.vmcb, &l2.regs); /* no deadline: it ends by itself */
	stgi();
	expect_exit(VMEXIT_VMMCALL);
	expect(l2.vmcb.save.rax == ~0ull || l2.vmcb.save.rax == marker[0],
	       "L2 reads what it was not given");
	expect(hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0) == 0, "status");
	expect(status.shadow_pages <= 512, "more shadow pages than there are");
}

/* ==== the run ==== */

static struct attack {
	const char *name;
	void (*run)(void);
	u32 weight;
	u32 count;
} attacks[] = {
	{"CPU accesses", at_cpu, 4, 0},
	{"L1's page tables", at_tables, 4, 0},
	{"stale code", at_stale, 3, 0},
	{"descriptor tables", at_segments, 2, 0},
	{"exceptions", at_exception, 3, 0},
	{"exception frames", at_frame, 3, 0},
	{"control registers", at_cr, 3, 0},
	{"debug registers", at_dr, 3, 0},
	{"MSR reads", at_msr_read, 3, 0},
	{"MSR writes", at_msr_write, 4, 0},
	{"SVM instructions", at_svm, 8, 0},
	{"SVM addresses", at_address, 4, 0},
	{"random VMCBs", at_vmcb_random, 2, 0},
	{"VMCBs that are tables", at_vmcb_alias, 4, 0},
	{"permission maps", at_maps, 4, 0},
	{"caged L2", at_cage, 12, 0},
	{"nested leaves", at_npt_leaf, 5, 0},
	{"nested tables", at_npt_table, 5, 0},
	{"L2's tables", at_npt_l2_tables, 4, 0},
	{"L2 edits its tables", at_l2_edits, 4, 0},
	{"L2 without nested paging", at_l2_without_npt, 3, 0},
	{"L2's SVM instructions", at_l2_svm, 4, 0},
	{"hypercalls", at_hypercall, 4, 0},
	{"GIF", at_gif, 4, 0},
	{"ASIDs and flushes", at_tlb, 3, 0},
	{"shadow exhaustion", at_exhaust, 1, 0},
};

static struct attack *choose_attack(void)
{
	u64 total = 0, at;

	for (u32 i = 0; i < ARRAY_SIZE(attacks); i++)
		total += attacks[i].weight;
	at = below(total);
	for (u32 i = 0;; i++) {
		if (at < attacks[i].weight)
			return &attacks[i];
		at -= attacks[i].weight;
	}
}

static void check_l1(void)
{
	expect_equal(read_cr0(), l1_cr0, "L1's CR0");
	expect_equal(read_cr3(), l1_cr3, "L1's CR3");
	expect_equal(read_cr4(), l1_cr4, "L1's CR4");
	expect_equal(read_cr8(), 0, "L1's CR8");
	expect_equal(rdmsr(MSR_EFER), l1_efer, "L1's EFER");
	expect(!(read_flags() & (RFLAGS_IF | RFLAGS_TF)), "L1's RFLAGS");
	expect_ones(region + below(region_bytes / 8) * 8);
}

/* ---- the log, read as it grows ---- */

static struct log_class {
	const char *text;
	u32 least, most, lines;
} log_classes[] = {
	{"event=start", 1, MP_CPUS, 0}, /* of each CPU */
	{"event=hole level=L1 what=read", 1, 8, 0},
	{"event=hole level=L1 what=write", 1, 8, 0},
	{"event=hole level=L1 what=VMCB", 1, 8, 0},
	{"event=hole level=L1 what=VMLOAD", 1, 8, 0},
	{"event=hole level=L1 what=VMSAVE", 1, 8, 0},
	{"event=hole level=L1 what=VM_HSAVE_PA", 1, 8, 0},
	{"event=hole level=L1 what=MSRPM", 1, 8, 0},
	{"event=hole level=L1 what=IOPM", 1, 8, 0},
	{"event=hole level=L1 what=nCR3", 1, 8, 0},
	{"event=hole level=L1 what=hypercall-buffer", 1, 8, 0},
	{"event=hole level=L2 what=read", 1, 8, 0},
	{"event=hole level=L2 what=write", 1, 8, 0},
	{"event=hole level=L2 what=nested-table", 1, 8, 0},
	{"event=hole level=L2 what=VMLOAD", 1, 8, 0},
	{"event=hole level=L2 what=VMSAVE", 1, 8, 0},
	{"event=vmexit_invalid", 1, 256, 0},
	{"rule=VMRUN_INTERCEPT: ", 1, 4, 0},
	{"rule=EFER_NO_SVME: ", 1, 4, 0},
	{"event=changed-insn", 1, 64, 0},
	{"event=vm_cr", 1, 32, 0},
	{"(further ones are not logged)", 8, ~0u, 0},
	{"event=shutdown", 0, 0, 0},
};

static u64 log_position, log_lines, log_lost;

static bool has(const char *line, const char *text)
{
	for (; *line; line++) {
		u64 i = 0;

		while (text[i] && line[i] == text[i])
			i++;
		if (!text[i])
			return true;
	}
	return false;
}

static void log_line(const char *line)
{
	log_lines++;
	for (u32 i = 0; i < ARRAY_SIZE(log_classes); i++)
		log_classes[i].lines += has(line, log_classes[i].text);
}

static void log_drain(void)
{
	static char line[512], chunk[PAGE_SIZE] ALIGNED(4096);
	static u64 at;

	for (;;) {
		u64 bytes, next = log_position, call = TALLY_CALL_LOG_READ;

		asm volatile("vmmcall"
			     : "+a"(call), "+d"(next)
			     : "b"(chunk), "c"(sizeof(chunk))
			     : "memory");
		bytes = call;
		if (!expect((s64)bytes >= 0 && bytes <= sizeof(chunk), "the log") || !bytes)
			return;
		log_lost += next - log_position - bytes;
		log_position = next;
		for (u64 i = 0; i < bytes; i++) {
			if (chunk[i] == '\n') {
				line[at] = 0;
				log_line(line);
				at = 0;
			} else if (at < sizeof(line) - 1) {
				line[at++] = chunk[i];
			}
		}
	}
}

static void check_alive(void)
{
	struct cpuid hv = cpuid(CPUID_HYPERVISOR);

	expect(hv.ebx == TALLY_CPUID_EBX && hv.ecx == TALLY_CPUID_ECX && hv.edx == TALLY_CPUID_EDX,
	       "the signature");
	expect_equal((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0), 0, "status");
	expect(status.version == TALLY_ABI_VERSION && status.region_gpa == region &&
		       status.region_bytes == region_bytes && status.shadow_pages <= 512 &&
		       status.counters == PMU_COUNTERS,
	       "what the status says");
	log_drain();
}

static bool region_is_ones(u64 at)
{
	for (u64 end = at + region_bytes; at < end; at += 8)
		if (*(volatile u64 *)at != ~0ull)
			return expect_equal(*(volatile u64 *)at, ~0ull, "the hypervisor's memory");
	return true;
}

static int com2_read(void)
{
	return inb(COM2 + 5) & 1 ? inb(COM2) : -1;
}

static bool has_runner(void)
{
	return inb(COM2 + 5) != 0xff;
}

static void progress(void)
{
	if (every_index())
		return;
	note("%lu steps, %lu exits, %lu nested switches, %lu touches of the hypervisor's memory, "
	     "%lu log lines, %u failures",
	     step, status.exits, status.transitions, status.hole_accesses, log_lines, failures);
}

static void run_steps(const void *arg)
{
	(void)arg;
	for (step = common->first_step; failures < 20; step++) {
		struct attack *a;

		if (!every_index() && has_runner() && com2_read() == 's')
			common->stop = true;
		if (has_runner() ? common->stop : step == STEPS / tap_instances())
			break;
		random_state = random_begin(step);
		a = choose_attack();
		a->count++;
		attack_name = a->name;
		/* Somebody is looking for a step. Of the other CPUs the log is too short for it. */
		if (common->first_step && !every_index())
			note("step %lu: %s", step, attack_name);
		a->run();
		stgi();
		svm_enable();
		vmload((u64)&original);
		check_l1();
		if (step % ALIVE_STEPS == 0) {
			attack_name = "the checks after it";
			good_l2();
			check_alive();
		}
		if (step % REGION_STEPS == REGION_STEPS - 1)
			region_is_ones(region);
		if (step % PROGRESS_STEPS == PROGRESS_STEPS - 1)
			progress();
	}
	attack_name = "the end";
	progress();
	note("CPU %u: %lu steps", every_index(), step - common->first_step);
	for (u32 i = 0; i < ARRAY_SIZE(attacks); i++) {
		note("attack: %7u times %s", attacks[i].count, attacks[i].name);
		tap_check(attacks[i].count || step - common->first_step < 1000,
			  "each attack was made");
	}
	CHECK_EQ(failures, 0);
	every_meet();
}

/* ---- what must hold at the end ---- */

/* Maps the region at ALIAS with leaves of a level; below 1 GByte in all. */
static u64 alias_region(struct paging *p, unsigned int level, u64 part)
{
	u64 at = region + part * PAGE_2M;

	paging_identity(p, PTE_ALL);
	if (level == 3) {
		*paging_entry(p, ALIAS, 3) = ALIGN_DOWN(at, PAGE_1G) | PTE_ALL | PTE_PS;
		return ALIAS + at % PAGE_1G;
	}
	*paging_entry(p, ALIAS, 2) = at | PTE_ALL | PTE_PS;
	if (level == 1) {
		paging_split(p, ALIAS);
		for (u32 i = 0; i < 512; i++)
			p->pt[i] = (at + i * PAGE_SIZE) | PTE_ALL;
	}
	return ALIAS;
}

static void check_region_l1(const void *arg)
{
	(void)arg;
	CHECK(region_is_ones(region));
	for (unsigned int level = 1; level <= (platform.long_1g ? 3 : 2); level++)
		for (u64 part = 0; part < region_bytes / PAGE_2M; part++) {
			u64 at = alias_region(&odd, level, part);

			odd_enter();
			for (u64 i = 0; i < PAGE_2M; i += 8)
				if (*(volatile u64 *)(at + i) != ~0ull) {
					note("level %u, part %lu, offset 0x%lx", level, part, i);
					CHECK_EQ(*(volatile u64 *)(at + i), ~0ull);
					break;
				}
			odd_leave();
		}
}

static void check_region_l2(const void *arg)
{
	const bool nested = arg != NULL;

	for (unsigned int level = 1; level <= (platform.long_1g ? 3 : 2); level++)
		for (u64 part = 0; part < region_bytes / PAGE_2M; part++) {
			fresh_l2(h_ones);
			if (nested)
				l2_use_npt();
			else
				l2.vmcb.save.cr3 = paging_root(&l2_tables);
			l2.regs.rdi = alias_region(nested ? &l2.npt : &l2_tables, level, part);
			l2.regs.rcx = PAGE_2M / 8;
			clgi();
			svm_vmrun(&l2.vmcb, &l2.regs);
			stgi();
			CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
			if (!CHECK_EQ(l2.vmcb.save.rax, ~0ull) || !CHECK_EQ(l2.regs.rcx, 0))
				note("level %u, part %lu, at 0x%lx", level, part, l2.regs.rdi);
		}
}

static void check_names(const void *arg)
{
	void (*const names[])(const void *) = {do_vmrun, do_vmload, do_vmsave, do_hsave};

	(void)arg;
	for (u64 page = region; page < region + region_bytes; page += PAGE_SIZE) {
		op.address = page;
		for (u32 i = 0; i < ARRAY_SIZE(names); i++)
			if (!CHECK_EQ(try_call(names[i], NULL), VEC_GP))
				return;
		/* As a map each bit is 1, as a nested table each entry has reserved bits. */
		fresh_l2(h_rdmsr);
		l2_intercept(INTERCEPT(MSR));
		l2.vmcb.control.msrpm_base_pa = page;
		l2.regs.rcx = MSR_SYSENTER_CS;
		if (!CHECK_EQ(l2_run(), VMEXIT_MSR))
			return;
		fresh_l2(h_in);
		l2_intercept(INTERCEPT(IOIO));
		l2.vmcb.control.iopm_base_pa = page;
		l2.regs.rdx = 0x80;
		if (!CHECK_EQ(l2_run(), VMEXIT_IOIO))
			return;
		fresh_l2(h_exit);
		l2_use_npt();
		l2.vmcb.control.nested_cr3 = page;
		if (!CHECK_EQ(l2_run(), VMEXIT_NPF) ||
		    !CHECK_EQ(l2.vmcb.control.exit_info_1 & PFERR_RSV, PFERR_RSV))
			return;
	}
}

static void check_end_alive(const void *arg)
{
	const u64 strays = trap_strays;

	(void)arg;
	failures = 0;
	check_alive();
	good_l2();
	check_l1();
	CHECK_EQ(failures, 0);
	apic_self_ipi(TIMER_VECTOR);
	interrupt_window();
	CHECK_EQ(trap_strays, strays + 1);
	CHECK_EQ(try_call(raise_ud, NULL), VEC_UD);
	/* and a timer interrupt ends an L2 that does not end by itself */
	fresh_l2(code_page);
	code_page[0] = 0xeb;
	code_page[1] = 0xfe;
	CHECK_EQ(run_l2(), VMEXIT_INTR);
}

static struct pmu_sample sample;

static void l2_sample(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_pmu(const void *arg)
{
	static const enum pmu_mode modes[] = {MODE_SVME0, MODE_HOST, MODE_GUEST, MODE_HOST,
					      MODE_SVME0};

	(void)arg;
	if (!platform.pmu) {
		tap_skip("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return;
	}
	if (!platform.exact)
		note("no exact clock here: counters are only checked for moving or standing still");
	if (rdmsr(MSR_PERF_GLOBAL_CTL) != BITS(PMU_COUNTERS - 1, 0))
		wrmsr(MSR_PERF_GLOBAL_CTL, BITS(PMU_COUNTERS - 1, 0));
	pmu_start_settings();
	for (u32 m = 0; m < ARRAY_SIZE(modes); m++) {
		if (modes[m] == MODE_SVME0)
			svm_disable();
		else
			svm_enable();
		if (modes[m] == MODE_GUEST)
			CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
		else
			pmu_sample_rdpmc(&sample);
		for (u32 i = 0; i < PMU_SETTINGS; i++) {
			u64 got = pmu_moved(&sample, i);
			u64 want = pmu_counts(pmu_setting[i].bits, modes[m])
					   ? PMU_SAMPLE_INSTRUCTIONS
					   : 0;

			if (!platform.exact && got && want)
				continue;
			if (!CHECK_EQ(got, want))
				note("phase %u, %s", m, pmu_setting[i].name);
		}
	}
	svm_enable();
	pmu_stop_all();
}

static void check_log(const void *arg)
{
	(void)arg;
	log_drain();
	log_classes[0].least = tap_instances();
	note("the log: %lu lines, %lu bytes lost before they were read", log_lines, log_lost);
	for (u32 i = 0; i < ARRAY_SIZE(log_classes); i++) {
		const struct log_class *c = &log_classes[i];

		note("log: %5u lines with %s", c->lines, c->text);
		if (c->lines < c->least || c->lines > c->most)
			tap_check(false, c->text);
	}
}

/* ---- */

static void wait_for_runner(void)
{
	u64 numbers[2] = {0, 0}, n = 0;

	note("ready: region=%lx+%lx", region, region_bytes);
	if (!has_runner())
		return;
	for (int c; (c = com2_read()) != '\n';)
		if (c == ' ')
			n = 1;
		else if (c >= '0' && c <= '9')
			numbers[n] = numbers[n] * 10 + (u64)(c - '0');
	common->seed = numbers[0];
	common->first_step = numbers[1];
}

/* The last thing before the dump: the marker is in every register of both levels and in the VMCB. */
static void leave_marker(void)
{
	fresh_l2(h_exit);
	l2_use_npt();
	run_l2();
	asm volatile("mov %0, %%rbx\n\tmov %1, %%rcx\n\tmov %0, %%rdx\n\tmov %1, %%rsi\n\tmov %0, "
		     "%%rdi\n\tmov %1, %%r8\n\tmov %0, %%r9\n\tmov %1, %%r10\n\tmov %0, "
		     "%%r11\n\tmov $0x40000000, %%eax\n\tcpuid"
		     :
		     : "r"(marker[0]), "r"(marker[1])
		     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} cases[] = {
	{"everything wrong", run_steps, NULL},
	{"its memory is ones through L1's pages of every size", check_region_l1, NULL},
	{"and through L2's, under nested paging", check_region_l2, "nested"},
	{"and through L2's, without it", check_region_l2, NULL},
	{"and each page of it as VMCB, VM_HSAVE_PA, MSRPM, IOPM and nCR3", check_names, NULL},
	{"it is alive", check_end_alive, NULL},
	{"the PMU counts what it should", check_pmu, NULL},
	{"the log says what happened", check_log, NULL},
};

void guest_main(void)
{
	common = every_first(&first);
	tap_plan(ARRAY_SIZE(cases));
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return;
	}
	if (!svm_start())
		return;
	l1_cr0 = read_cr0();
	l1_cr3 = read_cr3();
	l1_cr4 = read_cr4();
	l1_efer = rdmsr(MSR_EFER);
	vmsave((u64)&original);
	cage_choose(cages);
	if (hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0)) {
		tap_skip_all("no status");
		return;
	}
	region = status.region_gpa;
	region_bytes = status.region_bytes;
	if (!every_index())
		wait_for_runner();
	every_meet();
	random_state = random_begin(0);
	for (u32 i = 0; i < 2; i++) /* no byte of it is a newline, 0 or FFh */
		marker[i] = (rnd() | 0x8080808080808080ull) & ~0x0101010101010101ull;
	spray(sprayed, sizeof(sprayed));
	spray(buffer, sizeof(buffer));
	note("seed=%lu marker=%016lx%016lx", common->seed, marker[0], marker[1]);
	for (u32 i = 0; i < ARRAY_SIZE(kept_msrs); i++)
		if (kept_msrs[i].why && !every_index())
			note("MSR %08x-%08x not written: %s", kept_msrs[i].first, kept_msrs[i].last,
			     kept_msrs[i].why);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, cases[i].arg);
	leave_marker();
	every_meet();
	if (!every_index() && has_runner()) {
		note("done");
		while (com2_read() != 'e')
			asm volatile("pause");
	}
	every_meet();
}

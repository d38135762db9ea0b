/* SPDX-License-Identifier: MIT */
/*
 * Tries to reach the hypervisor's memory in every way that an L1 has. It must be as if nothing
 * were there: reads give ones, writes are dropped, an address named to SVM is refused with #GP or
 * reads as ones; every try is counted and the machine goes on.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

static struct tally_status status ALIGNED(512);
static struct paging tables;
static u8 bytes[2 * PAGE_SIZE] ALIGNED(4096);

L2_CODE(l2_exit, "");
L2_CODE(l2_read, "mov (%rdi), %rax");
L2_CODE(l2_write, "mov %rax, (%rdi)\n\tmov (%rdi), %rax");
L2_CODE(l2_jump, "jmp *%rdi");
L2_CODE(l2_rdmsr, "mov $0x277, %ecx\n\trdmsr");
L2_CODE(l2_in, "in $0x80, %al");

static bool status_read(void)
{
	return CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0), 0);
}

static u64 region(void)
{
	return status.region_gpa;
}

/* First bytes, a page border, the middle, the last bytes. */
static u64 place(u32 i)
{
	const u64 at[] = {0, PAGE_SIZE - 8, PAGE_SIZE, status.region_bytes / 2,
			  status.region_bytes - 8};

	return region() + at[i];
}
#define PLACES 5

/* ---- the CPU ---- */

static void check_ones(u64 address)
{
	CHECK_EQ(*(volatile u64 *)address, ~0ull);
}

static void check_read(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PLACES; i++) {
		u64 p = place(i);

		CHECK_EQ(*(volatile u8 *)p, 0xff);
		CHECK_EQ(*(volatile u8 *)(p + 7), 0xff);
		CHECK_EQ(*(volatile u16 *)p, 0xffff);
		CHECK_EQ(*(volatile u16 *)(p + 3), 0xffff);
		CHECK_EQ(*(volatile u32 *)p, ~0u);
		CHECK_EQ(*(volatile u64 *)p, ~0ull);
	}
	/* The neighbourhood is memory or nothing, but not ours to judge; the whole region is ones. */
	for (u64 p = region(); p < region() + status.region_bytes; p += PAGE_SIZE / 2)
		if (!CHECK_EQ(*(volatile u64 *)p, ~0ull))
			return;
}

static void check_read_string(const void *arg)
{
	const void *from = (const void *)(region() + PAGE_SIZE / 2);
	void *to = bytes;
	u64 count = sizeof(bytes);

	(void)arg;
	for (u32 i = 0; i < sizeof(bytes); i++)
		bytes[i] = 0;
	asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
	CHECK_EQ(count, 0);
	for (u32 i = 0; i < sizeof(bytes); i++)
		if (!CHECK_EQ(bytes[i], 0xff))
			return;
}

static void check_write(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PLACES; i++) {
		u64 p = place(i);

		*(volatile u8 *)p = 0;
		check_ones(p);
		*(volatile u16 *)p = 0x1234;
		check_ones(p);
		*(volatile u32 *)p = 0;
		check_ones(p);
		*(volatile u64 *)p = 0;
		check_ones(p);
		asm volatile("movq $5, (%0)" : : "r"(p) : "memory");
		check_ones(p);
	}
}

static void check_modify(const void *arg)
{
	u64 old = 7, p = place(0), expected = ~0ull;
	u8 zero, carry;

	(void)arg;
	asm volatile("lock incq (%1)\n\tsetz %0" : "=q"(zero) : "r"(p) : "memory", "cc");
	check_ones(p);
	asm volatile("xchg %0, (%1)" : "+r"(old) : "r"(p) : "memory");
	check_ones(p);
	asm volatile("lock cmpxchg %2, (%1)" : "+a"(expected) : "r"(p), "r"(3ull) : "memory", "cc");
	check_ones(p);
	asm volatile("andl $0, (%0)" : : "r"(p) : "memory", "cc");
	check_ones(p);
	asm volatile("btrl $3, (%1)\n\tsetc %0" : "=q"(carry) : "r"(p) : "memory", "cc");
	check_ones(p);
	asm volatile("negb (%0)" : : "r"(p) : "memory", "cc");
	check_ones(p);
}

static void check_write_string(const void *arg)
{
	void *to = (void *)(region() + PAGE_SIZE - 100);
	const void *from = bytes;
	u64 count = 200;

	(void)arg;
	asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0) : "memory");
	CHECK_EQ(count, 0);
	CHECK_EQ((u64)to, region() + PAGE_SIZE + 100);
	check_ones(region() + PAGE_SIZE - 100);
	check_ones(region() + PAGE_SIZE + 90);
	to = (void *)region();
	count = 4;
	asm volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
	CHECK_EQ(count, 0);
	check_ones(region());
}

static void check_push(const void *arg)
{
	u64 popped, rsp;

	(void)arg;
	asm volatile("mov %%rsp, %%r8\n\tmov %2, %%rsp\n\tpush $0x55\n\tmov %%rsp, %1\n\tpop "
		     "%0\n\tmov %%r8, %%rsp"
		     : "=&r"(popped), "=&r"(rsp)
		     : "r"(region() + 0x800)
		     : "r8", "memory");
	CHECK_EQ(popped, ~0ull);
	CHECK_EQ(rsp, region() + 0x7f8);
}

static void jump_into(const void *arg)
{
	((void (*)(void)) * (const u64 *)arg)();
}

static void check_execute(const void *arg)
{
	(void)arg;
	/* FFh FFh is no instruction. */
	for (u32 i = 0; i < PLACES; i++) {
		u64 p = place(i);

		CHECK_EQ(try_call(jump_into, &p), VEC_UD);
		CHECK_EQ(trap_info.rip, p);
	}
}

/* ---- names ---- */

static u64 named;

static void name_vmrun(const void *arg)
{
	(void)arg;
	asm volatile("vmrun %%rax" : : "a"(named) : "memory");
}

static void name_vmload(const void *arg)
{
	(void)arg;
	vmload(named);
}

static void name_vmsave(const void *arg)
{
	(void)arg;
	vmsave(named);
}

static void name_hsave(const void *arg)
{
	(void)arg;
	wrmsr(MSR_VM_HSAVE_PA, named);
}

static void check_names(const void *arg)
{
	void (*const names[])(const void *) = {name_vmrun, name_vmload, name_vmsave, name_hsave};

	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		named = region();
		CHECK_EQ(try_call(names[i], arg), VEC_GP);
		named = region() + status.region_bytes - PAGE_SIZE;
		CHECK_EQ(try_call(names[i], arg), VEC_GP);
	}
	CHECK_EQ(rdmsr(MSR_VM_HSAVE_PA), (u64)hsave);
}

static void name_apic(const void *arg)
{
	wrmsr(MSR_APIC_BASE, named | (*(const u64 *)arg & (PAGE_SIZE - 1)));
}

/* Where a CPU's own registers are, its memory is not. */
static void check_apic(const void *arg)
{
	u64 before = rdmsr(MSR_APIC_BASE);

	(void)arg;
	named = region();
	CHECK_EQ(try_call(name_apic, &before), VEC_GP);
	named = region() + status.region_bytes - PAGE_SIZE;
	CHECK_EQ(try_call(name_apic, &before), VEC_GP);
	named = BIT(platform.phys_bits);
	CHECK_EQ(try_call(name_apic, &before), VEC_GP);
	CHECK_EQ(rdmsr(MSR_APIC_BASE), before);
	wrmsr(MSR_APIC_BASE, before);
	CHECK_EQ(rdmsr(MSR_APIC_BASE), before);
}

/* What AMD keeps for HyperTransport is no memory either, though it is below the end of the address space. */
static void check_hypertransport(const void *arg)
{
	const u64 places[] = {0xfd00000000, 0xfffffff000, BIT(platform.phys_bits) - (12ull << 30)};
	void (*const names[])(const void *) = {name_vmrun, name_vmload, name_vmsave, name_hsave};
	u64 before = rdmsr(MSR_APIC_BASE);

	(void)arg;
	if (platform.phys_bits < 40) {
		tap_skip("so many physical address bits it has not");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(places); i++) {
		named = places[i];
		for (u32 n = 0; n < ARRAY_SIZE(names); n++)
			CHECK_EQ(try_call(names[n], arg), VEC_GP);
		CHECK_EQ(try_call(name_apic, &before), VEC_GP);
		tap_check(hypercall(TALLY_CALL_STATUS, named, 0, 0) < 0, "as a buffer");
		if (named >= BIT(47))
			continue; /* no map of ours can be there */
		/* read by L0, as FFh: everything is intercepted */
		l2_reset(l2_rdmsr);
		l2_intercept(INTERCEPT(MSR));
		l2.vmcb.control.msrpm_base_pa = i == 1 ? named - PAGE_SIZE : named;
		CHECK_EQ(l2_run(), VMEXIT_MSR);
	}
	CHECK_EQ(rdmsr(MSR_VM_HSAVE_PA), (u64)hsave);
	CHECK_EQ(rdmsr(MSR_APIC_BASE), before);
}

static void check_maps(const void *arg)
{
	(void)arg;
	/* All ones: everything is intercepted. */
	l2_reset(l2_rdmsr);
	l2_intercept(INTERCEPT(MSR));
	l2.vmcb.control.msrpm_base_pa = region();
	CHECK_EQ(l2_run(), VMEXIT_MSR);
	l2_reset(l2_in);
	l2_intercept(INTERCEPT(IOIO));
	l2.vmcb.control.iopm_base_pa = region();
	CHECK_EQ(l2_run(), VMEXIT_IOIO);
	/* Only the end of the map in it: the first page is L1's, and clear. */
	l2_reset(l2_in);
	l2_intercept(INTERCEPT(IOIO));
	l2.vmcb.control.iopm_base_pa = region() - PAGE_SIZE;
	l2_run();
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
}

/* ---- L2 ---- */

static void check_ncr3(const void *arg)
{
	(void)arg;
	l2_reset(l2_exit);
	l2_use_npt();
	l2.vmcb.control.nested_cr3 = region();
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1 & PFERR_RSV, PFERR_RSV);
}

#define ALIAS 0xc0000000ull

static void check_nested_page(const void *arg)
{
	(void)arg;
	for (u32 large = 0; large < 2; large++) {
		u64 flags = PTE_P | PTE_W | PTE_U;
		const u8 *code[] = {l2_read, l2_write, l2_jump};

		for (u32 i = 0; i < ARRAY_SIZE(code); i++) {
			l2_reset(code[i]);
			l2_use_npt();
			if (large)
				*paging_entry(&l2.npt, ALIAS, 2) =
					ALIGN_DOWN(region(), PAGE_2M) | flags | PTE_PS;
			else
				*paging_split(&l2.npt, ALIAS) = region() | flags;
			l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
			l2.regs.rdi = ALIAS + (large ? region() & (PAGE_2M - 1) : 0);
			if (code[i] == l2_jump) {
				CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_UD));
				CHECK_EQ(l2.vmcb.save.rip, l2.regs.rdi);
			} else {
				CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
				CHECK_EQ(l2.vmcb.save.rax, ~0ull);
			}
		}
	}
}

/* As a table: reserved bits. */
static void check_nested_table(const void *arg)
{
	(void)arg;
	l2_reset(l2_read);
	l2_use_npt();
	*paging_entry(&l2.npt, ALIAS, 2) = region() | PTE_P | PTE_W | PTE_U;
	l2.regs.rdi = ALIAS;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1 & (PFERR_RSV | NPF_FINAL), PFERR_RSV | NPF_FINAL);
	check_ones(region());
}

static void check_l2_physical(const void *arg)
{
	(void)arg;
	/* Without nested paging L2's physical memory is L1's. */
	l2_reset(l2_write);
	l2.regs.rdi = region();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, ~0ull);

	/* CR3 in it: the first fetch finds reserved bits. */
	l2_reset(l2_exit);
	l2.vmcb.save.cr3 = region();
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2.vmcb.control.exit_info_1 & PFERR_RSV, PFERR_RSV);
	CHECK_EQ(l2.vmcb.control.exit_info_2, (u64)l2_exit);
}

/* ---- L1's own page tables ---- */

static void read_at(const void *arg)
{
	(void)*(volatile const u64 *)*(const u64 *)arg;
}

static void check_page_table(const void *arg)
{
	u64 cr3 = read_cr3(), address = 3 * PAGE_1G;

	(void)arg;
	paging_identity(&tables, PTE_ALL);
	*paging_entry(&tables, address, 3) = region() | PTE_ALL;
	write_cr3(paging_root(&tables));
	CHECK_EQ(try_call(read_at, &address), VEC_PF);
	CHECK_EQ(trap_info.error & PFERR_RSV, PFERR_RSV);
	CHECK_EQ(trap_info.cr2, address);
	write_cr3(cr3);
}

/* All that CPUID says there is can be addressed: the last page, where nothing is; and L2's tables may have it, too. */
static void check_last_page(const void *arg)
{
	u64 cr3 = read_cr3(), last = BIT(platform.phys_bits) - PAGE_SIZE, va = 3 * PAGE_1G;

	(void)arg;
	note("%u physical address bits", platform.phys_bits);
	CHECK(platform.phys_bits <= 48);
	paging_identity(&tables, PTE_ALL);
	*paging_entry(&tables, va, 3) = ALIGN_DOWN(last, PAGE_1G) | PTE_PS | PTE_ALL;
	va += last % PAGE_1G;
	write_cr3(paging_root(&tables));
	CHECK_EQ(try_call(read_at, &va), VEC_NONE);
	write_cr3(cr3);

	l2_reset(l2_read);
	l2_use_npt();
	*paging_split(&l2.npt, ALIAS) = last | PTE_ALL;
	l2.regs.rdi = ALIAS;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	l2_reset(l2_read);
	l2_use_npt();
	*paging_split(&l2.npt, ALIAS) = (last + PAGE_SIZE) | PTE_ALL;
	l2.regs.rdi = ALIAS;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1 & PFERR_RSV, PFERR_RSV);
}

static u64 *absent, present, pushed;

static void on_fault(struct trap_frame *frame)
{
	pushed = frame->rflags;
	*absent = present;
	invlpg((void *)read_cr2());
}

/* A write to two pages, of which L1 has not mapped the second: its #PF comes while L0 lets the instruction run alone. */
static void check_fault_between(const void *arg)
{
	u64 cr3 = read_cr3(), second = region() + PAGE_SIZE;

	(void)arg;
	paging_identity(&tables, PTE_ALL);
	paging_split(&tables, second);
	absent = paging_entry(&tables, second, 1);
	present = *absent;
	*absent = 0;
	pushed = 0;
	write_cr3(paging_root(&tables));
	trap_hook(VEC_PF, on_fault);
	*(volatile u64 *)(second - 4) = 0;
	trap_hook(VEC_PF, NULL);
	write_cr3(cr3);
	CHECK_EQ(pushed & (RFLAGS_FIXED | RFLAGS_TF), RFLAGS_FIXED);
	check_ones(second - 8);
	check_ones(second);
}

/* ---- hypercalls ---- */

static void check_hypercalls(const void *arg)
{
	(void)arg;
	tap_check(hypercall(TALLY_CALL_STATUS, region(), 0, 0) < 0,
		  "status into the region is refused");
	tap_check(hypercall(TALLY_CALL_LOG_READ, region(), 16, 0) < 0,
		  "log into the region is refused");
	/* And other bad buffers. */
	tap_check(hypercall(TALLY_CALL_STATUS, BIT(platform.phys_bits), 0, 0) < 0, "beyond memory");
	tap_check(hypercall(TALLY_CALL_STATUS, ~0ull << 3, 0, 0) < 0, "end of the address space");
	tap_check(hypercall(TALLY_CALL_STATUS, (u64)&status + 1, 0, 0) < 0, "not aligned");
	tap_check(hypercall(TALLY_CALL_STATUS, (u64)bytes + PAGE_SIZE - 8, 0, 0) < 0,
		  "across a page border");
	tap_check(hypercall(TALLY_CALL_LOG_READ, (u64)bytes + 8, PAGE_SIZE, 0) < 0,
		  "log across a border");
	check_ones(region());
}

static const struct way {
	const char *name;
	void (*run)(const void *);
	bool counted; /* hole_accesses must grow; a plain read may be served without an exit */
} ways[] = {
	{"read", check_read, false},
	{"read by REP MOVSB", check_read_string, false},
	{"write", check_write, true},
	{"read, modify, write", check_modify, true},
	{"REP STOSB, REP MOVSQ", check_write_string, true},
	{"PUSH and POP", check_push, true},
	{"execute", check_execute, false},
	{"as VMCB and as VM_HSAVE_PA", check_names, true},
	{"as APIC_BASE", check_apic, true},
	{"HyperTransport's range named", check_hypertransport, false},
	{"the last page that CPUID says there is", check_last_page, false},
	{"as MSRPM and IOPM", check_maps, true},
	{"as nCR3", check_ncr3, true},
	{"as a nested page", check_nested_page, true},
	{"as a nested table", check_nested_table, true},
	{"as L2's memory and CR3 without nested paging", check_l2_physical, true},
	{"as a page table of L1", check_page_table, true},
	{"write that faults on its second page", check_fault_between, true},
	{"as a buffer of a hypercall", check_hypercalls, true},
};

static void try_way(const void *arg)
{
	const struct way *w = arg;
	u64 before;

	if (!status_read())
		return;
	before = status.hole_accesses;
	w->run(NULL);
	if (status_read() && w->counted)
		tap_check(status.hole_accesses > before, "the try was counted");
	/* Alive. */
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(ways));
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return;
	}
	if (!svm_start())
		return;
	if (status_read())
		note("the hypervisor's memory: 0x%lx, %lu KiB", region(),
		     status.region_bytes / 1024);
	for (u32 i = 0; i < ARRAY_SIZE(ways); i++)
		tap_run(ways[i].name, try_way, &ways[i]);
}

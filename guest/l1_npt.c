/* SPDX-License-Identifier: MIT */
/*
 * Nested paging for L2 with tables of L1: every kind of fault with its code (APM2 §15.25.6),
 * every page size, accessed and dirty bits, remapping, two address spaces, devices behind both
 * levels, and L2 in modes without paging of its own; and L2 whose tables L1 shadows itself.
 */
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

/* A 1-GiB-aligned guest physical address where L2 sees what a test maps there. */
#define ALIAS 0xc0000000ull

static struct {
	u64 value;
	u8 code[PAGE_SIZE - 8]; /* VMMCALL, for instruction fetches */
} page_a ALIGNED(4096), page_b ALIGNED(4096);

static struct paging l2_tables, other_npt;

L2_CODE(l2_read, "mov (%rdi), %rax");
L2_CODE(l2_write, "mov %rsi, (%rdi)");
L2_CODE(l2_fetch, "jmp *%rdi");
L2_CODE(l2_exit, "");

enum access { READ, WRITE, FETCH };
static const u8 *const l2_access[] = {l2_read, l2_write, l2_fetch};

static void pages_fill(void)
{
	page_a.value = 0xaaaa;
	page_b.value = 0xbbbb;
	page_a.code[0] = page_b.code[0] = 0x0f; /* VMMCALL */
	page_a.code[1] = page_b.code[1] = 0x01;
	page_a.code[2] = page_b.code[2] = 0xd9;
}

/* Maps page at ALIAS with a leaf of the given level; returns the guest physical address of the
 * page. */
static u64 alias_map(struct paging *npt, const void *page, unsigned int level)
{
	u64 flags = PTE_P | PTE_W | PTE_U, pa = (u64)page;
	static const u64 size[] = {0, PAGE_SIZE, PAGE_2M, PAGE_1G};

	if (level == 1)
		paging_split(npt, ALIAS);
	*paging_entry(npt, ALIAS, level) =
		ALIGN_DOWN(pa, size[level]) | flags | (level > 1 ? PTE_PS : 0);
	return ALIAS + (pa & (size[level] - 1));
}

static u64 l2_ready(enum access access, unsigned int level)
{
	u64 gpa;

	pages_fill();
	l2_reset(l2_access[access]);
	l2_use_npt();
	gpa = alias_map(&l2.npt, &page_a, level);
	if (access == FETCH)
		gpa += offsetof(typeof(page_a), code);
	l2.regs.rdi = gpa;
	l2.regs.rsi = 0x1234;
	return gpa;
}

/* ---- faults of the final translation ---- */

#define RESERVED_ADDRESS_BIT (~0ull) /* the highest address bit, which no CPU of ours has */

static const struct fault {
	const char *name;
	enum access access;
	u64 clear, set;
	u64 code; /* 0: no fault */
} faults[] = {
	{"not present, read", READ, PTE_P, 0, PFERR_U},
	{"not present, write", WRITE, PTE_P, 0, PFERR_U | PFERR_W},
	{"not present, fetch", FETCH, PTE_P, 0, PFERR_U | PFERR_ID},
	{"read-only, read", READ, PTE_W, 0, 0},
	{"read-only, write", WRITE, PTE_W, 0, PFERR_U | PFERR_W | PFERR_P},
	{"supervisor, read", READ, PTE_U, 0, PFERR_U | PFERR_P},
	{"supervisor, write", WRITE, PTE_U, 0, PFERR_U | PFERR_W | PFERR_P},
	{"supervisor, fetch", FETCH, PTE_U, 0, PFERR_U | PFERR_ID | PFERR_P},
	{"no-execute, read", READ, 0, PTE_NX, 0},
	{"no-execute, fetch", FETCH, 0, PTE_NX, PFERR_U | PFERR_ID | PFERR_P},
	{"reserved bit, read", READ, 0, RESERVED_ADDRESS_BIT, PFERR_U | PFERR_RSV | PFERR_P},
	{"reserved bit, write", WRITE, 0, RESERVED_ADDRESS_BIT,
	 PFERR_U | PFERR_W | PFERR_RSV | PFERR_P},
};

/* Without P in the code, where the platform forgets it. */
static u64 code_of(u64 code)
{
	return code & PFERR_RSV && departs(DEPARTURE_NPF_RESERVED_P) ? code & ~PFERR_P : code;
}

static void check_fault_at(const struct fault *f, unsigned int leaf, unsigned int level)
{
	u64 gpa = l2_ready(f->access, leaf), rip = l2.vmcb.save.rip;
	u64 *entry = paging_entry(&l2.npt, ALIAS, level);

	if (leaf == 1 && level == 1)
		entry = &l2.npt.pt[0];
	*entry = (*entry & ~f->clear) | (f->set == RESERVED_ADDRESS_BIT ? BIT(51) : f->set);
	l2_run();
	if (!f->code) {
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
		return;
	}
	if (!CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NPF) ||
	    !CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | code_of(f->code)) ||
	    !CHECK_EQ(l2.vmcb.control.exit_info_2, gpa) ||
	    !CHECK_EQ(l2.vmcb.save.rip, f->access == FETCH ? gpa : rip))
		note("entry of level %u above a leaf of level %u", level, leaf);
	CHECK_EQ(page_a.value, 0xaaaa);

	/* Mended, the instruction that faulted is carried out. */
	*entry = (*entry & ~BIT(51) & ~PTE_NX) | PTE_P | PTE_W | PTE_U;
	l2_flush();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
}

static void check_fault(const void *arg)
{
	const struct fault *f = arg;

	if (f->set == RESERVED_ADDRESS_BIT && platform.phys_bits == 52) {
		tap_skip("all address bits are implemented");
		return;
	}
	for (unsigned int leaf = 1; leaf <= (platform.long_1g ? 3 : 2); leaf++)
		for (unsigned int level = leaf; level <= 3; level++)
			check_fault_at(f, leaf, level);
}

static void check_large_reserved(const void *arg)
{
	(void)arg;
	for (unsigned int leaf = 2; leaf <= (platform.long_1g ? 3 : 2); leaf++) {
		u64 gpa = l2_ready(READ, leaf);

		*paging_entry(&l2.npt, ALIAS, leaf) |= BIT(13);
		CHECK_EQ(l2_run(), VMEXIT_NPF);
		CHECK_EQ(l2.vmcb.control.exit_info_1,
			 NPF_FINAL | code_of(PFERR_U | PFERR_RSV | PFERR_P));
		CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
	}
}

static void check_sizes(const void *arg)
{
	(void)arg;
	for (unsigned int leaf = 1; leaf <= (platform.long_1g ? 3 : 2); leaf++) {
		l2_ready(READ, leaf);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
		l2_ready(WRITE, leaf);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(page_a.value, 0x1234);
		l2_ready(FETCH, leaf);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	}
}

/* ---- faults of the guest's own tables ---- */

static const struct fault table_faults[] = {
	{"guest's table not present", READ, PTE_P, 0, PFERR_U | PFERR_W},
	{"guest's table read-only", READ, PTE_W, 0, PFERR_U | PFERR_W | PFERR_P},
	{"guest's table supervisor", READ, PTE_U, 0, PFERR_U | PFERR_W | PFERR_P},
	{"guest's table no-execute", FETCH, 0, PTE_NX, 0},
	{"guest's table with a reserved bit", READ, 0, RESERVED_ADDRESS_BIT,
	 PFERR_U | PFERR_W | PFERR_RSV | PFERR_P},
};

/* L2 on tables of its own; the last of them, for ALIAS, in a 4-KiB nested page. Returns that page's
 * entry. */
static u64 *own_tables(enum access access, u64 *gpa)
{
	*gpa = l2_ready(access, 2);
	paging_identity(&l2_tables, PTE_ALL);
	l2.vmcb.save.cr3 = paging_root(&l2_tables);
	return paging_split(&l2.npt, (u64)l2_tables.pd[3]);
}

static void check_table_fault(const void *arg)
{
	const struct fault *f = arg;
	u64 gpa, *entry = own_tables(f->access, &gpa);

	*entry = (*entry & ~f->clear) | (f->set == RESERVED_ADDRESS_BIT ? BIT(51) : f->set);
	l2_run();
	if (!f->code) {
		CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_VMMCALL);
		return;
	}
	CHECK_EQ(l2.vmcb.control.exit_code, VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_TABLE | code_of(f->code));
	CHECK_EQ(l2.vmcb.control.exit_info_2, (u64)&l2_tables.pd[3][0]);
}

/* The guest's own fault comes first and is the guest's. */
static void check_guest_pf(const void *arg)
{
	u64 gpa, *entry = own_tables(READ, &gpa);

	(void)arg;
	(void)entry;
	l2_tables.pd[3][0] = 0;
	*paging_entry(&l2.npt, ALIAS, 2) = 0;
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
	CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
}

/* ---- accessed and dirty ---- */

static void check_accessed_dirty(const void *arg)
{
	u64 gpa, *entry;

	(void)arg;
	for (unsigned int leaf = 1; leaf <= (platform.long_1g ? 3 : 2); leaf++) {
		l2_ready(READ, leaf);
		entry = leaf == 1 ? &l2.npt.pt[0] : paging_entry(&l2.npt, ALIAS, leaf);
		CHECK_EQ(*entry & (PTE_A | PTE_D), 0);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A);
		CHECK_EQ(*paging_entry(&l2.npt, ALIAS, 3) & PTE_A, PTE_A);
		CHECK_EQ(l2.npt.pml4[0] & PTE_A, PTE_A);
		/* Now a write, with everything warm. */
		l2.vmcb.save.rip = (u64)l2_write;
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
		CHECK_EQ(page_a.value, 0x1234);
	}
	/* Walking a guest table is a write to it (APM2 §15.25.5). */
	entry = own_tables(READ, &gpa);
	CHECK_EQ(*entry & (PTE_A | PTE_D), 0);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
}

/* ---- remapping ---- */

static u64 read_again(void)
{
	l2.vmcb.save.rip = (u64)l2_read;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	return l2.vmcb.save.rax;
}

static void check_remap(const void *arg)
{
	(void)arg;
	l2_ready(READ, 1);
	CHECK_EQ(read_again(), 0xaaaa);
	for (u32 i = 0; i < 20; i++) {
		l2.regs.rdi =
			alias_map(&l2.npt, i % 2 ? (void *)&page_a : (void *)&page_b, 1 + i % 2);
		l2_flush();
		if (!CHECK_EQ(read_again(), i % 2 ? 0xaaaa : 0xbbbb))
			return;
	}
	/* Taken away. */
	*paging_entry(&l2.npt, ALIAS, 2) = 0;
	l2_flush();
	l2.vmcb.save.rip = (u64)l2_read;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
}

/* Two address spaces, each with its own ASID, need no flush between them; with one ASID they do. */
static void check_two_spaces(const void *arg)
{
	bool same_asid = arg != NULL;

	l2_ready(READ, 1);
	other_npt = l2.npt;
	other_npt.pml4[0] = (u64)other_npt.pdpt | PTE_P | PTE_W | PTE_U;
	other_npt.pml5[0] = (u64)other_npt.pml4 | PTE_P | PTE_W | PTE_U;
	for (u32 g = 0; g < ARRAY_SIZE(other_npt.pd); g++)
		other_npt.pdpt[g] = (u64)other_npt.pd[g] | PTE_P | PTE_W | PTE_U;
	alias_map(&other_npt, &page_b, 1);
	for (u32 i = 0; i < 40; i++) {
		bool other = i % 2;

		l2.vmcb.control.nested_cr3 = paging_root(other ? &other_npt : &l2.npt);
		l2.vmcb.control.asid = same_asid ? 1 : 1 + other;
		if (same_asid || i < 2)
			l2_flush();
		if (!CHECK_EQ(read_again(), other ? 0xbbbb : 0xaaaa))
			return;
	}
}

/* ---- without nested paging ---- */

static void check_no_npt(const void *arg)
{
	u64 gpa;

	(void)arg;
	own_tables(READ, &gpa);
	l2.vmcb.control.np_ctl = 0;
	/* Without NPT, L2's tables lead to L1's physical memory. */
	alias_map(&l2_tables, &page_b, 1);
	l2.regs.rdi = ALIAS;
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	CHECK_EQ(read_again(), 0xbbbb);
	l2_tables.pt[0] = (u64)&page_a | PTE_ALL;
	l2_flush();
	CHECK_EQ(read_again(), 0xaaaa);
	l2_tables.pt[0] = 0;
	l2_flush();
	l2.vmcb.save.rip = (u64)l2_read;
	CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
	CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
	CHECK_EQ(l2.vmcb.control.exit_info_2, ALIAS);
}

asm(".pushsection .text\n.code32\nl2_read32:\n\tmov (%edi), %eax\n\tvmmcall\n.code64\n.popsection");
extern const u8 l2_read32[];

/* Protected mode, paging off: guest virtual is guest physical, nested paging stays. */
static void check_paging_off(const void *arg)
{
	struct vmcb_save *s = &l2.vmcb.save;

	(void)arg;
	for (u32 present = 0; present < 2; present++) {
		u64 gpa = l2_ready(READ, 2);

		s->rip = (u64)l2_read32;
		s->cr0 &= ~CR0_PG;
		s->cr4 &= ~CR4_PAE;
		s->efer &= ~(EFER_LME | EFER_LMA);
		s->cs.selector = GDT_CODE32;
		s->cs.attrib = (u16)((s->cs.attrib & ~SEG_ATTR_L) | SEG_ATTR_DB);
		if (!present)
			*paging_entry(&l2.npt, ALIAS, 2) = 0;
		CHECK_EQ(l2_run(), present ? VMEXIT_VMMCALL : VMEXIT_NPF);
		if (present) {
			CHECK_EQ(s->rax, 0xaaaa);
			continue;
		}
		CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U);
		CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
	}
}

#define REAL_CODE 0x1000u
#define REAL_DATA 0x2000u

static void check_real_mode(const void *arg)
{
	/* MOV EAX, [REAL_DATA]; VMMCALL */
	static const u8 code[] = {0x66, 0xa1, REAL_DATA & 0xff, REAL_DATA >> 8, 0x0f, 0x01, 0xd9};
	struct vmcb_save *s = &l2.vmcb.save;

	(void)arg;
	for (u32 present = 0; present < 2; present++) {
		l2_ready(READ, 2);
		for (u32 i = 0; i < sizeof(code); i++)
			((u8 *)&page_b)[i] = code[i];
		*paging_split(&l2.npt, REAL_CODE) = (u64)&page_b | PTE_P | PTE_W | PTE_U;
		l2.npt.pt[REAL_DATA / PAGE_SIZE] =
			present ? (u64)&page_a | PTE_P | PTE_W | PTE_U : 0;
		s->rip = REAL_CODE;
		s->rsp = 0xff0;
		s->cr0 &= ~(CR0_PG | CR0_PE);
		s->cr4 &= ~CR4_PAE;
		s->efer &= ~(EFER_LME | EFER_LMA);
		s->cs = (struct vmcb_seg){.attrib = 0x9b, .limit = 0xffff};
		s->ds = s->es = s->ss = (struct vmcb_seg){.attrib = 0x93, .limit = 0xffff};
		CHECK_EQ(l2_run(), present ? VMEXIT_VMMCALL : VMEXIT_NPF);
		if (present) {
			CHECK_EQ(s->rax, 0xaaaa);
			continue;
		}
		CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U);
		CHECK_EQ(l2.vmcb.control.exit_info_2, REAL_DATA);
		CHECK_EQ(s->rip, REAL_CODE);
	}
}

/* ---- devices: L2 linear, L2-physical, L1-physical ---- */

#define HPET_BASE 0xfed00000ull
#define HPET_CAPABILITIES 0x000 /* 31:16 vendor, 7:0 revision */
#define HPET_COUNTER 0x0f0	/* writable while the timers stand still, as firmware leaves them */
#define APIC_VERSION 0x30

L2_CODE(l2_read_device, "mov (%rdi), %eax");
L2_CODE(l2_write_device, "mov %esi, (%rdi)");

static u64 device_ready(const u8 *code, u64 device, u32 reg, unsigned int leaf, u64 flags)
{
	l2_reset(code);
	l2_use_npt();
	if (leaf == 1)
		paging_split(&l2.npt, ALIAS);
	else /* a page that is larger than the device's */
		reg += (u32)(device % PAGE_2M);
	*paging_entry(&l2.npt, ALIAS, leaf) =
		leaf == 1 ? device | flags : ALIGN_DOWN(device, PAGE_2M) | flags | PTE_PS;
	/* linear addresses of its own, too: L2's tables map 1 GByte below ALIAS to ALIAS */
	paging_identity(&l2_tables, PTE_ALL);
	*paging_entry(&l2_tables, ALIAS - PAGE_1G, 2) = ALIAS | PTE_ALL | PTE_PS;
	l2.vmcb.save.cr3 = paging_root(&l2_tables);
	l2.regs.rdi = ALIAS - PAGE_1G + reg;
	return ALIAS + reg;
}

static void check_device_faults(u64 device, u32 reg, unsigned int leaf)
{
	u64 gpa = device_ready(l2_read_device, device, reg, leaf, 0);

	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U);
	CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
	gpa = device_ready(l2_write_device, device, reg, leaf, PTE_P | PTE_U);
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U | PFERR_W | PFERR_P);
	CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
}

static void check_apic(const void *arg)
{
	u64 device = rdmsr(MSR_APIC_BASE) & APIC_BASE_ADDRESS;

	(void)arg;
	if (apic_x2()) {
		tap_skip("the firmware has left the APIC in x2APIC mode");
		return;
	}
	for (unsigned int leaf = 1; leaf <= 2; leaf++) {
		const u32 lvt = apic_read(APIC_LVT_TIMER), mine = (u32)APIC_LVT_MASKED | 0x77;

		device_ready(l2_read_device, device, APIC_VERSION, leaf, PTE_P | PTE_W | PTE_U);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, apic_read(APIC_VERSION));
		CHECK(apic_read(APIC_VERSION) != 0 && apic_read(APIC_VERSION) != ~0u);
		device_ready(l2_write_device, device, APIC_LVT_TIMER, leaf, PTE_P | PTE_W | PTE_U);
		l2.regs.rsi = mine;
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(apic_read(APIC_LVT_TIMER), mine);
		check_device_faults(device, APIC_LVT_TIMER, leaf);
		CHECK_EQ(apic_read(APIC_LVT_TIMER), mine);
		apic_write(APIC_LVT_TIMER, lvt);
	}
}

static void check_hpet(const void *arg)
{
	volatile u32 *hpet = (volatile u32 *)HPET_BASE;
	const u32 capabilities = hpet[HPET_CAPABILITIES / 4];

	(void)arg;
	if (tap_instances() > 1) {
		tap_skip("one HPET, and others write to it");
		return;
	}
	if (!(capabilities & 0xff) || capabilities >> 16 == 0xffff) {
		tap_skip("no HPET here");
		return;
	}
	for (unsigned int leaf = 1; leaf <= 2; leaf++) {
		device_ready(l2_read_device, HPET_BASE, HPET_CAPABILITIES, leaf,
			     PTE_P | PTE_W | PTE_U);
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, capabilities);
		device_ready(l2_write_device, HPET_BASE, HPET_COUNTER, leaf, PTE_P | PTE_W | PTE_U);
		l2.regs.rsi = 0x12340000 + leaf;
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(hpet[HPET_COUNTER / 4], 0x12340000 + leaf);
	}
	for (unsigned int leaf = 1; leaf <= 2; leaf++)
		check_device_faults(HPET_BASE, HPET_COUNTER, leaf);
	CHECK_EQ(hpet[HPET_COUNTER / 4], 0x12340002);
}

/* ---- without nested paging, and with L2's tables shadowed by L1 ---- */

/* What L2 believes to run on; l2.npt is what L1 lets it run on, filled by page faults. */
static struct paging other_tables;

/* R8: the first read; RSI goes to its own PTE at RDX; R9: the read that may be stale; R10: after INVLPG; then a
 * write of R11; R13: after MOV CR3, of R12; and a page that is in neither table. */
L2_CODE(l2_paging, "mov (%rdi), %r8\n\tmov %rsi, (%rdx)\n\tmov (%rdi), %r9\n\tinvlpg (%rdi)\n\t"
		   "mov (%rdi), %r10\n\tmov %r11, (%rdi)\n\tmov %r12, %cr3\n\tmov (%rdi), %r13\n\t"
		   "mov (%rbx), %rax");

static struct {
	u32 fills, writes, injected, invlpg, cr3, others;
} shadowed;

static void shadow_drop(u64 linear)
{
	l2.npt.pt[linear / PAGE_SIZE % 512] = 0;
	asm volatile("invlpga %%rax, %%ecx" : : "a"(linear), "c"(l2.vmcb.control.asid) : "memory");
}

/* One #PF of L2's: from its own tables, or L1's lazily filled ones. */
static void shadow_page_fault(struct paging *guest)
{
	struct vmcb_control *c = &l2.vmcb.control;
	u64 linear = c->exit_info_2, error = c->exit_info_1, *entry, flags;

	entry = linear / PAGE_2M == ALIAS / PAGE_2M ? &guest->pt[linear / PAGE_SIZE % 512]
						    : paging_entry(guest, linear, 2);
	if (!(*entry & PTE_P)) {
		shadowed.injected++;
		l2.vmcb.save.cr2 = linear;
		c->event_inj = VEC_PF | EVENT_TYPE_EXCEPTION | EVENT_EV | EVENT_V |
			       (error & ~PFERR_P) << EVENT_ERROR_SHIFT;
		return;
	}
	if (error & PFERR_W)
		shadowed.writes++;
	else
		shadowed.fills++;
	*entry |= PTE_A | (error & PFERR_W ? PTE_D : 0);
	/* read-only until the guest's entry is dirty */
	flags = (*entry & ~PTE_ADDR) & ~(*entry & PTE_D ? 0 : PTE_W);
	l2.npt.pt[linear / PAGE_SIZE % 512] = (*entry & PTE_ADDR) | flags;
}

static void check_shadowing(const void *arg)
{
	struct vmcb_control *c = &l2.vmcb.control;
	struct vmcb_save *s = &l2.vmcb.save;
	struct paging *guest = &l2_tables;
	const u64 page_c = (u64)l2.iopm; /* any page */

	(void)arg;
	pages_fill();
	shadowed = (typeof(shadowed)){0};
	l2_reset(l2_paging);
	*(u64 *)page_c = 0xcccc;
	paging_identity(guest, PTE_ALL);
	paging_split(guest, ALIAS);
	guest->pt[0] = (u64)&page_a | PTE_P | PTE_W | PTE_U;
	guest->pt[1] = 0;
	paging_identity(&other_tables, PTE_ALL);
	paging_split(&other_tables, ALIAS);
	other_tables.pt[0] = page_c | PTE_P | PTE_U;
	other_tables.pt[1] = 0;
	/* the shadow: all but the 2 MByte from ALIAS */
	paging_identity(&l2.npt, PTE_ALL);
	paging_split(&l2.npt, ALIAS);
	for (u32 i = 0; i < 512; i++)
		l2.npt.pt[i] = 0;
	s->cr3 = paging_root(&l2.npt);
	l2_catch_events();
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2_intercept(INTERCEPT(INVLPG));
	l2_intercept(INTERCEPT_CR_WRITE(3));
	l2.regs.rdi = ALIAS;
	l2.regs.rdx = (u64)&guest->pt[0];
	l2.regs.rsi = (u64)&page_b | PTE_P | PTE_W | PTE_U;
	l2.regs.r11 = 0xdddd;
	l2.regs.r12 = paging_root(&other_tables);
	l2.regs.rbx = ALIAS + PAGE_SIZE;
	l2_flush();
	for (u32 exits = 0; exits < 20; exits++) {
		u64 code = l2_run();

		if (code == VMEXIT_VMMCALL)
			break;
		if (code == VMEXIT_EXCEPTION(VEC_PF)) {
			shadow_page_fault(guest);
		} else if (code == VMEXIT_INVLPG) {
			shadowed.invlpg++;
			shadow_drop(l2.regs.rdi);
			s->rip += 3;
		} else if (code == VMEXIT_CR_WRITE(3)) {
			/* a new address space: another ASID in place of a flush */
			shadowed.cr3++;
			guest = &other_tables;
			l2.npt.pt[0] = 0;
			c->asid++;
			s->rip += 4;
		} else {
			shadowed.others++;
			note("exit 0x%lx at offset %lu", code, s->rip - (u64)l2_paging);
			break;
		}
	}
	CHECK_EQ(l2.regs.r8, 0xaaaa);
	CHECK_EQ(l2.regs.r9, 0xaaaa); /* the shadow, and nothing but it, counts */
	CHECK_EQ(l2.regs.r10, 0xbbbb);
	CHECK_EQ(page_b.value, 0xdddd);
	CHECK_EQ(l2.regs.r13, 0xcccc);
	CHECK_EQ(l2_caught(), VEC_PF);
	CHECK_EQ(s->cr2, ALIAS + PAGE_SIZE);
	CHECK_EQ(l2_tables.pt[0], (u64)&page_b | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D);
	CHECK_EQ(shadowed.fills, 3);
	CHECK_EQ(shadowed.writes, 1);
	CHECK_EQ(shadowed.injected, 1);
	CHECK_EQ(shadowed.invlpg, 1);
	CHECK_EQ(shadowed.cr3, 1);
	CHECK_EQ(shadowed.others, 0);
}

/* L1 takes a right away, INVLPGA alone flushes it; and gives it again. */
static void check_invlpga(const void *arg)
{
	(void)arg;
	pages_fill();
	l2_reset(l2_read);
	paging_identity(&l2.npt, PTE_ALL);
	paging_split(&l2.npt, ALIAS);
	l2.npt.pt[0] = (u64)&page_a | PTE_ALL;
	l2.vmcb.save.cr3 = paging_root(&l2.npt);
	l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
	l2.regs.rdi = ALIAS;
	l2_flush();
	CHECK_EQ(read_again(), 0xaaaa);
	for (u32 i = 0; i < 8; i++) {
		shadow_drop(ALIAS);
		if (i % 4 == 3) {
			l2.vmcb.save.rip = (u64)l2_read;
			CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_PF));
		}
		l2.npt.pt[0] = (i % 2 ? (u64)&page_a : (u64)&page_b) | PTE_ALL;
		CHECK_EQ(read_again(), i % 2 ? 0xaaaa : 0xbbbb);
	}
}

/* ---- a bad nCR3 ---- */

static void check_bad_ncr3(const void *arg)
{
	(void)arg;
	l2_ready(READ, 1);
	l2.vmcb.control.nested_cr3 = BIT(platform.phys_bits);
	if (departs(DEPARTURE_NCR3_UNCHECKED))
		CHECK_EQ(l2_run(), VMEXIT_NPF);
	else
		CHECK_EQ(l2_run(), VMEXIT_INVALID);

	/* A page of zeroes: the first table of the guest is not there. */
	l2_ready(READ, 1);
	for (u32 i = 0; i < 512; i++)
		l2_tables.pt[i] = 0;
	l2.vmcb.control.nested_cr3 = (u64)l2_tables.pt;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_TABLE | PFERR_U | PFERR_W);
	CHECK_EQ(ALIGN_DOWN(l2.vmcb.control.exit_info_2, PAGE_SIZE),
		 ALIGN_DOWN(l2.vmcb.save.cr3, PAGE_SIZE));

	/* A page of ones: reserved bits. */
	l2_ready(READ, 1);
	for (u32 i = 0; i < 512; i++)
		l2_tables.pt[i] = ~0ull;
	l2.vmcb.control.nested_cr3 = (u64)l2_tables.pt;
	CHECK_EQ(l2_run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1,
		 NPF_TABLE | code_of(PFERR_U | PFERR_W | PFERR_RSV | PFERR_P));
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} others[] = {
	{"4-KiB, 2-MiB and 1-GiB pages", check_sizes, NULL},
	{"reserved address bits of large pages", check_large_reserved, NULL},
	{"#PF of the guest's own comes before NPF", check_guest_pf, NULL},
	{"accessed and dirty bits", check_accessed_dirty, NULL},
	{"remapping with a flush", check_remap, NULL},
	{"two nCR3, two ASIDs, no flush", check_two_spaces, NULL},
	{"two nCR3, one ASID, flushed each time", check_two_spaces, "same"},
	{"L2 without nested paging", check_no_npt, NULL},
	{"L2 with paging off", check_paging_off, NULL},
	{"L2 in real mode", check_real_mode, NULL},
	{"bad nCR3", check_bad_ncr3, NULL},
	{"the local APIC behind both levels", check_apic, NULL},
	{"an HPET behind both levels", check_hpet, NULL},
	{"L1 shadows L2's tables", check_shadowing, NULL},
	{"L1 takes back pages by INVLPGA", check_invlpga, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(faults) + ARRAY_SIZE(table_faults) + ARRAY_SIZE(others));
	if (!svm_start())
		return;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip_all("no nested paging (CPUID 8000_000A EDX[0])");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(faults); i++)
		tap_run(faults[i].name, check_fault, &faults[i]);
	for (u32 i = 0; i < ARRAY_SIZE(table_faults); i++)
		tap_run(table_faults[i].name, check_table_fault, &table_faults[i]);
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		tap_run(others[i].name, others[i].run, others[i].arg);
}

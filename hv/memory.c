/* SPDX-License-Identifier: MIT */
#include "hv/memory.h"
#include "x86/cr.h"

#define LOW_GIGABYTES 4 /* mapped with 2-MByte pages, the first 2 MByte with 4-KByte ones: MTRR types vary there */

/* Leaf and table bits. The A and D bits are set: nobody looks at them, and the CPU need not. */
#define TABLE (PTE_P | PTE_W | PTE_U | PTE_A)
#define LEAF (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

static u64 region_hpa, region_bytes;
static u8 *pool, *pool_end;
static u64 *npt, *core_tables;
static u64 *npt_hole, *core_hole; /* page tables with 512 times the page of FFh */
static u64 *npt_low[LOW_GIGABYTES];

static u8 hole_page[PAGE_SIZE] ALIGNED(4096);
static u8 sink_page[PAGE_SIZE] ALIGNED(4096);

u64 memory_hpa(const void *core_address)
{
	return (u64)(uintptr_t)core_address - CORE_VA + region_hpa;
}

static u64 *table_at(u64 entry)
{
	return (u64 *)(uintptr_t)((entry & PTE_ADDR) - region_hpa + CORE_VA);
}

void *memory_pages(unsigned int pages)
{
	u8 *p = pool;

	if ((u64)(pool_end - pool) < pages * PAGE_SIZE)
		return NULL;
	pool += pages * PAGE_SIZE;
	return p;
}

static u64 *table(void)
{
	return memory_pages(1);
}

static u64 pointer(const u64 *next_table, u64 flags)
{
	return memory_hpa(next_table) | flags;
}

/* Identity tables for [0, 2^bits): what L1 gets, and with a hole table of its own also L0's low half. */
static u64 *identity(u64 *root, unsigned int bits, u64 **low)
{
	u64 gigabytes = BIT(bits - 30);

	for (u64 g = 0; g < gigabytes; g++) {
		u64 *pdpt;

		if (!(g % 512)) {
			u64 *t = table();

			if (!t)
				return NULL;
			root[g / 512] = pointer(t, TABLE);
		}
		pdpt = table_at(root[g / 512]);
		pdpt[g % 512] = g * PAGE_1G | LEAF | PTE_PS;
	}
	for (u64 g = 0; g < LOW_GIGABYTES && g < gigabytes; g++) {
		u64 *pd = low[g] = table();

		if (!pd)
			return NULL;
		for (u64 i = 0; i < 512; i++)
			pd[i] = (g * PAGE_1G + i * PAGE_2M) | LEAF | PTE_PS;
		table_at(root[0])[g] = pointer(pd, TABLE);
	}
	return root;
}

static int build_first_2m(u64 *pd)
{
	u64 *pt = table();

	if (!pt)
		return -E_NOMEM;
	for (u64 i = 0; i < 512; i++)
		pt[i] = i * PAGE_SIZE | LEAF;
	pd[0] = pointer(pt, TABLE);
	return 0;
}

/* L0's own image at CORE_VA, each part with its one permission; the pool behind it with 2-MByte pages. */
static int build_core(const struct image_layout *image)
{
	u64 *pdpt = table(), *pd = table();

	if (!pdpt || !pd)
		return -E_NOMEM;
	core_tables[(CORE_VA >> 39) & 511] = pointer(pdpt, PTE_P | PTE_W | PTE_A);
	pdpt[(CORE_VA >> 30) & 511] = pointer(pd, PTE_P | PTE_W | PTE_A);
	for (u64 at = 0; at < region_bytes; at += PAGE_2M) {
		u64 *pt;

		if (at >= image->image_end) {
			pd[at / PAGE_2M] = (region_hpa + at) | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS | PTE_NX;
			continue;
		}
		pt = table();
		if (!pt)
			return -E_NOMEM;
		pd[at / PAGE_2M] = pointer(pt, PTE_P | PTE_W | PTE_A);
		for (u64 i = 0; i < 512; i++) {
			u64 page = at + i * PAGE_SIZE;
			u64 flags = page < image->text_end   ? 0 :
				    page < image->rodata_end ? PTE_NX :
							       PTE_NX | PTE_W;

			pt[i] = (region_hpa + page) | flags | PTE_P | PTE_A | PTE_D;
		}
	}
	return 0;
}

int memory_init(const struct handoff *handoff, const struct image_layout *image)
{
	unsigned int bits = handoff->phys_bits < CORE_MAX_PHYS_BITS ? handoff->phys_bits : CORE_MAX_PHYS_BITS;
	u64 *core_low[LOW_GIGABYTES];
	u64 slots;

	region_hpa = handoff->region_hpa;
	region_bytes = handoff->region_bytes;
	pool = (u8 *)(uintptr_t)(CORE_VA + image->image_end);
	pool_end = (u8 *)(uintptr_t)(CORE_VA + region_bytes);
	for (u64 i = 0; i < PAGE_SIZE; i++)
		hole_page[i] = 0xff;
	memory_sink_reset();

	npt = table();
	core_tables = table();
	npt_hole = table();
	core_hole = table();
	if (!npt || !core_tables || !npt_hole || !core_hole || !identity(npt, bits, npt_low) ||
	    !identity(core_tables, bits, core_low) || build_first_2m(npt_low[0]) || build_core(image))
		return -E_NOMEM;

	for (u64 i = 0; i < 512; i++) {
		npt_hole[i] = memory_hpa(hole_page) | PTE_P | PTE_U | PTE_A | PTE_D;
		core_hole[i] = memory_hpa(hole_page) | PTE_P | PTE_A | PTE_D;
	}
	for (u64 at = region_hpa; at < region_hpa + region_bytes; at += PAGE_2M) {
		/* absent at first for L1, so that the first touch is noticed */
		npt_low[at / PAGE_1G][at % PAGE_1G / PAGE_2M] = 0;
		core_low[at / PAGE_1G][at % PAGE_1G / PAGE_2M] = pointer(core_hole, PTE_P | PTE_A);
	}
	/* the low half: never executable, never user */
	slots = bits > 39 ? BIT(bits - 39) : 1;
	for (u64 i = 0; i < slots; i++)
		core_tables[i] = (core_tables[i] & ~PTE_U) | PTE_NX;
	return 0;
}

u64 memory_core_cr3(void)
{
	return memory_hpa(core_tables);
}

u64 memory_npt_hpa(void)
{
	return memory_hpa(npt);
}

u64 memory_hole_page_hpa(void)
{
	return memory_hpa(hole_page);
}

u64 memory_sink_page_hpa(void)
{
	return memory_hpa(sink_page);
}

void memory_sink_reset(void)
{
	for (u64 i = 0; i < PAGE_SIZE; i++)
		sink_page[i] = 0xff;
}

u64 *memory_open_hole(u64 gpa)
{
	npt_low[gpa / PAGE_1G][gpa % PAGE_1G / PAGE_2M] = pointer(npt_hole, TABLE);
	return &npt_hole[gpa % PAGE_2M / PAGE_SIZE];
}

static u64 check_table(const u64 *t, unsigned int level, u64 base, u64 all)
{
	for (u64 i = 0; i < 512; i++) {
		/* permissions: W is ANDed over the levels, NX is ORed; kept as W and "executable" */
		u64 now = all & ((t[i] & PTE_W) | (t[i] & PTE_NX ? 0 : PTE_NX));
		u64 address = base + (i << (12 + 9 * level)), bad;

		if (!(t[i] & PTE_P) || !(now & PTE_W) || !(now & PTE_NX))
			continue;
		if (!level || (t[i] & PTE_PS))
			return address ? address : 1;
		bad = check_table(table_at(t[i]), level - 1, address, now);
		if (bad)
			return bad;
	}
	return 0;
}

u64 memory_check_wx(void)
{
	return check_table(core_tables, 3, 0, PTE_W | PTE_NX);
}

/* SPDX-License-Identifier: MIT */
#include "hv/core/tables.h"
#include "abi/handoff.h"
#include "x86/cr.h"

/* The A and D bits are set: nobody looks at them, and the CPU need not. */
#define TABLE (PTE_P | PTE_W | PTE_U | PTE_A)
#define LEAF (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)
#define SUPERVISOR(flags) ((flags) & ~PTE_U)

void *pool_pages(struct page_pool *pool, u64 pages)
{
	u8 *p = pool->va;

	if ((u64)(pool->va_end - pool->va) / PAGE_SIZE < pages)
		return NULL;
	pool->va += pages * PAGE_SIZE;
	return p;
}

static u64 *table(struct tables *t)
{
	return pool_pages(&t->pool, 1);
}

static u64 pointer(const struct tables *t, const u64 *next_table, u64 flags)
{
	return pool_hpa(&t->pool, next_table) | flags;
}

static u64 *table_at(const struct tables *t, u64 entry)
{
	return (u64 *)(uintptr_t)((s64)(entry & PTE_ADDR) - t->pool.va_to_hpa);
}

/* Identity tables for [0, 2^bits), below `root`; low[]: page directories of the first GBytes. */
static int identity(struct tables *t, u64 *root, unsigned int bits, u64 **low)
{
	u64 gigabytes = BIT(bits - 30);

	for (u64 g = 0; g < gigabytes; g++) {
		if (!(g % 512)) {
			u64 *pdpt = table(t);

			if (!pdpt)
				return -E_NOMEM;
			root[g / 512] = pointer(t, pdpt, TABLE);
		}
		table_at(t, root[g / 512])[g % 512] = g * PAGE_1G | LEAF | PTE_PS;
	}
	for (u64 g = 0; g < LOW_GIGABYTES; g++) {
		u64 *pd = low[g] = table(t);

		if (!pd)
			return -E_NOMEM;
		for (u64 i = 0; i < 512; i++)
			pd[i] = (g * PAGE_1G + i * PAGE_2M) | LEAF | PTE_PS;
		table_at(t, root[0])[g] = pointer(t, pd, TABLE);
	}
	return 0;
}

/* 4-KByte entries for the 2 MByte around gpa, below 4 GByte, of L1's; the one of gpa, or NULL. */
static u64 *split_2m(struct tables *t, u64 gpa)
{
	u64 *pt = table(t);

	if (!pt)
		return NULL;
	for (u64 i = 0; i < 512; i++)
		pt[i] = (ALIGN_DOWN(gpa, PAGE_2M) + i * PAGE_SIZE) | LEAF;
	t->npt_low[gpa / PAGE_1G][gpa % PAGE_1G / PAGE_2M] = pointer(t, pt, TABLE);
	return &pt[gpa % PAGE_2M / PAGE_SIZE];
}

/* L0's image at core.va, each part with its one permission; the rest of the region with 2-MByte pages. */
static int map_core(struct tables *t)
{
	const struct core_layout *core = &t->core;
	u64 *pdpt = table(t), *pd = table(t);

	if (!pdpt || !pd)
		return -E_NOMEM;
	t->core_root[(core->va >> 39) & 511] = pointer(t, pdpt, SUPERVISOR(TABLE));
	pdpt[(core->va >> 30) & 511] = pointer(t, pd, SUPERVISOR(TABLE));
	for (u64 at = 0; at < core->bytes; at += PAGE_2M) {
		u64 *pt;

		if (at >= core->image_end) {
			pd[at / PAGE_2M] = (core->hpa + at) | SUPERVISOR(LEAF) | PTE_PS | PTE_NX;
			continue;
		}
		pt = table(t);
		if (!pt)
			return -E_NOMEM;
		pd[at / PAGE_2M] = pointer(t, pt, SUPERVISOR(TABLE));
		for (u64 i = 0; i < 512; i++) {
			u64 page = at + i * PAGE_SIZE;
			u64 flags = page < core->text_end     ? 0
				    : page < core->rodata_end ? PTE_NX
							      : PTE_NX | PTE_W;

			pt[i] = (core->hpa + page) | flags | PTE_P | PTE_A | PTE_D;
		}
	}
	return 0;
}

static unsigned int at_most(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/* Each GByte of HyperTransport's is the page of FFh, again and again. */
static void map_no_memory(struct tables *t, unsigned int bits, const u64 *pd_of_holes)
{
	for (u64 gpa = 0; gpa < BIT(at_most(bits, CORE_MAX_PHYS_BITS)); gpa += PAGE_1G)
		if (tables_is_hypertransport(gpa, bits))
			table_at(t, t->core_root[gpa >> 39])[(gpa >> 30) & 511] =
				pointer(t, pd_of_holes, PTE_P | PTE_A);
}

/* A table of 512 pieces of the page that `entry` maps, which is one of 1 << shift bytes; or a copy of the table. */
static u64 *split(struct tables *t, u64 entry, unsigned int shift)
{
	u64 *pieces = table(t), flags = shift == 21 ? entry & ~PTE_PS : entry;

	if (pieces && !(entry & PTE_PS))
		__builtin_memcpy(pieces, table_at(t, entry), PAGE_SIZE);
	else if (pieces)
		for (u64 i = 0; i < 512; i++)
			pieces[i] = flags + (i << (shift - 9));
	return pieces;
}

/* The 4-KByte entry of an address below `at`, in tables that are not also those below `shared` (which may be NULL). */
static u64 *own_leaf(struct tables *t, u64 *at, const u64 *shared, u64 address)
{
	for (unsigned int shift = 39; shift > PAGE_SHIFT; shift -= 9) {
		u64 index = address >> shift & 511, *entry = &at[index],
		    shared_entry = shared ? shared[index] : 0;

		if ((*entry & PTE_PS) || *entry == shared_entry) {
			u64 *own = split(t, *entry, shift);

			if (!own)
				return NULL;
			*entry = pointer(t, own, *entry & (TABLE | PTE_NX));
		}
		at = table_at(t, *entry);
		shared = !(shared_entry & PTE_P) || (shared_entry & PTE_PS)
				 ? NULL
				 : table_at(t, shared_entry);
	}
	return &at[address >> PAGE_SHIFT & 511];
}

/* The holes other than the region become pages of FFh, read-only; `flags` of a page. */
static int fill_holes(struct tables *t, u64 *root, const u64 *shared, u64 flags)
{
	for (u32 i = 1; i < t->holes->count; i++) {
		const struct range *hole = &t->holes->range[i];

		for (u64 at = hole->start; at < hole->end; at += PAGE_SIZE) {
			u64 *entry = own_leaf(t, root, shared, at);

			if (!entry)
				return -E_NOMEM;
			*entry = t->hole_page_hpa | flags;
		}
	}
	return 0;
}

int tables_build(struct tables *t, unsigned int bits, u64 hole_page_hpa)
{
	u64 *core_hole, *core_holes, *core_low[LOW_GIGABYTES];
	unsigned int core_bits = at_most(bits, CORE_MAX_PHYS_BITS);
	u64 slots = CORE_PDPTS(bits, CORE_MAX_PHYS_BITS);

	t->hole_page_hpa = hole_page_hpa;
	t->npt = table(t);
	t->core_root = table(t);
	core_hole = table(t);
	core_holes = table(t);
	if (!t->npt || !t->core_root || !core_hole || !core_holes ||
	    identity(t, t->npt, at_most(bits, L1_MAX_PHYS_BITS), t->npt_low) ||
	    identity(t, t->core_root, core_bits, core_low) || !split_2m(t, 0) || map_core(t))
		return -E_NOMEM;
	for (u64 i = 0; i < 512; i++) {
		core_hole[i] = hole_page_hpa | PTE_P | PTE_A | PTE_D;
		core_holes[i] = pointer(t, core_hole, PTE_P | PTE_A);
	}
	map_no_memory(t, bits, core_holes);
	for (u64 at = t->core.hpa; at < t->core.hpa + t->core.bytes; at += PAGE_2M) {
		/* absent at first for L1, so that the first touch is noticed */
		t->npt_low[at / PAGE_1G][at % PAGE_1G / PAGE_2M] = 0;
		core_low[at / PAGE_1G][at % PAGE_1G / PAGE_2M] =
			pointer(t, core_hole, PTE_P | PTE_A);
	}
	/* L0's low half: NX and supervisor at the top hold for all below */
	for (u64 i = 0; i < slots; i++)
		t->core_root[i] = SUPERVISOR(t->core_root[i]) | PTE_NX;
	return fill_holes(t, t->core_root, NULL, PTE_P | PTE_A | PTE_D);
}

int tables_npt_init(struct tables *t, struct npt *npt)
{
	__builtin_memcpy(npt->root, t->npt, PAGE_SIZE);
	__builtin_memcpy(npt->pdpt, table_at(t, t->npt[0]), PAGE_SIZE);
	npt->root[0] = pointer(t, npt->pdpt, TABLE);
	for (u64 g = 0; g < LOW_GIGABYTES; g++) {
		__builtin_memcpy(npt->low[g], t->npt_low[g], PAGE_SIZE);
		npt->pdpt[g] = pointer(t, npt->low[g], TABLE);
	}
	for (u64 i = 0; i < 512; i++)
		npt->hole[i] = t->hole_page_hpa | PTE_P | PTE_U | PTE_A | PTE_D;
	return fill_holes(t, npt->root, t->npt, PTE_P | PTE_U | PTE_A | PTE_D);
}

u64 *tables_open_hole(const struct tables *t, struct npt *npt, u64 gpa)
{
	if (!range_overlaps(&t->holes->range[0], gpa, 1)) {
		u64 *at = npt->root;

		for (unsigned int shift = 39; shift > PAGE_SHIFT; shift -= 9)
			at = table_at(t, at[gpa >> shift & 511]);
		return &at[gpa >> PAGE_SHIFT & 511];
	}
	npt->low[gpa / PAGE_1G][gpa % PAGE_1G / PAGE_2M] = pointer(t, npt->hole, TABLE);
	return &npt->hole[gpa % PAGE_2M / PAGE_SIZE];
}

u64 *tables_own_entry(const struct tables *t, struct npt *npt, u64 gpa)
{
	u64 *entry = &npt->low[gpa / PAGE_1G][gpa % PAGE_1G / PAGE_2M];

	if (npt->own_entry)
		*npt->own_entry = npt->own_was;
	npt->own_entry = entry;
	npt->own_was = *entry;
	if (*entry & PTE_PS)
		for (u64 i = 0; i < 512; i++)
			npt->own[i] = (*entry & ~PTE_PS) + i * PAGE_SIZE;
	else
		__builtin_memcpy(npt->own, table_at(t, *entry), PAGE_SIZE);
	*entry = pointer(t, npt->own, TABLE);
	return &npt->own[gpa % PAGE_2M / PAGE_SIZE];
}

int tables_map_mmio(struct tables *t, u32 i, u64 hpa)
{
	u64 *pdpt = table_at(t, t->core_root[(t->core.va >> 39) & 511]);
	u64 va = TABLES_MMIO_VA(t->core.va, i), *pt;
	u64 *at = &pdpt[(va >> 30) & 511];

	for (unsigned int shift = 21; shift >= PAGE_SHIFT; shift -= 9) {
		if (!*at) {
			u64 *next = table(t);

			if (!next)
				return -E_NOMEM;
			*at = pointer(t, next, SUPERVISOR(TABLE));
		}
		pt = table_at(t, *at);
		at = &pt[(va >> shift) & 511];
	}
	for (u64 page = 0; page < IOMMU_MMIO_BYTES; page += PAGE_SIZE)
		at[page / PAGE_SIZE] = (hpa + page) | SUPERVISOR(LEAF) | PTE_NX | PTE_PCD | PTE_PWT;
	return 0;
}

int tables_guard(struct tables *t, const void *page)
{
	u64 at = (u64)(uintptr_t)page;
	u64 *pdpt = table_at(t, t->core_root[(at >> 39) & 511]);
	u64 *entry = &table_at(t, pdpt[(at >> 30) & 511])[(at >> 21) & 511];

	if (*entry & PTE_PS) {
		u64 base = *entry & ~PTE_PS, *pt = table(t);

		if (!pt)
			return -E_NOMEM;
		for (u64 i = 0; i < 512; i++)
			pt[i] = base + i * PAGE_SIZE;
		*entry = pointer(t, pt, SUPERVISOR(TABLE));
	}
	table_at(t, *entry)[at % PAGE_2M / PAGE_SIZE] = 0;
	return 0;
}

/* `executable`: nothing above has NX; `writable`: everything above has W. */
/* NOLINTNEXTLINE(misc-no-recursion): as deep as page tables are */
static u64 check(const struct tables *t, const u64 *table, unsigned int level, u64 base,
		 bool writable, bool executable)
{
	for (u64 i = 0; i < 512; i++) {
		bool w = writable && (table[i] & PTE_W), x = executable && !(table[i] & PTE_NX);
		u64 address = base + (i << (12 + 9 * level)), bad;

		if (!(table[i] & PTE_P) || !w || !x)
			continue;
		if (!level || (table[i] & PTE_PS))
			return address ? address : 1;
		bad = check(t, table_at(t, table[i]), level - 1, address, w, x);
		if (bad)
			return bad;
	}
	return 0;
}

u64 tables_check_wx(const struct tables *t)
{
	return check(t, t->core_root, 3, 0, true, true);
}

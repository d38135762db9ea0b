/* SPDX-License-Identifier: MIT */
/*
 * The two sets of page tables that exist for good: L1's nested tables, and L0's own. Both are made of pages from one pool.
 * APM2 rev. 3.44 §5.3, §15.25.
 */
#ifndef TALLY_CORE_TABLES_H
#define TALLY_CORE_TABLES_H

#include "hv/core/holes.h"
#include "x86/iommu.h"
#include "types.h"

/* Memory whose bytes are at va for us, and at hpa for the page walker. Zeroed. */
struct page_pool {
	u8 *va, *va_end; /* what is left */
	s64 va_to_hpa;	 /* hpa = va + this */
};

/* Where L0's image and region are; offsets are page-aligned. */
struct core_layout {
	u64 va;				     /* of the region, 1-GByte aligned */
	u64 hpa;			     /* 2-MByte aligned, region below 4 GByte */
	u64 bytes;			     /* whole 2 MBytes */
	u64 text_end, rodata_end, image_end; /* offsets in the region */
};

/*
 * 12 GByte that AMD keeps for HyperTransport: below 1 TByte, and on family 17h and newer at the end of the address space.
 * There is no memory, and a load, even a speculative one, may end in a machine check. L1 maps them or not, as on the bare
 * machine; L0 has the page of FFh there.
 */
#define HYPERTRANSPORT_BYTES (12 * PAGE_1G)
#define HYPERTRANSPORT_START (BIT(40) - HYPERTRANSPORT_BYTES)

static inline bool tables_is_hypertransport(u64 gpa, unsigned int bits)
{
	return bits >= 40 && (gpa - HYPERTRANSPORT_START < HYPERTRANSPORT_BYTES ||
			      gpa - (BIT(bits) - HYPERTRANSPORT_BYTES) < HYPERTRANSPORT_BYTES);
}

/* Mapped with 2-MByte pages, the first 2 MByte with 4-KByte ones: MTRR types vary there. */
#define LOW_GIGABYTES 4

/* L1's nested tables on one CPU, as far as they are its own: all that maps the first 4 GByte. Page-aligned. */
struct npt {
	u64 root[512];
	u64 pdpt[512]; /* of the first 512 GByte */
	u64 low[LOW_GIGABYTES][512];
	u64 hole[512];	/* 512 times the page of FFh */
	u64 own[512];	/* the 2 MByte with the page of tables_own_entry() */
	u64 *own_entry; /* what points to that, */
	u64 own_was;	/* and what stood there; NULL: no such page */
} ALIGNED(4096);

struct tables {
	struct page_pool pool;
	struct core_layout core;
	u64 *npt;		     /* what each CPU's begins as: identity, the region absent */
	u64 *npt_low[LOW_GIGABYTES]; /* its page directories of the first 4 GByte */
	/* L0's: identity below, never executable, the region and HyperTransport's as pages of FFh; and L0 itself at core.va */
	u64 *core_root;
	u64 hole_page_hpa;
	const struct holes *holes;
};

/* Where L0's own half of the address space has the registers of IOMMU number i. */
#define TABLES_MMIO_VA(core_va, i) ((core_va) + PAGE_1G + (i) * (u64)IOMMU_MMIO_BYTES)

/* `pages` zeroed pages of the pool; NULL if it is used up. */
void *pool_pages(struct page_pool *pool, u64 pages);

static inline u64 pool_hpa(const struct page_pool *pool, const void *va)
{
	return (u64)((s64)(uintptr_t)va + pool->va_to_hpa);
}

/* Builds both from t->pool for t->core and t->holes, of which the first is the region, as far as so many physical address
 * bits (32 and more) and each of the two can go; hole_page_hpa is a page of FFh. 0, or -E_NOMEM. */
int tables_build(struct tables *t, unsigned int bits, u64 hole_page_hpa);

/* The nested tables of one CPU, in memory of the region. 0, or -E_NOMEM. */
int tables_npt_init(struct tables *t, struct npt *npt);

/* For gpa in a hole: from now on L1 finds the page of FFh there, read-only; the other holes have it from the start. The
 * region gets it in the 2 MByte around gpa. Returns the entry. */
u64 *tables_open_hole(const struct tables *t, struct npt *npt, u64 gpa);

/* Maps an IOMMU's registers, IOMMU_MMIO_BYTES at hpa, for L0 alone at TABLES_MMIO_VA(); i: 0..IOMMU_MAX-1. 0, or -E_NOMEM. */
int tables_map_mmio(struct tables *t, u32 i, u64 hpa);

/* One page below 4 GByte gets an entry of its own, instead of the last one that had. Returns the entry. */
u64 *tables_own_entry(const struct tables *t, struct npt *npt, u64 gpa);

/* Takes a page of the region away from L0. 0, or -E_NOMEM. */
int tables_guard(struct tables *t, const void *page);

/* 0, or an address that L0's tables make both writable and executable. */
u64 tables_check_wx(const struct tables *t);

#endif

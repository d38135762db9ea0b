/* SPDX-License-Identifier: MIT */
/*
 * The two sets of page tables that exist for good: L1's nested tables, and L0's own. Both are made of pages from one pool.
 * APM2 rev. 3.44 §5.3, §15.25.
 */
#ifndef TALLY_CORE_TABLES_H
#define TALLY_CORE_TABLES_H

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

struct tables {
	struct page_pool pool;
	struct core_layout core;
	u64 *npt; /* L1's: identity for [0, 2^bits), the region absent */
	u64 *core_root; /* L0's: the same below, never executable, the region as pages of FFh; and L0 itself at core.va */
	u64 *hole;	 /* a page table with 512 times the page of FFh, for L1 */
	u64 *npt_low[4]; /* the nested page directories of the first 4 GByte */
	u64 *npt_apic;	 /* L1's entry for the page at APIC_DEFAULT_PAGE */
};

/* `pages` zeroed pages of the pool; NULL if it is used up. */
void *pool_pages(struct page_pool *pool, unsigned int pages);

static inline u64 pool_hpa(const struct page_pool *pool, const void *va)
{
	return (u64)((s64)(uintptr_t)va + pool->va_to_hpa);
}

/* Builds both from t->pool for t->core; hole_page_hpa is a page of FFh. bits: 32..47. 0, or -E_NOMEM. */
int tables_build(struct tables *t, unsigned int bits, u64 hole_page_hpa);

/* From now on L1 finds the page of FFh at gpa, read-only, in the 2 MByte of the region around it. Returns the entry. */
u64 *tables_open_hole(struct tables *t, u64 gpa);

/* 0, or an address that L0's tables make both writable and executable. */
u64 tables_check_wx(const struct tables *t);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * L0's address space and L1's.
 *
 * The low half of L0's address space is guest-physical memory (gpa = hpa = address; below 2^47), writable and never
 * executable, in which our own region is replaced by one page of FFh: no pointer that a guest gives can reach L0. The region itself
 * is at CORE_VA: text RX, rodata R, data RW. L1's NPT is the identity without our region.
 */
#ifndef TALLY_HV_MEMORY_H
#define TALLY_HV_MEMORY_H

#include "abi/handoff.h"
#include "hv/core/tables.h"
#include "types.h"

struct image_layout {
	u64 text_end, rodata_end, image_end;
};

/* Builds both sets of tables from the pool behind the image. 0, or -E_NOMEM. */
int memory_init(const struct handoff *handoff, const struct image_layout *image);

/* What guests do not have; constant after memory_init(). */
const struct holes *memory_holes(void);

u64 memory_core_cr3(void);

/* hpa of something in our own region. */
u64 memory_hpa(const void *core_address);

/* Zeroed memory of the pool, `alignment` a power of two from a page on; NULL if it is used up. */
void *memory_aligned(u64 bytes, u64 alignment);

/* The page is L0's no more. 0, or -E_NOMEM. */
int memory_guard(const void *page);

/* The page of FFh, read-only to guests. */
u64 memory_hole_page_hpa(void);
void memory_fill_ff(u8 *page);

/* The nested tables of a CPU. 0, or -E_NOMEM. */
int memory_npt_init(struct npt *npt);

/* L1's NPT entry for a gpa in a hole: maps the page of FFh from now on. Returns the 4-KByte entry. */
u64 *memory_open_hole(struct npt *npt, u64 gpa);

/* L1's NPT entry for one page below 4 GByte, which no other page has; until the next call. */
u64 *memory_own_entry(struct npt *npt, u64 gpa);

/* The same memory as a pool, for the tables of others. */
struct page_pool *memory_pool(void);

/* An IOMMU's registers, for L0 alone, number i; NULL: no memory. */
volatile void *memory_map_mmio(u32 i, u64 hpa);

/* No page of L0's address space is writable and executable: 0, or an address that is. */
u64 memory_check_wx(void);

#endif

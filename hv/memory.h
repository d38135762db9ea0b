/* SPDX-License-Identifier: MIT */
/*
 * L0's address space and L1's.
 *
 * The low half of L0's address space is guest-physical memory (gpa = hpa = address), writable and never executable,
 * in which our own region is replaced by one page of FFh: no pointer that a guest gives can reach L0. The region itself
 * is at CORE_VA: text RX, rodata R, data RW. L1's NPT is the identity without our region.
 */
#ifndef TALLY_HV_MEMORY_H
#define TALLY_HV_MEMORY_H

#include "abi/handoff.h"
#include "types.h"

struct image_layout {
	u64 text_end, rodata_end, image_end;
};

/* Builds both sets of tables from the pool behind the image. 0, or -E_NOMEM. */
int memory_init(const struct handoff *handoff, const struct image_layout *image);

u64 memory_core_cr3(void);
u64 memory_npt_hpa(void);

/* hpa of something in our own region. */
u64 memory_hpa(const void *core_address);

/* `pages` zeroed pages of the pool; NULL if it is used up. */
void *memory_pages(unsigned int pages);

/* The page of FFh, read-only to guests. */
u64 memory_hole_page_hpa(void);
/* A page for one write to nowhere: filled with FFh again by memory_sink_reset(). */
u64 memory_sink_page_hpa(void);
void memory_sink_reset(void);

/* L1's NPT entry for a gpa in our region: maps the page of FFh from now on. Returns the 4-KByte entry. */
u64 *memory_open_hole(u64 gpa);

/* L1's NPT entry for the local APIC's page, at its default place. */
u64 *memory_apic_leaf(void);

/* No page of L0's address space is writable and executable: 0, or an address that is. */
u64 memory_check_wx(void);

#endif

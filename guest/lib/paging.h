/* SPDX-License-Identifier: MIT */
/* Identity page tables in static memory. The same format serves as a guest's CR3 and as nCR3. */
#ifndef GUEST_PAGING_H
#define GUEST_PAGING_H

#include "types.h"
#include "x86/cr.h"

/* 0-4 GiB in 2-MiB pages, above in 1-GiB pages where the CPU has them; one 2-MiB page can be split. */
struct paging {
	u64 pml5[512];
	u64 pml4[512];
	u64 pdpt[512];
	u64 pd[4][512];
	u64 pt[512];
} ALIGNED(4096);

#define PTE_ALL (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

void paging_identity(struct paging *p, u64 flags);
/* The entry that maps an address below 4 GiB: level 1 only inside the split page. */
u64 *paging_entry(struct paging *p, u64 address, unsigned int level);
/* Splits the 2-MiB page around address and returns its level-1 entry. */
u64 *paging_split(struct paging *p, u64 address);
/* The value for CR3 or nCR3: with CR4.LA57 a fifth level. */
u64 paging_root(const struct paging *p);

#endif

/* SPDX-License-Identifier: MIT */
#include "guest/lib/paging.h"

#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"

static u64 pa(const void *p)
{
	return (u64)p;
}

void paging_identity(struct paging *p, u64 flags)
{
	*p = (struct paging){0};
	p->pml5[0] = pa(p->pml4) | flags;
	p->pml4[0] = pa(p->pdpt) | flags;
	for (unsigned int g = 0; g < ARRAY_SIZE(p->pd); g++) {
		p->pdpt[g] = pa(p->pd[g]) | flags;
		for (unsigned int i = 0; i < 512; i++)
			p->pd[g][i] = (g * PAGE_1G + i * PAGE_2M) | flags | PTE_PS;
	}
	for (unsigned int g = ARRAY_SIZE(p->pd); platform.long_1g && g < 512; g++)
		p->pdpt[g] = g * PAGE_1G | flags | PTE_PS;
}

u64 *paging_entry(struct paging *p, u64 address, unsigned int level)
{
	switch (level) {
	case 1:
		return &p->pt[address / PAGE_SIZE % 512];
	case 2:
		return &p->pd[address / PAGE_1G][address / PAGE_2M % 512];
	case 3:
		return &p->pdpt[address / PAGE_1G];
	default:
		return &p->pml4[0];
	}
}

u64 *paging_split(struct paging *p, u64 address)
{
	u64 *entry = paging_entry(p, address, 2), base = ALIGN_DOWN(address, PAGE_2M);
	u64 flags = *entry & ~(PTE_ADDR | PTE_PS);

	for (unsigned int i = 0; i < 512; i++)
		p->pt[i] = (base + i * PAGE_SIZE) | flags;
	*entry = pa(p->pt) | flags;
	return paging_entry(p, address, 1);
}

u64 paging_root(const struct paging *p)
{
	return read_cr4() & CR4_LA57 ? pa(p->pml5) : pa(p->pml4);
}

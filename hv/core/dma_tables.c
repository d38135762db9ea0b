/* SPDX-License-Identifier: MIT */
#include "hv/core/dma_tables.h"

#define RIGHTS (IOMMU_PTE_IR | IOMMU_PTE_IW)
#define LARGEST_PAGE_LEVEL 3 /* 1 GByte */

struct builder {
	struct page_pool *pool;
	const struct holes *holes;
	u64 end;
};

static bool in_one_hole(const struct holes *holes, u64 start, u64 bytes)
{
	for (u32 i = 0; i < holes->count; i++)
		if (start >= holes->range[i].start && start + bytes <= holes->range[i].end)
			return true;
	return false;
}

/* A table of this level for what begins at base; NULL: no memory. */
/* NOLINTNEXTLINE(misc-no-recursion): as deep as page tables are */
static u64 *build(const struct builder *b, unsigned int level, u64 base)
{
	u64 *table = pool_pages(b->pool, 1), span = BIT(3 + 9 * level);

	for (u64 i = 0; table && i < 512; i++) {
		u64 at = base + i * span, *next;

		if (at >= b->end || in_one_hole(b->holes, at, span)) {
			table[i] = 0;
		} else if (level <= LARGEST_PAGE_LEVEL && !holes_overlap(b->holes, at, span)) {
			table[i] = at | RIGHTS | IOMMU_PTE_PR;
		} else {
			next = build(b, level - 1, at);
			if (!next)
				return NULL;
			table[i] = pool_hpa(b->pool, next) | RIGHTS |
				   IOMMU_PTE_NEXT_LEVEL(level - 1) | IOMMU_PTE_PR;
		}
	}
	return table;
}

u64 *dma_tables_build(struct page_pool *pool, unsigned int bits, const struct holes *holes)
{
	struct builder b = {pool, holes, BIT(bits)};

	return build(&b, DMA_TABLES_LEVELS, 0);
}

void dma_tables_devices(struct iommu_device_entry *devices, u64 root_hpa)
{
	for (u32 i = 0; i < IOMMU_DEVICES; i++)
		devices[i] = (struct iommu_device_entry){
			.translation = root_hpa | IOMMU_DTE_V | IOMMU_DTE_TV | IOMMU_DTE_IR |
				       IOMMU_DTE_IW | IOMMU_DTE_LEVELS(DMA_TABLES_LEVELS),
			.domain = DMA_TABLES_DOMAIN | IOMMU_DTE_SYSMGT_PASS,
			/* IV = 0: interrupts pass. QEMU loses those that IV = 1 and IntCtl = 01b are to let pass */
			.interrupts = 0,
		};
}

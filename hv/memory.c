/* SPDX-License-Identifier: MIT */
#include "hv/memory.h"

static struct tables tables;

static struct holes holes;
static u8 hole_page[PAGE_SIZE] ALIGNED(4096);

u64 memory_hpa(const void *core_address)
{
	return pool_hpa(&tables.pool, core_address);
}

void *memory_aligned(u64 bytes, u64 alignment)
{
	struct page_pool *pool = &tables.pool;
	u64 before = ALIGN_UP((u64)(uintptr_t)pool->va, alignment) - (u64)(uintptr_t)pool->va;
	u8 *p = pool_pages(pool, (before + ALIGN_UP(bytes, PAGE_SIZE)) / PAGE_SIZE);

	return p ? p + before : NULL;
}

int memory_guard(const void *page)
{
	return tables_guard(&tables, page);
}

void memory_fill_ff(u8 *page)
{
	__builtin_memset(page, 0xff, PAGE_SIZE);
}

int memory_init(const struct handoff *handoff, const struct image_layout *image)
{
	tables.pool = (struct page_pool){
		.va = (u8 *)(uintptr_t)(CORE_VA + image->image_end),
		.va_end = (u8 *)(uintptr_t)(CORE_VA + handoff->region_bytes),
		.va_to_hpa = (s64)(handoff->region_hpa - CORE_VA),
	};
	tables.core = (struct core_layout){
		.va = CORE_VA,
		.hpa = handoff->region_hpa,
		.bytes = handoff->region_bytes,
		.text_end = image->text_end,
		.rodata_end = image->rodata_end,
		.image_end = image->image_end,
	};
	holes_add(&holes, handoff->region_hpa, handoff->region_bytes);
	for (u32 i = 0; i < handoff->iommus; i++)
		holes_add(&holes, handoff->iommu[i].mmio_hpa, handoff->iommu[i].mmio_bytes);
	tables.holes = &holes;
	memory_fill_ff(hole_page);
	return tables_build(&tables, handoff->phys_bits, memory_hpa(hole_page));
}

const struct holes *memory_holes(void)
{
	return &holes;
}

struct page_pool *memory_pool(void)
{
	return &tables.pool;
}

volatile void *memory_map_mmio(u32 i, u64 hpa)
{
	return tables_map_mmio(&tables, i, hpa) ? NULL
						: (void *)(uintptr_t)TABLES_MMIO_VA(CORE_VA, i);
}

u64 memory_core_cr3(void)
{
	return memory_hpa(tables.core_root);
}

u64 memory_hole_page_hpa(void)
{
	return memory_hpa(hole_page);
}

int memory_npt_init(struct npt *npt)
{
	return tables_npt_init(&tables, npt);
}

u64 *memory_open_hole(struct npt *npt, u64 gpa)
{
	return tables_open_hole(&tables, npt, gpa);
}

u64 *memory_own_entry(struct npt *npt, u64 gpa)
{
	return tables_own_entry(&tables, npt, gpa);
}

u64 memory_check_wx(void)
{
	return tables_check_wx(&tables);
}

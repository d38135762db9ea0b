/* SPDX-License-Identifier: MIT */
#include "hv/memory.h"
#include "hv/core/tables.h"

static struct tables tables;

static u8 hole_page[PAGE_SIZE] ALIGNED(4096);
static u8 sink_page[PAGE_SIZE] ALIGNED(4096);

u64 memory_hpa(const void *core_address)
{
	return pool_hpa(&tables.pool, core_address);
}

void *memory_pages(unsigned int pages)
{
	return pool_pages(&tables.pool, pages);
}

static void fill(u8 *page, u8 byte)
{
	for (u64 i = 0; i < PAGE_SIZE; i++)
		page[i] = byte;
}

int memory_init(const struct handoff *handoff, const struct image_layout *image)
{
	unsigned int bits =
		handoff->phys_bits < CORE_MAX_PHYS_BITS ? handoff->phys_bits : CORE_MAX_PHYS_BITS;

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
	fill(hole_page, 0xff);
	memory_sink_reset();
	return tables_build(&tables, bits, memory_hpa(hole_page));
}

u64 memory_core_cr3(void)
{
	return memory_hpa(tables.core_root);
}

u64 memory_npt_hpa(void)
{
	return memory_hpa(tables.npt);
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
	fill(sink_page, 0xff);
}

u64 *memory_open_hole(u64 gpa)
{
	return tables_open_hole(&tables, gpa);
}

u64 *memory_apic_leaf(void)
{
	return tables.npt_apic;
}

u64 memory_check_wx(void)
{
	return tables_check_wx(&tables);
}

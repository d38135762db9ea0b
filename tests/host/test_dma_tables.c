/* SPDX-License-Identifier: MIT */
/* The tables of the IOMMUs, walked as 48882 says, from the entry of a device: one address at a time. */
#include <stdlib.h>
#include <string.h>

#include "hv/core/dma_tables.h"
#include "test.h"

#define HPA 0x5000000ull
#define POOL (768 * PAGE_SIZE)

struct fixture {
	u8 *memory;
	struct page_pool pool;
	struct holes holes;
	struct iommu_device_entry *devices;
	u64 *root;
};

static bool in_hole(const struct fixture *f, u64 address)
{
	for (u32 i = 0; i < f->holes.count; i++)
		if (address >= f->holes.range[i].start && address < f->holes.range[i].end)
			return true;
	return false;
}

/* True if a device may read and write there; it then has to be the address itself. */
static bool reaches(const struct fixture *f, const struct iommu_device_entry *device, u64 address)
{
	unsigned int level = (unsigned int)(device->translation >> 9) & 7;
	u64 entry = device->translation, rights = 3ull << 61;

	CHECK_EQ(entry & 3, 3); /* V, TV */
	if (address >> (12 + 9 * level))
		return false;
	for (;;) {
		unsigned int shift = 3 + 9 * level, next;

		CHECK((entry & 0xffffffffff000ull) - HPA < POOL);
		memcpy(&entry,
		       f->memory + ((entry & 0xffffffffff000ull) - HPA) +
			       (address >> shift & 511) * 8,
		       8);
		if (!(entry & 1))
			return false;
		CHECK_EQ(entry & 0x9ffull & ~1ull, 0);
		CHECK_EQ(entry >> 52 & 0x1ff, 0);
		rights &= entry;
		next = entry >> 9 & 7;
		CHECK(next < level);
		if (!next) {
			CHECK_EQ(entry & 0xffffffffff000ull & ((1ull << shift) - 1), 0);
			CHECK_EQ((entry & 0xffffffffff000ull) + (address & ((1ull << shift) - 1)),
				 address);
			CHECK_EQ(rights, 3ull << 61);
			return true;
		}
		level = next;
	}
}

static void build(struct fixture *f, unsigned int bits)
{
	f->memory = aligned_alloc(PAGE_SIZE, POOL);
	memset(f->memory, 0, POOL);
	f->pool = (struct page_pool){f->memory, f->memory + POOL,
				     (s64)(HPA - (u64)(uintptr_t)f->memory)};
	f->devices = malloc(IOMMU_DEVICES * sizeof(*f->devices));
	f->root = dma_tables_build(&f->pool, bits, &f->holes);
	CHECK(f->root);
	dma_tables_devices(f->devices, pool_hpa(&f->pool, f->root));
}

static void destroy(struct fixture *f)
{
	free(f->memory);
	free(f->devices);
}

static void check_address(const struct fixture *f, unsigned int bits, u64 address)
{
	CHECK_EQ(reaches(f, &f->devices[test_below(IOMMU_DEVICES)], address),
		 address < BIT(bits) && !in_hole(f, address));
}

TEST(dma_tables_are_the_identity_without_the_holes)
{
	static const unsigned int sizes[] = {32, 36, 39, 40, 43, 47, 48};

	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		unsigned int bits = sizes[s];
		struct fixture f = {0};

		holes_add(&f.holes, 0x1da00000, 0xc00000); /* L0's region */
		holes_add(&f.holes, 0xfed80000, 0x4000);   /* one IOMMU */
		holes_add(&f.holes, 0xe2600000, 0x80000);  /* and another */
		if (bits > 40)
			holes_add(&f.holes, 0x10b10000000, 0x80000);
		build(&f, bits);
		for (u32 i = 0; i < f.holes.count; i++) {
			const struct range *r = &f.holes.range[i];

			for (u64 at = r->start; at < r->end; at += PAGE_SIZE)
				check_address(&f, bits, at + test_below(PAGE_SIZE));
			check_address(&f, bits, r->start - 1);
			check_address(&f, bits, r->start);
			check_address(&f, bits, r->end - 1);
			check_address(&f, bits, r->end);
		}
		check_address(&f, bits, 0);
		check_address(&f, bits, BIT(bits) - 1);
		check_address(&f, bits, BIT(bits));
		check_address(&f, bits, ~0ull);
		for (unsigned int i = 0; i < 20000; i++)
			check_address(&f, bits, test_random() >> test_below(64));
		destroy(&f);
	}
}

/* Holes of any size, side by side or one in the other, as a firmware may want it. */
TEST(dma_tables_random_holes)
{
	for (unsigned int i = 0; i < 400; i++) {
		u64 near = test_below(BIT(28)) << 12;
		struct fixture f = {0};

		for (u64 n = 1 + test_below(5); n; n--)
			holes_add(
				&f.holes,
				ALIGN_DOWN(near + test_below(BIT(12 + test_below(20))), PAGE_SIZE),
				(1 + test_below(BIT(test_below(11)))) * PAGE_SIZE);
		build(&f, 41);
		for (unsigned int k = 0; k < 300; k++) {
			const struct range *r = &f.holes.range[test_below(f.holes.count)];
			u64 edge = test_below(2) ? r->start : r->end;

			check_address(&f, 41, edge - 1);
			check_address(&f, 41, edge);
			check_address(&f, 41, r->start + test_below(r->end - r->start));
			check_address(&f, 41, near ^ test_random() >> (24 + test_below(40)));
		}
		destroy(&f);
	}
}

/* Every device, whatever its number: the same tables, V, TV, IR, IW; and all interrupts pass. */
TEST(dma_tables_devices_are_all_alike)
{
	struct fixture f = {0};

	holes_add(&f.holes, 0x1da00000, 0x400000);
	build(&f, 40);
	for (u32 i = 0; i < IOMMU_DEVICES; i++) {
		CHECK_EQ(f.devices[i].translation,
			 pool_hpa(&f.pool, f.root) | 3ull << 61 | 4 << 9 | 3);
		/* bit 96, I: no device translates by itself; 104: system management messages as without an IOMMU */
		CHECK_EQ(f.devices[i].domain, 1 | 1ull << (104 - 64));
		/* 128, IV = 0: interrupts pass as they are */
		CHECK_EQ(f.devices[i].interrupts, 0);
		CHECK_EQ(f.devices[i].other, 0);
	}
	destroy(&f);
}

/* The loader's calculation of what all this takes holds with as many IOMMUs as there can be; less is noticed. */
TEST(dma_tables_fit)
{
	struct fixture f = {0};
	u64 used, bytes = CORE_DMA_BYTES(47, 1, IOMMU_MAX) - PAGE_2M - 5ull * IOMMU_MAX * PAGE_SIZE;

	holes_add(&f.holes, 0x1da00000, 0x400000);
	for (u32 i = 0; i < IOMMU_MAX; i++)
		holes_add(&f.holes, 0x10000000000 + i * PAGE_1G, 0x80000);
	build(&f, 47);
	used = (u64)(f.pool.va - f.memory);
	CHECK(used <= bytes);
	for (u64 less = 0; less < used; less += PAGE_SIZE) {
		struct page_pool pool = {f.memory, f.memory + less, 0};

		memset(f.memory, 0, POOL);
		CHECK(!dma_tables_build(&pool, 47, &f.holes));
	}
	destroy(&f);
}

/* SPDX-License-Identifier: MIT */
/* L1's nested tables and L0's own, looked up the way the CPU does, one address at a time. */
#include <stdlib.h>
#include <string.h>

#include "abi/handoff.h"
#include "hv/core/tables.h"
#include "test.h"
#include "x86/cr.h"

#define VA 0xffffff8000000000ull
#define HPA 0x1da00000ull
#define REGION (4 * PAGE_2M)
#define HOLE_PAGE 0x7000000ull

/* Registers of IOMMUs: next to the APIC, in the first 2 MByte, above 4 GByte, and above 512 GByte. */
static const u64 mmio[] = {0xfed80000, 0x84000, 0x123480000, 0x8000004000};
#define MMIO_BYTES 0x4000

struct fixture {
	struct tables t;
	struct holes holes;
	u8 *memory; /* what is at HPA + image_end */
	u64 bytes;
};

struct found {
	bool present;
	u64 hpa, flags; /* flags: W and U of all levels, NX of any */
};

static void build(struct fixture *f, unsigned int bits, u64 image_end)
{
	f->bytes = REGION - image_end;
	f->memory = aligned_alloc(PAGE_SIZE, f->bytes);
	memset(f->memory, 0, f->bytes);
	memset(&f->t, 0, sizeof(f->t));
	f->t.pool = (struct page_pool){f->memory, f->memory + f->bytes,
				       (s64)(HPA + image_end - (u64)(uintptr_t)f->memory)};
	f->t.core = (struct core_layout){VA, HPA, REGION, 0x5000, 0x8000, image_end};
	memset(&f->holes, 0, sizeof(f->holes));
	holes_add(&f->holes, HPA, REGION);
	for (size_t i = 0; i < ARRAY_SIZE(mmio); i++)
		if (mmio[i] < BIT(bits))
			holes_add(&f->holes, mmio[i], MMIO_BYTES);
	f->t.holes = &f->holes;
	CHECK_EQ(tables_build(&f->t, bits, HOLE_PAGE), 0);
}

static struct found look_up(const struct fixture *f, const u64 *table, u64 address)
{
	struct found found = {true, 0, PTE_W | PTE_U};

	for (unsigned int shift = 39;; shift -= 9) {
		u64 e = table[(address >> shift) & 511], size = 1ull << shift;

		if (!(e & PTE_P))
			return (struct found){0};
		found.flags &= e | ~(PTE_W | PTE_U);
		found.flags |= e & PTE_NX;
		if (shift == 12 || (e & PTE_PS)) {
			CHECK_EQ(e & PTE_ADDR & (size - 1), 0);
			found.hpa = (e & PTE_ADDR) | (address & (size - 1));
			return found;
		}
		table = (const u64 *)(uintptr_t)((s64)(e & PTE_ADDR) - f->t.pool.va_to_hpa);
	}
}

/* FD_0000_0000h to FF_FFFF_FFFFh, and the last 12 GByte of an address space of this size. */
static bool is_hypertransport(u64 address, unsigned int bits)
{
	return bits >= 40 && ((address >= 0xfd00000000 && address <= 0xffffffffff) ||
			      address >> 30 >= (1ull << (bits - 30)) - 12);
}

static bool in_mmio(u64 address)
{
	for (size_t i = 0; i < ARRAY_SIZE(mmio); i++)
		if (address >= mmio[i] && address < mmio[i] + MMIO_BYTES)
			return true;
	return false;
}

static bool in_region(u64 address)
{
	return address >= HPA && address < HPA + REGION;
}

/* Addresses worth looking at below 2^bits: corners of pages of all sizes, of the region, and random ones. */
static u64 some_address(unsigned int bits, unsigned int i)
{
	const u64 corners[] = {0,
			       0xfff,
			       0x1000,
			       PAGE_2M - 1,
			       PAGE_2M,
			       PAGE_1G - 1,
			       PAGE_1G,
			       0xfee00000,
			       0xffffffff,
			       0x100000000,
			       HPA - 1,
			       HPA,
			       HPA + 0x5000,
			       HPA + REGION - 1,
			       HPA + REGION,
			       0xfcffffffff,
			       0xfd00000000,
			       0xffffffffff,
			       BIT(bits) - (12ull << 30) - 1,
			       BIT(bits) - (12ull << 30)};

	if (i < ARRAY_SIZE(corners))
		return corners[i] & (BIT(bits) - 1);
	if (i % 4 == 0)
		return HPA + test_below(REGION);
	if (i % 4 == 1) /* the registers, and as much before and behind them */
		return (mmio[test_below(ARRAY_SIZE(mmio))] - MMIO_BYTES +
			test_below(3ull * MMIO_BYTES)) &
		       (BIT(bits) - 1);
	return test_random() & (BIT(bits) - 1) >> test_below(bits - 12);
}

TEST(tables_are_the_identity_without_the_region)
{
	static const unsigned int sizes[] = {36, 39, 40, 43, 47, 48, 52};
	struct fixture f;

	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		build(&f, sizes[s], 0x2f000);
		for (unsigned int i = 0; i < 20000; i++) {
			/* four levels map no more, and L0 has the lower half of that */
			u64 address = some_address(sizes[s], i) & (BIT(48) - 1);
			struct found l1 = look_up(&f, f.t.npt, address), l0;

			CHECK_EQ(l1.present, !in_region(address));
			if (l1.present) {
				CHECK_EQ(l1.hpa, address);
				CHECK_EQ(l1.flags, PTE_W | PTE_U);
			}
			if (address >= BIT(47))
				continue;
			l0 = look_up(&f, f.t.core_root, address);
			CHECK(l0.present && (l0.flags & PTE_NX) && !(l0.flags & PTE_U));
			CHECK_EQ(tables_is_hypertransport(address, sizes[s]),
				 is_hypertransport(address, sizes[s]));
			if (in_region(address) || is_hypertransport(address, sizes[s])) {
				CHECK_EQ(l0.hpa, HOLE_PAGE + address % PAGE_SIZE);
				CHECK(!(l0.flags & PTE_W));
			} else if (in_mmio(address)) {
				/* L1's, which a CPU's own tables have not */
				CHECK_EQ(l1.hpa, address);
				CHECK_EQ(l0.hpa, HOLE_PAGE + address % PAGE_SIZE);
				CHECK(!(l0.flags & PTE_W));
			} else {
				CHECK_EQ(l0.hpa, address);
				CHECK(l0.flags & PTE_W);
			}
		}
		CHECK(sizes[s] >= 48 || !look_up(&f, f.t.npt, BIT(sizes[s])).present);
		CHECK(sizes[s] >= 47 || !look_up(&f, f.t.core_root, BIT(sizes[s])).present);
		CHECK((u64)(f.t.pool.va - f.memory) <= CORE_TABLE_BYTES(sizes[s], 0));
		free(f.memory);
	}
}

TEST(tables_give_each_part_of_the_core_one_permission)
{
	struct fixture f;

	build(&f, 40, PAGE_2M + 0x3000);
	CHECK_EQ(tables_check_wx(&f.t), 0);
	for (u64 at = 0; at < REGION; at += PAGE_SIZE) {
		struct found l0 = look_up(&f, f.t.core_root, VA + at);

		CHECK(l0.present);
		CHECK_EQ(l0.hpa, HPA + at);
		CHECK_EQ(l0.flags, at < 0x5000 ? 0 : at < 0x8000 ? PTE_NX : PTE_NX | PTE_W);
	}
	CHECK(!look_up(&f, f.t.core_root, VA + REGION).present);
	free(f.memory);
}

TEST(tables_check_finds_any_writable_and_executable_page)
{
	struct fixture f;
	u64 *root, *pdpt, *pd, *pt;

	build(&f, 40, 0x2f000);
	root = f.t.core_root;
#define NEXT(e) ((u64 *)(uintptr_t)((s64)((e)&PTE_ADDR) - f.t.pool.va_to_hpa))
	pdpt = NEXT(root[511]);
	pd = NEXT(pdpt[0]);
	pt = NEXT(pd[0]);
	for (unsigned int i = 0; i < 512; i++) {
		u64 was = pt[i];

		pt[i] = (was | PTE_W) & ~PTE_NX;
		CHECK_EQ(tables_check_wx(&f.t), 0xff8000000000ull + i * PAGE_SIZE);
		pt[i] = was;
	}
	pd[1] &= ~PTE_NX;
	CHECK_EQ(tables_check_wx(&f.t), 0xff8000000000ull + PAGE_2M);
	pd[1] |= PTE_NX;
	root[1] &= ~PTE_NX; /* the low half executable */
	CHECK_EQ(tables_check_wx(&f.t), BIT(39));
	root[1] |= PTE_NX;
	CHECK_EQ(tables_check_wx(&f.t), 0);
	free(f.memory);
}

/* And the nested tables of two CPUs. */
static void build_two_cpus(struct fixture *f, struct npt *npt[2])
{
	build(f, 40, 0x2f000);
	for (unsigned int i = 0; i < 2; i++) {
		npt[i] = pool_pages(&f->t.pool, sizeof(struct npt) / PAGE_SIZE);
		CHECK_EQ(tables_npt_init(&f->t, npt[i]), 0);
	}
}

TEST(tables_open_the_hole_for_l1)
{
	struct fixture f;
	struct npt *npt[2];

	build_two_cpus(&f, npt);
	CHECK_EQ(*tables_open_hole(&f.t, npt[1], HPA + 0x3456) & PTE_ADDR, HOLE_PAGE);
	for (u64 at = 0; at < REGION; at += PAGE_SIZE) {
		struct found l1 = look_up(&f, npt[1]->root, HPA + at);

		CHECK(!look_up(&f, npt[0]->root, HPA + at).present); /* another CPU's */
		CHECK_EQ(l1.present, at < PAGE_2M);
		CHECK(!l1.present || (l1.hpa == HOLE_PAGE && l1.flags == PTE_U));
	}
	for (unsigned int i = 0; i < 20000; i++) {
		u64 address = some_address(40, i);
		struct found l1 = look_up(&f, npt[0]->root, address);

		CHECK_EQ(l1.present, !in_region(address));
		if (in_mmio(address))
			CHECK(l1.hpa == HOLE_PAGE + address % PAGE_SIZE && l1.flags == PTE_U);
		else
			CHECK(!l1.present || (l1.hpa == address && l1.flags == (PTE_W | PTE_U)));
	}
	free(f.memory);
}

/* What one CPU changes for one instruction, no other one sees; the page of the APIC in the same 2 MByte changes nothing. */
TEST(tables_give_each_cpu_its_own_entries_for_mmio_holes)
{
	struct fixture f;
	struct npt *npt[2];

	build_two_cpus(&f, npt);
	for (unsigned int own = 0; own < 2; own++) {
		for (size_t i = 0; i < ARRAY_SIZE(mmio); i++) {
			u64 address = mmio[i] + PAGE_SIZE,
			    *entry = tables_open_hole(&f.t, npt[0], address + 8), was = *entry;

			*entry = 0x5000 | PTE_P | PTE_W | PTE_U;
			CHECK_EQ(look_up(&f, npt[0]->root, address).hpa, 0x5000);
			CHECK_EQ(look_up(&f, npt[0]->root, address - 1).hpa, HOLE_PAGE + 0xfff);
			CHECK_EQ(look_up(&f, npt[0]->root, address + PAGE_SIZE).hpa, HOLE_PAGE);
			CHECK_EQ(look_up(&f, npt[1]->root, address).hpa, HOLE_PAGE);
			CHECK_EQ(look_up(&f, f.t.npt, address).hpa, address);
			*entry = was;
		}
		*tables_own_entry(&f.t, npt[0], 0xfed90000) &= ~PTE_W;
		CHECK_EQ(look_up(&f, npt[0]->root, 0xfed90000).flags, PTE_U);
	}
	free(f.memory);
}

TEST(tables_map_mmio_for_l0)
{
	struct fixture f;

	build(&f, 40, 0x2f000);
	for (u32 i = 0; i < IOMMU_MAX; i++)
		CHECK_EQ(tables_map_mmio(&f.t, i, 0xfed80000 + i * 0x80000ull), 0);
	CHECK_EQ(tables_check_wx(&f.t), 0);
	for (u32 i = 0; i < IOMMU_MAX; i++) {
		for (u64 at = 0; at < IOMMU_MMIO_BYTES; at += PAGE_SIZE) {
			struct found l0 = look_up(&f, f.t.core_root, TABLES_MMIO_VA(VA, i) + at);

			CHECK(l0.present);
			CHECK_EQ(l0.hpa, 0xfed80000 + i * 0x80000ull + at);
			CHECK_EQ(l0.flags, PTE_W | PTE_NX);
		}
	}
	CHECK(!look_up(&f, f.t.core_root, TABLES_MMIO_VA(VA, IOMMU_MAX)).present);
	free(f.memory);
}

TEST(tables_guard_takes_away_one_page)
{
	const u64 guards[] = {0x30000, PAGE_2M + 0x5000, PAGE_2M + 0x85000};
	struct fixture f;

	build(&f, 40, 0x2f000);
	for (unsigned int i = 0; i < ARRAY_SIZE(guards); i++)
		CHECK_EQ(tables_guard(&f.t, (const void *)(uintptr_t)(VA + guards[i])), 0);
	CHECK_EQ(tables_check_wx(&f.t), 0);
	for (u64 at = 0; at < REGION; at += PAGE_SIZE) {
		struct found l0 = look_up(&f, f.t.core_root, VA + at);
		bool guard = at == guards[0] || at == guards[1] || at == guards[2];

		CHECK_EQ(l0.present, !guard);
		if (guard)
			continue;
		CHECK_EQ(l0.hpa, HPA + at);
		CHECK_EQ(l0.flags, at < 0x5000 ? 0 : at < 0x8000 ? PTE_NX : PTE_NX | PTE_W);
	}
	f.t.pool.va = f.t.pool.va_end;
	CHECK_EQ(tables_guard(&f.t, (const void *)(uintptr_t)(VA + 2 * PAGE_2M)), -E_NOMEM);
	free(f.memory);
}

TEST(tables_say_when_the_pool_is_too_small)
{
	struct fixture f;
	u64 enough;

	build(&f, 40, 0x2f000);
	enough = (u64)(f.t.pool.va - f.memory);
	for (u64 bytes = 0; bytes < enough; bytes += PAGE_SIZE) {
		f.t.pool.va = f.memory;
		f.t.pool.va_end = f.memory + bytes;
		memset(f.memory, 0, bytes);
		CHECK_EQ(tables_build(&f.t, 40, HOLE_PAGE), -E_NOMEM);
	}
	free(f.memory);
}

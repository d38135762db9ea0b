/* SPDX-License-Identifier: MIT */
/* The shadow of nested tables against a flat model: what L1's tables have allowed since the last
 * flush is looked up in copies of them, for every access. */
#include <string.h>

#include "shadow_naive.h"

static void random_epochs(u32 pages, unsigned int vasids, int rounds)
{
	init(pages);
	for (int round = 0; round < rounds; round++) {
		struct npt_mode mode = random_mode();

		new_world(&mode);
		for (int step = 0; step < 200; step++)
			shadow_step(&mode, vasids);
		check_pool();
	}
}

TEST(shadow_random)
{
	random_epochs(POOL_MAX, 1, 120);
}

TEST(shadow_random_spaces)
{
	random_epochs(POOL_MAX, 12, 120);
	CHECK(sh.evictions > 100);
}

/* A pool in which hardly anything fits. */
TEST(shadow_random_small_pool)
{
	random_epochs(SHADOW_MIN_PAGES, 3, 120);
	CHECK(sh.evictions > 100);
}

/* ---- single cases ---- */

static u64 *l1_entry(u64 table, unsigned int index)
{
	return (u64 *)(mem.base + table) + index;
}

#define RWU (PTE_P | PTE_W | PTE_U)

/* 0 -> 1000h -> 2000h -> 3000h, four levels at entry 0. */
static struct shadow_space *simple_space(void)
{
	init(POOL_MAX);
	*l1_entry(0, 0) = 0x1000 | RWU;
	*l1_entry(0x1000, 0) = 0x2000 | RWU;
	*l1_entry(0x2000, 0) = 0x3000 | RWU;
	return shadow_get(&sh, 1, 0, &mode4);
}

TEST(shadow_dirty_protocol)
{
	struct shadow_space *space = simple_space();
	struct shadow_fault fault;

	*l1_entry(0x3000, 5) = 0x55000 | RWU;
	CHECK_EQ(shadow_fault(&sh, space, 0x5123, PFERR_U, &fault), SHADOW_MAPPED);
	CHECK_EQ(fault.l1_gpa, 0x55123);
	CHECK_EQ(fault.page_bytes, PAGE_SIZE);
	CHECK(!hardware(space, 0x5000).write);
	CHECK_EQ(*l1_entry(0x3000, 5) & (PTE_A | PTE_D), PTE_A);
	space->tlb_flush = false;
	CHECK_EQ(shadow_fault(&sh, space, 0x5123, PFERR_U | PFERR_W | PFERR_P, &fault),
		 SHADOW_MAPPED);
	CHECK(hardware(space, 0x5000).write);
	CHECK_EQ(*l1_entry(0x3000, 5) & (PTE_A | PTE_D), PTE_A | PTE_D);
	CHECK(!space->tlb_flush); /* a right that is added needs no flush */
}

/* The error codes that kvm-unit-tests expects of silicon. */
TEST(shadow_error_codes)
{
	struct shadow_space *space = simple_space();
	struct shadow_fault fault;

	*l1_entry(0x3000, 1) = 0x55000 | RWU | PTE_NX;
	*l1_entry(0x3000, 2) = 0x55000 | PTE_P | PTE_W;
	*l1_entry(0x3000, 3) = 0x55000 | PTE_P | PTE_U;
	*l1_entry(0x3000, 4) = 0x55000 | RWU | BIT(PHYS_BITS);
#define REFLECTS(gpa, access, code)                                                                \
	CHECK_EQ(shadow_fault(&sh, space, gpa, access, &fault), SHADOW_REFLECT);                   \
	CHECK_EQ(fault.error_code, code)
	REFLECTS(0x0000, PFERR_U, 0x04);
	REFLECTS(0x0000, PFERR_U | PFERR_W, 0x06);
	REFLECTS(0x0000, PFERR_U | PFERR_ID, 0x14);
	REFLECTS(0x1000, PFERR_U | PFERR_ID, 0x15);
	REFLECTS(0x2000, PFERR_U, 0x05);
	REFLECTS(0x3000, PFERR_U | PFERR_W | PFERR_P, 0x07);
	REFLECTS(0x4000, PFERR_U, 0x0d);
	REFLECTS(0x4000, PFERR_U | PFERR_W | NPF_TABLE, 0x0f);
	REFLECTS(0x4000, PFERR_U | PFERR_ID, 0x1d);
	REFLECTS(BIT(48), PFERR_U | PFERR_W, 0x06);
#undef REFLECTS
	/* nothing was mapped for any of them */
	CHECK_EQ(sh.pool.used, 1);
}

TEST(shadow_hole)
{
	struct shadow_space *space = simple_space();
	struct shadow_fault fault;

	/* one 1-Gbyte page over the hole: as large as can be around it, and 4-Kbyte pages in it */
	*l1_entry(0x1000, 1) = 0x40000000 | RWU | PTE_PS | PTE_D | PTE_PAT_LARGE;
	CHECK_EQ(shadow_fault(&sh, space, 0x40000000, PFERR_W, &fault), SHADOW_MAPPED);
	CHECK_EQ(fault.page_bytes, PAGE_2M);
	CHECK_EQ(hardware(space, 0x40000000).cache, 4);
	CHECK_EQ(shadow_fault(&sh, space, 0x40600123, 0, &fault), SHADOW_MAPPED);
	CHECK_EQ(fault.page_bytes, PAGE_SIZE);
	CHECK_EQ(fault.l1_gpa, 0x40600123);
	CHECK_EQ(hardware(space, 0x40600123).hpa, HOLE_PAGE + 0x123);
	CHECK_EQ(hardware(space, 0x40600123).cache, 4);
	CHECK(!hardware(space, 0x40600123).write);
	CHECK_EQ(shadow_fault(&sh, space, 0x40600123, PFERR_W, &fault), SHADOW_HOLE_WRITE);
	CHECK_EQ(*fault.leaf & (PTE_ADDR | PTE_W | PTE_P), HOLE_PAGE | PTE_P);
	/* the last page of the hole and the page after it */
	CHECK_EQ(shadow_fault(&sh, space, 0x40802fff, PFERR_W, &fault), SHADOW_HOLE_WRITE);
	CHECK_EQ(shadow_fault(&sh, space, 0x40803000, PFERR_W, &fault), SHADOW_MAPPED);
	CHECK_EQ(fault.page_bytes, PAGE_SIZE);
	CHECK_EQ(hardware(space, 0x40803000).hpa, 0x40803000);
	/* memory between the holes, and the second one */
	CHECK_EQ(shadow_fault(&sh, space, 0x40883fff, PFERR_W, &fault), SHADOW_MAPPED);
	CHECK_EQ(hardware(space, 0x40883fff).hpa, 0x40883fff);
	CHECK_EQ(shadow_fault(&sh, space, 0x40884000, PFERR_W, &fault), SHADOW_HOLE_WRITE);
	CHECK_EQ(hardware(space, 0x40885fff).present, false);
	CHECK_EQ(shadow_fault(&sh, space, 0x40885fff, 0, &fault), SHADOW_MAPPED);
	CHECK_EQ(hardware(space, 0x40885fff).hpa, HOLE_PAGE + 0xfff);
	CHECK_EQ(shadow_fault(&sh, space, 0x40886000, PFERR_W, &fault), SHADOW_MAPPED);
	CHECK_EQ(hardware(space, 0x40886000).hpa, 0x40886000);
	/* tables of L1 in the hole: pages of FFh, so reserved bits */
	memset(mem.base + hole.start, 0xff, PAGE_SIZE);
	*l1_entry(0, 1) = hole.start | RWU;
	CHECK_EQ(shadow_fault(&sh, space, BIT(39), 0, &fault), SHADOW_REFLECT);
	CHECK_EQ(fault.error_code, 0x0d);
	memset(mem.base + hole.start, 0, PAGE_SIZE);
	check_pool();
}

TEST(shadow_sizes)
{
	struct shadow_space *space = simple_space();
	u64 *leaf;

	/* a smaller page replaces a larger one, whose other parts are gone */
	CHECK_EQ(shadow_map(&sh, space, 0x80000000, 0x80000000, PAGE_1G, PTE_W, NULL), 0);
	CHECK_EQ(hardware(space, 0x81234567).hpa, 0x81234567);
	CHECK_EQ(hardware(space, 0x81234567).bytes, PAGE_1G);
	space->tlb_flush = false;
	CHECK_EQ(shadow_map(&sh, space, 0x80005000, 0x7000, PAGE_SIZE, PTE_NX | PTE_PAT_4K, &leaf),
		 0);
	CHECK(space->tlb_flush);
	CHECK_EQ(*leaf, 0x7000 | PTE_P | PTE_U | PTE_A | PTE_D | PTE_NX | PTE_PAT_4K);
	CHECK_EQ(hardware(space, 0x80005123).hpa, 0x7123);
	CHECK(!hardware(space, 0x80006000).present && !hardware(space, 0x81234567).present);
	CHECK_EQ(sh.pool.used, 4);
	/* a larger page where a table is: only the piece asked for */
	CHECK_EQ(shadow_map(&sh, space, 0x80206000, 0x80200000, PAGE_1G, PTE_W, NULL), 0);
	CHECK_EQ(hardware(space, 0x80206000).hpa, 0x80206000);
	CHECK_EQ(hardware(space, 0x80206000).bytes, PAGE_2M);
	CHECK_EQ(shadow_map(&sh, space, 0x80006000, 0x80000000, PAGE_1G, PTE_W, NULL), 0);
	CHECK_EQ(hardware(space, 0x80006000).bytes, PAGE_SIZE);
	CHECK_EQ(hardware(space, 0x80005123).hpa, 0x7123);
	CHECK_EQ(sh.pool.used, 4);
	check_pool();
	/* less than before needs a flush, more does not */
	space->tlb_flush = false;
	CHECK_EQ(shadow_map(&sh, space, 0x80005000, 0x7000, PAGE_SIZE, PTE_W | PTE_PAT_4K, NULL),
		 0);
	CHECK(!space->tlb_flush);
	CHECK_EQ(shadow_map(&sh, space, 0x80005000, 0x7000, PAGE_SIZE, PTE_PAT_4K, NULL), 0);
	CHECK(space->tlb_flush);
	space->tlb_flush = false;
	CHECK_EQ(shadow_map(&sh, space, 0x80005000, 0x8000, PAGE_SIZE, PTE_PAT_4K, NULL), 0);
	CHECK(space->tlb_flush);
	space->tlb_flush = false;
	CHECK_EQ(shadow_map(&sh, space, 0x80005000, 0x8000, PAGE_SIZE, PTE_NX | PTE_PAT_4K, NULL),
		 0);
	CHECK(space->tlb_flush);

	CHECK_EQ(shadow_map(&sh, space, BIT(48), 0, PAGE_SIZE, 0, NULL), -E_RANGE);
	CHECK_EQ(shadow_map(&sh, space, BIT(48) - PAGE_SIZE, 0x9000, PAGE_SIZE, 0, NULL), 0);
	CHECK_EQ(space->root_entries, 512);
	space->tlb_flush = false;
	shadow_flush(&sh, space);
	CHECK(space->tlb_flush && sh.pool.used == 1);
	CHECK(!hardware(space, BIT(48) - PAGE_SIZE).present);
	/* with nothing to drop there is nothing to flush */
	space->tlb_flush = false;
	shadow_flush(&sh, space);
	CHECK(!space->tlb_flush);
}

/* Nested tables of an L1 in legacy paging: 4-Mbyte pages become 2-Mbyte leaves. */
TEST(shadow_legacy_formats)
{
	static const struct npt_mode mode2 = {.levels = 2, .phys_bits = PHYS_BITS, .pse = true};
	static const struct npt_mode mode3 = {.levels = 3, .phys_bits = PHYS_BITS, .nxe = true};
	struct shadow_space *space, *pae;
	struct shadow_fault fault;
	u32 pde = (u32)(0xc00000 | 1 << 13 | RWU | PTE_PS); /* bit 13 is address bit 32 */

	init(POOL_MAX);
	memcpy(mem.base + 4, &pde, 4);
	space = shadow_get(&sh, 1, 0, &mode2);
	CHECK_EQ(shadow_fault(&sh, space, 0x654321, PFERR_W, &fault), SHADOW_MAPPED);
	CHECK_EQ(fault.l1_gpa, 0x100e54321);
	CHECK_EQ(fault.page_bytes, PAGE_2M);
	CHECK_EQ(hardware(space, 0x654321).hpa, 0x100e54321);
	CHECK(!hardware(space, 0x454321).present);
	CHECK_EQ(shadow_fault(&sh, space, BIT(32), 0, &fault), SHADOW_REFLECT);
	CHECK_EQ(fault.error_code, 0x04);
	/* without NXE and SMEP nothing tells a fetch, wherever it is */
	CHECK_EQ(shadow_fault(&sh, space, BIT(48), PFERR_ID, &fault), SHADOW_REFLECT);
	CHECK_EQ(fault.error_code, 0x04);

	*l1_entry(0x1000, 3) = 0x2000 | PTE_P;
	*l1_entry(0x2000, 1) = 0x3000 | RWU;
	*l1_entry(0x3000, 1) = 0x77000 | RWU | PTE_NX;
	pae = shadow_get(&sh, 1, 0x1000, &mode3);
	CHECK(pae != space);
	CHECK_EQ(shadow_fault(&sh, pae, 0xc0201000, 0, &fault), SHADOW_MAPPED);
	CHECK_EQ(hardware(pae, 0xc0201000).hpa, 0x77000);
	CHECK(!hardware(pae, 0xc0201000).exec);
	CHECK_EQ(*l1_entry(0x1000, 3), 0x2000 | PTE_P); /* a PDPTE has no A */
	CHECK(*l1_entry(0x2000, 1) & PTE_A);
	/* the same root in another mode is another space */
	CHECK(shadow_get(&sh, 1, 0x1000, &mode4) != pae);
	CHECK(shadow_get(&sh, 1, 0x1000, &mode3) == pae);
}

TEST(shadow_lru)
{
	struct shadow_space *first, *second, *again;
	u64 root;

	init(POOL_MAX);
	first = shadow_get(&sh, 1, 0, &mode4);
	second = shadow_get(&sh, 2, 0, &mode4);
	CHECK_EQ(shadow_space_idx(&sh, second), 1);
	CHECK(second->tlb_flush);
	second->tlb_flush = false;
	root = first->root_hpa;
	for (u32 vasid = 3; vasid <= SHADOW_SPACES; vasid++)
		shadow_get(&sh, vasid, 0, &mode4);
	CHECK_EQ(sh.pool.used, SHADOW_SPACES);
	CHECK(shadow_get(&sh, 1, 0, &mode4) == first); /* used now: the second is the oldest */
	again = shadow_get(&sh, 99, 0, &mode4);
	CHECK(again == second);
	CHECK(again->tlb_flush);
	CHECK_EQ(sh.evictions, 1);
	CHECK_EQ(sh.pool.used, SHADOW_SPACES);
	CHECK_EQ(shadow_get(&sh, 1, 0, &mode4)->root_hpa, root);
	check_pool();

	CHECK_EQ(shadow_map(&sh, first, 0, 0x1000, PAGE_SIZE, 0, NULL), 0);
	CHECK_EQ(shadow_map(&sh, again, 0, 0x1000, PAGE_SIZE, 0, NULL), 0);
	shadow_flush_vasid(&sh, 1);
	CHECK(!hardware(first, 0).present && hardware(again, 0).present);
	shadow_flush_all(&sh);
	CHECK(!hardware(again, 0).present);
	CHECK_EQ(sh.pool.used, SHADOW_SPACES);
}

TEST(shadow_out_of_pages)
{
	struct shadow_space *space, *other;
	u64 gpa = 0;

	CHECK_EQ(shadow_init(&sh, &mem, pool_pages, POOL_HPA, links, SHADOW_MIN_PAGES - 1, &holes,
			     HOLE_PAGE),
		 -E_RANGE);
	init(SHADOW_MIN_PAGES);
	other = shadow_get(&sh, 2, 0, &mode4);
	space = shadow_get(&sh, 1, 0, &mode4);
	while (!shadow_map(&sh, space, gpa, 0x1000, PAGE_SIZE, 0, NULL))
		gpa += PAGE_1G;
	CHECK_EQ(shadow_map(&sh, space, gpa, 0x1000, PAGE_SIZE, 0, NULL), -E_NOMEM);
	CHECK_EQ(sh.pool.used, SHADOW_MIN_PAGES);
	/* a space can still be had */
	CHECK(shadow_get(&sh, 3, 0, &mode4)->in_use);
	check_pool();
	shadow_reclaim(&sh, space);
	CHECK(!other->in_use);
	CHECK_EQ(shadow_map(&sh, space, gpa, 0x1000, PAGE_SIZE, 0, NULL), 0);
	check_pool();
}

/* SPDX-License-Identifier: MIT */
/* Page-table walks against a twin that has every mode written out, on random tables. */
#include <string.h>

#include "walk_naive.h"

TEST(walk_nested_random)
{
	unsigned int seen[NESTED + 1] = {0};

	memory();
	for (int world = 0; world < 2000; world++) {
		struct npt_mode mode = random_mode();

		random_tables(&mode, test_below(2) ? 12 : 40);
		for (int i = 0; i < 25; i++)
			seen[walk_nested_once(&mode)]++;
	}
	/* the tables must not be so random that nothing is tested */
	CHECK(seen[FOUND] > 8000 && seen[NESTED] > 1000 && seen[RESERVED] > 1000);
}

TEST(walk_guest_random)
{
	static const struct naive_space l1;
	static u8 before[TABLE_BYTES];
	unsigned int found = 0;

	memory();
	for (int world = 0; world < 3000; world++) {
		struct npt_mode mode = random_mode();

		random_tables(&mode, test_below(2) ? 12 : 40);
		memcpy(before, mem.base, TABLE_BYTES);
		for (int i = 0; i < 25; i++) {
			u64 cr3 = test_below(TABLES) << 12 |
				  (mode.levels == 3 ? 0 : test_below(0x1000));
			u64 gva = sign_extend(random_address(mode.levels), mode.levels);
			struct walk_state st = state_of(&mode, cr3);

			found += walk_guest_once(&l1, &st, gva);
		}
		CHECK(!memcmp(before, mem.base, TABLE_BYTES));
	}
	CHECK(found > 10000);
}

TEST(walk_guest_special)
{
	struct walk_state st = {.cr0 = CR0_PE};
	u64 gpa, bytes, e;

	memory();
	memset(mem.base, 0, TABLE_BYTES);
	/* no paging: linear is physical, 32 bits of it */
	CHECK_EQ(walk_guest(&mem, &st, 0x112345678, &gpa, &bytes), 0);
	CHECK_EQ(gpa, 0x12345678);
	CHECK_EQ(bytes, PAGE_SIZE);
	CHECK_EQ(walk_guest(&mem, &st, 0x5000, &gpa, NULL), 0);

	/* non-canonical: even where masking would find something */
	st = (struct walk_state){CR0_PE | CR0_PG, 0, CR4_PAE, EFER_LME | EFER_LMA};
	e = 0 | PTE_P; /* entry 256 of the root is the root itself, and so on down */
	memcpy(mem.base + 8 * 256, &e, 8);
	memcpy(mem.base, &e, 8);
	CHECK_EQ(walk_guest(&mem, &st, 0xffff800000000123, &gpa, &bytes), 0);
	CHECK_EQ(gpa, 0x123);
	CHECK_EQ(walk_guest(&mem, &st, 0x0000800000000123, &gpa, &bytes), -E_FAULT);
	st.cr4 |= CR4_LA57;
	CHECK_EQ(walk_guest(&mem, &st, 0x0000800000000123, &gpa, &bytes), 0);
	CHECK_EQ(walk_guest(&mem, &st, 0x0100800000000123, &gpa, &bytes), -E_FAULT);
	CHECK_EQ(walk_guest(&mem, &st, 0xfe00000000000123, &gpa, &bytes), -E_FAULT);

	/* tables beyond the end of memory read as all ones, which is a reserved-bit fault and not a
	 * crash */
	st.cr3 = LIMIT;
	CHECK_EQ(walk_guest(&mem, &st, 0, &gpa, &bytes), -E_FAULT);
	st.cr3 = PTE_ADDR;
	CHECK_EQ(walk_guest(&mem, &st, 0, &gpa, &bytes), -E_FAULT);
	CHECK_EQ(guest_read64(&mem, LIMIT), ~0ull);
	CHECK_EQ(guest_read32(&mem, LIMIT + 4), 0xffffffff);

	/* A in a PDPTE of PAE paging is reserved, but QEMU's TCG sets it */
	st = (struct walk_state){CR0_PE | CR0_PG, 0, CR4_PAE, 0};
	for (unsigned int bit = 1; bit < 9; bit++) {
		const u64 pdpte = 0x1000 | PTE_P | BIT(bit), pde = PTE_P | PTE_PS;

		memcpy(mem.base, &pdpte, 8);
		memcpy(mem.base + 0x1000, &pde, 8);
		CHECK_EQ(walk_guest(&mem, &st, 0x123, &gpa, &bytes),
			 bit >= 3 && bit <= 5 ? 0 : -E_FAULT);
	}
}

TEST(walk_guest2_random)
{
	static u8 before[TABLE_BYTES];
	unsigned int found = 0, fetched = 0;

	memory();
	for (int world = 0; world < 4000; world++) {
		struct npt_mode npt = random_mode(), mode = npt;

		/* one set of pages serves as both kinds of tables, so both must have entries of one
		 * size */
		if (npt.levels != 2)
			mode.levels = (u8)(3 + test_below(3));
		random_tables(&npt, 300);
		memcpy(before, mem.base, TABLE_BYTES);
		for (int i = 0; i < 40; i++) {
			u64 cr3 = test_below(TABLES) << 12;
			u64 gva = sign_extend(random_address(mode.levels), mode.levels);
			struct walk_state st = state_of(&mode, cr3);
			struct naive_space space = {.npt = &npt, .ncr3 = test_below(TABLES) << 12};

			found += walk_guest_once(&space, &st, gva);
			if (test_below(8) == 0)
				fetched += walk_fetch_once(&space, &st, gva) > 0;
		}
		CHECK(!memcmp(before, mem.base, TABLE_BYTES));
	}
	CHECK(found > 5000 && fetched > 500);
}

TEST(walk_fetch_bytes)
{
	struct walk_state st = {.cr0 = CR0_PE};
	struct npt_mode npt = {.levels = 4, .phys_bits = PHYS_BITS, .nxe = true, .pdpe1gb = true};
	u64 *root = (u64 *)memory(), e;
	u8 buf[16];

	memset(mem.base, 0, TABLE_BYTES);
	for (unsigned int i = 0; i < 32; i++)
		mem.base[0x100ff0 + i] = (u8)i;
	/* unpaged, across a page */
	CHECK_EQ(walk_fetch(&mem, &st, NULL, 0, 0x100ff8, buf, 15), 15);
	CHECK(buf[0] == 8 && buf[14] == 22);

	/* paged: two pages that are not neighbours in memory, and then nothing */
	root[0] = root[1] = PTE_P | PTE_W | PTE_U |
			    0x0000; /* the root is its own child, down to the last level */
	root[0x40] = PTE_P | PTE_U | 0x100000;
	root[0x41] = PTE_P | PTE_U | 0x102000;
	memset(mem.base + 0x102000, 0xcc, 8);
	st = (struct walk_state){CR0_PE | CR0_PG, 0, CR4_PAE, EFER_LME | EFER_LMA | EFER_NXE};
	CHECK_EQ(walk_fetch(&mem, &st, NULL, 0, 0x40ffc, buf, 15), 15);
	CHECK(buf[3] == 15 && buf[4] == 0xcc);
	CHECK_EQ(walk_fetch(&mem, &st, NULL, 0, 0x41ffc, buf, 15), 4);
	CHECK_EQ(walk_fetch(&mem, &st, NULL, 0, 0x42000, buf, 15), 0);

	/* nested: L2 unpaged, its pages by L1's table */
	st = (struct walk_state){.cr0 = CR0_PE};
	CHECK_EQ(walk_fetch(&mem, &st, &npt, 0, 0x40ffc, buf, 15), 15);
	CHECK(buf[3] == 15 && buf[4] == 0xcc);
	e = PTE_P | 0x102000; /* a page that is not user is none for L2 */
	memcpy(&root[0x41], &e, 8);
	CHECK_EQ(walk_fetch(&mem, &st, &npt, 0, 0x40ffc, buf, 15), 4);

	/* the end of memory */
	st = (struct walk_state){
		.cr0 = CR0_PE | CR0_PG, .cr4 = CR4_PAE, .efer = EFER_LME | EFER_LMA};
	root[0x42] = PTE_P | (LIMIT - PAGE_SIZE);
	CHECK_EQ(walk_fetch(&mem, &st, NULL, 0, 0x42ffc, buf, 15), 4);
}

TEST(walk_mode_of)
{
	struct npt_mode m = npt_mode_of(CR4_PAE | CR4_PSE, EFER_LME | EFER_LMA | EFER_NXE, 40,
					true),
			k = m;

	CHECK(m.levels == 4 && m.nxe && m.pse && m.pdpe1gb && !m.smep && m.phys_bits == 40);
	CHECK_EQ(npt_mode_of(CR4_PAE | CR4_LA57, EFER_LMA, 40, true).levels, 5);
	CHECK_EQ(npt_mode_of(CR4_PAE | CR4_LA57, 0, 40, true).levels, 3);
	CHECK_EQ(npt_mode_of(CR4_SMEP, 0, 40, true).levels, 2);
	CHECK_EQ(npt_mode_of(CR4_SMEP, 0, 40, true).smep, true);
	CHECK(npt_mode_equal(&m, &k));
	k.nxe = false;
	CHECK(!npt_mode_equal(&m, &k));
}

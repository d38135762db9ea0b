/* SPDX-License-Identifier: MIT */
/* Page-table walks against a twin that has every mode written out, on random tables. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/core/walk.h"
#include "test.h"

#define PHYS_BITS 33
#define LIMIT (1ull << PHYS_BITS)
#define TABLES 8 /* pages 0..7 hold the tables */
#define TABLE_BYTES (TABLES * PAGE_SIZE)

static struct guest_memory mem;

/* L1's memory: sparse, so that addresses can be as large as they like. */
static u8 *memory(void)
{
	if (!mem.base) {
		mem.base = mmap(NULL, LIMIT, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mem.base == MAP_FAILED)
			abort();
		mem.limit = LIMIT;
	}
	return mem.base;
}

/* ---- the twin ---- */

struct step {
	u64 at, entry;
	bool has_rights;
};

struct naive {
	enum { FOUND, ABSENT, RESERVED, NESTED } result;
	struct step steps[5];
	unsigned int count;
	u64 gpa, bytes;
};

struct naive_space {
	const struct npt_mode *npt;
	u64 ncr3;
};

static bool naive_translate(const struct naive_space *space, u64 gpa, u64 *out, u64 *bytes);

static u64 naive_read(u64 at, unsigned int bytes)
{
	u64 value = 0;

	if (at >= LIMIT)
		return bytes == 4 ? 0xffffffff : ~0ull;
	memcpy(&value, mem.base + at, bytes);
	return value;
}

/* One entry: records it; false if the walk ends here. */
static bool naive_entry(struct naive *n, const struct naive_space *space, u64 at,
			unsigned int bytes, u64 mbz, u64 mbz_if_ps)
{
	struct step *step = &n->steps[n->count++];
	u64 page;

	if (!naive_translate(space, at, &step->at, &page)) {
		n->result = NESTED;
		return false;
	}
	step->entry = naive_read(step->at, bytes);
	step->has_rights = true;
	if (!(step->entry & 1)) {
		n->result = ABSENT;
		return false;
	}
	if (step->entry & mbz || ((step->entry & 0x80) && (step->entry & mbz_if_ps))) {
		n->result = RESERVED;
		return false;
	}
	return true;
}

static u64 last_entry(const struct naive *n)
{
	return n->steps[n->count - 1].entry;
}

static void naive_end(struct naive *n, u64 frame_mask, u64 address, u64 bytes)
{
	n->result = FOUND;
	n->bytes = bytes;
	n->gpa = (last_entry(n) & frame_mask) | (address & (bytes - 1));
}

static struct naive naive_long(const struct naive_space *space, bool la57, bool nxe, bool gb,
			       u64 cr3, u64 a)
{
	struct naive n = {0};
	const u64 high = 0x000ffffe00000000ull | (nxe ? 0 : 1ull << 63);
	u64 table = cr3 & 0x000ffffffffff000ull;

	if (la57) {
		if (!naive_entry(&n, space, table + (a >> 48 & 511) * 8, 8, high | 0x180, 0))
			return n;
		table = last_entry(&n) & 0x000ffffffffff000ull;
	}
	if (!naive_entry(&n, space, table + (a >> 39 & 511) * 8, 8, high | 0x180, 0))
		return n;
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 30 & 511) * 8, 8, high, gb ? 0x3fffe000 : ~0ull))
		return n;
	if (last_entry(&n) & 0x80) {
		naive_end(&n, 0x000fffffc0000000ull, a, 1 << 30);
		return n;
	}
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 21 & 511) * 8, 8, high, 0x1fe000))
		return n;
	if (last_entry(&n) & 0x80) {
		naive_end(&n, 0x000fffffffe00000ull, a, 1 << 21);
		return n;
	}
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 12 & 511) * 8, 8, high, 0))
		return n;
	naive_end(&n, 0x000ffffffffff000ull, a, 1 << 12);
	return n;
}

static struct naive naive_pae(const struct naive_space *space, bool nxe, u64 cr3, u64 a)
{
	struct naive n = {0};
	const u64 high = 0x7ffffffe00000000ull | (nxe ? 0 : 1ull << 63);
	u64 table = cr3 & 0xffffffe0;

	if (!naive_entry(&n, space, table + (a >> 30 & 3) * 8, 8, 0xfffffffe000001e6ull, 0)) {
		n.steps[0].has_rights = false;
		return n;
	}
	n.steps[0].has_rights = false;
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 21 & 511) * 8, 8, high, 0x1fe000))
		return n;
	if (last_entry(&n) & 0x80) {
		naive_end(&n, 0x000fffffffe00000ull, a, 1 << 21);
		return n;
	}
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 12 & 511) * 8, 8, high, 0))
		return n;
	naive_end(&n, 0x000ffffffffff000ull, a, 1 << 12);
	return n;
}

static struct naive naive_32(const struct naive_space *space, bool pse, u64 cr3, u64 a)
{
	struct naive n = {0};
	u64 pde;

	/* with 33 address bits only bit 13 of 20:13 is one (APM2 figure 5-13) */
	if (!naive_entry(&n, space, (cr3 & 0xfffff000) + (a >> 22 & 1023) * 4, 4, 0,
			 pse ? 0x003fc000 : 0))
		return n;
	pde = last_entry(&n);
	if (pse && (pde & 0x80)) {
		n.result = FOUND;
		n.bytes = 1 << 22;
		n.gpa = (pde & 0xffc00000) | (pde >> 13 & 0xff) << 32 | (a & 0x3fffff);
		return n;
	}
	if (!naive_entry(&n, space, (pde & 0xfffff000) + (a >> 12 & 1023) * 4, 4, 0, 0))
		return n;
	naive_end(&n, 0xfffff000, a, 1 << 12);
	return n;
}

static struct naive naive_walk(const struct naive_space *space, const struct npt_mode *mode,
			       u64 cr3, u64 a)
{
	if (mode->levels == 2)
		return naive_32(space, mode->pse, cr3, a);
	if (mode->levels == 3)
		return naive_pae(space, mode->nxe, cr3, a);
	return naive_long(space, mode->levels == 5, mode->nxe, mode->pdpe1gb, cr3, a);
}

static const struct naive_space l1_space;

static struct naive naive_npt(const struct npt_mode *mode, u64 ncr3, u64 gpa)
{
	static const u8 bits[] = {0, 0, 32, 32, 48, 57};
	struct naive n = {.result = ABSENT};

	return gpa >> bits[mode->levels] ? n : naive_walk(&l1_space, mode, ncr3, gpa);
}

static bool naive_translate(const struct naive_space *space, u64 gpa, u64 *out, u64 *bytes)
{
	struct naive n;

	*out = gpa;
	*bytes = ~0ull;
	if (!space->npt)
		return true;
	n = naive_npt(space->npt, space->ncr3, gpa);
	if (n.result != FOUND)
		return false;
	for (unsigned int i = 0; i < n.count; i++)
		if (n.steps[i].has_rights && !(n.steps[i].entry & PTE_U))
			return false;
	*out = n.gpa;
	*bytes = n.bytes;
	return true;
}

/* ---- random tables ---- */

static const u16 indexes[] = {0, 1, 2, 511};

/* Addresses that mostly meet entries which random_tables() wrote. */
static u64 random_address(unsigned int levels)
{
	u64 a = test_random() & 0xfff;

	if (test_below(8) == 0)
		return test_random() >> test_below(64);
	if (levels == 2)
		return a | (u64)indexes[test_below(4)] << 12 | (u64)indexes[test_below(4)] << 22;
	for (unsigned int i = 0; i < levels; i++)
		a |= (u64)indexes[test_below(levels == 3 && i == 2 ? 3 : 4)] << (12 + 9 * i);
	return a;
}

/* One entry in odds / 5 or so is odd. */
static u64 random_entry(const struct npt_mode *mode, unsigned int odds)
{
	u64 e = PTE_P | PTE_W | PTE_U | test_below(TABLES) << 12;

	switch (test_below(odds)) {
	case 0:
		return test_random() & test_random();
	case 1:
		return e & ~PTE_P;
	case 2:
		e |= BIT(test_below(64));
		break;
	case 3:
		e &= ~BIT(test_below(12));
		break;
	case 4:
		e |= PTE_NX;
		break;
	}
	if (test_below(odds > 100 ? 12 : 3) == 0) { /* a large page, of whichever size */
		e |= PTE_PS;
		if (odds <= 100 || test_below(4) == 0)
			e |= test_below(8) << 30 | (test_below(2) ? test_below(512) << 21 : 0);
		e &= ~(test_below(4) ? BITS(29, 13) & (test_below(2) ? ~0ull : BITS(20, 13)) : 0);
	}
	e |= test_random() & (PTE_PWT | PTE_PCD | PTE_A | PTE_D);
	if (test_below(4) == 0)
		e &= ~PTE_W;
	if (mode->levels == 3 && test_below(8))
		e &= ~(BITS(8, 5) | BITS(2, 1));
	return e;
}

static void random_tables(const struct npt_mode *mode, unsigned int odds)
{
	u8 *base = memory();

	memset(base, 0, TABLE_BYTES);
	for (u64 page = 0; page < TABLES; page++)
		for (unsigned int i = 0; i < ARRAY_SIZE(indexes); i++) {
			u64 e = random_entry(mode, odds);

			if (mode->levels == 2)
				memcpy(base + page * PAGE_SIZE + 4 * indexes[i], &e, 4);
			else
				memcpy(base + page * PAGE_SIZE + 8 * indexes[i], &e, 8);
		}
}

static struct npt_mode random_mode(void)
{
	struct npt_mode mode = {
		.levels = (u8)(2 + test_below(4)),
		.phys_bits = PHYS_BITS,
		.nxe = test_below(4),
		.smep = test_below(2),
		.pse = test_below(4),
		.pdpe1gb = test_below(4),
	};
	return mode;
}

/* ---- tests ---- */

TEST(walk_nested_random)
{
	static u8 expected[TABLE_BYTES];
	unsigned int found = 0, denied = 0, reserved = 0;

	memory();
	for (int world = 0; world < 2000; world++) {
		struct npt_mode mode = random_mode();

		random_tables(&mode, test_below(2) ? 12 : 40);
		for (int i = 0; i < 25; i++) {
			u64 ncr3 = test_below(TABLES) << 12 |
				   (test_below(8) ? 0 : test_random() & 0xfff);
			u64 gpa = random_address(mode.levels);
			u32 access = (u32)(test_random() & (PFERR_W | PFERR_ID));
			bool keep = test_below(8) == 0, w = true, u = true, x = true;
			unsigned int entry_bytes = mode.levels == 2 ? 4 : 8;
			struct nested_translation t;
			struct naive n;
			u64 code = PFERR_U | (access & PFERR_W);
			bool ok;
			int error;

			if (test_below(64) == 0)
				ncr3 = test_random();
			if (mode.levels == 3)
				ncr3 &= ~0xfe0ull; /* keep the four entries where entries are */
			n = naive_npt(&mode, ncr3, gpa);
			memcpy(expected, mem.base, TABLE_BYTES);

			if (mode.nxe || mode.smep)
				code |= access & PFERR_ID;
			for (unsigned int k = 0; k < n.count; k++) {
				u64 e = n.steps[k].entry;

				if (!n.steps[k].has_rights)
					continue;
				w &= !!(e & PTE_W);
				u &= !!(e & PTE_U);
				x &= !(e & PTE_NX);
			}
			ok = n.result == FOUND && u && (w || !(access & PFERR_W)) &&
			     (x || !(access & PFERR_ID));
			if (n.result == RESERVED)
				code |= PFERR_P | PFERR_RSV;
			else if (n.result == FOUND)
				code |= PFERR_P;
			for (unsigned int k = 0; k < n.count && !keep; k++) {
				bool last = k == n.count - 1;
				u64 e = n.steps[k].entry | PTE_A;

				if (!n.steps[k].has_rights || (last && !ok))
					continue;
				if (last && (access & PFERR_W))
					e |= PTE_D;
				if (n.steps[k].at < TABLE_BYTES) {
					u64 now = 0;

					/* the same entry may have been met twice */
					memcpy(&now, expected + n.steps[k].at, entry_bytes);
					now |= e & (PTE_A | PTE_D);
					memcpy(expected + n.steps[k].at, &now, entry_bytes);
				}
			}

			error = walk_nested(&mem, &mode, ncr3, gpa,
					    access | (keep ? (u32)WALK_KEEP_AD : 0), &t);
			CHECK_EQ(error, ok ? 0 : -E_FAULT);
			CHECK(!memcmp(expected, mem.base, TABLE_BYTES));
			if (error) {
				CHECK_EQ(t.error_code, code);
				denied += n.result == FOUND;
				reserved += n.result == RESERVED;
				continue;
			}
			if (!ok)
				continue;
			found++;
			CHECK_EQ(t.gpa, n.gpa);
			CHECK_EQ(t.page_bytes, n.bytes);
			CHECK_EQ(t.write, w);
			CHECK_EQ(t.exec, x);
			CHECK_EQ(t.dirty,
				 !!(last_entry(&n) & PTE_D) || ((access & PFERR_W) && !keep));
			CHECK_EQ(t.cache & 3, last_entry(&n) >> 3 & 3);
			CHECK_EQ(t.cache >> 2,
				 last_entry(&n) >> (n.bytes == PAGE_SIZE ? 7 : 12) & 1);
		}
	}
	/* the tables must not be so random that nothing is tested */
	CHECK(found > 10000 && denied > 1000 && reserved > 1000);
}

static struct walk_state state_of(const struct npt_mode *mode, u64 cr3)
{
	struct walk_state st = {.cr0 = CR0_PE | CR0_PG, .cr3 = cr3};

	st.efer = (mode->levels >= 4 ? EFER_LME | EFER_LMA : 0) | (mode->nxe ? EFER_NXE : 0);
	st.cr4 = (mode->levels >= 3 ? CR4_PAE : 0) | (mode->levels == 5 ? CR4_LA57 : 0) |
		 (mode->pse ? CR4_PSE : 0);
	return st;
}

static u64 sign_extend(u64 a, unsigned int levels)
{
	if (levels < 4)
		return a;
	return levels == 4 ? (u64)((s64)(a << 16) >> 16) : (u64)((s64)(a << 7) >> 7);
}

TEST(walk_guest_random)
{
	static u8 before[TABLE_BYTES];
	unsigned int found = 0;

	memory();
	for (int world = 0; world < 3000; world++) {
		struct npt_mode mode = random_mode();

		mode.pdpe1gb = true;
		random_tables(&mode, test_below(2) ? 12 : 40);
		memcpy(before, mem.base, TABLE_BYTES);
		for (int i = 0; i < 25; i++) {
			u64 cr3 = test_below(TABLES) << 12 |
				  (mode.levels == 3 ? 0 : test_below(0x1000));
			u64 gva = sign_extend(random_address(mode.levels), mode.levels);
			struct walk_state st = state_of(&mode, cr3);
			struct naive n = naive_walk(&l1_space, &mode, cr3, gva);
			u64 gpa, bytes;
			int error = walk_guest(&mem, &st, gva, &gpa, &bytes);

			CHECK_EQ(error, n.result == FOUND ? 0 : -E_FAULT);
			if (!error) {
				found++;
				CHECK_EQ(gpa, n.gpa);
				CHECK_EQ(bytes, n.bytes);
			}
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
	unsigned int found = 0;

	memory();
	for (int world = 0; world < 4000; world++) {
		struct npt_mode npt = random_mode(), mode = npt;

		/* one set of pages serves as both kinds of tables, so both must have entries of one
		 * size */
		if (npt.levels != 2)
			mode.levels = (u8)(3 + test_below(3));
		mode.pdpe1gb = true;
		random_tables(&npt, 300);
		memcpy(before, mem.base, TABLE_BYTES);
		for (int i = 0; i < 40; i++) {
			u64 cr3 = test_below(TABLES) << 12, ncr3 = test_below(TABLES) << 12;
			u64 gva = sign_extend(random_address(mode.levels), mode.levels);
			struct walk_state st = state_of(&mode, cr3);
			struct naive_space space = {&npt, ncr3};
			struct naive n = naive_walk(&space, &mode, cr3, gva);
			u64 gpa, bytes, want_gpa = 0, want_bytes = 0;
			bool ok = n.result == FOUND &&
				  naive_translate(&space, n.gpa, &want_gpa, &want_bytes);
			int error = walk_guest2(&mem, &st, &npt, ncr3, gva, &gpa, &bytes);

			CHECK_EQ(error, ok ? 0 : -E_FAULT);
			if (error || !ok)
				continue;
			found++;
			CHECK_EQ(gpa, want_gpa);
			CHECK_EQ(bytes, n.bytes < want_bytes ? n.bytes : want_bytes);
		}
		CHECK(!memcmp(before, mem.base, TABLE_BYTES));
	}
	CHECK(found > 5000);
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

/* SPDX-License-Identifier: MIT */
/* Page-table walks once more, with every mode written out, over tables in the first pages of a sparse memory. */
#ifndef TALLY_WALK_NAIVE_H
#define TALLY_WALK_NAIVE_H

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
static inline u8 *memory(void)
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

/* Whose tables: L1's (npt is NULL), or L2's, whose addresses L1's nested tables translate. image: what pages 0..TABLES-1
 * hold; NULL: what they hold now. */
struct naive_space {
	const struct npt_mode *npt;
	u64 ncr3;
	const u8 *image;
	bool nested; /* the tables are nested ones themselves */
};

static inline bool naive_translate(const struct naive_space *space, u64 gpa, u64 *out, u64 *bytes);

static inline u64 naive_read(const u8 *image, u64 at, unsigned int bytes)
{
	u64 value = 0;

	if (at >= LIMIT)
		return bytes == 4 ? 0xffffffff : ~0ull;
	memcpy(&value, (image && at < TABLE_BYTES ? image : mem.base) + at, bytes);
	return value;
}

/* Address bits that the mode has not, up to bit 51. */
static inline u64 naive_no_address(const struct npt_mode *mode)
{
	return (1ull << 52) - (1ull << mode->phys_bits);
}

/* One entry: records it; false if the walk ends here. */
static inline bool naive_entry(struct naive *n, const struct naive_space *space, u64 at,
			       unsigned int bytes, u64 mbz, u64 mbz_if_ps)
{
	struct step *step = &n->steps[n->count++];
	u64 page;

	if (!naive_translate(space, at, &step->at, &page)) {
		n->result = NESTED;
		return false;
	}
	step->entry = naive_read(space->image, step->at, bytes);
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

static inline u64 last_entry(const struct naive *n)
{
	return n->steps[n->count - 1].entry;
}

static inline void naive_end(struct naive *n, u64 frame_mask, u64 address, u64 bytes)
{
	n->result = FOUND;
	n->bytes = bytes;
	n->gpa = (last_entry(n) & frame_mask) | (address & (bytes - 1));
}

/* The levels that four-level and PAE paging have in common. */
static inline void naive_last_two(struct naive *n, const struct naive_space *space, u64 a, u64 high)
{
	u64 table = last_entry(n) & 0x000ffffffffff000ull;

	if (!naive_entry(n, space, table + (a >> 21 & 511) * 8, 8, high, 0x1fe000))
		return;
	if (last_entry(n) & 0x80) {
		naive_end(n, 0x000fffffffe00000ull, a, 1 << 21);
		return;
	}
	table = last_entry(n) & 0x000ffffffffff000ull;
	if (naive_entry(n, space, table + (a >> 12 & 511) * 8, 8, high, 0))
		naive_end(n, 0x000ffffffffff000ull, a, 1 << 12);
}

static inline struct naive naive_long(const struct naive_space *space, const struct npt_mode *mode,
				      u64 cr3, u64 a)
{
	struct naive n = {0};
	const u64 high = naive_no_address(mode) | (mode->nxe ? 0 : 1ull << 63);
	u64 table = cr3 & 0x000ffffffffff000ull;

	if (mode->levels == 5) {
		if (!naive_entry(&n, space, table + (a >> 48 & 511) * 8, 8, high | 0x180, 0))
			return n;
		table = last_entry(&n) & 0x000ffffffffff000ull;
	}
	if (!naive_entry(&n, space, table + (a >> 39 & 511) * 8, 8, high | 0x180, 0))
		return n;
	table = last_entry(&n) & 0x000ffffffffff000ull;
	if (!naive_entry(&n, space, table + (a >> 30 & 511) * 8, 8, high,
			 mode->pdpe1gb ? 0x3fffe000 : ~0ull))
		return n;
	if (last_entry(&n) & 0x80) {
		naive_end(&n, 0x000fffffc0000000ull, a, 1 << 30);
		return n;
	}
	naive_last_two(&n, space, a, high);
	return n;
}

static inline struct naive naive_pae(const struct naive_space *space, const struct npt_mode *mode,
				     u64 cr3, u64 a)
{
	struct naive n = {0};
	const u64 high =
		naive_no_address(mode) | 0x7ff0000000000000ull | (mode->nxe ? 0 : 1ull << 63);
	/* A is reserved, but TCG sets it in those that its own guests use */
	const u64 pdpte = space->nested ? 0x1e6 : 0x1c6;
	u64 table = cr3 & 0xffffffe0;

	if (!naive_entry(&n, space, table + (a >> 30 & 3) * 8, 8,
			 naive_no_address(mode) | 0xfff0000000000000ull | pdpte, 0)) {
		n.steps[0].has_rights = false;
		return n;
	}
	n.steps[0].has_rights = false;
	naive_last_two(&n, space, a, high);
	return n;
}

static inline struct naive naive_32(const struct naive_space *space, const struct npt_mode *mode,
				    u64 cr3, u64 a)
{
	struct naive n = {0};
	u64 pde;

	if (!naive_entry(&n, space, (cr3 & 0xfffff000) + (a >> 22 & 1023) * 4, 4, 0, 0))
		return n;
	pde = last_entry(&n);
	if (mode->pse && (pde & 0x80)) {
		/* bits 20:13 are address bits 39:32, of which the CPU may have fewer (APM2 figure 5-13) */
		n.gpa = (pde & 0xffc00000) | (pde >> 13 & 0xff) << 32 | (a & 0x3fffff);
		n.bytes = 1 << 22;
		n.result = (pde >> 21 & 1) || n.gpa >> mode->phys_bits ? RESERVED : FOUND;
		return n;
	}
	if (!naive_entry(&n, space, (pde & 0xfffff000) + (a >> 12 & 1023) * 4, 4, 0, 0))
		return n;
	naive_end(&n, 0xfffff000, a, 1 << 12);
	return n;
}

static inline struct naive naive_walk(const struct naive_space *space, const struct npt_mode *mode,
				      u64 cr3, u64 a)
{
	if (mode->levels == 2)
		return naive_32(space, mode, cr3, a);
	if (mode->levels == 3)
		return naive_pae(space, mode, cr3, a);
	return naive_long(space, mode, cr3, a);
}

static inline struct naive naive_npt(const u8 *image, const struct npt_mode *mode, u64 ncr3,
				     u64 gpa)
{
	const struct naive_space l1 = {.image = image, .nested = true};
	static const u8 bits[] = {0, 0, 32, 32, 48, 57};
	struct naive n = {.result = ABSENT};

	return gpa >> bits[mode->levels] ? n : naive_walk(&l1, mode, ncr3, gpa);
}

static inline bool naive_translate(const struct naive_space *space, u64 gpa, u64 *out, u64 *bytes)
{
	struct naive n;

	*out = gpa;
	*bytes = ~0ull;
	if (!space->npt)
		return true;
	n = naive_npt(space->image, space->npt, space->ncr3, gpa);
	if (n.result != FOUND)
		return false;
	for (unsigned int i = 0; i < n.count; i++)
		if (n.steps[i].has_rights && !(n.steps[i].entry & PTE_U))
			return false;
	*out = n.gpa;
	*bytes = n.bytes;
	return true;
}

/* ---- an access through nested tables ---- */

struct naive_access {
	struct naive n;
	bool user, write, exec; /* at all levels */
	bool ok;
	u32 error_code;
};

static inline struct naive_access naive_nested(const u8 *image, const struct npt_mode *mode,
					       u64 ncr3, u64 gpa, u32 access)
{
	struct naive_access a = {.n = naive_npt(image, mode, ncr3, gpa),
				 .user = true,
				 .write = true,
				 .exec = true,
				 .error_code = PFERR_U | (access & PFERR_W)};

	for (unsigned int i = 0; i < a.n.count; i++) {
		u64 e = a.n.steps[i].entry;

		if (!a.n.steps[i].has_rights)
			continue;
		a.user &= e >> 2 & 1;
		a.write &= e >> 1 & 1;
		a.exec &= !(e >> 63 & 1);
	}
	a.ok = a.n.result == FOUND && a.user && (a.write || !(access & PFERR_W)) &&
	       (a.exec || !(access & PFERR_ID));
	if (mode->nxe || mode->smep)
		a.error_code |= access & (u32)PFERR_ID;
	if (a.n.result == RESERVED)
		a.error_code |= (u32)PFERR_RSV;
	if (a.n.result != ABSENT)
		a.error_code |= (u32)PFERR_P;
	return a;
}

/* Sets A in the tables that were read, and in the leaf of an access that is allowed, with D for a write. */
static inline void naive_mark(u8 *image, const struct naive_access *a, u32 access)
{
	for (unsigned int i = 0; i < a->n.count; i++) {
		const struct step *step = &a->n.steps[i];
		bool leaf = i == a->n.count - 1;

		if (!step->has_rights || (leaf && !a->ok) || step->at >= TABLE_BYTES)
			continue;
		image[step->at] |= PTE_A | (leaf && (access & PFERR_W) ? PTE_D : 0);
	}
}

/* ---- random tables ---- */

static const u16 indexes[] = {0, 1, 3, 511};

/* Addresses that mostly meet entries which random_tables() wrote. */
static inline u64 random_address(unsigned int levels)
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
static inline u64 random_entry(const struct npt_mode *mode, unsigned int odds)
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
	} else if (test_below(odds > 100 ? 64 : 16) == 0) {
		/* a page next to 1 GByte, where test_shadow.c's hole is */
		e = (e & ~BITS(14, 12)) | (0x40000 + test_below(0x900)) << 12;
	}
	e |= test_random() & (PTE_PWT | PTE_PCD | PTE_A | PTE_D);
	if (test_below(4) == 0)
		e &= ~PTE_W;
	if (mode->levels == 3 && test_below(8))
		e &= ~(BITS(8, 5) | BITS(2, 1));
	return e;
}

static inline void random_tables(const struct npt_mode *mode, unsigned int odds)
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

static inline struct npt_mode random_mode(void)
{
	static const u8 bits[] = {PHYS_BITS, PHYS_BITS, PHYS_BITS, 36, 40, 48, 52};
	struct npt_mode mode = {
		.levels = (u8)(2 + test_below(4)),
		.phys_bits = bits[test_below(ARRAY_SIZE(bits))],
		.nxe = test_below(4),
		.smep = test_below(2),
		.pse = test_below(4),
		.pdpe1gb = test_below(4),
	};
	return mode;
}

static inline struct walk_state state_of(const struct npt_mode *mode, u64 cr3)
{
	struct walk_state st = {.cr0 = CR0_PE | CR0_PG, .cr3 = cr3};

	st.efer = (mode->levels >= 4 ? EFER_LME | EFER_LMA : 0) | (mode->nxe ? EFER_NXE : 0);
	st.cr4 = (mode->levels >= 3 ? CR4_PAE : 0) | (mode->levels == 5 ? CR4_LA57 : 0) |
		 (mode->pse ? CR4_PSE : 0);
	return st;
}

static inline u64 sign_extend(u64 a, unsigned int levels)
{
	if (levels < 4)
		return a;
	return levels == 4 ? (u64)((s64)(a << 16) >> 16) : (u64)((s64)(a << 7) >> 7);
}

/* Whether linear address a has the form that long mode wants. */
static inline bool naive_canonical(u64 a, unsigned int levels)
{
	return sign_extend(a, levels) == a;
}

/* The address of one byte that L1 (npt is NULL) or L2 accesses; false if there is none. */
static inline bool naive_guest(const struct naive_space *space, const struct walk_state *st,
			       u64 gva, u64 *gpa, u64 *bytes)
{
	bool long_mode = st->efer >> 10 & 1;
	struct npt_mode mode = {
		.levels = (u8)(long_mode ? 4 + (st->cr4 >> 12 & 1) : 2 + (st->cr4 >> 5 & 1)),
		.phys_bits = PHYS_BITS,
		.nxe = st->efer >> 11 & 1,
		.pse = st->cr4 >> 4 & 1,
		.pdpe1gb = true,
	};
	struct naive n = {.gpa = (u32)gva, .bytes = PAGE_SIZE};
	u64 nested;

	if (long_mode && !naive_canonical(gva, mode.levels))
		return false;
	if (st->cr0 >> 31 & 1)
		n = naive_walk(space, &mode, st->cr3, long_mode ? gva : (u32)gva);
	else
		n.result = FOUND;
	if (n.result != FOUND || !naive_translate(space, n.gpa, gpa, &nested))
		return false;
	*bytes = n.bytes < nested ? n.bytes : nested;
	return true;
}

/* ---- one case, by both ---- */

/* Returns what became of it: FOUND, ABSENT, RESERVED, or NESTED for an access that is denied. */
static inline unsigned int walk_nested_once(const struct npt_mode *mode)
{
	static u8 expected[TABLE_BYTES];
	u64 ncr3 = test_below(TABLES) << 12 | (test_below(8) ? 0 : test_random() & 0xfff);
	u64 gpa = random_address(mode->levels);
	u32 access = (u32)(test_random() & (PFERR_W | PFERR_ID));
	bool keep = test_below(8) == 0;
	struct nested_translation t;
	struct naive_access want;
	int error;
	u64 leaf;

	if (test_below(64) == 0)
		ncr3 = test_random();
	if (mode->levels == 3)
		ncr3 &= ~0xfe0ull; /* keep the four entries where entries are */
	want = naive_nested(NULL, mode, ncr3, gpa, access);
	memcpy(expected, mem.base, TABLE_BYTES);
	if (!keep)
		naive_mark(expected, &want, access);

	error = walk_nested(&mem, mode, ncr3, gpa, access | (keep ? (u32)WALK_KEEP_AD : 0), &t);
	CHECK_EQ(error, want.ok ? 0 : -E_FAULT);
	CHECK(!memcmp(expected, mem.base, TABLE_BYTES));
	if (error || !want.ok) {
		CHECK_EQ(t.error_code, want.error_code);
		return want.n.result == FOUND ? NESTED : want.n.result;
	}
	leaf = last_entry(&want.n);
	CHECK_EQ(t.gpa, want.n.gpa);
	CHECK_EQ(t.page_bytes, want.n.bytes);
	CHECK_EQ(t.write, want.write);
	CHECK_EQ(t.exec, want.exec);
	CHECK_EQ(t.dirty, (leaf >> 6 & 1) || ((access & PFERR_W) && !keep));
	CHECK_EQ(t.cache & 3, leaf >> 3 & 3);
	CHECK_EQ(t.cache >> 2, leaf >> (want.n.bytes == PAGE_SIZE ? 7 : 12) & 1);
	return FOUND;
}

/* Returns whether there is a translation. */
static inline bool walk_guest_once(const struct naive_space *space, const struct walk_state *st,
				   u64 gva)
{
	u64 gpa = 0, bytes = 0, want_gpa = 0, want_bytes = 0;
	bool ok = naive_guest(space, st, gva, &want_gpa, &want_bytes);
	int error = space->npt ? walk_guest2(&mem, st, space->npt, space->ncr3, gva, &gpa, &bytes)
			       : walk_guest(&mem, st, gva, &gpa, &bytes);

	CHECK_EQ(error, ok ? 0 : -E_FAULT);
	if (error || !ok)
		return false;
	CHECK_EQ(gpa, want_gpa);
	CHECK_EQ(bytes, want_bytes);
	return true;
}

/* Instruction bytes: one address at a time. Returns how many there are. */
static inline unsigned int walk_fetch_once(const struct naive_space *space,
					   const struct walk_state *st, u64 gva)
{
	u8 got[15], want[15];
	unsigned int n = 0;
	u64 gpa, bytes;

	for (; n < sizeof(want); n++) {
		if (!naive_guest(space, st, gva + n, &gpa, &bytes) || gpa >= LIMIT)
			break;
		want[n] = mem.base[gpa];
	}
	CHECK_EQ(walk_fetch(&mem, st, space->npt, space->ncr3, gva, got, sizeof(got)), n);
	CHECK(!memcmp(got, want, n));
	return n;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The shadow of nested tables as L2 sees it: through a TLB of its own, filled from what the hardware finds in the shadow.
 * Whatever L2 can see must be what L1's tables have said at some time since L1's last flush, and what L1's tables say now
 * wherever the shadow was asked.
 */
#ifndef TALLY_SHADOW_NAIVE_H
#define TALLY_SHADOW_NAIVE_H

#include "hv/core/shadow.h"
#include "walk_naive.h"

#define POOL_HPA 0x123450000ull
#define POOL_MAX 64
#define HOLE_PAGE 0x7fff0000ull
#define HISTORY 12

/* The first: a whole 2-Mbyte page, and part of another. The second: pages in the middle of one, with memory between. */
static const struct holes holes = {
	{0x40600000, 0x40886000}, 2, {{0x40600000, 0x40803000}, {0x40884000, 0x40886000}}};
static const struct range hole = {0x40600000, 0x40803000};

static u8 pool_pages[POOL_MAX * PAGE_SIZE] ALIGNED(4096);
static u32 links[POOL_MAX];
static struct shadow sh;

static const struct npt_mode mode4 = {
	.levels = 4, .phys_bits = PHYS_BITS, .nxe = true, .pdpe1gb = true};

/* ---- what the hardware would find in the shadow ---- */

struct mapping {
	bool present, write, exec;
	u64 hpa; /* of the byte */
	u64 bytes;
	u64 cache;
};

static inline u64 *pool_table(u64 entry)
{
	u64 at = (entry & PTE_ADDR) - POOL_HPA;

	if (at >= sh.pool.count * PAGE_SIZE)
		abort();
	return (u64 *)(pool_pages + at);
}

static inline struct mapping hardware(const struct shadow_space *space, u64 gpa)
{
	struct mapping m = {0};
	u64 *table = pool_table(space->root_hpa);

	if (gpa >> 48)
		return m;
	for (unsigned int shift = 39;; shift -= 9) {
		u64 e = table[gpa >> shift & 511], bytes = 1ull << shift;

		if (!(e & PTE_P))
			return m;
		if ((e & (PTE_U | PTE_A)) != (PTE_U | PTE_A))
			test_fail(__FILE__, __LINE__, "entry %#llx at %#llx", (unsigned long long)e,
				  (unsigned long long)gpa);
		if (shift == 12 || (e & PTE_PS)) {
			if (shift == 39 ||
			    (e & PTE_ADDR & (bytes - 1) & (shift > 12 ? ~0x1000ull : 0)) ||
			    !(e & PTE_D))
				test_fail(__FILE__, __LINE__, "leaf %#llx", (unsigned long long)e);
			m.present = true;
			m.write = e & PTE_W;
			m.exec = !(e & PTE_NX);
			m.bytes = bytes;
			m.hpa = (e & PTE_ADDR & ~(bytes - 1)) | (gpa & (bytes - 1));
			m.cache = (e >> 3 & 3) | (e >> (shift == 12 ? 7 : 12) & 1) << 2;
			return m;
		}
		if (!(e & PTE_W) || (e & PTE_NX))
			test_fail(__FILE__, __LINE__, "table entry %#llx", (unsigned long long)e);
		table = pool_table(e);
	}
}

static inline bool permits(const struct mapping *m, u32 access)
{
	return m->present && (m->write || !(access & PFERR_W)) && (m->exec || !(access & PFERR_ID));
}

/* Tables and leaves below one table; checks that no leaf maps any byte of the hole. */
static inline u32 count_tables(u64 *table, unsigned int shift, u32 *leaves)
{
	u32 tables = 1;

	for (unsigned int i = 0; i < 512; i++) {
		u64 e = table[i], start = e & PTE_ADDR & ~((1ull << shift) - 1);

		if (!(e & PTE_P))
			continue;
		if (shift > 12 && !(e & PTE_PS)) {
			tables += count_tables(pool_table(e), shift - 9, leaves);
			continue;
		}
		++*leaves;
		if ((start < 0x40803000 && start + (1ull << shift) > 0x40600000) ||
		    (start < 0x40886000 && start + (1ull << shift) > 0x40884000))
			test_fail(__FILE__, __LINE__, "leaf %#llx maps the hole",
				  (unsigned long long)e);
		if (start == HOLE_PAGE && (e & PTE_W))
			test_fail(__FILE__, __LINE__, "the page of FFh is writable");
	}
	return tables;
}

static inline void check_pool(void)
{
	u32 used = 0, leaves = 0;

	for (unsigned int i = 0; i < SHADOW_SPACES; i++) {
		struct shadow_space *s = &sh.space[i];
		u32 tables;

		if (!s->in_use)
			continue;
		tables = count_tables(pool_table(s->root_hpa), 39, &leaves);
		CHECK_EQ(s->pages, tables);
		used += tables;
		for (unsigned int k = s->root_entries; k < 512; k++)
			CHECK_EQ(pool_table(s->root_hpa)[k], 0);
	}
	CHECK_EQ(sh.pool.used, used);
	CHECK(sh.pool.fresh <= sh.pool.count && used <= sh.pool.fresh);
}

/* ---- what L1's tables say ---- */

/* As an access by L1's tables in that image; a 4-level CPU has no 5-level addresses. */
static inline struct naive_access model(const u8 *image, const struct shadow_space *space, u64 gpa,
					u32 access)
{
	struct naive_access a;

	if (gpa >> 48 == 0)
		return naive_nested(image, &space->mode, space->ncr3, gpa, access);
	a = (struct naive_access){.n = {.result = ABSENT},
				  .error_code = PFERR_U | (access & PFERR_W)};
	if (space->mode.nxe || space->mode.smep)
		a.error_code |= access & (u32)PFERR_ID;
	return a;
}

static inline bool in_hole(u64 gpa)
{
	return (gpa >= 0x40600000 && gpa < 0x40803000) || (gpa >= 0x40884000 && gpa < 0x40886000);
}

static inline bool leaf_dirty(const struct naive_access *a)
{
	return last_entry(&a->n) >> 6 & 1;
}

/* Whether a mapping of one byte is no more than what these tables say. */
static inline bool no_more_than(const struct mapping *have, const struct naive_access *a)
{
	u64 leaf;

	if (a->n.result != FOUND || !a->user || (have->write && !a->write) ||
	    (have->exec && !a->exec) || have->bytes > a->n.bytes)
		return false;
	leaf = last_entry(&a->n);
	if (have->cache !=
	    ((leaf >> 3 & 3) | (leaf >> (a->n.bytes == PAGE_SIZE ? 7 : 12) & 1) << 2))
		return false;
	if (in_hole(a->n.gpa))
		return have->hpa == (HOLE_PAGE | (a->n.gpa & 0xfff)) && !have->write &&
		       have->bytes == PAGE_SIZE;
	return have->hpa == a->n.gpa;
}

/* ---- L1's tables as they have been, and since when each space has been filled from them ---- */

static u8 history[HISTORY][TABLE_BYTES];
static unsigned int now;

static struct epoch {
	u32 vasid;
	u64 ncr3;
	struct npt_mode mode;
	unsigned int since;
} epochs[128];

static inline struct epoch *epoch_of(const struct shadow_space *space)
{
	struct epoch *e = epochs;

	while (e->vasid && (e->vasid != space->vasid || e->ncr3 != space->ncr3 ||
			    memcmp(&e->mode, &space->mode, sizeof(e->mode)) != 0))
		e++;
	e->vasid = space->vasid;
	e->ncr3 = space->ncr3;
	e->mode = space->mode;
	return e;
}

/* ---- a TLB in front of the shadow: tagged by the real ASID, which is the space's number ---- */

static struct tlb_entry {
	unsigned int asid; /* 0: empty */
	u64 gpa;	   /* of the first byte */
	struct mapping mapping;
} tlb[64];

/* VMRUN with the space: L0 has the hardware flush if the shadow asks for it. */
static inline void enter(struct shadow_space *space)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tlb) && space->tlb_flush; i++)
		if (tlb[i].asid == shadow_space_idx(&sh, space) + 1)
			tlb[i].asid = 0;
	space->tlb_flush = false;
}

/* What L2 gets with an access to gpa: from the TLB, if that allows it; otherwise from the tables. */
static inline struct mapping see(const struct shadow_space *space, u64 gpa, u32 access)
{
	unsigned int asid = shadow_space_idx(&sh, space) + 1;
	struct mapping have;

	for (unsigned int i = 0; i < ARRAY_SIZE(tlb); i++) {
		have = tlb[i].mapping;
		if (tlb[i].asid != asid || gpa - tlb[i].gpa >= have.bytes)
			continue;
		have.hpa += gpa - tlb[i].gpa;
		if (permits(&have, access))
			return have;
		tlb[i].asid = 0; /* the CPU walks again before it faults */
	}
	have = hardware(space, gpa);
	if (permits(&have, access)) {
		struct tlb_entry *e = &tlb[test_below(ARRAY_SIZE(tlb))];
		u64 offset = gpa & (have.bytes - 1);

		for (unsigned int i = 0; i < ARRAY_SIZE(tlb); i++)
			if (tlb[i].asid == asid && gpa - tlb[i].gpa < tlb[i].mapping.bytes)
				CHECK_EQ(tlb[i].mapping.bytes, have.bytes); /* or both would hit */
		*e = (struct tlb_entry){asid, gpa - offset, have};
		e->mapping.hpa -= offset;
	}
	return have;
}

/* ---- who remembers where L2's code is, for as long as the space's generation stays ---- */

static struct memory_of {
	const struct shadow_space *space;
	u64 generation, gpa, hpa;
} remembered[16];

static inline void init(u32 pages)
{
	memset(memory(), 0, TABLE_BYTES);
	memset(pool_pages, 0xaa, sizeof(pool_pages)); /* a page must be cleared when it is taken */
	memset(tlb, 0, sizeof(tlb));
	memset(remembered, 0, sizeof(remembered));
	CHECK_EQ(shadow_init(&sh, &mem, pool_pages, POOL_HPA, links, pages, &holes, HOLE_PAGE), 0);
}

/* Checks all that is remembered, and remembers where gpa is now. */
static inline void remember(const struct shadow_space *space, u64 gpa)
{
	struct mapping have = hardware(space, gpa);
	u64 hpa = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(remembered); i++) {
		const struct memory_of *r = &remembered[i];

		if (!r->space || !r->space->in_use || r->space->generation != r->generation)
			continue;
		CHECK(shadow_translate(&sh, r->space, r->gpa, &hpa));
		CHECK_EQ(hpa, r->hpa);
	}
	CHECK_EQ(shadow_translate(&sh, space, gpa, &hpa), have.present);
	if (!have.present)
		return;
	CHECK_EQ(hpa, have.hpa);
	remembered[test_below(ARRAY_SIZE(remembered))] =
		(struct memory_of){space, space->generation, gpa, hpa};
}

/* ---- what can happen ---- */

static inline void check_visible(const struct shadow_space *space, u64 gpa,
				 const struct mapping *have)
{
	bool allowed = false;

	for (unsigned int i = epoch_of(space)->since; i <= now && !allowed; i++) {
		/* walks have set A and D since then, which makes no translation but may end one: a PDPTE has none */
		struct naive_access a = model(history[i], space, gpa, 0);

		allowed = no_more_than(have, &a);
	}
	if (!allowed)
		test_fail(__FILE__, __LINE__, "gpa %#llx: never allowed", (unsigned long long)gpa);
}

/* L2 accesses gpa. */
static inline void access_once(struct shadow_space *space, u64 gpa, u32 access)
{
	static u8 expected[TABLE_BYTES];
	struct mapping have = see(space, gpa, access);
	struct naive_access a = model(NULL, space, gpa, access);
	struct shadow_fault fault;
	enum shadow_result result;

	if (permits(&have, access)) {
		check_visible(space, gpa, &have);
		/* a write that does not come to us has D set, if the tables are still the same */
		if ((access & PFERR_W) && epoch_of(space)->since == now && a.n.result == FOUND)
			CHECK(leaf_dirty(&a));
		return;
	}

	memcpy(expected, mem.base, TABLE_BYTES);
	naive_mark(expected, &a, access);
	result = shadow_fault(&sh, space, gpa, access | PFERR_U | NPF_FINAL, &fault);
	CHECK(!memcmp(expected, mem.base, TABLE_BYTES));
	if (!a.ok) {
		CHECK_EQ(result, SHADOW_REFLECT);
		CHECK_EQ(fault.error_code, a.error_code);
		return;
	}
	CHECK_EQ(fault.l1_gpa, a.n.gpa);
	CHECK(fault.page_bytes <= a.n.bytes);
	enter(space);
	have = see(space, gpa, access);
	CHECK(have.present && no_more_than(&have, &a));
	CHECK_EQ(have.exec, a.exec);
	if (in_hole(a.n.gpa) && (access & PFERR_W)) {
		CHECK_EQ(result, SHADOW_HOLE_WRITE);
		CHECK_EQ(fault.page_bytes, PAGE_SIZE);
		CHECK_EQ(*fault.leaf & PTE_ADDR, HOLE_PAGE);
		CHECK(!permits(&have, access));
		return;
	}
	CHECK_EQ(result, SHADOW_MAPPED);
	CHECK(permits(&have, access));
	if (!in_hole(a.n.gpa))
		CHECK_EQ(have.write, a.write && (leaf_dirty(&a) || (access & PFERR_W)));
}

/* L1 starts anew, with tables of mode's format. */
static inline void new_world(const struct npt_mode *mode)
{
	random_tables(mode, 40);
	shadow_flush_all(&sh);
	memset(epochs, 0, sizeof(epochs));
	now = 0;
	memcpy(history[0], mem.base, TABLE_BYTES);
}

/* L1 changes a few entries, without a flush. */
static inline void change_tables(const struct npt_mode *mode)
{
	unsigned int bytes = mode->levels == 2 ? 4 : 8;

	for (u64 n = 1 + test_below(4); n; n--) {
		u64 e = random_entry(mode, 40);

		memcpy(mem.base + test_below(TABLES) * PAGE_SIZE + bytes * indexes[test_below(4)],
		       &e, bytes);
	}
	memcpy(history[++now], mem.base, TABLE_BYTES);
}

/* L1 flushes by ASID: no translation of it may be older than now. */
static inline void flush_vasid(u32 vasid)
{
	shadow_flush_vasid(&sh, vasid);
	for (struct epoch *e = epochs; e->vasid; e++)
		if (e->vasid == vasid)
			e->since = now;
}

/* One VMRUN, and what L2 or L1 do then. mode: of the tables; L1 may have others of the same entry size. */
static inline void shadow_step(const struct npt_mode *mode, unsigned int vasids)
{
	u32 vasid = 1 + (u32)test_below(vasids);
	u64 ncr3 = test_below(2) << 12;
	struct npt_mode m = *mode;
	struct shadow_space *space;

	if (test_below(8) == 0) {
		m.smep = !m.smep;
		m.levels = (u8)(m.levels == 2 ? 2 : 3 + test_below(3));
	}
	space = shadow_get(&sh, vasid, ncr3, &m);
	CHECK(space->in_use && space->vasid == vasid && space->ncr3 == ncr3);
	CHECK(!memcmp(&space->mode, &m, sizeof(m)));
	if (space->pages == 1) /* empty: filled from now on */
		epoch_of(space)->since = now;
	enter(space);
	for (u64 n = 1 + test_below(3); n; n--) {
		u64 gpa = random_address(m.levels);

		access_once(space, gpa, (u32)(test_random() & (PFERR_W | PFERR_ID)));
		if (test_below(4) == 0)
			remember(space, gpa);
	}

	switch (test_below(64)) {
	case 0:
	case 1:
		if (now + 1 < HISTORY)
			change_tables(mode);
		break;
	case 2:
		shadow_flush(&sh, space);
		CHECK_EQ(space->pages, 1);
		break;
	case 3:
		flush_vasid(vasid);
		break;
	case 4:
		check_pool();
		break;
	case 5:
		if (test_below(8) == 0) {
			shadow_flush_all(&sh);
			for (struct epoch *e = epochs; e->vasid; e++)
				e->since = now;
		}
		break;
	}
}

#endif

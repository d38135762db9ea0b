/* SPDX-License-Identifier: MIT */
/* The shadow of nested tables against a flat model: what L1's tables have allowed since the last
 * flush is looked up in copies of them, for every access. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/core/shadow.h"
#include "test.h"

#define PHYS_BITS 33
#define LIMIT (1ull << PHYS_BITS)
#define TABLES 6 /* L1's pages 0..5 */
#define TABLE_BYTES (TABLES * PAGE_SIZE)
#define POOL_HPA 0x123450000ull
#define POOL_MAX 64
#define HOLE_PAGE 0x7fff0000ull
#define HISTORY 12

static const struct range hole = {0x40600000,
				  0x40803000}; /* a whole 2-Mbyte page, and part of another */

static struct guest_memory mem;
static u8 pool_pages[POOL_MAX * PAGE_SIZE] ALIGNED(4096);
static u32 links[POOL_MAX];
static struct shadow sh;

static u8 *memory(void)
{
	if (!mem.base) {
		mem.base = mmap(NULL, LIMIT, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mem.base == MAP_FAILED)
			abort();
		mem.limit = LIMIT;
	}
	memset(mem.base, 0, TABLE_BYTES);
	return mem.base;
}

static void init(u32 pages)
{
	memory();
	memset(pool_pages, 0xaa, sizeof(pool_pages)); /* a page must be cleared when it is taken */
	CHECK_EQ(shadow_init(&sh, &mem, pool_pages, POOL_HPA, links, pages, hole, HOLE_PAGE), 0);
}

static const struct npt_mode mode4 = {
	.levels = 4, .phys_bits = PHYS_BITS, .nxe = true, .pdpe1gb = true};

/* ---- what the hardware would find in the shadow ---- */

struct mapping {
	bool present, write, exec;
	u64 hpa; /* of the byte */
	u64 bytes;
	u64 cache;
};

static u64 *pool_table(u64 entry)
{
	u64 at = (entry & PTE_ADDR) - POOL_HPA;

	if (at >= sh.pool.count * PAGE_SIZE)
		abort();
	return (u64 *)(pool_pages + at);
}

static struct mapping hardware(const struct shadow_space *space, u64 gpa)
{
	struct mapping m = {0};
	u64 *table = pool_table(space->root_hpa);

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

static bool permits(const struct mapping *m, u32 access)
{
	return m->present && (m->write || !(access & PFERR_W)) && (m->exec || !(access & PFERR_ID));
}

/* Tables and leaves below one table; checks that no leaf maps any byte of the hole. */
static u32 count_tables(u64 *table, unsigned int shift, u32 *leaves)
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
		if (start < hole.end && start + (1ull << shift) > hole.start)
			test_fail(__FILE__, __LINE__, "leaf %#llx maps the hole",
				  (unsigned long long)e);
		if (start == HOLE_PAGE && (e & PTE_W))
			test_fail(__FILE__, __LINE__, "the page of FFh is writable");
	}
	return tables;
}

static void check_pool(void)
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

/* ---- the flat model: 4-level tables in TABLE_BYTES of memory, nothing behind them ---- */

struct model {
	bool present, reserved, user, write, exec, dirty;
	u64 gpa, bytes, cache;
	u64 path[4]; /* entries that were read, by address */
	unsigned int depth;
};

static struct model model_walk(const u8 *tables, u64 ncr3, u64 gpa)
{
	struct model m = {.user = true, .write = true, .exec = true};
	u64 at = ncr3 & PTE_ADDR;

	for (unsigned int shift = 39;; shift -= 9) {
		u64 e = 0, mbz = BITS(51, PHYS_BITS), bytes = 1ull << shift;

		at += (gpa >> shift & 511) * 8;
		m.path[m.depth++] = at;
		if (at >= LIMIT)
			e = ~0ull;
		else if (at < TABLE_BYTES)
			memcpy(&e, tables + at, 8);
		if (!(e & 1))
			return m;
		if (shift == 39)
			mbz |= 0x180;
		if ((e & 0x80) && (shift == 30 || shift == 21))
			mbz |= (bytes - 1) & ~0x1fffull;
		m.reserved = e & mbz;
		if (m.reserved)
			return m;
		m.user &= e >> 2 & 1;
		m.write &= e >> 1 & 1;
		m.exec &= !(e >> 63);
		at = e & 0x000ffffffffff000ull;
		if (shift == 12 || (e & 0x80)) {
			m.present = true;
			m.dirty = e >> 6 & 1;
			m.gpa = (at & ~(bytes - 1)) | (gpa & (bytes - 1));
			m.bytes = bytes;
			m.cache = (e >> 3 & 3) | (e >> (shift == 12 ? 7 : 12) & 1) << 2;
			return m;
		}
	}
}

static bool model_allows(const struct model *m, u32 access)
{
	return m->present && m->user && (m->write || !(access & PFERR_W)) &&
	       (m->exec || !(access & PFERR_ID));
}

static u32 model_error(const struct model *m, u32 access)
{
	u32 code = (u32)PFERR_U | access;

	if (m->reserved)
		return code | (u32)(PFERR_P | PFERR_RSV);
	return m->present ? code | (u32)PFERR_P : code;
}

static bool in_hole(u64 gpa)
{
	return gpa >= hole.start && gpa < hole.end;
}

/* Whether the shadow's mapping of one byte is no more than what these tables say. */
static bool no_more_than(const struct mapping *have, const struct model *m)
{
	if (!have->present)
		return true;
	if (!m->present || !m->user || (have->write && !m->write) || (have->exec && !m->exec) ||
	    have->bytes > m->bytes || have->cache != m->cache)
		return false;
	if (in_hole(m->gpa))
		return have->hpa == (HOLE_PAGE | (m->gpa & 0xfff)) && !have->write &&
		       have->bytes == PAGE_SIZE;
	return have->hpa == m->gpa;
}

/* ---- random L1 tables ---- */

static const u16 indexes[] = {0, 1, 3, 511};

static u64 random_gpa(void)
{
	u64 gpa = test_below(PAGE_SIZE);

	if (test_below(50) == 0)
		return test_random() >> (12 + test_below(40));
	for (unsigned int i = 0; i < 4; i++)
		gpa |= (u64)indexes[test_below(i == 3 ? 2 : 4)] << (12 + 9 * i);
	return gpa;
}

static u64 random_entry(unsigned int level)
{
	u64 e = PTE_P | PTE_W | PTE_U | (test_random() & (PTE_PWT | PTE_PCD | PTE_A | PTE_D));
	u64 frame;

	switch (test_below(24)) {
	case 0:
		return 0;
	case 1:
		return test_random();
	case 2:
		e |= BIT(test_below(64));
		break;
	case 3:
		e &= ~PTE_U;
		break;
	case 4:
	case 5:
	case 6:
		e &= ~PTE_W;
		break;
	case 7:
	case 8:
		e |= PTE_NX;
		break;
	}
	if (level > 1 && (level == 4 || test_below(2)))
		return e | test_below(TABLES) << 12; /* any table: levels mix */
	/* a frame near the hole, or in it, or anywhere */
	frame = test_below(3) ? 0x40000000 + test_below(0x900) * PAGE_SIZE
			      : test_random() & (LIMIT - 1);
	if (level == 1)
		return e | ALIGN_DOWN(frame, PAGE_SIZE) | (test_below(2) ? PTE_PAT_4K : 0);
	e |= PTE_PS | (test_below(2) ? PTE_PAT_LARGE : 0);
	return e | ALIGN_DOWN(frame, level == 2 ? PAGE_2M : PAGE_1G);
}

static void random_tables(void)
{
	for (u64 page = 0; page < TABLES; page++)
		for (unsigned int i = 0; i < ARRAY_SIZE(indexes); i++) {
			u64 e = random_entry(page < 2 ? 4 : (unsigned int)(1 + test_below(3)));

			memcpy(mem.base + page * PAGE_SIZE + 8 * indexes[i], &e, 8);
		}
}

static void change_tables(void)
{
	for (u64 n = 1 + test_below(4); n; n--) {
		u64 e = random_entry((unsigned int)(1 + test_below(4)));

		memcpy(mem.base + test_below(TABLES) * PAGE_SIZE + 8 * indexes[test_below(4)], &e,
		       8);
	}
}

/* ---- L1's tables as they have been, and since when each space has been filled from them ---- */

static u8 history[HISTORY][TABLE_BYTES];
static unsigned int now;

struct epoch {
	u32 vasid;
	u64 ncr3;
	unsigned int since;
} epochs[64];

static struct epoch *epoch_of(const struct shadow_space *space)
{
	struct epoch *e = epochs;

	while (e->vasid && (e->vasid != space->vasid || e->ncr3 != space->ncr3))
		e++;
	e->vasid = space->vasid;
	e->ncr3 = space->ncr3;
	return e;
}

static void new_history(void)
{
	memset(epochs, 0, sizeof(epochs));
	now = 0;
	memcpy(history[0], mem.base, TABLE_BYTES);
}

static bool allowed_since_flush(const struct shadow_space *space, u64 gpa)
{
	struct mapping have = hardware(space, gpa);

	for (unsigned int i = epoch_of(space)->since; i <= now; i++) {
		struct model m = model_walk(history[i], space->ncr3, gpa);

		if (no_more_than(&have, &m))
			return true;
	}
	return !have.present;
}

/* One access of L2, as the CPU would do it. */
static void access_once(struct shadow_space *space, u64 gpa, u32 access)
{
	static u8 expected[TABLE_BYTES];
	struct mapping have = hardware(space, gpa);
	struct model m = model_walk(mem.base, space->ncr3, gpa);
	struct shadow_fault fault;
	enum shadow_result result;

	if (!allowed_since_flush(space, gpa))
		test_fail(__FILE__, __LINE__, "gpa %#llx: never allowed", (unsigned long long)gpa);
	if (permits(&have, access)) {
		/* a write that does not come to us has D set, if the tables are still the same */
		if ((access & PFERR_W) && epoch_of(space)->since == now)
			CHECK(m.dirty);
		return;
	}

	memcpy(expected, mem.base, TABLE_BYTES);
	for (unsigned int i = 0; i < m.depth; i++) {
		bool last = i == m.depth - 1;
		u64 e;

		if (m.path[i] >= TABLE_BYTES || (last && !model_allows(&m, access)))
			continue;
		memcpy(&e, expected + m.path[i], 8);
		e |= PTE_A | (last && (access & PFERR_W) ? PTE_D : 0);
		memcpy(expected + m.path[i], &e, 8);
	}

	result = shadow_fault(&sh, space, gpa, access | PFERR_U | NPF_FINAL, &fault);
	CHECK(!memcmp(expected, mem.base, TABLE_BYTES));
	have = hardware(space, gpa);
	if (!model_allows(&m, access)) {
		CHECK_EQ(result, SHADOW_REFLECT);
		CHECK_EQ(fault.error_code, model_error(&m, access));
		return;
	}
	CHECK_EQ(fault.l1_gpa, m.gpa);
	CHECK_EQ(fault.page_bytes <= m.bytes, true);
	CHECK(no_more_than(&have, &m));
	CHECK_EQ(have.exec, m.exec);
	if (in_hole(m.gpa) && (access & PFERR_W)) {
		CHECK_EQ(result, SHADOW_HOLE_WRITE);
		CHECK_EQ(fault.page_bytes, PAGE_SIZE);
		CHECK_EQ(*fault.leaf & PTE_ADDR, HOLE_PAGE);
		CHECK(!permits(&have, access));
		return;
	}
	CHECK_EQ(result, SHADOW_MAPPED);
	CHECK(permits(&have, access));
	if (!in_hole(m.gpa))
		CHECK_EQ(have.write, m.write && (m.dirty || (access & PFERR_W)));
}

/* ---- a TLB in front of the shadow, to see that tlb_flush is set when it must be ---- */

static struct tlb_entry {
	const struct shadow_space *space;
	u64 gpa;
	struct mapping mapping;
} tlb[64];

static void enter(struct shadow_space *space)
{
	if (!space->tlb_flush)
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(tlb); i++)
		if (tlb[i].space == space)
			tlb[i].space = NULL;
	space->tlb_flush = false;
}

static void check_tlb(const struct shadow_space *space)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(tlb); i++) {
		struct mapping have;

		if (tlb[i].space != space)
			continue;
		have = hardware(space, tlb[i].gpa);
		CHECK(have.present && have.hpa == tlb[i].mapping.hpa &&
		      have.bytes == tlb[i].mapping.bytes && have.write >= tlb[i].mapping.write &&
		      have.exec >= tlb[i].mapping.exec);
	}
}

static void random_epochs(u32 pages, unsigned int vasids, int rounds)
{
	init(pages);
	memset(tlb, 0, sizeof(tlb));
	for (int round = 0; round < rounds; round++) {
		random_tables();
		shadow_flush_all(&sh);
		new_history();
		for (int step = 0; step < 300; step++) {
			u32 vasid = 1 + (u32)test_below(vasids);
			struct shadow_space *space =
				shadow_get(&sh, vasid, test_below(2) << 12, &mode4);
			u32 access = (u32)(test_random() & (PFERR_W | PFERR_ID));
			u64 gpa = random_gpa();
			struct mapping have;

			CHECK(space->in_use && space->vasid == vasid);
			if (space->pages == 1)
				epoch_of(space)->since = now;
			enter(space);
			check_tlb(space);
			access_once(space, gpa, access);
			have = hardware(space, gpa);
			if (have.present) {
				enter(space);
				tlb[test_below(ARRAY_SIZE(tlb))] =
					(struct tlb_entry){space, gpa, have};
			}

			if (test_below(30) == 0 && now + 1 < HISTORY) {
				change_tables();
				memcpy(history[++now], mem.base, TABLE_BYTES);
			}
			if (test_below(100) == 0) {
				shadow_flush(&sh, space);
				CHECK_EQ(space->pages, 1);
				check_pool();
			}
			if (test_below(100) == 0) {
				/* from here on no translation of this ASID is older than now */
				shadow_flush_vasid(&sh, vasid);
				for (unsigned int i = 0; i < 30; i++)
					CHECK(!hardware(space, random_gpa()).present);
			}
		}
		check_pool();
	}
}

TEST(shadow_random)
{
	random_epochs(POOL_MAX, 1, 120);
	CHECK_EQ(sh.evictions, 0);
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

/* After a flush the shadow is exactly what L1's tables say now, whatever was there before. */
TEST(shadow_exact_after_flush)
{
	init(POOL_MAX);
	for (int round = 0; round < 300; round++) {
		struct shadow_space *space = shadow_get(&sh, 1, 0, &mode4);

		random_tables();
		shadow_flush(&sh, space);
		CHECK_EQ(sh.pool.used, 1);
		for (int i = 0; i < 40; i++) {
			u64 gpa = random_gpa();
			struct model m = model_walk(mem.base, 0, gpa);
			struct shadow_fault fault;
			struct mapping have;

			if (space->pages > 1 && hardware(space, gpa).present)
				continue;
			if (shadow_fault(&sh, space, gpa, 0, &fault) == SHADOW_REFLECT) {
				CHECK(!model_allows(&m, 0));
				continue;
			}
			have = hardware(space, gpa);
			CHECK(no_more_than(&have, &m));
			CHECK_EQ(have.exec, m.exec);
			if (!in_hole(m.gpa))
				CHECK_EQ(have.write, m.write && m.dirty);
		}
	}
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

	CHECK_EQ(shadow_init(&sh, &mem, pool_pages, POOL_HPA, links, SHADOW_MIN_PAGES - 1, hole,
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

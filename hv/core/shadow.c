/* SPDX-License-Identifier: MIT */
#include "hv/core/shadow.h"

#define NONE (~0u) /* end of a list of pages */
#define TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)
#define ROOT_LEVEL 4

/* ---- the pool ---- */

static u64 page_hpa(const struct shadow_pool *pool, u32 page)
{
	return pool->hpa + (u64)page * PAGE_SIZE;
}

static u64 *page_entries(const struct shadow_pool *pool, u32 page)
{
	return (u64 *)(pool->va + (u64)page * PAGE_SIZE);
}

static u64 *table_of(const struct shadow_pool *pool, u64 entry)
{
	return (u64 *)(pool->va + ((entry & PTE_ADDR) - pool->hpa));
}

/* A page of zeroes, or NONE. */
static u32 pool_take(struct shadow_pool *pool)
{
	u32 page = pool->free;

	if (page != NONE)
		pool->free = pool->links[page];
	else if (pool->fresh < pool->count)
		page = pool->fresh++;
	else
		return NONE;
	pool->used++;
	__builtin_memset(page_entries(pool, page), 0, PAGE_SIZE);
	return page;
}

/* Gives back the list first..last of so many pages. */
static void pool_give(struct shadow_pool *pool, u32 first, u32 last, u32 pages)
{
	pool->links[last] = pool->free;
	pool->free = first;
	pool->used -= pages;
}

/* ---- spaces ---- */

int shadow_init(struct shadow *sh, const struct guest_memory *mem, u8 *va, u64 hpa, u32 *links,
		u32 count, const struct holes *holes, u64 hole_page_hpa)
{
	if (count < SHADOW_MIN_PAGES)
		return -E_RANGE;
	*sh = (struct shadow){
		.pool = {.va = va, .hpa = hpa, .links = links, .count = count, .free = NONE},
		.mem = mem,
		.holes = holes,
		.hole = holes->all,
		.hole_page_hpa = hole_page_hpa,
		.trapped = ~0ull,
	};
	return 0;
}

/* The hardware, and who else remembers translations of the space, must forget them. */
static void outdate(struct shadow *sh, struct shadow_space *space)
{
	space->tlb_flush = true;
	space->generation = ++sh->generations;
}

void shadow_flush(struct shadow *sh, struct shadow_space *space)
{
	struct shadow_pool *pool = &sh->pool;

	if (!space->in_use || !space->root_entries)
		return;
	if (space->last != space->root) {
		pool_give(pool, pool->links[space->root], space->last, space->pages - 1);
		space->last = space->root;
		space->pages = 1;
	}
	__builtin_memset(page_entries(pool, space->root), 0, space->root_entries * sizeof(u64));
	space->root_entries = 0;
	outdate(sh, space);
	sh->flushes++;
}

static void release(struct shadow *sh, struct shadow_space *space)
{
	if (!space->in_use)
		return;
	shadow_flush(sh, space);
	pool_give(&sh->pool, space->root, space->root, 1);
	space->in_use = false;
}

static struct shadow_space *least_recently_used(struct shadow *sh)
{
	struct shadow_space *oldest = NULL;

	for (struct shadow_space *s = sh->space; s < sh->space + SHADOW_SPACES; s++)
		if (s->in_use && (!oldest || s->lru < oldest->lru))
			oldest = s;
	return oldest;
}

/* A space that is not in use, and a page for its root. */
static struct shadow_space *evict_for(struct shadow *sh, u32 *root)
{
	struct shadow_space *space = NULL;

	for (struct shadow_space *s = sh->space; s < sh->space + SHADOW_SPACES && !space; s++)
		if (!s->in_use)
			space = s;
	if (!space) {
		space = least_recently_used(sh);
		release(sh, space);
		sh->evictions++;
	}
	*root = pool_take(&sh->pool);
	if (*root ==
	    NONE) { /* then somebody else has a page, or all: there are more pages than spaces */
		release(sh, least_recently_used(sh));
		sh->evictions++;
		*root = pool_take(&sh->pool);
	}
	return space;
}

struct shadow_space *shadow_get(struct shadow *sh, u32 vasid, u64 ncr3, const struct npt_mode *mode)
{
	struct shadow_space *space;
	u32 root;

	for (space = sh->space; space < sh->space + SHADOW_SPACES; space++)
		if (space->vasid == vasid && space->ncr3 == ncr3 && space->in_use &&
		    npt_mode_equal(&space->mode, mode)) {
			space->lru = ++sh->clock;
			return space;
		}

	space = evict_for(sh, &root);
	*space = (struct shadow_space){
		.root_hpa = page_hpa(&sh->pool, root),
		.ncr3 = ncr3,
		.lru = ++sh->clock,
		.vasid = vasid,
		.mode = *mode,
		.in_use = true,
		.root = root,
		.last = root,
		.pages = 1,
	};
	outdate(sh, space); /* the real ASID has served another space */
	sh->pool.links[root] = NONE;
	return space;
}

void shadow_flush_vasid(struct shadow *sh, u32 vasid)
{
	for (struct shadow_space *s = sh->space; s < sh->space + SHADOW_SPACES; s++)
		if (s->vasid == vasid)
			shadow_flush(sh, s);
}

void shadow_flush_all(struct shadow *sh)
{
	for (struct shadow_space *s = sh->space; s < sh->space + SHADOW_SPACES; s++)
		shadow_flush(sh, s);
}

void shadow_reclaim(struct shadow *sh, struct shadow_space *space)
{
	for (struct shadow_space *s = sh->space; s < sh->space + SHADOW_SPACES; s++)
		if (s != space && s->in_use) {
			release(sh, s);
			sh->evictions++;
		}
	shadow_flush(sh, space);
}

/* ---- translations ---- */

static unsigned int shift_of(unsigned int level)
{
	return 12 + 9 * (level - 1);
}

static u64 make_leaf(u64 hpa, unsigned int level, u64 flags)
{
	/* A and D are L1's business, see shadow_fault(): the hardware is not to write here. */
	u64 leaf = hpa | PTE_P | PTE_U | PTE_A | PTE_D |
		   (flags & (PTE_W | PTE_NX | PTE_PWT | PTE_PCD));

	if (level > 1)
		leaf |= PTE_PS | (flags & PTE_PAT_4K ? PTE_PAT_LARGE : 0);
	else
		leaf |= flags & PTE_PAT_4K;
	return leaf;
}

/* Whether a TLB that holds the old leaf must not go on using it. Rights that are only added need no
 * flush: the access that was refused has dropped the TLB's copy (APM2 §5.5.2). */
static bool leaf_takes_away(u64 old, u64 leaf)
{
	u64 lost = (old & ~leaf & PTE_W) | (leaf & ~old & PTE_NX);

	return (old & PTE_P) && (lost || ((old ^ leaf) & ~(PTE_W | PTE_NX)));
}

int shadow_map(struct shadow *sh, struct shadow_space *space, u64 gpa, u64 hpa, u64 page_bytes,
	       u64 flags, u64 **leaf)
{
	struct shadow_pool *pool = &sh->pool;
	unsigned int level = ROOT_LEVEL, leaf_level = page_bytes == PAGE_1G   ? 3
						      : page_bytes == PAGE_2M ? 2
									      : 1;
	u64 *table = page_entries(pool, space->root), *entry, new_leaf;
	unsigned int root_index;
	u32 page;

	if (gpa >> (shift_of(ROOT_LEVEL) + 9))
		return -E_RANGE;
	root_index = (unsigned int)(gpa >> shift_of(ROOT_LEVEL));

	for (;; level--) {
		entry = &table[(gpa >> shift_of(level)) & 511];
		if (level == 1)
			break;
		if ((*entry & PTE_P) && (level == ROOT_LEVEL || !(*entry & PTE_PS))) {
			table = table_of(pool, *entry); /* even where a larger page would do */
			continue;
		}
		if (level <= leaf_level)
			break;
		page = pool_take(pool);
		if (page == NONE)
			return -E_NOMEM;
		pool->links[page] = pool->links[space->root];
		pool->links[space->root] = page;
		if (space->last == space->root)
			space->last = page;
		space->pages++;
		if (*entry & PTE_P) /* no two page sizes for one address in the TLB */
			outdate(sh, space);
		if (level == ROOT_LEVEL && root_index >= space->root_entries)
			space->root_entries = (u16)(root_index + 1);
		*entry = page_hpa(pool, page) | TABLE_BITS;
		table = page_entries(pool, page);
	}

	hpa = ALIGN_DOWN(hpa, page_bytes) + (gpa & (page_bytes - 1));
	new_leaf = make_leaf(ALIGN_DOWN(hpa, BIT(shift_of(level))), level, flags);
	if (leaf_takes_away(*entry, new_leaf))
		outdate(sh, space);
	*entry = new_leaf;
	if (leaf)
		*leaf = entry;
	return 0;
}

bool shadow_translate(const struct shadow *sh, const struct shadow_space *space, u64 gpa, u64 *hpa)
{
	const u64 *table = page_entries(&sh->pool, space->root);

	if (gpa >> (shift_of(ROOT_LEVEL) + 9))
		return false;
	for (unsigned int level = ROOT_LEVEL;; level--) {
		u64 entry = table[(gpa >> shift_of(level)) & 511],
		    offset = BIT(shift_of(level)) - 1;

		if (!(entry & PTE_P))
			return false;
		if (level == 1 || (level < ROOT_LEVEL && (entry & PTE_PS))) {
			*hpa = (entry & PTE_ADDR & ~offset) | (gpa & offset);
			return true;
		}
		table = table_of(&sh->pool, entry);
	}
}

static bool overlaps_hole(const struct shadow *sh, u64 start, u64 bytes)
{
	return range_overlaps(&sh->hole, start, bytes) && holes_overlap(sh->holes, start, bytes);
}

enum shadow_result shadow_fault(struct shadow *sh, struct shadow_space *space, u64 gpa,
				u64 error_code, struct shadow_fault *out)
{
	u32 access = error_code & (PFERR_W | PFERR_ID);
	struct nested_translation t;
	u64 bytes, base, flags, hpa;
	bool in_hole, trapped;

	*out = (struct shadow_fault){0};
	if (gpa >> (shift_of(ROOT_LEVEL) +
		    9)) { /* only with 5-level tables: not present for a 4-level CPU */
		if (!space->mode.nxe && !space->mode.smep)
			access &= ~(u32)PFERR_ID;
		out->error_code = PFERR_U | access;
		return SHADOW_REFLECT;
	}
	if (walk_nested(sh->mem, &space->mode, space->ncr3, gpa, access, &t)) {
		out->error_code = t.error_code;
		out->l1_gpa = t.gpa;
		return SHADOW_REFLECT;
	}

	bytes = t.page_bytes > PAGE_2M && t.page_bytes < PAGE_1G ? PAGE_2M : t.page_bytes;
	while (bytes > PAGE_SIZE && (overlaps_hole(sh, ALIGN_DOWN(t.gpa, bytes), bytes) ||
				     ALIGN_DOWN(t.gpa, bytes) == ALIGN_DOWN(sh->trapped, bytes)))
		bytes = bytes == PAGE_1G ? PAGE_2M : PAGE_SIZE;
	base = ALIGN_DOWN(t.gpa, bytes);
	in_hole = overlaps_hole(sh, base, bytes);
	trapped = base == sh->trapped;
	hpa = in_hole ? sh->hole_page_hpa : base;

	flags = (t.cache & 3u) * PTE_PWT | (t.cache & 4 ? PTE_PAT_4K : 0) | (t.exec ? 0 : PTE_NX);
	/* Read-only while L1's leaf is clean, so that the first write comes here and sets D (APM2
	 * §15.25.5). */
	if (t.write && t.dirty && !in_hole && !trapped)
		flags |= PTE_W;

	if (shadow_map(sh, space, gpa, hpa, bytes, flags, &out->leaf)) {
		shadow_reclaim(sh, space);
		/* cannot fail: three tables at most are needed, and all but this root are free */
		(void)shadow_map(sh, space, gpa, hpa, bytes, flags, &out->leaf);
	}
	sh->fills++;
	out->l1_gpa = t.gpa;
	out->page_bytes = bytes;
	if (in_hole && (access & PFERR_W))
		return SHADOW_HOLE_WRITE;
	if (trapped && (access & PFERR_W))
		return SHADOW_TRAP_WRITE;
	return SHADOW_MAPPED;
}

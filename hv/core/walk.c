/* SPDX-License-Identifier: MIT */
#include "hv/core/walk.h"

/* ---- the formats: struct npt_mode describes L1's and L2's own tables as well ---- */

static unsigned int level_shift(const struct npt_mode *mode, unsigned int level)
{
	return 12 + (mode->levels == 2 ? 10 : 9) * (level - 1);
}

/* A PDPTE of PAE paging has no W, U, A and NX (APM2 §5.2.3). */
static bool is_pdpte(const struct npt_mode *mode, unsigned int level)
{
	return mode->levels == 3 && level == 3;
}

static u64 root_table(const struct npt_mode *mode, u64 cr3)
{
	switch (mode->levels) {
	case 2:
		return cr3 & BITS(31, 12);
	case 3:
		return cr3 & BITS(31, 5);
	default:
		return cr3 & PTE_ADDR;
	}
}

static u64 entry_gpa(const struct npt_mode *mode, unsigned int level, u64 table, u64 address)
{
	u64 index = address >> level_shift(mode, level);

	if (mode->levels == 2)
		return table + 4 * (index & 1023);
	return table + 8 * (index & (is_pdpte(mode, level) ? 3 : 511));
}

static u64 read_entry(const struct guest_memory *mem, const struct npt_mode *mode, u64 gpa)
{
	return mode->levels == 2 ? guest_read32(mem, gpa) : guest_read64(mem, gpa);
}

static bool is_leaf(const struct npt_mode *mode, unsigned int level, u64 entry)
{
	if (level == 1)
		return true;
	if (!(entry & PTE_PS))
		return false;
	if (mode->levels == 2)
		return mode->pse;
	return level == 2 || (level == 3 && mode->levels >= 4);
}

/* The bits of an entry that must be zero, APM2 §5.2-5.4. */
static u64 reserved_bits(const struct npt_mode *mode, unsigned int level, bool leaf)
{
	u64 mbz;

	if (mode->levels == 2) {
		/* bits 20:13 of a 4-Mbyte page are address bits 39:32 */
		if (!leaf || level == 1)
			return 0;
		return BIT(21) |
		       (mode->phys_bits < 40 ? BITS(20, 20 - (40 - mode->phys_bits) + 1) : 0);
	}
	mbz = mode->phys_bits < 52 ? BITS(51, mode->phys_bits) : 0;
	if (mode->levels == 3)
		mbz |= BITS(62, 52);
	if (is_pdpte(mode, level))
		return mbz | PTE_NX | BITS(8, 5) | BITS(2, 1);
	if (!mode->nxe)
		mbz |= PTE_NX;
	if (level >= 4) /* in the tables of the other levels G is ignored */
		mbz |= PTE_PS | PTE_G;
	if (leaf && level == 3)
		mbz |= BITS(29, 13) | (mode->pdpe1gb ? 0 : PTE_PS);
	if (leaf && level == 2)
		mbz |= BITS(20, 13);
	return mbz;
}

static u64 leaf_frame(const struct npt_mode *mode, unsigned int level, u64 entry)
{
	u64 frame = entry & PTE_ADDR & ~(BIT(level_shift(mode, level)) - 1);

	if (mode->levels == 2 && level == 2)
		frame |= (entry & BITS(20, 13)) << (32 - 13);
	return frame;
}

/* ---- nested tables ---- */

struct npt_mode npt_mode_of(u64 cr4, u64 efer, unsigned int phys_bits, bool pdpe1gb)
{
	struct npt_mode mode = {
		.phys_bits = (u8)phys_bits,
		.nxe = efer & EFER_NXE,
		.smep = cr4 & CR4_SMEP,
		.pse = cr4 & CR4_PSE,
		.pdpe1gb = pdpe1gb,
	};

	if (efer & EFER_LMA)
		mode.levels = cr4 & CR4_LA57 ? 5 : 4;
	else
		mode.levels = cr4 & CR4_PAE ? 3 : 2;
	return mode;
}

/* Sets bits in an entry. False if the entry is no longer what it was: then it must be looked at
 * again. */
static bool update_entry(const struct guest_memory *mem, const struct npt_mode *mode, u64 gpa,
			 u64 entry, u64 set)
{
	if ((entry & set) == set)
		return true;
	if (mode->levels == 2) {
		u32 expected = (u32)entry;

		return __atomic_compare_exchange_n((u32 *)guest_at(mem, gpa), &expected,
						   (u32)(entry | set), false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	}
	return __atomic_compare_exchange_n((u64 *)guest_at(mem, gpa), &entry, entry | set, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static int fault(struct nested_translation *out, u64 error_code)
{
	out->error_code = (u32)error_code;
	return -E_FAULT;
}

int walk_nested(const struct guest_memory *mem, const struct npt_mode *mode, u64 ncr3, u64 gpa,
		u32 access, struct nested_translation *out)
{
	u64 table = root_table(mode, ncr3), code = PFERR_U | (access & PFERR_W);
	bool write = true, user = true, exec = true;
	unsigned int level = mode->levels;
	unsigned int top = mode->levels <= 3 ? 32 : level_shift(mode, level) + 9;

	*out = (struct nested_translation){0};
	if (mode->nxe || mode->smep)
		code |= access & PFERR_ID;
	if (gpa >> top)
		return fault(out, code);

	for (;;) {
		u64 at = entry_gpa(mode, level, table, gpa);
		u64 entry = read_entry(mem, mode, at);
		bool leaf = is_leaf(mode, level, entry);
		bool w = write, u = user, x = exec;
		u64 set = PTE_A;

		out->gpa = at;
		if (!(entry & PTE_P))
			return fault(out, code);
		if (entry & reserved_bits(mode, level, leaf))
			return fault(out, code | PFERR_P | PFERR_RSV);
		if (is_pdpte(mode, level)) {
			set = 0;
		} else {
			w = write && (entry & PTE_W);
			u = user && (entry & PTE_U);
			x = exec && !(entry & PTE_NX);
		}
		if (leaf) {
			if (!u || (!w && (access & PFERR_W)) || (!x && (access & PFERR_ID)))
				return fault(out, code | PFERR_P);
			if (access & PFERR_W)
				set |= PTE_D;
		}
		/* Tables were read, so A is set in them even if the walk ends in a fault later
		 * (APM2 §5.4.2). */
		if (!(access & WALK_KEEP_AD)) {
			if (!update_entry(mem, mode, at, entry, set))
				continue;
			entry |= set;
		}
		write = w;
		user = u;
		exec = x;
		if (leaf) {
			out->page_bytes = BIT(level_shift(mode, level));
			out->gpa = leaf_frame(mode, level, entry) | (gpa & (out->page_bytes - 1));
			out->write = write;
			out->exec = exec;
			out->dirty = entry & PTE_D;
			out->cache = (u8)((entry & (PTE_PWT | PTE_PCD)) >> 3);
			if (entry & (level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE))
				out->cache |= 4;
			return 0;
		}
		table = entry & PTE_ADDR;
		level--;
	}
}

/* ---- the guest's own tables ---- */

/* Whose tables: L1's (npt is NULL) or L2's under L1's nested tables. */
struct guest_space {
	const struct guest_memory *mem;
	const struct npt_mode *npt;
	u64 ncr3;
};

/* A physical address of the guest -> L1-physical. *page_bytes: up to where the next byte is in the
 * same page. */
static int to_l1(const struct guest_space *space, u64 gpa, u64 *l1_gpa, u64 *page_bytes)
{
	struct nested_translation t;
	int error;

	*l1_gpa = gpa;
	*page_bytes = ~0ull;
	if (!space->npt)
		return 0;
	/* as a read: what the CPU has done already needs no permission, and sets nothing */
	error = walk_nested(space->mem, space->npt, space->ncr3, gpa, WALK_KEEP_AD, &t);
	*l1_gpa = t.gpa;
	*page_bytes = t.page_bytes;
	return error;
}

static bool is_canonical(u64 gva, unsigned int bits)
{
	u64 high = gva >> (bits - 1);

	return high == 0 || high == ~0ull >> (bits - 1);
}

static int walk_tables(const struct guest_space *space, const struct walk_state *st, u64 gva,
		       u64 *gpa, u64 *page_bytes)
{
	unsigned int phys_bits = 63u - (unsigned int)__builtin_clzll(space->mem->limit);
	/* 1-Gbyte pages: if this CPU had none, it could not have walked this table */
	struct npt_mode mode = npt_mode_of(st->cr4, st->efer, phys_bits, true);
	unsigned int level = mode.levels;
	u64 table = root_table(&mode, st->cr3), frame = 0, bytes = PAGE_SIZE, nested_bytes;
	int error;

	if (!(st->efer & EFER_LMA))
		gva = (u32)gva;
	else if (!is_canonical(gva, level_shift(&mode, level) + 9))
		return -E_FAULT;

	if (!(st->cr0 & CR0_PG)) {
		frame = gva & ~(PAGE_SIZE - 1);
		level = 0;
	}
	for (; level; level--) {
		u64 at, entry;
		bool leaf;

		error = to_l1(space, entry_gpa(&mode, level, table, gva), &at, &nested_bytes);
		if (error)
			return error;
		entry = read_entry(space->mem, &mode, at);
		leaf = is_leaf(&mode, level, entry);
		if (is_pdpte(&mode, level))
			entry &= ~PTE_A; /* QEMU's TCG sets it there, too */
		if (!(entry & PTE_P) || (entry & reserved_bits(&mode, level, leaf)))
			return -E_FAULT;
		if (leaf) {
			bytes = BIT(level_shift(&mode, level));
			frame = leaf_frame(&mode, level, entry);
			break;
		}
		table = entry & PTE_ADDR;
	}
	error = to_l1(space, frame | (gva & (bytes - 1)), gpa, &nested_bytes);
	if (!error && page_bytes)
		*page_bytes = bytes < nested_bytes ? bytes : nested_bytes;
	return error;
}

int walk_guest(const struct guest_memory *mem, const struct walk_state *st, u64 gva, u64 *gpa,
	       u64 *page_bytes)
{
	return walk_tables(&(struct guest_space){mem, NULL, 0}, st, gva, gpa, page_bytes);
}

int walk_guest2(const struct guest_memory *mem, const struct walk_state *st,
		const struct npt_mode *mode, u64 ncr3, u64 gva, u64 *gpa, u64 *page_bytes)
{
	return walk_tables(&(struct guest_space){mem, mode, ncr3}, st, gva, gpa, page_bytes);
}

unsigned int walk_fetch(const struct guest_memory *mem, const struct walk_state *st,
			const struct npt_mode *mode, u64 ncr3, u64 gva, u8 *buf, unsigned int n)
{
	const struct guest_space space = {mem, mode, ncr3};
	unsigned int done = 0;

	while (done < n) {
		u64 gpa, in_page = PAGE_SIZE - (gva & (PAGE_SIZE - 1));

		if (walk_tables(&space, st, gva, &gpa, NULL))
			break;
		for (; done < n && in_page; in_page--, gva++, gpa++) {
			if (gpa >= mem->limit)
				return done;
			buf[done++] = __atomic_load_n((u8 *)guest_at(mem, gpa), __ATOMIC_RELAXED);
		}
	}
	return done;
}

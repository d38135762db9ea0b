/* SPDX-License-Identifier: MIT */
/* Page-table walks in software: L1's and L2's own tables (for instruction fetch) and L1's nested
 * tables. APM2 rev. 3.44 §5.2-5.5, §15.25. */
#ifndef TALLY_CORE_WALK_H
#define TALLY_CORE_WALK_H

#include "types.h"
#include "x86/cr.h"

/* L1's physical memory as the hypervisor sees it: address gpa is at base + gpa, for gpa < limit =
 * 2^phys_bits; beyond that there is nothing, and a read gives all ones. The hypervisor's own pages
 * are pages of FFh in it. base may be NULL: hence no pointer arithmetic, only guest_at(). */
struct guest_memory {
	u8 *base;
	u64 limit;
};

static ALWAYS_INLINE void *guest_at(const struct guest_memory *mem, u64 gpa)
{
	return (void *)((uintptr_t)mem->base + (uintptr_t)gpa);
}

/* Naturally aligned reads; all ones beyond the limit. */
static ALWAYS_INLINE u64 guest_read64(const struct guest_memory *mem, u64 gpa)
{
	return likely(gpa < mem->limit)
		       ? __atomic_load_n((u64 *)guest_at(mem, gpa), __ATOMIC_RELAXED)
		       : ~0ull;
}

static ALWAYS_INLINE u32 guest_read32(const struct guest_memory *mem, u64 gpa)
{
	return likely(gpa < mem->limit)
		       ? __atomic_load_n((u32 *)guest_at(mem, gpa), __ATOMIC_RELAXED)
		       : ~0u;
}

/* ---- the guest's own tables ---- */

struct walk_state {
	u64 cr0, cr3, cr4, efer;
};

/* Translates a linear address of L1 by L1's tables, in any paging mode. Checks present and reserved
 * bits but no permissions, and sets no A/D bits: it follows an access that the CPU has just made.
 * *page_bytes (may be NULL): size of the page. 0, or -E_FAULT if there is no translation. */
int walk_guest(const struct guest_memory *mem, const struct walk_state *st, u64 gva, u64 *gpa,
	       u64 *page_bytes);

/* ---- L1's nested tables ---- */

/* Format of the nested tables: L1's own paging mode at its VMRUN (APM2 §15.25.3). */
struct npt_mode {
	u8 levels;    /* 2 (legacy 32-bit), 3 (PAE), 4 or 5 */
	u8 phys_bits; /* physical address size that L1 sees */
	bool nxe;     /* L1's EFER.NXE */
	bool smep;    /* L1's CR4.SMEP: with this or NXE a fault tells instruction fetches by ID */
	bool pse;     /* L1's CR4.PSE: 4-Mbyte pages with levels = 2 */
	bool pdpe1gb; /* CPUID: 1-Gbyte pages with levels >= 4 */
};

/* The mode from L1's registers at VMRUN. */
struct npt_mode npt_mode_of(u64 cr4, u64 efer, unsigned int phys_bits, bool pdpe1gb);

static ALWAYS_INLINE bool npt_mode_equal(const struct npt_mode *a, const struct npt_mode *b)
{
	return a->levels == b->levels && a->nxe == b->nxe && a->smep == b->smep &&
	       a->pse == b->pse && a->phys_bits == b->phys_bits && a->pdpe1gb == b->pdpe1gb;
}

/* In the access argument, besides PFERR_W and PFERR_ID: set no A/D bits. */
#define WALK_KEEP_AD BIT(31)

struct nested_translation {
	u64 gpa; /* L1-physical address of the byte asked for; of the last entry read after -E_FAULT */
	u64 page_bytes; /* 4K, 2M, 4M or 1G */
	bool write;	/* W at all levels */
	bool exec;	/* NX at none */
	bool dirty;	/* the leaf's D bit, as it is after the walk */
	u8 cache;	/* PAT << 2 | PCD << 1 | PWT of the leaf */
	u32 error_code; /* after -E_FAULT: EXITINFO1[31:0] of the NPF to give to L1 */
};

/* Translates an L2-physical address by L1's nested tables, as a user access (APM2 §15.25.5);
 * access: PFERR_W for a write, PFERR_ID for an instruction fetch, else a read. Sets A on the way
 * and D on the leaf of a write, each by compare-exchange. 0, or -E_FAULT with out->error_code (bits
 * 32 and 33 are the caller's). */
int walk_nested(const struct guest_memory *mem, const struct npt_mode *mode, u64 ncr3, u64 gpa,
		u32 access, struct nested_translation *out);

/* walk_guest() for L2 under nested paging: its tables and the result go through L1's nested tables.
 * *gpa is L1-physical. Sets no A/D bits in either. */
int walk_guest2(const struct guest_memory *mem, const struct walk_state *st,
		const struct npt_mode *mode, u64 ncr3, u64 gva, u64 *gpa, u64 *page_bytes);

/* Copies up to n instruction bytes from linear address gva (which wraps at 4 GBytes outside long
 * mode) and returns how many could be read. mode NULL: by walk_guest(); otherwise by walk_guest2(). */
unsigned int walk_fetch(const struct guest_memory *mem, const struct walk_state *st,
			const struct npt_mode *mode, u64 ncr3, u64 gva, u8 *buf, unsigned int n);

#endif

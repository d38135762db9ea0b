/* SPDX-License-Identifier: MIT */
/* Shadow of L1's nested page tables: the tables that the hardware uses while L2 runs. They are a
 * software TLB: filled by nested page faults, and allowed to be stale until L1 flushes (APM2
 * §15.16, §15.25). Nothing in L1's memory is write-protected. One struct shadow belongs to one CPU:
 * no locking. */
#ifndef TALLY_CORE_SHADOW_H
#define TALLY_CORE_SHADOW_H

#include "types.h"
#include "x86/cr.h"
#include "hv/core/holes.h"
#include "hv/core/walk.h"

#define SHADOW_SPACES 8
/* One root per space, and what one translation needs below its root. */
#define SHADOW_MIN_PAGES (SHADOW_SPACES + 3)

/* Pages for tables, given by the caller: count pages at va, which the hardware sees at hpa. */
struct shadow_pool {
	u8 *va;
	u64 hpa;
	u32 *links; /* the caller's; count numbers: what page comes next in the list a page is on */
	u32 count;
	u32 used;  /* pages that belong to a space now */
	u32 fresh; /* pages from here on were never used */
	u32 free;  /* first page of the list of free ones */
};

/* The translations of one (ASID, nested CR3, mode) of L1. */
struct shadow_space {
	u64 root_hpa; /* for vmcb02's nested_cr3; constant for as long as the space is this one's */
	/* Another number, never seen before, whenever a translation went away or became another. */
	u64 generation;
	u64 ncr3;
	u64 lru;
	u32 vasid; /* L1's ASID */
	struct npt_mode mode;
	bool in_use;
	/* The hardware may still hold translations that the shadow no longer has: flush the space's
	 * real ASID at the next VMRUN with it, and then clear this. */
	bool tlb_flush;
	u16 root_entries; /* entries of the root from here on are 0 */
	u32 root, last;	  /* the space's pages: a list that starts with the root */
	u32 pages;
};

struct shadow {
	struct shadow_pool pool;
	const struct guest_memory *mem;
	const struct holes *holes; /* L0's own memory and the like: L2 never gets it */
	struct range hole;	   /* all of them */
	u64 trapped;		   /* a page whose writes L2's CPU must not do itself; or ~0 */
	u64 hole_page_hpa; /* a page of FFh that stands for each page of the hole, read-only */
	u64 clock, generations;
	u64 flushes, evictions, fills; /* statistics */
	struct shadow_space space[SHADOW_SPACES];
};

/* va and hpa are page-aligned; links has count entries. -E_RANGE if count < SHADOW_MIN_PAGES. */
int shadow_init(struct shadow *sh, const struct guest_memory *mem, u8 *va, u64 hpa, u32 *links,
		u32 count, const struct holes *holes, u64 hole_page_hpa);

/* The space for (vasid, ncr3, mode): the one that is there, or a new empty one, for which the least
 * recently used one may have to go. Never fails. Other spaces' pointers stay valid memory but may
 * have another meaning afterwards: ask again at each VMRUN. */
struct shadow_space *shadow_get(struct shadow *sh, u32 vasid, u64 ncr3,
				const struct npt_mode *mode);

/* Where the space maps gpa to at present; false if nowhere. */
bool shadow_translate(const struct shadow *sh, const struct shadow_space *space, u64 gpa, u64 *hpa);

/* Drops all translations of a space, of all spaces of one of L1's ASIDs, of all spaces. */
void shadow_flush(struct shadow *sh, struct shadow_space *space);
void shadow_flush_vasid(struct shadow *sh, u32 vasid);
void shadow_flush_all(struct shadow *sh);

/* Makes room: drops every other space, and all translations of this one. */
void shadow_reclaim(struct shadow *sh, struct shadow_space *space);

/* Number of the space, 0..SHADOW_SPACES-1: for a real ASID per space. */
static inline unsigned int shadow_space_idx(const struct shadow *sh,
					    const struct shadow_space *space)
{
	return (unsigned int)(space - sh->space);
}

/* Installs one leaf for the page of page_bytes (4K, 2M, 1G) around gpa; flags: PTE_W, PTE_NX, and
 * PTE_PWT, PTE_PCD, PTE_PAT_4K for the memory type (in the 4K format for all sizes). A larger leaf
 * in the way is replaced by a table; where a table is in the way of a larger page, only the 4K or
 * 2M piece around gpa is mapped. *leaf (may be NULL): the entry. 0, -E_NOMEM if the pool is empty
 * (shadow_reclaim() and try again), -E_RANGE for gpa >= 2^48, which a 4-level root cannot map. */
int shadow_map(struct shadow *sh, struct shadow_space *space, u64 gpa, u64 hpa, u64 page_bytes,
	       u64 flags, u64 **leaf);

enum shadow_result {
	SHADOW_MAPPED,	   /* L2 can go on */
	SHADOW_REFLECT,	   /* L1's tables do not allow it: an NPF for L1 */
	SHADOW_HOLE_WRITE, /* a write to the hypervisor's memory, which L1's tables allow */
	SHADOW_TRAP_WRITE, /* the same to the page `trapped` */
};

struct shadow_fault {
	u32 error_code; /* SHADOW_REFLECT: EXITINFO1[31:0]; 33:32 are the hardware's */
	u64 *leaf; /* otherwise: the entry for the page, in a 4K table for SHADOW_HOLE_WRITE and TRAP_WRITE */
	u64 l1_gpa;	/* SHADOW_REFLECT: of L1's entry that said no; otherwise of the access */
	u64 page_bytes; /* otherwise: size of the leaf */
};

/* Handles a nested page fault of L2 at L2-physical gpa; error_code: EXITINFO1 (W and ID are looked
 * at). Makes room in the pool itself when there is none: then other spaces are gone. */
enum shadow_result shadow_fault(struct shadow *sh, struct shadow_space *space, u64 gpa,
				u64 error_code, struct shadow_fault *out);

#endif

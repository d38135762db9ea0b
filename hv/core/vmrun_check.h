/* SPDX-License-Identifier: MIT */
/* Consistency checks of VMRUN on our copy of vmcb12: what hardware answers with VMEXIT_INVALID.
 * APM2 rev. 3.44 §15.5.1. */
#ifndef TALLY_CORE_VMRUN_CHECK_H
#define TALLY_CORE_VMRUN_CHECK_H

#include "types.h"
#include "x86/cr.h"
#include "x86/svm.h"
#include "hv/core/walk.h"

/* In the order of report: with several rules broken the first in this list is named. */
#define VMRUN_RULES(X)                                                                             \
	X(VMRUN_INTERCEPT, "the VMRUN intercept is clear (15.5.1)")                                \
	X(ASID, "the guest ASID is 0 (15.5.1)")                                                    \
	X(EFER_NO_SVME, "EFER.SVME is 0 (15.5.1)")                                                 \
	X(EFER_LONG_MODE, "EFER.LME or LMA is set and the CPU has no long mode (15.5.1)")          \
	X(EFER_MBZ, "a reserved bit of EFER is set (15.5.1)")                                      \
	X(CR0_NW_NO_CD, "CR0.NW is set and CR0.CD is clear (15.5.1)")                              \
	X(CR0_HIGH, "CR0[63:32] is not 0 (15.5.1)")                                                \
	X(CR3_MBZ, "CR3 is beyond the physical address size (15.5.1)")                             \
	X(CR4_MBZ, "a reserved bit of CR4 is set (15.5.1)")                                        \
	X(DR6_HIGH, "DR6[63:32] is not 0 (15.5.1)")                                                \
	X(DR7_HIGH, "DR7[63:32] is not 0 (15.5.1)")                                                \
	X(LME_NO_PAE, "EFER.LME and CR0.PG are set and CR4.PAE is clear (15.5.1)")                 \
	X(LME_NO_PE, "EFER.LME and CR0.PG are set and CR0.PE is clear (15.5.1)")                   \
	X(CS_L_D, "CS.L and CS.D are both set in long mode (15.5.1)")                              \
	X(IOPM, "the I/O permission map ends beyond the physical address size (15.5.1)")           \
	X(MSRPM, "the MSR permission map ends beyond the physical address size (15.5.1)")          \
	X(CET_WP, "CR4.CET is set and CR0.WP is clear (15.5.1)")                                   \
	X(S_CET_MBZ, "a reserved bit of S_CET is set (15.5.1)")                                    \
	X(EVENT_BAD_TYPE, "EVENTINJ has a reserved type (15.20)")                                  \
	X(EVENT_BAD_VECTOR, "EVENTINJ is an exception with a vector that is none (15.20)")         \
	X(EVENT_BAD_MODE, "EVENTINJ is #OF or #BR in 64-bit mode (15.20)")                         \
	X(V_NMI, "V_NMI_ENABLE is set and NMI is not intercepted (15.21.10)")                      \
	X(NP_HOST_PAGING, "NP_ENABLE is set and the host's CR0.PG is clear (15.25.3)")             \
	X(NCR3_MBZ, "nCR3 is beyond the physical address size (15.25.4)")                          \
	X(G_PAT, "G_PAT has a reserved memory type (15.25.4)")                                     \
	X(PDPTE, "a PAE PDPTE has a reserved bit set (15.5.1)")

enum vmrun_rule {
	VMRUN_OK = 0,
#define X(name, text) VMRUN_RULE_##name,
	VMRUN_RULES(X)
#undef X
		VMRUN_RULE_COUNT,
};

/* The vectors that EVENTINJ type 3 may have: all that are exceptions on every SVM CPU. Add
 * BIT(VEC_CP) if shadow stacks are exposed; #VC exists for SEV-ES guests only. */
#define VMRUN_EXCEPTIONS                                                                           \
	((u32)(BIT(VEC_DE) | BIT(VEC_DB) | BITS(VEC_DF, VEC_BP) | BITS(VEC_PF, VEC_TS) |           \
	       BITS(VEC_XF, VEC_MF) | BIT(VEC_HV) | BIT(VEC_SX)))

struct vmrun_limits {
	u64 phys_end;	/* 2^phys_bits of the machine that L1 sees */
	u64 map_end;	/* the same, but 2^47 at most: what L0 itself can read */
	u64 efer_mbz;	/* what L1's CPUID does not allow; without long mode also LME and LMA */
	u64 cr4_mbz;	/* CR4 bits likewise */
	u64 s_cet_mbz;	/* 0 where CET is not exposed: the field is not loaded then */
	u32 exceptions; /* VMRUN_EXCEPTIONS and what CPUID adds */
	bool long_mode; /* only for telling EFER_LONG_MODE from EFER_MBZ */
	bool vnmi;	/* virtual NMI is exposed */
	bool l1_paging; /* L1's own CR0.PG at this VMRUN */
};

#define VMRUN_PAT_BYTES 0x0101010101010101ull

/* A memory type is 0, 1 or 4..7; bits 7:3 of each byte are reserved (APM2 §7.8.1). */
static ALWAYS_INLINE u64 vmrun_pat_bad(u64 pat)
{
	return (pat & (0xf8 * VMRUN_PAT_BYTES)) |
	       (pat & (0x02 * VMRUN_PAT_BYTES) & ~((pat & (0x04 * VMRUN_PAT_BYTES)) >> 1));
}

/* A map of so many bytes, bits 11:0 of its address ignored, that does not end below the physical
 * address size. */
static ALWAYS_INLINE bool vmrun_map_beyond(u64 base, u64 map_bytes, const struct vmrun_limits *lim)
{
	return base >= lim->map_end - (map_bytes - PAGE_SIZE);
}

/* Every rule by itself, in the order of VMRUN_RULES. */
enum vmrun_rule vmrun_find_rule(const struct vmcb_control *c, const struct vmcb_save *s,
				const struct vmrun_limits *lim);

/* VMRUN_OK or the rule that is broken. Does not look at memory: see vmrun_check_pdptes().
 * On the path of each nested VMRUN, hence inline, and few branches: everything that must be zero is collected
 * and tested once. What is not the ordinary case (an event, no long mode, no nested paging) goes to
 * vmrun_find_rule(), which decides. */
static ALWAYS_INLINE enum vmrun_rule vmrun_check(const struct vmcb_control *c,
						 const struct vmcb_save *s,
						 const struct vmrun_limits *lim)
{
	const u64 phys_mbz = ~(lim->phys_end - 1);
	u64 bad;

	bad = ((s->cr0 | s->dr6 | s->dr7) >> 32) | ((s->cr3 | c->nested_cr3) & phys_mbz) |
	      (s->efer & lim->efer_mbz) | (~s->efer & EFER_SVME) | (s->cr4 & lim->cr4_mbz) |
	      (s->s_cet & lim->s_cet_mbz) | (c->event_inj & EVENT_V) | vmrun_pat_bad(s->g_pat) |
	      (c->int_ctl & V_NMI_ENABLE) | (s->cr0 & CR0_NW);
	if (likely(!bad && c->asid && vmcb_intercepts(c, INTERCEPT(VMRUN)) &&
		   !vmrun_map_beyond(c->iopm_base_pa, IOPM_BYTES, lim) &&
		   !vmrun_map_beyond(c->msrpm_base_pa, MSRPM_BYTES, lim) && lim->l1_paging &&
		   !(s->cr4 & CR4_CET) &&
		   /* 64-bit or 32-bit code under long mode's paging */
		   (s->cr0 & CR0_PE) && (s->cr4 & CR4_PAE) &&
		   (s->cs.attrib & (SEG_ATTR_L | SEG_ATTR_DB)) != (SEG_ATTR_L | SEG_ATTR_DB)))
		return VMRUN_OK;
	return vmrun_find_rule(c, s, lim);
}

/* Whether vmrun_check_pdptes() has anything to look at: legacy PAE paging without nested paging. */
static inline bool vmrun_uses_pdptes(const struct vmcb_control *c, const struct vmcb_save *s)
{
	return !(c->np_ctl & NP_ENABLE) && (s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) &&
	       !(s->efer & EFER_LME);
}

/* The four PDPTEs at the guest's CR3: VMRUN_OK or VMRUN_RULE_PDPTE. Call it after vmrun_check()
 * passed. */
enum vmrun_rule vmrun_check_pdptes(const struct guest_memory *mem, const struct vmcb_control *c,
				   const struct vmcb_save *s);

/* Whether all eight memory types of a PAT exist (APM2 §7.8.1). */
bool vmrun_pat_valid(u64 pat);

/* "CR0_NW: CR0.NW is set and ... (15.5.1)"; "OK" for VMRUN_OK. */
const char *vmrun_rule_name(enum vmrun_rule rule);

#endif

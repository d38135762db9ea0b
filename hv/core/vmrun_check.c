/* SPDX-License-Identifier: MIT */
#include "hv/core/vmrun_check.h"

bool vmrun_pat_valid(u64 pat)
{
	return !vmrun_pat_bad(pat);
}

static enum vmrun_rule event_rule(u64 event, const struct vmcb_save *s,
				  const struct vmrun_limits *lim)
{
	unsigned int vector = event & EVENT_VECTOR;

	if (!(event & EVENT_V))
		return VMRUN_OK;
	switch (event & EVENT_TYPE) {
	case EVENT_TYPE_INTR:
	case EVENT_TYPE_NMI: /* the vector is ignored */
	case EVENT_TYPE_SWINT:
		return VMRUN_OK;
	case EVENT_TYPE_EXCEPTION:
		break;
	default:
		return VMRUN_RULE_EVENT_BAD_TYPE;
	}
	if (vector >= 32 || !((lim->exceptions >> vector) & 1))
		return VMRUN_RULE_EVENT_BAD_VECTOR;
	/* INTO and BOUND do not exist in 64-bit mode (APM3 tables 3-1, B-2): impossible for the
	 * guest's mode, APM2 §15.20. */
	if ((vector == VEC_OF || vector == VEC_BR) && (s->efer & EFER_LME) && (s->cr0 & CR0_PG) &&
	    (s->cs.attrib & SEG_ATTR_L))
		return VMRUN_RULE_EVENT_BAD_MODE;
	return VMRUN_OK;
}

enum vmrun_rule vmrun_find_rule(const struct vmcb_control *c, const struct vmcb_save *s,
				const struct vmrun_limits *lim)
{
	const u64 phys_mbz = ~(lim->phys_end - 1);
	const bool long_paging = (s->efer & EFER_LME) && (s->cr0 & CR0_PG);

	if (!vmcb_intercepts(c, INTERCEPT(VMRUN)))
		return VMRUN_RULE_VMRUN_INTERCEPT;
	if (!c->asid)
		return VMRUN_RULE_ASID;
	if (!(s->efer & EFER_SVME))
		return VMRUN_RULE_EFER_NO_SVME;
	if (!lim->long_mode && (s->efer & (EFER_LME | EFER_LMA)))
		return VMRUN_RULE_EFER_LONG_MODE;
	if (s->efer & lim->efer_mbz)
		return VMRUN_RULE_EFER_MBZ;
	if ((s->cr0 & (CR0_CD | CR0_NW)) == CR0_NW)
		return VMRUN_RULE_CR0_NW_NO_CD;
	if (s->cr0 >> 32)
		return VMRUN_RULE_CR0_HIGH;
	if (s->cr3 & phys_mbz)
		return VMRUN_RULE_CR3_MBZ;
	if (s->cr4 & lim->cr4_mbz)
		return VMRUN_RULE_CR4_MBZ;
	if (s->dr6 >> 32)
		return VMRUN_RULE_DR6_HIGH;
	if (s->dr7 >> 32)
		return VMRUN_RULE_DR7_HIGH;
	if (long_paging && !(s->cr4 & CR4_PAE))
		return VMRUN_RULE_LME_NO_PAE;
	if (long_paging && !(s->cr0 & CR0_PE))
		return VMRUN_RULE_LME_NO_PE;
	if (long_paging && (s->cs.attrib & SEG_ATTR_L) && (s->cs.attrib & SEG_ATTR_DB))
		return VMRUN_RULE_CS_L_D;
	if (vmrun_map_beyond(c->iopm_base_pa, IOPM_BYTES, lim))
		return VMRUN_RULE_IOPM;
	if (vmrun_map_beyond(c->msrpm_base_pa, MSRPM_BYTES, lim))
		return VMRUN_RULE_MSRPM;
	if ((s->cr4 & CR4_CET) && !(s->cr0 & CR0_WP))
		return VMRUN_RULE_CET_WP;
	if (s->s_cet & lim->s_cet_mbz)
		return VMRUN_RULE_S_CET_MBZ;
	if (event_rule(c->event_inj, s, lim))
		return event_rule(c->event_inj, s, lim);
	if (lim->vnmi && (c->int_ctl & V_NMI_ENABLE) && !vmcb_intercepts(c, INTERCEPT(NMI)))
		return VMRUN_RULE_V_NMI;
	if (c->np_ctl & NP_ENABLE) {
		if (!lim->l1_paging)
			return VMRUN_RULE_NP_HOST_PAGING;
		if (c->nested_cr3 & phys_mbz)
			return VMRUN_RULE_NCR3_MBZ;
		if (vmrun_pat_bad(s->g_pat))
			return VMRUN_RULE_G_PAT;
	}
	return VMRUN_OK;
}

enum vmrun_rule vmrun_check_pdptes(const struct guest_memory *mem, const struct vmcb_control *c,
				   const struct vmcb_save *s)
{
	/* Bits 2:1, 8:5 and the address bits that do not exist (APM2 figure 5-20); but for A, which QEMU's TCG sets
	 * there while L2 runs, and so would refuse the next VMRUN. */
	const u64 mbz = BITS(2, 1) | BITS(8, 6) | ~(mem->limit - 1);
	/* The table is 32-byte aligned; bits 31:5 of CR3 locate it (APM2 §5.2.2). */
	const u64 table = s->cr3 & BITS(31, 5);

	if (!vmrun_uses_pdptes(c, s))
		return VMRUN_OK;
	for (u64 i = 0; i < 4; i++) {
		u64 pdpte = guest_read64(mem, table + 8 * i);

		if ((pdpte & PTE_P) && (pdpte & mbz))
			return VMRUN_RULE_PDPTE;
	}
	return VMRUN_OK;
}

const char *vmrun_rule_name(enum vmrun_rule rule)
{
	switch (rule) {
#define X(name, text)                                                                              \
	case VMRUN_RULE_##name:                                                                    \
		return #name ": " text;
		VMRUN_RULES(X)
#undef X
	case VMRUN_OK:
		return "OK";
	case VMRUN_RULE_COUNT:
		break;
	}
	return "?";
}

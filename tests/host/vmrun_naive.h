/* SPDX-License-Identifier: MIT */
/* VMRUN's consistency checks once more: every rule by itself, whatever the others say. And VMCBs to try them on. */
#ifndef TALLY_VMRUN_NAIVE_H
#define TALLY_VMRUN_NAIVE_H

#include <string.h>

#include "hv/core/vmrun_check.h"
#include "x86/msr.h"
#include "test.h"

#define NAIVE_PHYS_BITS 40
#define NAIVE_PHYS_END (1ull << NAIVE_PHYS_BITS)
#define NAIVE_MAP_END (NAIVE_PHYS_END / 2)

static const struct vmrun_limits naive_limits = {
	.phys_end = NAIVE_PHYS_END,
	.map_end = NAIVE_MAP_END,
	.efer_mbz = ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | EFER_FFXSR),
	.cr4_mbz = ~(BITS(10, 0) | CR4_FSGSBASE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_CET),
	.s_cet_mbz = ~3ull,
	.exceptions = VMRUN_EXCEPTIONS,
	.long_mode = true,
	.l1_paging = true,
	.vnmi = true,
};

/* What breaks no rule. */
static inline void naive_valid_vmcb(struct vmcb *v)
{
	memset(v, 0, sizeof(*v));
	vmcb_set_intercept(&v->control, INTERCEPT(VMRUN));
	v->control.asid = 1;
	v->control.np_ctl = NP_ENABLE;
	v->control.nested_cr3 = 0x5000;
	v->control.iopm_base_pa = 0x10000;
	v->control.msrpm_base_pa = 0x20000;
	v->save.efer = EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE;
	v->save.cr0 = CR0_PE | CR0_PG | CR0_WP;
	v->save.cr4 = CR4_PAE;
	v->save.cr3 = 0x1000;
	v->save.dr6 = DR6_RESET;
	v->save.dr7 = DR7_RESET;
	v->save.cs.attrib = SEG_ATTR_P | SEG_ATTR_L;
	v->save.g_pat = PAT_RESET;
}

/* All rules that are broken, one bit each. */
static inline u64 naive_broken_rules(const struct vmcb *v, const struct vmrun_limits *lim)
{
	const struct vmcb_control *c = &v->control;
	const struct vmcb_save *s = &v->save;
	bool lme = s->efer >> 8 & 1, pg = s->cr0 >> 31 & 1, pe = s->cr0 & 1, pae = s->cr4 >> 5 & 1;
	bool cs_l = s->cs.attrib >> 9 & 1, cs_d = s->cs.attrib >> 10 & 1;
	unsigned int type = c->event_inj >> 8 & 7, vector = c->event_inj & 0xff;
	u64 broken = 0;

#define RULE(name, cond) broken |= (u64) !!(cond) << VMRUN_RULE_##name
	RULE(VMRUN_INTERCEPT, !(c->intercepts[4] & 1));
	RULE(ASID, c->asid == 0);
	RULE(EFER_NO_SVME, !(s->efer >> 12 & 1));
	RULE(EFER_LONG_MODE, !lim->long_mode && (lme || (s->efer >> 10 & 1)));
	RULE(EFER_MBZ, s->efer & lim->efer_mbz);
	RULE(CR0_NW_NO_CD, (s->cr0 >> 29 & 1) && !(s->cr0 >> 30 & 1));
	RULE(CR0_HIGH, s->cr0 > 0xffffffff);
	RULE(CR3_MBZ, s->cr3 >= lim->phys_end);
	RULE(CR4_MBZ, s->cr4 & lim->cr4_mbz);
	RULE(DR6_HIGH, s->dr6 > 0xffffffff);
	RULE(DR7_HIGH, s->dr7 > 0xffffffff);
	RULE(LME_NO_PAE, lme && pg && !pae);
	RULE(LME_NO_PE, lme && pg && !pe);
	RULE(CS_L_D, lme && pg && pae && cs_l && cs_d);
	RULE(IOPM, (c->iopm_base_pa >> 12) + 2 >= lim->map_end >> 12);
	RULE(MSRPM, (c->msrpm_base_pa >> 12) + 1 >= lim->map_end >> 12);
	RULE(CET_WP, (s->cr4 >> 23 & 1) && !(s->cr0 >> 16 & 1));
	RULE(S_CET_MBZ, s->s_cet & lim->s_cet_mbz);
	if (c->event_inj >> 31 & 1) {
		bool known = vector < 32 && (lim->exceptions >> vector & 1);

		RULE(EVENT_BAD_TYPE, type == 1 || type >= 5);
		RULE(EVENT_BAD_VECTOR, type == 3 && !known);
		RULE(EVENT_BAD_MODE,
		     type == 3 && known && (vector == 4 || vector == 5) && lme && pg && cs_l);
	}
	RULE(V_NMI, lim->vnmi && (c->int_ctl >> 26 & 1) && !(c->intercepts[3] >> 1 & 1));
	if (c->np_ctl & 1) {
		RULE(NP_HOST_PAGING, !lim->l1_paging);
		RULE(NCR3_MBZ, c->nested_cr3 >= lim->phys_end);
		for (unsigned int i = 0; i < 64; i += 8) {
			unsigned int pat = s->g_pat >> i & 0xff;

			RULE(G_PAT, pat > 7 || pat == 2 || pat == 3);
		}
	}
#undef RULE
	return broken;
}

/* Changes one thing, which may break a rule or mend one. */
static inline void naive_mutate_vmcb(struct vmcb *v)
{
	u64 bit = BIT(test_below(64));

	switch (test_below(25)) {
	case 0:
		v->control.intercepts[4] ^= 1;
		break;
	case 1:
		v->control.asid = (u32)test_below(2);
		break;
	case 2:
		v->save.efer ^= bit;
		break;
	case 3:
	case 4:
		v->save.cr0 ^= bit;
		break;
	case 5:
		v->save.cr0 ^= CR0_PG;
		break;
	case 6:
		v->save.cr0 ^= CR0_PE;
		break;
	case 7:
		v->save.cr3 ^= bit;
		break;
	case 8:
		v->save.cr4 ^= bit;
		break;
	case 9:
		v->save.dr6 ^= bit;
		break;
	case 10:
		v->save.dr7 ^= bit;
		break;
	case 11:
	case 12:
		v->save.cs.attrib ^= (u16)(test_below(2) ? SEG_ATTR_DB : SEG_ATTR_L);
		break;
	case 13:
		v->control.iopm_base_pa = NAIVE_MAP_END - 0x4000 + test_below(0x4000);
		break;
	case 14:
		v->control.msrpm_base_pa = NAIVE_MAP_END - 0x4000 + test_below(0x4000);
		break;
	case 15:
		v->save.s_cet ^= bit;
		break;
	case 16:
	case 17:
	case 18:
		v->control.event_inj = test_random() & (EVENT_V | 0x71f | bit);
		break;
	case 19:
		v->control.int_ctl ^= (u32)V_NMI_ENABLE;
		break;
	case 20:
		v->control.np_ctl ^= NP_ENABLE;
		break;
	case 21:
		v->control.nested_cr3 ^= bit;
		break;
	case 22:
		v->save.g_pat ^= bit;
		break;
	case 23:
		v->save.efer ^= EFER_LME;
		break;
	case 24:
		v->save.cr4 ^= CR4_CET;
		v->save.cr0 ^= CR0_WP;
		break;
	}
}

/* One VMCB with a few changes, by both. Returns the rule. */
static inline enum vmrun_rule naive_vmrun_once(struct vmcb *v)
{
	struct vmrun_limits lim = naive_limits;
	enum vmrun_rule rule;
	u64 broken;

	lim.l1_paging = test_below(16);
	lim.vnmi = test_below(2);
	if (test_below(16) == 0) {
		lim.long_mode = false;
		lim.efer_mbz |= EFER_LME | EFER_LMA;
	}
	for (u64 n = test_below(5); n; n--)
		naive_mutate_vmcb(v);
	broken = naive_broken_rules(v, &lim);
	rule = vmrun_check(&v->control, &v->save, &lim);
	/* the first rule of the list that is broken */
	CHECK_EQ(rule, broken ? (u64)__builtin_ctzll(broken) : 0);
	return rule;
}

/* The PDPTEs at CR3 of legacy PAE paging without nested paging. */
static inline bool naive_pdptes_bad(const u8 *ram, u64 bytes, const struct vmcb *v)
{
	bool long_mode = v->save.efer >> 8 & 1, paging = v->save.cr0 >> 31 & 1,
	     pae = v->save.cr4 >> 5 & 1, nested = v->control.np_ctl & 1;

	if (nested || !paging || !pae || long_mode)
		return false;
	for (unsigned int i = 0; i < 4; i++) {
		u64 at = (v->save.cr3 >> 5 & 0x7ffffff) * 32 + 8 * i, pdpte = ~0ull;

		if (at < bytes)
			memcpy(&pdpte, ram + at, 8);
		if (!(pdpte & 1))
			continue;
		/* all but P, PWT, PCD, the three bits of software and the address; and A, which TCG sets */
		if ((pdpte & 0x1c6) || (pdpte & ~0xfffull) >= bytes)
			return true;
	}
	return false;
}

#endif

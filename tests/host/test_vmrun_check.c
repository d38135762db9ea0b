/* SPDX-License-Identifier: MIT */
/* VMRUN's consistency checks: each rule alone, all events, and random VMCBs against a twin that
 * tests rule by rule. */
#include <string.h>

#include "vmrun_naive.h"

static enum vmrun_rule check(const struct vmcb *v)
{
	return vmrun_check(&v->control, &v->save, &naive_limits);
}

/* Breaks one thing in a valid VMCB. */
#define BREAKS(rule, ...)                                                                          \
	do {                                                                                       \
		struct vmcb v_, *v = &v_;                                                          \
		struct vmcb_control *c = &v->control;                                              \
		struct vmcb_save *s = &v->save;                                                    \
		naive_valid_vmcb(v);                                                               \
		(void)c;                                                                           \
		(void)s;                                                                           \
		__VA_ARGS__;                                                                       \
		CHECK_EQ(check(v), rule);                                                          \
	} while (0)

TEST(vmrun_each_rule_alone)
{
	BREAKS(VMRUN_OK, );
	BREAKS(VMRUN_RULE_VMRUN_INTERCEPT, vmcb_clr_intercept(c, INTERCEPT(VMRUN)));
	BREAKS(VMRUN_RULE_ASID, c->asid = 0);
	BREAKS(VMRUN_RULE_EFER_NO_SVME, s->efer &= ~EFER_SVME);
	for (unsigned int bit = 0; bit < 64; bit++) {
		enum vmrun_rule efer = VMRUN_RULE_EFER_MBZ, cr3 = VMRUN_OK, cr4 = VMRUN_OK;

		if (!(naive_limits.efer_mbz & BIT(bit)))
			efer = bit == 12 ? VMRUN_RULE_EFER_NO_SVME : VMRUN_OK;
		BREAKS(efer, s->efer ^= BIT(bit));
		if (bit >= NAIVE_PHYS_BITS)
			cr3 = VMRUN_RULE_CR3_MBZ;
		BREAKS(cr3, s->cr3 ^= BIT(bit));
		BREAKS(cr3 ? VMRUN_RULE_NCR3_MBZ : VMRUN_OK, c->nested_cr3 ^= BIT(bit));
		if (naive_limits.cr4_mbz & BIT(bit))
			cr4 = VMRUN_RULE_CR4_MBZ;
		else if (bit == 5)
			cr4 = VMRUN_RULE_LME_NO_PAE;
		BREAKS(cr4, s->cr4 ^= BIT(bit));
		BREAKS(bit > 1 ? VMRUN_RULE_S_CET_MBZ : VMRUN_OK, s->s_cet ^= BIT(bit));
		if (bit >= 32) {
			BREAKS(VMRUN_RULE_CR0_HIGH, s->cr0 |= BIT(bit));
			BREAKS(VMRUN_RULE_DR6_HIGH, s->dr6 |= BIT(bit));
			BREAKS(VMRUN_RULE_DR7_HIGH, s->dr7 |= BIT(bit));
		}
	}
	BREAKS(VMRUN_OK, s->cr0 |= CR0_CD | CR0_NW);
	BREAKS(VMRUN_OK, s->cr0 |= CR0_CD);
	BREAKS(VMRUN_RULE_CR0_NW_NO_CD, s->cr0 |= CR0_NW);
	BREAKS(VMRUN_RULE_LME_NO_PE, s->cr0 &= ~CR0_PE);
	BREAKS(VMRUN_RULE_CS_L_D, s->cs.attrib |= SEG_ATTR_DB);
	BREAKS(VMRUN_RULE_CET_WP, s->cr4 |= CR4_CET, s->cr0 &= ~CR0_WP);
	BREAKS(VMRUN_OK, s->cr4 |= CR4_CET);
	BREAKS(VMRUN_RULE_V_NMI, c->int_ctl |= V_NMI_ENABLE);
	BREAKS(VMRUN_OK, c->int_ctl |= V_NMI_ENABLE, vmcb_set_intercept(c, INTERCEPT(NMI)));
	/* legal although odd: paged real mode (APM2 15.19), no paging with LME, CS.L and CS.D
	 * without LME */
	BREAKS(VMRUN_OK, s->efer = EFER_SVME, s->cr0 = CR0_PG);
	BREAKS(VMRUN_OK, s->cr0 = CR0_PE, s->cr4 = 0);
	BREAKS(VMRUN_OK, s->efer = EFER_SVME, s->cs.attrib |= SEG_ATTR_DB);
	/* the last byte of the maps: bits 11:0 of their address are ignored */
	BREAKS(VMRUN_OK, c->msrpm_base_pa = NAIVE_MAP_END - 0x2000 + 0xfff);
	BREAKS(VMRUN_RULE_MSRPM, c->msrpm_base_pa = NAIVE_MAP_END - 0x1000);
	BREAKS(VMRUN_RULE_MSRPM, c->msrpm_base_pa = NAIVE_MAP_END);
	BREAKS(VMRUN_RULE_MSRPM, c->msrpm_base_pa = ~0ull);
	BREAKS(VMRUN_OK, c->iopm_base_pa = NAIVE_MAP_END - 0x3000 + 0xfff);
	BREAKS(VMRUN_RULE_IOPM, c->iopm_base_pa = NAIVE_MAP_END - 0x2000);
	BREAKS(VMRUN_RULE_IOPM, c->iopm_base_pa = ~0ull);
	/* nCR3 and G_PAT do not matter without nested paging */
	BREAKS(VMRUN_OK, c->np_ctl = 0, c->nested_cr3 = ~0ull, s->g_pat = ~0ull);
	for (unsigned int entry = 0; entry < 8; entry++)
		for (u64 type = 0; type < 256; type++)
			BREAKS(type > 7 || type == 2 || type == 3 ? VMRUN_RULE_G_PAT : VMRUN_OK,
			       s->g_pat &= ~(0xffull << (8 * entry)),
			       s->g_pat |= type << (8 * entry));
}

TEST(vmrun_limits_matter)
{
	struct vmrun_limits lim = naive_limits;
	struct vmcb v;

	naive_valid_vmcb(&v);
	lim.l1_paging = false;
	CHECK_EQ(vmrun_check(&v.control, &v.save, &lim), VMRUN_RULE_NP_HOST_PAGING);
	v.control.np_ctl = 0;
	CHECK_EQ(vmrun_check(&v.control, &v.save, &lim), VMRUN_OK);

	naive_valid_vmcb(&v);
	lim = naive_limits;
	lim.long_mode = false;
	lim.efer_mbz |= EFER_LME | EFER_LMA;
	CHECK_EQ(vmrun_check(&v.control, &v.save, &lim), VMRUN_RULE_EFER_LONG_MODE);

	lim = naive_limits;
	lim.vnmi = false;
	v.control.int_ctl = V_NMI_ENABLE;
	CHECK_EQ(vmrun_check(&v.control, &v.save, &lim), VMRUN_OK);

	lim = naive_limits;
	lim.exceptions |= (u32)BIT(VEC_CP);
	naive_valid_vmcb(&v);
	v.control.event_inj = EVENT_V | EVENT_TYPE_EXCEPTION | VEC_CP;
	CHECK_EQ(check(&v), VMRUN_RULE_EVENT_BAD_VECTOR);
	CHECK_EQ(vmrun_check(&v.control, &v.save, &lim), VMRUN_OK);
}

/* All vectors, types, V, EV, and three kinds of guest; the list of exceptions is that of APM2 table
 * 8-1. */
TEST(vmrun_every_event)
{
	static const bool exception[32] = {
		[0] = 1,  [1] = 1,  [3] = 1,  [4] = 1,	[5] = 1,  [6] = 1,  [7] = 1,
		[8] = 1,  [10] = 1, [11] = 1, [12] = 1, [13] = 1, [14] = 1, [16] = 1,
		[17] = 1, [18] = 1, [19] = 1, [28] = 1, [30] = 1,
	};

	for (unsigned int kind = 0; kind < 3; kind++)
		for (u64 event = 0; event < 0x1000; event++) {
			unsigned int vector = event & 0xff, type = event >> 8 & 7;
			enum vmrun_rule want = VMRUN_OK;
			struct vmcb v;

			naive_valid_vmcb(&v);
			if (kind == 1) /* compatibility mode */
				v.save.cs.attrib = SEG_ATTR_P | SEG_ATTR_DB;
			if (kind == 2) /* CS.L is nothing outside long mode */
				v.save.efer = EFER_SVME;
			if (type == 1 || type > 4)
				want = VMRUN_RULE_EVENT_BAD_TYPE;
			else if (type == 3 && (vector > 31 || !exception[vector]))
				want = VMRUN_RULE_EVENT_BAD_VECTOR;
			else if (type == 3 && kind == 0 && (vector == 4 || vector == 5))
				want = VMRUN_RULE_EVENT_BAD_MODE;
			v.control.event_inj = event | test_random() << 32;
			CHECK_EQ(check(&v), VMRUN_OK); /* V is clear */
			v.control.event_inj |= EVENT_V;
			CHECK_EQ(check(&v), want);
		}
}

TEST(vmrun_random_against_twin)
{
	u64 seen = 0;

	for (int i = 0; i < 300000; i++) {
		struct vmcb v;

		naive_valid_vmcb(&v);
		seen |= BIT(naive_vmrun_once(&v));
	}
	/* every rule but PDPTE has been met */
	CHECK_EQ(seen, BITS(VMRUN_RULE_COUNT - 1, 0) & ~BIT(VMRUN_RULE_PDPTE));
}

TEST(vmrun_pdptes)
{
	static u8 ram[0x4000] ALIGNED(4096);
	struct guest_memory mem = {ram, sizeof(ram)};
	u64 *table = (u64 *)(ram + 0x1020);
	struct vmcb v;

	naive_valid_vmcb(&v);
	v.control.np_ctl = 0;
	v.save.efer = EFER_SVME;
	v.save.cr3 = 0x1020 | 0x18; /* PWT and PCD are no address bits */
	CHECK(vmrun_uses_pdptes(&v.control, &v.save));
	CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_OK);
	for (unsigned int i = 0; i < 4; i++)
		for (unsigned int bit = 0; bit < 64; bit++) {
			/* P, PWT, PCD, A (which TCG sets), three for software, address bits up to 2^14 */
			bool good = bit == 0 || (bit >= 3 && bit <= 5) || (bit >= 9 && bit < 14);

			table[i] = BIT(bit);
			CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_OK);
			table[i] |= PTE_P;
			CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save),
				 good ? VMRUN_OK : VMRUN_RULE_PDPTE);
			v.control.np_ctl =
				NP_ENABLE; /* then they are loaded by the walks, APM2 15.25.10 */
			CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_OK);
			v.control.np_ctl = 0;
			table[i] = 0;
		}
	v.save.cr3 = 0x4000; /* nothing there: all ones */
	CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_RULE_PDPTE);
	v.save.cr4 = 0;
	CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_OK);
	v.save.cr4 = CR4_PAE;
	v.save.efer |= EFER_LME;
	CHECK_EQ(vmrun_check_pdptes(&mem, &v.control, &v.save), VMRUN_OK);
}

TEST(vmrun_names)
{
	CHECK(!strcmp(vmrun_rule_name(VMRUN_OK), "OK"));
	CHECK(!strncmp(vmrun_rule_name(VMRUN_RULE_CR0_NW_NO_CD), "CR0_NW_NO_CD: CR0.NW", 20));
	for (unsigned int a = 0; a < VMRUN_RULE_COUNT; a++)
		for (unsigned int b = 0; b < a; b++)
			CHECK(strcmp(vmrun_rule_name((enum vmrun_rule)a),
				     vmrun_rule_name((enum vmrun_rule)b)));
}

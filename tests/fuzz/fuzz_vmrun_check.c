/* SPDX-License-Identifier: MIT */
/* VMRUN's checks against the twin: VMCBs with a few mistakes, or of any bytes; and PDPTEs. */
#include "tests/host/vmrun_naive.h"
#include "fuzz.h"

#define RAM 0x4000

static void any_bytes(struct vmcb *v)
{
	fuzz_bytes(v, offsetof(struct vmcb_control, reserved_0e0));
	fuzz_bytes(&v->save, offsetof(struct vmcb_save, dbgctl));
	/* or the first rules would be broken, and no other be seen, in nearly all of them */
	if (test_below(8))
		vmcb_set_intercept(&v->control, INTERCEPT(VMRUN));
	if (test_below(8))
		v->save.efer = (v->save.efer & ~naive_limits.efer_mbz) | EFER_SVME;
	if (test_below(4)) {
		v->save.cr0 = (u32)v->save.cr0 & ~CR0_NW;
		v->save.cr3 &= NAIVE_PHYS_END - 1;
		v->save.cr4 &= ~naive_limits.cr4_mbz;
	}
	if (test_below(4)) {
		v->save.dr6 = (u32)v->save.dr6;
		v->save.dr7 = (u32)v->save.dr7;
		v->control.iopm_base_pa &= NAIVE_MAP_END - 1;
		v->control.msrpm_base_pa &= NAIVE_MAP_END - 1;
		v->save.s_cet &= ~naive_limits.s_cet_mbz;
	}
}

static void pdptes(struct vmcb *v)
{
	static u8 ram[RAM] ALIGNED(4096);
	const struct guest_memory mem = {ram, RAM};
	u64 table = test_below(RAM / 32) * 32, entry;

	/* the four of them, hardly ever with more than one bit wrong */
	for (unsigned int i = 0; i < 4; i++) {
		entry = (test_random() & ((RAM - PAGE_SIZE) | 0xe19)) | BIT(test_below(64));
		memcpy(ram + table + 8 * i, &entry, 8);
	}
	v->save.cr3 = test_below(8) ? table | test_below(32) : test_random();
	if (test_below(2)) {
		v->control.np_ctl = 0;
		v->save.efer &= ~EFER_LME;
	}
	CHECK_EQ(vmrun_check_pdptes(&mem, &v->control, &v->save),
		 naive_pdptes_bad(ram, RAM, v) ? VMRUN_RULE_PDPTE : VMRUN_OK);
	memset(ram + table, 0, 32);
}

void fuzz_one(void)
{
	struct vmcb v;

	naive_valid_vmcb(&v);
	if (test_below(2))
		any_bytes(&v);
	naive_vmrun_once(&v);
	pdptes(&v);
}

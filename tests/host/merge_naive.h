/* SPDX-License-Identifier: MIT */
/* The merge of vmcb12 and vmcb02 once more, as tables of offsets: what of vmcb12 reaches vmcb02, what of vmcb02 comes
 * back. docs/nested-svm.md has the same by name. */
#ifndef TALLY_MERGE_NAIVE_H
#define TALLY_MERGE_NAIVE_H

#include <string.h>

#include "x86/svm.h"

struct naive_field {
	u16 offset, bytes;
	const char *name;
};

/* Bytes of vmcb12 that VMRUN loads into vmcb02 unchanged: APM2 tables B-1 and B-2 by hand. */
static const struct naive_field naive_loaded[] = {
	{0x050, 8, "TSC_OFFSET"}, {0x400, 0x40, "ES CS SS DS"},
	{0x460, 0x10, "GDTR"},	  {0x480, 0x10, "IDTR"},
	{0x4cb, 1, "CPL"},	  {0x548, 8, "CR4"},
	{0x550, 8, "CR3"},	  {0x558, 8, "CR0"},
	{0x560, 8, "DR7"},	  {0x568, 8, "DR6"},
	{0x570, 8, "RFLAGS"},	  {0x578, 8, "RIP"},
	{0x5d8, 8, "RSP"},	  {0x5e0, 0x18, "CET"},
	{0x5f8, 8, "RAX"},	  {0x640, 8, "CR2"},
	{0x668, 8, "G_PAT"},	  {0x0c8, 8, "nRIP"},
};

/* Bytes whose way is tested apart: intercepts, interrupt control, shadow, EVENTINJ, EFER, EXITINTINFO. */
static const struct naive_field naive_apart[] = {
	{0x000, 0x18, "intercepts"},	{0x060, 8, "interrupt control"},
	{0x068, 8, "interrupt shadow"}, {0x088, 8, "EXITINTINFO"},
	{0x0a8, 8, "EVENTINJ"},		{0x4d0, 8, "EFER"},
};

static inline bool naive_among(const struct naive_field *fields, size_t n, size_t offset)
{
	for (size_t i = 0; i < n; i++)
		if (offset >= fields[i].offset &&
		    offset < (size_t)fields[i].offset + fields[i].bytes)
			return true;
	return false;
}

/* Bytes of vmcb02 that #VMEXIT stores into vmcb12, the ones above but TSC_OFFSET, and EFER. */
static inline bool naive_is_stored(size_t at, bool own_pat)
{
	if (at >= 0x668 && at < 0x670)
		return own_pat;
	return (at >= 0x4d0 && at < 0x4d8) ||
	       (at >= 0x400 && naive_among(naive_loaded, ARRAY_SIZE(naive_loaded), at));
}

static inline u64 naive_get(const struct vmcb *v, size_t at, size_t bytes)
{
	u64 value = 0;

	memcpy(&value, (const u8 *)v + at, bytes);
	return value;
}

static inline void naive_put(struct vmcb *v, size_t at, size_t bytes, u64 value)
{
	memcpy((u8 *)v + at, &value, bytes);
}

/* VMRUN: what vmcb02 becomes. l0: L0's own intercepts; cr_quirk: the CPU takes reads of other CRs for reads of CR0. */
static inline void naive_merge(struct vmcb *vmcb02, const struct vmcb *vmcb12, const u32 l0[6],
			       bool cr_quirk)
{
	bool v_irq = naive_get(vmcb12, 0x060, 8) >> 8 & 1, lme, paging;

	for (size_t i = 0; i < ARRAY_SIZE(naive_loaded); i++)
		memcpy((u8 *)vmcb02 + naive_loaded[i].offset,
		       (const u8 *)vmcb12 + naive_loaded[i].offset, naive_loaded[i].bytes);
	for (size_t i = 0; i < 6; i++)
		naive_put(vmcb02, 4 * i, 4, naive_get(vmcb12, 4 * i, 4) | l0[i]);
	if (v_irq) /* writes of CR8 */
		naive_put(vmcb02, 0, 4, naive_get(vmcb02, 0, 4) | 1u << 24);
	if (cr_quirk && (naive_get(vmcb02, 0, 4) & 0x11c)) /* reads of CR2, CR3, CR4, CR8 */
		naive_put(vmcb02, 0, 4, naive_get(vmcb02, 0, 4) | 1);
	/* V_TPR, V_IRQ, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING and no more */
	naive_put(vmcb02, 0x060, 4, naive_get(vmcb12, 0x060, 4) & 0x011f01ff);
	naive_put(vmcb02, 0x064, 4, naive_get(vmcb12, 0x064, 1));
	naive_put(vmcb02, 0x068, 8, naive_get(vmcb12, 0x068, 1) & 1);
	naive_put(vmcb02, 0x088, 8, 0);
	naive_put(vmcb02, 0x0a8, 8, naive_get(vmcb12, 0x0a8, 8) & 0xffffffff80000fff);
	naive_put(vmcb02, 0x570, 8, naive_get(vmcb12, 0x570, 8) | 2);
	lme = naive_get(vmcb12, 0x4d0, 8) >> 8 & 1;
	paging = naive_get(vmcb12, 0x558, 8) >> 31 & 1;
	naive_put(vmcb02, 0x4d0, 8,
		  (naive_get(vmcb12, 0x4d0, 8) & ~0x400ull) | (lme && paging ? 0x400 : 0));
}

/* EXITINTINFO: type 3 with a vector that is no exception's is TCG's way to say NMI and INTR. */
static inline u64 naive_exit_int_info(u64 event)
{
	unsigned int type = event >> 8 & 7, vector = event & 0xff;

	if (!(event >> 31 & 1))
		return 0;
	if (type == 3 && vector == 2)
		type = 2;
	else if (type == 3 && vector >= 32)
		type = 0;
	return (event & ~0x700ull) | type << 8;
}

/* #VMEXIT: what vmcb12 becomes, but for exit code and infos. */
static inline void naive_write_back(struct vmcb *vmcb12, const struct vmcb *vmcb02, u32 int_ctl12,
				    u32 int_ctl_back, bool own_pat)
{
	for (size_t i = 0; i < ARRAY_SIZE(naive_loaded); i++) {
		size_t at = naive_loaded[i].offset;

		if (naive_is_stored(at, own_pat))
			memcpy((u8 *)vmcb12 + at, (const u8 *)vmcb02 + at, naive_loaded[i].bytes);
	}
	naive_put(vmcb12, 0x4d0, 8, naive_get(vmcb02, 0x4d0, 8));
	naive_put(vmcb12, 0x060, 4,
		  (int_ctl12 & ~int_ctl_back) | (naive_get(vmcb02, 0x060, 4) & int_ctl_back));
	naive_put(vmcb12, 0x068, 8, naive_get(vmcb02, 0x068, 1) & 1);
	naive_put(vmcb12, 0x088, 8, naive_exit_int_info(naive_get(vmcb02, 0x088, 8)));
	naive_put(vmcb12, 0x0a8, 8, 0);
}

/* LBR virtualization: DebugCtl and four addresses. */
static inline void naive_lbr(struct vmcb *to, const struct vmcb *from)
{
	memcpy((u8 *)to + 0x670, (const u8 *)from + 0x670, 5 * 8);
}

/* Virtual GIF is in use, and 0: V_IRQ waits. */
static inline bool naive_vgif_holds(u32 int_ctl)
{
	bool virtual_gif = int_ctl >> 25 & 1, gif = int_ctl >> 9 & 1;

	return virtual_gif && !gif;
}

#endif

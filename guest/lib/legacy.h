/* SPDX-License-Identifier: MIT */
/*
 * Out of long mode and back: a piece of 32-bit code in protected mode, without paging or with two-level or PAE tables.
 * All of it lies below 4 GByte, where the firmware has put this application.
 */
#ifndef GUEST_LEGACY_H
#define GUEST_LEGACY_H

#include <assert.h>

#include "types.h"

struct legacy {
	/* in: the mode; EFER without LME and LMA */
	u32 cr0, cr3, cr4, efer;
	u32 code; /* called with EBX = this struct, which it keeps */
	/* out: the exception that ended it, or VEC_NONE; and the mode that the code was left in */
	u32 vector, error, eip, cr2;
	/* for the code */
	u32 eax, ecx, edx, esi, edi;
	/* legacy.asm's own */
	u32 stack;
	struct PACKED {
		u16 limit;
		u32 base;
		u16 unused;
	} idtr;
	u32 back;
	u32 saved_cr0, saved_cr3, saved_cr4, saved_efer;
	u64 saved_rsp;
	u8 saved_idtr[16];
} ALIGNED(16);

static_assert(offsetof(struct legacy, vector) == 20, "legacy.inc");
static_assert(offsetof(struct legacy, eax) == 36, "legacy.inc");
static_assert(offsetof(struct legacy, stack) == 56, "legacy.inc");
static_assert(offsetof(struct legacy, back) == 68, "legacy.inc");
static_assert(offsetof(struct legacy, saved_cr0) == 72, "legacy.inc");
static_assert(offsetof(struct legacy, saved_rsp) == 88, "legacy.inc");
static_assert(offsetof(struct legacy, saved_idtr) == 96, "legacy.inc");

/* Runs l->code in the mode of *l; returns l->vector. L1's own mode is as before. */
u32 legacy_run(struct legacy *l);

/* Code for it. VMRUN of EAX with ECX, EDX, ESI and EDI for L2, between CLGI and STGI; they are L2's afterwards, and cr0,
 * cr3, cr4 and efer are what L1 finds after its #VMEXIT. The second executes VMRUN in a 16-bit segment, with an
 * address-size prefix; the third one without: then AX is the address. */
extern const u8 legacy_vmrun[], legacy_vmrun_16[], legacy_vmrun_ax[];

#endif

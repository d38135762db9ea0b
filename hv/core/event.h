/* SPDX-License-Identifier: MIT */
/* Events in the format of EVENTINJ and EXITINTINFO, and INIT. APM2 rev. 3.44 §8.2.9, §14.1, §15.7.2, §15.20. */
#ifndef TALLY_CORE_EVENT_H
#define TALLY_CORE_EVENT_H

#include "types.h"
#include "x86/cr.h"
#include "x86/svm.h"

static inline u64 event_exception(unsigned int vector, bool has_error, u32 error)
{
	return EVENT_V | EVENT_TYPE_EXCEPTION | vector | (has_error ? EVENT_EV : 0) |
	       (u64)error << EVENT_ERROR_SHIFT;
}

/* INTn, INT3 and INTO: delivered by an instruction, which executes again, or returns behind itself to nRIP (APM2 §15.20). */
static inline bool event_is_soft(u64 event)
{
	u64 type = event & EVENT_TYPE, vector = event & EVENT_VECTOR;

	return type == EVENT_TYPE_SWINT ||
	       (type == EVENT_TYPE_EXCEPTION && (vector == VEC_BP || vector == VEC_OF));
}

/* Exceptions that have an error code (table 8-1); bits are vectors. */
#define EVENT_HAS_ERROR                                                                            \
	(BIT(VEC_DF) | BITS(VEC_PF, VEC_TS) | BIT(VEC_AC) | BIT(VEC_CP) | BIT(VEC_VC) | BIT(VEC_SX))

/* Exceptions of which two in a row are a double fault (table 8-4). */
#define EVENT_CONTRIBUTORY (BIT(VEC_DE) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) | BIT(VEC_GP))

/*
 * What the exception `second` becomes that was raised while `first` (0: nothing) was being delivered: itself, a #DF, or 0
 * for shutdown (APM2 §8.2.9, table 8-4). Interrupts, NMIs and INTn combine with nothing: their handler is entered later.
 * INT3 and INTO have the type of exceptions, and vectors that combine with nothing either.
 */
static inline u64 event_combine(u64 first, u64 second)
{
	unsigned int one = (unsigned int)(first & EVENT_VECTOR);
	unsigned int two = (unsigned int)(second & EVENT_VECTOR);
	bool contributory = two < 32 && (EVENT_CONTRIBUTORY >> two & 1);

	if (!(first & EVENT_V) || (first & EVENT_TYPE) != EVENT_TYPE_EXCEPTION ||
	    (second & EVENT_TYPE) != EVENT_TYPE_EXCEPTION)
		return second;
	if (one == VEC_DF)
		return 0; /* a third event, of whatever kind */
	if (one == VEC_PF ? contributory || two == VEC_PF
			  : contributory && one < 32 && (EVENT_CONTRIBUTORY >> one & 1))
		return event_exception(VEC_DF, true, 0);
	return second;
}

/* What INIT does to L1's CPU (APM2 §15.21.8, §15.28, §15.30.1). */
enum event_init_fate {
	EVENT_INIT_HELD,  /* GIF=0: later */
	EVENT_INIT_EXIT,  /* #VMEXIT(INIT) to L1, and it stays pending */
	EVENT_INIT_SX,	  /* VM_CR.R_INIT: #SX with error code 1 for who runs */
	EVENT_INIT_RESET, /* event_init_state(), out of L2 as well */
};

static inline enum event_init_fate event_init_fate(bool gif, bool in_l2, bool l1_intercepts,
						   bool r_init)
{
	if (!gif)
		return EVENT_INIT_HELD;
	if (in_l2 && l1_intercepts)
		return EVENT_INIT_EXIT;
	return r_init ? EVENT_INIT_SX : EVENT_INIT_RESET;
}

/* Segment attributes after INIT: writable data or readable code, accessed; an LDT; a busy 16-bit TSS. */
#define EVENT_INIT_DATA ((u16)(SEG_ATTR_P | SEG_ATTR_S | 0x3))
#define EVENT_INIT_CODE ((u16)(SEG_ATTR_P | SEG_ATTR_S | 0xb))
#define EVENT_INIT_LDT ((u16)(SEG_ATTR_P | 0x2))
#define EVENT_INIT_TSS ((u16)(SEG_ATTR_P | 0x3))

/*
 * INIT's part of the save area (APM2 table 14-1). CR0.CD and NW, PAT and the MSRs of SYSCALL and SYSENTER stay. EFER is 0
 * but for SVME, without which VMRUN would refuse: the guest's own is the caller's matter, as are the registers that no
 * save area has: GPRs (RDX: CPUID 1 EAX), DR0 to DR3, the APIC.
 */
static inline void event_init_state(struct vmcb_save *s)
{
	const struct vmcb_seg data = {.attrib = EVENT_INIT_DATA, .limit = 0xffff};
	const struct vmcb_seg table = {.limit = 0xffff};

	s->es = s->ss = s->ds = s->fs = s->gs = data;
	s->cs = (struct vmcb_seg){0xf000, EVENT_INIT_CODE, 0xffff, 0xffff0000};
	s->gdtr = s->idtr = table;
	s->ldtr = (struct vmcb_seg){.attrib = EVENT_INIT_LDT, .limit = 0xffff};
	s->tr = (struct vmcb_seg){.attrib = EVENT_INIT_TSS, .limit = 0xffff};
	s->cpl = 0;
	s->efer = EFER_SVME;
	s->cr0 = (s->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	s->cr2 = s->cr3 = s->cr4 = 0;
	s->dr6 = DR6_RESET;
	s->dr7 = DR7_RESET;
	s->rflags = RFLAGS_FIXED;
	s->rip = 0xfff0;
	s->rsp = s->rax = 0;
}

#endif

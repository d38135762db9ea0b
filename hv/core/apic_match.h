/* SPDX-License-Identifier: MIT */
/* Whom a command of the local APIC's ICR is for. APM2 rev. 3.44 §16.5, §16.6, §16.14 (x2APIC). */
#ifndef TALLY_CORE_APIC_MATCH_H
#define TALLY_CORE_APIC_MATCH_H

#include "types.h"
#include "x86/apic.h"

/* What a CPU's APIC is addressed by. */
struct apic_identity {
	u32 id, ldr, dfr; /* LDR and DFR as the registers have them */
	bool x2;	  /* x2APIC mode */
	bool enabled;	  /* by MSR_APIC_BASE */
};

static inline bool apic_match_logical(u32 destination, const struct apic_identity *to)
{
	u32 ldr = to->ldr >> APIC_XAPIC_ID_SHIFT;

	if (to->x2)
		return destination >> 16 == to->ldr >> 16 && (destination & to->ldr & 0xffff);
	if (destination == APIC_XAPIC_BROADCAST)
		return true;
	if (to->dfr >> 28 == 0xf) /* flat */
		return destination & ldr;
	return (destination & 0xf0) == (ldr & 0xf0) && (destination & ldr & 0xf);
}

/* icr: as an x2APIC has it, destination in 63:32. */
static inline bool apic_match(u64 icr, const struct apic_identity *from,
			      const struct apic_identity *to)
{
	u32 destination = (u32)(icr >> 32);

	if (!to->enabled)
		return false;
	switch (icr & APIC_ICR_SHORTHAND) {
	case APIC_ICR_SELF:
		return to == from;
	case APIC_ICR_ALL:
		return true;
	case APIC_ICR_OTHERS:
		return to != from;
	default:
		if (destination == (from->x2 ? APIC_X2_BROADCAST : APIC_XAPIC_BROADCAST))
			return true;
		return icr & APIC_ICR_LOGICAL ? apic_match_logical(destination, to)
					      : destination == to->id;
	}
}

#endif

/* SPDX-License-Identifier: MIT */
/* Instructions that exited before, see struct known_exit: what spares a walk and a decode where there is no nRIP. */
#ifndef TALLY_HV_KNOWN_H
#define TALLY_HV_KNOWN_H

#include "hv/vcpu.h"

/* The mode of all known instructions. */
static ALWAYS_INLINE bool known_mode(const struct vmcb_save *s)
{
	return is_64bit(s) && !(s->cr4 & CR4_LA57);
}

static ALWAYS_INLINE struct known_exit *known_at(struct vcpu *v, u64 rip)
{
	struct known_exit *known = &v->known[rip % KNOWN_EXITS];

	asm("" : "+r"(known)); /* or gcc computes it twice */
	return known;
}

/* Where L1's instruction at RIP is, and how that was found. False: not in L1's memory. */
static ALWAYS_INLINE bool known_walk(const struct vcpu *v, struct known_exit *known)
{
	const struct vmcb_save *s = &v->vmcb->save;
	u64 table = s->cr3, rip = s->rip, address = (v->mem.limit - 1) & PTE_ADDR, offset = 0;

#define LEVEL(n, shift)                                                                            \
	known->entry[n] = guest_at(&v->mem, (table & address) + ((rip >> (shift)) & 511) * 8);     \
	known->value[n] = table = *known->entry[n];                                                \
	offset = BIT(shift) - 1;                                                                   \
	if (unlikely(!(table & PTE_P)))                                                            \
		return false;
	LEVEL(0, 39)
	LEVEL(1, 30)
	if (!(table & PTE_PS)) {
		LEVEL(2, 21)
		if (!(table & PTE_PS)) {
			LEVEL(3, 12)
		} else {
			known->entry[3] = known->entry[2];
			known->value[3] = table;
		}
	} else {
		known->entry[2] = known->entry[3] = known->entry[1];
		known->value[2] = known->value[3] = table;
	}
#undef LEVEL
	known->insn = guest_at(&v->mem, (table & address & ~offset) | (rip & offset));
	return true;
}

/* known_walk() or its like, the bytes, next_rip and handler are there: from now on it is known. */
static ALWAYS_INLINE void known_note(struct known_exit *known, const struct vmcb_save *s, u64 code)
{
	known->rip = s->rip;
	known->cr3 = s->cr3;
	known->code = code;
}

/* Whether the instruction that exited is this one. */
static ALWAYS_INLINE bool known_is(const struct known_exit *known, const struct vmcb_save *s,
				   u64 code, u64 rip)
{
	/* spelled out: compilers make a loop of it, which is half as long again */
	return likely(rip == known->rip && code == known->code && s->cr3 == known->cr3 &&
		      known_mode(s) && *known->entry[0] == known->value[0] &&
		      *known->entry[1] == known->value[1] && *known->entry[2] == known->value[2] &&
		      *known->entry[3] == known->value[3] && *known->insn == known->bytes);
}

#endif

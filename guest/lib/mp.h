/* SPDX-License-Identifier: MIT */
/* What only the firmware can tell and give: the CPUs there are, and memory that a CPU can start in. */
#ifndef GUEST_MP_H
#define GUEST_MP_H

#include "types.h"

#define MP_CPUS 16
#define MP_LOW_PAGES 2

/* A guest that wants all CPUs defines this as true. */
extern const bool guest_wants_cpus;

extern u32 mp_count; /* CPUs, with this one, which is the first; 0: the firmware does not tell */
extern u32 mp_ids[MP_CPUS]; /* of their APICs */
extern u64 mp_low;	    /* MP_LOW_PAGES of memory below 1 MByte; 0: there is none */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Any guest on every CPU at once (-fw_cfg opt/tallyvisor/every): a copy of the application for each, with globals, GDT, IDT,
 * TSS, page tables and stack of its own, so that a guest needs to know nothing of it. Their results are one TAP stream:
 * first all of the first CPU's, as they come, then the next one's. Those that have to agree on something do so in an
 * object of the first one's, see every_first().
 */
#ifndef GUEST_EVERY_H
#define GUEST_EVERY_H

#include "guest/lib/tap.h"
#include "types.h"

/* Whether it is asked for, and can be: not of a guest that starts the CPUs itself, or wants fixed memory. */
bool every_wanted(void);
/* Starts all CPUs and runs guest_main() on each. What each writes into its last selector first; 0: nothing. */
enum verdict every_run(u64 selector);
/* After an exception that no test expected: the first CPU is the one that prints, so another one shows its own part before
 * the machine ends. */
bool every_is_another(void);

/* Which of tap_instances() this is. */
u32 every_index(void);
/* The first one's of a global object of this image. */
void *every_first(void *object);
/* Waits until all have come here as often as this one. */
void every_meet(void);

#endif

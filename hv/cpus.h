/* SPDX-License-Identifier: MIT */
/* The CPUs: the memory of each, and which one this is. */
#ifndef TALLY_HV_CPUS_H
#define TALLY_HV_CPUS_H

#include "hv/core/tables.h"
#include "hv/vcpu.h"

/* A power of two, with the guard page at its low end: so a CPU finds its own vcpu from RSP alone. */
#define STACK_BYTES 0x8000

/*
 * All that is one CPU's alone; nothing in it is written by another one. STACK_BYTES-aligned. How many of these there are is
 * the loader's to decide.
 */
struct cpu {
	u8 guard[PAGE_SIZE]; /* not mapped */
	u8 stack[STACK_BYTES - PAGE_SIZE];
	struct vcpu vcpu; /* RSP points here at VMRUN */
	struct vmcb vmcb01, vmcb02;
	u8 hsave[PAGE_SIZE] ALIGNED(4096);
	struct npt npt ALIGNED(4096);
	u8 sink_page[PAGE_SIZE] ALIGNED(4096);
	u8 shadow_pages[CORE_SHADOW_PAGES][PAGE_SIZE] ALIGNED(4096);
	u32 shadow_links[CORE_SHADOW_PAGES];
} ALIGNED(STACK_BYTES);

static_assert(offsetof(struct cpu, vcpu) == STACK_BYTES, "vmrun.asm finds it by RSP");

/* Memory for `count` CPUs. 0, or -E_NOMEM. */
int cpus_init(u32 count);

/* That there is memory for; and that run on us. */
u32 cpus_count(void);
u32 cpus_taken(void);
struct cpu *cpus_at(u32 index);

/* The CPU that executes this; while it is taken over, too, when it is on the boot stack. */
struct cpu *cpus_this(void);
u32 cpus_this_index(void);

/* The next CPU that was not taken over yet; NULL: no memory is left. One at a time. */
struct cpu *cpus_take(void);

#endif

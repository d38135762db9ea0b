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
	struct npt npt;
	u8 sink_page[PAGE_SIZE] ALIGNED(4096);
	struct shadow_memory shadow ALIGNED(4096);
} ALIGNED(STACK_BYTES);

static_assert(offsetof(struct cpu, vcpu) == STACK_BYTES, "vmrun.asm finds it by RSP");

/* Memory for so many CPUs. 0, or -E_NOMEM. */
int cpus_init(u32 number);

/* 0 before cpus_init(). All of them run on us before L1 begins on any. */
u32 cpus_count(void);
struct cpu *cpus_at(u32 index);

/* The CPU that executes this; while it is taken over, too, when it is on the boot stack. */
struct cpu *cpus_this(void);
u32 cpus_this_index(void);

/* The next CPU that was not taken over yet; NULL: no memory is left. One at a time; the last one, the boot processor, is
 * number 0. */
struct cpu *cpus_take(void);

/* Sleeps, before the first VMRUN, until another CPU lets all go: one that has waited for all to come so far, so that it
 * knows their APICs. */
void cpus_wait(struct vcpu *v);
void cpus_gather(const struct vcpu *v);
void cpus_go(struct vcpu *v);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The interface to software in L1: CPUID leaves 4000_00xx and VMMCALL at CPL 0.
 * RAX selects the call, RBX, RCX, RDX are arguments; RAX returns 0 or more, or a negated enum error.
 * A VMMCALL with another RAX, from CPL > 0 or from L2 is what it is without a hypervisor: #UD.
 */
#ifndef TALLY_ABI_HYPERCALL_H
#define TALLY_ABI_HYPERCALL_H

#include <assert.h>

#include "abi/filter.h"
#include "types.h"

/* CPUID 4000_0000: EAX = last leaf, EBX ECX EDX = "Tallyvisor\0\0" */
#define TALLY_CPUID_EBX 0x6c6c6154u /* "Tall" */
#define TALLY_CPUID_ECX 0x73697679u /* "yvis" */
#define TALLY_CPUID_EDX 0x0000726fu /* "or" */
#define TALLY_CPUID_LAST 0x40000002u
/* CPUID 4000_0001: EAX = TALLY_ABI_VERSION, EBX = enum tally_backend, ECX[0] = counts are exact,
 * ECX[1] = svme0=count, ECX[15:8] = depth: how many of us there are, one in the other, from the machine up to the one
 * that answers; ECX[23:16] = enum tally_backend of the lowest, which tells what the machine is; EDX = log2 of clock ticks
 * per instruction (backend clock, exact) */
#define TALLY_CPUID_STATUS 0x40000001u
#define TALLY_STATUS_ECX_EXACT 0x1u
#define TALLY_STATUS_ECX_SVME0_COUNT 0x2u
#define TALLY_STATUS_DEPTH(ecx) ((ecx) >> 8 & 0xffu)
#define TALLY_STATUS_LOWEST_BACKEND(ecx) ((ecx) >> 16 & 0xffu)

/* CPUID 4000_0002: EBX:EAX = exits for RDMSR and WRMSR of the PMU's registers and RDPMC, all since boot; EDX:ECX = those that
 * the next one of us below counted, which are this hypervisor's own accesses to the PMU that it has from there */
#define TALLY_CPUID_PMU_ACCESSES 0x40000002u

#define TALLY_ABI_VERSION 1u

enum tally_backend {
	TALLY_BACKEND_OFF = 0,
	TALLY_BACKEND_GUEST_ONLY = 1,
	TALLY_BACKEND_CLOCK = 2,
	TALLY_BACKEND_SWITCHED = 3,
};

#define TALLY_CALL(n) (0x54414c4c00000000ull | (n)) /* "TALL" */

/* RBX = gpa of a struct tally_status, 8-byte aligned, inside one page. */
#define TALLY_CALL_STATUS TALLY_CALL(1)
/* RBX = gpa of a buffer, RCX = its bytes (at most one page, not crossing one), RDX = position in the log.
 * Returns the bytes copied; RDX = position after them. A position already overwritten moves to the oldest byte. */
#define TALLY_CALL_LOG_READ TALLY_CALL(2)
/* RBX = gpa of a struct tally_filter (abi/filter.h), 8-byte aligned, RCX = the buffer's bytes: at least the struct's, and
 * inside one page. SET holds from the VMMCALL's own retirement on; -E_INVAL: malformed, -E_UNSUPP: of another version, and
 * the filter stays as it was. GET gives the one that holds. */
#define TALLY_CALL_FILTER_SET TALLY_CALL(4)
#define TALLY_CALL_FILTER_GET TALLY_CALL(5)

#define TALLY_MAX_COUNTERS 8

struct tally_status {
	u32 version; /* TALLY_ABI_VERSION */
	u32 backend; /* enum tally_backend */
	u32 exact;
	u32 counters;
	u64 reprogram_pmc_on_nested_transition;
	u64 evtsel_writes; /* selector writes that reached the machine */
	u64 transitions;   /* emulated VMRUN and #VMEXIT to L1 */
	u64 svme_toggles;
	u64 exits;	    /* all exits to L0 */
	u64 shadow_fills;   /* nested page faults that L0 resolved from L1's tables */
	u64 shadow_flushes; /* shadow tables dropped */
	u64 tlb_flushes;    /* flushes of the TLB that VMRUN was asked for */
	u64 shadow_pages;   /* pages in use now */
	u64 hole_accesses;  /* times the hypervisor's memory was touched or named */
	u64 region_gpa;	    /* the hypervisor's memory: reads as FFh, writes are dropped */
	u64 region_bytes;
	struct {
		u64 eventsel;	 /* as the guest wrote it */
		u64 eventsel_hw; /* as the machine holds it now */
		u64 value;
	} counter[TALLY_MAX_COUNTERS];
};

static_assert(sizeof(struct tally_status) == 16 + 12 * 8 + 8 * 24, "tally_status");

#endif

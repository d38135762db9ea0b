/* SPDX-License-Identifier: MIT */
/*
 * The interface to software in L1: CPUID leaves 4000_00xx, VMMCALL at CPL 0, and the same calls by MSR.
 * docs/hypercalls.md explains it.
 *
 * RAX selects the call, RBX, RCX, RDX are arguments; RAX returns 0 or more, or a negated enum error.
 * A VMMCALL with another RAX, from CPL > 0 or from L2 is what it is without a hypervisor: #UD.
 *
 * RBX is the gpa of the caller's buffer and RCX its bytes: at most one page, not crossing one, RBX 8-byte aligned.
 * What a call has to tell that does not fit is not written. Structs grow at their end, and say how long they are.
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
 * ECX[1] = svme0=count, ECX[2] = overflow interrupts come at the instruction that overflows, ECX[3] = devices cannot reach
 * our memory (dma=protect), ECX[15:8] = depth: how many of us there are, one in the other, from the machine up to the one
 * that answers; ECX[23:16] = enum tally_backend of the lowest, which tells what the machine is; EDX = log2 of clock ticks
 * per instruction (backend clock, exact) */
#define TALLY_CPUID_STATUS 0x40000001u
#define TALLY_STATUS_ECX_EXACT 0x1u
#define TALLY_STATUS_ECX_SVME0_COUNT 0x2u
#define TALLY_STATUS_ECX_PMI_EXACT 0x4u
#define TALLY_STATUS_ECX_DMA_PROTECTED 0x8u
#define TALLY_STATUS_DEPTH(ecx) ((ecx) >> 8 & 0xffu)
#define TALLY_STATUS_LOWEST_BACKEND(ecx) ((ecx) >> 16 & 0xffu)

/* CPUID 4000_0002: EBX:EAX = exits for RDMSR and WRMSR of the PMU's registers and RDPMC, all since boot; EDX:ECX = those that
 * the next one of us below counted, which are this hypervisor's own accesses to the PMU that it has from there */
#define TALLY_CPUID_PMU_ACCESSES 0x40000002u

#define TALLY_ABI_VERSION 2u

enum tally_backend {
	TALLY_BACKEND_OFF = 0,
	TALLY_BACKEND_GUEST_ONLY = 1,
	TALLY_BACKEND_CLOCK = 2,
	TALLY_BACKEND_SWITCHED = 3,
};

#define TALLY_CALL_BASE 0x54414c4c00000000ull /* "TALL" */
#define TALLY_CALL(n) (TALLY_CALL_BASE | (n))

/* A struct tally_status. RCX = 0 stands for the TALLY_STATUS_BYTES_V1 of version 1, which did not look at RCX. Returns 0. */
#define TALLY_CALL_STATUS TALLY_CALL(1)
/* The log from position RDX on, RBX with any alignment. Returns the bytes copied; RDX = position after them. A position
 * already overwritten moves to the oldest byte. */
#define TALLY_CALL_LOG_READ TALLY_CALL(2)
/* A struct tally_stats with the exit codes from RDX on. Returns its bytes; RDX = the first code that had no place, or 0. */
#define TALLY_CALL_STATS TALLY_CALL(3)
/* A struct tally_filter (abi/filter.h); RCX: at least its bytes. SET holds from the call's own retirement on; -E_INVAL:
 * malformed, -E_UNSUPP: of another version, and the filter stays as it was. GET gives the one that holds. Both return 0. */
#define TALLY_CALL_FILTER_SET TALLY_CALL(4)
#define TALLY_CALL_FILTER_GET TALLY_CALL(5)
/* RDX = TALLY_WATCH_*: what is recorded from now on; no buffer. What is switched on starts empty. Returns what was on
 * before. */
#define TALLY_CALL_TRACE_CONTROL TALLY_CALL(6)
/* A struct tally_trace with the records from number RDX on. Returns its bytes; RDX = the number after its last one. */
#define TALLY_CALL_TRACE_READ TALLY_CALL(7)
#define TALLY_CALLS 32u /* numbers are below this */

/*
 * For software that cannot execute VMMCALL at CPL 0: the same calls by RDMSR and WRMSR of L1's, with a buffer of one page
 * in the hypervisor in place of RBX and RCX. One for each CPU. All other accesses are #GP.
 *
 * VERSION  RDMSR or WRMSR: position, RDX and RESULT become 0; reads as TALLY_ABI_VERSION
 * DATA     RDMSR, WRMSR: the 8 bytes of the buffer at `position`, which moves on by 8, from the end to the start
 * RESULT   RDMSR: RAX of the last call
 * RDX      RDMSR, WRMSR: RDX of the next call, and after it what the call made of it
 * CALL(n)  WRMSR: RDX = the value, call n, position = 0
 *          RDMSR: call n with RDX as it is, position = 0; reads as RESULT. Only calls that change nothing
 */
#define TALLY_MSR_VERSION 0x40000080u
#define TALLY_MSR_DATA 0x40000081u
#define TALLY_MSR_RESULT 0x40000082u
#define TALLY_MSR_RDX 0x40000083u
#define TALLY_MSR_CALL(n) (0x400000a0u + (u32)(n))

#define TALLY_MAX_COUNTERS 8

/* What the counters' HostOnly and GuestOnly depend on. */
enum tally_level {
	TALLY_LEVEL_SVME0, /* L1 with EFER.SVME=0 */
	TALLY_LEVEL_L1,	   /* L1 with EFER.SVME=1 */
	TALLY_LEVEL_L2,
	TALLY_LEVELS,
};

struct tally_status {
	u32 version; /* TALLY_ABI_VERSION */
	u32 backend; /* enum tally_backend */
	u32 exact;
	u32 counters;
	u64 reprogram_pmc_on_nested_transition;
	u64 evtsel_writes; /* selectors changed in the machine */
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

	/* since version 2 */
	u32 bytes;	/* of this struct */
	u32 level;	/* enum tally_level, of the caller */
	u32 perfmon_v2; /* the global registers below exist for the guest */
	u32 watching;	/* TALLY_WATCH_* */
	u64 reprogram_pmc_on_svme_toggle;
	u64 reprogram_pending;
	u64 counting; /* counters that run now */
	u64 global_ctl;
	u64 global_status;
	/* times that selectors were compared with what they must be; a switch by a list of writes (guest-only) is none, and
	 * is not in evtsel_writes */
	u64 commits;
	u64 evtsel_elided; /* selectors in them that were right already: writes that were spared */
	u64 eventsel_hw_at[TALLY_MAX_COUNTERS][TALLY_LEVELS]; /* as the machine holds it there */
};

#define TALLY_STATUS_BYTES_V1 304u
static_assert(offsetof(struct tally_status, bytes) == TALLY_STATUS_BYTES_V1, "tally_status 1");
static_assert(sizeof(struct tally_status) == TALLY_STATUS_BYTES_V1 + 16 + 7 * 8 + 8 * 3 * 8,
	      "tally_status 2");

/* One kind of exit to L0. Ticks of the TSC, from L0's first C function to its last; the world switch is not in them. */
struct tally_exit {
	u64 code; /* as in the VMCB */
	u64 exits;
	u64 timed; /* exits that the rest is about: those under TALLY_WATCH_COST */
	u64 ticks;
	u64 ticks_max;
};

struct tally_stats {
	u32 version; /* TALLY_ABI_VERSION */
	u32 header_bytes;
	u32 kinds; /* entries of exit[] in this buffer; kinds that never came are left out */
	u32 kind_bytes;
	u32 watching; /* TALLY_WATCH_* */
	u32 reserved;
	u64 tsc; /* now */
	struct tally_exit exit[];
};

static_assert(sizeof(struct tally_stats) == 32 && sizeof(struct tally_exit) == 40, "tally_stats");

#define TALLY_WATCH_TRACE 0x1u /* what the counters do, into the trace */
#define TALLY_WATCH_COST 0x2u  /* what exits cost, into the statistics */

enum tally_trace_kind {
	TALLY_TRACE_START =
		1, /* value: ticks for each instruction if `time` is an exact clock, else 0 */
	TALLY_TRACE_STOP,     /* value as in START */
	TALLY_TRACE_LEVEL,    /* `level` begins; value: the exit code of what made it begin */
	TALLY_TRACE_EVENTSEL, /* the guest's selector `counter` is `value` from now on */
	TALLY_TRACE_COUNTER, /* `counter` holds `value`: at START, at STOP, and when the guest writes it */
	TALLY_TRACE_EVENTSEL_HW, /* the machine's selector `counter` was replaced by `value` */
	TALLY_TRACE_ENABLES, /* EN was set in the machine's selectors of value[31:0], cleared in those of value[63:32] */
	TALLY_TRACE_OVERFLOW, /* the counters in `value` were found to have carried out of bit 47 */
	TALLY_TRACE_DROPPED,  /* never from the hypervisor: where a file lacks `value` records */
};

struct tally_trace_record {
	u64 time; /* backend clock: guest time in ticks of the TSC, without L0's; else the TSC */
	u64 tsc;
	u64 value;
	u8 kind;    /* enum tally_trace_kind */
	u8 level;   /* enum tally_level, after what is recorded */
	u8 counter; /* where it is about one */
	u8 reserved;
	u32 counters; /* those that run, after what is recorded */
};

struct tally_trace {
	u64 first;   /* number of record[0] */
	u64 dropped; /* records from the number that was asked for on that are overwritten */
	u64 written; /* records since TALLY_WATCH_TRACE was switched on */
	u32 records; /* of record[] in this buffer */
	u32 record_bytes;
	struct tally_trace_record record[];
};

static_assert(sizeof(struct tally_trace) == 32 && sizeof(struct tally_trace_record) == 32,
	      "tally_trace");

#endif

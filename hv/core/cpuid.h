/* SPDX-License-Identifier: MIT */
/*
 * What a guest sees of the CPU in CPUID's extended leaves, and of the registers behind them. APM2 rev. 3.44, §13.2.
 *
 * The CPU's own meters of time are the guest's, as the TSC is: APERF, MPERF and their read-only copies. They tell the clock
 * that L1 runs at, L0's time is in them as it is in the TSC, and whoever resets them owns the machine. IRPERF is not: it
 * counts L0's instructions too (hv/irperf.c).
 */
#ifndef TALLY_CORE_CPUID_H
#define TALLY_CORE_CPUID_H

#include "types.h"
#include "x86/msr.h"

struct cpuid_leaf {
	u32 eax, ebx, ecx, edx;
};

struct cpuid_view {
	u32 ext_max;	 /* the CPU's last extended leaf */
	u32 svm;	 /* 8000_000A EDX */
	u8 phys_bits;	 /* as many as the nested tables map */
	bool core_extra; /* PerfCtrExtCore */
	bool perfmon_v2;
	bool irperf;
};

/* Makes the CPU's answer the guest's. Leaves between the CPU's last one and PerfMonV2's read 0. */
void cpuid_extended(const struct cpuid_view *view, u32 leaf, struct cpuid_leaf *l);

/* DebugCtl's freeze bits come with CPUID 8000_0022 EAX[2], which no guest sees: they are reserved, MBZ. */
static inline bool debugctl_valid(u64 value)
{
	return !(value & (DEBUGCTL_FREEZE_LBR | DEBUGCTL_FREEZE_PMC));
}

/* What a guest under TSC_RATIO reads, where L0 reads MPERF for it (§15.30.5). */
static inline u64 tsc_ratio_scale(u64 ticks, u64 ratio)
{
	return (u64)((unsigned __int128)ticks * ratio >> 32);
}

#endif

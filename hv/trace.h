/* SPDX-License-Identifier: MIT */
/*
 * What L0 records only while somebody asks for it: what the counters do (a trace), and what exits cost. Switched off, it
 * does not exist for the exit path: all exits are watched by being special, through vcpu.on_exit, and the writes to the
 * machine's PMU by a struct pmu_hw that stands before the backend's.
 */
#ifndef TALLY_HV_TRACE_H
#define TALLY_HV_TRACE_H

#include "hv/core/trace_ring.h"
#include "pmu/pmu.h"

#define TRACE_RECORDS 8192u

struct trace {
	struct pmu_hw hw; /* first: its functions find the rest from it */
	struct pmu_hw *machine;
	struct vcpu *v;
	u64 overflows; /* recorded, but not taken by take_overflows() yet */
	struct trace_ring ring;
	struct tally_trace_record records[TRACE_RECORDS];
};

/* TALLY_WATCH_*; unknown bits are -E_INVAL. Returns what was on before. */
s64 trace_watch(struct vcpu *v, u64 what);

#endif

/* SPDX-License-Identifier: MIT */
/* Core performance counters. AMD64 APM vol. 2, rev. 3.44, §13.2 and appendix A.6. */
#ifndef TALLY_X86_PMU_H
#define TALLY_X86_PMU_H

#include "types.h"

#define PMU_COUNTERS 6
#define PMU_LEGACY_COUNTERS 4
#define PMU_COUNTER_BITS 48
#define PMU_COUNTER_MASK BITS(47, 0)

/* Extended block: selector/counter pairs; the first four also at the legacy addresses. */
#define MSR_PERFEVTSEL(n) (0xc0010200u + 2 * (n))
#define MSR_PERFCTR(n) (0xc0010201u + 2 * (n))
#define MSR_LEGACY_PERFEVTSEL(n) (0xc0010000u + (n))
#define MSR_LEGACY_PERFCTR(n) (0xc0010004u + (n))

/* PerfMonV2 */
#define MSR_PERF_GLOBAL_STATUS 0xc0000300u
#define MSR_PERF_GLOBAL_CTL 0xc0000301u
#define MSR_PERF_GLOBAL_STATUS_CLR 0xc0000302u
#define MSR_PERF_GLOBAL_STATUS_SET 0xc0000303u

/* PerfEvtSel, figure 13-11 */
#define EVTSEL_EVENT_LO BITS(7, 0)
#define EVTSEL_UMASK BITS(15, 8)
#define EVTSEL_USR BIT(16)
#define EVTSEL_OS BIT(17)
#define EVTSEL_EDGE BIT(18)
#define EVTSEL_INT BIT(20)
#define EVTSEL_EN BIT(22)
#define EVTSEL_INV BIT(23)
#define EVTSEL_CMASK BITS(31, 24) /* 0: INV means nothing (table 13-5) */
#define EVTSEL_CMASK_SHIFT 24
#define EVTSEL_EVENT_HI BITS(35, 32)
#define EVTSEL_GUESTONLY BIT(40)
#define EVTSEL_HOSTONLY BIT(41)
#define EVTSEL_HOST_GUEST (EVTSEL_HOSTONLY | EVTSEL_GUESTONLY)

/* The bits a guest can set; all others are reserved, read as zero and never fault (EPYC; A4 of the manual notes). */
#define EVTSEL_WRITABLE                                                                            \
	(EVTSEL_EVENT_LO | EVTSEL_UMASK | EVTSEL_USR | EVTSEL_OS | EVTSEL_EDGE | EVTSEL_INT |      \
	 EVTSEL_EN | EVTSEL_INV | EVTSEL_CMASK | EVTSEL_EVENT_HI | EVTSEL_HOST_GUEST)

/* Event number and unit mask of a selector, as one 16-or-more-bit number: 12-bit event in 15:8+, umask apart. */
#define EVTSEL_EVENT(sel) ((u32)((sel)&0xff) | (u32)(((sel) >> 24) & 0xf00))
#define EVTSEL_EVENT_MAX 0xfffu

#define EVENT_CYCLES_NOT_HALTED 0x76u
#define EVENT_RETIRED_INSTRUCTIONS 0xc0u
#define EVENT_RETIRED_BRANCHES 0xc2u
#define EVENT_RETIRED_FAR_TRANSFERS 0xc6u

#endif

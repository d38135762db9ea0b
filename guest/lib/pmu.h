/* SPDX-License-Identifier: MIT */
/*
 * PMU helpers and the oracle of HostOnly and GuestOnly.
 *
 * The rule of exact counting, for event C0h:
 * - every instruction that retires counts 1, whether the CPU or a hypervisor below carries it out;
 * - RDPMC and RDMSR deliver the value from before their own retirement, so between two reads lie
 *   the first read itself and everything up to, but not, the second;
 * - VMRUN retires in the guest it enters; a VMRUN that is refused retires in the host;
 * - an instruction that exits to L1 does not retire;
 * - WRMSR to EFER retires in the new state of SVME; WRMSR to a selector in the old state of the
 *   selector; WRMSR to a counter after the new value is in place.
 */
#ifndef GUEST_PMU_H
#define GUEST_PMU_H

#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/tap.h"
#include "types.h"
#include "x86/pmu.h"

#define SEL_INSTRUCTIONS (EVENT_RETIRED_INSTRUCTIONS | EVTSEL_USR | EVTSEL_OS | EVTSEL_EN)

/* The four settings, in the order every guest uses for counters 0 to 3. */
#define PMU_SETTINGS 4
static const struct {
	const char *name;
	u64 bits;
} pmu_setting[PMU_SETTINGS] = {
	{"none", 0},
	{"GuestOnly", EVTSEL_GUESTONLY},
	{"HostOnly", EVTSEL_HOSTONLY},
	{"Host+Guest", EVTSEL_HOST_GUEST},
};

enum pmu_mode {
	MODE_SVME0, /* L1, EFER.SVME=0 */
	MODE_HOST,  /* L1, EFER.SVME=1 */
	MODE_GUEST, /* L2 */
};

/* APM2 table 13-4; with svme0=count, the two bits are ignored while SVME=0. */
static inline bool pmu_counts(u64 selector, enum pmu_mode mode)
{
	u64 bits = selector & EVTSEL_HOST_GUEST;

	if (!bits)
		return true;
	switch (mode) {
	case MODE_SVME0:
		return platform.svme0_count;
	case MODE_HOST:
		return bits & EVTSEL_HOSTONLY;
	default:
		return bits & EVTSEL_GUESTONLY;
	}
}

/* For guest_main: false, and every test skipped, if there is no PMU here that counts to the last instruction. */
static inline bool pmu_start_exact(void)
{
	if (!platform.pmu) {
		tap_skip_all("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return false;
	}
	if (!platform.exact) {
		tap_skip_all("counts are not exact here (QEMU needs -icount shift=N,sleep=off)");
		return false;
	}
	return true;
}

static inline void pmu_stop_all(void)
{
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		wrmsr(MSR_PERFEVTSEL(i), 0);
		wrmsr(MSR_PERFCTR(i), 0);
	}
}

/* Counters 0 to 3 on event C0h with the four settings. */
static inline void pmu_start_settings(void)
{
	pmu_stop_all();
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS | pmu_setting[i].bits);
}

struct pmu_sample {
	u64 before[PMU_SETTINGS], after[PMU_SETTINGS];
};

/* pmu.asm: reads counters 0 to 3, does PMU_SAMPLE_NOPS NOPs, reads them again. */
void pmu_sample_rdpmc(struct pmu_sample *sample);
void pmu_sample_rdmsr(struct pmu_sample *sample);
#define PMU_SAMPLE_NOPS 1000
/* Between the two reads of one counter: four times a read of five instructions, and the NOPs. */
#define PMU_SAMPLE_INSTRUCTIONS (4 * 5 + PMU_SAMPLE_NOPS)

static inline u64 pmu_moved(const struct pmu_sample *s, u32 i)
{
	return (s->after[i] - s->before[i]) & PMU_COUNTER_MASK;
}

#endif

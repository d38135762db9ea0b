/* SPDX-License-Identifier: MIT */
/*
 * Which PMU there is: four counters at the legacy addresses, six with PerfCtrExtCore, or PerfMonV2.
 * What CPUID shows is there and counts, and what it does not show is not there: #GP. Under
 * pmu.version= all three are tried; the first case prints which one this is.
 */
#include "abi/hypercall.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

static bool has_core, has_v2;
static u32 counters;
static struct pmu_sample sample;
static volatile u64 value_read;

static void do_rdmsr(const void *arg)
{
	value_read = rdmsr(*(const u32 *)arg);
}

static void do_wrmsr(const void *arg)
{
	wrmsr(*(const u32 *)arg, SEL_INSTRUCTIONS);
}

static void do_rdpmc(const void *arg)
{
	value_read = rdpmc(*(const u32 *)arg);
}

static void stop_all(void)
{
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++) {
		wrmsr(MSR_LEGACY_PERFEVTSEL(i), 0);
		wrmsr(MSR_LEGACY_PERFCTR(i), 0);
	}
}

static void check_cpuid(const void *arg)
{
	(void)arg;
	note("version: %s, %u counters", has_v2 ? "v2" : has_core ? "core" : "legacy", counters);
	CHECK(has_core || !has_v2);
	if (has_v2)
		CHECK_EQ(cpuid(CPUID_PERFMON_V2).ebx & 0xf, counters);
}

/* ---- what is there ---- */

static void check_legacy_count(const void *arg)
{
	(void)arg;
	stop_all();
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++) {
		wrmsr(MSR_LEGACY_PERFEVTSEL(i), SEL_INSTRUCTIONS);
		CHECK_EQ(rdmsr(MSR_LEGACY_PERFEVTSEL(i)), SEL_INSTRUCTIONS);
	}
	pmu_sample_rdpmc(&sample);
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++) {
		if (platform.exact)
			CHECK_EQ(pmu_moved(&sample, i), PMU_SAMPLE_INSTRUCTIONS);
		else
			CHECK(pmu_moved(&sample, i));
		wrmsr(MSR_LEGACY_PERFEVTSEL(i), 0);
		wrmsr(MSR_LEGACY_PERFCTR(i), 0x1230 + i);
		CHECK_EQ(rdmsr(MSR_LEGACY_PERFCTR(i)), 0x1230 + i);
		CHECK_EQ(rdpmc(i), 0x1230 + i);
	}
	stop_all();
}

static void l2_sample(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_sample(enum pmu_mode mode)
{
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		u64 moved = pmu_moved(&sample, i);
		bool counts = pmu_counts(rdmsr(MSR_LEGACY_PERFEVTSEL(i)), mode);

		if (platform.exact)
			tap_equal(moved, counts ? PMU_SAMPLE_INSTRUCTIONS : 0, pmu_setting[i].name);
		else
			tap_check(!moved == !counts, pmu_setting[i].name);
	}
}

static void check_host_guest(const void *arg)
{
	(void)arg;
	stop_all();
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		wrmsr(MSR_LEGACY_PERFEVTSEL(i), SEL_INSTRUCTIONS | pmu_setting[i].bits);
	for (u32 i = 0; i < 3; i++) {
		svm_disable();
		pmu_sample_rdpmc(&sample);
		check_sample(MODE_SVME0);
		svm_enable();
		pmu_sample_rdpmc(&sample);
		check_sample(MODE_HOST);
		CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
		check_sample(MODE_GUEST);
	}
	stop_all();
}

/* ---- what is there or not, as CPUID says ---- */

static void check_msrs(u32 first, u32 last, bool there)
{
	for (u32 msr = first; msr <= last; msr++) {
		const u64 want = there ? VEC_NONE : VEC_GP;

		value_read = 0;
		if (!CHECK_EQ(try_call(do_rdmsr, &msr), want) ||
		    !CHECK_EQ(try_call(do_wrmsr, &msr), want))
			note("that was MSR 0x%x", msr);
		if (!there) {
			CHECK_EQ(trap_info.error, 0);
			CHECK_EQ(value_read, 0);
		}
	}
}

static void check_extended(const void *arg)
{
	(void)arg;
	stop_all();
	check_msrs(MSR_PERFEVTSEL(0), MSR_PERFCTR(PMU_COUNTERS - 1), has_core);
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++)
		CHECK_EQ(rdmsr(MSR_LEGACY_PERFEVTSEL(i)), has_core ? SEL_INSTRUCTIONS : 0);
	if (has_core)
		pmu_stop_all();
	stop_all();
}

static void check_global(const void *arg)
{
	(void)arg;
	check_msrs(MSR_PERF_GLOBAL_STATUS, MSR_PERF_GLOBAL_STATUS_SET, has_v2);
	if (has_v2) {
		wrmsr(MSR_PERF_GLOBAL_CTL, BITS(PMU_COUNTERS - 1, 0));
		wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BITS(PMU_COUNTERS - 1, 0));
	}
}

static void check_rdpmc(const void *arg)
{
	const u32 beyond[] = {PMU_COUNTERS, 7, 8, BIT(30), BIT(31), ~0u};
	u64 cr4 = read_cr4();

	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		CHECK_EQ(try_call(do_rdpmc, &i), i < counters ? VEC_NONE : VEC_GP);
	for (u32 i = 0; i < ARRAY_SIZE(beyond); i++)
		CHECK_EQ(try_call(do_rdpmc, &beyond[i]), VEC_GP);
	write_cr4(cr4 | CR4_PCE);
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		CHECK_EQ(try_user(do_rdpmc, &i), i < counters ? VEC_NONE : VEC_GP);
	write_cr4(cr4);
}

static u32 l2_msr;
static void l2_reads(void)
{
	rdmsr(l2_msr);
	vmmcall();
}

static void l2_writes(void)
{
	wrmsr(l2_msr, 0);
	vmmcall();
}

static void l2_counts(void)
{
	rdpmc(l2_msr);
	vmmcall();
}

/* The same for an L2 whose L1 intercepts nothing. */
static void check_l2(const void *arg)
{
	const struct {
		void (*run)(void);
		u32 first, last;
		bool there;
	} accesses[] = {
		{l2_reads, MSR_LEGACY_PERFEVTSEL(0), MSR_LEGACY_PERFCTR(3), true},
		{l2_writes, MSR_LEGACY_PERFEVTSEL(0), MSR_LEGACY_PERFCTR(3), true},
		{l2_reads, MSR_PERFEVTSEL(0), MSR_PERFCTR(PMU_COUNTERS - 1), has_core},
		{l2_writes, MSR_PERFEVTSEL(0), MSR_PERFCTR(PMU_COUNTERS - 1), has_core},
		{l2_reads, MSR_PERF_GLOBAL_STATUS, MSR_PERF_GLOBAL_STATUS_SET, has_v2},
		{l2_counts, 0, 3, true},
		{l2_counts, 4, 5, has_core},
		{l2_counts, 6, 6, false},
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(accesses); i++) {
		for (l2_msr = accesses[i].first; l2_msr <= accesses[i].last; l2_msr++) {
			l2_reset((const void *)accesses[i].run);
			l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
			if (!CHECK_EQ(l2_run(), accesses[i].there ? VMEXIT_VMMCALL
								  : VMEXIT_EXCEPTION(VEC_GP)))
				note("that was 0x%x", l2_msr);
		}
	}
}

static struct tally_status status ALIGNED(1024);

static void check_status(const void *arg)
{
	(void)arg;
	if (!platform.under_us) {
		tap_skip("not under Tallyvisor");
		return;
	}
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, sizeof(status), 0), 0);
	CHECK_EQ(status.counters, counters);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"CPUID", check_cpuid},
	{"four counters at the legacy addresses count", check_legacy_count},
	{"HostOnly and GuestOnly at the legacy addresses", check_host_guest},
	{"MSRs C001_0200 to C001_020B", check_extended},
	{"MSRs C000_0300 to C000_0303", check_global},
	{"RDPMC", check_rdpmc},
	{"L2", check_l2},
	{"STATUS", check_status},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (platform.under_us ? platform.backend == TALLY_BACKEND_OFF : !platform.pmu) {
		tap_skip_all("no AMD PMU");
		return;
	}
	if (!svm_start())
		return;
	has_core = platform.pmu;
	has_v2 = cpuid(CPUID_EXT_MAX).eax >= CPUID_PERFMON_V2 &&
		 (cpuid(CPUID_PERFMON_V2).eax & CPUID_22_EAX_PERFMON_V2);
	counters = has_core ? PMU_COUNTERS : PMU_LEGACY_COUNTERS;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * HostOnly and GuestOnly through the life of an L1: SVME=0, SVME=1, L2, back, one selector
 * changed on the fly, SVME=0 again. The steps of Linux' svm_pmu_host_guest_test but its event
 * filter; here with exact numbers, by the rule in lib/pmu.h. L2 reads the counters with RDMSR and
 * RDPMC, which L1 does not intercept.
 */
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define BOTH_BITS 3 /* the counter with both bits set */

static struct pmu_sample sample;

static void l2_rdmsr(void)
{
	pmu_sample_rdmsr(&sample);
	vmmcall();
}

static void l2_rdpmc(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_sample(enum pmu_mode mode)
{
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		u64 selector = rdmsr(MSR_PERFEVTSEL(i));
		u64 want = pmu_counts(selector, mode) ? PMU_SAMPLE_INSTRUCTIONS : 0;
		u64 got = pmu_moved(&sample, i);

		if (platform.exact)
			tap_equal(got, want, pmu_setting[i].name);
		else
			tap_check(!got == !want, pmu_setting[i].name);
	}
}

static void in_l1(const void *arg)
{
	enum pmu_mode mode = rdmsr(MSR_EFER) & EFER_SVME ? MODE_HOST : MODE_SVME0;

	(void)arg;
	pmu_sample_rdpmc(&sample);
	check_sample(mode);
	pmu_sample_rdmsr(&sample);
	check_sample(mode);
}

static void svme0(const void *arg)
{
	svm_disable();
	in_l1(arg);
}

static void svme1(const void *arg)
{
	svm_enable();
	in_l1(arg);
}

static void in_l2(const void *arg)
{
	const void *entries[] = {(const void *)l2_rdmsr, (const void *)l2_rdpmc};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(entries); i++) {
		sample = (struct pmu_sample){0};
		CHECK_EQ(l2_run_from(entries[i]), VMEXIT_VMMCALL);
		check_sample(MODE_GUEST);
	}
}

/* One sample in each of many alternations: the decision must hold at every transition. */
static void alternate(const void *arg)
{
	for (u32 i = 0; i < 50; i++) {
		in_l2(arg);
		in_l1(arg);
	}
}

static void clear_hostonly(const void *arg)
{
	wrmsr(MSR_PERFEVTSEL(BOTH_BITS), SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	in_l1(arg);
	in_l2(arg);
}

static void set_hostonly(const void *arg)
{
	wrmsr(MSR_PERFEVTSEL(BOTH_BITS), SEL_INSTRUCTIONS | EVTSEL_HOST_GUEST);
	in_l1(arg);
	in_l2(arg);
}

/* A selector that L2 writes takes effect there and then, in L2 and later in L1. */
static void l2_writes_selector(void)
{
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	pmu_sample_rdmsr(&sample);
	vmmcall();
}

static void selector_from_l2(const void *arg)
{
	CHECK_EQ(l2_run_from((const void *)l2_writes_selector), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST);
	in_l1(arg);
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	in_l1(arg);
}

/* Disabled counters stand still in every mode, whatever their bits. */
static void disabled(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		wrmsr(MSR_PERFEVTSEL(i), (SEL_INSTRUCTIONS | pmu_setting[i].bits) & ~EVTSEL_EN);
	pmu_sample_rdmsr(&sample);
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		tap_equal(pmu_moved(&sample, i), 0, pmu_setting[i].name);
	CHECK_EQ(l2_run_from((const void *)l2_rdmsr), VMEXIT_VMMCALL);
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		tap_equal(pmu_moved(&sample, i), 0, pmu_setting[i].name);
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS | pmu_setting[i].bits);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} steps[] = {
	{"SVME=0: only the counter with no bit counts", svme0},
	{"SVME=1, L1: none, HostOnly, both", svme1},
	{"L2: none, GuestOnly, both", in_l2},
	{"back in L1: none, HostOnly, both", in_l1},
	{"50 times L2 and L1", alternate},
	{"HostOnly cleared in the counter with both bits", clear_hostonly},
	{"HostOnly set again", set_hostonly},
	{"a selector that L2 writes", selector_from_l2},
	{"EN=0: nothing counts", disabled},
	{"enabled again", in_l1},
	{"SVME=0 again: only the counter with no bit counts", svme0},
	{"SVME=1 again", svme1},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(steps));
	if (!platform.pmu) {
		tap_skip_all("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return;
	}
	if (!svm_start())
		return;
	if (!platform.exact)
		note("no exact clock here: counters are only checked for moving or standing still");
	if (platform.svme0_count)
		note("svme0=count: with SVME=0 the bits are ignored and all four counters count");
	svm_disable();
	pmu_start_settings();
	for (u32 i = 0; i < ARRAY_SIZE(steps); i++)
		tap_run(steps[i].name, steps[i].run, NULL);
	pmu_stop_all();
}

/* SPDX-License-Identifier: MIT */
/*
 * What our own hypervisor does to the PMU that it has from another one of us below: reads and
 * writes of its registers, counted there (CPUID 4000_0002). With the backend `guest-only`, none
 * at all at an exit that is no trigger, whatever counts; a transition costs one write, or one for
 * each counter. With `switched` an exit costs that for the stop and again for the start, and
 * nothing while no counter runs.
 */
#include "abi/hypercall.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define REPEATS 10

static u64 below(void)
{
	struct cpuid leaf = cpuid(TALLY_CPUID_PMU_ACCESSES);

	return leaf.ecx | (u64)leaf.edx << 32;
}

/* L2 reads the leaf, does the same ten times, and reads it again: r8 and RAX. */
#define BELOW "mov $0x40000002, %eax\n\tcpuid\n\tshl $32, %rdx\n\tlea (%rcx, %rdx), %rax\n\t"
#define L2_BETWEEN(name, code)                                                                     \
	L2_CODE(name, BELOW "mov %rax, %r8\n\t.rept 10\n\t" code "\n\t.endr\n\t" BELOW)
L2_BETWEEN(l2_cpuid, "xor %eax, %eax\n\tcpuid");
L2_BETWEEN(l2_rdmsr, "mov $0xc0000080, %ecx\n\trdmsr");
L2_CODE(l2_nothing, "");

static void do_cpuid(void)
{
	cpuid(0);
}

static void do_rdmsr(void)
{
	rdmsr(MSR_EFER);
}

static void do_wrmsr(void)
{
	wrmsr(MSR_VM_HSAVE_PA, rdmsr(MSR_VM_HSAVE_PA));
}

static void do_gif(void)
{
	clgi();
	stgi();
}

static void do_vmsave(void)
{
	vmsave((u64)&l2.vmcb);
	vmload((u64)&l2.vmcb);
}

static const struct kind {
	const char *name;
	void (*once)(void); /* in L1, */
	const u8 *in_l2;    /* or in L2 */
	u64 exits;	    /* of one */
} kinds[] = {
	{"CPUID", do_cpuid, NULL, 1},
	{"RDMSR", do_rdmsr, NULL, 1},
	{"RDMSR and WRMSR", do_wrmsr, NULL, 2},
	{"CLGI and STGI", do_gif, NULL, 2},
	{"VMSAVE and VMLOAD", do_vmsave, NULL, 2},
	{"CPUID in L2", NULL, l2_cpuid, 1},
	{"RDMSR in L2", NULL, l2_rdmsr, 1},
};

/* Accesses for ten of them, and for the exit of the second look. */
static u64 accesses_of(const struct kind *kind)
{
	u64 first;

	if (kind->in_l2) {
		CHECK_EQ(l2_run_from(kind->in_l2), VMEXIT_VMMCALL);
		return l2.vmcb.save.rax - l2.regs.r8;
	}
	first = below();
	for (u32 i = 0; i < REPEATS; i++)
		kind->once();
	return below() - first;
}

/* Whether counters are started and stopped one by one, and not by PerfCntGlobalCtl: found out by
 * is_counted(). */
static bool one_by_one;

static u64 writes_for(u64 counters)
{
	return one_by_one || !counters ? counters : 1;
}

static bool is_switched(void)
{
	return platform.backend == TALLY_BACKEND_SWITCHED;
}

static void run_counters(u32 counters, u64 eventsel)
{
	pmu_stop_all();
	for (u32 i = 0; i < counters; i++)
		wrmsr(MSR_PERFEVTSEL(i), eventsel);
}

static u64 accesses_of_transitions(void)
{
	u64 first;

	l2_reset(l2_nothing);
	first = below();
	for (u32 i = 0; i < REPEATS; i++) {
		l2.vmcb.save.rip = (u64)l2_nothing;
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	}
	return below() - first;
}

/* `writes`: what a stop or a start of all counters that run costs. */
static void check_kinds(u64 writes)
{
	/* a selector write is a trigger, and a counter that it starts at 0 may run one ahead until
	 * the next exit */
	cpuid(0);
	for (u32 i = 0; i < ARRAY_SIZE(kinds); i++)
		tap_equal(accesses_of(&kinds[i]), 2 * writes * (REPEATS * kinds[i].exits + 1),
			  kinds[i].name);
}

static void none_runs(const void *arg)
{
	(void)arg;
	pmu_stop_all();
	check_kinds(0);
}

static void six_run(const void *arg)
{
	(void)arg;
	run_counters(PMU_COUNTERS, SEL_INSTRUCTIONS);
	check_kinds(is_switched() ? writes_for(PMU_COUNTERS) : 0);
	pmu_stop_all();
}

/* Three of them run in L1, and another three in L2. */
static void settings_run(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	check_kinds(is_switched() ? writes_for(3) : 0);
	pmu_stop_all();
}

static void l2_counters(const void *arg)
{
	(void)arg;
	run_counters(PMU_COUNTERS, SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	for (u32 i = 0; i < ARRAY_SIZE(kinds); i++)
		tap_equal(accesses_of(&kinds[i]),
			  is_switched() && kinds[i].in_l2
				  ? 2 * writes_for(PMU_COUNTERS) * (REPEATS + 1)
				  : 0,
			  kinds[i].name);
	pmu_stop_all();
}

/* A VMRUN and the #VMEXIT after it, with counters that run in L2 only. */
static void transitions(const void *arg)
{
	(void)arg;
	for (u32 counters = 0; counters <= PMU_COUNTERS; counters++) {
		run_counters(counters, SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
		tap_equal(accesses_of_transitions(), 2ull * REPEATS * writes_for(counters),
			  "a VMRUN and its #VMEXIT");
	}
	pmu_stop_all();
}

/* Or all the rest would be 0 for want of somebody who counts. */
static void is_counted(const void *arg)
{
	u64 accesses;

	(void)arg;
	run_counters(PMU_COUNTERS, SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	accesses = accesses_of_transitions();
	one_by_one = accesses > 2ull * REPEATS;
	note("counters are started and stopped %s", one_by_one ? "one by one" : "by one write");
	CHECK_EQ(accesses, 2ull * REPEATS * writes_for(PMU_COUNTERS));
	pmu_stop_all();
}

static const struct {
	const char *name;
	void (*run)(const void *);
} steps[] = {
	{"accesses are counted below", is_counted},
	{"no counter runs", none_runs},
	{"six counters run", six_run},
	{"the four settings", settings_run},
	{"counters of L2 alone", l2_counters},
	{"VMRUN and #VMEXIT", transitions},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(steps));
	if (platform.depth < 2) {
		tap_skip_all("needs one of us under another");
		return;
	}
	if (platform.backend != TALLY_BACKEND_GUEST_ONLY && !is_switched()) {
		tap_skip_all("this hypervisor has no use for the PMU below");
		return;
	}
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(steps); i++)
		tap_run(steps[i].name, steps[i].run, NULL);
}

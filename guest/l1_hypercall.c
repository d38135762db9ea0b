/* SPDX-License-Identifier: MIT */
/*
 * The hypervisor's own interface, include/abi/hypercall.h: the CPUID leaves, every call with good
 * and bad arguments, by VMMCALL and by MSR, and who may call at all. What the trace records is
 * l1_trace's. VMMCALL needs no SVME=1 of L1: the CPU's own
 * SVME is 1 under any hypervisor, and a kernel that never switched SVM on must be able to call.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

L2_CODE(l2_exit, "");
L2_CODE(l2_hlt, "hlt");

#define PATTERN 0xa5
#define REFUSED (-(u64)E_RANGE)

static struct tally_status status ALIGNED(1024);
static u8 pages[3 * PAGE_SIZE] ALIGNED(4096);

static u64 status_to(u64 gpa)
{
	return (u64)hypercall(TALLY_CALL_STATUS, gpa, sizeof(status), 0);
}

static bool status_read(void)
{
	return CHECK_EQ(status_to((u64)&status), 0);
}

/* *rdx becomes what RDX returns. */
static u64 call_rdx(u64 call, u64 gpa, u64 bytes, u64 *rdx)
{
	u64 ret;

	asm volatile("vmmcall"
		     : "=a"(ret), "+d"(*rdx)
		     : "a"(call), "b"(gpa), "c"(bytes)
		     : "memory");
	return ret;
}

static u64 log_read(u64 gpa, u64 bytes, u64 *position)
{
	return call_rdx(TALLY_CALL_LOG_READ, gpa, bytes, position);
}

static void pattern_fill(void)
{
	for (u64 i = 0; i < sizeof(pages); i++)
		pages[i] = PATTERN;
}

static bool untouched(u64 first, u64 end)
{
	for (u64 i = first; i < end; i++)
		if (pages[i] != PATTERN)
			return CHECK_EQ(i, ~0ull);
	return true;
}

/* ---- CPUID ---- */

static void check_cpuid(const void *arg)
{
	struct cpuid top = cpuid(CPUID_HYPERVISOR), own = cpuid(TALLY_CPUID_STATUS);
	struct cpuid last = cpuid(CPUID_HYPERVISOR_LAST);

	(void)arg;
	CHECK(cpuid(CPUID_FEATURES).ecx & CPUID_1_ECX_HYPERVISOR);
	CHECK_EQ(top.eax, TALLY_CPUID_LAST);
	CHECK_EQ(top.ebx, TALLY_CPUID_EBX);
	CHECK_EQ(top.ecx, TALLY_CPUID_ECX);
	CHECK_EQ(top.edx, TALLY_CPUID_EDX);
	CHECK_EQ(own.eax, TALLY_ABI_VERSION);
	CHECK(own.ebx <= TALLY_BACKEND_SWITCHED);
	CHECK_EQ(own.ecx & ~0x00ffff0fu, 0);
	if (own.ecx & TALLY_STATUS_ECX_PMI_EXACT)
		CHECK(own.ebx == TALLY_BACKEND_CLOCK && (own.ecx & TALLY_STATUS_ECX_EXACT));
	CHECK(TALLY_STATUS_DEPTH(own.ecx) >= 1);
	if (TALLY_STATUS_DEPTH(own.ecx) == 1)
		CHECK_EQ(TALLY_STATUS_LOWEST_BACKEND(own.ecx), own.ebx);
	/* Without an exact clock an instruction has no fixed number of ticks. */
	CHECK(own.edx < 64);
	CHECK_EQ(last.eax | last.ebx | last.ecx | last.edx, 0);
	CHECK(status_read());
	CHECK_EQ(status.backend, own.ebx);
	CHECK_EQ(status.exact, own.ecx & 1);
}

/* ---- STATUS ---- */

static void check_status(const void *arg)
{
	u64 exits, transitions, svme_toggles;

	(void)arg;
	CHECK(status_read());
	CHECK_EQ(status.version, TALLY_ABI_VERSION);
	CHECK_EQ(status.counters, platform.pmu ? PMU_COUNTERS : 0);
	CHECK_EQ(status.region_gpa % PAGE_2M, 0);
	CHECK_EQ(status.region_bytes % PAGE_2M, 0);
	CHECK(status.region_gpa && status.region_bytes);
	CHECK(status.region_gpa + status.region_bytes <= 4 * PAGE_1G);
	CHECK_EQ(*(volatile u64 *)status.region_gpa, ~0ull);

	/* An exit of this call, and one of CPUID. */
	status_read();
	exits = status.exits;
	status_read();
	CHECK_EQ(status.exits, exits + 1);
	cpuid(0);
	status_read();
	CHECK_EQ(status.exits, exits + 3);

	transitions = status.transitions;
	svme_toggles = status.svme_toggles;
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	svm_disable();
	svm_enable();
	svm_enable();
	status_read();
	CHECK_EQ(status.transitions, transitions + 2);
	CHECK_EQ(status.svme_toggles, svme_toggles + 2);
}

static void check_status_shadow(const void *arg)
{
	u64 fills, flushes;

	(void)arg;
	status_read();
	fills = status.shadow_fills;
	flushes = status.shadow_flushes;
	for (u32 i = 0; i < 2; i++) {
		l2_reset(l2_exit);
		l2_use_npt();
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	}
	status_read();
	CHECK(status.shadow_fills > fills);
	CHECK(status.shadow_flushes > flushes);
	CHECK(status.shadow_pages);
}

/* One counter of each HostOnly/GuestOnly setting with EN, one without. */
static void check_status_counters(const void *arg)
{
	const u64 reserved = BIT(19) | BIT(21) | BITS(39, 36) | BITS(63, 42);
	u64 values[PMU_COUNTERS], writes, after;

	(void)arg;
	if (!platform.pmu) {
		tap_skip("no PMU");
		return;
	}
	status_read();
	writes = status.evtsel_writes;
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS | pmu_setting[i].bits | reserved);
	wrmsr(MSR_PERFEVTSEL(4), SEL_INSTRUCTIONS & ~EVTSEL_EN);
	wrmsr(MSR_PERFCTR(4), 0x123456789abcull);
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		values[i] = rdpmc(i);
	status_read();
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		u64 selector = SEL_INSTRUCTIONS | pmu_setting[i].bits;
		u64 hw = status.counter[i].eventsel_hw;
		bool counts = pmu_counts(selector, MODE_HOST);

		CHECK_EQ(status.counter[i].eventsel, selector);
		CHECK_EQ(!!(hw & EVTSEL_EN), counts);
		/* L0 must never be counted, whatever was asked for. */
		if (hw)
			CHECK_EQ(hw & EVTSEL_HOST_GUEST, EVTSEL_GUESTONLY);
		if (counts)
			CHECK_EQ(hw & ~(EVTSEL_EN | EVTSEL_HOST_GUEST),
				 selector & ~(EVTSEL_EN | EVTSEL_HOST_GUEST));
		after = rdpmc(i);
		if (counts)
			CHECK(values[i] < status.counter[i].value &&
			      status.counter[i].value < after);
		else
			CHECK_EQ(status.counter[i].value, after);
	}
	CHECK_EQ(status.counter[4].eventsel, SEL_INSTRUCTIONS & ~EVTSEL_EN);
	CHECK_EQ(status.counter[4].eventsel_hw & EVTSEL_EN, 0);
	CHECK_EQ(status.counter[4].value, 0x123456789abcull);
	CHECK_EQ(rdpmc(4), 0x123456789abcull);
	for (u32 i = PMU_COUNTERS; i < TALLY_MAX_COUNTERS; i++)
		CHECK_EQ(status.counter[i].eventsel | status.counter[i].eventsel_hw |
				 status.counter[i].value,
			 0);
	/* GuestOnly alone and HostOnly alone depend on the level; none and both do not. */
	CHECK_EQ(status.reprogram_pmc_on_nested_transition, BIT(1) | BIT(2));
	CHECK(status.evtsel_writes > writes);
	pmu_stop_all();
	status_read();
	CHECK_EQ(status.reprogram_pmc_on_nested_transition, 0);
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		CHECK_EQ(status.counter[i].eventsel, 0);
		CHECK_EQ(status.counter[i].eventsel_hw & EVTSEL_EN, 0);
		CHECK_EQ(status.counter[i].value, 0);
	}
}

static void check_status_buffers(const void *arg)
{
	const u64 start = (u64)pages, bytes = sizeof(struct tally_status);
	u64 hole_accesses;

	(void)arg;
	pattern_fill();
	for (u64 i = 1; i < 8; i++)
		CHECK_EQ(status_to(start + i), REFUSED);
	CHECK_EQ(status_to(start + PAGE_SIZE - 8), REFUSED);
	CHECK_EQ(status_to(start + PAGE_SIZE - bytes + 8), REFUSED);
	CHECK_EQ(status_to(BIT(platform.phys_bits)), REFUSED);
	CHECK_EQ(status_to(BIT(platform.phys_bits) | start), REFUSED);
	CHECK_EQ(status_to(BIT(63) | start), REFUSED);
	CHECK_EQ(status_to(~7ull), REFUSED);
	untouched(0, sizeof(pages));
	/* The last place of a page is a good one. */
	CHECK_EQ(status_to(start + PAGE_SIZE - bytes), 0);
	untouched(0, PAGE_SIZE - bytes);
	untouched(PAGE_SIZE, sizeof(pages));

	status_read();
	hole_accesses = status.hole_accesses;
	CHECK_EQ(status_to(status.region_gpa), REFUSED);
	CHECK_EQ(status_to(status.region_gpa + status.region_bytes - PAGE_SIZE), REFUSED);
	CHECK_EQ(*(volatile u64 *)status.region_gpa, ~0ull);
	CHECK_EQ(*(volatile u64 *)(status.region_gpa + status.region_bytes - PAGE_SIZE), ~0ull);
	status_read();
	CHECK(status.hole_accesses >= hole_accesses + 2);
}

/* RCX: none for version 1, and what does not fit is left out. */
static void check_status_sizes(const void *arg)
{
	const u64 sizes[] = {1, 8, 303, TALLY_STATUS_BYTES_V1, 305, sizeof(status), PAGE_SIZE};

	(void)arg;
	pattern_fill();
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)pages, 0, 0), 0);
	CHECK_EQ(((struct tally_status *)pages)->version, TALLY_ABI_VERSION);
	untouched(TALLY_STATUS_BYTES_V1, sizeof(pages));
	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 used = sizes[i] < sizeof(status) ? sizes[i] : sizeof(status);

		pattern_fill();
		CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)pages, sizes[i], 0), 0);
		/* no field is made of this pattern all through */
		if (!CHECK(pages[used - 1] != PATTERN) || !untouched(used, sizeof(pages)))
			note("that was RCX=%lu", sizes[i]);
	}
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)pages, PAGE_SIZE + 1, 0), REFUSED);
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)pages, ~0ull, 0), REFUSED);
	status_read();
	CHECK_EQ(status.bytes, sizeof(status));
}

/* What counter i's selector in the machine is at each level, against the truth table. */
static void check_at_levels(u32 settings)
{
	const enum pmu_mode modes[TALLY_LEVELS] = {MODE_SVME0, MODE_HOST, MODE_GUEST};

	for (u32 i = 0; i < settings; i++) {
		for (u32 level = 0; level < TALLY_LEVELS; level++) {
			u64 hw = status.eventsel_hw_at[i][level];

			CHECK_EQ(!!(hw & EVTSEL_EN), pmu_counts(pmu_setting[i].bits, modes[level]));
			CHECK_EQ(hw & ~EVTSEL_EN,
				 (SEL_INSTRUCTIONS & ~EVTSEL_EN) | EVTSEL_GUESTONLY);
		}
		CHECK_EQ(status.eventsel_hw_at[i][status.level], status.counter[i].eventsel_hw);
		CHECK_EQ(!!(status.counting & BIT(i)),
			 !!(status.counter[i].eventsel_hw & EVTSEL_EN));
	}
}

static void check_status_levels(const void *arg)
{
	(void)arg;
	if (!platform.pmu) {
		tap_skip("no PMU");
		return;
	}
	pmu_start_settings();
	status_read();
	CHECK_EQ(status.level, TALLY_LEVEL_L1);
	check_at_levels(PMU_SETTINGS);
	/* both bits under the manual's rule: SVME matters, the level does not */
	CHECK_EQ(status.reprogram_pmc_on_svme_toggle,
		 platform.svme0_count ? BIT(1) | BIT(2) : BIT(1) | BIT(2) | BIT(3));
	CHECK_EQ(status.reprogram_pending, 0);
	if (status.perfmon_v2) {
		CHECK_EQ(status.global_ctl, rdmsr(MSR_PERF_GLOBAL_CTL));
		wrmsr(MSR_PERF_GLOBAL_STATUS_SET, BIT(5));
		wrmsr(MSR_PERF_GLOBAL_CTL, BITS(5, 1));
		status_read();
		CHECK_EQ(status.global_ctl, BITS(5, 1));
		CHECK_EQ(status.global_status, BIT(5));
		CHECK_EQ(status.counting & BIT(0), 0);
		CHECK_EQ(status.eventsel_hw_at[0][TALLY_LEVEL_L2] & EVTSEL_EN, 0);
		wrmsr(MSR_PERF_GLOBAL_CTL, BITS(5, 0));
		wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BIT(5));
	}
	svm_disable();
	status_read();
	CHECK_EQ(status.level, TALLY_LEVEL_SVME0);
	check_at_levels(PMU_SETTINGS);
	svm_enable();
	pmu_stop_all();
	status_read();
	CHECK_EQ(status.counting, 0);
}

/* A selector that is right already is not written: what a round trip through L2 costs. */
static void check_status_commits(const void *arg)
{
	struct tally_status before;
	bool direct;

	(void)arg;
	if (!platform.pmu) {
		tap_skip("no PMU");
		return;
	}
	pmu_start_settings();
	for (u32 disabled = 0; disabled < 2; disabled++) {
		if (disabled)
			wrmsr(MSR_PERFEVTSEL(1), EVTSEL_GUESTONLY);
		status_read();
		before = status;
		CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
		status_read();
		/* one write of PerfCntGlobalCtl is no commit: no selector is looked at */
		direct = status.backend == TALLY_BACKEND_GUEST_ONLY &&
			 status.commits == before.commits;
		CHECK_EQ(status.transitions, before.transitions + 2);
		CHECK_EQ(status.commits, before.commits + (direct ? 0 : 2));
		CHECK_EQ(status.evtsel_writes, before.evtsel_writes + (direct	  ? 0
								       : disabled ? 2
										  : 4));
		CHECK_EQ(status.evtsel_elided,
			 before.evtsel_elided + (disabled && !direct ? 2 : 0));
	}
	pmu_stop_all();
	status_read();
	before = status;
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	status_read();
	CHECK_EQ(status.commits, before.commits);
}

/* ---- STATS ---- */

#define KINDS_MAX 256

static struct {
	u64 calls, kinds;
	struct tally_exit exit[KINDS_MAX];
} stats;

/* All kinds, in buffers of `bytes`. */
static bool stats_read(u64 bytes)
{
	const struct tally_stats *s = (const struct tally_stats *)pages;
	u64 rdx = 0, got;

	stats.calls = stats.kinds = 0;
	do {
		got = call_rdx(TALLY_CALL_STATS, (u64)pages, bytes, &rdx);
		stats.calls++;
		if (!CHECK_EQ(got, sizeof(*s) + s->kinds * sizeof(struct tally_exit)) ||
		    !CHECK(got <= bytes) || !CHECK(stats.kinds + s->kinds <= KINDS_MAX) ||
		    !CHECK_EQ(s->version, TALLY_ABI_VERSION) ||
		    !CHECK_EQ(s->header_bytes, sizeof(*s)) ||
		    !CHECK_EQ(s->kind_bytes, sizeof(struct tally_exit)))
			return false;
		for (u32 i = 0; i < s->kinds; i++)
			stats.exit[stats.kinds++] = s->exit[i];
	} while (rdx && CHECK(s->kinds > 0));
	return true;
}

static struct tally_exit stats_of(u64 code)
{
	for (u64 i = 0; i < stats.kinds; i++)
		if (stats.exit[i].code == code)
			return stats.exit[i];
	return (struct tally_exit){code, 0, 0, 0, 0};
}

static void check_stats(const void *arg)
{
	u64 cpuids, vmruns, sum = 0;

	(void)arg;
	CHECK(stats_read(PAGE_SIZE));
	cpuids = stats_of(VMEXIT_CPUID).exits;
	vmruns = stats_of(VMEXIT_VMRUN).exits;
	for (u32 i = 0; i < 10; i++)
		cpuid(0);
	for (u32 i = 0; i < 3; i++)
		CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	/* the one after which `sum` must be all exits */
	status_read();
	CHECK(stats_read(PAGE_SIZE));
	CHECK_EQ(stats.calls, 1);
	CHECK_EQ(stats_of(VMEXIT_CPUID).exits, cpuids + 10);
	CHECK_EQ(stats_of(VMEXIT_VMRUN).exits, vmruns + 3);
	for (u64 i = 0; i < stats.kinds; i++) {
		CHECK(stats.exit[i].exits);
		sum += stats.exit[i].exits;
	}
	CHECK_EQ(sum, status.exits + 1);
}

/* An exit code with all bits set, and a nested page fault: they have their own lines. */
static void check_stats_codes(const void *arg)
{
	u64 npfs;

	(void)arg;
	CHECK(stats_read(PAGE_SIZE));
	npfs = stats_of(VMEXIT_NPF).exits;
	l2_reset(l2_exit);
	l2_use_npt();
	l2_flush();
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK(stats_read(PAGE_SIZE));
	CHECK(stats_of(VMEXIT_NPF).exits > npfs);
	for (u64 i = 1; i < stats.kinds; i++)
		CHECK(stats.exit[i - 1].code < stats.exit[i].code);
}

static void check_stats_buffers(const void *arg)
{
	const u64 start = (u64)pages, head = sizeof(struct tally_stats);
	struct tally_exit all[KINDS_MAX];
	u64 kinds, rdx;

	(void)arg;
	CHECK(stats_read(PAGE_SIZE));
	kinds = stats.kinds;
	for (u64 i = 0; i < kinds; i++)
		all[i] = stats.exit[i];
	CHECK(kinds >= 3);
	/* one kind at a time, and with room to spare that is too small for one */
	for (u64 spare = 0; spare < sizeof(struct tally_exit); spare += 13) {
		CHECK(stats_read(head + sizeof(struct tally_exit) + spare));
		CHECK_EQ(stats.kinds, kinds);
		CHECK_EQ(stats.calls, kinds);
		for (u64 i = 0; i < kinds; i++)
			CHECK_EQ(stats.exit[i].code, all[i].code);
	}
	pattern_fill();
	for (u64 bytes = 0; bytes < head; bytes++) {
		rdx = 0;
		CHECK_EQ(call_rdx(TALLY_CALL_STATS, start, bytes, &rdx), REFUSED);
	}
	rdx = 0;
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, start + 4, PAGE_SIZE - 4, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, start, PAGE_SIZE + 8, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, start + 8, PAGE_SIZE, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, ~7ull, 64, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, status.region_gpa, 64, &rdx), REFUSED);
	CHECK_EQ(rdx, 0);
	untouched(0, sizeof(pages));
	/* the header alone fits, and RDX says where to go on */
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, start, head, &rdx), head);
	CHECK_EQ(((struct tally_stats *)pages)->kinds, 0);
	CHECK_EQ(rdx, all[0].code);
	untouched(head, sizeof(pages));
	/* RDX may be anything */
	for (u64 i = 0; i < 64; i++) {
		rdx = BIT(i) | i;
		CHECK(call_rdx(TALLY_CALL_STATS, start, 200, &rdx) <= 200);
	}
	rdx = VMEXIT_INVALID;
	CHECK_EQ(call_rdx(TALLY_CALL_STATS, start, 200, &rdx), head);
	CHECK_EQ(rdx, 0);
}

static u64 watch(u64 what)
{
	return (u64)hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, what);
}

static void check_stats_cost(const void *arg)
{
	struct tally_exit before, after;

	(void)arg;
	CHECK_EQ(watch(TALLY_WATCH_COST), 0);
	status_read();
	CHECK_EQ(status.watching, TALLY_WATCH_COST);
	for (u32 i = 0; i < 7; i++)
		cpuid(0);
	CHECK_EQ(watch(0), TALLY_WATCH_COST);
	stats_read(PAGE_SIZE);
	before = stats_of(VMEXIT_CPUID);
	CHECK_EQ(before.timed, 7);
	CHECK(before.exits > 7);
	CHECK(before.ticks_max && before.ticks_max <= before.ticks);
	CHECK(before.ticks <= 7 * before.ticks_max);
	/* the path without known_exit, on TCG some 200 to 400 instructions */
	note("CPUID costs %lu ticks", before.ticks / 7);
	/* off: nothing is timed, and what there is stays */
	cpuid(0);
	stats_read(PAGE_SIZE);
	after = stats_of(VMEXIT_CPUID);
	CHECK_EQ(after.exits, before.exits + 1);
	CHECK_EQ(after.timed, before.timed);
	CHECK_EQ(after.ticks, before.ticks);
	/* on again: it starts empty */
	CHECK_EQ(watch(TALLY_WATCH_COST), 0);
	CHECK_EQ(watch(0), TALLY_WATCH_COST);
	stats_read(PAGE_SIZE);
	CHECK_EQ(stats_of(VMEXIT_CPUID).timed, 0);
}

/* ---- TRACE_CONTROL and TRACE_READ, but for what is in the trace ---- */

#define INVALID (-(u64)E_INVAL)

static void check_trace_arguments(const void *arg)
{
	const u64 start = (u64)pages, head = sizeof(struct tally_trace);
	const struct tally_trace *t = (const struct tally_trace *)pages;
	u64 rdx;

	(void)arg;
	for (u64 i = 2; i < 64; i++)
		CHECK_EQ(watch(BIT(i) | (i & 3)), INVALID);
	status_read();
	CHECK_EQ(status.watching, 0);
	CHECK_EQ(watch(TALLY_WATCH_TRACE), 0);
	CHECK_EQ(watch(TALLY_WATCH_TRACE), TALLY_WATCH_TRACE);
	CHECK_EQ(watch(TALLY_WATCH_TRACE | TALLY_WATCH_COST), TALLY_WATCH_TRACE);
	CHECK_EQ(watch(TALLY_WATCH_TRACE), TALLY_WATCH_TRACE | TALLY_WATCH_COST);
	CHECK_EQ(watch(~0ull), INVALID);
	CHECK_EQ(watch(0), TALLY_WATCH_TRACE);
	CHECK_EQ(watch(0), 0);

	pattern_fill();
	for (u64 bytes = 0; bytes < head; bytes++) {
		rdx = 0;
		CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, start, bytes, &rdx), REFUSED);
	}
	CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, start + 1, 1024, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, start, PAGE_SIZE + 1, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, status.region_gpa, 64, &rdx), REFUSED);
	CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, ~0ull << 12, 64, &rdx), REFUSED);
	untouched(0, sizeof(pages));
	/* the header alone */
	rdx = 3;
	CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, start, head + 31, &rdx), head);
	CHECK_EQ(rdx, 3);
	CHECK_EQ(t->records, 0);
	CHECK_EQ(t->first, 3);
	CHECK_EQ(t->record_bytes, sizeof(struct tally_trace_record));
	untouched(head, sizeof(pages));
	/* the future */
	for (u64 i = 13; i < 64; i++) {
		rdx = BIT(i) + i;
		CHECK_EQ(call_rdx(TALLY_CALL_TRACE_READ, start, PAGE_SIZE, &rdx), head);
		CHECK_EQ(rdx, BIT(i) + i);
		CHECK_EQ(t->dropped, 0);
	}
}

/* ---- LOG_READ ---- */

static char text[2][96 * 1024];

/* The whole log in pieces; returns its bytes. */
static u64 read_log(char *to, u64 capacity, u64 piece)
{
	u64 position = 0, bytes = 0, got;

	do {
		u64 before = position;

		got = log_read((u64)pages, piece, &position);
		if (!CHECK(got <= piece) || !CHECK_EQ(position, before + got) ||
		    !CHECK(bytes + got <= capacity))
			return bytes;
		for (u64 i = 0; i < got; i++)
			to[bytes++] = (char)pages[i];
	} while (got);
	return bytes;
}

static bool contains(const char *in, u64 bytes, const char *what)
{
	for (u64 i = 0; i < bytes; i++) {
		u64 n = 0;

		while (i + n < bytes && what[n] && in[i + n] == what[n])
			n++;
		if (!what[n])
			return true;
	}
	return false;
}

static void check_log(const void *arg)
{
	const u64 pieces[] = {1, 7, 61, 509, 1021, PAGE_SIZE - 1, PAGE_SIZE};
	u64 bytes;

	(void)arg;
	bytes = read_log(text[0], sizeof(text[0]), 333);
	CHECK(contains(text[0], bytes, "event=start"));
	CHECK(bytes && text[0][bytes - 1] == '\n');
	/* Reading writes nothing to the log, so it stays the same. */
	for (u32 i = 0; i < ARRAY_SIZE(pieces); i++) {
		u64 n = 0, again = read_log(text[1], sizeof(text[1]), pieces[i]);

		CHECK_EQ(again, bytes);
		while (n < bytes && n < again && text[0][n] == text[1][n])
			n++;
		CHECK_EQ(n, bytes);
	}
	note("the log has %lu bytes", bytes);
}

static void check_log_positions(const void *arg)
{
	const u64 bytes = read_log(text[0], sizeof(text[0]), PAGE_SIZE);
	const u64 future[] = {bytes, bytes + 1, bytes + BIT(16), BIT(63), ~0ull};
	u64 position;

	(void)arg;
	pattern_fill();
	for (u32 i = 0; i < ARRAY_SIZE(future); i++) {
		position = future[i];
		CHECK_EQ(log_read((u64)pages, PAGE_SIZE, &position), 0);
		CHECK_EQ(position, future[i]);
	}
	untouched(0, sizeof(pages));
	position = bytes - 5;
	CHECK_EQ(log_read((u64)pages + 17, 100, &position), 5);
	CHECK_EQ(position, bytes);
	untouched(0, 17);
	untouched(17 + 5, sizeof(pages));
	for (u32 i = 0; i < 5; i++)
		CHECK_EQ(pages[17 + i], (u8)text[0][bytes - 5 + i]);
}

static void check_log_buffers(const void *arg)
{
	const u64 start = (u64)pages;
	u64 position, got;
	const struct {
		u64 gpa, bytes;
	} bad[] = {
		{start, 0},
		{start, PAGE_SIZE + 1},
		{start, 2 * PAGE_SIZE},
		{start, ~0ull},
		{start, BIT(63)},
		{start + 1, PAGE_SIZE},
		{start + PAGE_SIZE - 1, 2},
		{start + PAGE_SIZE - 100, 101},
		{BIT(platform.phys_bits), 1},
		{BIT(platform.phys_bits) | start, 16},
		{BIT(63) | start, 16},
		{~0ull, 1},
		{status.region_gpa, 1},
		{status.region_gpa + status.region_bytes - 1, 1},
		{status.region_gpa + PAGE_SIZE, PAGE_SIZE},
	};

	(void)arg;
	pattern_fill();
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		position = 3;
		if (!CHECK_EQ(log_read(bad[i].gpa, bad[i].bytes, &position), REFUSED) ||
		    !CHECK_EQ(position, 3))
			note("that was %lu bytes at 0x%lx", bad[i].bytes, bad[i].gpa);
	}
	untouched(0, sizeof(pages));
	/* The last byte of a page, and exactly one page, are good ones. */
	position = 0;
	CHECK_EQ(log_read(start + PAGE_SIZE - 1, 1, &position), 1);
	position = 0;
	got = log_read(start + PAGE_SIZE, PAGE_SIZE, &position);
	CHECK(got > 0);
	CHECK_EQ(got, position);
}

/* ---- who may call ---- */

static void call(const void *arg)
{
	hypercall(*(const u64 *)arg, (u64)&status, sizeof(status), 0);
}

static void check_unknown(const void *arg)
{
	const u64 unknown[] = {
		0,
		1,
		TALLY_CALL(0),
		TALLY_CALL(8),
		TALLY_CALL(TALLY_CALLS - 1),
		TALLY_CALL(TALLY_CALLS),
		TALLY_CALL(~0u),
		TALLY_CALL_BASE - 1,
		TALLY_CALL_STATUS & ~0u,
		TALLY_CALL_STATUS | BIT(63),
		~0ull,
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(unknown); i++)
		if (!CHECK_EQ(try_call(call, &unknown[i]), VEC_UD))
			note("RAX was 0x%lx", unknown[i]);
}

static const u64 known[] = {TALLY_CALL_STATUS,	   TALLY_CALL_LOG_READ,	  TALLY_CALL_STATS,
			    TALLY_CALL_FILTER_SET, TALLY_CALL_FILTER_GET, TALLY_CALL_TRACE_CONTROL,
			    TALLY_CALL_TRACE_READ};

static void check_user(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(known); i++) {
		status.version = 0;
		CHECK_EQ(try_user(call, &known[i]), VEC_UD);
		CHECK_EQ(status.version, 0);
		CHECK_EQ(try_call(call, &known[i]), VEC_NONE);
		status_read();
	}
}

/* L1 does not intercept VMMCALL: #UD, as L1's exit or through L2's own IDT. */
static void check_l2(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < 2 * ARRAY_SIZE(known); i++) {
		bool to_l1 = i % 2;

		l2_reset(l2_exit);
		vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT(VMMCALL));
		l2.vmcb.save.rax = known[i / 2];
		l2.regs.rbx = (u64)&status;
		l2.regs.rcx = sizeof(status);
		status.version = 0;
		if (to_l1) {
			l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
			CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_UD));
			CHECK_EQ(l2.vmcb.save.rip, (u64)l2_exit);
		} else {
			l2_catch_events();
			idt_gate_set(&l2.idt[VEC_UD], l2_hlt, 0);
			l2_intercept(INTERCEPT(HLT));
			CHECK_EQ(l2_run(), VMEXIT_HLT);
			CHECK_EQ(*(u64 *)l2.vmcb.save.rsp, (u64)l2_exit);
		}
		CHECK_EQ(l2.vmcb.save.rax, known[i / 2]);
		CHECK_EQ(status.version, 0);
	}
	status_read();
}

static void check_svme0(const void *arg)
{
	u64 position = 0;

	(void)arg;
	svm_disable();
	status.version = 0;
	CHECK_EQ(status_to((u64)&status), 0);
	CHECK_EQ(status.version, TALLY_ABI_VERSION);
	CHECK_EQ(log_read((u64)pages, 8, &position), 8);
	CHECK_EQ(status_to((u64)&status + 1), REFUSED);
	CHECK_EQ(try_call(call, &(u64){0}), VEC_UD);
	CHECK_EQ(try_user(call, &known[0]), VEC_UD);
	svm_enable();
}

/* ---- the same by MSR ---- */

#define CALL_NUMBER(call) ((u32)((call)-TALLY_CALL_BASE))
#define MSR_OF(call) TALLY_MSR_CALL(CALL_NUMBER(call))

static void msr_fetch(void *to, u64 bytes)
{
	for (u64 i = 0; i < bytes / 8; i++)
		((u64 *)to)[i] = rdmsr(TALLY_MSR_DATA);
}

static void check_msr_status(const void *arg)
{
	struct tally_status by_msr;

	(void)arg;
	if (platform.pmu)
		pmu_start_settings();
	CHECK_EQ(rdmsr(TALLY_MSR_VERSION), TALLY_ABI_VERSION);
	status_read();
	CHECK_EQ(rdmsr(MSR_OF(TALLY_CALL_STATUS)), 0);
	msr_fetch(&by_msr, sizeof(by_msr));
	CHECK_EQ(by_msr.exits, status.exits + 1);
	CHECK_EQ(by_msr.bytes, sizeof(by_msr));
	by_msr.exits = status.exits;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		CHECK(by_msr.counter[i].value >= status.counter[i].value);
		by_msr.counter[i].value = status.counter[i].value;
	}
	for (u64 i = 0; i < sizeof(status) / 8; i++)
		if (!CHECK_EQ(((u64 *)&by_msr)[i], ((u64 *)&status)[i]))
			note("that was byte %lu", 8 * i);
	if (platform.pmu)
		pmu_stop_all();
}

static void check_msr_log(const void *arg)
{
	const u64 bytes = read_log(text[0], sizeof(text[0]), PAGE_SIZE);
	u64 got, at = 0;

	(void)arg;
	wrmsr(TALLY_MSR_VERSION, 0);
	while ((got = rdmsr(MSR_OF(TALLY_CALL_LOG_READ))) && CHECK(got <= PAGE_SIZE) &&
	       CHECK(at + got <= bytes)) {
		CHECK_EQ(rdmsr(TALLY_MSR_RESULT), got);
		CHECK_EQ(rdmsr(TALLY_MSR_RDX), at + got);
		msr_fetch(pages, ALIGN_UP(got, 8));
		for (u64 i = 0; i < got; i++)
			text[1][at++] = (char)pages[i];
	}
	CHECK_EQ(at, bytes);
	for (u64 i = 0; i < bytes; i++)
		if (text[0][i] != text[1][i] && !CHECK_EQ(i, bytes))
			break;
	/* WRMSR chooses the position */
	wrmsr(MSR_OF(TALLY_CALL_LOG_READ), bytes - 8);
	CHECK_EQ(rdmsr(TALLY_MSR_RESULT), 8);
	CHECK_EQ(rdmsr(TALLY_MSR_DATA), *(u64 *)(text[0] + bytes - 8));
}

/* DATA goes round, and every call puts it back to the start. */
static void check_msr_data(const void *arg)
{
	(void)arg;
	rdmsr(TALLY_MSR_VERSION);
	for (u64 i = 0; i < PAGE_SIZE / 8; i++)
		wrmsr(TALLY_MSR_DATA, i * 0x0101010101010101ull);
	for (u64 round = 0; round < 2; round++)
		for (u64 i = 0; i < PAGE_SIZE / 8; i++)
			CHECK_EQ(rdmsr(TALLY_MSR_DATA), i * 0x0101010101010101ull);
	wrmsr(TALLY_MSR_DATA, 1);
	wrmsr(MSR_OF(TALLY_CALL_TRACE_CONTROL), ~0ull);
	CHECK_EQ(rdmsr(TALLY_MSR_RESULT), INVALID);
	CHECK_EQ(rdmsr(TALLY_MSR_RDX), ~0ull);
	CHECK_EQ(rdmsr(TALLY_MSR_DATA), 1);
	CHECK_EQ(rdmsr(TALLY_MSR_VERSION), TALLY_ABI_VERSION);
	CHECK_EQ(rdmsr(TALLY_MSR_RESULT), 0);
	CHECK_EQ(rdmsr(TALLY_MSR_RDX), 0);
}

static void read_msr(const void *arg)
{
	rdmsr(*(const u32 *)arg);
}

static void write_msr(const void *arg)
{
	wrmsr(*(const u32 *)arg, 0);
}

static bool is_call(u32 number)
{
	for (u32 i = 0; i < ARRAY_SIZE(known); i++)
		if (number == CALL_NUMBER(known[i]))
			return true;
	return false;
}

static void check_msr_faults(const void *arg)
{
	const u32 control = MSR_OF(TALLY_CALL_TRACE_CONTROL),
		  filter = MSR_OF(TALLY_CALL_FILTER_SET);

	(void)arg;
	for (u32 msr = TALLY_MSR_VERSION; msr < TALLY_MSR_CALL(TALLY_CALLS); msr++) {
		bool data = msr <= TALLY_MSR_RDX, call = msr >= TALLY_MSR_CALL(0);

		CHECK_EQ(try_user(read_msr, &msr), VEC_GP);
		CHECK_EQ(try_user(write_msr, &msr), VEC_GP);
		if (call && is_call(msr - TALLY_MSR_CALL(0)))
			continue;
		CHECK_EQ(try_call(read_msr, &msr), data ? VEC_NONE : VEC_GP);
		CHECK_EQ(try_call(write_msr, &msr),
			 data && msr != TALLY_MSR_RESULT ? VEC_NONE : VEC_GP);
	}
	/* they change something, which a read must not */
	CHECK_EQ(try_call(read_msr, &control), VEC_GP);
	CHECK_EQ(try_call(read_msr, &filter), VEC_GP);
}

L2_CODE(l2_rdmsr, "rdmsr");
L2_CODE(l2_wrmsr, "xor %eax, %eax\n\txor %edx, %edx\n\twrmsr");

/* L2 has none of them, whether L1 intercepts MSRs or not. */
static void check_msr_l2(const void *arg)
{
	const u32 msrs[] = {TALLY_MSR_VERSION, TALLY_MSR_DATA, TALLY_MSR_RDX,
			    MSR_OF(TALLY_CALL_STATUS), MSR_OF(TALLY_CALL_TRACE_CONTROL)};

	(void)arg;
	for (u32 i = 0; i < 4 * ARRAY_SIZE(msrs); i++) {
		l2_reset(i & 1 ? l2_wrmsr : l2_rdmsr);
		l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
		if (i & 2)
			l2_intercept(INTERCEPT(MSR));
		l2.regs.rcx = msrs[i / 4];
		CHECK_EQ(l2_run(), i & 2 ? (u64)VMEXIT_MSR : VMEXIT_EXCEPTION(VEC_GP));
	}
}

static void access_msr(const void *arg)
{
	const u64 *access = arg;

	if (access[0] & 1)
		wrmsr((u32)access[1], access[2]);
	else
		rdmsr((u32)access[1]);
}

static const struct tally_filter all_events ALIGNED(1024) = {.version = TALLY_FILTER_VERSION,
							     .action = TALLY_FILTER_OFF};

/* Whatever is done to them: nothing but #GP comes of it, and everything works afterwards. */
static void check_msr_random(const void *arg)
{
	u64 x = 88172645463325252ull, access[3], faults = 0;

	(void)arg;
	for (u32 i = 0; i < 20000; i++) {
		for (u32 j = 0; j < 3; j++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			access[j] = x;
		}
		access[1] = TALLY_MSR_VERSION + access[1] % 0x40;
		access[2] >>= access[0] >> 8 & 63;
		if (try_call(access_msr, access) != VEC_NONE && CHECK_EQ(trap_info.vector, VEC_GP))
			faults++;
	}
	CHECK(faults > 1000 && faults < 19000);
	watch(0);
	CHECK_EQ((u64)hypercall(TALLY_CALL_FILTER_SET, (u64)&all_events, sizeof(all_events), 0), 0);
	check_msr_status(NULL);
	check_msr_log(NULL);
	check_stats(NULL);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"CPUID 4000_0000, 4000_0001, 4000_00FF and 1", check_cpuid},
	{"STATUS: the region, exits, transitions", check_status},
	{"STATUS: the shadow of nested paging", check_status_shadow},
	{"STATUS: counters", check_status_counters},
	{"STATUS: bad buffers", check_status_buffers},
	{"STATUS: sizes", check_status_sizes},
	{"STATUS: selectors at each level", check_status_levels},
	{"STATUS: commits, selector writes done and elided", check_status_commits},
	{"STATS: exits of each kind", check_stats},
	{"STATS: nested page faults, order", check_stats_codes},
	{"STATS: small and bad buffers", check_stats_buffers},
	{"STATS: what exits cost, while that is asked for", check_stats_cost},
	{"TRACE_CONTROL, TRACE_READ: arguments", check_trace_arguments},
	{"LOG_READ: in pieces of any size", check_log},
	{"LOG_READ: positions", check_log_positions},
	{"LOG_READ: bad buffers", check_log_buffers},
	{"an unknown call is #UD", check_unknown},
	{"#UD at CPL 3", check_user},
	{"#UD in L2", check_l2},
	{"a call with SVME=0 works", check_svme0},
	{"MSR: STATUS", check_msr_status},
	{"MSR: LOG_READ", check_msr_log},
	{"MSR: DATA, RESULT, RDX, VERSION", check_msr_data},
	{"MSR: #GP at CPL 3, and of those that there are not", check_msr_faults},
	{"MSR: #GP in L2", check_msr_l2},
	{"MSR: random accesses", check_msr_random},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!platform.under_us) {
		tap_skip_all("not under Tallyvisor");
		return;
	}
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

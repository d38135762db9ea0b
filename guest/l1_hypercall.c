/* SPDX-License-Identifier: MIT */
/*
 * The hypervisor's own interface, include/abi/hypercall.h: the CPUID leaves, STATUS and LOG_READ
 * with good and bad buffers, and who may call at all. VMMCALL needs no SVME=1 of L1: the CPU's own
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

static struct tally_status status ALIGNED(512);
static u8 pages[3 * PAGE_SIZE] ALIGNED(4096);

static u64 status_to(u64 gpa)
{
	return (u64)hypercall(TALLY_CALL_STATUS, gpa, 0, 0);
}

static bool status_read(void)
{
	return CHECK_EQ(status_to((u64)&status), 0);
}

/* LOG_READ; *position becomes what RDX returns. */
static u64 log_read(u64 gpa, u64 bytes, u64 *position)
{
	u64 ret;

	asm volatile("vmmcall"
		     : "=a"(ret), "+d"(*position)
		     : "a"(TALLY_CALL_LOG_READ), "b"(gpa), "c"(bytes)
		     : "memory");
	return ret;
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
	CHECK_EQ(own.ecx & ~0x00ffff03u, 0);
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
		TALLY_CALL(3),
		TALLY_CALL(~0u),
		TALLY_CALL_STATUS & ~0u,
		TALLY_CALL_STATUS | BIT(63),
		~0ull,
	};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(unknown); i++)
		if (!CHECK_EQ(try_call(call, &unknown[i]), VEC_UD))
			note("RAX was 0x%lx", unknown[i]);
}

static const u64 known[] = {TALLY_CALL_STATUS, TALLY_CALL_LOG_READ};

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

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"CPUID 4000_0000, 4000_0001, 4000_00FF and 1", check_cpuid},
	{"STATUS: the region, exits, transitions", check_status},
	{"STATUS: the shadow of nested paging", check_status_shadow},
	{"STATUS: counters", check_status_counters},
	{"STATUS: bad buffers", check_status_buffers},
	{"LOG_READ: in pieces of any size", check_log},
	{"LOG_READ: positions", check_log_positions},
	{"LOG_READ: bad buffers", check_log_buffers},
	{"an unknown call is #UD", check_unknown},
	{"#UD at CPL 3", check_user},
	{"#UD in L2", check_l2},
	{"a call with SVME=0 works", check_svme0},
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

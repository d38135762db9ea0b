/* SPDX-License-Identifier: MIT */
/*
 * The trace, include/abi/hypercall.h: the demo's phases leave exactly the records that they must, and what the records
 * say of when a counter ran adds up to what it counted, to the instruction. A ring that is too small says what it lost.
 */
#include "abi/hypercall.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/msr.h"

#define RECORDS_MAX 16384

static struct tally_trace_record trace[RECORDS_MAX];
static u64 records, dropped;
static u8 page[PAGE_SIZE] ALIGNED(4096);
static struct pmu_sample sample;

L2_CODE(l2_exit, "");

static void l2_sample(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void watch(u64 what)
{
	CHECK((u64)hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, what) <= TALLY_WATCH_TRACE);
}

/* All of it, in buffers of `bytes`. */
static void trace_read(u64 bytes)
{
	const struct tally_trace *t = (const struct tally_trace *)page;
	u64 number = 0, ret;

	records = dropped = 0;
	do {
		u64 asked = number;

		asm volatile("vmmcall"
			     : "=a"(ret), "+d"(number)
			     : "a"(TALLY_CALL_TRACE_READ), "b"(page), "c"(bytes)
			     : "memory");
		if (!CHECK_EQ(ret, sizeof(*t) + t->records * sizeof(trace[0])) ||
		    !CHECK(ret <= bytes) || !CHECK(records + t->records <= RECORDS_MAX))
			return;
		CHECK_EQ(t->first, asked + t->dropped);
		CHECK_EQ(number, t->first + t->records);
		dropped += t->dropped;
		for (u32 i = 0; i < t->records; i++)
			trace[records++] = t->record[i];
	} while (t->records);
	CHECK_EQ(t->written, records + dropped);
}

static void show(u64 first, u64 end)
{
	for (u64 i = first; i < end && i < records; i++)
		note("%lu: time %lu kind %u level %u counter %u counters 0x%x value 0x%lx", i,
		     trace[i].time, trace[i].kind, trace[i].level, trace[i].counter,
		     trace[i].counters, trace[i].value);
}

/* ---- what the demo does ---- */

static void phases(void)
{
	svm_disable();
	pmu_sample_rdpmc(&sample);
	svm_enable();
	pmu_sample_rdpmc(&sample);
	CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
	pmu_sample_rdpmc(&sample);
	svm_disable();
	pmu_sample_rdpmc(&sample);
	svm_enable();
}

/* The records about levels and about what the machine did for them: what the phases must leave. */
static void check_phases(const void *arg)
{
	const struct {
		u8 kind, level;
		u64 value;
		u32 counters;
	} want[] = {
		/* clang-format off */
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_SVME0, 0xcull << 32, 0x1},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_SVME0, VMEXIT_MSR, 0x1},
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_L1, 0xc, 0xd},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_L1, VMEXIT_MSR, 0xd},
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_L2, 0x2 | 0x4ull << 32, 0xb},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_L2, VMEXIT_VMRUN, 0xb},
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_L1, 0x4 | 0x2ull << 32, 0xd},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_L1, VMEXIT_VMMCALL, 0xd},
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_SVME0, 0xcull << 32, 0x1},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_SVME0, VMEXIT_MSR, 0x1},
		{TALLY_TRACE_ENABLES, TALLY_LEVEL_L1, 0xc, 0xd},
		{TALLY_TRACE_LEVEL, TALLY_LEVEL_L1, VMEXIT_MSR, 0xd},
		/* clang-format on */
	};
	u64 at = 0;

	(void)arg;
	pmu_start_settings();
	watch(TALLY_WATCH_TRACE);
	phases();
	watch(0);
	pmu_stop_all();
	trace_read(PAGE_SIZE);
	CHECK_EQ(dropped, 0);
	/* START, each selector and counter; and at the end each counter, STOP */
	CHECK_EQ(records, 1 + 2 * PMU_COUNTERS + ARRAY_SIZE(want) + PMU_COUNTERS + 1);
	CHECK_EQ(trace[0].kind, TALLY_TRACE_START);
	CHECK_EQ(trace[0].level, TALLY_LEVEL_L1);
	CHECK_EQ(trace[0].counters, 0xd);
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		const struct tally_trace_record *r = &trace[1 + i];

		CHECK_EQ(r->kind, TALLY_TRACE_EVENTSEL);
		CHECK_EQ(r->counter, i);
		CHECK_EQ(r->value, i < PMU_SETTINGS ? SEL_INSTRUCTIONS | pmu_setting[i].bits : 0);
		CHECK_EQ(r[PMU_COUNTERS].kind, TALLY_TRACE_COUNTER);
		CHECK_EQ(r[PMU_COUNTERS].counter, i);
	}
	at = 1 + 2 * PMU_COUNTERS;
	for (u32 i = 0; i < ARRAY_SIZE(want); i++, at++) {
		bool ok = CHECK_EQ(trace[at].kind, want[i].kind) &&
			  CHECK_EQ(trace[at].level, want[i].level) &&
			  CHECK_EQ(trace[at].value, want[i].value) &&
			  CHECK_EQ(trace[at].counters, want[i].counters);

		if (!ok)
			show(at, at + 1);
	}
	CHECK_EQ(trace[records - 1].kind, TALLY_TRACE_STOP);
}

/* ---- intervals against counts ---- */

/* What each counter must hold at STOP, by when it ran. Only the trace is looked at. */
static void check_sums(void)
{
	u64 count[PMU_COUNTERS] = {0}, since[PMU_COUNTERS] = {0}, ticks = trace[0].value;
	u64 stops = 0, last = 0;
	u32 running = 0;

	if (!CHECK(ticks))
		return;
	for (u64 i = 0; i < records; i++) {
		const struct tally_trace_record *r = &trace[i];
		u32 changed = running ^ r->counters;

		CHECK(r->tsc >= last);
		last = r->tsc;
		/* a LEVEL says when the level began, which is not after the records before it */
		if (r->kind != TALLY_TRACE_LEVEL) {
			for (u32 n = 0; n < PMU_COUNTERS; n++) {
				if (!(changed & BIT(n)))
					continue;
				if (r->counters & BIT(n))
					since[n] = r->time;
				else
					count[n] += (r->time - since[n]) / ticks;
			}
			running = r->counters;
		}
		if (r->kind != TALLY_TRACE_COUNTER)
			continue;
		/* the last ones are of STOP: what is there must be what the intervals say */
		if (records - 1 - i <= PMU_COUNTERS) {
			u64 got = count[r->counter];

			if (running & BIT(r->counter))
				got += (r->time - since[r->counter]) / ticks;
			if (!tap_equal(got & PMU_COUNTER_MASK, r->value, "a counter"))
				note("that was counter %u", r->counter);
			stops++;
		} else {
			count[r->counter] = r->value;
			since[r->counter] = r->time;
		}
	}
	CHECK_EQ(stops, PMU_COUNTERS);
}

static void check_intervals(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	watch(TALLY_WATCH_TRACE);
	phases();
	/* a selector and a counter that the guest writes on the way */
	wrmsr(MSR_PERFEVTSEL(4), SEL_INSTRUCTIONS | EVTSEL_HOSTONLY);
	wrmsr(MSR_PERFCTR(0), 0x123456);
	for (u32 i = 0; i < 20; i++)
		CHECK_EQ(l2_run_from(i % 3 ? l2_exit : (const void *)l2_sample), VMEXIT_VMMCALL);
	wrmsr(MSR_PERFCTR(1), PMU_COUNTER_MASK - 5);
	phases();
	wrmsr(MSR_PERFEVTSEL(4), 0);
	wrmsr(MSR_PERFEVTSEL(2), SEL_INSTRUCTIONS | EVTSEL_GUESTONLY);
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	watch(0);
	pmu_stop_all();
	trace_read(sizeof(struct tally_trace) + 3 * sizeof(trace[0]));
	CHECK_EQ(dropped, 0);
	check_sums();
}

/* All exits take another way, of which nothing may be counted. */
static void check_exact(const void *arg)
{
	(void)arg;
	if (!platform.exact) {
		tap_skip("counts are not exact");
		return;
	}
	pmu_start_settings();
	watch(TALLY_WATCH_TRACE);
	for (u32 round = 0; round < 3; round++) {
		pmu_sample_rdpmc(&sample);
		for (u32 i = 0; i < PMU_SETTINGS; i++)
			CHECK_EQ(pmu_moved(&sample, i), pmu_counts(pmu_setting[i].bits, MODE_HOST)
								? PMU_SAMPLE_INSTRUCTIONS
								: 0);
		CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
		for (u32 i = 0; i < PMU_SETTINGS; i++)
			CHECK_EQ(pmu_moved(&sample, i), pmu_counts(pmu_setting[i].bits, MODE_GUEST)
								? PMU_SAMPLE_INSTRUCTIONS
								: 0);
	}
	watch(0);
	pmu_stop_all();
}

/* Counter 3 carries, and the trace goes on. */
static void overflow_traced(void)
{
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ~0ull);
	wrmsr(MSR_PERFCTR(3), PMU_COUNTER_MASK - 100);
	wrmsr(MSR_PERFEVTSEL(3), SEL_INSTRUCTIONS);
	watch(TALLY_WATCH_TRACE);
	pmu_sample_rdpmc(&sample);
}

static void check_overflow(const void *arg)
{
	u64 found = 0;

	(void)arg;
	overflow_traced();
	CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS), BIT(3));
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BIT(3));
	pmu_sample_rdpmc(&sample);
	rdmsr(MSR_PERF_GLOBAL_STATUS);
	watch(0);
	pmu_stop_all();
	trace_read(PAGE_SIZE);
	for (u64 i = 0; i < records; i++) {
		if (trace[i].kind != TALLY_TRACE_OVERFLOW)
			continue;
		CHECK_EQ(trace[i].value, BIT(3));
		found++;
	}
	CHECK_EQ(found, 1);
}

/* One that the backend comes across by itself is recorded then, and not only when somebody asks for it. */
static void check_overflow_found(const void *arg)
{
	u64 overflow = 0, marker = 0;

	(void)arg;
	overflow_traced();
	wrmsr(MSR_PERFCTR(3), 7); /* the carry has to be seen before it */
	wrmsr(MSR_PERFEVTSEL(5), EVENT_CYCLES_NOT_HALTED);
	CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS), BIT(3));
	watch(0);
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ~0ull);
	trace_read(PAGE_SIZE);
	for (u64 i = 1 + 2 * PMU_COUNTERS; i < records; i++) {
		if (trace[i].kind == TALLY_TRACE_OVERFLOW && trace[i].value == BIT(3) && !overflow)
			overflow = i;
		if (trace[i].kind == TALLY_TRACE_EVENTSEL && trace[i].counter == 5)
			marker = i;
	}
	CHECK(overflow && marker);
	/* the hardware's counters are written without an exit */
	if (platform.backend == TALLY_BACKEND_GUEST_ONLY)
		CHECK(overflow > marker);
	else
		CHECK(overflow < marker);
}

/* The clock would stand still then, were it for the counters alone. */
static void check_time(const void *arg)
{
	u64 ticks;

	(void)arg;
	pmu_stop_all();
	watch(TALLY_WATCH_TRACE);
	pmu_sample_rdpmc(&sample);
	svm_disable();
	pmu_sample_rdpmc(&sample);
	svm_enable();
	watch(0);
	trace_read(PAGE_SIZE);
	CHECK_EQ(records, 1 + 2 * PMU_COUNTERS + 2 + PMU_COUNTERS + 1);
	ticks = trace[0].value;
	CHECK(trace[13].time - trace[0].time >= ticks * PMU_SAMPLE_INSTRUCTIONS);
	CHECK(trace[13].time - trace[0].time < ticks * 2 * PMU_SAMPLE_INSTRUCTIONS);
	CHECK(trace[14].time - trace[13].time >= ticks * PMU_SAMPLE_INSTRUCTIONS);
	CHECK(trace[14].time - trace[13].time < ticks * 2 * PMU_SAMPLE_INSTRUCTIONS);
}

/* More than the ring holds: the newest are there, and the number of the others is right. */
static void check_dropped(const void *arg)
{
	u64 levels = 0;

	(void)arg;
	pmu_start_settings();
	watch(TALLY_WATCH_TRACE);
	for (u32 i = 0; i < 5000; i++)
		l2_run_from(l2_exit);
	watch(0);
	pmu_stop_all();
	trace_read(PAGE_SIZE);
	CHECK_EQ(records + dropped, 1 + 2 * PMU_COUNTERS + 5000 * 4 + PMU_COUNTERS + 1);
	CHECK(dropped > 1000);
	CHECK(records >= 4096);
	CHECK_EQ(trace[records - 1].kind, TALLY_TRACE_STOP);
	for (u64 i = 1; i < records; i++)
		CHECK(trace[i].tsc >= trace[i - 1].tsc);
	for (u64 i = 0; i < records; i++)
		levels += trace[i].kind == TALLY_TRACE_LEVEL;
	CHECK(levels > records / 2 - PMU_COUNTERS && levels <= records / 2);
	/* and begun again, it is empty */
	watch(TALLY_WATCH_TRACE);
	watch(0);
	trace_read(PAGE_SIZE);
	CHECK_EQ(records, 1 + 2 * PMU_COUNTERS + PMU_COUNTERS + 1);
	CHECK_EQ(dropped, 0);
}

static const struct {
	const char *name;
	void (*run)(const void *);
	bool exact; /* needs the backend clock, exact */
} cases[] = {
	{"the demo's phases leave these records and no others", check_phases, false},
	{"when a counter ran adds up to what it counted", check_intervals, true},
	{"counts are the same with the trace on", check_exact, false},
	{"overflow", check_overflow, false},
	{"overflow that nobody has asked for", check_overflow_found, false},
	{"time goes on while no counter runs", check_time, true},
	{"a full ring drops the oldest, and says how many", check_dropped, false},
};

static void not_here(const void *arg)
{
	(void)arg;
	tap_skip("the trace's time is no exact clock");
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!platform.under_us || !platform.pmu) {
		tap_skip_all(platform.under_us ? "no PMU" : "not under Tallyvisor");
		return;
	}
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		bool clock = platform.exact && platform.backend == TALLY_BACKEND_CLOCK;

		tap_run(cases[i].name, cases[i].exact && !clock ? not_here : cases[i].run, NULL);
	}
}

/* SPDX-License-Identifier: MIT */
/* The probe on models of machines: what it finds in each, that it leaves it as it was, and what it says. */
#include <stdio.h>
#include <string.h>

#include "client/probe.h"
#include "said.h"
#include "test.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define NOPS 1000u
#define VMRUNS 16u
#define OVERHEAD 7u /* what is around the code */
#define STATUS_SILICON BITS(5, 0)

/* A naive PMU. */
static struct model {
	bool no_svm, svmdis, no_core, v2, gp_all, drop, no_counter_writes, no_global_ctl, no_status;
	bool ignores_bits, svme0_both, svme0_count, counts_double, uneven, no_tick, no_branches;
	bool no_guest;	    /* cannot run one */
	bool no_interrupts; /* cannot see them */
	bool masks_lvtpc, saturates;
	bool gp_reserved; /* as Xen */
	u32 counters, width, skid;
	u64 keeps; /* of a selector */
	u64 selector[PMU_COUNTERS], counter[PMU_COUNTERS], global_ctl, global_status;

	bool svme; /* between begin() and end() */
	u32 begun, ended;
	u64 interrupts;
	u32 noise;
} model;

static void model_new(void)
{
	model = (struct model){.v2 = true,
			       .counters = 6,
			       .width = 48,
			       .keeps = EVTSEL_WRITABLE,
			       .global_ctl = BIT(1) | BIT(3),
			       .global_status = BIT(2)};
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		model.selector[i] = EVENT_CYCLES_NOT_HALTED | EVTSEL_OS | i << 8;
		model.counter[i] = 1000 + i;
	}
}

static void model_cpuid(u32 leaf, u32 r[4])
{
	memset(r, 0, 4 * sizeof(r[0]));
	switch (leaf) {
	case 0:
		memcpy(&r[1], "Auth", 4);
		memcpy(&r[3], "enti", 4);
		memcpy(&r[2], "cAMD", 4);
		break;
	case CPUID_FEATURES:
		r[0] = 0x00a60f12; /* family 19h, model 61h, stepping 2 */
		r[2] = (u32)CPUID_1_ECX_HYPERVISOR;
		break;
	case CPUID_HYPERVISOR:
		memcpy(&r[1], "Model of CPU", 12);
		break;
	case CPUID_EXT_MAX:
		r[0] = model.no_svm ? CPUID_EXT_FEATURES : CPUID_PERFMON_V2;
		break;
	case CPUID_EXT_FEATURES:
		r[2] = (u32)(CPUID_EXT1_ECX_SVM |
			     (model.no_core ? 0 : CPUID_EXT1_ECX_PERFCTREXTCORE));
		break;
	case CPUID_SVM:
		r[0] = 1;
		r[1] = 16;
		r[3] = 0xe9;
		break;
	case CPUID_PERFMON_V2:
		r[0] = model.v2;
		r[1] = model.v2 ? model.counters : 0;
		break;
	case 0x80000002:
		memcpy(r, "AMD Model 1", 12);
		break;
	default:
		break;
	}
}

/* Which register of which counter; false: neither. */
static bool decode(u32 msr, u32 *n, bool *is_counter)
{
	if (msr - MSR_LEGACY_PERFEVTSEL(0) < 8) {
		*n = (msr - MSR_LEGACY_PERFEVTSEL(0)) % 4;
		*is_counter = msr >= MSR_LEGACY_PERFCTR(0);
		return true;
	}
	if (model.no_core || msr - MSR_PERFEVTSEL(0) >= 2 * model.counters)
		return false;
	*n = (msr - MSR_PERFEVTSEL(0)) / 2;
	*is_counter = msr & 1;
	return true;
}

static bool model_rdmsr(u32 msr, u64 *value)
{
	bool is_counter;
	u32 n;

	*value = 0;
	if (msr == MSR_VM_CR) {
		*value = model.svmdis ? VM_CR_SVMDIS : 0;
		return true;
	}
	if (msr == MSR_PATCH_LEVEL) {
		*value = 0xa601206;
		return true;
	}
	if (msr - MSR_PERF_GLOBAL_STATUS < 4) {
		if (msr == MSR_PERF_GLOBAL_STATUS)
			*value = model.global_status;
		if (msr == MSR_PERF_GLOBAL_CTL)
			*value = model.global_ctl;
		return model.v2;
	}
	if (model.gp_all || !decode(msr, &n, &is_counter))
		return false;
	*value = is_counter ? model.counter[n] : model.selector[n];
	return true;
}

static bool model_wrmsr(u32 msr, u64 value)
{
	const u64 all = BIT(model.counters) - 1;
	bool is_counter;
	u32 n;

	if (msr - MSR_PERF_GLOBAL_STATUS < 4) {
		/* no other bit, or it may freeze */
		CHECK(!(value & ~STATUS_SILICON));
		if (msr == MSR_PERF_GLOBAL_CTL && !model.no_global_ctl)
			model.global_ctl = value & all;
		if (msr == MSR_PERF_GLOBAL_STATUS_CLR)
			model.global_status &= ~value;
		if (msr == MSR_PERF_GLOBAL_STATUS_SET)
			model.global_status |= value & all;
		return model.v2;
	}
	if (model.gp_all || !decode(msr, &n, &is_counter))
		return false;
	if (model.gp_reserved && !is_counter && value & ~EVTSEL_WRITABLE)
		return false;
	if (!model.drop && is_counter && !model.no_counter_writes)
		model.counter[n] = value & (BIT(model.width) - 1);
	if (!model.drop && !is_counter)
		model.selector[n] = value & model.keeps;
	return true;
}

static const char *model_begin(void)
{
	model.begun++;
	return NULL;
}

static void model_end(void)
{
	model.ended++;
}

static bool counts(u64 selector, enum probe_mode mode)
{
	const u64 bits = selector & EVTSEL_HOST_GUEST;

	if (!(selector & EVTSEL_EN) || !(selector & (EVTSEL_USR | EVTSEL_OS)) ||
	    (model.v2 && !(model.global_ctl & 1)))
		return false;
	if (!bits || model.ignores_bits)
		return true;
	if (mode == PROBE_SVME0)
		return model.svme0_count || (model.svme0_both && bits == EVTSEL_HOST_GUEST);
	return bits & (mode == PROBE_HOST ? EVTSEL_HOSTONLY : EVTSEL_GUESTONLY);
}

static void add(u64 events)
{
	const u64 sum = model.counter[0] + events;

	model.counter[0] = sum & (BIT(model.width) - 1);
	if (model.counter[0] == sum)
		return;
	if (model.saturates)
		model.counter[0] = BIT(model.width) - 1;
	if (model.v2 && !model.no_status)
		model.global_status |= 1;
	if (model.selector[0] & EVTSEL_INT)
		model.interrupts++;
}

static const char *model_run(const struct probe_run *run)
{
	static const u64 event_of[PROBE_CODES] = {
		EVENT_RETIRED_INSTRUCTIONS, EVENT_RETIRED_BRANCHES, EVENT_RETIRED_FAR_TRANSFERS};
	const u32 event = EVTSEL_EVENT(run->eventsel);
	u64 events = 0;

	CHECK_EQ(model.begun, model.ended + 1);
	if (run->mode == PROBE_GUEST && model.no_guest)
		return "there is no guest";
	model_wrmsr(run->selector_msr, run->eventsel);
	if (event == EVENT_RETIRED_INSTRUCTIONS && counts(model.selector[0], PROBE_HOST))
		events = OVERHEAD;
	if (run->any && run->code == PROBE_VMRUNS) {
		/* where it goes to */
		if (!model.no_tick && counts(model.selector[0], PROBE_GUEST))
			events += VMRUNS;
	} else if (run->any && counts(model.selector[0], run->mode)) {
		if (event == event_of[run->code] &&
		    !(model.no_branches && event != EVENT_RETIRED_INSTRUCTIONS))
			events += NOPS << model.counts_double;
	}
	if (model.uneven && model.noise++ % 4 == 1)
		events += 3;
	add(events);
	model_wrmsr(run->selector_msr, 0);
	return NULL;
}

static const char *model_overflow(const struct probe_overflow_run *run, struct probe_interrupts *i)
{
	const struct probe_run nops = {PROBE_HOST, PROBE_NOPS, true, run->selector_msr,
				       run->eventsel};

	if (model.no_interrupts && run->signal != PROBE_SILENT)
		return "the system's";
	model.interrupts = 0;
	model_run(&nops);
	i->why = model.no_interrupts ? "not seen" : NULL;
	i->count = model.interrupts;
	i->lvtpc_masked = model.masks_lvtpc;
	i->skid = model.skid;
	i->skid_why = i->count ? NULL : "no interrupt";
	return NULL;
}

/* 64 rounds of 100, 137, 174 ... modulo 64: each once, from 100 on. */
static const char *model_cost(enum probe_cost what, u64 *ticks)
{
	static u32 round;

	if (what == PROBE_COST_VMLOAD && model.no_guest)
		return "not here";
	*ticks = 100 * (what + 1ull) + round++ * 37 % PROBE_COST_ROUNDS;
	return NULL;
}

static const struct probe_machine machine = {
	.system = "a test",
	.cpl = EVTSEL_USR | EVTSEL_OS,
	.repeats = {NOPS, NOPS, NOPS, VMRUNS},
	.exact = true,
	.cost_rounds = PROBE_COST_ROUNDS,
	.costs = "of nothing",
	.cpuid = model_cpuid,
	.rdmsr = model_rdmsr,
	.wrmsr = model_wrmsr,
	.begin = model_begin,
	.end = model_end,
	.run = model_run,
	.overflow = model_overflow,
	.cost = model_cost,
};

static struct probe probe;

/* All registers are as they were; a counter that takes no writes has gone on. */
static void measure(void)
{
	const struct model before = model;

	CHECK(!probe_measure(&probe, &machine, false));
	CHECK_EQ(model.begun, 1);
	CHECK_EQ(model.ended, 1);
	CHECK(!memcmp(before.selector, model.selector, sizeof(before.selector)));
	CHECK(before.no_counter_writes ||
	      !memcmp(before.counter, model.counter, sizeof(before.counter)));
	CHECK_EQ(before.global_ctl, model.global_ctl);
	CHECK_EQ(before.global_status, model.global_status);
}

static void check_text(const char *got, const char *want)
{
	if (!got || strcmp(got, want) != 0)
		test_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", got ? got : "nothing",
			  want);
}

static void check_verdict(const char *want)
{
	check_text(probe_verdict(&probe), want);
}

TEST(probe_manual)
{
	model_new();
	model.skid = 12;
	measure();
	check_text(probe.vendor, "AuthenticAMD");
	check_text(probe.cpu, "AMD Model 1");
	check_text(probe.hypervisor, "Model of CPU");
	CHECK_EQ(probe.family, 0x19);
	CHECK_EQ(probe.model, 0x61);
	CHECK_EQ(probe.stepping, 2);
	CHECK_EQ(probe.microcode.value, 0xa601206);
	CHECK_EQ(probe.counters.value, 6);
	CHECK_EQ(probe.selector_bits.value, EVTSEL_WRITABLE);
	CHECK_EQ(probe.counter_bits.value, 48);
	CHECK_EQ(probe.global_ctl_bits.value, 0x3f);
	CHECK(probe.global_ctl_stops.value && probe.status_sets.value && probe.status_clears.value);
	check_verdict("as APM2 table 13-4");
	CHECK_EQ(probe.table[PROBE_NONE][PROBE_SVME0].least, NOPS);
	CHECK_EQ(probe.table[PROBE_BOTH][PROBE_SVME0].most, 0);
	CHECK_EQ(probe.event[PROBE_INSTRUCTIONS].vmruns[PROBE_NONE].least, VMRUNS);
	CHECK_EQ(probe.event[PROBE_FAR_TRANSFERS].vmruns[PROBE_GUESTONLY].least, VMRUNS);
	CHECK_EQ(probe.event[PROBE_BRANCHES].vmruns[PROBE_HOSTONLY].most, 0);
	for (u32 s = 0; s < PROBE_SIGNALS; s++) {
		CHECK(!probe.overflow[s].why);
		CHECK_EQ(probe.overflow[s].start, BIT(48) - 100);
		CHECK_EQ(probe.overflow[s].after, NOPS + OVERHEAD - 100);
		CHECK_EQ(probe.overflow[s].status.value, 1);
		CHECK_EQ(probe.overflow[s].interrupts.count, s != PROBE_SILENT);
	}
	CHECK_EQ(probe.overflow[PROBE_NMI].interrupts.skid, 12);
	CHECK_EQ(probe.cost[PROBE_COST_EXIT_VMMCALL].least, 100);
	CHECK_EQ(probe.cost[PROBE_COST_EXIT_VMMCALL].median, 132);
}

/* Each flaw shows, where it belongs. */
TEST(probe_flaws)
{
	model_new();
	model.svme0_both = true;
	measure();
	check_verdict("as APM2 table 13-4, but both bits count with SVME=0");
	model_new();
	model.svme0_count = true;
	measure();
	check_verdict("as APM2 table 13-4, but with SVME=0 the bits are ignored");
	model_new();
	model.ignores_bits = true;
	measure();
	check_verdict("HostOnly and GuestOnly are ignored");
	model_new();
	model.keeps = (EVTSEL_WRITABLE & ~EVTSEL_GUESTONLY) | BIT(19);
	measure();
	CHECK_EQ(probe.selector_bits.value, model.keeps);
	check_verdict("not as APM2 table 13-4");
	model_new();
	model.no_tick = true;
	measure();
	CHECK_EQ(probe.event[PROBE_INSTRUCTIONS].vmruns[PROBE_GUESTONLY].most, 0);
	check_verdict("as APM2 table 13-4");
	model_new();
	model.uneven = true;
	measure();
	CHECK(probe.table[PROBE_NONE][PROBE_HOST].most > probe.table[PROBE_NONE][PROBE_HOST].least);
	model_new();
	model.no_global_ctl = true;
	model.global_ctl = BITS(5, 0);
	measure();
	CHECK_EQ(probe.global_ctl_bits.value, 0);
	CHECK(!probe.global_ctl_stops.value);
	model_new();
	model.no_status = true;
	measure();
	CHECK(!probe.overflow[PROBE_SILENT].status.value);
	CHECK(probe.status_sets.value);
	model_new();
	model.counters = 4;
	model.width = 40;
	model.masks_lvtpc = true;
	measure();
	CHECK_EQ(probe.counters.value, 4);
	CHECK_EQ(probe.counter_bits.value, 40);
	CHECK_EQ(probe.overflow[PROBE_FIXED].start, BIT(40) - 100);
	CHECK(probe.overflow[PROBE_FIXED].interrupts.lvtpc_masked);
}

/* What cannot be measured has a reason, and the rest is measured. */
TEST(probe_not_measured)
{
	model_new();
	model.drop = true;
	measure();
	check_text(probe.no_pmu, "the selectors drop what is written to them");
	check_text(probe.table[PROBE_BOTH][PROBE_SVME0].why, probe.no_pmu);
	check_text(probe.cost[PROBE_COST_WRMSR_SELECTOR].why, probe.no_pmu);
	CHECK(!probe.cost[PROBE_COST_EXIT_HLT].why);
	check_verdict("not measured");
	model_new();
	model.gp_all = true;
	measure();
	check_text(probe.no_pmu, "the performance counter MSRs fault");
	model_new();
	model.gp_reserved = true;
	measure();
	CHECK_EQ(probe.selector_bits.value, EVTSEL_WRITABLE);
	check_text(probe.selector_reserved_why, "a write of all bits faults");
	check_verdict("as APM2 table 13-4");
	model_new();
	model.counts_double = true;
	measure();
	check_text(probe.no_pmu, "1000 instructions are counted as 2000");
	check_text(probe.table[PROBE_NONE][PROBE_HOST].why, probe.no_pmu);
	CHECK_EQ(probe.counters.value, 6);
	model_new();
	model.no_branches = true;
	measure();
	check_text(probe.event[PROBE_BRANCHES].vmruns[PROBE_NONE].why,
		   "the event does not count here");
	CHECK_EQ(probe.event[PROBE_INSTRUCTIONS].vmruns[PROBE_NONE].least, VMRUNS);
	model_new();
	model.no_guest = true;
	measure();
	check_text(probe.table[PROBE_NONE][PROBE_GUEST].why, "there is no guest");
	check_text(probe.cost[PROBE_COST_VMLOAD].why, "not here");
	check_verdict("as APM2 table 13-4, what was measured of it");
	model_new();
	model.no_counter_writes = true;
	measure();
	check_text(probe.counter_bits.why, "the counters drop what is written to them");
	check_text(probe.overflow[PROBE_SILENT].why, probe.counter_bits.why);
	check_verdict("as APM2 table 13-4");
	model_new();
	model.no_core = true;
	model.v2 = false;
	model.counters = 4;
	measure();
	CHECK_EQ(probe.selector_base, MSR_LEGACY_PERFEVTSEL(0));
	CHECK_EQ(probe.counters.value, 4);
	check_text(probe.global_ctl_stops.why, "no PerfMonV2");
	check_verdict("as APM2 table 13-4");
}

static void check_refused(const char *want)
{
	const char *why = probe_measure(&probe, &machine, false);

	if (!why || strncmp(why, want, strlen(want)) != 0)
		test_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", why ? why : "nothing",
			  want);
	CHECK_EQ(model.begun, 0);
}

TEST(probe_refuses)
{
	model_new();
	model.no_svm = true;
	check_refused("this CPU has no SVM");
	model_new();
	model.svmdis = true;
	check_refused("SVM is switched off by the firmware (VM_CR.SVMDIS)");
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		struct model before;

		model_new();
		model.selector[i] |= EVTSEL_EN;
		check_refused("the PMU is in use");
		before = model;
		CHECK(!probe_measure(&probe, &machine, true));
		CHECK(!memcmp(before.selector, model.selector, sizeof(before.selector)));
		CHECK(!memcmp(before.counter, model.counter, sizeof(before.counter)));
	}
}

/* All that a row of counts can be. */
TEST(probe_cells)
{
	static const struct {
		u64 least, most;
		enum probe_cell cell;
	} cells[] = {{0, 0, PROBE_CELL_NO},	    {0, 100, PROBE_CELL_NO},
		     {0, 101, PROBE_CELL_PART},	    {899, 899, PROBE_CELL_PART},
		     {900, 1100, PROBE_CELL_YES},   {900, 1101, PROBE_CELL_PART},
		     {0, 1000, PROBE_CELL_PART},    {1000, 1000, PROBE_CELL_YES},
		     {2000, 2000, PROBE_CELL_PART}, {~0ull, ~0ull, PROBE_CELL_PART}};

	for (size_t i = 0; i < ARRAY_SIZE(cells); i++)
		CHECK_EQ(probe_cell(&(struct probe_count){NULL, cells[i].least, cells[i].most},
				    1000),
			 cells[i].cell);
	CHECK_EQ(probe_cell(&(struct probe_count){"", 1000, 1000}, 1000), PROBE_CELL_UNKNOWN);
}

/* Any table of cells that count or not: only four are the manual's or near it. */
TEST(probe_verdicts)
{
	u32 manual = 0, named = 0;

	probe = (struct probe){.nops = NOPS};
	for (u32 cells = 0; cells < 1u << 12; cells++) {
		const char *verdict;

		for (u32 i = 0; i < 12; i++) {
			u64 n = cells >> i & 1 ? NOPS : 0;

			probe.table[i / 3][i % 3] = (struct probe_count){NULL, n, n};
		}
		verdict = probe_verdict(&probe);
		manual += !strcmp(verdict, "as APM2 table 13-4");
		named += strcmp(verdict, "not as APM2 table 13-4") != 0;
	}
	CHECK_EQ(manual, 1);
	CHECK_EQ(named, 4);
}

static const char *show(bool json)
{
	said_bytes = 0;
	out_begin(&out, json, say);
	probe_show(&probe, &out);
	out_end(&out);
	return said;
}

static void check_line(const char *line)
{
	char with[256];

	snprintf(with, sizeof(with), "\n%s\n", line);
	if (!strstr(said, with))
		test_fail(__FILE__, __LINE__, "no line \"%s\" in:\n%s", line, said);
}

TEST(probe_page)
{
	u32 lines = 0;

	model_new();
	model.skid = 12;
	model.no_guest = true;
	measure();
	show(false);
	check_line("hypervisor         Model of CPU");
	check_line("microcode          0xa601206");
	check_line("host_guest         as APM2 table 13-4, what was measured of it");
	check_line(
		"bits       svme0  host  guest         n_svme0  n_host  n_guest         of  note");
	check_line("both       no     yes   not measured        0    1000  not measured  1000  "
		   "there is no guest");
	check_line("INT=1       yes    yes              1  no            12            -");
	check_line("VMLOAD               not measured  not measured  not here");
	for (size_t i = 0; i < said_bytes; i++)
		lines += said[i] == '\n';
	CHECK(lines <= 66); /* of paper */
	check_line("selector_lost      0x0");
	model.no_guest = false;
	model.saturates = true;
	model.keeps &= ~EVTSEL_EDGE;
	model.begun = model.ended = 0;
	measure();
	show(false);
	check_line("selector_lost      0x40000");
	check_line("INT=1       no     yes              1  no            12            -");
	model.saturates = false;
	model.uneven = true;
	model.begun = model.ended = 0;
	measure();
	show(false);
	check_line("none       yes    yes   yes        997     997      997  1000  varies, up to "
		   "1000");
}

TEST(probe_json)
{
	model_new();
	model.no_guest = true;
	measure();
	show(true);
	check_line("  \"microcode\": 174068230,");
	check_line("      \"guest\": \"not measured\",");
	check_line("      \"n_host\": 1000,");
	check_line("      \"note\": \"there is no guest\"");
	check_line("      \"GuestOnly\": \"not measured\",");
	check_line("      \"skid\": 0,");
	CHECK(!strncmp(said, "{\n  \"tally\": \"", 14));
	CHECK(!strcmp(said + said_bytes - 3, "\n}\n"));
}

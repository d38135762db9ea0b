/* SPDX-License-Identifier: MIT */
/*
 * What `make run` shows: four counters of retired instructions, one for each setting of HostOnly
 * and GuestOnly, through the phases of a hypervisor's life. Each phase executes the same known
 * number of instructions.
 */
#include "abi/hypercall.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"

static struct pmu_sample sample;

static void l2_sample(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static const struct phase {
	const char *name;
	enum pmu_mode mode;
} phases[] = {
	/* clang-format off */
	{ "L1, SVME=0", MODE_SVME0 },
	{ "L1, SVME=1", MODE_HOST },
	{ "L2", MODE_GUEST },
	{ "back in L1, SVME=1", MODE_HOST },
	{ "L1, SVME=0 again", MODE_SVME0 },
	/* clang-format on */
};

static u64 moved[ARRAY_SIZE(phases)][PMU_SETTINGS];
static unsigned int cells_right;

static u64 wanted(const struct phase *p, u32 counter)
{
	return pmu_counts(pmu_setting[counter].bits, p->mode) ? PMU_SAMPLE_INSTRUCTIONS : 0;
}

/*
 * The same phases again, without a word in between, while the hypervisor records them. The records go to QEMU's debug
 * console, which `make run` keeps in a file: tools/trace-to-svg and tools/trace-to-perfetto read them there.
 */
#define DEBUGCON_PORT 0xe9

static void debugcon(const char *text)
{
	while (*text)
		outb(DEBUGCON_PORT, (u8)*text++);
}

static void show_record(const struct tally_trace_record *record)
{
	const u8 *bytes = (const u8 *)record;
	char text[3] = {0};

	debugcon("trace: ");
	for (u64 i = 0; i < sizeof(*record); i++) {
		text[0] = "0123456789abcdef"[bytes[i] >> 4];
		text[1] = "0123456789abcdef"[bytes[i] & 15];
		debugcon(text);
	}
	debugcon("\n");
}

static void enter_phase(enum pmu_mode mode)
{
	if (mode == MODE_GUEST) {
		l2_run();
		return;
	}
	if (mode == MODE_SVME0)
		svm_disable();
	else
		svm_enable();
	pmu_sample_rdpmc(&sample);
}

static void trace_phases(void)
{
	static u8 page[PAGE_SIZE] ALIGNED(4096);
	const struct tally_trace *trace = (const struct tally_trace *)page;

	svm_enable(); /* which L2 needs in its own EFER */
	l2_reset((const void *)l2_sample);
	svm_disable();
	hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, TALLY_WATCH_TRACE);
	for (u32 i = 0; i < ARRAY_SIZE(phases); i++)
		enter_phase(phases[i].mode);
	hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, 0);
	if (hypercall(TALLY_CALL_TRACE_READ, (u64)page, sizeof(page), 0) < 0)
		return;
	for (u32 i = 0; i < trace->records; i++)
		show_record(&trace->record[i]);
}

/* Without an exact clock only "moved or not" can be judged. */
static bool right(u64 got, u64 want)
{
	return platform.exact ? got == want : !got == !want;
}

static void run_phase(const void *arg)
{
	const struct phase *p = arg;

	if (p->mode == MODE_SVME0)
		svm_disable();
	else
		svm_enable();
	if (p->mode == MODE_GUEST)
		CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
	else
		pmu_sample_rdpmc(&sample);
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		u64 got = pmu_moved(&sample, i);

		moved[p - phases][i] = got;
		if (tap_check(right(got, wanted(p, i)), pmu_setting[i].name))
			cells_right++;
		else
			tap_equal(got, wanted(p, i), pmu_setting[i].name);
	}
}

static void show_table(bool measured)
{
	print("#\n");
	print("# %-20s", "");
	for (u32 i = 0; i < PMU_SETTINGS; i++)
		print("%12s", pmu_setting[i].name);
	print("\n");
	for (u32 p = 0; p < ARRAY_SIZE(phases); p++) {
		bool ok = true;

		print("# %-20s", phases[p].name);
		for (u32 i = 0; i < PMU_SETTINGS; i++) {
			if (measured)
				print("%12lu", moved[p][i]);
			else
				print("%12s", "n/a");
			ok = ok && right(moved[p][i], wanted(&phases[p], i));
		}
		print("%s\n", !measured ? "" : ok ? "   right" : "   WRONG");
	}
	print("#\n");
}

static const char *backend_name(void)
{
	switch (platform.backend) {
	case TALLY_BACKEND_GUEST_ONLY:
		return "guest-only";
	case TALLY_BACKEND_CLOCK:
		return "clock";
	case TALLY_BACKEND_SWITCHED:
		return "switched";
	default:
		return "off";
	}
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(phases));
	note("Four counters of event C0h, retired instructions, one for each HostOnly/GuestOnly "
	     "setting.");
	note("Each phase executes %u instructions between two readings of a counter.",
	     PMU_SAMPLE_INSTRUCTIONS);
	if (platform.under_us)
		note("Under Tallyvisor, depth %u: PMU backend %s, %s, svme0=%s.", platform.depth,
		     backend_name(), platform.exact ? "exact" : "not exact",
		     platform.svme0_count ? "count" : "stop");
	else
		note("On the bare machine.");
	if (!platform.pmu || !platform.svm) {
		show_table(false);
		note("This machine has no AMD PMU (CPUID 8000_0001 ECX[23]): nothing to show.");
		tap_skip_all(platform.svm ? "no AMD PMU" : "no SVM");
		return;
	}

	pmu_start_settings();
	for (u32 i = 0; i < ARRAY_SIZE(phases); i++)
		tap_run(phases[i].name, run_phase, &phases[i]);
	trace_phases();
	pmu_stop_all();

	show_table(true);
	note("%s: %u of %u cells as %s%s.",
	     cells_right == ARRAY_SIZE(phases) * PMU_SETTINGS ? "RIGHT" : "WRONG", cells_right,
	     (unsigned int)(ARRAY_SIZE(phases) * PMU_SETTINGS),
	     platform.svme0_count ? "svme0=count says (else: APM2 table 13-4)"
				  : "the manual says (APM2 table 13-4)",
	     platform.exact ? ", to the instruction" : "; zero or not, no exact clock here");
}

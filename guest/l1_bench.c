/* SPDX-License-Identifier: MIT */
/*
 * What an exit costs, in instructions. Under QEMU's -icount the TSC ticks 2^shift times for every instruction that
 * anyone executes, so the difference of two readings around an instruction is the hypervisor's whole path from
 * exit to re-entry. Bare, the same numbers are the instruction alone: 1.
 */
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define REPEATS 200
#define SHIFT_MAX 10

/*
 * Two functions, `name` and `name_empty`: the ticks between two RDTSCs around `setup` and `insn`, and around
 * `setup` alone. r9 and r10 hold a and b.
 */
#define TIMED_ONE(name, code, a, b)                                                                \
	static u64 name(void)                                                                      \
	{                                                                                          \
		register u64 r9 asm("r9") = (a);                                                   \
		register u64 r10 asm("r10") = (b);                                                 \
		u64 ticks;                                                                         \
		asm volatile("rdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\tmov %%rax, %%r8\n\t"   \
			     code "\n\trdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\t"             \
			     "sub %%r8, %%rax"                                                     \
			     : "=a"(ticks)                                                         \
			     : "r"(r9), "r"(r10)                                                   \
			     : "rbx", "rcx", "rdx", "r8", "memory");                               \
		return ticks;                                                                      \
	}
#define TIMED(name, setup, insn, a, b)                                                             \
	TIMED_ONE(name, setup "\n\t" insn, a, b)                                                   \
	TIMED_ONE(name##_empty, setup, a, b)

#define WRMSR_SETUP "mov %%r9d, %%ecx\n\tmov %%r10d, %%eax\n\txor %%edx, %%edx"

TIMED(nops, "", ".rept 1000\n\tnop\n\t.endr", 0, 0)
TIMED(nops_twice, "", ".rept 2000\n\tnop\n\t.endr", 0, 0)
TIMED(time_cpuid, "xor %%ecx, %%ecx\n\tmov $1, %%eax", "cpuid", 0, 0)
TIMED(time_rdmsr_efer, "mov %%r9d, %%ecx", "rdmsr", MSR_EFER, 0)
TIMED(time_wrmsr_efer, WRMSR_SETUP, "wrmsr", MSR_EFER, rdmsr(MSR_EFER))
TIMED(time_clgi, "", "clgi", 0, 0)
TIMED(time_stgi, "", "stgi", 0, 0)
TIMED(time_vmload, "mov %%r9, %%rax", "vmload %%rax", (u64)&l2.vmcb, 0)
TIMED(time_vmsave, "mov %%r9, %%rax", "vmsave %%rax", (u64)&l2.vmcb, 0)
TIMED(time_evtsel_on, WRMSR_SETUP, "wrmsr", MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS)
TIMED(time_evtsel_off, WRMSR_SETUP, "wrmsr", MSR_PERFEVTSEL(0), 0)
TIMED(time_roundtrip, "mov %%r9, %%rax", "vmrun %%rax", (u64)&l2.vmcb, 0)

L2_CODE(l2_exit, "");

static unsigned int shift;

static void nothing(void)
{
}

static void save_l2(void)
{
	l2_reset(l2_exit);
	vmsave((u64)&l2.vmcb);
}

static void evtsel_off(void)
{
	wrmsr(MSR_PERFEVTSEL(0), 0);
}

static void evtsel_on(void)
{
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
}

static void roundtrip_begin(void)
{
	/* L2 sits on a VMMCALL and never gets past it, so every VMRUN after the first finds the shadow warm. */
	l2_reset(l2_exit);
	l2_use_npt();
	l2_run();
	clgi();
}

static void roundtrip_pmu6_begin(void)
{
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		wrmsr(MSR_PERFEVTSEL(i),
		      SEL_INSTRUCTIONS | (i % 2 ? EVTSEL_GUESTONLY : EVTSEL_HOSTONLY));
	roundtrip_begin();
}

static void end_gif(void)
{
	stgi();
}

static void end_pmu(void)
{
	pmu_stop_all();
}

static void end_gif_pmu(void)
{
	stgi();
	pmu_stop_all();
}

enum { CPUID, ROUNDTRIP = 9 };

static struct bench {
	const char *name;
	u64 (*timed)(void), (*empty)(void);
	void (*begin)(void);  /* once */
	void (*before)(void); /* each time, not measured */
	void (*end)(void);
	unsigned int limit;  /* instructions; 0: none */
	int relative_to;     /* the limit is this much more than that bench; -1: absolute */
	bool needs_pmu;
	u64 result;
} benches[] = {
	[CPUID] = { "cpuid", time_cpuid, time_cpuid_empty, nothing, nothing, nothing, 120, -1, false, 0 },
	{ "rdmsr_efer", time_rdmsr_efer, time_rdmsr_efer_empty, nothing, nothing, nothing, 150, -1, false, 0 },
	{ "wrmsr_efer", time_wrmsr_efer, time_wrmsr_efer_empty, nothing, nothing, nothing, 0, -1, false, 0 },
	{ "clgi", time_clgi, time_clgi_empty, nothing, stgi, end_gif, 150, -1, false, 0 },
	{ "stgi", time_stgi, time_stgi_empty, nothing, clgi, end_gif, 150, -1, false, 0 },
	{ "vmload", time_vmload, time_vmload_empty, save_l2, nothing, nothing, 250, -1, false, 0 },
	{ "vmsave", time_vmsave, time_vmsave_empty, save_l2, nothing, nothing, 0, -1, false, 0 },
	{ "wrmsr_perfevtsel", time_evtsel_on, time_evtsel_on_empty, nothing, evtsel_off, end_pmu, 300, -1,
	  true, 0 },
	{ "wrmsr_perfevtsel_off", time_evtsel_off, time_evtsel_off_empty, nothing, evtsel_on, end_pmu, 300,
	  -1, true, 0 },
	[ROUNDTRIP] = { "nested_roundtrip", time_roundtrip, time_roundtrip_empty, roundtrip_begin, nothing,
			end_gif, 1100, -1, false, 0 },
	{ "nested_roundtrip_pmu6", time_roundtrip, time_roundtrip_empty, roundtrip_pmu6_begin, nothing,
	  end_gif_pmu, 6 * 20, ROUNDTRIP, true, 0 },
	{ "cpuid_pmu1", time_cpuid, time_cpuid_empty, evtsel_on, nothing, end_pmu, 40, CPUID, true, 0 },
};

static u64 least(u64 (*timed)(void), void (*before)(void))
{
	u64 min = ~0ull;

	for (unsigned int i = 0; i < REPEATS; i++) {
		u64 ticks;

		before();
		ticks = timed();
		if (ticks < min)
			min = ticks;
	}
	return min;
}

/* The TSC is an instruction clock if 1000 NOPs take 1000 << shift ticks, every time, and 2000 twice that. */
static bool calibrate(void)
{
	u64 empty = nops_empty(), thousand = nops() - empty;

	while (shift < SHIFT_MAX && thousand > 1000ull << shift)
		shift++;
	for (unsigned int i = 0; i < 3; i++) {
		if (nops() - nops_empty() != 1000ull << shift ||
		    nops_twice() - nops_twice_empty() != 2000ull << shift)
			return false;
	}
	return true;
}

static void measure(const void *arg)
{
	struct bench *b = &benches[(const struct bench *)arg - benches];
	u64 limit = b->limit;

	if (b->needs_pmu && !platform.pmu) {
		tap_skip("no AMD PMU");
		return;
	}
	b->begin();
	b->result = (least(b->timed, b->before) - least(b->empty, b->before)) >> shift;
	b->end();
	note("bench: %s %lu", b->name, b->result);
	if (!limit || !platform.under_us)
		return;
	if (b->relative_to >= 0)
		limit += benches[b->relative_to].result;
	if (!tap_check(b->result <= limit, "over the limit"))
		note("%s: %lu instructions, limit %lu", b->name, b->result, limit);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(benches));
	if (!calibrate()) {
		tap_skip_all("the TSC is no instruction clock here (QEMU needs -icount shift=N,sleep=off)");
		return;
	}
	if (!svm_start())
		return;
	note("TSC: %u ticks for each instruction; the least of %u runs", 1u << shift, REPEATS);
	for (unsigned int i = 0; i < ARRAY_SIZE(benches); i++)
		tap_run(benches[i].name, measure, &benches[i]);
}

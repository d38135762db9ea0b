/* SPDX-License-Identifier: MIT */
/*
 * What an exit costs, in instructions. Under QEMU's -icount the TSC ticks 2^shift times for every
 * instruction that anyone executes, so the difference of two readings around an instruction is
 * the hypervisor's whole path from exit to re-entry. Bare, the same numbers are the instruction
 * alone: 1.
 */
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define REPEATS 200
#define SHIFT_MAX 10
#define APIC_PAGE 0xfee00000ull /* where the firmware leaves it */

/*
 * Two functions, `name` and `name_empty`: the ticks between two RDTSCs around `setup` and `insn`,
 * and around `setup` alone. r9 and r10 hold a and b.
 */
#define TIMED_ONE(name, code, a, b)                                                                \
	static u64 name(void)                                                                      \
	{                                                                                          \
		register u64 r9 asm("r9") = (a);                                                   \
		register u64 r10 asm("r10") = (b);                                                 \
		u64 ticks;                                                                         \
		asm volatile(                                                                      \
			"rdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\tmov %%rax, %%r8\n\t" code   \
			"\n\trdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\t"                       \
			"sub %%r8, %%rax"                                                          \
			: "=a"(ticks)                                                              \
			: "r"(r9), "r"(r10)                                                        \
			: "rbx", "rcx", "rdx", "r8", "memory");                                    \
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
TIMED(time_apic_eoi, "", "movl $0, (%%r9)", APIC_PAGE + APIC_EOI, 0)
TIMED(time_apic_timer, "xor %%eax, %%eax", "mov %%eax, (%%r9)", APIC_PAGE + APIC_TIMER_DIVIDE, 0)
TIMED(time_roundtrip, "mov %%r9, %%rax", "vmrun %%rax", (u64)&l2.vmcb, 0)

L2_CODE(l2_exit, "");
/* RAX: ticks from before the read of RDI to after it; RSI is read before. */
L2_CODE(l2_touch, "mov (%rsi), %rbx\n\trdtsc\n\tshl $32, %rdx\n\tor %rdx, %rax\n\tmov %rax, %r8\n\t"
		  "mov (%rdi), %rbx\n\trdtsc\n\tshl $32, %rdx\n\tor %rdx, %rax\n\tsub %r8, %rax");

static unsigned int shift;

static void save_l2(void)
{
	l2_reset(l2_exit);
	vmsave((u64)&l2.vmcb);
}

/* Where L2 sees two pages that nothing else is near, in 4-KByte nested pages. KVM maps neighbours along with the page
 * that faults, so these are none. */
#define PAGES 0xc0000000ull
#define APART 64

/* An entry of the nested tables, and what it is changed to for the next touch. */
static u64 *changing, next_entry;

static u64 *page_fault_begin(void)
{
	static u8 pages[2 * PAGE_SIZE] ALIGNED(4096);
	u64 *entries;

	l2_reset(l2_touch);
	l2_use_npt();
	entries = paging_split(&l2.npt, PAGES);
	for (u64 i = 0; i < 2; i++)
		entries[i * APART] = ((u64)pages + i * PAGE_SIZE) | PTE_ALL;
	return entries;
}

static void page_fault_table_begin(void)
{
	static u64 other_table[512] ALIGNED(4096);
	const u64 *table = page_fault_begin();

	for (u64 i = 0; i < ARRAY_SIZE(other_table); i++)
		other_table[i] = table[i];
	changing = paging_entry(&l2.npt, PAGES, 2);
	next_entry = (u64)other_table | PTE_ALL;
}

static void page_fault_leaf_begin(void)
{
	static u8 other_page[PAGE_SIZE] ALIGNED(4096);

	changing = page_fault_begin();
	next_entry = (u64)other_page | PTE_ALL;
}

/* L2 touches PAGES, and before it `first`. The TLB flush empties our shadow; a hypervisor that follows L1's writes
 * to its tables keeps its shadow, but for what is behind a changed entry. */
static u64 touch(u64 first)
{
	u64 entry = *changing;

	*changing = next_entry;
	next_entry = entry;
	l2.vmcb.save.rip = (u64)l2_touch;
	l2.regs.rdi = PAGES;
	l2.regs.rsi = first;
	l2_flush();
	l2_run();
	return l2.vmcb.save.rax;
}

/* The shadow's tables for PAGES are not there yet, or they are, and only the page is missing. */
static u64 time_page_fault(void)
{
	return touch((u64)l2.stack);
}

static u64 time_page_fault_leaf(void)
{
	return touch(PAGES + APART * PAGE_SIZE);
}

static u64 time_page_fault_empty(void)
{
	return touch(PAGES);
}

static u64 time_page_fault_leaf_empty(void)
{
	return touch(PAGES);
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
	/* L2 sits on a VMMCALL and never gets past it, so every VMRUN after the first finds the
	 * shadow warm. */
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

static void end_gif_pmu(void)
{
	stgi();
	pmu_stop_all();
}

enum { CPUID, ROUNDTRIP = 9 };
enum limit_of { ABSOLUTE, ABOVE_CPUID, ABOVE_ROUNDTRIP };

static struct bench {
	const char *name;
	u64 (*timed)(void), (*empty)(void);
	unsigned int limit; /* instructions; 0: none */
	enum limit_of limit_of;
	void (*begin)(void);  /* once */
	void (*before)(void); /* each time, not measured */
	void (*end)(void);
	bool needs_pmu;
	u64 result;
} benches[] = {
/* clang-format off */
#define B(n, function, ...) { .name = n, .timed = function, .empty = function##_empty, __VA_ARGS__ }
	[CPUID] = B("cpuid", time_cpuid, .limit = 120),
	B("rdmsr_efer", time_rdmsr_efer, .limit = 150),
	B("wrmsr_efer", time_wrmsr_efer, .limit = 0),
	B("clgi", time_clgi, .limit = 150, .before = stgi, .end = stgi),
	B("stgi", time_stgi, .limit = 150, .before = clgi, .end = stgi),
	B("vmload", time_vmload, .limit = 250, .begin = save_l2),
	B("vmsave", time_vmsave, .limit = 0, .begin = save_l2),
	B("wrmsr_perfevtsel", time_evtsel_on, .limit = 300, .before = evtsel_off, .end = pmu_stop_all,
	  .needs_pmu = true),
	B("wrmsr_perfevtsel_off", time_evtsel_off, .limit = 300, .before = evtsel_on, .end = pmu_stop_all,
	  .needs_pmu = true),
	[ROUNDTRIP] = B("nested_roundtrip", time_roundtrip, .limit = 800,
			.begin = roundtrip_begin, .end = stgi),
	B("nested_roundtrip_pmu6", time_roundtrip, .limit = 6 * 20, .limit_of = ABOVE_ROUNDTRIP,
	  .begin = roundtrip_pmu6_begin, .end = end_gif_pmu, .needs_pmu = true),
	B("l2_page_fault", time_page_fault, .limit = 2500, .begin = page_fault_table_begin),
	B("l2_page_fault_leaf", time_page_fault_leaf, .limit = 2500, .begin = page_fault_leaf_begin),
	B("cpuid_pmu1", time_cpuid, .limit = 40, .limit_of = ABOVE_CPUID, .begin = evtsel_on,
	  .end = pmu_stop_all, .needs_pmu = true),
	/* one CPU: the store itself; more: L0 writes it */
	B("apic_eoi", time_apic_eoi, .limit = 250),
	B("apic_timer", time_apic_timer, .limit = 250),
#undef B
	/* clang-format on */
};

static u64 least(u64 (*timed)(void), void (*before)(void))
{
	u64 min = ~0ull;

	for (unsigned int i = 0; i < REPEATS; i++) {
		u64 ticks;

		if (before)
			before();
		ticks = timed();
		if (ticks < min)
			min = ticks;
	}
	return min;
}

/* The TSC is an instruction clock if 1000 NOPs take 1000 << shift ticks, every time, and 2000 twice
 * that. */
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
	if (b->begin)
		b->begin();
	b->result = (least(b->timed, b->before) - least(b->empty, b->before)) >> shift;
	if (b->end)
		b->end();
	note("bench: %s %lu", b->name, b->result);
	if (!limit || !platform.under_us)
		return;
	if (b->limit_of != ABSOLUTE)
		limit += benches[b->limit_of == ABOVE_CPUID ? CPUID : ROUNDTRIP].result;
	if (!tap_check(b->result <= limit, "over the limit"))
		note("%s: %lu instructions, limit %lu", b->name, b->result, limit);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(benches));
	if (!calibrate()) {
		tap_skip_all("the TSC is no instruction clock here (QEMU needs -icount "
			     "shift=N,sleep=off)");
		return;
	}
	if (!svm_start())
		return;
	note("TSC: %u ticks for each instruction; the least of %u runs", 1u << shift, REPEATS);
	for (unsigned int i = 0; i < ARRAY_SIZE(benches); i++)
		tap_run(benches[i].name, measure, &benches[i]);
}

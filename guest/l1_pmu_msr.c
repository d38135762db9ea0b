/* SPDX-License-Identifier: MIT */
/*
 * The PMU's registers: both addresses of each counter, 48 bits, reserved bits that read as zero
 * and never fault, RDPMC and its faults, independence of the counters, PerfMonV2 if CPUID says so
 * and only then. AMD64 APM vol. 2 §13.2.
 */
#include "abi/hypercall.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define SELECTOR_STOPPED 0x0000020fffdf00ffull /* every field, EN clear */

/* Not in EVTSEL_WRITABLE; on some CPUs bits 19 and 42 keep what is written, and 43 of selector 2
 * has a meaning. */
#define RESERVED_ON_ALL (~EVTSEL_WRITABLE & ~BIT(19) & ~BIT(42) & ~BIT(43))

static u64 value_of(u32 i)
{
	return 0x123400000000ull + 0x1111ull * (i + 1);
}

static void check_cpuid(const void *arg)
{
	(void)arg;
	CHECK_EQ(cpuid(CPUID_EXT_FEATURES).ecx & CPUID_EXT1_ECX_PERFCTREXTCORE,
		 CPUID_EXT1_ECX_PERFCTREXTCORE);
	if (platform.under_us)
		CHECK_EQ(cpuid(CPUID_EXT_FEATURES).ecx &
				 (CPUID_EXT1_ECX_PERFCTREXTNB | CPUID_EXT1_ECX_PERFCTREXTL2I),
			 0);
}

static void check_selector_aliases(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++) {
		u64 a = (SELECTOR_STOPPED & EVTSEL_WRITABLE & ~EVTSEL_EN) ^ i;

		wrmsr(MSR_PERFEVTSEL(i), a);
		CHECK_EQ(rdmsr(MSR_LEGACY_PERFEVTSEL(i)), a);
		wrmsr(MSR_LEGACY_PERFEVTSEL(i), 0x42 + i);
		CHECK_EQ(rdmsr(MSR_PERFEVTSEL(i)), 0x42 + i);
	}
	pmu_stop_all();
}

static void check_counter_aliases(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_LEGACY_COUNTERS; i++) {
		wrmsr(MSR_PERFCTR(i), value_of(i));
		CHECK_EQ(rdmsr(MSR_LEGACY_PERFCTR(i)), value_of(i));
		wrmsr(MSR_LEGACY_PERFCTR(i), value_of(i) + 1);
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), value_of(i) + 1);
		CHECK_EQ(rdpmc(i), value_of(i) + 1);
	}
	pmu_stop_all();
}

static void check_independent(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		wrmsr(MSR_PERFCTR(i), value_of(i));
		wrmsr(MSR_PERFEVTSEL(i), 0xc0 + i);
	}
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), value_of(i));
		CHECK_EQ(rdmsr(MSR_PERFEVTSEL(i)), 0xc0 + i);
		CHECK_EQ(rdpmc(i), value_of(i));
	}
	pmu_stop_all();
}

static void check_width(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		wrmsr(MSR_PERFCTR(i), ~0ull);
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), PMU_COUNTER_MASK);
		CHECK_EQ(rdpmc(i), PMU_COUNTER_MASK);
		wrmsr(MSR_PERFCTR(i), 0xffff000000000005ull);
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), 5);
	}
	/* A running counter wraps to zero. */
	wrmsr(MSR_PERFCTR(0), PMU_COUNTER_MASK - 5);
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	for (u32 i = 0; i < 1000; i++)
		asm volatile("nop");
	wrmsr(MSR_PERFEVTSEL(0), 0);
	tap_check(rdmsr(MSR_PERFCTR(0)) < 1ull << 40, "the counter wrapped");
	pmu_stop_all();
}

static void write_msr(const void *arg)
{
	const u64 *msr_value = arg;

	wrmsr((u32)msr_value[0], msr_value[1]);
}

static void check_reserved(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		for (u32 bit = 0; bit < 64; bit++) {
			u64 msr_value[] = {MSR_PERFEVTSEL(i), BIT(bit)};
			u64 read;

			if (bit == 22)
				continue; /* EN */
			if (!CHECK_EQ(try_call(write_msr, msr_value), VEC_NONE))
				continue;
			read = rdmsr(MSR_PERFEVTSEL(i));
			if (BIT(bit) & EVTSEL_WRITABLE)
				CHECK_EQ(read, BIT(bit));
			else if (BIT(bit) & RESERVED_ON_ALL || platform.under_us)
				CHECK_EQ(read, 0);
		}
	}
	pmu_stop_all();
}

/* ---- RDPMC ---- */

static volatile u64 rdpmc_value;

static void do_rdpmc(const void *arg)
{
	rdpmc_value = rdpmc(*(const u32 *)arg);
}

static void check_rdpmc_index(const void *arg)
{
	const u32 bad[] = {PMU_COUNTERS, 7, 16, 64, BIT(30), BIT(31), ~0u};

	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		CHECK_EQ(try_call(do_rdpmc, &i), VEC_NONE);
	/* On silicon, indices from 6 on may be other counters (APM2 §13.2.1). */
	for (u32 i = platform.under_us ? 0 : 3; i < ARRAY_SIZE(bad); i++) {
		CHECK_EQ(try_call(do_rdpmc, &bad[i]), VEC_GP);
		CHECK_EQ(trap_info.error, 0);
	}
}

static void check_rdpmc_user(const void *arg)
{
	u64 cr4 = read_cr4();
	u32 index = 1;

	(void)arg;
	wrmsr(MSR_PERFCTR(1), value_of(1));
	write_cr4(cr4 & ~CR4_PCE);
	CHECK_EQ(try_user(do_rdpmc, &index), VEC_GP);
	CHECK_EQ(trap_info.error, 0);
	write_cr4(cr4 | CR4_PCE);
	rdpmc_value = 0;
	CHECK_EQ(try_user(do_rdpmc, &index), VEC_NONE);
	CHECK_EQ(rdpmc_value, value_of(1));
	index = 64;
	CHECK_EQ(try_user(do_rdpmc, &index), VEC_GP);
	write_cr4(cr4);
	pmu_stop_all();
}

/* RDMSR and WRMSR of the PMU's registers fault at CPL 3 whatever CR4.PCE is. */
static void do_rdmsr(const void *arg)
{
	rdpmc_value = rdmsr(*(const u32 *)arg);
}

static void check_msr_user(const void *arg)
{
	const u32 msrs[] = {MSR_PERFEVTSEL(0), MSR_PERFCTR(0), MSR_LEGACY_PERFEVTSEL(0)};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		u64 msr_value[] = {msrs[i], SEL_INSTRUCTIONS};

		CHECK_EQ(try_user(do_rdmsr, &msrs[i]), VEC_GP);
		CHECK_EQ(try_user(write_msr, msr_value), VEC_GP);
		CHECK_EQ(rdmsr(msrs[i]), 0);
	}
}

/* The upper half of RCX is not part of the index or the address. */
static void check_high_rcx(const void *arg)
{
	u32 lo, hi;

	(void)arg;
	wrmsr(MSR_PERFCTR(2), value_of(2));
	asm volatile("rdpmc" : "=a"(lo), "=d"(hi) : "c"(0xffffffff00000002ull));
	CHECK_EQ((u64)hi << 32 | lo, value_of(2));
	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(0xabcd000000000000ull | MSR_PERFCTR(2)));
	CHECK_EQ((u64)hi << 32 | lo, value_of(2));
	/* And RAX and RDX are written whole. */
	{
		u64 rax = ~0ull, rdx = ~0ull;

		asm volatile("rdpmc" : "+a"(rax), "+d"(rdx) : "c"(2));
		CHECK_EQ(rax, (u32)value_of(2));
		CHECK_EQ(rdx, value_of(2) >> 32);
	}
	pmu_stop_all();
}

/* ---- counting ---- */

static void check_stopped(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		wrmsr(MSR_PERFCTR(i), value_of(i));
		/* EN=0; and no CPL selected at all. */
		wrmsr(MSR_PERFEVTSEL(i), i % 2 ? SEL_INSTRUCTIONS & ~EVTSEL_EN
					       : EVENT_RETIRED_INSTRUCTIONS | EVTSEL_EN);
	}
	for (u32 i = 0; i < 1000; i++)
		asm volatile("nop");
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), value_of(i));
	pmu_stop_all();
}

/* What counter i moves by in a stretch that takes STRETCH instructions from RDPMC to RDPMC. */
#define STRETCH (1 + 1 + 100)
static u32 stretch(u32 i)
{
	u32 moved;

	asm volatile("rdpmc\n\tmov %%eax, %%r8d\n\t.rept 100\n\tnop\n\t.endr\n\trdpmc\n\t"
		     "sub %%r8d, %%eax"
		     : "=a"(moved)
		     : "c"(i)
		     : "rdx", "r8", "memory");
	return moved;
}

/* All six run and count alike; a write to one of them moves only that one. */
static void check_six(const void *arg)
{
	u32 moved;

	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		moved = stretch(i);
		if (platform.exact)
			CHECK_EQ(moved, STRETCH);
		else
			CHECK(moved > 0);
	}
	wrmsr(MSR_PERFCTR(3), 0);
	tap_check(rdpmc(3) < rdpmc(2), "a written counter counts on from the new value");
	pmu_stop_all();
}

/* ---- EDGE, INV, CMASK and unit masks ---- */

enum what { NOT_COUNTED, NOTHING, INSTRUCTIONS, CYCLES };

#define CMASK(n) ((u64)(n) << EVTSEL_CMASK_SHIFT)

/* What a machine counts in whose cycles one instruction retires or none (docs/pmu.md). */
static const struct {
	u64 event, bits;
	enum what what;
} modified[] = {
	{EVENT_RETIRED_INSTRUCTIONS, EVTSEL_EDGE, NOT_COUNTED},
	{EVENT_CYCLES_NOT_HALTED, EVTSEL_EDGE, NOT_COUNTED},
	{EVENT_RETIRED_INSTRUCTIONS, EVTSEL_INV | CMASK(1), NOT_COUNTED},
	{EVENT_RETIRED_INSTRUCTIONS, 0x100, NOT_COUNTED},
	{EVENT_CYCLES_NOT_HALTED, 0x100, NOT_COUNTED},
	{EVENT_RETIRED_INSTRUCTIONS, EVTSEL_EDGE | CMASK(1), NOT_COUNTED},
	{EVENT_RETIRED_INSTRUCTIONS, EVTSEL_INV, INSTRUCTIONS},
	{EVENT_CYCLES_NOT_HALTED, EVTSEL_INV, CYCLES},
	{EVENT_RETIRED_INSTRUCTIONS, CMASK(1), INSTRUCTIONS},
	{EVENT_CYCLES_NOT_HALTED, CMASK(1), CYCLES},
	{EVENT_RETIRED_INSTRUCTIONS, CMASK(2), NOTHING},
	{EVENT_CYCLES_NOT_HALTED, CMASK(255), NOTHING},
	{EVENT_CYCLES_NOT_HALTED, EVTSEL_INV | CMASK(1), NOTHING},
	{EVENT_RETIRED_INSTRUCTIONS, EVTSEL_INV | CMASK(2), CYCLES},
	{EVENT_CYCLES_NOT_HALTED, EVTSEL_INV | CMASK(255), CYCLES},
};

/* Lines of the log that say of counter n that it does not count. */
static u32 lines_about(u32 n)
{
	static char chunk[512];
	static const char text[] = "event=pmu_unsupported counter=";
	u64 position = 0, bytes;
	u32 at = 0, lines = 0;

	for (;;) {
		bytes = TALLY_CALL_LOG_READ;
		asm volatile("vmmcall"
			     : "+a"(bytes), "+d"(position)
			     : "b"(chunk), "c"(sizeof(chunk))
			     : "memory");
		if (!CHECK(bytes <= sizeof(chunk)) || !bytes)
			return lines;
		for (u64 i = 0; i < bytes; i++) {
			if (at == sizeof(text) - 1) {
				lines += chunk[i] == (char)('0' + n);
				at = 0;
			} else {
				at = chunk[i] == text[at] ? at + 1 : chunk[i] == text[0];
			}
		}
	}
}

static void check_modified(const void *arg)
{
	const u64 plain = EVTSEL_USR | EVTSEL_OS | EVTSEL_EN;
	bool known = platform.exact && platform.lowest_backend == TALLY_BACKEND_CLOCK;
	/* with `switched`, also of a level in between, L0 has a share in what is no plain event */
	bool shared = platform.backend == TALLY_BACKEND_SWITCHED || platform.depth > 2;
	u32 cycles, lines[PMU_COUNTERS];

	(void)arg;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		lines[i] = platform.under_us ? lines_about(i) : 0;
	/* not 0, which a hypervisor below may have to look after: docs/pmu.md, the owed tick */
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		wrmsr(MSR_PERFCTR(i), 1000);
	wrmsr(MSR_PERFEVTSEL(0), plain | EVENT_CYCLES_NOT_HALTED);
	cycles = stretch(0);
	for (u32 round = 0; round < 2; round++) {
		for (u32 k = 0; k < ARRAY_SIZE(modified); k++) {
			u64 selector = plain | modified[k].event | modified[k].bits, value;
			u32 i = k % PMU_COUNTERS, moved, want;

			wrmsr(MSR_PERFEVTSEL(i), selector);
			CHECK_EQ(rdmsr(MSR_PERFEVTSEL(i)), selector);
			value = rdpmc(i);
			moved = stretch(i);
			want = modified[k].what == INSTRUCTIONS ? STRETCH
			       : modified[k].what == CYCLES	? cycles
								: 0;
			if (known && (!shared || selector == (SEL_INSTRUCTIONS | EVTSEL_INV)) &&
			    !tap_equal(moved, want, "what it counts"))
				note("that was selector 0x%lx", selector);
			if (platform.backend == TALLY_BACKEND_CLOCK && modified[k].what <= NOTHING)
				CHECK_EQ(rdpmc(i), value);
			/* and plain again */
			wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
			moved = stretch(i);
			if (platform.exact)
				CHECK_EQ(moved, STRETCH);
			else
				CHECK(moved > 0);
		}
	}
	/* each counter had one that is not counted, more than once: one line; the log is one for all CPUs */
	for (u32 i = 0; platform.under_us && i < PMU_COUNTERS; i++) {
		u32 own = platform.backend == TALLY_BACKEND_CLOCK, all = lines_about(i) - lines[i];

		CHECK(own <= all && all <= own * tap_instances());
	}
	pmu_stop_all();
}

static void check_written_value(const void *arg)
{
	u64 lo, hi;

	(void)arg;
	if (!platform.exact) {
		tap_skip("counts are not exact here");
		return;
	}
	/* WRMSR retires after its value is in place: it is the first instruction counted; MOV, then
	 * RDPMC. */
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	asm volatile("wrmsr\n\txor %%ecx, %%ecx\n\trdpmc"
		     : "=a"(lo), "=d"(hi)
		     : "a"(1000), "d"(0), "c"(MSR_PERFCTR(0)));
	CHECK_EQ((u32)lo, 1000 + 2);
	/* The WRMSR that starts a counter retires before it counts, the one that stops it while it
	 * counts. */
	wrmsr(MSR_PERFEVTSEL(0), 0);
	wrmsr(MSR_PERFCTR(0), 0);
	asm volatile("wrmsr\n\txor %%eax, %%eax\n\twrmsr"
		     :
		     : "a"((u32)SEL_INSTRUCTIONS), "d"(0), "c"(MSR_PERFEVTSEL(0))
		     : "memory");
	CHECK_EQ(rdmsr(MSR_PERFCTR(0)), 2);
	pmu_stop_all();
}

/* Starts counter 0 and, one MOV later, reads it; nothing exits in between that need not. */
#define START_AND_READ(read, ecx)                                                                  \
	({                                                                                         \
		u32 lo_ = (u32)SEL_INSTRUCTIONS, hi_ = 0, ecx_ = MSR_PERFEVTSEL(0);                \
                                                                                                   \
		asm volatile("wrmsr\n\tmov %3, %%ecx\n\t" read                                     \
			     : "+a"(lo_), "+d"(hi_), "+c"(ecx_)                                    \
			     : "r"((u32)(ecx))                                                     \
			     : "memory");                                                          \
		wrmsr(MSR_PERFEVTSEL(0), 0);                                                       \
		lo_ | (u64)hi_ << 32;                                                              \
	})

/* A hypervisor below may have had to take something off it. */
static void check_started_at_zero(const void *arg)
{
	u32 lo = (u32)SEL_INSTRUCTIONS, hi = 0, ecx = MSR_PERFEVTSEL(0);

	(void)arg;
	if (!platform.exact) {
		tap_skip("counts are not exact here");
		return;
	}
	wrmsr(MSR_PERFCTR(0), 0);
	CHECK_EQ(START_AND_READ("rdpmc", 0), 1);
	wrmsr(MSR_PERFCTR(0), 0);
	CHECK_EQ(START_AND_READ("rdmsr", MSR_PERFCTR(0)), 1);
	wrmsr(MSR_PERFCTR(0), 0);
	CHECK_EQ(START_AND_READ("rdmsr", MSR_LEGACY_PERFCTR(0)), 1);
	wrmsr(MSR_PERFCTR(0), 0);
	asm volatile("wrmsr\n\tmov %3, %%ecx\n\tmov $1000, %%eax\n\twrmsr\n\t"
		     "xor %%ecx, %%ecx\n\trdpmc"
		     : "+a"(lo), "+d"(hi), "+c"(ecx)
		     : "r"(MSR_PERFCTR(0))
		     : "memory");
	CHECK_EQ(lo, 1000 + 2);
	pmu_stop_all();
}

/* ---- PerfMonV2 (§13.2.1) ---- */

#define ALL_COUNTERS BITS(PMU_COUNTERS - 1, 0)

static bool has_v2(void)
{
	return cpuid(CPUID_EXT_MAX).eax >= CPUID_PERFMON_V2 &&
	       (cpuid(CPUID_PERFMON_V2).eax & CPUID_22_EAX_PERFMON_V2);
}

static bool v2_or_skip(void)
{
	if (!has_v2())
		tap_skip("CPUID 8000_0022 has no PerfMonV2");
	return has_v2();
}

/* On silicon, reserved bits are known to stick. */
static u64 status(void)
{
	u64 value = rdmsr(MSR_PERF_GLOBAL_STATUS);

	return platform.under_us ? value : value & ALL_COUNTERS;
}

static void v2_reset(void)
{
	pmu_stop_all();
	wrmsr(MSR_PERF_GLOBAL_CTL, ALL_COUNTERS);
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ALL_COUNTERS);
}

static void check_v2_absent(const void *arg)
{
	const u32 v2[] = {MSR_PERF_GLOBAL_STATUS, MSR_PERF_GLOBAL_CTL, MSR_PERF_GLOBAL_STATUS_CLR,
			  MSR_PERF_GLOBAL_STATUS_SET};

	(void)arg;
	if (has_v2()) {
		tap_skip("CPUID 8000_0022 has PerfMonV2");
		return;
	}
	/* Registers that do not exist: either #GP, or 0 and no effect, but never a value. */
	for (u32 i = 0; i < ARRAY_SIZE(v2); i++) {
		u64 msr_value[] = {v2[i], 0x3f};
		u64 written = try_call(write_msr, msr_value);

		rdpmc_value = 0;
		tap_check(written == VEC_NONE || written == VEC_GP, "no other exception");
		CHECK_EQ(try_call(do_rdmsr, &v2[i]), written);
		CHECK_EQ(rdpmc_value, 0);
	}
}

static void check_v2_cpuid(const void *arg)
{
	struct cpuid leaf;

	(void)arg;
	if (!v2_or_skip())
		return;
	leaf = cpuid(CPUID_PERFMON_V2);
	CHECK_EQ(leaf.ebx & 0xf, PMU_COUNTERS);
	if (platform.under_us) {
		/* No LBR stack and no freezing, no counters but those of the core. */
		CHECK_EQ(leaf.eax, CPUID_22_EAX_PERFMON_V2);
		CHECK_EQ(leaf.ebx, PMU_COUNTERS);
		CHECK_EQ(leaf.ecx, 0);
		CHECK_EQ(leaf.edx, 0);
	}
}

/* Before any other test has written GLOBAL_CTL. */
static void check_v2_registers(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	if (platform.under_us) {
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_CTL), ALL_COUNTERS);
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS_CLR), 0);
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS_SET), 0);
	}
	for (u32 bit = 0; bit < (platform.under_us ? 64 : PMU_COUNTERS); bit++) {
		u64 want = BIT(bit) & ALL_COUNTERS;
		u64 ctl[] = {MSR_PERF_GLOBAL_CTL, BIT(bit)};
		u64 set[] = {MSR_PERF_GLOBAL_STATUS_SET, BIT(bit)};
		u64 clr[] = {MSR_PERF_GLOBAL_STATUS_CLR, BIT(bit)};

		CHECK_EQ(try_call(write_msr, ctl), VEC_NONE);
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_CTL), want);
		CHECK_EQ(try_call(write_msr, set), VEC_NONE);
		CHECK_EQ(status(), want);
		CHECK_EQ(try_call(write_msr, clr), VEC_NONE);
		CHECK_EQ(status(), 0);
	}
	v2_reset();
}

/* All six have EN; without its bit in GLOBAL_CTL one stands still, and only that one. */
static void check_v2_stops_one(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
	for (u32 off = 0; off < PMU_COUNTERS; off++) {
		u64 stopped;

		wrmsr(MSR_PERF_GLOBAL_CTL, ALL_COUNTERS & ~BIT(off));
		stopped = rdpmc(off);
		for (u32 i = 0; i < PMU_COUNTERS; i++) {
			u32 moved = stretch(i);

			if (i == off)
				CHECK_EQ(moved, 0);
			else if (platform.exact)
				CHECK_EQ(moved, STRETCH);
			else
				CHECK(moved > 0);
			CHECK_EQ(rdmsr(MSR_PERFEVTSEL(i)), SEL_INSTRUCTIONS);
		}
		CHECK_EQ(rdmsr(MSR_PERFCTR(off)), stopped);
		wrmsr(MSR_PERF_GLOBAL_CTL, ALL_COUNTERS);
		CHECK(stretch(off) > 0);
	}
	/* And a bit in GLOBAL_CTL starts nothing that has no EN. */
	wrmsr(MSR_PERFEVTSEL(3), SEL_INSTRUCTIONS & ~EVTSEL_EN);
	wrmsr(MSR_PERF_GLOBAL_CTL, 0);
	wrmsr(MSR_PERF_GLOBAL_CTL, ALL_COUNTERS);
	CHECK_EQ(stretch(3), 0);
	v2_reset();
}

/* From a WRMSR to GLOBAL_CTL that starts counters to one that stops them: the first retires before
 * they count, the second while they count. */
#define GLOBAL_STRETCH (100 + 1 + 1)
static void global_stretch(u64 counters)
{
	asm volatile("wrmsr\n\t.rept 100\n\tnop\n\t.endr\n\txor %%eax, %%eax\n\twrmsr"
		     :
		     : "c"(MSR_PERF_GLOBAL_CTL), "a"((u32)counters), "d"(0)
		     : "memory");
}

static void check_v2_starts_together(const void *arg)
{
	u64 first;

	(void)arg;
	if (!v2_or_skip())
		return;
	if (platform.backend != TALLY_BACKEND_CLOCK && !platform.exact) {
		tap_skip("counts are not exact here");
		return;
	}
	wrmsr(MSR_PERF_GLOBAL_CTL, 0);
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		CHECK_EQ(rdpmc(i), 0);
	for (u32 counters = 1; counters <= ALL_COUNTERS; counters++) {
		for (u32 i = 0; i < PMU_COUNTERS; i++)
			wrmsr(MSR_PERFCTR(i), 0);
		global_stretch(counters);
		first = rdpmc((u32)__builtin_ctz(counters));
		if (platform.exact)
			CHECK_EQ(first, GLOBAL_STRETCH);
		else
			CHECK(first > 0);
		for (u32 i = 0; i < PMU_COUNTERS; i++)
			CHECK_EQ(rdpmc(i), counters & BIT(i) ? first : 0);
	}
	v2_reset();
}

/* A carry out of bit 47 shows in GLOBAL_STATUS, INT or not, until it is cleared there. */
static void check_v2_overflow(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		v2_reset();
		wrmsr(MSR_PERF_GLOBAL_CTL, 0);
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
		wrmsr(MSR_PERFCTR(i), BIT(48) - 1 - GLOBAL_STRETCH);
		CHECK_EQ(status(), 0);
		if (platform.exact) {
			global_stretch(BIT(i));
			CHECK_EQ(rdpmc(i), PMU_COUNTER_MASK);
			CHECK_EQ(status(), 0);
		}
		wrmsr(MSR_PERFCTR(i), BIT(48) - 10);
		global_stretch(BIT(i));
		if (platform.exact)
			CHECK_EQ(rdpmc(i), GLOBAL_STRETCH - 10);
		else
			CHECK(rdpmc(i) < BIT(47));
		CHECK_EQ(status(), BIT(i));

		/* Neither reading, nor writing the counter, nor a read-only register clears it. */
		wrmsr(MSR_PERFCTR(i), 7);
		wrmsr(MSR_PERFEVTSEL(i), 0);
		if (platform.under_us) {
			u64 read_only[] = {MSR_PERF_GLOBAL_STATUS, 0};

			CHECK_EQ(try_call(write_msr, read_only), VEC_NONE);
			read_only[1] = ALL_COUNTERS;
			CHECK_EQ(try_call(write_msr, read_only), VEC_NONE);
		}
		CHECK_EQ(status(), BIT(i));
		wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ALL_COUNTERS & ~BIT(i));
		CHECK_EQ(status(), BIT(i));
		wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BIT(i));
		CHECK_EQ(status(), 0);
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), 7);

		/* Written over before anybody asked. */
		wrmsr(MSR_PERFCTR(i), BIT(48) - 10);
		wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
		global_stretch(BIT(i));
		wrmsr(MSR_PERFCTR(i), 7);
		CHECK_EQ(status(), BIT(i));
	}
	v2_reset();
}

/* Counting from 0 is none. */
static void check_v2_no_overflow(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		v2_reset();
		for (u32 round = 0; round < 2; round++) {
			wrmsr(MSR_PERFCTR(i), 0);
			wrmsr(MSR_PERFEVTSEL(i), SEL_INSTRUCTIONS);
			CHECK(rdpmc(i) < BIT(47));
			wrmsr(MSR_PERFEVTSEL(i), 0);
			CHECK_EQ(status(), 0);
		}
	}
	v2_reset();
}

/* An instruction that a hypervisor carries out overflows a counter as any other does. */
static void check_v2_overflow_emulated(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	if (!platform.exact) {
		tap_skip("counts are not exact here");
		return;
	}
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	/* The first WRMSR counts on top of its value: that is the overflow. */
	wrmsr(MSR_PERFCTR(0), PMU_COUNTER_MASK);
	CHECK_EQ(status(), 1);
	v2_reset();
}

/* SET is for who restores a context: it adds, and CLR takes off. */
static void check_v2_set(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	wrmsr(MSR_PERF_GLOBAL_STATUS_SET, 0x21);
	CHECK_EQ(status(), 0x21);
	wrmsr(MSR_PERF_GLOBAL_STATUS_SET, 0x0c);
	CHECK_EQ(status(), 0x2d);
	if (platform.under_us) {
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS_SET), 0);
		CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_STATUS_CLR), 0);
	}
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, 0x05);
	CHECK_EQ(status(), 0x28);
	wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, ALL_COUNTERS);
	CHECK_EQ(status(), 0);
}

static void check_v2_user(const void *arg)
{
	(void)arg;
	if (!v2_or_skip())
		return;
	for (u32 msr = MSR_PERF_GLOBAL_STATUS; msr <= MSR_PERF_GLOBAL_STATUS_SET; msr++) {
		u64 msr_value[] = {msr, 0};

		CHECK_EQ(try_user(do_rdmsr, &msr), VEC_GP);
		CHECK_EQ(try_user(write_msr, msr_value), VEC_GP);
	}
	CHECK_EQ(rdmsr(MSR_PERF_GLOBAL_CTL), ALL_COUNTERS);
}

/* ---- what is near the PMU, there or not as CPUID says ---- */

static void check_irperf(const void *arg)
{
	const bool there = cpuid(CPUID_ADDR_SIZES).ebx & CPUID_8_EBX_IRPERF;
	const u32 msr = MSR_IRPERF;
	u64 msr_value[] = {msr, 1};

	(void)arg;
	if (platform.under_us)
		CHECK(!there);
	rdpmc_value = 0;
	CHECK_EQ(try_call(do_rdmsr, &msr), there ? VEC_NONE : VEC_GP);
	CHECK_EQ(try_call(write_msr, msr_value), there ? VEC_NONE : VEC_GP);
	if (!there)
		CHECK_EQ(rdpmc_value, 0);
}

static void l2_irperf(void)
{
	rdmsr(MSR_IRPERF);
	vmmcall();
}

static void l2_freezes(void)
{
	wrmsr(MSR_DEBUGCTL, DEBUGCTL_FREEZE_PMC);
	vmmcall();
}

/* An L2 whose L1 intercepts nothing gets no more. */
static void check_near_l2(const void *arg)
{
	void (*const run[])(void) = {l2_irperf, l2_freezes};

	(void)arg;
	if (!platform.under_us) {
		tap_skip("L1 may have them here");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(run); i++) {
		l2_reset((const void *)run[i]);
		l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_GP));
	}
}

/* Freezing on an overflow's interrupt is not offered: as on CPUs that do not have it, the bits are reserved. */
static void check_freeze(const void *arg)
{
	const u64 was = rdmsr(MSR_DEBUGCTL), bits[] = {DEBUGCTL_FREEZE_LBR, DEBUGCTL_FREEZE_PMC};
	const bool there = has_v2() && (cpuid(CPUID_PERFMON_V2).eax & BIT(2));

	(void)arg;
	if (platform.under_us)
		CHECK(!there);
	for (u32 i = 0; i < ARRAY_SIZE(bits); i++) {
		u64 msr_value[] = {MSR_DEBUGCTL, was | bits[i]};

		CHECK_EQ(try_call(write_msr, msr_value), there ? VEC_NONE : VEC_GP);
		if (!there)
			CHECK_EQ(rdmsr(MSR_DEBUGCTL), was);
		msr_value[1] = was;
		CHECK_EQ(try_call(write_msr, msr_value), VEC_NONE);
	}
}

static void check_frequency(const void *arg)
{
	u64 mperf, aperf;

	(void)arg;
	if (!(cpuid(CPUID_POWER).ecx & CPUID_6_ECX_EFF_FREQ)) {
		tap_skip("no APERF and MPERF (CPUID 6 ECX[0])");
		return;
	}
	mperf = rdmsr(MSR_MPERF);
	aperf = rdmsr(MSR_APERF);
	CHECK(rdmsr(MSR_MPERF_READONLY) > 0);
	CHECK(rdmsr(MSR_APERF_READONLY) > 0);
	for (u32 i = 0; i < 100000; i++)
		asm volatile("nop");
	CHECK(rdmsr(MSR_MPERF) > mperf);
	CHECK(rdmsr(MSR_APERF) > aperf);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"CPUID", check_cpuid},
	{"legacy and extended selectors are the same", check_selector_aliases},
	{"legacy and extended counters are the same", check_counter_aliases},
	{"six pairs are independent", check_independent},
	{"counters have 48 bits", check_width},
	{"reserved bits of a selector read 0 and never fault", check_reserved},
	{"RDPMC: six counters, #GP beyond", check_rdpmc_index},
	{"RDPMC at CPL 3: CR4.PCE", check_rdpmc_user},
	{"RDMSR and WRMSR at CPL 3", check_msr_user},
	{"RCX[63:32] is ignored, RAX and RDX are written whole", check_high_rcx},
	{"stopped counters keep their value", check_stopped},
	{"six counters count alike", check_six},
	{"EDGE, INV, CMASK and unit masks", check_modified},
	{"WRMSR to a running counter, and to a selector", check_written_value},
	{"a counter that starts at 0, read and written at once", check_started_at_zero},
	{"PerfMonV2: CPUID", check_v2_cpuid},
	{"PerfMonV2: no registers without CPUID", check_v2_absent},
	{"PerfMonV2: reset values and reserved bits", check_v2_registers},
	{"PerfMonV2: GLOBAL_CTL stops one counter", check_v2_stops_one},
	{"PerfMonV2: GLOBAL_CTL starts counters together", check_v2_starts_together},
	{"PerfMonV2: overflow", check_v2_overflow},
	{"PerfMonV2: no overflow at 0", check_v2_no_overflow},
	{"PerfMonV2: overflow by an emulated instruction", check_v2_overflow_emulated},
	{"PerfMonV2: STATUS_SET and STATUS_CLR", check_v2_set},
	{"PerfMonV2: RDMSR and WRMSR at CPL 3", check_v2_user},
	{"IRPERF", check_irperf},
	{"DebugCtl: freezing", check_freeze},
	{"IRPERF and freezing in L2", check_near_l2},
	{"APERF and MPERF", check_frequency},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!platform.pmu) {
		tap_skip_all("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return;
	}
	if (!svm_start())
		return;
	pmu_stop_all();
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

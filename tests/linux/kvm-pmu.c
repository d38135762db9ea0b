/* SPDX-License-Identifier: MIT */
/*
 * A guest of KVM's mediated PMU: what it counts of itself, to the instruction. KVM gives it the machine's counters and
 * sets GuestOnly in each selector, so the guest's count is
 *
 *   the instructions that it retires, one for each that KVM emulates, and one for each VMRUN that enters it
 *
 * because VMRUN counts where it goes to (docs/pmu.md). KVM's statistics have the exits, of which each follows a VMRUN.
 */
#include <errno.h>
#include <cpuid.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kvm-machine.h"

#define MSR_PERFEVTSEL(n) (0xc0010200u + 2 * (n))
#define MSR_PERFCTR(n) (0xc0010201u + 2 * (n))
#define MSR_GLOBAL_STATUS 0xc0000300u
#define MSR_GLOBAL_CTL 0xc0000301u
#define MSR_EFER 0xc0000080u

#define EVENT_INSTRUCTIONS 0xc0ul
#define EVTSEL_USR (1ul << 16)
#define EVTSEL_OS (1ul << 17)
#define EVTSEL_INT (1ul << 20)
#define EVTSEL_EN (1ul << 22)
#define EVTSEL_GUESTONLY (1ul << 40)
#define EVTSEL_HOSTONLY (1ul << 41)
#define INSTRUCTIONS (EVENT_INSTRUCTIONS | EVTSEL_USR | EVTSEL_OS | EVTSEL_EN)
#define COUNTER_MASK ((1ul << 48) - 1)
#define ALL_COUNTERS ((1ul << PMU_COUNTERS) - 1)

#define LVT_NMI 0x400ul
/* The interrupt comes where the counter overflows. What is counted then: VMRUNs, the handler, a round of the loop. */
#define BEHIND_MAX 64u

/* CPUID of Tallyvisor: exits for the PMU's MSRs and RDPMC (docs/hypercalls.md). */
#define CPUID_HYPERVISOR 0x40000000u
#define CPUID_PMU_ACCESSES 0x40000002u

/* Where the guest starts and stops its counters itself, and a tick of the host's comes near, nobody can say whether the
 * VMRUN after it was counted. Then the count is only checked for its bounds, and it is tried again, so many times, each at another time after a tick. */
#define ATTEMPTS 20
#define ATTEMPT_SECONDS 0.00037

extern const u8 guest_pmu_registers[], guest_pmu_rdpmc[], guest_pmu_selector[], guest_pmu_global[],
	guest_pmu_run[];
extern const u8 guest_pmu_halt[], guest_pmu_timer[], guest_pmu_overflow[];
extern const u8 guest_pmu_overflow_wait[], guest_pmu_overflow_seen[];
extern const u8 guest_pmu_modes[], guest_pmu_l3[];

/* has_pmu: KVM offers its guests PerfMonV2 with six counters. */
static bool has_pmu(struct machine *m)
{
	static u64 room[(sizeof(struct kvm_cpuid2) + sizeof(struct kvm_cpuid_entry2[128])) / 8];
	struct kvm_cpuid2 *list = (struct kvm_cpuid2 *)room;

	(void)m;
	list->nent = 128;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) < 0)
		return fail("KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	for (struct kvm_cpuid_entry2 *e = list->entries; e < &list->entries[list->nent]; e++)
		if (e->function == 0x80000022 && (e->eax & 1))
			return CHECK_EQ("counters in CPUID 8000_0022", e->ebx & 15, PMU_COUNTERS);
	return fail("KVM offers its guests no PerfMonV2");
}

/* With KVM's own APIC: only so the PMU is mediated. */
static bool pmu_open(struct machine *m, const u8 *label)
{
	return has_pmu(m) && machine_open(m, label, true);
}

static bool set_msr(struct machine *m, u32 index, u64 value)
{
	return host_msr(m, KVM_SET_MSRS, index, &value);
}

/* Sleeping would end with a tick, and so does making a machine. */
static void wait_for(u32 attempt)
{
	double end = now() + attempt * ATTEMPT_SECONDS;

	while (now() < end)
		;
}

static u64 get_msr(struct machine *m, u32 index)
{
	u64 value = 0;

	host_msr(m, KVM_GET_MSRS, index, &value);
	return value;
}

/* between_ports: from PORT_READY to PORT_DONE; what that was in exits, and so in VMRUNs. */
static bool between_ports(struct machine *m, u32 attempt, u64 *exits)
{
	if (!run_out(m, PORT_READY))
		return false;
	*exits = exits_of(m);
	wait_for(attempt);
	if (!run_out(m, PORT_DONE))
		return false;
	*exits = exits_of(m) - *exits;
	return !test_has_failed();
}

static void test_registers(struct machine *m)
{
	/* What is written, and what of it stays: not EN, so that nothing moves, and not what is reserved. */
	static const struct {
		u32 index;
		u64 value, stays;
	} registers[] = {
		{MSR_PERFEVTSEL(0), ~EVTSEL_EN, 0x0000030fff97ffff & ~EVTSEL_EN},
		{MSR_PERFEVTSEL(5), INSTRUCTIONS & ~EVTSEL_EN, INSTRUCTIONS & ~EVTSEL_EN},
		{MSR_PERFEVTSEL(0), 0, 0},
		{MSR_PERFCTR(0), 0xffff123456789abc, 0x123456789abc},
		{MSR_PERFCTR(5), 0xabcdef, 0xabcdef},
		{MSR_GLOBAL_CTL, ~0x2aul, ALL_COUNTERS & ~0x2aul},
		{MSR_GLOBAL_STATUS, ALL_COUNTERS, 0}, /* read-only */
	};
	const struct trap fault = {.vector = VECTOR_GP, .rip = address(guest_pmu_rdpmc)};
	const u32 count = sizeof(registers) / sizeof(registers[0]);

	if (!pmu_open(m, guest_pmu_registers))
		return;
	CHECK_EQ("PerfCntGlobalCtl at reset", get_msr(m, MSR_GLOBAL_CTL), ALL_COUNTERS);
	for (u32 i = 0; i < count; i++)
		put_msr(m, i, registers[i].index, registers[i].value);
	if (!run_out(m, PORT_DONE))
		return;
	for (u32 i = 0; i < count; i++)
		CHECK(read64(m, GUEST_OUT + i * 8) == registers[i].stays,
		      "MSR %#x reads %#lx after %#lx, expected %#lx", registers[i].index,
		      read64(m, GUEST_OUT + i * 8), registers[i].value, registers[i].stays);
	check_traps(m, &fault, 1);
}

static const u64 loops[] = {1, 2, 10, 100, 1000, 10000};
#define LOOPS (sizeof(loops) / sizeof(loops[0]))
#define LOOP_TIMES 3

/* counted_once: `value` is `instructions` and one for each VMRUN that was counted: `least` of them, or, after a tick of the
 * host's, up to `ticks` more. Sets *clean if there was none. */
static bool counted_once(const char *what, u64 value, u64 instructions, u64 least, u64 ticks,
			 bool *clean)
{
	*clean = ticks == 0;
	return CHECK(value >= instructions + least && value <= instructions + least + ticks,
		     "%s is %lu, expected %lu instructions and %lu VMRUNs, %lu ticks", what, value,
		     instructions, least, ticks);
}

/* By a WRMSR of the selector, which exits: the VMRUN after the first counts, and so does the second itself. */
static bool selector_once(u64 rounds, u32 attempt, bool *clean)
{
	struct machine m;
	u64 exits;
	bool good = pmu_open(&m, guest_pmu_selector);

	if (good) {
		write64(&m, GUEST_IN, INSTRUCTIONS);
		write64(&m, GUEST_IN + 8, rounds);
		good = between_ports(&m, attempt, &exits) &&
		       counted_once("RDPMC", read64(&m, GUEST_OUT), 2 * rounds + 2, 1, exits - 3,
				    clean) &&
		       CHECK_EQ("RDMSR", read64(&m, GUEST_OUT + 8), read64(&m, GUEST_OUT)) &&
		       CHECK_EQ("RDMSR of C001_0004", read64(&m, GUEST_OUT + 16),
				read64(&m, GUEST_OUT));
	}
	machine_close(&m);
	return good;
}

/* By a WRMSR of PerfCntGlobalCtl, which does not: no VMRUN is counted. Two counters of six, which are the same. */
static bool global_once(u64 rounds, u32 attempt, bool *clean)
{
	struct machine m;
	u64 exits;
	bool good = pmu_open(&m, guest_pmu_global) && set_msr(&m, MSR_GLOBAL_CTL, 0);

	for (u32 i = 0; good && i < PMU_COUNTERS; i++)
		good = set_msr(&m, MSR_PERFEVTSEL(i), INSTRUCTIONS);
	if (good) {
		write64(&m, GUEST_IN, 0x22);
		write64(&m, GUEST_IN + 8, rounds);
		good = between_ports(&m, attempt, &exits) &&
		       counted_once("counter 1", read64(&m, GUEST_OUT + 8), 2 * rounds + 2, 0,
				    exits - 1, clean);
		for (u64 i = 0; good && i < PMU_COUNTERS; i++)
			good = CHECK_EQ("counter", read64(&m, GUEST_OUT + i * 8),
					i == 1 || i == 5 ? read64(&m, GUEST_OUT + 8) : 0);
	}
	machine_close(&m);
	return good;
}

static void loops_with(bool (*once)(u64 rounds, u32 attempt, bool *clean), const char *name)
{
	u32 exact = 0, tries = 0;

	for (u32 i = 0; i < LOOPS * LOOP_TIMES && !test_has_failed(); i++) {
		bool clean = false;

		for (u32 attempt = 0; attempt < ATTEMPTS && !clean && !test_has_failed();
		     attempt++) {
			once(loops[i % LOOPS], attempt, &clean);
			tries++;
		}
		exact += clean;
	}
	printf("# %s: %u of %u loops exact, no tick of the host's in them; %u tries\n", name, exact,
	       (u32)LOOPS * LOOP_TIMES, tries);
	CHECK_EQ("exact loops", exact, LOOPS * LOOP_TIMES);
}

static void test_selector(struct machine *m)
{
	*m = (struct machine){.vm = -1, .vcpu = -1, .run = MAP_FAILED};
	loops_with(selector_once, "by the selector");
}

static void test_global(struct machine *m)
{
	*m = (struct machine){.vm = -1, .vcpu = -1, .run = MAP_FAILED};
	loops_with(global_once, "by PerfCntGlobalCtl");
}

/* count_all: the counters count from before PORT_READY until after PORT_DONE, ticks and all, and are read outside of the
 * guest: each VMRUN between is counted, and each exit is behind one. `instructions` are the guest's, OUT the first. */
static bool count_all(struct machine *m, const char *name, u64 instructions)
{
	u64 before[PMU_COUNTERS], exits;
	u64 after[PMU_COUNTERS];

	if (!run_out(m, PORT_READY))
		return false;
	exits = exits_of(m);
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		before[i] = get_msr(m, MSR_PERFCTR(i));
	if (!run_out(m, PORT_DONE))
		return false;
	exits = exits_of(m) - exits;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		after[i] = get_msr(m, MSR_PERFCTR(i));
	printf("# %s: %lu counted, %lu instructions, %lu exits\n", name, after[0] - before[0],
	       instructions, exits);
	for (u32 i = 0; i < PMU_COUNTERS; i++) {
		u64 selector = get_msr(m, MSR_PERFEVTSEL(i));

		CHECK(after[i] - before[i] == (selector & EVTSEL_OS ? instructions + exits : 0),
		      "counter %u with selector %#lx has counted %lu, expected %lu", i, selector,
		      after[i] - before[i], selector & EVTSEL_OS ? instructions + exits : 0);
	}
	return !test_has_failed();
}

static bool count_with(struct machine *m, const u8 *program, const u64 *selectors)
{
	if (!pmu_open(m, program))
		return false;
	for (u32 i = 0; i < PMU_COUNTERS; i++)
		if (!set_msr(m, MSR_PERFEVTSEL(i), selectors[i]))
			return false;
	return true;
}

static const u64 six_alike[PMU_COUNTERS] = {INSTRUCTIONS, INSTRUCTIONS, INSTRUCTIONS,
					    INSTRUCTIONS, INSTRUCTIONS, INSTRUCTIONS};
static const u64 by_privilege[PMU_COUNTERS] = {INSTRUCTIONS, INSTRUCTIONS & ~EVTSEL_USR,
					       INSTRUCTIONS & ~EVTSEL_OS, 0, INSTRUCTIONS};

/* guest_pmu_run: two for each round of the loop, four for each CPUID, and OUT. */
static void count_run(struct machine *m, const char *name, const u64 *selectors, u64 rounds,
		      u64 cpuids)
{
	if (!count_with(m, guest_pmu_run, selectors))
		return;
	write64(m, GUEST_IN, rounds);
	write64(m, GUEST_IN + 8, cpuids);
	count_all(m, name, 1 + 2 * rounds + 4 * cpuids);
}

static void test_long(struct machine *m)
{
	count_run(m, "a loop of 20,000,000 and the host's ticks", six_alike, 10000000, 1);
}

static void test_exits(struct machine *m)
{
	count_run(m, "2,000 CPUID", six_alike, 1, 2000);
}

static void test_privilege(struct machine *m)
{
	count_run(m, "by privilege: a loop and 200 CPUID", by_privilege, 1000000, 200);
}

/* guest_pmu_halt: eight for each timer interrupt, its handler's two among them, OUT and CLI. */
static void count_halt(struct machine *m, const char *name, const u64 *selectors)
{
	const u64 rounds = 100;

	if (!count_with(m, guest_pmu_halt, selectors))
		return;
	write64(m, GUEST_IN, rounds);
	set_gate(m, VECTOR_TIMER, guest_pmu_timer);
	count_all(m, name, 2 + 8 * rounds);
}

static void test_halt(struct machine *m)
{
	count_halt(m, "100 times HLT and a timer", six_alike);
}

static void test_halt_privilege(struct machine *m)
{
	count_halt(m, "by privilege: 100 times HLT and a timer", by_privilege);
}

/* Each overflow is one interrupt in the guest, wherever in its loop that comes, and one bit of status. */
static void overflow(struct machine *m, u64 lvtpc, u64 vector)
{
	const u64 rounds = 10, begin = COUNTER_MASK + 1 - 100000;
	u64 least = COUNTER_MASK, most = 0;

	if (!pmu_open(m, guest_pmu_overflow) || !set_msr(m, MSR_GLOBAL_CTL, 0) ||
	    !set_msr(m, MSR_PERFEVTSEL(0), INSTRUCTIONS | EVTSEL_INT))
		return;
	write64(m, GUEST_IN, lvtpc);
	write64(m, GUEST_IN + 8, rounds);
	write64(m, GUEST_IN + 16, begin);
	if (!run_out(m, PORT_READY) || !run_out(m, PORT_DONE))
		return;
	for (u64 i = 0; i < rounds; i++) {
		u64 counter = read64(m, GUEST_OUT + i * 16);
		struct trap trap;

		memcpy(&trap, m->memory + GUEST_LOG + 8 + i * sizeof(trap), sizeof(trap));
		CHECK(counter < begin, "overflow %lu: the counter is %#lx, it has not wrapped", i,
		      counter);
		CHECK_EQ("PerfCntGlobalStatus", read64(m, GUEST_OUT + i * 16 + 8), 1);
		CHECK_EQ("vector", trap.vector, vector);
		CHECK(trap.rip >= address(guest_pmu_overflow_wait) &&
			      trap.rip < address(guest_pmu_overflow_seen),
		      "overflow %lu: the interrupt came at %#lx", i, trap.rip);
		least = counter < least ? counter : least;
		most = counter > most ? counter : most;
	}
	CHECK_EQ("interrupts", read64(m, GUEST_LOG), rounds);
	CHECK(most <= BEHIND_MAX, "an overflow was seen only %lu instructions behind", most);
	printf("# %lu overflows of 100,000 instructions: seen %lu to %lu instructions behind\n",
	       rounds, least, most);
}

static void test_overflow(struct machine *m)
{
	overflow(m, VECTOR_PMI, VECTOR_PMI);
}

static void test_overflow_nmi(struct machine *m)
{
	overflow(m, LVT_NMI, VECTOR_NMI);
}

/* --- HostOnly and GuestOnly in the guest's own selectors -------------------------------------------- */

enum { NONE, GUESTONLY, HOSTONLY, BOTH, MODES };

/* What guest_pmu_modes does between PORT_READY and PORT_DONE, one after the other: its instructions as a host, those as a
 * guest, VMRUN among them, and how many exits that takes if no tick of the host's comes in between. */
static const struct mode {
	const char *name;
	bool svme;
	u64 host, guest, exits;
} modes[] = {
	{"SVME=0", false, PMU_NOPS + 4, 0, 1},	     {"SVME=1", true, PMU_NOPS + 4, 0, 1},
	{"an L3", true, 5, 1 + PMU_NOPS, 3},	     {"SVME=1 after it", true, PMU_NOPS + 4, 0, 1},
	{"SVME=0 again", false, PMU_NOPS + 4, 0, 1},
};

static void write_segment(struct machine *m, u64 at, u16 selector, u16 attributes)
{
	write64(m, at, selector | (u64)attributes << 16 | 0xfffffffful << 32);
}

/* The VMCB (APM2 appendix B): L3 is in the same 64-bit mode as L2, on the same tables. */
static void write_vmcb(struct machine *m)
{
	const u64 save = GUEST_VMCB + 0x400;

	write64(m, GUEST_VMCB + 0x10, 3); /* VMRUN, VMMCALL */
	write64(m, GUEST_VMCB + 0x58, 1); /* ASID */
	write_segment(m, save, SELECTOR_DATA, 0xc93);
	write_segment(m, save + 0x10, SELECTOR_CODE, 0xa9b);
	write_segment(m, save + 0x20, SELECTOR_DATA, 0xc93);
	write_segment(m, save + 0x30, SELECTOR_DATA, 0xc93);
	write64(m, save + 0x60, (4ul * 8 - 1) << 32);
	write64(m, save + 0x68, GUEST_GDT);
	write64(m, save + 0x80, (256ul * 16 - 1) << 32);
	write64(m, save + 0x88, GUEST_IDT);
	write64(m, save + 0xd0, EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME);
	write64(m, save + 0x148, 1ul << 5);				  /* CR4: PAE */
	write64(m, save + 0x150, GUEST_PML4);				  /* CR3 */
	write64(m, save + 0x158, 1ul << 31 | 1ul << 16 | 1ul << 4 | 1ul); /* CR0: PG, WP, ET, PE */
	write64(m, save + 0x160, 0x400);				  /* DR7 */
	write64(m, save + 0x168, 0xffff0ff0);				  /* DR6 */
	write64(m, save + 0x170, 2);					  /* RFLAGS */
	write64(m, save + 0x178, address(guest_pmu_l3));
	write64(m, save + 0x1d8, GUEST_L3_STACK);
	write64(m, save + 0x268, 0x0007040600070406); /* PAT */
}

static void mode_show(struct machine *m, const struct mode *mode)
{
	printf("# %s: none %lu, G %lu, H %lu, both %lu; %lu exits\n", mode->name,
	       read64(m, GUEST_OUT), read64(m, GUEST_OUT + GUESTONLY * 8),
	       read64(m, GUEST_OUT + HOSTONLY * 8), read64(m, GUEST_OUT + BOTH * 8), mode->exits);
}

/* mode_once: one part. *clean if it was exact; else ticks were in it, and only what must be the same is the same. */
static bool mode_once(struct machine *m, const struct mode *mode, u32 attempt, bool *clean)
{
	u64 count[MODES], exits, vmruns;

	if (!between_ports(m, attempt, &exits))
		return false;
	for (u32 i = 0; i < MODES; i++)
		count[i] = read64(m, GUEST_OUT + i * 8);
	vmruns = count[NONE] - mode->host - mode->guest;
	if (!CHECK(vmruns <= exits - 1 && exits >= mode->exits,
		   "%s: %lu counted beside %lu instructions, in %lu exits", mode->name, vmruns,
		   mode->host + mode->guest, exits))
		return false;
	*clean = exits == mode->exits;
	if (*clean && !CHECK_EQ("VMRUNs counted", vmruns, exits - 1))
		return false;
	if (!mode->svme)
		return CHECK_EQ("G with SVME=0", count[GUESTONLY], 0) &&
		       CHECK_EQ("H with SVME=0", count[HOSTONLY], 0) &&
		       CHECK_EQ("both with SVME=0", count[BOTH], 0);
	if (!CHECK_EQ("both", count[BOTH], count[NONE]) ||
	    !CHECK_EQ("H and G", count[HOSTONLY] + count[GUESTONLY], count[NONE]))
		return false;
	if (!mode->guest)
		return CHECK_EQ("G without an L3", count[GUESTONLY], 0);
	/* VMRUN to L3, and VMRUN back to L2 behind L3's exit */
	return !*clean || (CHECK_EQ("G", count[GUESTONLY], mode->guest + 1) &&
			   CHECK_EQ("H", count[HOSTONLY], mode->host + 1));
}

static void test_modes(struct machine *m)
{
	const u32 parts = sizeof(modes) / sizeof(modes[0]);
	u32 exact = 0, all = (1u << parts) - 1;

	for (u32 attempt = 0; attempt < ATTEMPTS && exact != all && !test_has_failed(); attempt++) {
		if (attempt > 0)
			machine_close(m);
		if (!pmu_open(m, guest_pmu_modes) || !set_msr(m, MSR_GLOBAL_CTL, 0))
			return;
		for (u64 i = 0; i < MODES; i++)
			if (!set_msr(m, MSR_PERFEVTSEL((u32)i),
				     INSTRUCTIONS | i * EVTSEL_GUESTONLY))
				return;
		if (!CHECK_EQ("a selector with HostOnly and GuestOnly",
			      get_msr(m, MSR_PERFEVTSEL(BOTH)),
			      INSTRUCTIONS | EVTSEL_GUESTONLY | EVTSEL_HOSTONLY))
			return;
		write64(m, GUEST_IN, EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME);
		write64(m, GUEST_IN + 8, EFER_LME | EFER_LMA | EFER_NXE);
		write_vmcb(m);
		for (u32 i = 0; i < parts; i++) {
			bool clean = false;

			if (!mode_once(m, &modes[i], attempt, &clean))
				return;
			if (clean && !(exact >> i & 1))
				mode_show(m, &modes[i]);
			exact |= (u32)clean << i;
		}
	}
	CHECK_EQ("parts that were exact", exact, all);
}

/* --- what it costs ----------------------------------------------------------------------------- */

static bool pmu_accesses(u64 *accesses)
{
	u32 a, b, c, d;

	__cpuid(CPUID_HYPERVISOR, a, b, c, d);
	if (!CHECK(memcmp(&b, "Tall", 4) == 0 && a >= CPUID_PMU_ACCESSES, "this is not Tallyvisor"))
		return false;
	__cpuid(CPUID_PMU_ACCESSES, a, b, c, d);
	*accesses = a | (u64)b << 32;
	return true;
}

/* All exits cost KVM the same number of reads and writes of the PMU, for each of which it exits to us. */
static void test_cost(struct machine *m)
{
	for (u32 counters = 0; counters <= PMU_COUNTERS; counters++) {
		u64 selectors[PMU_COUNTERS] = {0}, before, after, exits, each, least;

		for (u32 i = 0; i < counters; i++)
			selectors[i] = INSTRUCTIONS;
		if (counters > 0)
			machine_close(m);
		if (!count_with(m, guest_pmu_run, selectors))
			return;
		write64(m, GUEST_IN, 1);
		write64(m, GUEST_IN + 8, 200);
		if (!run_out(m, PORT_READY) || !pmu_accesses(&before))
			return;
		exits = exits_of(m);
		if (!run_out(m, PORT_DONE) || !pmu_accesses(&after))
			return;
		exits = exits_of(m) - exits;
		/* six selectors and three writes of global registers in, the counters by RDPMC in and out, status in and
		 * out, PerfCntGlobalCtl out; for a counter in use its value in, and value and selector to 0 out; and what
		 * perf does for itself, which is one or two writes of PerfCntGlobalCtl each way */
		least = 25 + 3 * counters;
		each = (after - before) / exits;
		printf("# cost: %u counters in use: %lu reads and writes of the PMU for each exit "
		       "(%lu in %lu)\n",
		       counters, each, after - before, exits);
		CHECK(after - before == each * exits && each >= least && each <= least + 8,
		      "%u counters in use: %lu accesses in %lu exits, expected %lu to %lu each",
		      counters, after - before, exits, least, least + 8);
	}
}

const struct test pmu_tests[] = {
	{"PerfMonV2 in the guest: six counters, what is written comes back", test_registers},
	{"loops between two WRMSR of the selector: exact", test_selector},
	{"loops between two WRMSR of PerfCntGlobalCtl: exact, two counters the same", test_global},
	{"20,000,000 instructions: exact, with a VMRUN for each exit", test_long},
	{"2,000 CPUID: the same", test_exits},
	{"100 timer interrupts and HLT: the same", test_halt},
	{"USR counts nothing at CPL 0, and OS all", test_privilege},
	{"the same with interrupts", test_halt_privilege},
	{"overflow: an interrupt of the guest's APIC each time", test_overflow},
	{"overflow: an NMI each time", test_overflow_nmi},
	{"HostOnly and GuestOnly of a guest with an L3: exact", test_modes},
	{"what KVM reads and writes of the PMU for each exit: 25 to 33, and 3 for each counter in "
	 "use",
	 test_cost},
};
const u32 pmu_tests_count = sizeof(pmu_tests) / sizeof(pmu_tests[0]);

/* SPDX-License-Identifier: MIT */
/*
 * All CPUs are L1 at once: each runs guests of its own, counts, and touches the hypervisor's memory, while the others do the
 * same. What is one CPU's is not another one's.
 */
#include "abi/filter.h"
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define ROUNDS 2000u
#define HOLE_ROUNDS 400u
#define WINDOW_MARK 0x77770000u

const bool guest_wants_cpus = true;

static struct tally_status status ALIGNED(512);

/* One L2-physical page that is another one on each CPU. */
static u8 window[PAGE_SIZE] ALIGNED(4096);
static u64 own_page[MP_CPUS][PAGE_SIZE / 8] ALIGNED(4096);
static struct paging nested_tables[MP_CPUS];
static u64 sums[MP_CPUS];
static volatile u64 wrong[MP_CPUS];

/* Adds RBX and RCX to a place of the CPU's own, and tells what it finds in the window. */
L2_CODE(l2_work, "lea (%rbx,%rcx), %rax\n\tadd %rax, (%rdi)\n\tmov (%rsi), %rdx\n\tincq 8(%rsi)");
L2_CODE(l2_cpuid, "mov %rbx, %rdx\n\tcpuid");
L2_CODE(l2_hole, "mov (%rdi), %rax\n\tmovq $5, (%rdi)\n\tlock incq (%rdi)\n\tmov (%rdi), %rdx");

static void check(bool right)
{
	wrong[smp_this()] += !right;
}

static void all_at_once(void (*run)(void *arg), void *arg)
{
	for (u32 i = 0; i < smp_cpus(); i++)
		wrong[i] = 0;
	smp_run_all(run, arg);
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(wrong[i], 0);
}

static void prepare(const void *entry, bool nested_paging)
{
	l2_reset(entry);
	l2_intercept(INTERCEPT(CPUID));
	smp_l2_prepare();
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct paging *tables = &nested_tables[i];

		sums[i] = 0;
		own_page[i][0] = WINDOW_MARK + i;
		own_page[i][1] = 0;
		paging_identity(tables, PTE_ALL & ~(PTE_A | PTE_D));
		*paging_split(tables, (u64)window) = (u64)own_page[i] | PTE_ALL;
		if (nested_paging) {
			struct vmcb_control *c = &smp_l2_of(i)->vmcb.control;

			c->np_ctl = NP_ENABLE;
			c->nested_cr3 = paging_root(tables);
			c->tlb_control = TLB_CONTROL_FLUSH_ALL;
		}
	}
}

static void work(void *arg)
{
	u32 me = smp_this();
	struct smp_l2 *own = smp_l2();
	struct vmcb_save *s = &own->vmcb.save;
	bool nested_paging = own->vmcb.control.np_ctl;
	u64 sum = 0;

	(void)arg;
	smp_l2_enable();
	smp_meet();
	for (u32 n = 0; n < ROUNDS; n++) {
		s->rip = (u64)l2_work;
		own->regs.rcx = n;
		own->regs.rdi = (u64)&sums[me];
		own->regs.rsi = nested_paging ? (u64)window : (u64)own_page[me];
		sum += n + me;
		check(smp_l2_run() == VMEXIT_VMMCALL);
		own->vmcb.control.tlb_control = TLB_CONTROL_NONE;
		check(s->rip == (u64)l2_work_end);
		check(s->rax == n + me);
		check(own->regs.rdx == WINDOW_MARK + me);
		check(own->regs.rbx == me);
		check(sums[me] == sum);
		s->rip = (u64)l2_cpuid;
		check(smp_l2_run() == VMEXIT_CPUID);
		check(own->regs.rdx == me);
	}
	check(own_page[me][1] == ROUNDS);
	check(rdmsr(MSR_VM_HSAVE_PA) == (u64)own->hsave);
}

static void check_nested(const void *nested_paging)
{
	prepare(l2_work, nested_paging);
	all_at_once(work, NULL);
}

/* The APs' SVME is of no concern to the others': toggled for each round. */
static void toggle(void *arg)
{
	(void)arg;
	smp_meet();
	for (u32 n = 0; n < ROUNDS / 4; n++) {
		smp_l2_enable();
		check(rdmsr(MSR_EFER) & EFER_SVME);
		smp_l2()->vmcb.save.rip = (u64)l2_cpuid;
		check(smp_l2_run() == VMEXIT_CPUID);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
		check(!(rdmsr(MSR_EFER) & EFER_SVME));
	}
	smp_l2_enable();
}

static void check_toggle(const void *arg)
{
	(void)arg;
	prepare(l2_cpuid, false);
	all_at_once(toggle, NULL);
}

/* ---- counters ---- */

#define SELECTOR 0x4300c0ull /* USR, OS, EN */

static u64 counted_guest[MP_CPUS], counted_host[MP_CPUS];

/* Each CPU's selectors are others, and so are the values of counters that stand still. */
static void count(void *arg)
{
	u32 me = smp_this();
	u64 stopped = 0x0300c0 | (u64)(me & 0xf) << 8;

	wrmsr(MSR_PERFEVTSEL(0), SELECTOR | EVTSEL_GUESTONLY);
	wrmsr(MSR_PERFEVTSEL(1), SELECTOR | EVTSEL_HOSTONLY);
	wrmsr(MSR_PERFEVTSEL(2), stopped);
	wrmsr(MSR_PERFCTR(0), 0);
	wrmsr(MSR_PERFCTR(1), 0);
	wrmsr(MSR_PERFCTR(2), 1000 + me);
	/* one of them counts nothing of its own L2's */
	if (me == 1)
		wrmsr(MSR_PERFEVTSEL(0), 0);
	work(arg);
	counted_guest[me] = rdmsr(MSR_PERFCTR(0));
	counted_host[me] = rdmsr(MSR_PERFCTR(1));
	check(rdmsr(MSR_PERFCTR(2)) == 1000 + me);
	check(rdmsr(MSR_PERFEVTSEL(2)) == stopped);
	check(rdmsr(MSR_PERFEVTSEL(1)) == (SELECTOR | EVTSEL_HOSTONLY));
	for (u32 i = 0; i < 3; i++)
		wrmsr(MSR_PERFEVTSEL(i), 0);
}

/*
 * An instruction clock is one for all CPUs, so each counts what the others execute, too, and no count is exact; but a
 * counter that is off counts nothing, and L2's instructions are the least that one with GuestOnly has.
 */
static void check_counters(const void *arg)
{
	(void)arg;
	if (!platform.pmu) {
		tap_skip("no PMU");
		return;
	}
	prepare(l2_work, true);
	all_at_once(count, NULL);
	for (u32 i = 0; i < smp_cpus(); i++) {
		if (i == 1)
			CHECK_EQ(counted_guest[i], 0);
		else if (platform.exact)
			CHECK(counted_guest[i] >= 5ull * ROUNDS);
		else
			CHECK(counted_guest[i] > 0);
		CHECK(counted_host[i] > 0);
	}
}

/* ---- a CPU that no IPI reaches ---- */

static const struct tally_filter no_retired ALIGNED(1024) = {.version = TALLY_FILTER_VERSION,
							     .action = TALLY_FILTER_DENY,
							     .count = 1,
							     .entry = {{.event = 0xc0}}};
static const struct tally_filter no_filter ALIGNED(1024) = {.version = TALLY_FILTER_VERSION,
							    .action = TALLY_FILTER_OFF};
static volatile u32 stage, answer;
static u64 moved[3];

/* By how much the counter moves, from behind one exit on. */
static u64 moves(void)
{
	u64 before;

	cpuid(0);
	before = rdmsr(MSR_PERFCTR(0));
	for (volatile u32 i = 0; i < 100; i++)
		;
	return rdmsr(MSR_PERFCTR(0)) - before;
}

static void without_apic(void *arg)
{
	u64 base = rdmsr(MSR_APIC_BASE);
	u32 svr = apic_read(APIC_SVR);

	(void)arg;
	wrmsr(MSR_PERFEVTSEL(0), SELECTOR);
	wrmsr(MSR_APIC_BASE, base & ~(APIC_BASE_X2 | APIC_BASE_ENABLED));
	for (u32 i = 0; i < ARRAY_SIZE(moved); i++) {
		answer = i + 1;
		if (!smp_reaches(&stage, i + 1, "the other CPU's answer"))
			break;
		moved[i] = moves();
	}
	wrmsr(MSR_APIC_BASE, (base & ~APIC_BASE_X2) | APIC_BASE_ENABLED);
	wrmsr(MSR_APIC_BASE, base);
	apic_write(APIC_SVR, svr);
	wrmsr(MSR_PERFEVTSEL(0), 0);
}

static void filter(const struct tally_filter *f)
{
	CHECK_EQ((u64)hypercall(TALLY_CALL_FILTER_SET, (u64)f, sizeof(*f), 0), 0);
}

/* Nobody waits for it, and what is asked of it meanwhile is done at its next exit. */
static void check_without_apic(const void *arg)
{
	(void)arg;
	if (!platform.under_us || !platform.pmu) {
		tap_skip("no event filter");
		return;
	}
	stage = answer = 0;
	smp_call(1, without_apic, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(moved); i++) {
		if (!smp_reaches(&answer, i + 1, "the CPU without an APIC"))
			return;
		filter(i == 1 ? &no_retired : &no_filter);
		stage = i + 1;
	}
	CHECK(smp_done(1));
	CHECK(moved[0] > 0);
	CHECK_EQ(moved[1], 0);
	CHECK(moved[2] > 0);
}

/* ---- the hypervisor's memory ---- */

static void touch(void *arg)
{
	u32 me = smp_this();
	struct smp_l2 *own = smp_l2();

	(void)arg;
	smp_l2_enable();
	smp_meet();
	for (u32 n = 0; n < HOLE_ROUNDS; n++) {
		/* now the same place for all, now another one for each */
		u64 page = n & 1 ? n : n + me * 7;
		volatile u64 *at = (volatile u64 *)(status.region_gpa +
						    page * PAGE_SIZE % status.region_bytes);

		check(*at == ~0ull);
		*at = n;
		check(*at == ~0ull);
		asm volatile("lock andq $0, (%0)" : : "r"(at) : "memory", "cc");
		check(*at == ~0ull);
		own->vmcb.save.rip = (u64)l2_hole;
		own->regs.rdi = (u64)at;
		check(smp_l2_run() == VMEXIT_VMMCALL);
		own->vmcb.control.tlb_control = TLB_CONTROL_NONE;
		check(own->vmcb.save.rax == ~0ull);
		check(own->regs.rdx == ~0ull);
	}
}

static void check_hole(const void *arg)
{
	(void)arg;
	if (!platform.under_us) {
		tap_skip("there is no hypervisor whose memory it could be");
		return;
	}
	if (!CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0), 0))
		return;
	for (u32 n = 0; n < 2; n++) {
		prepare(l2_hole, n);
		all_at_once(touch, NULL);
	}
}

static const struct test {
	const char *name;
	void (*run)(const void *arg);
	const void *arg;
} tests[] = {
	{"each CPU runs its own L2, without nested paging", check_nested, NULL},
	{"the same with nested paging, each its own", check_nested, ""},
	{"SVME is each CPU's own", check_toggle, NULL},
	{"counters are each CPU's own", check_counters, NULL},
	{"a filter for a CPU whose APIC is off", check_without_apic, NULL},
	{"the hypervisor's memory on all CPUs, in L1 and L2", check_hole, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!smp_begin(false))
		return;
	if (!smp_start_all()) {
		tap_skip_all("a CPU does not start, see l1_smp");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, tests[i].run, tests[i].arg);
	smp_end();
}

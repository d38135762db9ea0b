/* SPDX-License-Identifier: MIT */
/*
 * The event filter, include/abi/filter.h: what Linux' svm_pmu_host_guest_test does with KVM's (deny
 * the event of four counters, allow it again), in L1 and in L2, with exact numbers; unit masks and
 * excludes; and every way to call it wrongly. What filter= has set at boot is printed first.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

L2_CODE(l2_exit, "");

#define REFUSED(error) (-(u64)(error))
#define INSTRUCTIONS EVENT_RETIRED_INSTRUCTIONS
#define CYCLES EVENT_CYCLES_NOT_HALTED

static struct tally_filter filter ALIGNED(1024), got ALIGNED(1024), kept ALIGNED(1024);
static u8 pages[3 * PAGE_SIZE] ALIGNED(4096);
static struct pmu_sample sample;

static u64 set_from(u64 gpa, u64 bytes)
{
	return (u64)hypercall(TALLY_CALL_FILTER_SET, gpa, bytes, 0);
}

static u64 get_to(u64 gpa, u64 bytes)
{
	return (u64)hypercall(TALLY_CALL_FILTER_GET, gpa, bytes, 0);
}

static u64 set(void)
{
	return set_from((u64)&filter, sizeof(filter));
}

static bool same(const struct tally_filter *a, const struct tally_filter *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	for (u32 i = 0; i < sizeof(*a) / 8; i++)
		if (x[i] != y[i])
			return CHECK_EQ(x[i], y[i]);
	return true;
}

static void clear(struct tally_filter *f, u32 action)
{
	for (u32 i = 0; i < sizeof(*f) / 8; i++)
		((u64 *)f)[i] = 0;
	f->version = TALLY_FILTER_VERSION;
	f->action = action;
}

static void add(u32 event, u32 mask, u32 match, u32 flags)
{
	filter.entry[filter.count++] =
		(struct tally_filter_entry){(u16)event, (u8)mask, (u8)match, flags};
}

/* A list of one event with any unit mask. */
static void set_one(u32 action, u32 event)
{
	clear(&filter, action);
	add(event, 0, 0, 0);
	CHECK_EQ(set(), 0);
}

static void set_off(void)
{
	clear(&filter, TALLY_FILTER_OFF);
	CHECK_EQ(set(), 0);
}

static void check_boot(const void *arg)
{
	(void)arg;
	got.version = 0;
	CHECK_EQ(get_to((u64)&got, sizeof(got)), 0);
	CHECK_EQ(got.version, TALLY_FILTER_VERSION);
	CHECK(got.count <= TALLY_FILTER_MAX);
	note("filter at boot: action %u, %u entries", got.action, got.count);
	for (u32 i = 0; i < got.count && i < TALLY_FILTER_MAX; i++)
		note("filter entry %u: event 0x%x, unit mask 0x%x of 0x%x, flags %u", i,
		     got.entry[i].event, got.entry[i].umask_match, got.entry[i].umask_mask,
		     got.entry[i].flags);
	/* taken as it is given */
	CHECK_EQ(set_from((u64)&got, sizeof(got)), 0);
}

/* ---- the four settings of HostOnly and GuestOnly on event C0h ---- */

static void l2_sample(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_sample(enum pmu_mode mode, bool passes)
{
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		u64 selector = SEL_INSTRUCTIONS | pmu_setting[i].bits;
		u64 moved = pmu_moved(&sample, i);
		bool counts = passes && pmu_counts(selector, mode);

		CHECK_EQ(rdmsr(MSR_PERFEVTSEL(i)), selector);
		if (platform.exact)
			tap_equal(moved, counts ? PMU_SAMPLE_INSTRUCTIONS : 0, pmu_setting[i].name);
		else
			tap_check(!moved == !counts, pmu_setting[i].name);
	}
}

static void everywhere(bool passes)
{
	svm_disable();
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_SVME0, passes);
	svm_enable();
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_HOST, passes);
	CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST, passes);
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_HOST, passes);
}

static void check_deny(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	for (u32 round = 0; round < 5; round++) {
		set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
		everywhere(false);
		set_one(TALLY_FILTER_ALLOW, INSTRUCTIONS);
		everywhere(true);
		set_one(TALLY_FILTER_ALLOW, CYCLES);
		everywhere(false);
		set_one(TALLY_FILTER_DENY, CYCLES);
		everywhere(true);
		clear(&filter, TALLY_FILTER_ALLOW); /* nothing at all */
		CHECK_EQ(set(), 0);
		everywhere(false);
		set_off();
		everywhere(true);
	}
}

/* Set with SVME=0, it holds later in L1 and in L2; taken away in L1, it does so in the others. */
static void check_modes(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	svm_disable();
	set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
	svm_enable();
	CHECK_EQ(l2_run_from((const void *)l2_sample), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST, false);
	set_off();
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_HOST, true);
	svm_disable();
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_SVME0, true);
	set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_SVME0, false);
	set_off();
	svm_enable();
}

/* Between two exits of one L2, which is in the middle of something. */
static void l2_sample_twice(void)
{
	pmu_sample_rdpmc(&sample);
	vmmcall();
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_l2_goes_on(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	CHECK_EQ(l2_run_from((const void *)l2_sample_twice), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST, true);
	set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
	l2.vmcb.save.rip += 3;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST, false);
	set_off();
}

/* A selector that L2 writes is looked at as one of L1's is. */
static void l2_writes_selector(void)
{
	wrmsr(MSR_PERFEVTSEL(0), 0);
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	pmu_sample_rdpmc(&sample);
	vmmcall();
}

static void check_l2_selector(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
	CHECK_EQ(l2_run_from((const void *)l2_writes_selector), VMEXIT_VMMCALL);
	check_sample(MODE_GUEST, false);
	set_off();
	everywhere(true);
}

/* ---- the moment, and what else counts ---- */

/* From the RDPMC before a VMMCALL that denies to the RDPMC after one that allows. */
static u32 deny_and_allow(struct tally_filter *deny, struct tally_filter *allow)
{
	u32 moved;
	u64 rbx = (u64)deny;

	asm volatile(
		"mov %[call], %%r10\n\tmov %[bytes], %%r11\n\t"
		"xor %%ecx, %%ecx\n\trdpmc\n\tmov %%eax, %%r8d\n\t"
		"mov %%r10, %%rax\n\tmov %%r11, %%rcx\n\tvmmcall\n\t"
		".rept 100\n\tnop\n\t.endr\n\tcpuid\n\t"
		"mov %[allow], %%rbx\n\tmov %%r10, %%rax\n\tmov %%r11, %%rcx\n\tvmmcall\n\t"
		"xor %%ecx, %%ecx\n\trdpmc\n\tsub %%r8d, %%eax"
		: "=&a"(moved), "+b"(rbx)
		: [call] "r"(TALLY_CALL_FILTER_SET), [bytes] "r"(sizeof(*deny)), [allow] "r"(allow)
		: "rcx", "rdx", "r8", "r10", "r11", "memory");
	return moved;
}

/* RDPMC, three MOVs; the VMMCALL that allows, and XOR. */
#define DENY_AND_ALLOW (1 + 3 + 1 + 1)

static void check_moment(const void *arg)
{
	u32 moved;

	(void)arg;
	pmu_start_settings();
	clear(&kept, TALLY_FILTER_OFF);
	clear(&filter, TALLY_FILTER_DENY);
	add(INSTRUCTIONS, 0, 0, 0);
	for (u32 i = 0; i < 10; i++) {
		moved = deny_and_allow(&filter, &kept);
		if (platform.exact)
			CHECK_EQ(moved, DENY_AND_ALLOW);
		else
			CHECK(moved > 0);
	}
}

static void check_values(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
	for (u32 i = 0; i < PMU_SETTINGS; i++) {
		wrmsr(MSR_PERFCTR(i), 0x123400 + i);
		cpuid(0); /* carried out by the hypervisor: counts as little as any other */
		CHECK_EQ(rdmsr(MSR_PERFCTR(i)), 0x123400 + i);
		CHECK_EQ(rdpmc(i), 0x123400 + i);
	}
	/* on an event that counts, and back */
	wrmsr(MSR_PERFEVTSEL(0), CYCLES | EVTSEL_USR | EVTSEL_OS | EVTSEL_EN);
	CHECK(rdpmc(0) < rdpmc(0));
	wrmsr(MSR_PERFEVTSEL(0), SEL_INSTRUCTIONS);
	CHECK_EQ(rdpmc(0), rdpmc(0));
	set_off();
	CHECK(rdpmc(0) < rdpmc(0));
	pmu_stop_all();
}

static void nops(const void *arg)
{
	(void)arg;
	asm volatile(".rept 200\n\tnop\n\t.endr");
}

static u64 user_moved(void)
{
	u64 before = rdpmc(4);

	try_user(nops, NULL);
	return rdpmc(4) - before;
}

/* A counter of CPL 3 alone, which L0 may have to follow CPL for. */
static void check_user_only(const void *arg)
{
	u64 allowed;

	(void)arg;
	pmu_stop_all();
	wrmsr(MSR_PERFEVTSEL(4), INSTRUCTIONS | EVTSEL_USR | EVTSEL_EN);
	allowed = user_moved();
	CHECK(allowed >= 200);
	for (u32 round = 0; round < 3; round++) {
		set_one(TALLY_FILTER_DENY, INSTRUCTIONS);
		CHECK_EQ(user_moved(), 0);
		wrmsr(MSR_PERFEVTSEL(4), 0);
		wrmsr(MSR_PERFEVTSEL(4), INSTRUCTIONS | EVTSEL_USR | EVTSEL_EN);
		CHECK_EQ(user_moved(), 0);
		set_off();
		if (platform.exact)
			CHECK_EQ(user_moved(), allowed);
		else
			CHECK(user_moved() >= 200);
		CHECK_EQ(rdpmc(4), rdpmc(4));
	}
	pmu_stop_all();
}

static void check_masks(const void *arg)
{
	static const struct {
		u32 action, mask, match, exclude_mask, exclude_match;
		bool with_exclude, counts;
	} lists[] = {
		/* the counter has unit mask 0 */
		{TALLY_FILTER_DENY, 0xff, 0x00, 0, 0, false, false},
		{TALLY_FILTER_DENY, 0xff, 0x01, 0, 0, false, true},
		{TALLY_FILTER_DENY, 0x01, 0x01, 0, 0, false, true},
		{TALLY_FILTER_DENY, 0x80, 0x00, 0, 0, false, false},
		{TALLY_FILTER_ALLOW, 0xff, 0x00, 0, 0, false, true},
		{TALLY_FILTER_ALLOW, 0x10, 0x10, 0, 0, false, false},
		{TALLY_FILTER_DENY, 0x00, 0x00, 0xff, 0x00, true, true},
		{TALLY_FILTER_DENY, 0x00, 0x00, 0xff, 0x01, true, false},
		{TALLY_FILTER_ALLOW, 0x00, 0x00, 0x0f, 0x00, true, false},
		{TALLY_FILTER_ALLOW, 0x00, 0x00, 0x0f, 0x08, true, true},
	};

	(void)arg;
	pmu_start_settings();
	for (u32 i = 0; i < ARRAY_SIZE(lists); i++) {
		clear(&filter, lists[i].action);
		add(INSTRUCTIONS ^ 0x100, 0, 0, 0); /* another event: of no concern */
		if (lists[i].with_exclude)
			add(INSTRUCTIONS, lists[i].exclude_mask, lists[i].exclude_match,
			    TALLY_FILTER_EXCLUDE);
		add(INSTRUCTIONS, lists[i].mask, lists[i].match, 0);
		CHECK_EQ(set(), 0);
		pmu_sample_rdpmc(&sample);
		check_sample(MODE_HOST, lists[i].counts);
	}
	/* the last of as many as there can be */
	clear(&filter, TALLY_FILTER_DENY);
	while (filter.count < TALLY_FILTER_MAX - 1)
		add(0xfc0 - filter.count, 0, 0, 0);
	CHECK_EQ(set(), 0);
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_HOST, true);
	add(INSTRUCTIONS, 0, 0, 0);
	CHECK_EQ(set(), 0);
	pmu_sample_rdpmc(&sample);
	check_sample(MODE_HOST, false);
	set_off();
	pmu_stop_all();
}

static struct tally_status status ALIGNED(1024);

/* What is kept off is not enabled in the machine. */
static void check_status(const void *arg)
{
	(void)arg;
	pmu_start_settings();
	for (u32 denied = 0; denied < 2; denied++) {
		set_one(TALLY_FILTER_DENY, denied ? INSTRUCTIONS : CYCLES);
		CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, sizeof(status), 0), 0);
		for (u32 i = 0; i < PMU_SETTINGS; i++) {
			u64 selector = SEL_INSTRUCTIONS | pmu_setting[i].bits;

			CHECK_EQ(status.counter[i].eventsel, selector);
			CHECK_EQ(!!(status.counter[i].eventsel_hw & EVTSEL_EN),
				 !denied && pmu_counts(selector, MODE_HOST));
		}
		CHECK_EQ(status.reprogram_pmc_on_nested_transition, BIT(1) | BIT(2));
	}
	set_off();
	pmu_stop_all();
}

/* ---- calls that are wrong ---- */

/* The filter that stays while everything else is refused. */
static void keep_one(void)
{
	clear(&filter, TALLY_FILTER_DENY);
	add(0x123, 0xf0, 0x10, TALLY_FILTER_EXCLUDE);
	add(INSTRUCTIONS, 0, 0, 0);
	CHECK_EQ(set(), 0);
	kept = filter;
}

static void still_kept(void)
{
	clear(&got, 0);
	CHECK_EQ(get_to((u64)&got, sizeof(got)), 0);
	same(&got, &kept);
}

static void check_bad_filters(const void *arg)
{
	(void)arg;
	keep_one();
	for (u32 bit = 0; bit < 32; bit++) {
		filter = kept;
		filter.version ^= 1u << bit;
		CHECK_EQ(set(), REFUSED(E_UNSUPP));
		filter = kept;
		filter.action ^= 1u << bit; /* 3, or off with entries, or too high */
		CHECK_EQ(set(), REFUSED(E_INVAL));
		filter = kept;
		filter.reserved ^= 1u << bit;
		CHECK_EQ(set(), REFUSED(E_INVAL));
		filter = kept;
		if (BIT(bit) > TALLY_FILTER_MAX) {
			filter.count = 1u << bit;
			CHECK_EQ(set(), REFUSED(E_INVAL));
		}
		filter = kept;
		if (bit) {
			filter.entry[1].flags ^= 1u << bit;
			CHECK_EQ(set(), REFUSED(E_INVAL));
		}
		still_kept();
	}
	filter = kept;
	filter.count = TALLY_FILTER_MAX + 1;
	CHECK_EQ(set(), REFUSED(E_INVAL));
	for (u32 bit = 12; bit < 16; bit++) {
		filter = kept;
		filter.entry[1].event ^= (u16)(1u << bit);
		CHECK_EQ(set(), REFUSED(E_INVAL));
	}
	for (u32 bit = 0; bit < 8; bit++) {
		filter = kept;
		filter.entry[1].umask_match ^= (u8)(1u << bit);
		CHECK_EQ(set(), REFUSED(E_INVAL));
	}
	still_kept();
	/* Behind the last entry anything may be. */
	filter = kept;
	for (u32 i = filter.count; i < TALLY_FILTER_MAX; i++)
		filter.entry[i] = (struct tally_filter_entry){0xffff, 0, 0xff, ~0u};
	CHECK_EQ(set(), 0);
	CHECK_EQ(rdpmc(0), rdpmc(0));
	set_off();
}

static void check_bad_buffers(const void *arg)
{
	const u64 start = (u64)pages, bytes = sizeof(filter);
	const u64 region =
		(CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, sizeof(status), 0), 0),
		 status.region_gpa);
	const struct {
		u64 gpa, bytes;
	} bad[] = {
		{start, 0},
		{start, bytes - 1},
		{start, PAGE_SIZE + 1},
		{start, ~0ull},
		{start, BIT(63)},
		{start + 1, bytes},
		{start + 4, bytes},
		{start + PAGE_SIZE - 8, bytes},
		{start + PAGE_SIZE - bytes + 8, bytes},
		{start + 8, PAGE_SIZE},
		{BIT(platform.phys_bits), bytes},
		{BIT(platform.phys_bits) | start, bytes},
		{BIT(63) | start, bytes},
		{~7ull, bytes},
		{region, bytes},
		{region + status.region_bytes - PAGE_SIZE, bytes},
	};

	(void)arg;
	keep_one();
	for (u64 i = 0; i < sizeof(pages); i++)
		pages[i] = 0; /* as a filter: of another version */
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		bool refused = CHECK_EQ(set_from(bad[i].gpa, bad[i].bytes), REFUSED(E_RANGE));

		refused &= CHECK_EQ(get_to(bad[i].gpa, bad[i].bytes), REFUSED(E_RANGE));
		if (!refused)
			note("that was %lu bytes at 0x%lx", bad[i].bytes, bad[i].gpa);
	}
	for (u64 i = 0; i < sizeof(pages); i++)
		if (pages[i] && !CHECK_EQ(i, ~0ull))
			break;
	still_kept();
	/* The last place of a page, and a buffer of a page. */
	CHECK_EQ(get_to(start + PAGE_SIZE - bytes, bytes), 0);
	same((struct tally_filter *)(start + PAGE_SIZE - bytes), &kept);
	CHECK_EQ(*(u64 *)(start + PAGE_SIZE), 0);
	CHECK_EQ(set_from(start + PAGE_SIZE - bytes, bytes), 0);
	CHECK_EQ(get_to(start, PAGE_SIZE), 0);
	same((struct tally_filter *)start, &kept);
	CHECK_EQ(*(u64 *)(start + bytes), 0);
	set_off();
}

static u64 random_state = 0x5eed;

static u64 random_word(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

/* Any bytes are taken or refused, and what is refused changes nothing. */
static void check_random(const void *arg)
{
	u32 taken = 0;

	(void)arg;
	keep_one();
	for (u32 n = 0; n < 2000; n++) {
		u64 answer;

		for (u32 i = 0; i < sizeof(filter) / 8; i++)
			((u64 *)&filter)[i] = random_word() & (n % 2 ? 0x10101010fffull : ~0ull);
		if (n % 8) {
			filter.version = TALLY_FILTER_VERSION;
			filter.action = (u32)(random_word() % 4);
			filter.count = (u32)(random_word() % (n % 4 ? 4 : 70));
			filter.reserved = 0;
		}
		answer = set();
		if (!answer) {
			kept = filter;
			taken++;
		} else {
			CHECK(answer == REFUSED(E_INVAL) || answer == REFUSED(E_UNSUPP));
		}
		if (n % 16 == 0)
			still_kept();
	}
	still_kept();
	CHECK(taken > 100 && taken < 1900);
	note("%u of 2000 random filters were good ones", taken);
	set_off();
}

static const u64 calls[] = {TALLY_CALL_FILTER_SET, TALLY_CALL_FILTER_GET};

static void call(const void *arg)
{
	hypercall(*(const u64 *)arg, (u64)&filter, sizeof(filter), 0);
}

/* From CPL 3 and from L2: #UD, and nothing is set. */
static void check_callers(const void *arg)
{
	(void)arg;
	keep_one();
	for (u32 i = 0; i < ARRAY_SIZE(calls); i++) {
		clear(&filter, TALLY_FILTER_ALLOW);
		CHECK_EQ(try_user(call, &calls[i]), VEC_UD);
		l2_reset(l2_exit);
		vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT(VMMCALL));
		l2_intercept(INTERCEPT_EXCEPTION(VEC_UD));
		l2.vmcb.save.rax = calls[i];
		l2.regs.rbx = (u64)&filter;
		l2.regs.rcx = sizeof(filter);
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_UD));
		CHECK_EQ(l2.vmcb.save.rip, (u64)l2_exit);
		CHECK_EQ(filter.action, TALLY_FILTER_ALLOW);
		CHECK_EQ(filter.count, 0);
	}
	still_kept();
	set_off();
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"the filter at boot", check_boot},
	{"deny, allow, off: SVME=0, L1, L2, L1", check_deny},
	{"set in one mode, holds in all", check_modes},
	{"changed between two exits of L2", check_l2_goes_on},
	{"a selector that L2 writes", check_l2_selector},
	{"effective with the call itself", check_moment},
	{"a counter that is kept off keeps its value", check_values},
	{"a counter of CPL 3", check_user_only},
	{"unit masks, excludes, 64 entries", check_masks},
	{"STATUS", check_status},
	{"SET: malformed filters", check_bad_filters},
	{"SET and GET: bad buffers", check_bad_buffers},
	{"SET: random filters", check_random},
	{"SET and GET: #UD at CPL 3 and in L2", check_callers},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!platform.under_us) {
		tap_skip_all("not under Tallyvisor");
		return;
	}
	if (!platform.pmu) {
		tap_skip_all("no AMD PMU (CPUID 8000_0001 ECX[23])");
		return;
	}
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
	pmu_stop_all();
}

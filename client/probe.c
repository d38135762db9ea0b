/* SPDX-License-Identifier: MIT */
/* What is tried, and what follows from what comes of it. AMD64 APM vol. 2, rev. 3.44, §13.2. */
#include "client/probe.h"

#include "hv/core/format.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define TRIES 4
#define COUNTERS_MAX 16u /* C001_0220 and up are other counters' */
/* That an event is there at all: what its control counts may be off by a tenth. */
#define TENTH(n) ((n) / 10)
#define TO_OVERFLOW 100u

#define CPUID_VENDOR 0u
#define CPUID_BRAND 0x80000002u /* and the next two */

static const char not_tried[] = "not tried";

static const u64 bits_of[PROBE_BITS] = {0, EVTSEL_GUESTONLY, EVTSEL_HOSTONLY, EVTSEL_HOST_GUEST};
static const u64 event_of[PROBE_EVENTS] = {EVENT_RETIRED_INSTRUCTIONS, EVENT_RETIRED_BRANCHES,
					   EVENT_RETIRED_FAR_TRANSFERS};
static const enum probe_code control_of[PROBE_EVENTS] = {PROBE_NOPS, PROBE_JUMPS, PROBE_IRETS};

/* The PMU's registers as they were. */
static struct {
	u32 counters;
	u64 selector[COUNTERS_MAX], counter[COUNTERS_MAX];
	bool has_global;
	u64 global_ctl, global_status;
} saved;

/* ---- who it is ---- */

static void text_of(char *to, const u32 *regs, u32 count)
{
	for (u32 i = 0; i < 4 * count; i++) {
		char c = (char)(regs[i / 4] >> i % 4 * 8);

		to[i] = (c >= ' ' && c <= '~') || !c ? c : '?';
	}
	to[4ul * count] = '\0';
}

static u32 last_extended(const struct probe_machine *m)
{
	u32 r[4];

	m->cpuid(CPUID_EXT_MAX, r);
	return r[0];
}

static void identify_features(struct probe *p, const struct probe_machine *m)
{
	u32 r[4], last = last_extended(m);

	if (last >= CPUID_EXT_FEATURES) {
		m->cpuid(CPUID_EXT_FEATURES, r);
		p->perfctr_core = r[2] & CPUID_EXT1_ECX_PERFCTREXTCORE;
	}
	if (last >= CPUID_SVM) {
		m->cpuid(CPUID_SVM, r);
		p->svm_revision = r[0] & 0xff;
		p->asids = r[1];
		p->svm_features = r[3];
	}
	/* leaves above the last one may hold anything */
	if (last >= CPUID_PERFMON_V2) {
		m->cpuid(CPUID_PERFMON_V2, r);
		p->perfmon_v2 = r[0] & CPUID_22_EAX_PERFMON_V2;
		p->cpuid_counters = r[1] & 0xf;
	}
	if (!p->cpuid_counters)
		p->cpuid_counters = p->perfctr_core ? PMU_COUNTERS : PMU_LEGACY_COUNTERS;
}

static void identify(struct probe *p, const struct probe_machine *m)
{
	u32 r[4], brand[12];

	m->cpuid(CPUID_VENDOR, r);
	text_of(p->vendor, (u32[]){r[1], r[3], r[2]}, 3);
	m->cpuid(CPUID_FEATURES, r);
	p->stepping = r[0] & 15;
	p->model = (r[0] >> 4 & 15) | (r[0] >> 12 & 0xf0);
	p->family = r[0] >> 8 & 15;
	if (p->family == 15)
		p->family += r[0] >> 20 & 0xff;
	if (r[2] & CPUID_1_ECX_HYPERVISOR) {
		m->cpuid(CPUID_HYPERVISOR, r);
		text_of(p->hypervisor, r + 1, 3);
	}
	if (last_extended(m) >= CPUID_BRAND + 2) {
		for (u32 i = 0; i < 3; i++)
			m->cpuid(CPUID_BRAND + i, brand + i * 4ul);
		text_of(p->cpu, brand, 12);
	}
	if (!m->rdmsr(MSR_PATCH_LEVEL, &p->microcode.value))
		p->microcode.why = "the MSR faults";
	identify_features(p, m);
}

static bool has_svm(const struct probe_machine *m)
{
	u32 r[4];

	if (last_extended(m) < CPUID_SVM)
		return false;
	m->cpuid(CPUID_EXT_FEATURES, r);
	return r[2] & CPUID_EXT1_ECX_SVM;
}

/* ---- its registers ---- */

static u32 selector_msr(const struct probe *p, u32 n)
{
	return p->perfctr_core ? MSR_PERFEVTSEL(n) : MSR_LEGACY_PERFEVTSEL(n);
}

static u32 counter_msr(const struct probe *p, u32 n)
{
	return p->perfctr_core ? MSR_PERFCTR(n) : MSR_LEGACY_PERFCTR(n);
}

static u32 counters_at_most(const struct probe *p)
{
	return p->perfctr_core ? COUNTERS_MAX : PMU_LEGACY_COUNTERS;
}

/* Up to the first that is not there: in use is a selector that has EN. */
static bool pmu_in_use(const struct probe *p, const struct probe_machine *m)
{
	u64 value;

	for (u32 n = 0; n < counters_at_most(p) && m->rdmsr(selector_msr(p, n), &value); n++)
		if (value & EVTSEL_EN)
			return true;
	return false;
}

static void save(const struct probe *p, const struct probe_machine *m)
{
	u32 n = 0;

	for (; n < counters_at_most(p); n++)
		if (!m->rdmsr(selector_msr(p, n), &saved.selector[n]) ||
		    !m->rdmsr(counter_msr(p, n), &saved.counter[n]))
			break;
	saved.counters = n;
	for (n = 0; n < saved.counters; n++)
		m->wrmsr(selector_msr(p, n), 0);
	saved.has_global = p->perfmon_v2 && m->rdmsr(MSR_PERF_GLOBAL_CTL, &saved.global_ctl) &&
			   m->rdmsr(MSR_PERF_GLOBAL_STATUS, &saved.global_status);
}

static void restore(const struct probe *p, const struct probe_machine *m)
{
	/* EN last */
	for (u32 n = 0; n < saved.counters; n++) {
		m->wrmsr(selector_msr(p, n), 0);
		m->wrmsr(counter_msr(p, n), saved.counter[n]);
	}
	if (saved.has_global) {
		m->wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BITS(5, 0));
		m->wrmsr(MSR_PERF_GLOBAL_STATUS_SET, saved.global_status & BITS(5, 0));
		m->wrmsr(MSR_PERF_GLOBAL_CTL, saved.global_ctl);
	}
	for (u32 n = 0; n < saved.counters; n++)
		m->wrmsr(selector_msr(p, n), saved.selector[n]);
}

/* EN without USR and OS counts nothing, and the other bits nothing without EN. */
static bool selector_keeps(struct probe *p, const struct probe_machine *m, u32 n, u64 *bits)
{
	u64 ones, zeros, en;
	const u32 msr = selector_msr(p, n);

	/* AMD's do not mind; some hypervisors do */
	if (!m->wrmsr(msr, ~EVTSEL_EN)) {
		p->selector_reserved_why = "a write of all bits faults";
		if (!m->wrmsr(msr, EVTSEL_WRITABLE & ~EVTSEL_EN))
			return false;
	}
	if (!m->rdmsr(msr, &ones) || !m->wrmsr(msr, EVTSEL_EN) || !m->rdmsr(msr, &en) ||
	    !m->wrmsr(msr, 0) || !m->rdmsr(msr, &zeros))
		return false;
	*bits = (ones | (en & EVTSEL_EN)) & ~zeros;
	return true;
}

static void probe_selectors(struct probe *p, const struct probe_machine *m)
{
	static const char faults[] = "the performance counter MSRs fault";
	u64 bits, value;
	u32 n = 0;

	p->selector_base = selector_msr(p, 0);
	while (n < saved.counters && selector_keeps(p, m, n, &bits) && bits) {
		if (n == 0)
			p->selector_bits = (struct probe_value){.value = bits};
		if (n == 2)
			p->selector_bits_2 = (struct probe_value){.value = bits};
		n++;
	}
	if (n) {
		p->counters = (struct probe_value){.value = n};
		return;
	}
	p->no_pmu = !m->rdmsr(selector_msr(p, 0), &value) || !m->wrmsr(selector_msr(p, 0), 0)
			    ? faults
			    : "the selectors drop what is written to them";
	p->counters.why = p->selector_bits.why = p->selector_bits_2.why = p->no_pmu;
}

static void probe_width(struct probe *p, const struct probe_machine *m)
{
	const u32 msr = counter_msr(p, 0);
	u64 ones, zeros;
	u32 bits = 0;

	if (!m->wrmsr(msr, ~0ull) || !m->rdmsr(msr, &ones) || !m->wrmsr(msr, 0) ||
	    !m->rdmsr(msr, &zeros)) {
		p->counter_bits.why = "the counter faults";
		return;
	}
	while (bits < 64 && ones & BIT(bits) & ~zeros)
		bits++;
	if (bits)
		p->counter_bits = (struct probe_value){.value = bits};
	else
		p->counter_bits.why = "the counters drop what is written to them";
}

/* ---- counts ---- */

static u64 eventsel(const struct probe_machine *m, enum probe_event event, u64 bits)
{
	return event_of[event] | m->cpl | EVTSEL_EN | bits;
}

/* What the code adds to counter 0: so what is around it does not matter. */
static const char *count_once(const struct probe *p, const struct probe_machine *m,
			      struct probe_run *run, u64 *count)
{
	u64 before, after, added[2];
	const char *why;

	for (u32 any = 0; any < 2; any++) {
		run->any = any;
		if (!m->rdmsr(counter_msr(p, 0), &before))
			return "the counter faults";
		why = m->run(run);
		if (why)
			return why;
		if (!m->rdmsr(counter_msr(p, 0), &after))
			return "the counter faults";
		added[any] = (after - before) & PMU_COUNTER_MASK;
	}
	*count = added[1] > added[0] ? added[1] - added[0] : 0;
	return NULL;
}

static struct probe_count count(const struct probe *p, const struct probe_machine *m,
				enum probe_mode mode, enum probe_code code, u64 selector)
{
	struct probe_run run = {mode, code, false, p->selector_base, selector};
	struct probe_count c = {.least = ~0ull};
	u64 value;

	for (u32 i = 0; i < TRIES && !c.why; i++) {
		c.why = count_once(p, m, &run, &value);
		if (c.why)
			break;
		if (value < c.least)
			c.least = value;
		if (value > c.most)
			c.most = value;
	}
	return c;
}

enum probe_cell probe_cell(const struct probe_count *c, u64 of)
{
	if (c->why)
		return PROBE_CELL_UNKNOWN;
	if (c->most <= TENTH(of))
		return PROBE_CELL_NO;
	return c->least >= of - TENTH(of) && c->most <= of + TENTH(of) ? PROBE_CELL_YES
								       : PROBE_CELL_PART;
}

/* Where the code of a control can run now, without a guest: SVME=0 is there first, if it is at all. */
static struct probe_count control(const struct probe *p, const struct probe_machine *m,
				  enum probe_event event, enum probe_mode *mode)
{
	struct probe_count c;

	for (*mode = PROBE_SVME0; *mode < PROBE_GUEST; (*mode)++) {
		c = count(p, m, *mode, control_of[event], eventsel(m, event, 0));
		if (!c.why)
			break;
	}
	return c;
}

static void probe_event(struct probe *p, const struct probe_machine *m, enum probe_event event)
{
	enum probe_mode mode;

	p->event[event].control = control(p, m, event, &mode);
}

/* Nothing more is worth doing where instructions do not count. */
static bool probe_counts(struct probe *p, const struct probe_machine *m)
{
	const struct probe_count *c = &p->event[PROBE_INSTRUCTIONS].control;

	probe_event(p, m, PROBE_INSTRUCTIONS);
	if (probe_cell(c, p->nops) == PROBE_CELL_YES)
		return true;
	if (c->why)
		p->no_pmu = c->why;
	else
		format(p->why_none, sizeof(p->why_none), "%lu instructions are counted as %lu",
		       p->nops, c->least);
	if (!p->no_pmu)
		p->no_pmu = p->why_none;
	return false;
}

static void probe_table(struct probe *p, const struct probe_machine *m)
{
	for (u32 mode = 0; mode < PROBE_MODES; mode++)
		for (u32 bits = 0; bits < PROBE_BITS; bits++)
			p->table[bits][mode] =
				count(p, m, (enum probe_mode)mode, PROBE_NOPS,
				      eventsel(m, PROBE_INSTRUCTIONS, bits_of[bits]));
}

/* Less what the guest itself executes, where that counts. */
static struct probe_count count_vmruns(const struct probe *p, const struct probe_machine *m,
				       enum probe_event event, u32 bits)
{
	struct probe_count c =
		count(p, m, PROBE_GUEST, PROBE_VMRUNS, eventsel(m, event, bits_of[bits]));
	const u64 own = m->guest_adds[event] * m->repeats[PROBE_VMRUNS];

	if (probe_cell(&p->table[bits][PROBE_GUEST], p->nops) == PROBE_CELL_YES) {
		c.least = c.least > own ? c.least - own : 0;
		c.most = c.most > own ? c.most - own : 0;
	}
	return c;
}

static void probe_vmruns(struct probe *p, const struct probe_machine *m)
{
	static const char uncounted[] = "the event does not count here";

	for (u32 e = 0; e < PROBE_EVENTS; e++) {
		bool counts =
			probe_cell(&p->event[e].control, p->event[e].control_of) == PROBE_CELL_YES;

		for (u32 bits = 0; bits < PROBE_BITS; bits++) {
			struct probe_count *c = &p->event[e].vmruns[bits];

			if (counts)
				*c = count_vmruns(p, m, (enum probe_event)e, bits);
			else
				c->why = p->event[e].control.why ? p->event[e].control.why
								 : uncounted;
		}
	}
}

/* ---- PerfMonV2 ---- */

static struct probe_value yes_or_no(bool yes)
{
	return (struct probe_value){.value = yes};
}

static void probe_global_ctl(struct probe *p, const struct probe_machine *m, u64 all)
{
	struct probe_count stopped;
	enum probe_mode mode;
	u64 ones, zeros;

	if (!m->wrmsr(MSR_PERF_GLOBAL_CTL, 0) || !m->rdmsr(MSR_PERF_GLOBAL_CTL, &zeros)) {
		p->global_ctl_bits.why = p->global_ctl_stops.why = "the MSR faults";
		return;
	}
	stopped = control(p, m, PROBE_INSTRUCTIONS, &mode);
	if (stopped.why)
		p->global_ctl_stops.why = stopped.why;
	else
		p->global_ctl_stops = yes_or_no(probe_cell(&stopped, p->nops) == PROBE_CELL_NO);
	m->wrmsr(MSR_PERF_GLOBAL_CTL, all);
	m->rdmsr(MSR_PERF_GLOBAL_CTL, &ones);
	p->global_ctl_bits = (struct probe_value){.value = ones & ~zeros};
}

/* Only the counters' bits: others may freeze something (§13.2.1). */
static void probe_status(struct probe *p, const struct probe_machine *m, u64 all)
{
	u64 set, clear;

	if (!m->wrmsr(MSR_PERF_GLOBAL_STATUS_SET, all) || !m->rdmsr(MSR_PERF_GLOBAL_STATUS, &set) ||
	    !m->wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, all) ||
	    !m->rdmsr(MSR_PERF_GLOBAL_STATUS, &clear)) {
		p->status_sets.why = p->status_clears.why = "the MSR faults";
		return;
	}
	p->status_sets = yes_or_no((set & all) == all);
	p->status_clears = yes_or_no(!(clear & all));
}

static void probe_perfmon_v2(struct probe *p, const struct probe_machine *m)
{
	const u64 all = BIT(p->counters.value) - 1;

	if (!p->perfmon_v2) {
		p->global_ctl_bits.why = p->global_ctl_stops.why = p->status_sets.why =
			p->status_clears.why = "no PerfMonV2";
		return;
	}
	probe_global_ctl(p, m, all);
	probe_status(p, m, all);
}

/* ---- overflow ---- */

static void probe_overflow(struct probe *p, const struct probe_machine *m, enum probe_signal signal)
{
	const u64 end = p->counter_bits.value < 64 ? BIT(p->counter_bits.value) : 0;
	struct probe_overflow_run run = {
		.selector_msr = p->selector_base,
		.eventsel =
			eventsel(m, PROBE_INSTRUCTIONS, signal == PROBE_SILENT ? 0 : EVTSEL_INT),
		.to_overflow = TO_OVERFLOW,
		.signal = signal,
	};
	u64 status;

	p->overflow[signal].start = end - TO_OVERFLOW;
	if (p->perfmon_v2)
		m->wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BITS(5, 0));
	if (!m->wrmsr(counter_msr(p, 0), p->overflow[signal].start)) {
		p->overflow[signal].why = "the counter faults";
		return;
	}
	p->overflow[signal].why = m->overflow(&run, &p->overflow[signal].interrupts);
	m->rdmsr(counter_msr(p, 0), &p->overflow[signal].after);
	if (!p->perfmon_v2)
		p->overflow[signal].status.why = "no PerfMonV2";
	else if (!m->rdmsr(MSR_PERF_GLOBAL_STATUS, &status))
		p->overflow[signal].status.why = "the MSR faults";
	else
		p->overflow[signal].status = yes_or_no(status & 1);
	if (p->perfmon_v2)
		m->wrmsr(MSR_PERF_GLOBAL_STATUS_CLR, BITS(5, 0));
}

static void probe_overflows(struct probe *p, const struct probe_machine *m)
{
	for (u32 s = 0; s < PROBE_SIGNALS; s++) {
		p->overflow[s].why = p->counter_bits.why;
		if (!p->overflow[s].why)
			probe_overflow(p, m, (enum probe_signal)s);
	}
}

/* ---- costs ---- */

static void sort(u64 *value, u32 count)
{
	for (u32 i = 1; i < count; i++) {
		u64 v = value[i];
		u32 to = i;

		for (; to && value[to - 1] > v; to--)
			value[to] = value[to - 1];
		value[to] = v;
	}
}

static void probe_costs(struct probe *p, const struct probe_machine *m)
{
	u64 ticks[PROBE_COST_ROUNDS] = {0};

	for (u32 c = 0; c < PROBE_COST_KINDS; c++) {
		const char *why = NULL;

		if (p->counters.why &&
		    (c == PROBE_COST_RDMSR_COUNTER || c == PROBE_COST_WRMSR_SELECTOR))
			why = p->counters.why;
		for (u32 i = 0; i < m->cost_rounds && !why; i++)
			why = m->cost((enum probe_cost)c, &ticks[i]);
		p->cost[c].why = why;
		if (why)
			continue;
		sort(ticks, m->cost_rounds);
		p->cost[c].least = ticks[0];
		p->cost[c].median = ticks[m->cost_rounds / 2];
	}
}

/* ---- all of it ---- */

static void none_of_the_pmu(struct probe *p, const char *why)
{
	struct probe_value *const values[] = {
		&p->counters,	     &p->selector_bits,	   &p->selector_bits_2, &p->counter_bits,
		&p->global_ctl_bits, &p->global_ctl_stops, &p->status_sets,	&p->status_clears};

	for (u32 i = 0; i < ARRAY_SIZE(values); i++)
		values[i]->why = why;
	for (u32 bits = 0; bits < PROBE_BITS; bits++)
		for (u32 mode = 0; mode < PROBE_MODES; mode++)
			p->table[bits][mode].why = why;
	for (u32 e = 0; e < PROBE_EVENTS; e++) {
		p->event[e].control.why = why;
		for (u32 bits = 0; bits < PROBE_BITS; bits++)
			p->event[e].vmruns[bits].why = why;
	}
	for (u32 s = 0; s < PROBE_SIGNALS; s++)
		p->overflow[s].why = why;
}

/* What still has none gets a reason; what was measured keeps its value. */
static void give_up(struct probe *p, const char *why)
{
	for (u32 bits = 0; bits < PROBE_BITS; bits++)
		for (u32 mode = 0; mode < PROBE_MODES; mode++)
			p->table[bits][mode].why = why;
	for (u32 e = 0; e < PROBE_EVENTS; e++)
		for (u32 bits = 0; bits < PROBE_BITS; bits++)
			p->event[e].vmruns[bits].why = why;
	for (u32 e = 1; e < PROBE_EVENTS; e++)
		p->event[e].control.why = why;
	for (u32 s = 0; s < PROBE_SIGNALS; s++)
		p->overflow[s].why = why;
	p->global_ctl_stops.why = why;
}

static void probe_pmu(struct probe *p, const struct probe_machine *m)
{
	probe_selectors(p, m);
	if (p->no_pmu) {
		none_of_the_pmu(p, p->no_pmu);
		return;
	}
	if (p->counters.value < 3)
		p->selector_bits_2.why = "there is no counter 2";
	probe_width(p, m);
	if (saved.has_global)
		m->wrmsr(MSR_PERF_GLOBAL_CTL, BIT(p->counters.value) - 1);
	if (!probe_counts(p, m)) {
		probe_perfmon_v2(p, m);
		give_up(p, p->no_pmu);
		return;
	}
	for (u32 e = 1; e < PROBE_EVENTS; e++)
		probe_event(p, m, (enum probe_event)e);
	probe_perfmon_v2(p, m);
	probe_overflows(p, m);
	probe_table(p, m);
	probe_vmruns(p, m);
}

const char *probe_measure(struct probe *p, const struct probe_machine *m, bool force)
{
	const char *why;
	u64 vm_cr;

	*p = (struct probe){.system = m->system,
			    .costs_are = m->costs,
			    .exact = m->exact,
			    .nops = m->repeats[PROBE_NOPS],
			    .vmruns = m->repeats[PROBE_VMRUNS]};
	for (u32 e = 0; e < PROBE_EVENTS; e++)
		p->event[e].control_of = m->repeats[control_of[e]];
	identify(p, m);
	none_of_the_pmu(p, not_tried);
	if (!has_svm(m))
		return "this CPU has no SVM (CPUID 8000_0001 ECX[2])";
	if (!m->rdmsr(MSR_VM_CR, &vm_cr))
		return "VM_CR cannot be read";
	if (vm_cr & VM_CR_SVMDIS)
		return "SVM is switched off by the firmware (VM_CR.SVMDIS): its setup calls it SVM "
		       "Mode, AMD-V or virtualization";
	if (pmu_in_use(p, m) && !force)
		return "the PMU is in use: a selector has EN (on Linux: end perf, and sysctl "
		       "kernel.nmi_watchdog=0); --force takes it away for the time";
	why = m->begin();
	if (why)
		return why;
	save(p, m);
	probe_pmu(p, m);
	probe_costs(p, m);
	restore(p, m);
	m->end();
	return NULL;
}

/* ---- verdict ---- */

/* APM2 table 13-4; svme0 is what else the column of SVME=0 could be. */
static bool is_like(const struct probe *p, const bool svme0[PROBE_BITS])
{
	static const bool host[PROBE_BITS] = {true, false, true, true};
	static const bool guest[PROBE_BITS] = {true, true, false, true};
	const bool *const want[PROBE_MODES] = {svme0, host, guest};

	for (u32 mode = 0; mode < PROBE_MODES; mode++) {
		for (u32 bits = 0; bits < PROBE_BITS; bits++) {
			enum probe_cell cell = probe_cell(&p->table[bits][mode], p->nops);

			if (cell != PROBE_CELL_UNKNOWN &&
			    cell != (want[mode][bits] ? PROBE_CELL_YES : PROBE_CELL_NO))
				return false;
		}
	}
	return true;
}

static u32 cells_that_are(const struct probe *p, enum probe_cell what)
{
	u32 n = 0;

	for (u32 mode = 0; mode < PROBE_MODES; mode++)
		for (u32 bits = 0; bits < PROBE_BITS; bits++)
			n += probe_cell(&p->table[bits][mode], p->nops) == what;
	return n;
}

const char *probe_verdict(const struct probe *p)
{
	static const bool stop[PROBE_BITS] = {true, false, false, false};
	static const bool both[PROBE_BITS] = {true, false, false, true};
	static const bool ignored[PROBE_BITS] = {true, true, true, true};
	const u32 unknown = cells_that_are(p, PROBE_CELL_UNKNOWN);

	if (unknown == PROBE_BITS * PROBE_MODES)
		return "not measured";
	if (cells_that_are(p, PROBE_CELL_YES) + unknown == PROBE_BITS * PROBE_MODES)
		return unknown ? "all that was measured counts"
			       : "HostOnly and GuestOnly are ignored";
	if (is_like(p, stop))
		return unknown ? "as APM2 table 13-4, what was measured of it"
			       : "as APM2 table 13-4";
	if (is_like(p, both))
		return "as APM2 table 13-4, but both bits count with SVME=0";
	if (is_like(p, ignored))
		return "as APM2 table 13-4, but with SVME=0 the bits are ignored";
	return "not as APM2 table 13-4";
}

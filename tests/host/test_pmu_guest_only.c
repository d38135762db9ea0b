/* SPDX-License-Identifier: MIT */
/* Backend `guest-only` on a machine made of arrays, which counts L0's VMRUNs as silicon does. */
#include "pmu/guest_only.h"
#include "pmu_naive.h"
#include "test.h"

#define BOTH_CPL (NAIVE_USR | NAIVE_OS)
#define INSTRUCTIONS (0xc0 | BOTH_CPL | NAIVE_EN)
#define BRANCHES (0xc2 | BOTH_CPL | NAIVE_EN)
#define FAR_TRANSFERS (0xc6 | BOTH_CPL | NAIVE_EN)

struct machine {
	struct pmu_guest_only backend; /* first: the MSR functions find the rest from it */
	struct pmu_recorder recorder;
	struct pmu pmu;
	bool in_guest;
	u64 eventsel[PMU_COUNTERS], ctr[PMU_COUNTERS];
	u64 status, global_ctl;
	u64 accesses;

	/* The guest's truth. */
	struct naive naive;
	unsigned int cpl[2]; /* of L1, of L2 */
};

static u64 *machine_register(struct machine *m, u32 msr)
{
	u32 offset = msr - 0xc0010200u;

	CHECK(!m->in_guest);
	CHECK(offset < 12);
	m->accesses++;
	return offset & 1 ? &m->ctr[offset / 2] : &m->eventsel[offset / 2];
}

static u64 machine_rdmsr(struct pmu_guest_only *backend, u32 msr)
{
	struct machine *m = (struct machine *)backend;

	if (msr == NAIVE_STATUS && m->pmu.has_v2) {
		m->accesses++;
		return m->status | 0xc0; /* reserved, but Turin has been seen with them */
	}
	return *machine_register(m, msr);
}

static void machine_wrmsr(struct pmu_guest_only *backend, u32 msr, u64 value)
{
	struct machine *m = (struct machine *)backend;

	if (msr == NAIVE_CLR && m->pmu.has_v2) {
		m->accesses++;
		CHECK_EQ(value & ~0x3full, 0);
		m->status &= ~value;
		return;
	}
	if (msr == NAIVE_CTL && m->backend.global) {
		CHECK(!m->in_guest);
		m->accesses++;
		m->global_ctl = value;
		return;
	}
	CHECK(!(msr & 1) || value <= NAIVE_COUNTER);
	*machine_register(m, msr) = value;
}

/* Whether the backend is to use PerfCntGlobalCtl, and whether a switch is its list of writes or a commit, which a recorder
 * looks at; the tests below run with and without. */
static bool with_global, by_list;

#define TEST_BOTH(name)                                                                            \
	static void both_##name(void);                                                             \
	TEST(name)                                                                                 \
	{                                                                                          \
		for (unsigned int i = 0; i < 4; i++) {                                             \
			with_global = i & 1;                                                       \
			by_list = i & 2;                                                           \
			both_##name();                                                             \
		}                                                                                  \
	}                                                                                          \
	static void both_##name(void)

static struct machine *list_machine;

static void list_write(const struct pmu_guest_only_write *write)
{
	machine_wrmsr(&list_machine->backend, write->msr, write->low | (u64)write->high << 32);
}

static void machine_init(struct machine *m, enum svme0_rule rule, struct pmu_vmrun_ticks tick)
{
	*m = (struct machine){.naive = naive_new(rule), .global_ctl = 0x3f};
	m->backend.global = with_global;
	pmu_guest_only_init(&m->backend, tick, with_global, machine_rdmsr, machine_wrmsr);
	CHECK_EQ(m->accesses, with_global);
	m->accesses = 0;
	m->recorder = recorder_for(&m->backend.hw);
	pmu_init(&m->pmu, by_list ? &m->backend.hw : &m->recorder.hw, rule);
	if (!by_list)
		m->backend.detour |= PMU_GUEST_ONLY_DETOUR;
	CHECK_EQ(m->accesses, 0);
}

/* A number of each event, for a selector; cycles for one that counts cycles or has a unit mask. */
struct events {
	u64 instructions, branches, far_transfers, cycles;
};

static u64 seen_by(u64 eventsel, const struct events *events)
{
	if (!naive_is_plain(eventsel))
		return events->cycles;
	switch (naive_event(eventsel)) {
	case 0xc0:
		return events->instructions;
	case 0xc2:
		return events->branches;
	case 0xc6:
		return events->far_transfers;
	default:
		return events->cycles;
	}
}

/* Real hardware, SVME=1. */
static void machine_events(struct machine *m, unsigned int cpl, const struct events *events)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		u64 sum = m->ctr[idx];

		if (m->eventsel[idx] & NAIVE_EN && m->global_ctl >> idx & 1 &&
		    naive_counts(m->eventsel[idx], true, m->in_guest, SVME0_STOP) &&
		    naive_passes(m->eventsel[idx], cpl))
			sum += seen_by(m->eventsel[idx], events);
		m->status |= sum >> 48 << idx;
		m->ctr[idx] = sum & NAIVE_COUNTER;
	}
}

static void naive_events(struct machine *m, unsigned int cpl, const struct events *events)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (m->naive.hw[idx] & NAIVE_EN && naive_passes(m->naive.hw[idx], cpl))
			naive_add(&m->naive, idx, seen_by(m->naive.hw[idx], events));
}

static unsigned int *cpl_now(struct machine *m)
{
	return &m->cpl[m->naive.in_l2];
}

/* What the guest would read of a counter. */
static u64 guest_count(const struct machine *m, unsigned int idx)
{
	return m->ctr[idx] - (m->backend.ahead >> idx & 1);
}

/* Nor may the machine have seen an overflow, which would interrupt, that the guest has not. */
static void check_counts(struct machine *m)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		CHECK_EQ(guest_count(m, idx), m->naive.count[idx]);
	CHECK_EQ(m->status & ~m->naive.global_status, 0);
}

static void guest_runs(struct machine *m)
{
	struct events events = {test_below(1000), test_below(100), test_below(10),
				test_below(3000)};

	machine_events(m, *cpl_now(m), &events);
	naive_events(m, *cpl_now(m), &events);
}

static void vmexit(struct machine *m)
{
	const struct events l0 = {123, 45, 6, 789};

	m->in_guest = false;
	machine_events(m, 0, &l0); /* nobody may see them */
	check_counts(m);
}

static void vmrun(struct machine *m)
{
	const struct events tick = {m->backend.tick.instructions, m->backend.tick.branches,
				    m->backend.tick.far_transfers, 0};

	pmu_guest_only_entry(&m->backend, *cpl_now(m));
	m->in_guest = true;
	machine_events(m, *cpl_now(m), &tick);
	check_counts(m);
}

static void check_selectors(struct machine *m)
{
	naive_commit(&m->naive);
	if (!by_list)
		naive_check_selectors(&m->naive, &m->pmu, &m->recorder);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (!with_global)
			CHECK_EQ(m->eventsel[idx], m->naive.hw[idx]);
		else
			CHECK_EQ(m->eventsel[idx] & ~(m->global_ctl >> idx & 1 ? 0 : NAIVE_EN),
				 m->naive.hw[idx]);
}

static void commit(struct machine *m)
{
	pmu_commit(&m->pmu);
	pmu_guest_only_prepare(&m->backend, &m->pmu);
	check_selectors(m);
}

static void retire(struct machine *m)
{
	const struct events one = {1, 0, 0, 0};

	pmu_guest_only_retire(&m->backend, *cpl_now(m));
	naive_events(m, *cpl_now(m), &one);
}

static void transition(struct machine *m, bool in_l2)
{
	if (!by_list) {
		naive_transition(&m->naive, &m->pmu, in_l2);
		commit(m);
		return;
	}
	CHECK(m->naive.svme);
	m->naive.in_l2 = in_l2;
	list_machine = m;
	if (m->backend.owed) /* as nested_vmexit_made() does */
		pmu_guest_only_settle(&m->backend);
	pmu_guest_only_transition(&m->backend, &m->pmu, in_l2, list_write);
	check_selectors(m);
}

static void check_status(struct machine *m)
{
	u64 value = ~0ull;

	CHECK_EQ(pmu_rdmsr(&m->pmu, NAIVE_STATUS, &value), 0);
	CHECK_EQ(value, m->naive.global_status);
	CHECK_EQ(m->status & 0x3f, 0);
}

static void set_evtsel(struct machine *m, unsigned int idx, u64 value)
{
	CHECK_EQ(pmu_wrmsr(&m->pmu, MSR_PERFEVTSEL(idx), value), 0);
	naive_write_eventsel(&m->naive, idx, value);
}

static void set_ctr(struct machine *m, unsigned int idx, u64 value)
{
	CHECK_EQ(pmu_wrmsr(&m->pmu, MSR_PERFCTR(idx), value), 0);
	m->naive.count[idx] = value & NAIVE_COUNTER;
}

/* Register accesses that an exit needs which is no trigger: a read and a write for each counter
 * that VMRUN would leave wrong; no write for one that is to be 0 and is, and runs ahead. */
static u64 accesses_needed(struct machine *m, unsigned int owed)
{
	u64 accesses = 0;

	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		u64 eventsel = m->naive.hw[idx];
		const struct events one = {owed, 0, 0, 0},
				    tick = {m->backend.tick.instructions, m->backend.tick.branches,
					    m->backend.tick.far_transfers, 0};

		bool counts = eventsel & NAIVE_EN && naive_passes(eventsel, *cpl_now(m));
		u64 add = counts ? seen_by(eventsel, &one) : 0;
		u64 take = (counts ? seen_by(eventsel, &tick) : 0) + (m->backend.ahead >> idx & 1);

		if (add != take)
			accesses += m->ctr[idx] || add > take ? 2 : 1;
	}
	return accesses;
}

static struct pmu_vmrun_ticks ticks(unsigned int bits)
{
	return (struct pmu_vmrun_ticks){bits & 1, bits & 2, bits & 4};
}

/* Whatever a VMRUN adds to an event, and with nothing added. */
TEST_BOTH(guest_only_every_mode)
{
	static const u64 event_numbers[] = {0xc0, 0xc2, 0xc6};

	for (unsigned int bits = 0; bits < 2048 * 3 * 3; bits++) {
		u64 event = event_numbers[bits / 2048 / 3];
		u64 filter = (u64)(bits >> 4 & 3) << 16, host_guest = (u64)(bits >> 6 & 3) << 40;
		u64 eventsel = event | filter | host_guest | (bits & 256 ? NAIVE_EN : 0);
		bool emulated = bits & 1024, global = bits & 2;
		enum svme0_rule rule = bits & 8 ? SVME0_COUNT : SVME0_STOP;
		unsigned int cpl = bits & 512 ? 3 : 0;
		const struct events ten = {10, 10, 10, 0};
		struct machine m;
		u64 want;

		machine_init(&m, rule, ticks(bits & 4 ? 7 : 0));
		m.pmu.has_v2 = bits & 1;
		naive_go_to(&m.naive, &m.pmu, bits / 2048 % 3);
		m.cpl[0] = m.cpl[1] = cpl;
		set_evtsel(&m, 2, eventsel);
		if (m.pmu.has_v2)
			naive_write_global(&m.naive, &m.pmu, NAIVE_CTL, global ? 4 : 0x3b);
		commit(&m);
		vmrun(&m);
		machine_events(&m, cpl, &ten);
		naive_events(&m, cpl, &ten);
		vmexit(&m);
		if (emulated)
			retire(&m);
		vmrun(&m);

		want = eventsel & NAIVE_EN && (global || !m.pmu.has_v2) &&
		       eventsel & (cpl ? NAIVE_USR : NAIVE_OS) &&
		       naive_counts(eventsel, m.naive.svme, m.naive.in_l2, rule);
		CHECK_EQ(guest_count(&m, 2), want * (emulated && event == 0xc0 ? 11 : 10));
		CHECK(!m.backend.hw.unsupported(&m.backend.hw, eventsel));
	}
}

/* The point of the owed tick: an exit on an emulated instruction, or without counters. */
TEST_BOTH(guest_only_ordinary_exit_touches_nothing)
{
	struct machine m;

	machine_init(&m, SVME0_STOP, ticks(7));
	vmrun(&m);
	for (unsigned int i = 0; i < 100; i++) {
		vmexit(&m);
		if (i & 1)
			retire(&m);
		vmrun(&m);
	}
	CHECK_EQ(m.accesses, 0);

	vmexit(&m);
	set_evtsel(&m, 0, INSTRUCTIONS);
	set_evtsel(&m, 1, INSTRUCTIONS & ~NAIVE_OS);
	set_evtsel(&m, 2, 0x76 | BOTH_CPL | NAIVE_EN);
	set_evtsel(&m, 3, BRANCHES & ~NAIVE_EN);
	set_ctr(&m, 0, 5);
	set_ctr(&m, 1, 5);
	retire(&m);
	commit(&m);
	vmrun(&m);
	m.accesses = 0;
	for (unsigned int i = 0; i < 100; i++) {
		*cpl_now(&m) = i & 1 ? 3 : 0;
		guest_runs(&m);
		vmexit(&m);
		retire(&m);
		vmrun(&m);
	}
	CHECK_EQ(m.accesses, 0);

	/* An interrupt: of the two on instructions only those that the VMRUN ticks. */
	*cpl_now(&m) = 0;
	vmexit(&m);
	vmrun(&m);
	CHECK_EQ(m.accesses, 2);
	*cpl_now(&m) = 3;
	vmexit(&m);
	vmrun(&m);
	CHECK_EQ(m.accesses, 6);
}

TEST_BOTH(guest_only_corrections)
{
	struct machine m;

	machine_init(&m, SVME0_STOP, ticks(7));
	set_evtsel(&m, 0, INSTRUCTIONS);
	set_evtsel(&m, 1, BRANCHES);
	set_evtsel(&m, 2, FAR_TRANSFERS);
	set_evtsel(&m, 3, BRANCHES | 1 << 24); /* CMASK: cycles */
	set_evtsel(&m, 4, INSTRUCTIONS | 0x100);
	commit(&m);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		set_ctr(&m, idx, 5);
	vmrun(&m);
	vmexit(&m);
	m.accesses = 0;
	pmu_guest_only_entry(&m.backend, 0);
	CHECK_EQ(m.ctr[0], 4);
	CHECK_EQ(m.ctr[1], 4);
	CHECK_EQ(m.ctr[2], 4);
	CHECK_EQ(m.ctr[3], 5);
	CHECK_EQ(m.ctr[4], 5);
	CHECK_EQ(m.accesses, 6);
	CHECK_EQ(m.backend.ahead, 0);

	/* Without the tick: a retirement is written, an interrupt not, and all ones wrap to 0. */
	machine_init(&m, SVME0_STOP, ticks(0));
	set_evtsel(&m, 0, INSTRUCTIONS);
	set_evtsel(&m, 1, BRANCHES);
	set_ctr(&m, 0, NAIVE_COUNTER);
	commit(&m);
	m.accesses = 0;
	vmrun(&m);
	vmexit(&m);
	CHECK_EQ(m.accesses, 0);
	retire(&m);
	vmrun(&m);
	CHECK_EQ(m.accesses, 2);
	CHECK_EQ(m.ctr[0], 0);
}

/* The hardware sees no carry in a register write, so the interrupt is L0's: once, and with INT only. */
TEST_BOTH(guest_only_correction_interrupts)
{
	for (unsigned int tick = 0; tick < 2; tick++) {
		for (unsigned int with_int = 0; with_int < 2; with_int++) {
			struct machine m;

			machine_init(&m, SVME0_STOP, ticks(tick));
			m.pmu.has_v2 = true;
			set_evtsel(&m, 3, INSTRUCTIONS | (u64)with_int << 20);
			commit(&m);
			set_ctr(&m, 3, NAIVE_COUNTER - 1);
			vmrun(&m);
			vmexit(&m);
			for (unsigned int i = 0; i < 3; i++) {
				CHECK(!m.backend.interrupt);
				/* two at once: at most one of them is VMRUN's own tick */
				retire(&m);
				retire(&m);
				vmrun(&m);
				vmexit(&m);
				CHECK_EQ(m.backend.interrupt,
					 with_int && i == 0 && !(m.status & 8));
				m.backend.interrupt = false;
			}
			check_status(&m);
			CHECK_EQ(m.naive.global_status, 8);
		}
	}
}

/* Nothing can be taken off 0: the counter runs one ahead, and no VMRUN carries out of it. */
TEST_BOTH(guest_only_ahead_of_zero)
{
	const struct events one = {1, 0, 0, 0};
	struct machine m;
	u64 value;

	machine_init(&m, SVME0_STOP, ticks(1));
	m.pmu.has_v2 = true;
	set_evtsel(&m, 0, INSTRUCTIONS);
	set_evtsel(&m, 1, INSTRUCTIONS);
	set_ctr(&m, 1, 1);
	commit(&m);
	vmrun(&m);
	CHECK_EQ(m.backend.ahead, 1);
	CHECK_EQ(m.status, 0);

	/* No progress: it stays ahead, and need not be written. */
	vmexit(&m);
	m.accesses = 0;
	vmrun(&m);
	CHECK_EQ(m.backend.ahead, 1);
	CHECK_EQ(m.accesses, 2 + 2); /* 1 to 0 for the VMRUN to make it 1 again; and counter 1 */

	/* One instruction is enough, executed or emulated. */
	machine_events(&m, 0, &one);
	naive_events(&m, 0, &one);
	vmexit(&m);
	vmrun(&m);
	CHECK_EQ(m.backend.ahead, 0);
	vmexit(&m);
	set_ctr(&m, 0, 0);
	vmrun(&m);
	CHECK_EQ(m.backend.ahead, 1);
	vmexit(&m);
	retire(&m);
	vmrun(&m);
	CHECK_EQ(m.backend.ahead, 0);

	/* Whoever looks, writes or stops it meanwhile finds the guest's value. */
	for (unsigned int how = 0; how < 4; how++) {
		vmexit(&m);
		set_ctr(&m, 0, 0);
		vmrun(&m);
		CHECK_EQ(m.backend.ahead, 1);
		vmexit(&m);
		switch (how) {
		case 0:
			CHECK_EQ(pmu_rdpmc(&m.pmu, 0, &value), 0);
			CHECK_EQ(value, 0);
			break;
		case 1:
			set_ctr(&m, 0, 30);
			break;
		case 2:
			set_evtsel(&m, 0, INSTRUCTIONS & ~NAIVE_EN);
			commit(&m);
			break;
		default:
			set_evtsel(&m, 0, BRANCHES);
			commit(&m);
		}
		CHECK_EQ(m.backend.ahead, 0);
		vmrun(&m);
		vmexit(&m);
		set_evtsel(&m, 0, INSTRUCTIONS);
		commit(&m);
		vmrun(&m);
	}
	check_status(&m);
	CHECK_EQ(m.naive.global_status, 0);
}

/* What is owed goes to the counters that ran when it retired, and a read sees it. */
TEST_BOTH(guest_only_settles_before_changes)
{
	struct machine m;
	u64 value;

	machine_init(&m, SVME0_STOP, ticks(7));
	set_evtsel(&m, 0, INSTRUCTIONS);
	commit(&m);
	vmrun(&m);
	vmexit(&m);
	set_evtsel(&m, 0, INSTRUCTIONS & ~NAIVE_EN);
	set_evtsel(&m, 1, INSTRUCTIONS);
	retire(&m); /* in the old state */
	commit(&m);
	vmrun(&m);
	CHECK_EQ(guest_count(&m, 0), 1);
	CHECK_EQ(guest_count(&m, 1), 0);

	vmexit(&m);
	retire(&m);
	CHECK_EQ(pmu_rdpmc(&m.pmu, 1, &value), 0);
	CHECK_EQ(value, 1);
	set_ctr(&m, 1, 50);
	retire(&m);
	vmrun(&m);
	CHECK_EQ(guest_count(&m, 1), 51);

	vmexit(&m);
	retire(&m); /* lost with the old value */
	set_ctr(&m, 1, 70);
	vmrun(&m);
	CHECK_EQ(guest_count(&m, 1), 70);
}

/* L1 runs VMRUN, and an interrupt for L1 takes L2 out again before L0 gets to its own VMRUN. */
TEST_BOTH(guest_only_vmrun_and_back)
{
	struct machine m;

	for (unsigned int tick = 0; tick < 2; tick++) {
		machine_init(&m, SVME0_STOP, ticks(tick));
		naive_toggle(&m.naive, &m.pmu, true);
		m.cpl[1] = 3;
		set_evtsel(&m, 0, INSTRUCTIONS);
		set_evtsel(&m, 1, INSTRUCTIONS | NAIVE_HOSTONLY);
		set_evtsel(&m, 2, INSTRUCTIONS | NAIVE_GUESTONLY);
		set_evtsel(&m, 3, (INSTRUCTIONS & ~NAIVE_OS) | NAIVE_GUESTONLY);
		set_evtsel(&m, 4, (INSTRUCTIONS & ~NAIVE_USR) | NAIVE_GUESTONLY);
		set_evtsel(&m, 5, INSTRUCTIONS & ~NAIVE_USR);
		commit(&m);
		vmrun(&m);
		vmexit(&m);
		transition(&m, true);
		retire(&m);
		transition(&m, false);
		vmrun(&m);
		CHECK_EQ(guest_count(&m, 0), 1);
		CHECK_EQ(guest_count(&m, 1), 0);
		CHECK_EQ(guest_count(&m, 2), 1);
		CHECK_EQ(guest_count(&m, 3), 1);
		CHECK_EQ(guest_count(&m, 4), 0);
		CHECK_EQ(guest_count(&m, 5), 0);
	}
}

/* The machine keeps the status; what the guest has seen is taken out of it, and only that. */
TEST_BOTH(guest_only_global_status)
{
	const struct events ten = {10, 0, 0, 0};
	struct machine m;
	u64 value;

	machine_init(&m, SVME0_STOP, ticks(0));
	m.pmu.has_v2 = true;
	set_evtsel(&m, 1, INSTRUCTIONS);
	set_evtsel(&m, 5, INSTRUCTIONS);
	set_ctr(&m, 1, NAIVE_COUNTER - 9);
	set_ctr(&m, 5, NAIVE_COUNTER - 10);
	commit(&m);
	check_status(&m);
	vmrun(&m);
	machine_events(&m, 0, &ten);
	naive_events(&m, 0, &ten);
	vmexit(&m);
	CHECK_EQ(m.status, 2);
	m.accesses = 0;
	check_status(&m);
	CHECK_EQ(m.accesses, 2);
	check_status(&m); /* nothing new: nothing to clear */
	CHECK_EQ(m.accesses, 3);
	CHECK_EQ(m.naive.global_status, 2);

	/* An emulated instruction carries as well, though the machine cannot see it. */
	retire(&m);
	vmrun(&m);
	vmexit(&m);
	CHECK_EQ(m.status, 0);
	m.accesses = 0;
	check_status(&m);
	CHECK_EQ(m.accesses, 1);
	CHECK_EQ(m.naive.global_status, 0x22);
	m.accesses = 0;
	naive_write_global(&m.naive, &m.pmu, NAIVE_SET, 0x08);
	naive_write_global(&m.naive, &m.pmu, NAIVE_STATUS, 0x3f);
	CHECK_EQ(m.accesses, 0);
	naive_write_global(&m.naive, &m.pmu, NAIVE_CLR, 0x20);
	check_status(&m);
	CHECK_EQ(m.naive.global_status, 0x0a);

	/* CLR of one that is still in the machine only. */
	m.status = 1;
	naive_write_global(&m.naive, &m.pmu, NAIVE_CLR, 1);
	check_status(&m);

	m.pmu.has_v2 = false;
	m.accesses = 0;
	CHECK_EQ(pmu_rdmsr(&m.pmu, NAIVE_STATUS, &value), -E_NOENT);
	CHECK_EQ(pmu_wrmsr(&m.pmu, NAIVE_CLR, 1), -E_NOENT);
	CHECK_EQ(m.accesses, 0);
}

/* One GLOBAL_CTL write is one settlement, and an emulated instruction before it goes to the
 * counters as they were. */
TEST_BOTH(guest_only_global_ctl)
{
	struct machine m;

	machine_init(&m, SVME0_STOP, ticks(7));
	m.pmu.has_v2 = true;
	naive_write_global(&m.naive, &m.pmu, NAIVE_CTL, 1);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		set_evtsel(&m, idx, INSTRUCTIONS);
	set_ctr(&m, 0, 5);
	commit(&m);
	vmrun(&m);
	vmexit(&m);
	naive_write_global(&m.naive, &m.pmu, NAIVE_CTL, 0x3e);
	retire(&m);
	m.accesses = 0;
	commit(&m);
	/* counter 0 gets its instruction; and all six start and stop, at once or one by one */
	CHECK_EQ(m.accesses, 2 + (with_global ? 1 : 6));
	vmrun(&m);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		CHECK_EQ(guest_count(&m, idx), idx ? 0 : 6);
	vmexit(&m);
	retire(&m);
	vmrun(&m);
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		CHECK_EQ(guest_count(&m, idx), idx ? 1 : 6);
}

/* A transition starts and stops any number of counters by one write, where there is one for it. */
TEST_BOTH(guest_only_transition_writes)
{
	for (unsigned int counters = 1; counters <= PMU_COUNTERS; counters++) {
		struct machine m;

		machine_init(&m, SVME0_STOP, ticks(7));
		naive_toggle(&m.naive, &m.pmu, true);
		for (unsigned int idx = 0; idx < counters; idx++)
			set_evtsel(&m, idx, 0x76 | BOTH_CPL | NAIVE_EN | NAIVE_GUESTONLY);
		commit(&m);
		for (unsigned int i = 0; i < 4; i++) {
			m.accesses = 0;
			transition(&m, !(i & 1));
			retire(&m);
			vmrun(&m);
			CHECK_EQ(m.accesses, with_global ? 1 : counters);
			vmexit(&m);
		}
		/* another event for one that runs is no start */
		transition(&m, true);
		m.accesses = 0;
		set_evtsel(&m, 0, BRANCHES | NAIVE_GUESTONLY);
		commit(&m);
		CHECK_EQ(m.accesses, 1);
	}
}

static void random_exit(struct machine *m)
{
	unsigned int idx = (unsigned int)test_below(PMU_COUNTERS);
	bool in_l2 = m->naive.in_l2;
	u64 value;

	vmexit(m);
	m->accesses = 0;
	switch (test_below(14)) {
	case 0: /* NPF or INTR, handled by L0 */
	case 1:
		value = accesses_needed(m, 0);
		vmrun(m);
		CHECK_EQ(m->accesses, value);
		return;
	case 2: /* an emulated instruction, in L1 or L2 */
	case 3:
	case 4:
		value = accesses_needed(m, 1);
		retire(m);
		vmrun(m);
		CHECK_EQ(m->accesses, value);
		return;
	case 5: /* an exit from L2 that is L1's */
		if (in_l2) {
			m->cpl[0] = 0;
			transition(m, false);
		}
		break;
	case 6: /* VMRUN by L1; every so often L1 gets an interrupt at once */
	case 7:
		if (!in_l2 && m->naive.svme) {
			m->cpl[0] = 0;
			m->cpl[1] = (unsigned int)test_below(4);
			transition(m, true);
			retire(m);
			if (test_below(4) == 0)
				transition(m, false);
		}
		break;
	case 8: /* WRMSR EFER */
		if (!in_l2) {
			*cpl_now(m) = 0;
			naive_toggle(&m->naive, &m->pmu, test_below(3));
			commit(m);
			retire(m);
		}
		break;
	case 9:
		*cpl_now(m) = 0;
		set_evtsel(m, idx, naive_random_eventsel());
		retire(m);
		commit(m);
		break;
	case 10:
		*cpl_now(m) = 0;
		set_ctr(m, idx, naive_random_count());
		retire(m);
		break;
	case 11:
		*cpl_now(m) = 0;
		naive_random_global(&m->naive, &m->pmu);
		retire(m);
		commit(m);
		break;
	case 12: /* now and then, or an overflow could not wait for long */
		if (test_below(4) == 0) {
			*cpl_now(m) = 0;
			check_status(m);
			naive_write_global(&m->naive, &m->pmu, NAIVE_CLR, ~0ull);
			retire(m);
		}
		break;
	default: /* RDPMC */
		CHECK_EQ(pmu_rdpmc(&m->pmu, idx, &value), 0);
		CHECK_EQ(value, m->naive.count[idx]);
		retire(m);
	}
	vmrun(m);
}

TEST_BOTH(guest_only_random_exits)
{
	for (unsigned int seed = 0; seed < 32; seed++) {
		struct machine m;

		test_seed(seed);
		machine_init(&m, seed & 8 ? SVME0_COUNT : SVME0_STOP, ticks(seed & 7));
		m.pmu.has_v2 = true;
		vmrun(&m);
		for (unsigned int i = 0; i < 10000; i++) {
			if (test_below(4) == 0)
				*cpl_now(&m) = (unsigned int)test_below(4);
			guest_runs(&m);
			check_counts(&m);
			random_exit(&m);
		}
	}
}

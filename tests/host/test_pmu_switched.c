/* SPDX-License-Identifier: MIT */
/* Backend `switched` on a machine made of arrays, whose selectors drop HostOnly and GuestOnly: it
 * counts L0's own instructions, VMRUN and #VMEXIT as silicon does. */
#include "pmu/switched.h"
#include "pmu_naive.h"
#include "test.h"

#define BOTH_CPL (NAIVE_USR | NAIVE_OS)
#define INSTRUCTIONS (0xc0 | BOTH_CPL | NAIVE_EN)
#define BRANCHES (0xc2 | BOTH_CPL | NAIVE_EN)
#define FAR_TRANSFERS (0xc6 | BOTH_CPL | NAIVE_EN)

/* A number of each event, for a selector; cycles for one that counts cycles or has a unit mask. */
struct events {
	u64 instructions, branches, far_transfers, cycles;
};

struct machine {
	struct pmu_switched backend; /* first: the MSR functions find the rest from it */
	struct pmu_recorder recorder;
	struct pmu pmu;
	bool in_guest, vmrun_ticks, probing;
	u64 eventsel[PMU_COUNTERS], ctr[PMU_COUNTERS];
	u64 global_ctl;
	u64 accesses;

	/* The guest's truth. */
	struct naive naive;
	unsigned int cpl[2]; /* of L1, of L2 */
};

static u64 *machine_register(struct machine *m, u32 msr)
{
	u32 offset = msr - 0xc0010200u;

	CHECK(!m->in_guest);
	m->accesses++;
	if (msr == NAIVE_CTL && m->backend.global)
		return &m->global_ctl;
	CHECK(offset < 12);
	return offset & 1 ? &m->ctr[offset / 2] : &m->eventsel[offset / 2];
}

static u64 machine_rdmsr(struct pmu_switched *backend, u32 msr)
{
	return *machine_register((struct machine *)backend, msr);
}

/* Counters need not be writable, the bits that are missing are never written, nor is INT. */
static void machine_wrmsr(struct pmu_switched *backend, u32 msr, u64 value)
{
	CHECK_EQ(value & (NAIVE_HOSTONLY | NAIVE_GUESTONLY | 1ull << 20), 0);
	CHECK(!(msr & 1) || msr == NAIVE_CTL);
	*machine_register((struct machine *)backend, msr) = value;
}

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

static bool machine_runs(const struct machine *m, unsigned int idx)
{
	return m->eventsel[idx] & NAIVE_EN && m->global_ctl >> idx & 1;
}

static void machine_events(struct machine *m, unsigned int cpl, struct events events)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (machine_runs(m, idx) && naive_passes(m->eventsel[idx], cpl))
			m->ctr[idx] =
				(m->ctr[idx] + seen_by(m->eventsel[idx], &events)) & NAIVE_COUNTER;
}

/* Only what can be exact: the cycles that L0 takes are in the others' counts. */
static bool is_exact(u64 eventsel)
{
	u64 event = naive_event(eventsel);

	return naive_is_plain(eventsel) && (event == 0xc0 || event == 0xc2 || event == 0xc6);
}

static void naive_events(struct machine *m, unsigned int cpl, struct events events)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		if (m->naive.hw[idx] & NAIVE_EN && naive_passes(m->naive.hw[idx], cpl))
			naive_add(&m->naive, idx, seen_by(m->naive.hw[idx], &events));
}

static unsigned int *cpl_now(struct machine *m)
{
	return &m->cpl[m->naive.in_l2];
}

/* hv/vmrun.asm's macro, one instruction after the other. A WRMSR retires in the state before it. */
static void switch_counters(struct machine *m, bool start)
{
	const struct events one = {1, 0, 0, 2}, branch = {1, 1, 0, 3};
	u64 writes = m->backend.writes;

	machine_events(m, 0, one);
	for (u64 i = 0; i < writes; i++) {
		const struct pmu_switched_write *write = &m->backend.write[i];

		machine_events(m, 0, (struct events){4, 0, 0, 50});
		machine_wrmsr(&m->backend, write->msr,
			      (start ? write->start : write->stop) | (u64)write->high << 32);
		machine_events(m, 0, one);
		machine_events(m, 0, branch);
	}
}

static void vmexit(struct machine *m)
{
	m->in_guest = false;
	if (m->backend.writes) {
		/* an exception, to the counters, of the mode that it enters */
		machine_events(m, 0, (struct events){0, 0, 1, 20});
		machine_events(m, 0, (struct events){9, 0, 0, 9});
		switch_counters(m, false);
	}
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		CHECK(!machine_runs(m, idx));
	machine_events(m, 0, (struct events){1234, 56, 7, 8901}); /* nobody may see them */
}

static void vmrun(struct machine *m)
{
	unsigned int cpl = *cpl_now(m);

	if (m->backend.writes) {
		m->backend.entries[cpl]++;
		switch_counters(m, true);
		machine_events(m, 0, (struct events){10, 0, 0, 10});
	}
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		CHECK_EQ(machine_runs(m, idx), !!(m->naive.hw[idx] & NAIVE_EN));
		/* all else as the guest wrote it: EDGE, INV, CMASK, the unit mask */
		if (machine_runs(m, idx) && !m->probing)
			CHECK_EQ(m->eventsel[idx],
				 m->naive.hw[idx] & ~(NAIVE_HOSTONLY | NAIVE_GUESTONLY | 1 << 20));
	}
	m->in_guest = true;
	machine_events(m, cpl, (struct events){m->vmrun_ticks, m->vmrun_ticks, m->vmrun_ticks, 30});
}

static void machine_reset(struct machine *m, enum svme0_rule rule, bool global)
{
	m->naive = naive_new(rule);
	m->in_guest = m->probing = false;
	m->global_ctl = 0x3f;
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		m->eventsel[idx] = 0;
	pmu_switched_init(&m->backend, global, machine_rdmsr, machine_wrmsr);
	m->recorder = recorder_for(&m->backend.hw);
	pmu_init(&m->pmu, &m->recorder.hw, rule);
	m->pmu.has_v2 = true;
}

/* As hv/backend.c does it: with the overhead 0, a guest that does nothing. */
static struct pmu_switched_overhead probe(struct machine *m, bool global)
{
	static const u64 events[] = {0xc0, 0xc2, 0xc6};
	struct pmu_switched_overhead overhead = {0};

	for (unsigned int event = 0; event < ARRAY_SIZE(events); event++)
		for (unsigned int filter = 0; filter < 4; filter++)
			for (unsigned int bits = 0; bits < 2 * PMU_COUNTERS; bits++) {
				unsigned int cpl = bits & 1 ? 3 : 0, n = 1 + bits / 2;
				struct pmu_hw *hw = &m->backend.hw;

				if (global && n > 1)
					continue;
				machine_reset(m, SVME0_STOP, global);
				m->probing = true;
				for (unsigned int idx = 0; idx < n; idx++) {
					hw->write_evtsel(hw, idx,
							 events[event] | filter << 16 | NAIVE_EN);
					m->naive.hw[idx] = NAIVE_EN;
				}
				m->cpl[0] = cpl;
				vmrun(m);
				vmexit(m);
				overhead.at[event][filter][bits & 1][n - 1] =
					(u32)hw->read_ctr(hw, 0);
				/* each counter has the same, or there were no such number */
				for (unsigned int idx = 1; idx < n; idx++)
					CHECK_EQ(hw->read_ctr(hw, idx), hw->read_ctr(hw, 0));
			}
	return overhead;
}

/* `setting`: bit 0: PerfMonV2, bit 1: VMRUN counts itself */
static void machine_init(struct machine *m, enum svme0_rule rule, unsigned int setting)
{
	struct pmu_switched_overhead overhead;

	*m = (struct machine){.vmrun_ticks = setting & 2};
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		m->ctr[idx] = naive_random_count() & NAIVE_COUNTER;
	overhead = probe(m, setting & 1);
	machine_reset(m, rule, setting & 1);
	m->cpl[0] = m->cpl[1] = 0;
	m->backend.overhead = overhead;
	m->accesses = 0;
}

static void commit(struct machine *m)
{
	pmu_commit(&m->pmu);
	naive_commit(&m->naive);
	naive_check_selectors(&m->naive, &m->pmu, &m->recorder);
}

static void retire(struct machine *m)
{
	pmu_switched_retire(&m->backend, *cpl_now(m));
	naive_events(m, *cpl_now(m), (struct events){1, 0, 0, 0});
}

static void transition(struct machine *m, bool in_l2)
{
	naive_transition(&m->naive, &m->pmu, in_l2);
	commit(m);
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

static u64 guest_count(struct machine *m, unsigned int idx)
{
	u64 value = ~0ull;

	CHECK_EQ(pmu_rdpmc(&m->pmu, idx, &value), 0);
	return value;
}

static void guest_runs(struct machine *m)
{
	struct events events = {test_below(1000), test_below(100), test_below(10),
				test_below(3000)};

	machine_events(m, *cpl_now(m), events);
	naive_events(m, *cpl_now(m), events);
}

TEST(switched_every_mode)
{
	struct machine probed[4];

	for (unsigned int setting = 0; setting < 4; setting++)
		machine_init(&probed[setting], SVME0_STOP, setting);
	for (unsigned int bits = 0; bits < 4096 * 3; bits++) {
		static const u64 events[] = {0xc0, 0xc2, 0xc6, 0xc0};
		u64 filter = (u64)(bits >> 4 & 3) << 16, host_guest = (u64)(bits >> 6 & 3) << 40;
		u64 eventsel =
			events[bits >> 10 & 3] | filter | host_guest | (bits & 256 ? NAIVE_EN : 0);
		enum svme0_rule rule = bits & 8 ? SVME0_COUNT : SVME0_STOP;
		unsigned int cpl = bits & 512 ? 3 : 0, setting = bits & 3;
		struct pmu_switched_overhead overhead = probed[setting].backend.overhead;
		struct machine m = probed[setting];
		u64 want;

		machine_reset(&m, rule, setting & 1);
		m.backend.overhead = overhead;
		naive_go_to(&m.naive, &m.pmu, bits / 4096);
		m.cpl[0] = m.cpl[1] = cpl;
		set_evtsel(&m, 2, eventsel);
		set_evtsel(&m, 4, INSTRUCTIONS);
		commit(&m);
		for (unsigned int i = 0; i < 3; i++) {
			vmrun(&m);
			machine_events(&m, cpl, (struct events){10, 7, 3, 0});
			vmexit(&m);
			if (bits & 4)
				retire(&m);
		}
		want = eventsel & NAIVE_EN && eventsel & (cpl ? NAIVE_USR : NAIVE_OS) &&
		       naive_counts(eventsel, m.naive.svme, m.naive.in_l2, rule);
		want *= naive_event(eventsel) == 0xc2	? 21
			: naive_event(eventsel) == 0xc6 ? 9
			: bits & 4			? 33
							: 30;
		CHECK_EQ(guest_count(&m, 2), want);
		CHECK_EQ(guest_count(&m, 4), bits & 4 ? 33 : 30);
		CHECK(!m.backend.hw.unsupported(&m.backend.hw, eventsel));
	}
}

/* With no counter that runs nothing is written, and with PerfMonV2 a transition writes nothing. */
TEST(switched_accesses)
{
	struct machine m;

	for (unsigned int setting = 0; setting < 4; setting++) {
		unsigned int writes = setting & 1 ? 1 : 3;

		machine_init(&m, SVME0_STOP, setting);
		vmrun(&m);
		vmexit(&m);
		naive_toggle(&m.naive, &m.pmu, true);
		commit(&m);
		retire(&m);
		vmrun(&m);
		vmexit(&m);
		CHECK_EQ(m.accesses, 0);

		for (unsigned int idx = 0; idx < 3; idx++)
			set_evtsel(&m, idx, INSTRUCTIONS | NAIVE_GUESTONLY);
		commit(&m);
		m.accesses = 0;
		vmrun(&m);
		vmexit(&m);
		CHECK_EQ(m.accesses, 0); /* they are L2's */
		transition(&m, true);
		retire(&m);
		CHECK_EQ(m.accesses, 0);
		vmrun(&m);
		CHECK_EQ(m.accesses, writes);
		vmexit(&m);
		CHECK_EQ(m.accesses, 2 * writes);
		transition(&m, false);
		vmrun(&m);
		CHECK_EQ(m.accesses, 2 * writes);
	}
}

/* What is owed goes to the counters that ran when it retired, whoever looks, writes or stops. */
TEST(switched_settles_before_changes)
{
	struct machine m;

	for (unsigned int setting = 0; setting < 4; setting++) {
		machine_init(&m, SVME0_STOP, setting);
		set_evtsel(&m, 0, INSTRUCTIONS);
		commit(&m);
		vmrun(&m);
		vmexit(&m);
		set_evtsel(&m, 0, INSTRUCTIONS & ~NAIVE_EN);
		set_evtsel(&m, 1, INSTRUCTIONS);
		retire(&m); /* in the old state */
		commit(&m);
		vmrun(&m);
		vmexit(&m);
		CHECK_EQ(guest_count(&m, 0), 1);
		CHECK_EQ(guest_count(&m, 1), 0);
		retire(&m);
		CHECK_EQ(guest_count(&m, 1), 1);
		set_ctr(&m, 1, 50);
		retire(&m);
		vmrun(&m);
		vmexit(&m);
		CHECK_EQ(guest_count(&m, 1), 51);
		retire(&m); /* lost with the old value */
		set_ctr(&m, 1, 70);
		CHECK_EQ(guest_count(&m, 1), 70);
		/* another event has another overhead */
		vmrun(&m);
		vmexit(&m);
		set_evtsel(&m, 1, BRANCHES);
		commit(&m);
		vmrun(&m);
		vmexit(&m);
		CHECK_EQ(guest_count(&m, 1), 70);
	}
}

/* The machine's counter wraps when the guest's does not, and the other way round. */
TEST(switched_overflow)
{
	struct machine m;

	for (unsigned int setting = 0; setting < 4; setting++) {
		u64 status = ~0ull;

		machine_init(&m, SVME0_STOP, setting);
		m.ctr[0] = NAIVE_COUNTER - 5;
		m.ctr[1] = 1000;
		m.ctr[2] = NAIVE_COUNTER - 5;
		machine_reset(&m, SVME0_STOP, setting & 1);
		for (unsigned int idx = 0; idx < 4; idx++) {
			set_evtsel(&m, idx, INSTRUCTIONS | 1 << 20);
			set_ctr(&m, idx, idx & 1 ? NAIVE_COUNTER - 9 : 0);
		}
		set_ctr(&m, 3, NAIVE_COUNTER - 10);
		commit(&m);
		m.backend.overhead =
			probe(&(struct machine){.vmrun_ticks = setting & 2}, setting & 1);
		vmrun(&m);
		machine_events(&m, 0, (struct events){10, 0, 0, 0});
		naive_events(&m, 0, (struct events){10, 0, 0, 0});
		vmexit(&m);
		CHECK_EQ(pmu_rdmsr(&m.pmu, NAIVE_STATUS, &status), 0);
		CHECK_EQ(status, 2);
		CHECK_EQ(guest_count(&m, 0), 10);
		CHECK_EQ(guest_count(&m, 1), 0);
		CHECK_EQ(guest_count(&m, 3), NAIVE_COUNTER);
		/* an emulated instruction carries as well; a new value must not cover that */
		retire(&m);
		set_ctr(&m, 3, 77);
		CHECK_EQ(pmu_rdmsr(&m.pmu, NAIVE_STATUS, &status), 0);
		CHECK_EQ(status, 10);
		CHECK_EQ(guest_count(&m, 3), 77);
	}
}

/* One interrupt for each time that INT counters carry, whoever finds that out, and even if INT is gone
 * by then; none for the machine's own carries. */
TEST(switched_interrupts)
{
	const u64 with_int = INSTRUCTIONS | 1 << 20;

	for (unsigned int setting = 0; setting < 4; setting++) {
		struct machine m;

		machine_init(&m, SVME0_STOP, setting);
		for (unsigned int idx = 0; idx < 3; idx++)
			set_evtsel(&m, idx, idx == 2 ? INSTRUCTIONS : with_int);
		for (unsigned int idx = 0; idx < 3; idx++)
			set_ctr(&m, idx, NAIVE_COUNTER - 9);
		commit(&m);
		CHECK(m.backend.interrupting);
		for (unsigned int i = 0; i < 3; i++) {
			vmrun(&m);
			machine_events(&m, 0, (struct events){i == 1 ? 1 : 9, 0, 0, 0});
			vmexit(&m);
			CHECK_EQ(pmu_switched_interrupts(&m.backend), i == 1);
			CHECK(!pmu_switched_interrupts(&m.backend));
		}
		/* by an emulated instruction, found by the guest's own read */
		set_ctr(&m, 0, NAIVE_COUNTER);
		retire(&m);
		CHECK_EQ(guest_count(&m, 0), 0);
		CHECK(pmu_switched_interrupts(&m.backend));
		/* found when the selector changes */
		set_ctr(&m, 0, NAIVE_COUNTER);
		retire(&m);
		set_evtsel(&m, 0, INSTRUCTIONS);
		set_evtsel(&m, 1, INSTRUCTIONS);
		commit(&m);
		CHECK(m.backend.interrupting);
		CHECK(pmu_switched_interrupts(&m.backend));
		CHECK(!m.backend.interrupting);
		set_ctr(&m, 0, NAIVE_COUNTER);
		retire(&m);
		CHECK_EQ(guest_count(&m, 0), 0);
		CHECK(!m.backend.interrupting);
	}
}

/* Where L0's part varies, the least of it is taken off; even so a count does not go below 0. */
TEST(switched_too_much_taken_off)
{
	struct machine m;
	u64 status = ~0ull;

	machine_init(&m, SVME0_STOP, 1);
	set_evtsel(&m, 0, INSTRUCTIONS);
	set_ctr(&m, 0, 3);
	commit(&m);
	vmrun(&m);
	vmexit(&m);
	m.ctr[0] -= 5;
	CHECK_EQ(guest_count(&m, 0), 0);
	m.ctr[0] += 9;
	CHECK_EQ(guest_count(&m, 0), 3 - 5 + 9);
	vmrun(&m);
	vmexit(&m);
	m.ctr[0] -= 12;
	CHECK_EQ(guest_count(&m, 0), 0);
	set_ctr(&m, 0, 60); /* nothing is owed to a new value */
	CHECK_EQ(guest_count(&m, 0), 60);
	CHECK_EQ(pmu_rdmsr(&m.pmu, NAIVE_STATUS, &status), 0);
	CHECK_EQ(status, 0);
}

static void check_counts(struct machine *m)
{
	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++) {
		u64 value = guest_count(m, idx);

		if (is_exact(m->naive.hw[idx]))
			CHECK_EQ(value, m->naive.count[idx]);
		m->naive.count[idx] = value;
	}
}

static void random_exit(struct machine *m)
{
	unsigned int idx = (unsigned int)test_below(PMU_COUNTERS);
	bool in_l2 = m->naive.in_l2;

	vmexit(m);
	switch (test_below(12)) {
	case 0: /* NPF or INTR, handled by L0 */
		break;
	case 1: /* an emulated instruction, in L1 or L2 */
	case 2:
	case 3:
		retire(m);
		break;
	case 4: /* an exit from L2 that is L1's */
		if (in_l2) {
			m->cpl[0] = 0;
			transition(m, false);
		}
		break;
	case 5: /* VMRUN by L1; every so often L1 gets an interrupt at once */
	case 6:
		if (!in_l2 && m->naive.svme) {
			m->cpl[0] = 0;
			m->cpl[1] = (unsigned int)test_below(4);
			transition(m, true);
			retire(m);
			if (test_below(4) == 0)
				transition(m, false);
		}
		break;
	case 7: /* WRMSR EFER */
		if (!in_l2) {
			*cpl_now(m) = 0;
			naive_toggle(&m->naive, &m->pmu, test_below(3));
			commit(m);
			retire(m);
		}
		break;
	case 8: /* another selector: from here on the count is compared again */
		*cpl_now(m) = 0;
		check_counts(m);
		set_evtsel(m, idx, naive_random_eventsel());
		retire(m);
		commit(m);
		break;
	case 9:
		*cpl_now(m) = 0;
		set_ctr(m, idx, naive_random_count());
		retire(m);
		break;
	case 10:
		*cpl_now(m) = 0;
		naive_random_global(&m->naive, &m->pmu);
		retire(m);
		commit(m);
		break;
	default: /* RDPMC */
		check_counts(m);
		retire(m);
	}
	vmrun(m);
}

TEST(switched_random_exits)
{
	for (unsigned int seed = 0; seed < 32; seed++) {
		struct machine m;

		test_seed(seed);
		machine_init(&m, seed & 8 ? SVME0_COUNT : SVME0_STOP, seed & 3);
		vmrun(&m);
		for (unsigned int i = 0; i < 10000; i++) {
			if (test_below(4) == 0)
				*cpl_now(&m) = (unsigned int)test_below(4);
			guest_runs(&m);
			random_exit(&m);
		}
	}
}

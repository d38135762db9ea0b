/* SPDX-License-Identifier: MIT */
#include "hv/trace.h"
#include "hv/cpu.h"
#include "hv/vcpu.h"

static_assert((u32)PMU_MODE_SVME0 == TALLY_LEVEL_SVME0 && (u32)PMU_MODE_L1 == TALLY_LEVEL_L1 &&
		      (u32)PMU_MODE_L2 == TALLY_LEVEL_L2,
	      "the ABI's levels are the model's modes");

static u64 now(const struct vcpu *v)
{
	return v->backend == TALLY_BACKEND_CLOCK ? v->clock.now : cpu_rdtsc();
}

static void put_at(struct vcpu *v, u64 time, enum tally_trace_kind kind, unsigned int counter,
		   u64 value)
{
	const struct tally_trace_record record = {
		.time = time,
		.tsc = cpu_rdtsc(),
		.value = value,
		.kind = (u8)kind,
		.level = (u8)v->pmu.mode,
		.counter = (u8)counter,
		.counters = (u32)vcpu_counting(v),
	};

	trace_ring_put(&v->trace.ring, &record);
}

static void put(struct vcpu *v, enum tally_trace_kind kind, unsigned int counter, u64 value)
{
	put_at(v, now(v), kind, counter, value);
}

/* ---- the machine's PMU: forwarded, then recorded ---- */

static struct trace *to_trace(struct pmu_hw *hw)
{
	static_assert(offsetof(struct trace, hw) == 0, "cast");
	return (struct trace *)hw;
}

static void trace_write_evtsel(struct pmu_hw *hw, unsigned int idx, u64 eventsel_hw)
{
	struct trace *t = to_trace(hw);

	t->machine->write_evtsel(t->machine, idx, eventsel_hw);
	put(t->v, TALLY_TRACE_EVENTSEL_HW, idx, eventsel_hw);
}

static void trace_write_enables(struct pmu_hw *hw, u64 run, u64 changed)
{
	struct trace *t = to_trace(hw);

	t->machine->write_enables(t->machine, run, changed);
	put(t->v, TALLY_TRACE_ENABLES, 0, (run & changed) | (~run & changed) << 32);
}

static u64 trace_read_ctr(struct pmu_hw *hw, unsigned int idx)
{
	struct trace *t = to_trace(hw);

	return t->machine->read_ctr(t->machine, idx);
}

static void trace_write_ctr(struct pmu_hw *hw, unsigned int idx, u64 value)
{
	struct trace *t = to_trace(hw);

	t->machine->write_ctr(t->machine, idx, value);
	put(t->v, TALLY_TRACE_COUNTER, idx, value);
}

static const char *trace_unsupported(struct pmu_hw *hw, u64 eventsel)
{
	struct trace *t = to_trace(hw);

	return t->machine->unsupported(t->machine, eventsel);
}

/* Those that are not recorded yet. */
static void put_overflows(struct vcpu *v, u64 overflows)
{
	u64 new = overflows & ~v->trace.overflows;

	v->trace.overflows |= overflows;
	if (new)
		put(v, TALLY_TRACE_OVERFLOW, 0, new);
}

static u64 trace_take_overflows(struct pmu_hw *hw)
{
	struct trace *t = to_trace(hw);
	u64 overflows = t->machine->take_overflows(t->machine);

	put_overflows(t->v, overflows);
	t->overflows = 0;
	return overflows;
}

static_assert(offsetof(struct pmu_hw, overflows) == 6 * sizeof(void *) &&
		      sizeof(struct pmu_hw) == 8 * sizeof(void *),
	      "all of pmu_hw is forwarded");

/* ---- on and off ---- */

static void put_counters(struct vcpu *v)
{
	for (unsigned int i = 0; i < pmu_counters(&v->pmu); i++) {
		u64 value;

		pmu_rdpmc(&v->pmu, i, &value);
		put(v, TALLY_TRACE_COUNTER, i, value);
	}
}

static u64 exact_ticks(const struct vcpu *v)
{
	return v->backend == TALLY_BACKEND_CLOCK && v->clock.exact ? v->clock.insn_ticks : 0;
}

static void trace_start(struct vcpu *v)
{
	struct trace *t = &v->trace;

	t->ring = (struct trace_ring){t->records, TRACE_RECORDS, 0};
	t->v = v;
	t->overflows = 0;
	t->machine = v->pmu.hw;
	t->hw = (struct pmu_hw){
		.write_evtsel = trace_write_evtsel,
		.write_enables = trace_write_enables,
		.read_ctr = trace_read_ctr,
		.write_ctr = trace_write_ctr,
		.unsupported = trace_unsupported,
		.take_overflows = trace_take_overflows,
		.ignores_cpl = t->machine->ignores_cpl,
	};
	v->pmu.hw = &t->hw;
	v->guest_only.detour |= PMU_GUEST_ONLY_DETOUR;
	/* or time would stand still while no counter runs */
	v->clock.counting |= PMU_CLOCK_TIME;
	put(v, TALLY_TRACE_START, 0, exact_ticks(v));
	for (unsigned int i = 0; i < pmu_counters(&v->pmu); i++)
		put(v, TALLY_TRACE_EVENTSEL, i, v->pmu.eventsel[i]);
	put_counters(v);
}

static void trace_stop(struct vcpu *v)
{
	put_counters(v);
	put(v, TALLY_TRACE_STOP, 0, exact_ticks(v));
	v->clock.counting &= ~PMU_CLOCK_TIME;
	v->pmu.hw = v->trace.machine;
	if (v->backend == TALLY_BACKEND_GUEST_ONLY)
		v->guest_only.detour &= ~PMU_GUEST_ONLY_DETOUR;
}

s64 trace_watch(struct vcpu *v, u64 what)
{
	u32 was = v->watching;
	u64 changed = what ^ was;

	if (what & ~(u64)(TALLY_WATCH_TRACE | TALLY_WATCH_COST))
		return -E_INVAL;
	if (changed & what & TALLY_WATCH_COST)
		__builtin_memset(v->exit_costs, 0, sizeof(v->exit_costs));
	if (changed & TALLY_WATCH_TRACE) {
		if (what & TALLY_WATCH_TRACE)
			trace_start(v);
		else
			trace_stop(v);
	}
	v->watching = (u32)what;
	v->special_exit = what ? exit_watched : exit_special;
	if (what)
		vcpu_set_special(v, SPECIAL_WATCH);
	else
		vcpu_clr_special(v, SPECIAL_WATCH);
	if (v->special)
		v->on_exit = v->special_exit;
	return was;
}

/* ---- the exits ---- */

/* What an exit may change. */
struct state {
	u64 time;
	enum pmu_mode mode;
	u64 eventsel[PMU_COUNTERS];
};

static void remember(const struct vcpu *v, struct state *s)
{
	s->time = v->special & SPECIAL_HALT ? halt_time(v) : now(v);
	s->mode = v->pmu.mode;
	__builtin_memcpy(s->eventsel, v->pmu.eventsel, sizeof(s->eventsel));
}

static void put_changes(struct vcpu *v, const struct state *was, u64 code)
{
	/* a level begins with the instruction that changes it: a VMRUN retires in L2, WRMSR EFER in the new state */
	/* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): remembered, if the trace was on then */
	if (v->pmu.mode != was->mode)
		put_at(v, was->time, TALLY_TRACE_LEVEL, 0, code);
	put_overflows(v, v->trace.machine->overflows);
	for (unsigned int i = 0; i < PMU_COUNTERS; i++)
		if (v->pmu.eventsel[i] != was->eventsel[i])
			put(v, TALLY_TRACE_EVENTSEL, i, v->pmu.eventsel[i]);
}

void vcpu_exit_watched(struct vcpu *v)
{
	u64 begin = cpu_rdtsc(), code = v->vmcb->control.exit_code;
	u32 watching = v->watching;
	struct exit_cost *cost = &v->exit_costs[exit_slot(code)];
	struct state was;
	u64 ticks;

	if (watching & TALLY_WATCH_TRACE)
		remember(v, &was);
	vcpu_exit_special(v);
	if (watching & v->watching & TALLY_WATCH_TRACE)
		put_changes(v, &was, code);
	if (watching & v->watching & TALLY_WATCH_COST) {
		ticks = cpu_rdtsc() - begin;
		cost->timed++;
		cost->ticks += ticks;
		if (ticks > cost->ticks_max)
			cost->ticks_max = ticks;
	}
	if (unlikely(v->was_reset))
		vcpu_enter(v);
}

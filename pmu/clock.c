/* SPDX-License-Identifier: MIT */
#include "pmu/clock.h"

static struct pmu_clock *to_clock(struct pmu_hw *hw)
{
	static_assert(offsetof(struct pmu_clock, hw) == 0, "cast");
	return (struct pmu_clock *)hw;
}

enum what {
	NOTHING,
	INSTRUCTIONS,
	TICKS,
	UNKNOWN,
};

/* A clock is a CPU whose cycles are ticks, and in none of them more than one instruction retires. */
static enum what what_counts(u64 eventsel)
{
	bool instructions = EVTSEL_EVENT(eventsel) == EVENT_RETIRED_INSTRUCTIONS;
	u64 cmask = (eventsel & EVTSEL_CMASK) >> EVTSEL_CMASK_SHIFT;

	if (!(eventsel & (EVTSEL_USR | EVTSEL_OS)))
		return NOTHING; /* on silicon, too (table 13-6) */
	if ((!instructions && EVTSEL_EVENT(eventsel) != EVENT_CYCLES_NOT_HALTED) ||
	    (eventsel & (EVTSEL_UMASK | EVTSEL_EDGE)))
		return UNKNOWN;
	/* the number of events in each cycle is compared with CMASK (table 13-5): it is 0 or 1, of the cycles always 1 */
	if (likely(!cmask) || (cmask == 1 && !(eventsel & EVTSEL_INV)))
		return instructions ? INSTRUCTIONS : TICKS;
	if (!(eventsel & EVTSEL_INV))
		return NOTHING;
	if (cmask > 1)
		return TICKS;
	return instructions ? UNKNOWN : NOTHING;
}

static const char *clock_unsupported(struct pmu_hw *hw, u64 eventsel)
{
	u32 event = EVTSEL_EVENT(eventsel);

	(void)hw;
	if (what_counts(eventsel) != UNKNOWN)
		return NULL;
	if (event != EVENT_RETIRED_INSTRUCTIONS && event != EVENT_CYCLES_NOT_HALTED)
		return "a clock has only retired instructions (0C0h) and cycles not halted (076h)";
	if (eventsel & EVTSEL_UMASK)
		return "the event has no unit mask";
	if (eventsel & EVTSEL_EDGE)
		return "EDGE needs single cycles, which a clock does not show";
	return "cycles without a retired instruction are not known to a clock";
}

static unsigned int unit_shift(const struct pmu_clock *clock, unsigned int idx)
{
	return (clock->instructions & BIT(idx)) ? clock->shift : 0;
}

/* What is added to a counter's own ticks to get its count. */
static u64 shared_ticks(const struct pmu_clock *clock, unsigned int idx)
{
	u64 ticks = (clock->counting & BIT(idx)) ? clock->now : 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(clock->group); i++)
		if (clock->group[i].counters & BIT(idx))
			ticks += clock->group[i].ticks;
	return ticks;
}

static u64 clock_read_ctr(struct pmu_hw *hw, unsigned int idx)
{
	struct pmu_clock *clock = to_clock(hw);
	u64 ticks = clock->ticks[idx] + shared_ticks(clock, idx);

	return ticks >> unit_shift(clock, idx);
}

/* Counts are kept in 64 bits, so a carry is seen whenever somebody asks: when the guest does, and
 * before a new value covers it. */
static void take_carry(struct pmu_clock *clock, unsigned int idx)
{
	u64 carry = clock_read_ctr(&clock->hw, idx) & ~PMU_COUNTER_MASK;

	if (!carry)
		return;
	clock->hw.overflows |= BIT(idx);
	clock->interrupt |= clock->interrupting >> idx & 1;
	clock->ticks[idx] -= carry << unit_shift(clock, idx);
}

/* Each count is some ticks and `now`: so the carry is that many ticks from now. */
static NOINLINE void set_deadline(struct pmu_clock *clock)
{
	clock->deadline = clock->interrupt ? 0 : PMU_CLOCK_NEVER;
	for (u64 left = clock->interrupting & clock->counting; left; left &= left - 1) {
		unsigned int idx = (unsigned int)__builtin_ctzll(left);
		u64 ticks = clock->ticks[idx] + shared_ticks(clock, idx);
		u64 carry = 1ull << (PMU_COUNTER_BITS + unit_shift(clock, idx));
		u64 at = clock->now + (ticks < carry ? carry - ticks : 0);

		if (at < clock->deadline)
			clock->deadline = at;
	}
}

bool pmu_clock_interrupts(struct pmu_clock *clock)
{
	bool due;

	for (u64 left = clock->interrupting; left; left &= left - 1)
		take_carry(clock, (unsigned int)__builtin_ctzll(left));
	due = clock->interrupt;
	clock->interrupt = false;
	set_deadline(clock);
	return due;
}

static void clock_write_ctr(struct pmu_hw *hw, unsigned int idx, u64 value)
{
	struct pmu_clock *clock = to_clock(hw);

	take_carry(clock, idx);
	clock->ticks[idx] = (value << unit_shift(clock, idx)) - shared_ticks(clock, idx);
	if (clock->interrupting & BIT(idx))
		set_deadline(clock);
}

static ALWAYS_INLINE void start_stop(struct pmu_clock *clock, struct pmu_clock_group *start,
				     struct pmu_clock_group *stop)
{
	start->ticks -= clock->now;
	stop->ticks += clock->now;
}

/* A selector write, most likely. The counter may stay in a group: that moves only as a whole. */
static ALWAYS_INLINE void start_stop_one(struct pmu_clock *clock, u64 start, u64 stop)
{
	if (start)
		clock->ticks[__builtin_ctzll(start)] -= clock->now;
	else if (stop)
		clock->ticks[__builtin_ctzll(stop)] += clock->now;
}

static NOINLINE void start_stop_new(struct pmu_clock *clock, u64 start, u64 stop)
{
	const u64 counters[] = {start, stop};

	for (unsigned int i = 0; i < ARRAY_SIZE(clock->group); i++) {
		struct pmu_clock_group *group = &clock->group[i];

		for (u64 left = group->counters; left; left &= left - 1)
			clock->ticks[__builtin_ctzll(left)] += group->ticks;
		group->counters = counters[i];
		group->ticks = 0;
	}
	start_stop(clock, &clock->group[0], &clock->group[1]);
}

static ALWAYS_INLINE void write_enables(struct pmu_clock *clock, u64 start, u64 stop)
{
	struct pmu_clock_group *group = clock->group;

	start &= clock->countable;
	stop &= clock->countable;
	clock->counting ^= start | stop;

	if (group[0].counters == start && group[1].counters == stop)
		start_stop(clock, &group[0], &group[1]);
	else if (group[1].counters == start && group[0].counters == stop)
		start_stop(clock, &group[1], &group[0]);
	else if (!((start | stop) & ((start | stop) - 1)))
		start_stop_one(clock, start, stop);
	else
		start_stop_new(clock, start, stop);
}

static void clock_write_enables(struct pmu_hw *hw, u64 run, u64 changed)
{
	write_enables(to_clock(hw), run & changed, ~run & changed);
}

/* While a selector has INT. */
static void clock_write_enables_deadline(struct pmu_hw *hw, u64 run, u64 changed)
{
	clock_write_enables(hw, run, changed);
	set_deadline(to_clock(hw));
}

static void clock_write_evtsel(struct pmu_hw *hw, unsigned int idx, u64 eventsel)
{
	struct pmu_clock *clock = to_clock(hw);
	u64 bit = BIT(idx), ticks = clock->ticks[idx] + shared_ticks(clock, idx);
	unsigned int old_shift = unit_shift(clock, idx), shift;
	enum what what = what_counts(eventsel);

	/* The counter alone stops, leaves its group, and starts with what it now counts. */
	clock->counting &= ~bit;
	for (unsigned int i = 0; i < ARRAY_SIZE(clock->group); i++)
		clock->group[i].counters &= ~bit;

	clock->instructions &= ~bit;
	if (EVTSEL_EVENT(eventsel) == EVENT_RETIRED_INSTRUCTIONS && what != TICKS)
		clock->instructions |= bit;
	shift = unit_shift(clock, idx);
	if (shift != old_shift)
		ticks = (ticks >> old_shift) << shift;

	clock->countable &= ~bit;
	if (what == INSTRUCTIONS || what == TICKS)
		clock->countable |= bit;
	if ((eventsel & EVTSEL_EN) && (clock->countable & bit)) {
		clock->counting |= bit;
		ticks -= clock->now;
	}
	clock->ticks[idx] = ticks;

	if ((eventsel & EVTSEL_INT) || (clock->interrupting & bit)) {
		clock->interrupting &= ~bit;
		if (eventsel & EVTSEL_INT)
			clock->interrupting |= bit;
		clock->hw.write_enables =
			clock->interrupting ? clock_write_enables_deadline : clock_write_enables;
		set_deadline(clock);
	}
}

static u64 clock_take_overflows(struct pmu_hw *hw)
{
	struct pmu_clock *clock = to_clock(hw);
	u64 overflows;

	for (unsigned int idx = 0; idx < PMU_COUNTERS; idx++)
		take_carry(clock, idx);
	overflows = clock->hw.overflows;
	clock->hw.overflows = 0;
	return overflows;
}

int pmu_clock_init(struct pmu_clock *clock, bool exact, unsigned int shift)
{
	if (shift > PMU_CLOCK_MAX_SHIFT)
		return -E_RANGE;
	*clock = (struct pmu_clock){
		.hw =
			{
				.write_evtsel = clock_write_evtsel,
				.write_enables = clock_write_enables,
				.read_ctr = clock_read_ctr,
				.write_ctr = clock_write_ctr,
				.unsupported = clock_unsupported,
				.take_overflows = clock_take_overflows,
				.ignores_cpl = true,
			},
		.deadline = PMU_CLOCK_NEVER,
		.exact = exact,
		.shift = shift,
		.insn_ticks = BIT(shift),
	};
	return 0;
}

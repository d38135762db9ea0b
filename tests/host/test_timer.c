/* SPDX-License-Identifier: MIT */
/* The APIC timer's arithmetic, against a timer that counts one unit after the other. */
#include "hv/core/timer.h"
#include "test.h"

/* APM2 table 16-2: divide configuration, and what it divides by. */
static const struct {
	u32 divide, by;
} dividers[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};

TEST(timer_divides_as_the_manual_says)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(dividers); i++)
		CHECK_EQ(1u << timer_shift(dividers[i].divide), dividers[i].by);
}

/* A count of n interrupts after n + 1 units; while it shows c, that is c units off, or up to one more. */
TEST(timer_due_is_not_before_the_interrupt)
{
	for (unsigned int i = 0; i < 10000; i++) {
		unsigned int d = (unsigned int)test_below(ARRAY_SIZE(dividers));
		u64 by = dividers[d].by, load = test_below(1ull << 40), n = 1 + test_below(1000),
		    at = load + test_below(n * by), fires = load + (n + 1) * by;
		u32 current = (u32)(n - (at - load) / by);
		u64 due = timer_due(at, current, dividers[d].divide);

		CHECK(due >= fires && due < fires + by);
	}
	CHECK_EQ(timer_due(1000, 0, 11), 0);
}

TEST(timer_count_is_the_least_that_is_not_early)
{
	for (unsigned int i = 0; i < 10000; i++) {
		unsigned int d = (unsigned int)test_below(ARRAY_SIZE(dividers));
		u64 by = dividers[d].by, now = test_below(1ull << 40),
		    due = now + test_below(1ull << test_below(44));
		u64 count = timer_count(now, due, dividers[d].divide),
		    fires = now + (count + 1) * by;

		CHECK(count >= 1);
		CHECK(count <= TIMER_COUNT_MAX);
		CHECK(fires >= due || count == TIMER_COUNT_MAX);
		CHECK(fires < due + by || count == 1);
	}
	CHECK_EQ(timer_count(1000, 10, 11), 1);
}

TEST(timer_limit_is_what_is_left_of_both)
{
	CHECK_EQ(timer_limit(1000, 0, 1023), TIMER_COUNT_MAX - 1023);
	CHECK_EQ(timer_limit(1000, 1ull << 50, 1023), TIMER_COUNT_MAX - 1023);
	CHECK_EQ(timer_limit(1000, 1000 + 1023 + 64, 1023), 64);
	CHECK_EQ(timer_limit(1000, 1000 + 1023, 1023), 0);
	CHECK_EQ(timer_limit(1000, 999, 1023), 0);
}

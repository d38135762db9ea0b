/* SPDX-License-Identifier: MIT */
/* A chain of events, each raised while the one before was being delivered, against table 8-4. */
#include "hv/core/event.h"
#include "tests/host/event_naive.h"
#include "fuzz.h"

/* Exceptions for the most part; any 64 bits now and then. */
static u64 random_event(void)
{
	u64 event = test_random();

	if (test_below(8) == 0)
		return event;
	event = (event & ~0x7ffull) | EVENT_V | test_below(32);
	return event | (test_below(8) ? EVENT_TYPE_EXCEPTION : (u64)test_below(8) << 8);
}

void fuzz_one(void)
{
	u64 event = test_below(4) ? random_event() : 0;

	for (u64 n = test_below(8); n; n--) {
		u64 second = random_event(), next = event_combine(event, second);

		CHECK_EQ(next, naive_combine(event, second));
		/* what comes out is an event that can be injected, or shutdown, which ends it */
		if (!next)
			return;
		event = next;
	}
}

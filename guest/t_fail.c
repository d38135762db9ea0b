/* SPDX-License-Identifier: MIT */
/* Fails by design: the runner must say FAIL. */
#include "guest/lib/tap.h"

static void pass(const void *arg)
{
	(void)arg;
	CHECK_EQ(1 + 1, 2);
}

static void fail(const void *arg)
{
	(void)arg;
	CHECK_EQ(1 + 1, 3);
}

void guest_main(void)
{
	tap_plan(2);
	tap_run("one and one is two", pass, NULL);
	tap_run("one and one is three (fails by design)", fail, NULL);
}

/* SPDX-License-Identifier: MIT */
/* Crashes by design, with every test so far passed: the runner must say CRASH. */
#include "guest/lib/tap.h"

static void pass(const void *arg)
{
	(void)arg;
}

static void crash(const void *arg)
{
	(void)arg;
	asm volatile("ud2");
}

void guest_main(void)
{
	tap_plan(2);
	tap_run("nothing", pass, NULL);
	tap_run("an exception that nobody expects (crashes by design)", crash, NULL);
}

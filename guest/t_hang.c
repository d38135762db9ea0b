/* SPDX-License-Identifier: MIT */
/* Hangs by design, with every test so far passed: the runner must say HANG. */
#include "guest/lib/tap.h"

static void pass(const void *arg)
{
	(void)arg;
}

static void hang(const void *arg)
{
	(void)arg;
	for (;;)
		asm volatile("pause");
}

void guest_main(void)
{
	tap_plan(2);
	tap_run("nothing", pass, NULL);
	tap_run("an endless loop (hangs by design)", hang, NULL);
}

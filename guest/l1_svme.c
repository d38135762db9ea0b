/* SPDX-License-Identifier: MIT */
/*
 * L2 clears its EFER.SVME, which the manual leaves undefined (APM2 §3.1.7): the machine is shut
 * down, and this guest ends in the middle of its test.
 */
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"

L2_CODE(l2_clear_svme, "mov $0xc0000080, %ecx\n\trdmsr\n\tbtr $12, %eax\n\twrmsr");

static void check_svme(const void *arg)
{
	(void)arg;
	if (!platform.under_us) {
		tap_skip("undefined, but for our hypervisor");
		return;
	}
	CHECK_EQ(l2_run_from(l2_clear_svme), 0); /* nothing comes back */
}

void guest_main(void)
{
	tap_plan(1);
	if (svm_start())
		tap_run("L2 clears its SVME", check_svme, NULL);
}

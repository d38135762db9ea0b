/* SPDX-License-Identifier: MIT */
/*
 * L2 shuts down and L1 does not intercept it: that is the shutdown of L1's machine, and this guest
 * ends in the middle of its test. APM2 §15.14.3.
 */
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"

L2_CODE(l2_ud, "ud2");

static void check_shutdown(const void *arg)
{
	u64 code;

	(void)arg;
	l2_reset(l2_ud);
	vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT(SHUTDOWN));
	l2.vmcb.save.idtr.limit = 0;
	code = l2_run();
	if (code == VMEXIT_SHUTDOWN && departs(DEPARTURE_SHUTDOWN_EXITS))
		tap_skip("QEMU TCG departs");
	else
		CHECK_EQ(code, 0); /* nothing comes back */
}

void guest_main(void)
{
	tap_plan(1);
	if (svm_start())
		tap_run("L2's shutdown is the machine's", check_shutdown, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * For tests/qemu/outside: no test of its own. Every CPU exits without end, by CPUID and from an L2, and counts its rounds;
 * COM1 says where the hypervisor and the counts are.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"

const bool guest_wants_cpus = true;

static struct tally_status status ALIGNED(512);
static volatile u64 rounds[MP_CPUS];

L2_CODE(l2_cpuid, "cpuid");

static void exit_for_ever(void *arg)
{
	(void)arg;
	smp_l2_enable();
	for (;;) {
		cpuid(0);
		smp_l2()->vmcb.save.rip = (u64)l2_cpuid;
		smp_l2_run();
		rounds[smp_this()]++;
	}
}

void guest_main(void)
{
	tap_plan(1);
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return;
	}
	if (!smp_begin(false) || !smp_start_all())
		return;
	if (hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0)) {
		tap_skip_all("no status");
		return;
	}
	l2_reset(l2_cpuid);
	smp_l2_prepare();
	note("ready: region=%lx+%lx rounds=%lx", status.region_gpa, status.region_bytes,
	     (u64)rounds);
	smp_run_all(exit_for_ever, NULL);
}

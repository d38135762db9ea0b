/* SPDX-License-Identifier: MIT */
/*
 * What each boot of `make soak` does: starts all CPUs by INIT and SIPI, has the hypervisor answer and an L2 run on each of
 * them at once, interrupts each by its neighbour, and puts them back into INIT.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "x86/apic.h"

#define ROUNDS 200u
#define VECTOR 0x50u

const bool guest_wants_cpus = true;

/* None crosses a page. */
static struct answer {
	struct tally_status status;
} ALIGNED(1024) answers[MP_CPUS];

static u32 right[MP_CPUS];

L2_CODE(l2_cpuid, "mov %rbx, %rdx\n\tcpuid");

static void work(void *arg)
{
	u32 me = smp_this();
	struct smp_l2 *mine = smp_l2();

	(void)arg;
	smp_l2_enable();
	smp_meet();
	for (u32 n = 0; n < ROUNDS; n++) {
		struct tally_status *status = &answers[me].status;

		status->version = 0;
		right[me] += !hypercall(TALLY_CALL_STATUS, (u64)status, sizeof(*status), 0) &&
			     status->version == TALLY_ABI_VERSION;
		mine->vmcb.save.rip = (u64)l2_cpuid;
		right[me] += smp_l2_run() == VMEXIT_CPUID && mine->regs.rdx == me;
	}
}

static void check_start(const void *arg)
{
	(void)arg;
	CHECK(smp_start_all());
}

static void check_work(const void *arg)
{
	(void)arg;
	l2_reset(l2_cpuid);
	l2_intercept(INTERCEPT(CPUID));
	smp_l2_prepare();
	smp_run_all(work, NULL);
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(right[i], 2ull * ROUNDS);
}

/* Each interrupts the next one, which waits for it. */
static void interrupt(void *arg)
{
	u32 me = smp_this();

	(void)arg;
	smp_send((me + 1) % smp_cpus(), VECTOR);
	sti();
	smp_reaches(&smp_at(me)->interrupts, 1, "an interrupt");
}

static void check_interrupts(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	smp_run_all(interrupt, NULL);
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->interrupts, 1);
	smp_count_end(VECTOR);
}

void guest_main(void)
{
	tap_plan(3);
	if (!platform.under_us) {
		tap_skip_all("there is no hypervisor");
		return;
	}
	if (!svm_start())
		return;
	if (!smp_init()) {
		tap_skip_all("the firmware does not tell of the CPUs");
		return;
	}
	note("cpus: %u", smp_cpus());
	tap_run("all CPUs start", check_start, NULL);
	tap_run("all at once ask the hypervisor and run an L2", check_work, NULL);
	tap_run("each takes its neighbour's interrupt", check_interrupts, NULL);
	smp_end();
}

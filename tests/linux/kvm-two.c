/* SPDX-License-Identifier: MIT */
/* Two virtual machines with two CPUs each, all four at once, each on a CPU of its own as far as there are so many. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kvm-machine.h"

#define MACHINES 2u
#define VCPUS 2u
#define LIMIT 300.0 /* seconds */

extern const u8 guest_two[], guest_two_ipi[];

static struct worker {
	struct machine m;
	u32 number;
	pthread_t thread;
	double begin, end;
} workers[MACHINES * VCPUS];

static pthread_barrier_t all;

/* What each CPU's guest does is checked on the way, and how often. */
static void run_guest(struct worker *w)
{
	for (u32 round = TWO_REPORT; round <= TWO_ROUNDS; round += TWO_REPORT) {
		u32 data;

		if (!run_out(&w->m, PORT_DATA) || !CHECK_EQ("bytes", w->m.run->io.size, 4))
			return;
		memcpy(&data, io_data(&w->m), sizeof(data));
		if (!CHECK(data == round * 0x22222222u + round,
			   "CPU %u is at %#x after %u rounds, expected %#x", w->number, data, round,
			   round * 0x22222222u + round))
			return;
	}
	run_out(&w->m, PORT_DONE);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(w->number % (u32)sysconf(_SC_NPROCESSORS_ONLN), &set);
	CHECK(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity: %s", strerror(errno));
	pthread_barrier_wait(&all);
	w->begin = now();
	run_guest(w);
	w->end = now();
	return NULL;
}

/* When one has failed or the time is up the others are woken: a signal ends KVM_RUN. */
static void join(struct worker *w, double limit)
{
	struct timespec second;

	for (;;) {
		clock_gettime(CLOCK_REALTIME, &second);
		second.tv_sec++;
		if (pthread_timedjoin_np(w->thread, NULL, &second) != ETIMEDOUT)
			return;
		if (test_has_failed() || now() > limit)
			for (u32 i = (u32)(w - workers); i < MACHINES * VCPUS; i++)
				pthread_kill(workers[i].thread, SIGALRM);
	}
}

static bool open_all(void)
{
	for (u32 i = 0; i < MACHINES * VCPUS; i++)
		workers[i] = (struct worker){.m = NO_MACHINE, .number = i};
	for (u32 i = 0; i < MACHINES * VCPUS; i++) {
		struct worker *w = &workers[i];

		if (i % VCPUS ? !machine_add_vcpu(&w->m, &w[-1].m, guest_two)
			      : !machine_open(&w->m, guest_two, true))
			return false;
		set_gate(&w->m, VECTOR_IPI, guest_two_ipi);
	}
	return true;
}

/* An interrupt may find the one before it still requested, and be one with it; and on TCG one comes twice now and then. */
static void check_machine(u32 number)
{
	struct machine *m = &workers[number * VCPUS].m;

	for (u32 i = 0; i < VCPUS; i++) {
		u64 taken = read64(m, TWO_TAKEN + i * 8);

		printf("# machine %u, CPU %u: %lu interrupts in %u rounds\n", number, i, taken,
		       TWO_ROUNDS);
		CHECK(taken > TWO_ROUNDS / 2 && taken < TWO_ROUNDS * 2, "%lu interrupts", taken);
		CHECK_EQ("rounds", read64(m, TWO_ROUND + i * 8), TWO_ROUNDS);
	}
	CHECK_EQ("what both added to one word", read64(m, TWO_SUM), VCPUS * TWO_ROUNDS);
	check_traps(m, NULL, 0);
}

/* Where a CPU was when the time was up. */
static void tell(const struct worker *w)
{
	struct kvm_regs r = {0};
	struct kvm_mp_state state = {0};
	struct kvm_lapic_state apic = {0};
	u32 word = VECTOR_IPI / 32 * 0x10, irr, isr;

	ioctl(w->m.vcpu, KVM_GET_REGS, &r);
	ioctl(w->m.vcpu, KVM_GET_MP_STATE, &state);
	ioctl(w->m.vcpu, KVM_GET_LAPIC, &apic);
	memcpy(&irr, &apic.regs[0x200 + word], sizeof(irr));
	memcpy(&isr, &apic.regs[0x100 + word], sizeof(isr));
	printf("#   CPU %u: RIP guest_two+%#llx, RFLAGS %#llx, round %llu, %s, IRR %u, ISR %u\n",
	       w->number, (unsigned long long)(r.rip - address(guest_two)),
	       (unsigned long long)r.rflags, (unsigned long long)r.rdi,
	       state.mp_state == KVM_MP_STATE_HALTED ? "halted" : "running",
	       irr >> VECTOR_IPI % 32 & 1, isr >> VECTOR_IPI % 32 & 1);
}

static void test_two(struct machine *unused)
{
	double limit = now() + LIMIT, last_begin = 0, first_end = limit + LIMIT;

	(void)unused;
	if (open_all()) {
		pthread_barrier_init(&all, NULL, MACHINES * VCPUS);
		for (u32 i = 0; i < MACHINES * VCPUS; i++)
			if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
				printf("Bail out! pthread_create\n");
				_exit(1); /* those that are there wait for the rest */
			}
		for (u32 i = 0; i < MACHINES * VCPUS; i++) {
			join(&workers[i], limit);
			if (workers[i].begin > last_begin)
				last_begin = workers[i].begin;
			if (workers[i].end < first_end)
				first_end = workers[i].end;
		}
		CHECK(last_begin < first_end, "they did not run at the same time");
		for (u32 i = 0; i < MACHINES; i++)
			check_machine(i);
		for (u32 i = 0; i < MACHINES * VCPUS && test_has_failed(); i++)
			tell(&workers[i]);
	}
	for (u32 i = MACHINES * VCPUS; i-- > 0;)
		machine_close(&workers[i].m);
}

const struct test two_tests[] = {
	{"two machines of two CPUs each at once: IPIs, HLT, CPUID, shared memory", test_two},
};
const u32 two_tests_count = 1;

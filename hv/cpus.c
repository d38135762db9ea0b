/* SPDX-License-Identifier: MIT */
#include "hv/cpus.h"
#include "hv/ipi.h"
#include "hv/memory.h"

static struct cpu *cpus;
static u32 count, taken;

int cpus_init(u32 number)
{
	cpus = memory_aligned(number * sizeof(struct cpu), STACK_BYTES);
	if (!cpus)
		return -E_NOMEM;
	count = number;
	for (u32 i = 0; i < number; i++)
		if (memory_guard(cpus[i].guard) || memory_npt_init(&cpus[i].npt))
			return -E_NOMEM;
	return 0;
}

u32 cpus_count(void)
{
	return count;
}

struct cpu *cpus_at(u32 index)
{
	return &cpus[index];
}

u32 cpus_this_index(void)
{
	u64 offset = (u64)(uintptr_t)__builtin_frame_address(0) - (u64)(uintptr_t)cpus;
	u64 index = cpus ? offset / sizeof(struct cpu) : count;

	if (index < count)
		return (u32)index;
	return count ? taken % count : 0;
}

struct cpu *cpus_this(void)
{
	return &cpus[cpus_this_index()];
}

struct cpu *cpus_take(void)
{
	return taken < count ? &cpus[++taken % count] : NULL;
}

/* Each has an NMI sent to it, and none goes on before it has come: later it would look like L1's. */
void cpus_wait(struct vcpu *v)
{
	do {
		nmi_wait();
		nmi_unblock();
	} while (!ipi_receive(v));
}

void cpus_gather(const struct vcpu *v)
{
	for (u32 i = 0; i < count; i++)
		while (&cpus[i].vcpu != v && !ipi_is_reachable(&cpus[i].vcpu))
			cpu_pause();
}

void cpus_go(struct vcpu *v)
{
	for (u32 i = 0; i < count; i++)
		if (&cpus[i].vcpu != v)
			ipi_wake(v, &cpus[i].vcpu);
}

/* SPDX-License-Identifier: MIT */
#include "hv/cpus.h"
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
		if (memory_guard(cpus[i].guard))
			return -E_NOMEM;
	return 0;
}

u32 cpus_count(void)
{
	return count;
}

u32 cpus_taken(void)
{
	return taken;
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
	return taken ? taken - 1 : 0;
}

struct cpu *cpus_this(void)
{
	return &cpus[cpus_this_index()];
}

struct cpu *cpus_take(void)
{
	return taken < count ? &cpus[taken++] : NULL;
}

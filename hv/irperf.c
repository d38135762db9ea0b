/* SPDX-License-Identifier: MIT */
/*
 * IRPERF: instructions retired at any level and any CPL, while HWCR[30] is set. It has no GuestOnly: in the machine it
 * counts L0 as well, so it is read around each VMRUN (vmrun_enter_irperf), as the clock is, where L0's own part is always
 * the same. That costs two reads for each exit, and Linux sets HWCR[30] at boot: hence pmu.irperf=on.
 */
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

static bool by_clock(const struct vcpu *v)
{
	return v->backend == TALLY_BACKEND_CLOCK;
}

static u64 count(const struct vcpu *v)
{
	const struct irperf *irperf = &v->irperf;

	return irperf->count + (irperf->on && by_clock(v) ? v->clock.now >> v->clock.shift : 0);
}

static void set_count(struct vcpu *v, u64 value)
{
	v->irperf.count += value - count(v);
}

u32 irperf_read(struct vcpu *v, u64 *value)
{
	if (!v->irperf.offered)
		return INJECT_GP;
	*value = count(v);
	return ADVANCE;
}

u32 irperf_write(struct vcpu *v, u64 value)
{
	if (!v->irperf.offered)
		return INJECT_GP;
	set_count(v, value);
	return ADVANCE;
}

u32 irperf_read_hwcr(struct vcpu *v, u64 *value)
{
	if (!cpu_rdmsr_safe(MSR_HWCR, value))
		return INJECT_GP;
	if (v->irperf.offered)
		*value = v->irperf.on ? *value | HWCR_IRPERF_EN : *value & ~HWCR_IRPERF_EN;
	return ADVANCE;
}

/* As with a selector, the WRMSR itself retires in the old state. It does so after this, so it is taken off or added. */
u32 irperf_write_hwcr(struct vcpu *v, u64 value)
{
	struct irperf *irperf = &v->irperf;
	bool on = value & HWCR_IRPERF_EN;
	u64 now;

	if (!cpu_wrmsr_safe(MSR_HWCR, by_clock(v) ? value & ~HWCR_IRPERF_EN : value))
		return INJECT_GP;
	if (!irperf->offered || on == irperf->on)
		return ADVANCE;
	now = count(v) + (on ? -1ull : 1ull);
	irperf->on = on;
	set_count(v, now);
	if (!by_clock(v))
		v->on_entry = on ? vmrun_enter_irperf : vmrun_enter;
	else if (on)
		v->clock.counting |= PMU_CLOCK_IRPERF;
	else
		v->clock.counting &= ~PMU_CLOCK_IRPERF;
	backend_selector_written(v);
	return ADVANCE;
}

#define ROUNDS 16

/* What the register shows of a guest of so many instructions, less the overhead. */
static u64 trial(struct vcpu *v, void (*run)(struct vcpu *, unsigned int),
		 unsigned int instructions)
{
	v->irperf.count = 0;
	run(v, instructions);
	return v->irperf.count;
}

const char *irperf_probe(struct vcpu *v, void (*run)(struct vcpu *, unsigned int))
{
	static const unsigned int lengths[] = {0, 1, 100, 1000};
	const char *why = NULL;
	u64 hwcr;

	if (!(cpu_cpuid(CPUID_ADDR_SIZES, 0).ebx & CPUID_8_EBX_IRPERF))
		return "the CPU has none";
	if (!cpu_rdmsr_safe(MSR_HWCR, &hwcr) || !cpu_wrmsr_safe(MSR_HWCR, hwcr | HWCR_IRPERF_EN))
		return "HWCR cannot be written";
	v->on_entry = vmrun_enter_irperf;
	v->irperf.overhead = 0;
	v->irperf.overhead = trial(v, run, 0);
	for (unsigned int i = 0; i < ROUNDS * ARRAY_SIZE(lengths) && !why; i++)
		if (trial(v, run, lengths[i / ROUNDS]) != lengths[i / ROUNDS])
			why = "L0's own part in it varies";
	v->irperf.count = 0;
	v->on_entry = vmrun_enter;
	cpu_wrmsr(MSR_HWCR, hwcr);
	return why;
}

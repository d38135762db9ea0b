/* SPDX-License-Identifier: MIT */
/* The guest's local APIC as L0 finds it. `base` is MSR_APIC_BASE, for the mode and the page. */
#ifndef TALLY_HV_APIC_H
#define TALLY_HV_APIC_H

#include "hv/cpu.h"
#include "hv/vcpu.h"
#include "x86/apic.h"
#include "x86/msr.h"

static inline volatile u32 *apic_register(const struct vcpu *v, u64 base, u32 reg)
{
	return guest_at(&v->mem, (base & APIC_BASE_ADDRESS) + reg);
}

static inline u32 apic_read(const struct vcpu *v, u64 base, u32 reg)
{
	if (base & APIC_BASE_X2)
		return (u32)cpu_rdmsr(APIC_X2_MSR(reg));
	return *apic_register(v, base, reg);
}

static inline void apic_write(const struct vcpu *v, u64 base, u32 reg, u32 value)
{
	if (base & APIC_BASE_X2)
		cpu_wrmsr(APIC_X2_MSR(reg), value);
	else
		*apic_register(v, base, reg) = value;
}

/* interrupt.c: `command` of an ICR to the CPU itself. */
void apic_send_to_self(const struct vcpu *v, u64 base, u32 command);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The guest's local APIC, which is its own: L0 uses it on its behalf. With more than one CPU, writes to it exit, because
 * INIT and SIPI must not reach a CPU that L0 runs on: a page that L1's nested tables map read-only, or in x2APIC mode the
 * MSR of ICR. APM2 rev. 3.44 ch. 16.
 */
#ifndef TALLY_HV_APIC_H
#define TALLY_HV_APIC_H

#include "hv/cpu.h"
#include "hv/vcpu.h"
#include "x86/apic.h"
#include "x86/msr.h"

/* A register of this CPU's APIC, by its offset in the page; `base` is MSR_APIC_BASE, for the mode and the page. */
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

/* `command` of an ICR to the CPU with that APIC ID; what the guest has in its ICR's high half stays. */
void apic_send(const struct vcpu *v, u64 base, u32 id, u32 command);
/* The same to this CPU. */
void apic_send_to_self(struct vcpu *v, u64 base, u32 command);

/* Once on each CPU, before its first VMRUN. */
void apic_init(struct vcpu *v);

/* WRMSR to MSR_APIC_BASE. False: #GP, and nothing has changed. */
bool apic_write_base(struct vcpu *v, u64 value);

/* The APIC is somewhere else, or somebody else to the others. */
void apic_moved(struct vcpu *v);

/* What INIT does to it (APM2 §16.3.3). */
void apic_reset(struct vcpu *v);

static ALWAYS_INLINE bool apic_traps(const struct vcpu *v, u64 gpa)
{
	return (gpa & ~0xfffull) == v->apic.trapped;
}

/* A guest's write to the page at gpa: emulates the instruction, or has it executed on a page of L0's. `leaf` maps gpa. */
u32 apic_exit_write(struct vcpu *v, u64 gpa, u64 *leaf);

/* The same for an instruction of L1's that did so before, with GPRs as at an ordinary exit. False: it is another. */
bool apic_exit_known(struct vcpu *v);

/* step_end() of such an instruction: its write is on the page. */
void apic_stepped(struct vcpu *v, bool completed);

/* WRMSR to ICR in x2APIC mode. */
u32 apic_write_x2_icr(struct vcpu *v, u64 value);

#endif

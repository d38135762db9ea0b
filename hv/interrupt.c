/* SPDX-License-Identifier: MIT */
/*
 * Overflow interrupts of a backend that computes its counters: L0 sends what the guest's LVTPC says, and takes the physical
 * interrupts of the guest meanwhile, so that an overflow waits no longer than for the next one. The local APIC is the
 * guest's own: what it makes of the interrupt, whom it reaches, and the EOI are as if its CPU had raised it.
 * APM2 §13.2.3, §16.4, §16.5.
 */
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/apic.h"
#include "x86/cr.h"
#include "x86/msr.h"

static volatile u32 *apic_register(const struct vcpu *v, u64 base, u32 reg)
{
	return guest_at(&v->mem, (base & APIC_BASE_ADDRESS) + reg);
}

static u32 apic_read(const struct vcpu *v, u64 base, u32 reg)
{
	if (base & APIC_BASE_X2)
		return (u32)cpu_rdmsr(APIC_X2_MSR(reg));
	return *apic_register(v, base, reg);
}

/* `command` of an ICR to the CPU itself. The self shorthand is for fixed interrupts only (§16.5). */
static void send_to_self(const struct vcpu *v, u64 base, u32 command)
{
	u32 id = apic_read(v, base, APIC_ID), high;

	if (base & APIC_BASE_X2) {
		cpu_wrmsr(APIC_X2_MSR(APIC_ICR), (u64)id << 32 | command);
		return;
	}
	/* half a command of the guest's may be there */
	high = *apic_register(v, base, APIC_ICR_HIGH);
	*apic_register(v, base, APIC_ICR_HIGH) = id;
	*apic_register(v, base, APIC_ICR) = command;
	for (unsigned int i = 0; i < 1000 && (*apic_register(v, base, APIC_ICR) & APIC_ICR_PENDING);
	     i++)
		asm volatile("pause");
	*apic_register(v, base, APIC_ICR_HIGH) = high;
}

static bool overflow_interrupts(struct vcpu *v)
{
	return v->backend == TALLY_BACKEND_SWITCHED ? pmu_switched_interrupts(&v->switched)
						    : pmu_clock_interrupts(&v->clock);
}

/* vmrun.asm, at an exit at or behind clock.deadline, or while `switched` has a counter with INT. The guest's APIC has it before that exit is looked at. */
void pmi_due(struct vcpu *v)
{
	u64 base = cpu_rdmsr(MSR_APIC_BASE);
	u32 lvt;

	if (v->special & SPECIAL_HALT)
		halt_end(v); /* its time does not count */
	if (!overflow_interrupts(v) || !(base & APIC_BASE_ENABLED))
		return;
	lvt = apic_read(v, base, APIC_LVTPC);
	if (lvt & APIC_LVT_MASKED)
		return;
	switch (lvt & APIC_DELIVERY) {
	case APIC_DELIVERY_FIXED:
	case APIC_DELIVERY_SMI:
	case APIC_DELIVERY_NMI:
		send_to_self(v, base, lvt & (APIC_DELIVERY | APIC_VECTOR));
		break;
	default:
		log_guest("event=pmi lvtpc=%x note=\"no such delivery mode by ICR: dropped\"", lvt);
	}
}

void interrupts_choose(struct vcpu *v, bool take)
{
	if (v->interrupts_taken == take)
		return;
	v->interrupts_taken = take;
	vcpu_set_l0_intercept(v, INTERCEPT(INTR), take);
	vcpu_reset_intercepts(v);
}

u32 exit_intr(struct vcpu *v)
{
	unsigned int vector;

	/* it ended a HLT or leads out of user mode, is pending, and no longer intercepted */
	if (!v->interrupts_taken || v->vmcb->control.exit_code != VMEXIT_INTR) {
		v->track.next = TRACK_KERNEL;
		return RESUME;
	}
	/* an NMI goes first, and the interrupt stays pending; or it is gone again */
	vector = events_take(v, true);
	if (vector)
		vcpu_set_eventinj(v, vector | EVENT_TYPE_INTR | EVENT_V);
	return RESUME;
}

/* SPDX-License-Identifier: MIT */
/*
 * Overflow interrupts of a backend that computes its counters: L0 sends what the guest's LVTPC says, and takes the physical
 * interrupts of the guest meanwhile, so that an overflow waits no longer than for the next one. The local APIC is the
 * guest's own: what it makes of the interrupt, whom it reaches, and the EOI are as if its CPU had raised it.
 * APM2 §13.2.3, §16.4, §16.5: the message types of an LVT entry are fixed, SMI, NMI and ExtINT, and all are the ICR's too.
 */
#include "hv/apic.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/cr.h"
#include "x86/msr.h"

static bool overflow_interrupts(struct vcpu *v)
{
	switch (v->backend) {
	case TALLY_BACKEND_SWITCHED:
		return pmu_switched_interrupts(&v->switched);
	case TALLY_BACKEND_GUEST_ONLY:
		v->guest_only.interrupt = false;
		return true;
	default:
		return pmu_clock_interrupts(&v->clock);
	}
}

/* vmrun.asm, at an exit at or behind clock.deadline, or while `switched` has a counter with INT: the guest's APIC has it
 * before that exit is looked at. With `guest-only` before VMRUN, for what the hardware does not see. */
void pmi_due(struct vcpu *v)
{
	u64 base = cpu_rdmsr(MSR_APIC_BASE);
	u32 lvt;

	apic_timer_exit(v); /* before there is another interrupt in the APIC */
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
		apic_send_to_self(v, base, lvt & (APIC_DELIVERY | APIC_VECTOR));
		break;
	case APIC_DELIVERY_EXTINT:
		/* the vector is the PIC's; QEMU would take one that is here for it */
		apic_send_to_self(v, base, APIC_DELIVERY_EXTINT);
		break;
	default:
		log_guest("event=pmi lvtpc=%x note=\"a reserved message type: dropped\"", lvt);
	}
}

void interrupts_choose(struct vcpu *v, bool take)
{
	if (v->interrupts_taken == take)
		return;
	v->interrupts_taken = take;
	vcpu_set_l0_intercept(v, INTERCEPT(INTR), take);
	vcpu_reset_intercepts(v);
	if (take && vcpu_interrupts_exactly(v))
		vcpu_set_special(v, SPECIAL_PMI);
	else if (v->special & SPECIAL_PMI)
		apic_timer_end(v);
}

/*
 * What L0 has taken goes on to the guest. For L1 as a virtual interrupt, because an interrupt that EVENTINJ injects comes
 * twice now and then on QEMU's TCG (docs/platforms.md). L2's V_IRQ is L1's.
 */
static void pass_on(struct vcpu *v, unsigned int vector)
{
	struct vmcb_control *c = &v->vmcb->control;

	v->track.next = TRACK_KERNEL;
	if (vcpu_in_l2(v)) {
		vcpu_set_eventinj(v, vector | EVENT_TYPE_INTR | EVENT_V);
		return;
	}
	c->int_vector = vector;
	c->int_ctl |= (u32)(V_IRQ | V_INTR_PRIO | V_IGN_TPR);
	vmcb_set_intercept(c, INTERCEPT_CR_WRITE(8)); /* another one of TCG's */
	vcpu_set_special(v, SPECIAL_VIRQ);
}

void interrupts_passed_on(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb01->control;

	if (vcpu_in_l2(v) || (c->int_ctl & V_IRQ))
		return; /* an NMI has come in between */
	c->int_ctl &= ~(u32)(V_INTR_PRIO | V_IGN_TPR);
	vcpu_clr_special(v, SPECIAL_VIRQ);
	vcpu_reset_intercepts(v);
}

u32 exit_intr(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	unsigned int vector;

	/* it ended a HLT or leads out of user mode, is pending, and no longer intercepted */
	if (!v->interrupts_taken || c->exit_code != VMEXIT_INTR)
		return exit_let_in(v);
	if (unlikely((v->special & SPECIAL_VIRQ) && !vcpu_in_l2(v))) {
		/* one of higher priority, while the last one waits for an NMI's handler: that first */
		c->int_ctl &= ~(u32)V_IRQ;
		vcpu_set_eventinj(v, c->int_vector | EVENT_TYPE_INTR | EVENT_V);
		return RESUME;
	}
	/* an NMI goes first, and the interrupt stays pending; or it is gone again */
	vector = events_take(v, true);
	if (vector)
		pass_on(v, vector);
	return RESUME;
}

/* SPDX-License-Identifier: MIT */
/* What comes from outside, or is waited for: interrupts, NMI, INIT, GIF, V_IRQ, HLT. docs/architecture.md. */
#include "hv/apic.h"
#include "hv/core/event.h"
#include "hv/core/merge.h"
#include "hv/cpu.h"
#include "hv/ipi.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/*
 * HLT and MWAIT exit only while a counter runs on the clock: the time that the guest sleeps must not count. The guest is
 * let into the instruction with INTR, NMI and VINTR intercepted, and what ends its sleep ends the accounting; the event
 * stays pending and is taken at the next VMRUN.
 */
u32 exit_halt(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;

	vcpu_set_special(v, SPECIAL_HALT);
	v->halt_now = v->clock.now;
	v->halt_rip = v->vmcb->save.rip;
	vmcb_clr_intercept(c, INTERCEPT(HLT));
	vmcb_clr_intercept(c, INTERCEPT(MWAIT));
	vmcb_set_intercept(c, INTERCEPT(INTR));
	vmcb_set_intercept(c, INTERCEPT(NMI));
	vmcb_set_intercept(c, INTERCEPT(VINTR));
	return RESUME;
}

/* What would exit again and again: L0 takes it, and owes it. Returns the vector of an interrupt, or 0. */
unsigned int events_take(struct vcpu *v, bool interrupt)
{
	bool host_if = v->host_if;

	v->nmi_seen = v->init_seen = v->irq_seen = 0;
	vcpu_set_host_if(v, interrupt);
	event_window();
	cpu_cli(); /* it is 0 already if something came */
	v->host_if = false;
	vcpu_set_host_if(v, host_if);
	if (v->nmi_seen && v->smp)
		nmi_unblock();
	if (v->nmi_seen && !(v->smp && ipi_receive(v)))
		vcpu_set_special(v, SPECIAL_NMI);
	if (v->init_seen)
		vcpu_set_special(v, SPECIAL_INIT);
	return v->irq_seen;
}

/* With smp: an NMI goes to the guest, or its handler has ended. The CPU's own blocking ended in events_take(). */
void events_nmi_mask(struct vcpu *v, bool mask)
{
	v->nmi_masked = mask;
	vcpu_set_l0_intercept(v, INTERCEPT(IRET), mask);
	vcpu_reset_intercepts(v);
}

u32 exit_nmi(struct vcpu *v)
{
	if (v->gif && !v->smp)
		return exit_intr(v);
	events_take(v, false);
	return RESUME;
}

/* INIT is L1's as its own VM_CR, GIF and intercepts say: deliver_init(). */
u32 exit_init(struct vcpu *v)
{
	u64 vm_cr = cpu_rdmsr(MSR_VM_CR);

	cpu_wrmsr(MSR_VM_CR, vm_cr | VM_CR_R_INIT);
	events_take(v, false);
	cpu_wrmsr(MSR_VM_CR, vm_cr);
	if (!(v->special & SPECIAL_INIT)) {
		log_warn("event=init note=\"not redirected by VM_CR.R_INIT: the CPU takes it\"");
		vcpu_set_l0_intercept(v, INTERCEPT(INIT), false);
		vcpu_reset_intercepts(v);
	}
	return RESUME;
}

/* Intercepted only where SMM is emulated, see nested_init(): L0 takes it, as a CPU in which SMM is locked does. */
u32 exit_smi(struct vcpu *v)
{
	events_take(v, false);
	return RESUME;
}

/* FS, GS, TR and LDTR are in the CPU, and move by VMSAVE and VMLOAD. */
static void reset_l1(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb01;

	if (v->inits++ < 4)
		log_info("event=init level=%s", vcpu_in_l2(v) ? "L2" : "L1");
	if (vcpu_in_l2(v))
		nested_leave(v);
	cpu_vmsave(v->vmcb01_hpa);
	event_init_state(&vmcb->save);
	cpu_vmload(v->vmcb01_hpa);
	for (unsigned int i = 0; i < GPR_COUNT; i++)
		v->gpr[i] = 0;
	v->gpr[GPR_RDX] = cpu_cpuid(CPUID_FEATURES, 0).eax;
	v->was_reset = true;
	vmcb->control.int_state = 0;
	vmcb->control.event_inj = 0;
	vcpu_release_l1(v);
	if (!(v->vm_cr & VM_CR_LOCK))
		v->vm_cr &= ~(u64)VM_CR_SVMDIS;
	if (v->svme)
		vcpu_set_svme(v, false);
	if (v->smp) {
		apic_reset(v);
		events_nmi_mask(v, false);
		v->waits_for_sipi = !(cpu_rdmsr(MSR_APIC_BASE) & APIC_BASE_BSP);
	}
}

void halt_end(struct vcpu *v)
{
	v->clock.now = halt_time(v);
	vcpu_clr_special(v, SPECIAL_HALT);
	vcpu_reset_intercepts(v);
}

/* V_IRQ of L2 does not reach the CPU for as long as it is held: by GIF=0, or by V_GIF=0. */
void nested_hold_virq(struct vcpu *v, bool hold)
{
	struct vmcb_control *ctl = &v->nested.ctl, *c = &v->vmcb02->control;

	if (v->nested.virq_held == hold)
		return;
	v->nested.virq_held = hold;
	if (hold) {
		ctl->int_ctl = (ctl->int_ctl & ~(u32)V_IRQ) | (c->int_ctl & (u32)V_IRQ);
		c->int_ctl &= ~(u32)V_IRQ;
	} else {
		c->int_ctl |= ctl->int_ctl & (u32)V_IRQ;
	}
	vcpu_reset_intercepts(v);
}

/* L2 changes the real GIF, L1 having neither intercepted that nor given it a virtual one. */
static NOINLINE void set_l2_gif(struct vcpu *v, bool gif)
{
	struct vmcb_control *ctl = &v->nested.ctl, *c = &v->vmcb02->control;

	if (v->gif == gif)
		return;
	v->gif = gif;
	if (!(ctl->int_ctl & V_INTR_MASKING)) {
		const u32 tpr = (u32)V_TPR_MASK;

		/* what L1 is to find in V_TPR waits in `ctl`, where MOV CR8 finds it, too */
		if (gif) {
			c->int_ctl &= ~(u32)(V_INTR_MASKING | V_TPR_MASK);
			c->int_ctl |= ctl->int_ctl & tpr;
		} else {
			ctl->int_ctl = (ctl->int_ctl & ~tpr) | (c->int_ctl & tpr);
			c->int_ctl &= ~tpr;
			c->int_ctl |= (u32)cpu_read_cr8() | (u32)V_INTR_MASKING;
		}
	}
	nested_hold_virq(v, !gif); /* and the intercepts that GIF decides */
	vcpu_set_host_if(v, gif && (v->vmcb01->save.rflags & RFLAGS_IF));
}

void nested_set_gif(struct vcpu *v, bool gif)
{
	struct vmcb_control *ctl = &v->nested.ctl;

	if (v->nested.vgif) {
		ctl->int_ctl = gif ? ctl->int_ctl | (u32)V_GIF : ctl->int_ctl & ~(u32)V_GIF;
		nested_hold_virq(v, !gif);
	} else {
		set_l2_gif(v, gif);
	}
}

/* L1's VMCB always, since L1 may be waiting for L2; and L2's with what vmcb12 wants. */
void vcpu_reset_intercepts(struct vcpu *v)
{
	struct vmcb_control *c1 = &v->vmcb01->control, *c2 = &v->vmcb02->control;

	for (unsigned int i = 0; i < ARRAY_SIZE(v->l0_intercepts); i++) {
		c1->intercepts[i] = v->l0_intercepts[i];
		c2->intercepts[i] = v->l0_intercepts[i] | v->nested.ctl.intercepts[i];
	}
	c1->clean &= ~(u32)CLEAN_INTERCEPTS;
	c2->clean &= ~(u32)CLEAN_INTERCEPTS;
	merge_intercept_quirks(c2, v->cr_read_quirk);
	if (!v->svme)
		vmcb_set_intercept(c1, INTERCEPT_EXCEPTION(VEC_GP));
	if (c1->int_ctl & V_INTR_MASKING) /* with GIF=0, perhaps while L2 runs */
		intercept_for_gif0(c1);
	if (vcpu_in_l2(v) && !v->gif)
		intercept_for_gif0(c2);
	if (v->special & SPECIAL_STEP)
		step_intercept(v);
}

/* An NMI that L0 took while L1 had GIF=0 goes to whoever runs now with GIF=1. */
static void deliver_nmi(struct vcpu *v)
{
	if (!v->gif || v->nmi_masked || (v->special & SPECIAL_STEP) ||
	    (v->vmcb->control.event_inj & EVENT_V))
		return;
	if (vcpu_in_l2(v) && vmcb_intercepts(&v->nested.ctl, INTERCEPT(NMI))) {
		nested_vmexit_made(v, VMEXIT_NMI, 0, 0); /* and it stays pending */
		return;
	}
	vcpu_clr_special(v, SPECIAL_NMI);
	vcpu_set_eventinj(v, VEC_NMI | EVENT_TYPE_NMI | EVENT_V);
	if (v->smp)
		events_nmi_mask(v, true);
}

/* An INIT that L0 took, as soon as GIF allows. */
static void deliver_init(struct vcpu *v)
{
	switch (event_init_fate(v->gif, vcpu_in_l2(v),
				vmcb_intercepts(&v->nested.ctl, INTERCEPT(INIT)),
				v->vm_cr & VM_CR_R_INIT)) {
	case EVENT_INIT_HELD:
		v->init_held = true;
		return;
	case EVENT_INIT_EXIT:
		nested_vmexit_made(v, VMEXIT_INIT, 0, 0);
		return;
	case EVENT_INIT_SX:
		if (v->vmcb->control.event_inj & EVENT_V)
			return;
		vcpu_clr_special(v, SPECIAL_INIT);
		vcpu_raise(v, event_exception(VEC_SX, true, 1));
		return;
	case EVENT_INIT_RESET:
		vcpu_clr_special(v, SPECIAL_INIT);
		if (v->init_held)
			ipi_forget_sipi(v); /* it came to a CPU that did not wait for one */
		v->init_held = false;
		reset_l1(v);
	}
}

void events_deliver(struct vcpu *v)
{
	if (v->special & SPECIAL_INIT)
		deliver_init(v);
	if (v->special & SPECIAL_NMI)
		deliver_nmi(v);
}

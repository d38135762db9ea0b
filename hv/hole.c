/* SPDX-License-Identifier: MIT */
/*
 * The hole: our memory as the guests see it, which is not there. Reads give FFh from a page of them, mapped at the first
 * touch. A write lands on a page of its own: the instruction runs once with RFLAGS.TF set and that page writable, and at
 * its #DB the page is filled with FFh again and read-only.
 */
#include "hv/apic.h"
#include "hv/core/event.h"
#include "hv/core/merge.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "x86/apic.h"
#include "x86/cr.h"

/* So many lines for each kind of touch and level: one that a guest repeats at will must not hide the others. */
#define LINES_PER_KIND 8

/* `what` is a literal, of which there are a dozen; the linker makes equal ones the same. */
static void log_touch(struct vcpu *v, u64 gpa, const char *what)
{
	static struct {
		const char *what;
		u32 lines[2];
	} kinds[16];
	bool l2 = vcpu_in_l2(v);

	for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!kinds[i].what)
			kinds[i].what = what;
		if (kinds[i].what != what)
			continue;
		log_limited(kinds[i].lines[l2], LINES_PER_KIND,
			    "event=hole level=%s what=%s gpa=%lx rip=%lx", l2 ? "L2" : "L1", what,
			    gpa, v->vmcb->save.rip);
		return;
	}
}

bool vcpu_names_hole(struct vcpu *v, u64 gpa, u64 bytes, const char *what)
{
	if (!vcpu_touches_hole(v, gpa, bytes))
		return false;
	v->hole_accesses++;
	log_touch(v, gpa, what);
	return true;
}

void vcpu_flush_tlb(struct vcpu *v)
{
	v->vmcb->control.tlb_control = vcpu_flush_asid(v);
	v->tlb_flushes++;
	vcpu_set_special(v, SPECIAL_ENTRY);
}

/*
 * All exceptions: none is to push our TF. INT3 and INTO stay out, which would execute again and again; and IRET, if it has
 * exited already.
 */
void step_intercept(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;

	intercept_exceptions(c, ~(u32)(BIT(VEC_BP) | BIT(VEC_OF)));
	if (v->step_iret)
		vmcb_clr_intercept(c, INTERCEPT(IRET));
}

void step_begin(struct vcpu *v)
{
	if (v->special & SPECIAL_STEP)
		return;
	v->step_tf = v->vmcb->save.rflags & RFLAGS_TF;
	v->vmcb->save.rflags |= RFLAGS_TF;
	/* no interrupt in between, its handler is not what is to be stepped */
	v->vmcb->control.int_state |= INTERRUPT_SHADOW;
	vcpu_set_special(v, SPECIAL_STEP);
	step_intercept(v);
}

static void close_hole(struct vcpu *v)
{
	if (v->apic.step)
		apic_stepped(v, v->vmcb->control.exit_code == VMEXIT_EXCEPTION(VEC_DB));
	while (v->hole_leaves) {
		v->hole_leaves--;
		*v->hole_leaf[v->hole_leaves] = v->hole_leaf_was[v->hole_leaves];
	}
	memory_fill_ff(v->sink_page);
	vcpu_flush_tlb(v);
}

/* Lets the guest repeat its write to the page that `leaf` maps. */
void hole_write(struct vcpu *v, u64 *leaf)
{
	if (v->hole_leaves == HOLE_LEAVES)
		close_hole(v); /* more pages than an instruction writes: a new one */
	step_begin(v);
	v->hole_leaf[v->hole_leaves] = leaf;
	v->hole_leaf_was[v->hole_leaves++] = *leaf;
	*leaf = memory_hpa(v->sink_page) | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	vcpu_flush_tlb(v);
}

void step_end(struct vcpu *v)
{
	if (v->hole_leaves)
		close_hole(v);
	if (!v->step_tf && !v->step_iret)
		v->vmcb->save.rflags &= ~RFLAGS_TF;
	v->step_iret = v->nmi_unmask = false;
	vcpu_clr_special(v, SPECIAL_STEP);
	vcpu_reset_intercepts(v);
}

bool step_exit(struct vcpu *v)
{
	u64 code = v->vmcb->control.exit_code;
	/* anything else came before the IRET, which is still to be done */
	bool unmask = v->nmi_unmask && code - VMEXIT_EXCEPTION(0) < 32;

	if (code == VMEXIT_NPF)
		return false; /* perhaps a second page of the same access, see hole_write() */
	if (code != VMEXIT_EXCEPTION(VEC_DB))
		v->step_iret = false; /* it has loaded nothing */
	step_end(v);
	if (unmask)
		events_nmi_mask(v, false);
	if (code != VMEXIT_EXCEPTION(VEC_DB) || v->step_tf)
		return false;
	v->vmcb->save.dr6 &= ~DR6_BS;
	return true;
}

/* An event whose delivery was cut off by an exit that L0 has handled is delivered again (APM2 §15.7.2). */
static void redeliver(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	u64 event = merge_exit_int_info(c->exit_int_info);
	bool injected;

	if (!(event & EVENT_V))
		return;
	injected = nested_event_is_injected(v);
	/* INTn, INT3 and INTO execute again, unless L1 injected the event and no instruction stands at RIP */
	if (event_is_soft(event) && !injected)
		return;
	if (injected)
		nested_inject(v, event);
	else
		vcpu_set_eventinj(v, event);
	c->int_ctl = merge_int_ctl_left(c);
}

/* On L1's nested tables: what is not there is our memory, and at times the APIC's page; that may be read-only, too. */
static NOINLINE u32 l1_fault(struct vcpu *v)
{
	u64 gpa = v->vmcb->control.exit_info_2;
	bool write = v->vmcb->control.exit_info_1 & PFERR_W;
	u64 *leaf;

	if (apic_timer_fault(v, gpa))
		return RESUME;
	if (write && apic_traps(v, gpa))
		return apic_exit_write(v, gpa, v->apic.leaf);
	if (!vcpu_names_hole(v, gpa, 1, write ? "write" : "read"))
		vcpu_shutdown(v, "nested-page-fault");
	leaf = memory_open_hole(v->npt, gpa);
	if (write)
		hole_write(v, leaf);
	return RESUME;
}

u32 exit_npf(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	u64 gpa = c->exit_info_2;
	u32 verdict = RESUME;

	if (vcpu_in_l2(v) && v->nested.space) {
		struct shadow_fault fault;

		switch (shadow_fault(&v->shadow, v->nested.space, gpa, c->exit_info_1, &fault)) {
		case SHADOW_REFLECT:
			vcpu_names_hole(v, fault.l1_gpa, 1, "nested-table");
			exit_assist(v, VMEXIT_NPF);
			nested_vmexit(v, VMEXIT_NPF,
				      fault.error_code | (c->exit_info_1 & (NPF_FINAL | NPF_TABLE)),
				      gpa);
			return RESUME;
		case SHADOW_HOLE_WRITE:
			vcpu_names_hole(v, fault.l1_gpa, 1, "write");
			hole_write(v, fault.leaf);
			break;
		case SHADOW_TRAP_WRITE:
			verdict = apic_exit_write(v, fault.l1_gpa, fault.leaf);
			break;
		case SHADOW_MAPPED:
			if (vcpu_touches_hole(v, fault.l1_gpa, 1))
				vcpu_names_hole(v, fault.l1_gpa, 1, "read");
			if (unlikely(fault.l1_gpa / PAGE_1G == APIC_DEFAULT_PAGE / PAGE_1G))
				apic_timer_shadowed(v, fault.l1_gpa, fault.page_bytes);
			break;
		}
		if (v->nested.space->tlb_flush) {
			v->nested.space->tlb_flush = false;
			vcpu_flush_tlb(v);
		}
	} else {
		verdict = l1_fault(v);
	}
	if (verdict == RESUME)
		redeliver(v);
	return verdict;
}

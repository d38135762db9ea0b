/* SPDX-License-Identifier: MIT */
/*
 * Privilege tracking: for a PMU backend that does not see the CPL, and while a counter has one of USR and OS, every change
 * of the CPL is made to exit. In user mode all events exit that lead out of it; in the kernel IRET does. SYSCALL and its
 * like have no intercept: they fault, because the CPU's EFER.SCE and SYSENTER_CS are 0, and L0 does what they do.
 *
 * What brings the CPL back to 0 by itself is let in with the counters switched before: an interrupt, or INTn executed
 * again. Faults are given back by EVENTINJ, because executed again they need not happen again. An IRET to user mode runs
 * with user mode's intercepts, which catch what follows it; an IRET to the kernel is single-stepped.
 *
 * docs/pmu.md: what has no intercept and is noticed at the next exit only.
 */
#include "hv/core/event.h"
#include "hv/core/insn.h"
#include "hv/core/merge.h"
#include "hv/core/syscall.h"
#include "hv/cpu.h"
#include "hv/vcpu.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* What leads out of user mode; #BP and #OF for CPUs that exit INT3 and INTO by them. */
static const u32 user_intercepts[] = {
	INTERCEPT(INTR), INTERCEPT(NMI), INTERCEPT(VINTR), INTERCEPT(SWINT), INTERCEPT(ICEBP),
};

static void arm(struct vcpu *v, bool user)
{
	struct vmcb_control *c = &v->vmcb->control;
	struct vmcb_save *s = &v->vmcb->save;

	v->track.armed = true;
	if (user) {
		intercept_exceptions(c, ~0u);
		for (unsigned int i = 0; i < ARRAY_SIZE(user_intercepts); i++)
			vmcb_set_intercept(c, user_intercepts[i]);
	} else if (!(v->special & SPECIAL_STEP)) {
		vmcb_set_intercept(c, INTERCEPT(IRET));
	}
	v->track.sce = s->efer & EFER_SCE;
	if (v->track.sce) {
		s->efer &= ~EFER_SCE;
		c->clean &= ~(u32)CLEAN_CR;
		vmcb_set_intercept(c, INTERCEPT_EXCEPTION(VEC_UD));
	}
	v->track.sysenter_cs = 0;
	if (!(s->efer & EFER_LMA)) {
		v->track.sysenter_cs = cpu_rdmsr(MSR_SYSENTER_CS);
		cpu_wrmsr(MSR_SYSENTER_CS, 0);
		vmcb_set_intercept(c, INTERCEPT_EXCEPTION(VEC_GP));
	}
}

void track_exit(struct vcpu *v)
{
	if (!v->track.armed) {
		v->track.sce = v->track.sysenter_cs = 0;
		return;
	}
	v->track.armed = false;
	v->vmcb->save.efer |= v->track.sce;
	v->vmcb->control.clean &= ~(u32)CLEAN_CR;
	if (v->track.sysenter_cs)
		cpu_wrmsr(MSR_SYSENTER_CS, v->track.sysenter_cs);
	vcpu_reset_intercepts(v);
}

/* With `user` as a WRMSR needs it that asks for the CPL again. */
static void track_end(struct vcpu *v)
{
	nested_intercept_sysenter(v, false);
	vcpu_clr_special(v, SPECIAL_TRACK);
	pmu_cpl_change(&v->pmu, false);
	pmu_commit(&v->pmu);
}

void track_entry(struct vcpu *v)
{
	bool user = v->vmcb->save.cpl && !(v->vmcb->control.event_inj & EVENT_V);

	if (!pmu_tracks_cpl(&v->pmu)) {
		track_end(v);
		return;
	}
	if (v->track.next != TRACK_BY_CPL)
		user = v->track.next == TRACK_USER;
	v->track.next = TRACK_BY_CPL;
	pmu_cpl_change(&v->pmu, user);
	pmu_commit(&v->pmu);
	if (pmu_tracks_cpl_now(&v->pmu))
		arm(v, user);
}

void track_begin(struct vcpu *v)
{
	if (!pmu_tracks_cpl(&v->pmu) || (v->special & SPECIAL_TRACK))
		return;
	nested_intercept_sysenter(v, true);
	vcpu_set_special(v, SPECIAL_TRACK);
	track_entry(v);
}

u32 exit_let_in(struct vcpu *v)
{
	/* counted by the exit, and executed again */
	if (v->vmcb->control.exit_code == VMEXIT_SWINT)
		v->clock.now -= v->track.swint_ticks;
	v->track.next = TRACK_KERNEL;
	return RESUME;
}

/* Whether the IRET at RIP goes to CPL > 0: by the CS that it will pop. False if that cannot be read. */
static bool iret_to_user(struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb->save;
	u64 sp = is_64bit(s) ? s->rsp : s->ss.attrib & SEG_ATTR_DB ? (u32)s->rsp : (u16)s->rsp;
	u64 linear = is_64bit(s) ? sp : (u32)(s->ss.base + sp);
	u8 frame[3 * 8];
	struct insn insn;

	if (!(s->cr0 & CR0_PE) || insn_decode(v, &insn) ||
	    vcpu_fetch(v, linear, frame, 3u * insn.operand_bytes) != 3u * insn.operand_bytes)
		return false;
	if (!(s->efer & EFER_LMA) && insn.operand_bytes == 4 &&
	    (frame[2 * 4 + 2] & RFLAGS_VM >> 16))
		return true;
	return frame[insn.operand_bytes] & 3;
}

u32 exit_iret(struct vcpu *v)
{
	bool to_user = (v->special & SPECIAL_TRACK) && iret_to_user(v);

	if (to_user)
		v->track.next = TRACK_USER;
	if (to_user && !v->nmi_masked)
		return RESUME;
	v->step_iret = true;
	v->nmi_unmask = v->nmi_masked;
	step_begin(v);
	return RESUME;
}

static void changed_cpl(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb;

	vmcb->control.int_state &= ~INTERRUPT_SHADOW;
	pmu_cpl_change(&v->pmu, vmcb->save.cpl);
	pmu_commit(&v->pmu);
	vcpu_retire(v);
	if (vmcb->save.rflags & RFLAGS_TF)
		vcpu_trap(v); /* these two look at TF when they have completed */
}

static void do_syscall(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	u64 star = cpu_rdmsr(MSR_STAR), target = (u32)star;

	if (s->efer & EFER_LMA)
		target = cpu_rdmsr(is_64bit(s) ? MSR_LSTAR : MSR_CSTAR);
	syscall_enter(s, v->next_rip, star, target, cpu_rdmsr(MSR_SFMASK), &v->gpr[GPR_RCX],
		      &v->gpr[GPR_R11]);
	changed_cpl(v);
}

static void do_sysret(struct vcpu *v, bool to_64)
{
	syscall_return(&v->vmcb->save, is_64bit(&v->vmcb->save), to_64, cpu_rdmsr(MSR_STAR),
		       v->gpr[GPR_RCX], v->gpr[GPR_R11]);
	changed_cpl(v);
}

static void do_sysenter(struct vcpu *v)
{
	sysenter_enter(&v->vmcb->save, v->track.sysenter_cs, cpu_rdmsr(MSR_SYSENTER_EIP),
		       cpu_rdmsr(MSR_SYSENTER_ESP));
	changed_cpl(v);
}

static void do_sysexit(struct vcpu *v)
{
	sysenter_return(&v->vmcb->save, v->track.sysenter_cs, v->gpr[GPR_RDX], v->gpr[GPR_RCX]);
	changed_cpl(v);
}

bool track_fault(struct vcpu *v, unsigned int vector)
{
	struct vmcb_save *s = &v->vmcb->save;
	struct insn insn;
	bool sce = vector == VEC_UD && v->track.sce,
	     sysenter = vector == VEC_GP && (v->track.sysenter_cs & 0xfffc);

	if (!(sce || sysenter) || !(s->cr0 & CR0_PE) || insn_decode(v, &insn) ||
	    insn.map != INSN_MAP_0F || (insn.prefixes & INSN_PREFIX_LOCK))
		return false;
	if (sce && insn.opcode == 0x05)
		do_syscall(v);
	else if (sce && insn.opcode == 0x07 && s->cpl)
		vcpu_raise(v, event_exception(VEC_GP, true, 0));
	else if (sce && insn.opcode == 0x07)
		do_sysret(v, is_64bit(s) && insn.operand_bytes == 8);
	else if (sysenter && insn.opcode == 0x34)
		do_sysenter(v);
	else if (sysenter && insn.opcode == 0x35 && !s->cpl)
		do_sysexit(v);
	else
		return false;
	return true;
}

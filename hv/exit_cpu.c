/* SPDX-License-Identifier: MIT */
/* Exits of instructions that any guest may use: CPUID, MSRs, RDPMC, HLT, MOV CR8, VMMCALL; and what is one CPU's own. */
#include "hv/core/event.h"
#include "hv/core/insn.h"
#include "hv/core/merge.h"
#include "hv/cpu.h"
#include "hv/known.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

static NOINLINE void cpuid_own(const struct vcpu *v, u32 leaf, struct cpuid_leaf *l)
{
	switch (leaf) {
	case CPUID_HYPERVISOR:
		*l = (struct cpuid_leaf){TALLY_CPUID_LAST, TALLY_CPUID_EBX, TALLY_CPUID_ECX,
					 TALLY_CPUID_EDX};
		break;
	case TALLY_CPUID_STATUS:
		*l = (struct cpuid_leaf){
			TALLY_ABI_VERSION, v->backend,
			(vcpu_counts_exactly(v) ? TALLY_STATUS_ECX_EXACT : 0) |
				(v->pmu.rule == SVME0_COUNT ? TALLY_STATUS_ECX_SVME0_COUNT : 0) |
				v->depth << 8 | v->lowest_backend << 16,
			v->clock.shift};
		break;
	default:
		*l = (struct cpuid_leaf){0};
	}
}

/* What is virtualized of the leaves that the CPU has. Leaves between the CPU's last one and PerfMonV2's read 0. */
static void cpuid_extended(const struct vcpu *v, u32 leaf, struct cpuid_leaf *l)
{
	if (leaf > v->cpuid_ext_max)
		*l = (struct cpuid_leaf){0};
	switch (leaf) {
	case CPUID_EXT_MAX:
		if (v->pmu.has_v2 && l->eax < CPUID_PERFMON_V2)
			l->eax = CPUID_PERFMON_V2;
		break;
	case CPUID_EXT_FEATURES:
		l->ecx &= ~(u32)(CPUID_EXT1_ECX_SKINIT | CPUID_EXT1_ECX_PERFCTREXTCORE |
				 CPUID_EXT1_ECX_PERFCTREXTNB | CPUID_EXT1_ECX_PERFCTREXTL2I);
		if (v->backend != TALLY_BACKEND_OFF)
			l->ecx |= CPUID_EXT1_ECX_PERFCTREXTCORE;
		break;
	case CPUID_ADDR_SIZES:
		l->ebx |= (u32)CPUID_8_EBX_NO_LMSLE;
		break;
	case CPUID_SVM:
		l->ecx = 0;
		l->edx = v->features;
		break;
	case CPUID_PERFMON_V2:
		*l = (struct cpuid_leaf){0};
		if (v->pmu.has_v2)
			*l = (struct cpuid_leaf){.eax = CPUID_22_EAX_PERFMON_V2,
						 .ebx = PMU_COUNTERS};
		break;
	}
}

static NOINLINE u32 exit_cpuid_other(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	u32 leaf = (u32)s->rax;
	struct cpuid_leaf l;

	if (leaf >= CPUID_HYPERVISOR && leaf <= CPUID_HYPERVISOR_LAST) {
		cpuid_own(v, leaf, &l);
	} else {
		l = cpu_cpuid(leaf, (u32)v->gpr[GPR_RCX]);
		if (leaf >= CPUID_EXT_MAX)
			cpuid_extended(v, leaf, &l);
	}
	s->rax = l.eax;
	v->gpr[GPR_RBX] = l.ebx;
	v->gpr[GPR_RCX] = l.ecx;
	v->gpr[GPR_RDX] = l.edx;
	return ADVANCE;
}

u32 exit_cpuid(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	u64 rax = (u32)s->rax, rbx, rcx = (u32)v->gpr[GPR_RCX], rdx;
	u32 leaf = (u32)rax, subleaf = (u32)rcx;

	if (unlikely(leaf > 7))
		return exit_cpuid_other(v);
	cpu_cpuid64(&rax, &rbx, &rcx, &rdx);
	/* OSXSAVE and OSPKE show CR4 of whoever executes CPUID */
	if (leaf == CPUID_FEATURES)
		rcx = (rcx & ~CPUID_1_ECX_OSXSAVE) | CPUID_1_ECX_HYPERVISOR |
		      (s->cr4 & CR4_OSXSAVE ? CPUID_1_ECX_OSXSAVE : 0);
	else if (leaf == 7 && !subleaf)
		rcx = (rcx & ~CPUID_7_ECX_OSPKE) | (s->cr4 & CR4_PKE ? CPUID_7_ECX_OSPKE : 0);
	s->rax = rax;
	v->gpr[GPR_RBX] = rbx;
	v->gpr[GPR_RCX] = rcx;
	v->gpr[GPR_RDX] = rdx;
	return ADVANCE;
}

/* EFER as the running guest sees it: real but for L1's SVME. */
static u64 guest_efer(const struct vcpu *v)
{
	u64 efer = v->vmcb->save.efer;

	return vcpu_in_l2(v) || v->svme ? efer : efer & ~EFER_SVME;
}

void vcpu_set_svme(struct vcpu *v, bool svme)
{
	struct vmcb_control *c = &v->vmcb01->control;

	v->svme = svme;
	v->svme_toggles++;
	if (svme)
		vmcb_clr_intercept(c, INTERCEPT_EXCEPTION(VEC_GP));
	else
		vmcb_set_intercept(c, INTERCEPT_EXCEPTION(VEC_GP)); /* exit_gp() */
	pmu_svme_toggle(&v->pmu, svme);
	pmu_commit(&v->pmu);
}

static NOINLINE u32 write_efer(struct vcpu *v, u64 value)
{
	struct vmcb_save *s = &v->vmcb->save;
	bool svme = value & EFER_SVME;

	if (value & ~v->guest_efer_mask)
		return INJECT_GP;
	if (svme && (v->vm_cr & VM_CR_SVMDIS))
		return INJECT_GP; /* MBZ then, APM2 §15.30.1 */
	if ((s->cr0 & CR0_PG) && ((value ^ s->efer) & EFER_LME))
		return INJECT_GP;
	/* undefined by the manual; KVM ends L1 as well */
	if (vcpu_in_l2(v) && !svme)
		vcpu_shutdown(v, "L2-cleared-SVME");
	/* LMA is the CPU's; the real SVME stays 1 */
	s->efer = (value & ~EFER_LMA) | (s->efer & EFER_LMA) | EFER_SVME;
	if (!vcpu_in_l2(v) && svme != v->svme)
		vcpu_set_svme(v, svme);
	return ADVANCE;
}

static u32 write_vm_cr(struct vcpu *v, u64 value)
{
	u64 fixed = v->vm_cr & VM_CR_LOCK ? VM_CR_LOCK | VM_CR_SVMDIS : 0;

	if (value & ~VM_CR_VALID)
		return INJECT_GP;
	if ((value & VM_CR_SVMDIS) && (v->svme || vcpu_in_l2(v)))
		return INJECT_GP; /* whatever LOCK says, APM2 §15.30.1 */
	if (value & (VM_CR_DPD | VM_CR_DIS_A20M))
		log_guest("event=vm_cr value=%lx effect=none", value);
	v->vm_cr = (v->vm_cr & fixed) | (value & ~fixed);
	return ADVANCE;
}

static u32 write_hsave(struct vcpu *v, u64 value)
{
	if (value % PAGE_SIZE || value >= v->mem.limit ||
	    vcpu_names_hole(v, value, PAGE_SIZE, "VM_HSAVE_PA"))
		return INJECT_GP;
	v->hsave_pa = value;
	return ADVANCE;
}

/* The running guest's: L2 has one of its own under nested paging, and L1's without (APM2 §15.25.8). */
static struct vmcb_save *pat_owner(struct vcpu *v)
{
	return vcpu_in_l2(v) && v->nested.space ? &v->vmcb02->save : &v->vmcb01->save;
}

static u32 write_pat(struct vcpu *v, u64 value)
{
	if (!vmrun_pat_valid(value))
		return INJECT_GP;
	pat_owner(v)->g_pat = value;
	if (vcpu_in_l2(v) && !v->nested.space)
		v->vmcb02->save.g_pat = value;
	return ADVANCE;
}

/* Where the running guest's DebugCtl and LBRs are while LBR virtualization moves them; NULL: in the CPU, or no such MSR. */
static u64 *lbr_field(struct vcpu *v, u32 msr)
{
	static const struct {
		u32 msr;
		u32 offset;
	} fields[] = {
		{MSR_DEBUGCTL, offsetof(struct vmcb_save, dbgctl)},
		{MSR_BR_FROM, offsetof(struct vmcb_save, br_from)},
		{MSR_BR_TO, offsetof(struct vmcb_save, br_to)},
		{MSR_LAST_EXCP_FROM, offsetof(struct vmcb_save, last_excp_from)},
		{MSR_LAST_EXCP_TO, offsetof(struct vmcb_save, last_excp_to)},
	};

	if (!(v->vmcb->control.virt_ext & LBR_VIRT_ENABLE))
		return NULL;
	for (unsigned int i = 0; i < ARRAY_SIZE(fields); i++)
		if (fields[i].msr == msr)
			return vmcb_save_at(&v->vmcb->save, fields[i].offset);
	return NULL;
}

/* From the first use on LBR virtualization keeps the guest's DebugCtl, so that nothing of L0's is recorded. The CPU tells
 * which values are good. */
static u32 write_debugctl(struct vcpu *v, u64 value)
{
	u64 was = cpu_rdmsr(MSR_DEBUGCTL), kept;

	if (!cpu_wrmsr_safe(MSR_DEBUGCTL, value))
		return INJECT_GP;
	kept = cpu_rdmsr(MSR_DEBUGCTL);
	cpu_wrmsr(MSR_DEBUGCTL, was);
	v->vmcb->save.dbgctl = kept;
	v->vmcb->control.virt_ext |= LBR_VIRT_ENABLE;
	if (!v->nested.own_lbr)
		v->vmcb01->control.virt_ext |=
			LBR_VIRT_ENABLE; /* L1's and L2's are the same then */
	return ADVANCE;
}

static NOINLINE u32 read_other(struct vcpu *v, u32 msr)
{
	const u64 *lbr = lbr_field(v, msr);
	u64 value;

	if (unlikely(lbr)) {
		set_gpr_pair(v, *lbr);
		return ADVANCE;
	}
	switch (msr) {
	case MSR_VM_CR:
		value = v->vm_cr;
		break;
	case MSR_VM_HSAVE_PA:
		value = v->hsave_pa;
		break;
	case MSR_PAT:
		value = pat_owner(v)->g_pat;
		break;
	case MSR_SVM_KEY:
		value = 0; /* write-only, reads 0 (APM2 §15.31) */
		break;
	case MSR_TSC_RATIO:
		if (v->features & SVM_TSC_RATE) {
			value = v->tsc_ratio;
			break;
		}
		if (v->cpu_features & SVM_TSC_RATE)
			return INJECT_GP; /* hidden */
		FALLTHROUGH;
	default:
		if (!cpu_rdmsr_safe(msr, &value))
			return INJECT_GP;
	}
	set_gpr_pair(v, value);
	return ADVANCE;
}

/* For L1's guests only: nested.c puts it into the CPU while one runs. */
static u32 write_tsc_ratio(struct vcpu *v, u64 value)
{
	if (!(v->features & SVM_TSC_RATE) || (value & TSC_RATIO_MBZ))
		return INJECT_GP;
	v->tsc_ratio = value;
	if (vcpu_in_l2(v))
		cpu_wrmsr(MSR_TSC_RATIO, value);
	return ADVANCE;
}

static NOINLINE u32 write_other(struct vcpu *v, u32 msr, u64 value)
{
	u64 *lbr;

	switch (msr) {
	case MSR_VM_CR:
		return write_vm_cr(v, value);
	case MSR_VM_HSAVE_PA:
		return write_hsave(v, value);
	case MSR_PAT:
		return write_pat(v, value);
	case MSR_SVM_KEY:
		return ADVANCE; /* no key is set, so nothing unlocks */
	case MSR_TSC_RATIO:
		if (v->cpu_features & SVM_TSC_RATE)
			return write_tsc_ratio(v, value);
		break;
	case MSR_DEBUGCTL:
		if (v->cpu_features & SVM_LBR_VIRT)
			return write_debugctl(v, value);
		break;
	}
	lbr = lbr_field(v, msr);
	if (unlikely(lbr)) {
		*lbr = value;
		return ADVANCE;
	}
	return cpu_wrmsr_safe(msr, value) ? ADVANCE : INJECT_GP;
}

/* MSRs that may be the PMU's: pmu/ knows which are. The four of PerfMonV2 are intercepted because L1 need not have them;
 * with pmu=off the selectors and counters read 0 and hold nothing. */
static bool in_pmu_blocks(u32 msr)
{
	return (msr & ~0x3ffu) == MSR_LEGACY_PERFEVTSEL(0) || (msr & ~3u) == MSR_PERF_GLOBAL_STATUS;
}

static u32 write_absent_pmu(struct vcpu *v, u32 msr, u64 value)
{
	u64 dropped;

	return pmu_rdmsr(&v->pmu, msr, &dropped) ? write_other(v, msr, value) : ADVANCE;
}

static NOINLINE u32 read_pmu(struct vcpu *v, u32 msr)
{
	u64 value;

	if (pmu_rdmsr(&v->pmu, msr, &value))
		return (msr & ~3u) == MSR_PERF_GLOBAL_STATUS ? INJECT_GP : read_other(v, msr);
	set_gpr_pair(v, v->backend == TALLY_BACKEND_OFF ? 0 : value);
	return ADVANCE;
}

/* A selector takes effect when its WRMSR completes: the WRMSR itself retires before, in the old state (pmu/pmu.h). */
static NOINLINE u32 write_pmu(struct vcpu *v, u32 msr, u64 value)
{
	if (unlikely(v->backend == TALLY_BACKEND_OFF) && (msr & ~3u) != MSR_PERF_GLOBAL_STATUS)
		return write_absent_pmu(v, msr, value);
	if (unlikely(pmu_wrmsr(&v->pmu, msr, value)))
		return (msr & ~3u) == MSR_PERF_GLOBAL_STATUS ? INJECT_GP
							     : write_other(v, msr, value);
	if (!v->pmu.reprogram_pending)
		return ADVANCE;
	vcpu_skip(v);
	vcpu_retire(v);
	backend_selector_written(v);
	if (unlikely(v->vmcb->save.rflags & RFLAGS_TF))
		vcpu_trap(v);
	return RESUME;
}

u32 exit_msr(struct vcpu *v)
{
	u32 msr = (u32)v->gpr[GPR_RCX];

	if (!(v->vmcb->control.exit_info_1 & 1)) {
		if (msr == MSR_EFER) {
			set_gpr_pair(v, guest_efer(v));
			return ADVANCE;
		}
		return in_pmu_blocks(msr) ? read_pmu(v, msr) : read_other(v, msr);
	}
	if (in_pmu_blocks(msr))
		return write_pmu(v, msr, gpr_pair(v));
	return msr == MSR_EFER ? write_efer(v, gpr_pair(v)) : write_other(v, msr, gpr_pair(v));
}

/* CPL and CR4.PCE were checked by the CPU, before the intercept (APM2 table 15-7). */
u32 exit_rdpmc(struct vcpu *v)
{
	u64 value;

	if (pmu_rdpmc(&v->pmu, (u32)v->gpr[GPR_RCX], &value))
		return INJECT_GP;
	/* without a PMU the counters are there and stand still, as their MSRs do */
	set_gpr_pair(v, v->backend == TALLY_BACKEND_OFF ? 0 : value);
	return ADVANCE;
}

/* Its mapping or its bytes have changed since the CPU fetched it: fetched again, it faults or is another. */
static u32 refetch(struct vcpu *v)
{
	if (vcpu_in_l2(v) && v->nested.space)
		shadow_flush(&v->shadow, v->nested.space);
	vcpu_flush_tlb(v);
	return RESUME;
}

/* The value of a control register as the running guest must see it. */
static u64 read_cr(const struct vcpu *v, unsigned int n)
{
	const struct vmcb *vmcb = v->vmcb;

	switch (n) {
	case 0:
		return vmcb->save.cr0;
	case 2:
		return vmcb->save.cr2;
	case 3:
		return vmcb->save.cr3;
	case 4:
		return vmcb->save.cr4;
	default:
		return vmcb->control.int_ctl & V_INTR_MASKING ? vmcb->control.int_ctl & 0xf
							      : cpu_read_cr8();
	}
}

/*
 * L2 reads a control register that L1 does not intercept: only on CPUs with cr_read_quirk, where the intercept is another
 * register's. MOV is done here; SMSW, which may write to memory, runs once without the intercept.
 */
u32 exit_cr_read(struct vcpu *v)
{
	struct insn insn;
	u64 value;

	if (insn_decode(v, &insn) || insn.map != INSN_MAP_0F)
		return refetch(v);
	if (insn.opcode != 0x20) {
		step_begin(v);
		vmcb_clr_intercept(&v->vmcb->control, INTERCEPT_CR_READ(0));
		return RESUME;
	}
	value = read_cr(v, (unsigned int)v->vmcb->control.exit_code);
	*vcpu_gpr(v, insn.rm) = is_64bit(&v->vmcb->save) ? value : (u32)value;
	return ADVANCE;
}

/*
 * MOV CR8: of L2 while V_IRQ is set, because QEMU aborts on it (docs/platforms.md); of L1 while GIF=0, when the CPU would
 * write V_TPR only.
 */
u32 exit_cr8_write(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	struct insn insn;
	u64 value;

	if (insn_decode(v, &insn) || insn.opcode != 0x22)
		return refetch(v);
	value = *vcpu_gpr(v, insn.rm);
	if (value & ~0xfull)
		return INJECT_GP;
	if (!vcpu_in_l2(v) || !(v->nested.ctl.int_ctl & V_INTR_MASKING))
		cpu_write_cr8(value);
	c->int_ctl = (c->int_ctl & ~(u32)V_TPR_MASK) | (u32)value;
	v->next_rip = v->vmcb->save.rip + insn.length;
	return ADVANCE;
}

static u32 hypercall_status(struct vcpu *v, u64 gpa)
{
	struct tally_status status = {
		.version = TALLY_ABI_VERSION,
		.backend = v->backend,
		.exact = vcpu_counts_exactly(v),
		.counters = v->backend == TALLY_BACKEND_OFF ? 0 : PMU_COUNTERS,
		.reprogram_pmc_on_nested_transition = v->pmu.reprogram_pmc_on_nested_transition,
		.evtsel_writes = v->pmu.evtsel_writes,
		.transitions = v->transitions,
		.svme_toggles = v->svme_toggles,
		.exits = v->exits,
		.shadow_fills = v->shadow.fills,
		.shadow_flushes = v->shadow.flushes,
		.tlb_flushes = v->tlb_flushes,
		.shadow_pages = v->shadow.pool.used,
		.hole_accesses = v->hole_accesses,
		.region_gpa = v->hole.start,
		.region_bytes = v->hole.end - v->hole.start,
	};

	for (unsigned int i = 0; i < status.counters; i++) {
		status.counter[i].eventsel = v->pmu.eventsel[i];
		status.counter[i].eventsel_hw = pmu_machine_evtsel(&v->pmu, i);
		pmu_rdpmc(&v->pmu, i, &status.counter[i].value);
	}
	__builtin_memcpy(guest_at(&v->mem, gpa), &status, sizeof(status));
	return 0;
}

/* A buffer that a guest named: inside one page, in memory, not ours. */
static bool buffer_ok(struct vcpu *v, u64 gpa, u64 bytes)
{
	return bytes && bytes <= PAGE_SIZE && gpa < v->mem.limit &&
	       gpa % PAGE_SIZE + bytes <= PAGE_SIZE &&
	       !vcpu_names_hole(v, gpa, bytes, "hypercall-buffer");
}

u32 exit_vmmcall(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	u64 gpa = v->gpr[GPR_RBX], bytes = v->gpr[GPR_RCX];

	if (vcpu_in_l2(v) || s->cpl ||
	    (s->rax != TALLY_CALL_STATUS && s->rax != TALLY_CALL_LOG_READ))
		return INJECT_UD;
	if (s->rax == TALLY_CALL_STATUS) {
		bool ok = !(gpa % 8) && buffer_ok(v, gpa, sizeof(struct tally_status));

		s->rax = ok ? hypercall_status(v, gpa) : (u64)-E_RANGE;
	} else if (buffer_ok(v, gpa, bytes)) {
		s->rax = log_read(&v->gpr[GPR_RDX], guest_at(&v->mem, gpa), bytes);
	} else {
		s->rax = (u64)-E_RANGE;
	}
	return ADVANCE;
}

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

u32 exit_intr(struct vcpu *v)
{
	(void)v; /* INTR or VINTR; it ended a HLT, is pending, and no longer intercepted */
	return RESUME;
}

/* What would exit again and again: L0 takes it, and owes it. */
static void take_events(struct vcpu *v)
{
	cpu_cli();
	v->host_if = false;
	nmi_seen = 0;
	init_seen = 0;
	event_window();
	if (nmi_seen)
		vcpu_set_special(v, SPECIAL_NMI);
	if (init_seen)
		vcpu_set_special(v, SPECIAL_INIT);
}

u32 exit_nmi(struct vcpu *v)
{
	if (!v->gif)
		take_events(v);
	return RESUME; /* with GIF=1 as exit_intr() */
}

/* INIT is L1's as its own VM_CR, GIF and intercepts say: deliver_init(). */
u32 exit_init(struct vcpu *v)
{
	u64 vm_cr = cpu_rdmsr(MSR_VM_CR);

	cpu_wrmsr(MSR_VM_CR, vm_cr | VM_CR_R_INIT);
	take_events(v);
	cpu_wrmsr(MSR_VM_CR, vm_cr);
	if (!(v->special & SPECIAL_INIT)) {
		log_warn("event=init note=\"not redirected by VM_CR.R_INIT: the CPU takes it\"");
		v->l0_intercepts[INTERCEPT(INIT) / 32] &= ~(1u << INTERCEPT(INIT) % 32);
		vcpu_reset_intercepts(v);
	}
	return RESUME;
}

/* FS, GS, TR and LDTR are in the CPU, and move by VMSAVE and VMLOAD. */
void vcpu_init_state(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb01;

	log_info("event=init level=%s", vcpu_in_l2(v) ? "L2" : "L1");
	if (vcpu_in_l2(v))
		nested_leave(v);
	cpu_vmsave(v->vmcb01_hpa);
	event_init_state(&vmcb->save);
	cpu_vmload(v->vmcb01_hpa);
	for (unsigned int i = 0; i < GPR_COUNT; i++)
		v->gpr[i] = 0;
	v->gpr[GPR_RDX] = cpu_cpuid(CPUID_FEATURES, 0).eax;
	vmcb->control.int_state = 0;
	vmcb->control.event_inj = 0;
	vcpu_release_l1(v);
	if (!(v->vm_cr & VM_CR_LOCK))
		v->vm_cr &= ~(u64)VM_CR_SVMDIS;
	if (v->svme)
		vcpu_set_svme(v, false);
}

void halt_end(struct vcpu *v)
{
	v->clock.now = v->halt_now + (v->vmcb->save.rip != v->halt_rip ? v->clock.insn_ticks : 0);
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
	struct vmcb_control *c = &v->vmcb02->control;

	if (v->gif == gif)
		return;
	v->gif = gif;
	if (!(v->nested.ctl.int_ctl & V_INTR_MASKING)) {
		if (gif)
			c->int_ctl &= ~(u32)V_INTR_MASKING;
		else
			c->int_ctl = (c->int_ctl & ~(u32)V_TPR_MASK) | (u32)cpu_read_cr8() |
				     (u32)V_INTR_MASKING;
	}
	nested_hold_virq(v, !gif);
	vcpu_reset_intercepts(v);
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
}

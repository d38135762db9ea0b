/* SPDX-License-Identifier: MIT */
/* RDMSR and WRMSR: what L0 virtualizes (EFER, SVM's own, PAT, DebugCtl and LBRs, TSC_RATIO, the PMU); the CPU has the rest. */
#include "hv/apic.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/apic.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

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
		vmcb_set_intercept(c, INTERCEPT_EXCEPTION(VEC_GP)); /* exit_exception() */
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
	if (value % PAGE_SIZE || vcpu_no_memory(v, value) ||
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

/* Nobody's beyond the CPU's address size (APM2 §16.3.1); in our memory the APIC's registers would be what we run on. */
static u32 write_apic_base(struct vcpu *v, u64 value)
{
	u64 gpa = value & APIC_BASE_ADDRESS;

	if (vcpu_no_memory(v, gpa) || vcpu_names_hole(v, gpa, PAGE_SIZE, "APIC_BASE"))
		return INJECT_GP;
	if (v->smp && gpa >= LOW_GIGABYTES * PAGE_1G) {
		log_guest("event=apic_base value=%lx note=\"above 4 GByte, which is not supported "
			  "with more than one CPU\"",
			  value);
		return INJECT_GP;
	}
	apic_timer_give_back(v);
	return apic_write_base(v, value) ? ADVANCE : INJECT_GP;
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
	case MSR_IRPERF:
		if (irperf_read(v, &value) != ADVANCE)
			return INJECT_GP;
		break;
	case MSR_HWCR:
		if (irperf_read_hwcr(v, &value) != ADVANCE)
			return INJECT_GP;
		break;
	case MSR_MPERF:
	case MSR_MPERF_READONLY: /* an exit of L2's only; L0 reads it without L1's TSC_RATIO */
		if (!cpu_rdmsr_safe(msr, &value))
			return INJECT_GP;
		if (vcpu_in_l2(v) && (v->features & SVM_TSC_RATE))
			value = tsc_ratio_scale(value, v->tsc_ratio);
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
		if (unlikely(hypercall_is_msr(msr))) {
			if (hypercall_rdmsr(v, msr, &value) != ADVANCE)
				return INJECT_GP;
			break;
		}
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

/* A patch could change what the CPU was found to have: CPUID, the PMU. The firmware's stays, and nobody hears of it, as
 * with other hypervisors. */
static u32 write_patch_loader(const struct vcpu *v, u64 value)
{
	static u32 lines;

	log_limited(lines, 1, "event=microcode level=%s address=%lx note=\"ignored\"",
		    vcpu_in_l2(v) ? "L2" : "L1", value);
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
	case MSR_APIC_BASE:
		return write_apic_base(v, value);
	case APIC_X2_MSR(APIC_ICR):
		if (v->smp && v->apic.own.x2)
			return apic_write_x2_icr(v, value);
		break;
	case MSR_PATCH_LOADER:
		return write_patch_loader(v, value);
	case MSR_SVM_KEY:
		return ADVANCE; /* no key is set, so nothing unlocks */
	case MSR_TSC_RATIO:
		if (v->cpu_features & SVM_TSC_RATE)
			return write_tsc_ratio(v, value);
		break;
	case MSR_IRPERF:
		return irperf_write(v, value);
	case MSR_HWCR:
		return irperf_write_hwcr(v, value);
	case MSR_DEBUGCTL:
		if (!debugctl_valid(value))
			return INJECT_GP;
		if (v->cpu_features & SVM_LBR_VIRT)
			return write_debugctl(v, value);
		break;
	}
	if (unlikely(hypercall_is_msr(msr)))
		return hypercall_wrmsr(v, msr, value);
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

/* Of these, what the guest must not reach in the machine: if the model has it not, it is not there. */
static bool model_only(u32 msr)
{
	return (msr & ~3u) == MSR_PERF_GLOBAL_STATUS || msr - MSR_PERFEVTSEL(0) < 2 * PMU_COUNTERS;
}

/* pmu.flaw=, for tests: whether a write has no effect at all; else *value is what is left of it. */
static bool flaw_drops(const struct vcpu *v, u32 msr, u64 *value)
{
	enum pmu_flaw flaw = v->pmu_flaw;
	unsigned int idx;
	bool is_ctr;

	if (pmu_decode_msr(&v->pmu, msr, &idx, &is_ctr))
		return flaw == PMU_FLAW_FIXED_CONTROL && msr == MSR_PERF_GLOBAL_CTL;
	switch (flaw) {
	case PMU_FLAW_NO_HOST_GUEST:
	case PMU_FLAW_UNEVEN:
		*value &= is_ctr ? ~0ull : ~EVTSEL_HOST_GUEST;
		return false;
	case PMU_FLAW_LOSE_BITS:
		*value &= is_ctr ? ~0ull : EVTSEL_EVENT_LO | EVTSEL_USR | EVTSEL_OS | EVTSEL_EN;
		return false;
	case PMU_FLAW_DROP_WRITES:
		return true;
	case PMU_FLAW_FOUR_COUNTERS:
		return idx >= 4;
	case PMU_FLAW_FIXED_COUNTERS:
		return is_ctr;
	default:
		return false;
	}
}

static NOINLINE u32 read_pmu(struct vcpu *v, u32 msr)
{
	u64 value;

	if (pmu_rdmsr(&v->pmu, msr, &value))
		return model_only(msr) ? INJECT_GP : read_other(v, msr);
	v->pmu_accesses++;
	set_gpr_pair(v, v->backend == TALLY_BACKEND_OFF ? 0 : value);
	return ADVANCE;
}

/* A selector takes effect when its WRMSR completes: the WRMSR itself retires before, in the old state (pmu/pmu.h). */
static NOINLINE u32 write_pmu(struct vcpu *v, u32 msr, u64 value)
{
	if (unlikely(pmu_wrmsr(&v->pmu, msr, value)))
		return model_only(msr) ? INJECT_GP : write_other(v, msr, value);
	v->pmu_accesses++;
	if (!v->pmu.reprogram_pending)
		return ADVANCE;
	vcpu_skip(v);
	vcpu_retire(v);
	backend_selector_written(v);
	if (unlikely(v->vmcb->save.rflags & RFLAGS_TF))
		vcpu_trap(v);
	return RESUME;
}

/* pmu=off or pmu.flaw=. */
static NOINLINE u32 write_odd_pmu(struct vcpu *v, u32 msr, u64 value)
{
	u64 dropped;

	if (v->backend == TALLY_BACKEND_OFF && (msr & ~3u) != MSR_PERF_GLOBAL_STATUS)
		return pmu_rdmsr(&v->pmu, msr, &dropped) ? write_other(v, msr, value) : ADVANCE;
	if (flaw_drops(v, msr, &value))
		return ADVANCE;
	if (v->pmu_flaw == PMU_FLAW_UNEVEN) {
		/* Numerical Recipes' generator: nothing that a loop of L1's could be in step with */
		v->pmu_uneven = v->pmu_uneven * 1664525 + 1013904223;
		if (v->pmu_uneven >> 29 == 0)
			vcpu_retire(v);
	}
	return write_pmu(v, msr, value);
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
		return unlikely(v->pmu_odd) ? write_odd_pmu(v, msr, gpr_pair(v))
					    : write_pmu(v, msr, gpr_pair(v));
	return msr == MSR_EFER ? write_efer(v, gpr_pair(v)) : write_other(v, msr, gpr_pair(v));
}

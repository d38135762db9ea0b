/* SPDX-License-Identifier: MIT */
/* Exits of instructions that any guest may use: CPUID, RDPMC, MOV of control registers. MSRs: exit_msr.c, VMMCALL:
 * hypercall.c. */
#include "hv/core/insn.h"
#include "hv/cpu.h"
#include "hv/iommu.h"
#include "hv/known.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

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
				(vcpu_interrupts_exactly(v) ? TALLY_STATUS_ECX_PMI_EXACT : 0) |
				(iommu_protects() ? TALLY_STATUS_ECX_DMA_PROTECTED : 0) |
				v->depth << 8 | v->lowest_backend << 16,
			v->clock.shift};
		break;
	case TALLY_CPUID_PMU_ACCESSES: {
		struct cpuid_leaf below = {0};

		if (v->depth > 1)
			below = cpu_cpuid(TALLY_CPUID_PMU_ACCESSES, 0);
		*l = (struct cpuid_leaf){(u32)v->pmu_accesses, (u32)(v->pmu_accesses >> 32),
					 below.eax, below.ebx};
		break;
	}
	default:
		*l = (struct cpuid_leaf){0};
	}
}

static NOINLINE u32 exit_cpuid_other(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	u32 leaf = (u32)s->rax;
	struct cpuid_view view = {.ext_max = v->cpuid_ext_max,
				  .svm = v->features,
				  .phys_bits = v->phys_bits,
				  .core_extra =
					  v->backend != TALLY_BACKEND_OFF && v->pmu.extended_msrs,
				  .perfmon_v2 = v->pmu.has_v2,
				  .irperf = v->irperf.offered};
	struct cpuid_leaf l;

	if (leaf >= CPUID_HYPERVISOR && leaf <= CPUID_HYPERVISOR_LAST) {
		cpuid_own(v, leaf, &l);
	} else {
		l = cpu_cpuid(leaf, (u32)v->gpr[GPR_RCX]);
		if (leaf >= CPUID_EXT_MAX)
			cpuid_extended(&view, leaf, &l);
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

/* CPL and CR4.PCE were checked by the CPU, before the intercept (APM2 table 15-7). */
u32 exit_rdpmc(struct vcpu *v)
{
	u64 value;

	if (pmu_rdpmc(&v->pmu, (u32)v->gpr[GPR_RCX], &value))
		return INJECT_GP;
	v->pmu_accesses++;
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
	if (nested_holds_tpr(v))
		v->nested.ctl.int_ctl = (v->nested.ctl.int_ctl & ~(u32)V_TPR_MASK) | (u32)value;
	return ADVANCE;
}

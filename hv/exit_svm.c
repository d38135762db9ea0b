/* SPDX-License-Identifier: MIT */
/* L1's SVM instructions but for VMRUN (nested.c). APM2 §15.4: #UD with EFER.SVME=0; CPL was checked by the CPU. */
#include "hv/core/event.h"
#include "hv/core/insn.h"
#include "hv/core/merge.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/vcpu.h"
#include "x86/cr.h"

static bool svm_disabled(const struct vcpu *v)
{
	return !v->svme && !vcpu_in_l2(v);
}

/*
 * VMLOAD and VMSAVE move FS, GS, TR, LDTR and the SYSCALL and SYSENTER MSRs, which L0 leaves in the CPU for the guest. So
 * L0 executes them on the page that the guest named; gpa = hpa. Of L2, too, the address is L1-physical (APM2 §15.33.1).
 */
u32 exit_vmload(struct vcpu *v)
{
	u64 gpa;

	if (svm_disabled(v))
		return INJECT_UD;
	gpa = svm_operand(v);
	if (svm_bad_vmcb(v, gpa, "VMLOAD"))
		return INJECT_GP;
	cpu_vmload(gpa);
	return ADVANCE;
}

u32 exit_vmsave(struct vcpu *v)
{
	u64 gpa;

	if (svm_disabled(v))
		return INJECT_UD;
	gpa = svm_operand(v);
	if (svm_bad_vmcb(v, gpa, "VMSAVE"))
		return INJECT_GP;
	cpu_vmsave(gpa);
	return ADVANCE;
}

u32 exit_stgi(struct vcpu *v)
{
	if (svm_disabled(v))
		return INJECT_UD; /* SKINIT is not offered, so no exception from the rule (APM2 §15.31) */
	if (unlikely(vcpu_in_l2(v)))
		nested_set_gif(v, true);
	else
		vcpu_release_l1(v);
	return ADVANCE;
}

u32 exit_clgi(struct vcpu *v)
{
	if (svm_disabled(v))
		return INJECT_UD;
	if (unlikely(vcpu_in_l2(v)))
		nested_set_gif(v, false);
	else
		vcpu_hold_l1(v);
	return ADVANCE;
}

u32 exit_skinit(struct vcpu *v)
{
	(void)v;
	return INJECT_UD; /* hidden in CPUID 8000_0001 ECX[12] */
}

/* ECX is L1's ASID: 0 its own, else one of L2's. The shadow tables translate L2-physical addresses and stay. */
u32 exit_invlpga(struct vcpu *v)
{
	u64 address = v->vmcb->save.rax;
	u32 vasid = (u32)v->gpr[GPR_RCX];

	if (svm_disabled(v))
		return INJECT_UD;
	if (!vasid)
		cpu_invlpga(address, ASID_L1);
	for (unsigned int i = 0; vasid && i < SHADOW_SPACES; i++)
		if (v->shadow.space[i].in_use && v->shadow.space[i].vasid == vasid)
			cpu_invlpga(address, ASID_SHADOW(i));
	if (vasid && v->nested.no_npt_vasid == vasid)
		cpu_invlpga(address, ASID_L2_NO_NPT);
	return ADVANCE;
}

/* VMMCALL has neither CPL check nor operand. */
bool is_svm_instruction(struct vcpu *v)
{
	u8 bytes[INSN_MAX_BYTES];
	struct insn insn;

	if (insn_length(bytes, insn_bytes(v, bytes, sizeof(bytes)), vcpu_insn_mode(v), &insn))
		return false;
	return insn.map == INSN_MAP_0F && insn.opcode == 0x01 && insn.modrm >= 0xd8 &&
	       insn.modrm <= 0xdf && insn.modrm != 0xd9;
}

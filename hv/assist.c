/* SPDX-License-Identifier: MIT */
/*
 * What L1 is told about the instruction of L2 that exited, on CPUs that do not tell: nRIP, decode assists, and which control
 * register was read. All of it is put into vmcb02, where the CPU would have put it. APM2 §15.7.1, §15.8.
 */
#include "hv/core/operand.h"
#include "hv/cpu.h"
#include "hv/known.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* known_walk() for L2: each step goes through the shadow tables, as the CPU's own did. */
static bool known_walk_l2(struct vcpu *v, struct known_exit *known)
{
	const struct vmcb_save *s = &v->vmcb->save;
	const struct shadow_space *space = v->nested.space;
	u64 entry = s->cr3, at, offset;
	unsigned int n = 0;

	for (unsigned int shift = 39;; shift -= 9) {
		at = (entry & PTE_ADDR) + ((s->rip >> shift) & 511) * 8;
		if (space && !shadow_translate(&v->shadow, space, at, &at))
			return false;
		if (at >= v->mem.limit)
			return false;
		known->entry[n] = guest_at(&v->mem, at);
		known->value[n] = entry = *known->entry[n];
		n++;
		offset = BIT(shift) - 1;
		if (!(entry & PTE_P))
			return false;
		if (shift == 12 || (shift < 39 && (entry & PTE_PS)))
			break;
	}
	for (; n < ARRAY_SIZE(known->entry); n++) {
		known->entry[n] = known->entry[n - 1];
		known->value[n] = entry;
	}
	at = (entry & PTE_ADDR & ~offset) | (s->rip & offset);
	if (space && !shadow_translate(&v->shadow, space, at, &at))
		return false;
	if (at >= v->mem.limit)
		return false;
	known->insn = guest_at(&v->mem, at);
	known->generation = space ? space->generation : 0;
	return true;
}

/* Exits with a decode assist of their own in EXITINFO1. */
static bool has_operands(u64 code)
{
	return code < VMEXIT_EXCEPTION(0) || code == VMEXIT_CR0_SEL_WRITE || code == VMEXIT_SWINT ||
	       code == VMEXIT_INVLPG;
}

/* nRIP of a new or long instruction. Short ones become known, unless they have to be decoded each time. */
static NOINLINE u64 find_next_rip(struct vcpu *v, struct known_exit *known, u64 code)
{
	const struct vmcb_save *s = &v->vmcb->save;
	struct insn insn;

	known->rip = ~0ull;
	if (insn_decode(v, &insn) || !exit_insn_matches(code, &insn))
		return 0; /* L1 changed it after the CPU had fetched it */
	if (insn.length <= sizeof(known->bytes) && known_mode(s) &&
	    s->rip % PAGE_SIZE <= PAGE_SIZE - sizeof(known->bytes) && known_walk_l2(v, known)) {
		known->bytes = *known->insn;
		known->next_rip = v->next_rip;
		known->plain = !has_operands(code);
		known_note(known, s, code);
	}
	return v->next_rip;
}

/* Of an exit without a known instruction. */
static NOINLINE u64 next_rip(struct vcpu *v, struct known_exit *known, u64 code)
{
	if (code == VMEXIT_IOIO)
		return v->vmcb->control.exit_info_2;
	return exit_has_nrip(code) ? find_next_rip(v, known, code) : 0;
}

/* EXITINFO1 of the exits that have a decode assist. */
static NOINLINE void assist_operands(struct vcpu *v, u64 code)
{
	struct vmcb *vmcb = v->vmcb;
	struct insn insn;
	u64 gpr[16];

	vmcb->control.exit_info_1 = 0;
	if (insn_decode(v, &insn))
		return;
	if (code != VMEXIT_INVLPG) {
		vmcb->control.exit_info_1 = insn_decode_assist(code, &insn);
		return;
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(gpr); i++)
		gpr[i] = *vcpu_gpr(v, i);
	/* FS and GS are the CPU's: L0 does not switch them */
	vmcb->control.exit_info_1 =
		insn_linear_address(&insn, gpr, v->next_rip, &vmcb->save, cpu_rdmsr(MSR_FS_BASE),
				    cpu_rdmsr(MSR_GS_BASE));
}

/* The bytes of an instruction whose access to data faulted (APM2 §15.8.4). */
static NOINLINE void assist_bytes(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;

	if (!(c->exit_info_1 & PFERR_ID))
		c->insn_len = (u8)insn_bytes(v, c->insn_bytes, sizeof(c->insn_bytes));
}

/* What else than nRIP there is to say. */
static NOINLINE void assist_decode(struct vcpu *v, u64 code)
{
	v->vmcb->control.insn_len = 0;
	if (has_operands(code))
		assist_operands(v, code);
	else if (code == VMEXIT_NPF || code == VMEXIT_EXCEPTION(VEC_PF))
		assist_bytes(v);
}

void exit_assist(struct vcpu *v, u64 code)
{
	struct vmcb *vmcb = v->vmcb;
	u32 wanted = v->features & ~v->cpu_features;
	struct known_exit *known = &v->known_l2[vmcb->save.rip % KNOWN_L2_EXITS];

	if (likely(wanted & SVM_NRIPS)) {
		if (likely(known_is(known, &vmcb->save, code, vmcb->save.rip) &&
			   known->generation ==
				   (v->nested.space ? v->nested.space->generation : 0))) {
			vmcb->control.next_rip = known->next_rip;
			if (likely(known->plain)) {
				vmcb->control.insn_len = 0;
				return;
			}
		} else {
			vmcb->control.next_rip = next_rip(v, known, code);
		}
	}
	if (wanted & SVM_DECODE_ASSISTS)
		assist_decode(v, code);
}

u64 exit_which_cr_read(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	struct insn insn;

	/* LOCK makes CR8 of CR0, APM3 "MOV CRn" */
	if (!insn_decode(v, &insn) && insn.map == INSN_MAP_0F && insn.opcode == 0x20)
		c->exit_code =
			VMEXIT_CR_READ(insn.reg | (insn.prefixes & INSN_PREFIX_LOCK ? 8u : 0));
	return c->exit_code;
}

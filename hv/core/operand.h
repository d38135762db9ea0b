/* SPDX-License-Identifier: MIT */
/*
 * What SVM's NRIPS and decode assists say of an intercepted instruction, found by decoding, for CPUs that do not say it.
 * APM2 rev. 3.44 §15.7.1, §15.8; addresses: APM1 §2.2, APM3 rev. 3.36 §1.4 and §1.7.
 */
#ifndef TALLY_CORE_OPERAND_H
#define TALLY_CORE_OPERAND_H

#include "hv/core/insn.h"
#include "types.h"
#include "x86/svm.h"

/* EXITINFO1 of CR accesses: the instruction was MOV, not LMSW, SMSW or CLTS (APM2 §15.8.1) */
#define DECODE_MOV_CR BIT(63)

/*
 * Linear address of an instruction's ModRM operand in memory (insn->has_modrm, insn->mod != 3). gpr: in the order of
 * their numbers, RAX and RSP included; next_rip: of the instruction after it; s: mode and segment bases, but those of FS
 * and GS, which only VMSAVE puts there. Not checked: limits, canonical form.
 */
u64 insn_linear_address(const struct insn *insn, const u64 gpr[16], u64 next_rip,
			const struct vmcb_save *s, u64 fs_base, u64 gs_base);

/*
 * EXITINFO1 of exits whose decode assist hangs on the instruction alone: MOV CR and CR0_SEL_WRITE, MOV DR, INTn. 0 for
 * every other exit; INVLPG's is insn_linear_address().
 */
u64 insn_decode_assist(u64 exit_code, const struct insn *insn);

/* Whether #VMEXIT saves nRIP with this code, or 0. */
bool exit_has_nrip(u64 exit_code);

#endif

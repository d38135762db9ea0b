/* SPDX-License-Identifier: MIT */
/* Instruction length decoder, for CPUs that do not save nRIP at #VMEXIT. Opcode maps: APM3 rev.
 * 3.36, appendix A. */
#ifndef TALLY_CORE_INSN_H
#define TALLY_CORE_INSN_H

#include "types.h"

#define INSN_MAX_BYTES 15 /* a longer instruction is #GP, APM3 §1.1 */

enum insn_mode {
	INSN_16,
	INSN_32,
	INSN_64,
};

enum insn_map {
	INSN_MAP_ONE,
	INSN_MAP_0F,
	INSN_MAP_0F38,
	INSN_MAP_0F3A,
	INSN_MAP_3DNOW, /* 0F 0F: the opcode is the byte after the operands */
};

/* Legacy prefixes seen. A segment override is the last one that counts, in struct insn.segment. */
#define INSN_PREFIX_66 BIT(0)
#define INSN_PREFIX_67 BIT(1)
#define INSN_PREFIX_LOCK BIT(2)
#define INSN_PREFIX_REPNE BIT(3)
#define INSN_PREFIX_REP BIT(4)
#define INSN_PREFIX_SEGMENT BIT(5)

struct insn {
	u8 length;
	u8 prefixes;	  /* INSN_PREFIX_* */
	u8 segment;	  /* with INSN_PREFIX_SEGMENT: 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS */
	u8 rex;		  /* 0: none (or cancelled by a legacy prefix after it) */
	u8 map;		  /* enum insn_map */
	u8 opcode;	  /* last opcode byte */
	u8 operand_bytes; /* effective operand size 2, 4 or 8, before an opcode's own default */
	u8 address_bytes; /* effective address size 2, 4 or 8 */
	bool has_modrm;
	bool has_sib;
	u8 modrm;
	u8 sib;
	u8 mod;
	u8 reg; /* ModRM.reg with REX.R */
	u8 rm;	/* ModRM.rm with REX.B (of no use as a register number if has_sib) */
	u8 disp_bytes;
	u8 imm_bytes; /* all immediates together: 3 for ENTER, 6 for a far pointer, 8 for moffs */
	s32 disp;     /* sign-extended */
	u64 imm;      /* little endian, zero-extended */
};

/* Decodes the instruction in bytes[0..n). Returns 0, or
 * -E_FAULT  it needs more than n bytes,
 * -E_INVAL  it is longer than 15 bytes, which is #GP,
 * -E_UNSUPP VEX, EVEX, XOP, or an opcode that does not exist in this mode (#UD). */
int insn_length(const u8 *bytes, unsigned int n, enum insn_mode mode, struct insn *out);

#endif

/* SPDX-License-Identifier: MIT */
/* Effective addresses once more, each form of ModRM and SIB written out, and the list of exits with nRIP as names. */
#ifndef TALLY_OPERAND_NAIVE_H
#define TALLY_OPERAND_NAIVE_H

#include "hv/core/insn.h"
#include "x86/svm.h"

struct naive_operand {
	u64 offset; /* within the segment */
	bool stack; /* SS by default */
};

static inline struct naive_operand naive_operand_16(const struct insn *insn, const u64 g[16])
{
	struct naive_operand o = {0};

	switch (insn->modrm & 0xc7) {
	case 0x06: /* [disp16] */
		break;
	case 0x00:
	case 0x40:
	case 0x80: /* [bx + si] */
		o.offset = g[3] + g[6];
		break;
	case 0x01:
	case 0x41:
	case 0x81: /* [bx + di] */
		o.offset = g[3] + g[7];
		break;
	case 0x02:
	case 0x42:
	case 0x82: /* [bp + si] */
		o = (struct naive_operand){g[5] + g[6], true};
		break;
	case 0x03:
	case 0x43:
	case 0x83: /* [bp + di] */
		o = (struct naive_operand){g[5] + g[7], true};
		break;
	case 0x04:
	case 0x44:
	case 0x84: /* [si] */
		o.offset = g[6];
		break;
	case 0x05:
	case 0x45:
	case 0x85: /* [di] */
		o.offset = g[7];
		break;
	case 0x46:
	case 0x86: /* [bp] */
		o = (struct naive_operand){g[5], true};
		break;
	case 0x07:
	case 0x47:
	case 0x87: /* [bx] */
		o.offset = g[3];
		break;
	}
	o.offset = (o.offset + (u64)(s64)insn->disp) & 0xffff;
	return o;
}

static inline struct naive_operand naive_operand_32(const struct insn *insn, const u64 g[16],
						    bool mode_64, u64 next_rip)
{
	unsigned int b8 = insn->rex & 1 ? 8 : 0, x8 = insn->rex & 2 ? 8 : 0;
	struct naive_operand o = {0};

	if ((insn->modrm & 7) == 4) {
		static const u8 scale[] = {1, 2, 4, 8};
		unsigned int base = insn->sib & 7, index = (insn->sib >> 3 & 7u) + x8;

		if (!(base == 5 && insn->modrm < 0x40)) {
			o.offset = g[base + b8];
			o.stack = !b8 && (base == 4 || base == 5);
		}
		if (index != 4)
			o.offset += g[index] * scale[insn->sib >> 6];
	} else if ((insn->modrm & 0xc7) == 0x05) {
		if (mode_64)
			o.offset = next_rip;
	} else {
		o.offset = g[(insn->modrm & 7u) + b8];
		o.stack = (insn->modrm & 7) == 5 && !b8;
	}
	o.offset += (u64)(s64)insn->disp;
	if (insn->address_bytes == 4)
		o.offset = (u32)o.offset;
	return o;
}

static inline u64 naive_linear(const struct insn *insn, const u64 g[16], u64 next_rip,
			       const struct vmcb_save *s, u64 fs_base, u64 gs_base)
{
	bool mode_64 = (s->efer >> 10 & 1) && (s->cs.attrib >> 9 & 1);
	u64 bases[] = {s->es.base, s->cs.base, s->ss.base, s->ds.base, fs_base, gs_base};
	struct naive_operand o = insn->address_bytes == 2
					 ? naive_operand_16(insn, g)
					 : naive_operand_32(insn, g, mode_64, next_rip);
	unsigned int segment = insn->prefixes & INSN_PREFIX_SEGMENT ? insn->segment
			       : o.stack			    ? 2
								    : 3;

	if (mode_64) /* flat but for FS and GS */
		return segment >= 4 ? o.offset + bases[segment] : o.offset;
	return (o.offset + bases[segment]) & 0xffffffff;
}

/* By name: the exits of APM2 §15.9, MSR and IOIO, and those of INT3, INTO and BOUND. */
static inline bool naive_has_nrip(u64 code)
{
	static const u64 names[] = {
		VMEXIT_EXCEPTION(3), VMEXIT_EXCEPTION(4),
		VMEXIT_EXCEPTION(5), VMEXIT_CR0_SEL_WRITE,
		VMEXIT_IDTR_READ,    VMEXIT_GDTR_READ,
		VMEXIT_LDTR_READ,    VMEXIT_TR_READ,
		VMEXIT_IDTR_WRITE,   VMEXIT_GDTR_WRITE,
		VMEXIT_LDTR_WRITE,   VMEXIT_TR_WRITE,
		VMEXIT_RDTSC,	     VMEXIT_RDPMC,
		VMEXIT_PUSHF,	     VMEXIT_POPF,
		VMEXIT_CPUID,	     VMEXIT_RSM,
		VMEXIT_IRET,	     VMEXIT_SWINT,
		VMEXIT_INVD,	     VMEXIT_PAUSE,
		VMEXIT_HLT,	     VMEXIT_INVLPG,
		VMEXIT_INVLPGA,	     VMEXIT_IOIO,
		VMEXIT_MSR,	     VMEXIT_VMRUN,
		VMEXIT_VMMCALL,	     VMEXIT_VMLOAD,
		VMEXIT_VMSAVE,	     VMEXIT_STGI,
		VMEXIT_CLGI,	     VMEXIT_SKINIT,
		VMEXIT_RDTSCP,	     VMEXIT_ICEBP,
		VMEXIT_WBINVD,	     VMEXIT_MONITOR,
		VMEXIT_MWAIT,	     VMEXIT_MWAIT_CONDITIONAL,
		VMEXIT_XSETBV,	     VMEXIT_RDPRU,
		VMEXIT_INVLPGB,	     VMEXIT_INVLPGB_ILLEGAL,
		VMEXIT_INVPCID,	     VMEXIT_MCOMMIT,
		VMEXIT_TLBSYNC,	     VMEXIT_IDLE_HLT,
	};

	if (code < VMEXIT_EXCEPTION(0)) /* CR and DR */
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (code == names[i])
			return true;
	return false;
}

/* EXITINFO1 of MOV CR and DR and of INTn, by what the instruction is. */
static inline u64 naive_decode_assist(u64 code, const struct insn *insn)
{
	bool cr_exit = code <= 0x1f || code == VMEXIT_CR0_SEL_WRITE;
	bool dr_exit = code >= 0x20 && code <= 0x3f;
	unsigned int gpr = (insn->modrm & 7u) + (insn->rex & 1 ? 8 : 0);

	if (insn->map == INSN_MAP_0F && (insn->opcode == 0x20 || insn->opcode == 0x22) && cr_exit)
		return (1ull << 63) + gpr;
	if (insn->map == INSN_MAP_0F && (insn->opcode == 0x21 || insn->opcode == 0x23) && dr_exit)
		return gpr;
	if (insn->map == INSN_MAP_ONE && insn->opcode == 0xcd && code == VMEXIT_SWINT)
		return insn->imm & 0xff;
	return 0;
}

#endif

/* SPDX-License-Identifier: MIT */
#include "hv/core/operand.h"
#include "x86/cr.h"

enum {
	RAX,
	RCX,
	RDX,
	RBX,
	RSP,
	RBP,
	RSI,
	RDI,
	NO_REGISTER = 16,
};

enum {
	SS = 2,
	DS = 3,
	FS = 4,
	GS = 5,
};

/* base + (index << shift), and the segment that goes with the base. */
struct address {
	unsigned int base, index, shift;
	unsigned int segment;
};

/* APM3 §A.3 */
static struct address address_16(const struct insn *insn)
{
	static const u8 base[] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
	static const u8 index[] = {RSI,		RDI,	     RSI,	  RDI,
				   NO_REGISTER, NO_REGISTER, NO_REGISTER, NO_REGISTER};
	unsigned int rm = insn->modrm & 7;
	struct address a = {base[rm], index[rm], 0, DS};

	if (rm == 6 && insn->mod == 0)
		a.base = NO_REGISTER;
	if (a.base == RBP)
		a.segment = SS;
	return a;
}

/* APM3 §A.3. What stands for "no base" does so whatever REX.B is, but "no index" only with REX.X clear. */
static struct address address_32(const struct insn *insn)
{
	struct address a = {insn->rm, NO_REGISTER, 0, DS};
	unsigned int low = insn->modrm & 7;

	if (insn->has_sib) {
		a.index = ((insn->sib >> 3) & 7u) | (insn->rex & 2u) << 2;
		if (a.index == RSP)
			a.index = NO_REGISTER;
		a.shift = insn->sib >> 6;
		low = insn->sib & 7;
		a.base = low | (insn->rex & 1u) << 3;
	}
	if (low == RBP && insn->mod == 0)
		a.base = NO_REGISTER;
	if (a.base == RSP || a.base == RBP)
		a.segment = SS;
	return a;
}

static u64 segment_base(unsigned int segment, const struct vmcb_save *s, u64 fs_base, u64 gs_base)
{
	switch (segment) {
	case 0:
		return s->es.base;
	case 1:
		return s->cs.base;
	case SS:
		return s->ss.base;
	case FS:
		return fs_base;
	case GS:
		return gs_base;
	default:
		return s->ds.base;
	}
}

u64 insn_linear_address(const struct insn *insn, const u64 gpr[16], u64 next_rip,
			const struct vmcb_save *s, u64 fs_base, u64 gs_base)
{
	bool mode_64 = (s->efer & EFER_LMA) && (s->cs.attrib & SEG_ATTR_L);
	struct address a = insn->address_bytes == 2 ? address_16(insn) : address_32(insn);
	u64 address = (u64)(s64)insn->disp;

	if (a.base != NO_REGISTER)
		address += gpr[a.base];
	else if (mode_64 && !insn->has_sib)
		address += next_rip;
	if (a.index != NO_REGISTER)
		address += gpr[a.index] << a.shift;
	address &= ~0ull >> (64 - 8 * insn->address_bytes);

	if (insn->prefixes & INSN_PREFIX_SEGMENT)
		a.segment = insn->segment;
	if (!mode_64)
		return (u32)(address + segment_base(a.segment, s, fs_base, gs_base));
	return a.segment >= FS ? address + segment_base(a.segment, s, fs_base, gs_base) : address;
}

u64 insn_decode_assist(u64 exit_code, const struct insn *insn)
{
	bool is_0f = insn->map == INSN_MAP_0F;

	if (exit_code < VMEXIT_DR_READ(0) || exit_code == VMEXIT_CR0_SEL_WRITE)
		return is_0f && (insn->opcode & 0xfd) == 0x20 ? DECODE_MOV_CR | insn->rm : 0;
	if (exit_code < VMEXIT_EXCEPTION(0))
		return is_0f && (insn->opcode & 0xfd) == 0x21 ? insn->rm : 0;
	if (exit_code == VMEXIT_SWINT)
		return insn->map == INSN_MAP_ONE && insn->opcode == 0xcd ? insn->imm : 0;
	return 0;
}

/*
 * APM2 §15.7.1: nRIP is saved for instruction intercepts (those of §15.9), MSR, IOIO, and the exceptions of INT3, INTO
 * and BOUND; it is 0 for all other exits. So, code by code:
 *   00-3F  MOV CR, LMSW, SMSW, CLTS, MOV DR   yes: instructions
 *   40-5F  exceptions                         #BP, #OF, #BR only; a #DB of ICEBP is not among them
 *   60-64  INTR, NMI, SMI, INIT, VINTR        no: between instructions
 *   65-7C  CR0_SEL_WRITE to MSR               yes: instructions, IOIO and MSR included
 *   7D     TASK_SWITCH                        no: by whatever instruction or event, §15.14.1
 *   7E-7F  FERR_FREEZE, SHUTDOWN              no: no instruction of their own, §15.14.2 and 3
 *   80-8E  VMRUN to RDPRU, ICEBP among them   yes: instructions
 *   8F-9F  EFER and CR write traps            no: RIP is behind the instruction already (SEV-ES only)
 *   A0-A4  INVLPGB to TLBSYNC                 yes: instructions
 *   A5     BUSLOCK                            no: a trap on what an access does, §15.14.5
 *   A6     IDLE_HLT                           yes: HLT
 *   400 on NPF, AVIC, VMGEXIT, the refusals   no
 */
bool exit_has_nrip(u64 exit_code)
{
	static const u64 has[] = {
		~0ull,
		BIT(VEC_BP) | BIT(VEC_OF) | BIT(VEC_BR) |
			BITS(VMEXIT_MSR - 64, VMEXIT_CR0_SEL_WRITE - 64),
		BITS(VMEXIT_RDPRU - 128, VMEXIT_VMRUN - 128) |
			BITS(VMEXIT_TLBSYNC - 128, VMEXIT_INVLPGB - 128) |
			BIT(VMEXIT_IDLE_HLT - 128),
	};

	return exit_code < 64 * ARRAY_SIZE(has) && (has[exit_code / 64] >> (exit_code % 64) & 1);
}

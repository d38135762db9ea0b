/* SPDX-License-Identifier: MIT */
/* The two interfaces of libzydis that distributions have: 3.x, and 4.x with operands apart from the instruction. */
#ifndef TALLY_FUZZ_ZYDIS_H
#define TALLY_FUZZ_ZYDIS_H

#include <Zydis/Zydis.h>

#include "hv/core/insn.h"

/* ZYDIS_VERSION has a cast, which the preprocessor cannot read; this header came with 4.0 */
#define ZYDIS_4 __has_include(<Zydis/Disassembler.h>)

struct zydis {
	ZydisDecodedInstruction insn;
#if ZYDIS_4
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
#endif
};

static inline ZyanStatus zydis_decode(struct zydis *z, enum insn_mode mode, const u8 *bytes,
				      size_t n)
{
	static const ZydisMachineMode machine[] = {ZYDIS_MACHINE_MODE_LEGACY_16,
						   ZYDIS_MACHINE_MODE_LEGACY_32,
						   ZYDIS_MACHINE_MODE_LONG_64};
	ZydisDecoder decoder;

#if ZYDIS_4
	static const ZydisStackWidth width[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
						ZYDIS_STACK_WIDTH_64};
#else
	static const ZydisAddressWidth width[] = {ZYDIS_ADDRESS_WIDTH_16, ZYDIS_ADDRESS_WIDTH_32,
						  ZYDIS_ADDRESS_WIDTH_64};
#endif
	ZydisDecoderInit(&decoder, machine[mode], width[mode]);
	/* AMD's reading of 66 with a near branch in 64-bit mode */
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	/* Intel's, where AMD has NOPs, and 3E an override and no NOTRACK */
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
#if ZYDIS_4
	return ZydisDecoderDecodeFull(&decoder, bytes, n, &z->insn, z->operands);
#else
	return ZydisDecoderDecodeBuffer(&decoder, bytes, n, &z->insn);
#endif
}

static inline const ZydisDecodedOperand *zydis_operand(const struct zydis *z, unsigned int i)
{
#if ZYDIS_4
	return &z->operands[i];
#else
	return &z->insn.operands[i];
#endif
}

#endif

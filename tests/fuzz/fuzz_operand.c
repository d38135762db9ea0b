/* SPDX-License-Identifier: MIT */
/* Addresses of operands, EXITINFO1 of decode assists and nRIP, against the twin; fuzz_insn.c has zydis' addresses. */
#include "hv/core/operand.h"
#include "x86/cr.h"
#include "tests/host/operand_naive.h"
#include "fuzz.h"
#include "random_insn.h"

void fuzz_one(void)
{
	enum insn_mode mode;
	u8 bytes[RANDOM_INSN_BYTES];
	struct vmcb_save s;
	struct insn insn;
	u64 gpr[16], base[2], rip, code;

	fuzz_bytes(&s, sizeof(s));
	mode = (s.efer & EFER_LMA) && (s.cs.attrib & SEG_ATTR_L) ? INSN_64
								 : (enum insn_mode)test_below(2);
	random_insn(mode, bytes);
	if (test_below(4) == 0) { /* the instructions that decode assists are for */
		static const u8 opcodes[] = {0x20, 0x21, 0x22, 0x23, 0x01, 0x06, 0xcd};

		bytes[0] = 0x0f;
		bytes[1] = opcodes[test_below(sizeof(opcodes))];
		if (bytes[1] == 0xcd)
			bytes[0] = 0x66;
	}
	if (insn_length(bytes, sizeof(bytes), mode, &insn))
		return;

	code = test_below(4) ? test_below(0x90) : test_random() >> test_below(64);
	CHECK_EQ(exit_has_nrip(code), naive_has_nrip(code));
	CHECK_EQ(insn_decode_assist(code, &insn), naive_decode_assist(code, &insn));

	if (!insn.has_modrm || insn.mod == 3)
		return;
	fuzz_bytes(gpr, sizeof(gpr));
	fuzz_bytes(base, sizeof(base));
	rip = test_random();
	CHECK_EQ(insn_linear_address(&insn, gpr, rip, &s, base[0], base[1]),
		 naive_linear(&insn, gpr, rip, &s, base[0], base[1]));
}

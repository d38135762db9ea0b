/* SPDX-License-Identifier: MIT */
/* The decoder and the addresses of its operands against libzydis: any bytes, cut anywhere, in all three modes. */
#include <stdlib.h>
#include <string.h>

#include "hv/core/operand.h"
#include "x86/cr.h"
#include "fuzz.h"
#include "random_insn.h"
#include "zydis.h"

static bool is_rex(enum insn_mode mode, u8 byte)
{
	return mode == INSN_64 && (byte & 0xf0) == 0x40;
}

static bool is_prefix(enum insn_mode mode, u8 byte)
{
	static const u8 legacy[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26,
				    0x2e, 0x36, 0x3e, 0x64, 0x65};

	return is_rex(mode, byte) || memchr(legacy, byte, sizeof(legacy));
}

/* ---- where the two may differ ---- */

/* Copies the prefixes, but for LOCK and for a REX that does not count. Returns their number; *from: how many there were. */
static unsigned int copy_prefixes(enum insn_mode mode, const u8 *bytes, u8 *to, unsigned int *from)
{
	unsigned int n = 0, at;

	for (at = 0; is_prefix(mode, bytes[at]); at++)
		if (bytes[at] != 0xf0 &&
		    !(is_rex(mode, bytes[at]) && is_prefix(mode, bytes[at + 1])))
			to[n++] = bytes[at];
	*from = at;
	return n;
}

/* LOCK where it is not allowed is #UD, which the decoder does not judge, or another register (CR8). Then zydis is asked
 * again, without it. *dropped: how many bytes were left out. */
static ZyanStatus decode_unlocked(struct zydis *z, enum insn_mode mode,
				  const u8 bytes[RANDOM_INSN_BYTES], unsigned int *dropped)
{
	ZyanStatus status = zydis_decode(z, mode, bytes, RANDOM_INSN_BYTES);
	unsigned int prefixes, left;
	u8 rest[RANDOM_INSN_BYTES];

	*dropped = 0;
	if (status != ZYDIS_STATUS_ILLEGAL_LOCK)
		return status;
	left = copy_prefixes(mode, bytes, rest, &prefixes);
	*dropped = prefixes - left;
	memcpy(rest + left, bytes + prefixes, RANDOM_INSN_BYTES - prefixes);
	return zydis_decode(z, mode, rest, RANDOM_INSN_BYTES - *dropped);
}

/* Legacy encodings that are no instructions of AMD's: GETSEC, VMREAD, and VIA's PadLock. */
static bool is_foreign(const ZydisDecodedInstruction *z)
{
	return z->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	       (z->opcode == 0x37 || z->opcode == 0x78 || z->opcode == 0xa6 || z->opcode == 0xa7);
}

static bool is_legacy(const ZydisDecodedInstruction *z)
{
	return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	       z->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW;
}

/*
 * #UD, which the decoder does not judge either: an opcode that some mandatory prefix or ModRM makes an instruction, here
 * with another; and the gaps of the maps 0F38, 0F3A and 3DNow, which have one form throughout. So what zydis rejects is
 * accepted only if it knows the opcode in another form, or in those maps.
 */
static bool opcode_exists(enum insn_mode mode, const struct insn *insn)
{
	static u8 known[3][2][256]; /* 0: not looked up yet, 1: no, 2: yes */
	static const u8 mandatory[] = {0x3e, 0x66, 0xf2, 0xf3};
	u8 *answer = &known[mode][insn->map & 1][insn->opcode];

	if (insn->map > INSN_MAP_0F)
		return true;
	for (unsigned int i = 0; i < 4 * 256 && !*answer; i++) {
		u8 bytes[INSN_MAX_BYTES] = {0};
		unsigned int at = 0;
		struct zydis z;

		bytes[at++] = mandatory[i / 256];
		if (insn->map == INSN_MAP_0F)
			bytes[at++] = 0x0f;
		bytes[at++] = insn->opcode;
		bytes[at] = (u8)i;
		if (ZYAN_SUCCESS(zydis_decode(&z, mode, bytes, sizeof(bytes))) &&
		    z.insn.opcode == insn->opcode && is_legacy(&z.insn))
			*answer = 2;
	}
	if (!*answer)
		*answer = 1;
	return *answer == 2;
}

/* zydis (4.0.0, 4.1.1) takes R13D for the base, and drops the displacement, where SIB says "no base" with a 32-bit address and REX.B is
 * set; with a 64-bit one it reads the same bytes as everybody does. */
static bool zydis_takes_r13d(const struct insn *insn)
{
	return insn->has_sib && insn->mod == 0 && (insn->sib & 7) == 5 && (insn->rex & 1) &&
	       insn->address_bytes == 4;
}

/* ---- what must agree ---- */

static void check_prefixes(enum insn_mode mode, const struct insn *insn, const u8 *bytes)
{
	u8 plain[RANDOM_INSN_BYTES], seen = 0, segment;
	unsigned int prefixes, n = copy_prefixes(mode, bytes, plain, &prefixes);
	struct zydis z;

	for (unsigned int i = 0; i < prefixes; i++)
		seen |= bytes[i] == 0x66   ? INSN_PREFIX_66
			: bytes[i] == 0x67 ? INSN_PREFIX_67
			: bytes[i] == 0xf0 ? INSN_PREFIX_LOCK
			: bytes[i] == 0xf2 ? INSN_PREFIX_REPNE
			: bytes[i] == 0xf3 ? INSN_PREFIX_REP
					   : 0;
	/* the same prefixes before LODS, whose operand has the effective size and a segment */
	plain[n++] = 0xad;
	CHECK(ZYAN_SUCCESS(zydis_decode(&z, mode, plain, n)));
	CHECK_EQ(insn->operand_bytes * 8, z.insn.operand_width);
	CHECK_EQ(insn->address_bytes * 8, z.insn.address_width);
	switch (zydis_operand(&z, 1)->mem.segment) {
	case ZYDIS_REGISTER_ES:
		segment = 0;
		break;
	case ZYDIS_REGISTER_CS:
		segment = 1;
		break;
	case ZYDIS_REGISTER_SS:
		segment = 2;
		break;
	case ZYDIS_REGISTER_FS:
		segment = 4;
		break;
	case ZYDIS_REGISTER_GS:
		segment = 5;
		break;
	default:
		segment = 3;
		break;
	}
	if (insn->prefixes & INSN_PREFIX_SEGMENT)
		CHECK_EQ(insn->segment, segment);
	else
		CHECK_EQ(segment, 3);
	CHECK_EQ(insn->prefixes & ~INSN_PREFIX_SEGMENT, seen);
}

static void check_fields(enum insn_mode mode, const struct insn *insn,
			 const ZydisDecodedInstruction *z)
{
	static const ZydisOpcodeMap maps[] = {ZYDIS_OPCODE_MAP_DEFAULT, ZYDIS_OPCODE_MAP_0F,
					      ZYDIS_OPCODE_MAP_0F38, ZYDIS_OPCODE_MAP_0F3A,
					      ZYDIS_OPCODE_MAP_0F0F};
	bool moffs = insn->map == INSN_MAP_ONE && (insn->opcode & 0xfc) == 0xa0;
	u64 imm = 0;

	CHECK_EQ(maps[insn->map], z->opcode_map);
	CHECK_EQ(insn->opcode, z->opcode);
	CHECK_EQ(!!insn->rex, !!(z->attributes & ZYDIS_ATTRIB_HAS_REX));
	CHECK_EQ(insn->has_modrm, !!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM));
	CHECK_EQ(insn->has_sib, !!(z->attributes & ZYDIS_ATTRIB_HAS_SIB));
	if (insn->rex) {
		CHECK_EQ(mode, INSN_64);
		CHECK_EQ(insn->rex, 0x40 | z->raw.rex.W << 3 | z->raw.rex.R << 2 |
					    z->raw.rex.X << 1 | z->raw.rex.B);
	}
	if (insn->has_modrm) {
		CHECK_EQ(insn->modrm,
			 z->raw.modrm.mod << 6 | z->raw.modrm.reg << 3 | z->raw.modrm.rm);
		/* MOV CR and DR: registers, whatever mod says */
		if (insn->map == INSN_MAP_0F && (insn->opcode & 0xfc) == 0x20)
			CHECK_EQ(insn->mod, 3);
		else
			CHECK_EQ(insn->mod, z->raw.modrm.mod);
		CHECK_EQ(insn->reg, z->raw.modrm.reg + (insn->rex & 4 ? 8 : 0));
		CHECK_EQ(insn->rm, z->raw.modrm.rm + (insn->rex & 1 ? 8 : 0));
	}
	if (insn->has_sib)
		CHECK_EQ(insn->sib,
			 z->raw.sib.scale << 6 | z->raw.sib.index << 3 | z->raw.sib.base);
	if (moffs) { /* zydis calls the address a displacement */
		CHECK_EQ(insn->imm_bytes * 8, z->raw.disp.size);
		CHECK_EQ(insn->imm, (u64)z->raw.disp.value & ~0ull >> (64 - z->raw.disp.size));
		return;
	}
	CHECK_EQ(insn->disp_bytes * 8, z->raw.disp.size);
	if (insn->disp_bytes)
		CHECK_EQ(insn->disp, z->raw.disp.value);
	CHECK_EQ(insn->imm_bytes * 8, z->raw.imm[0].size + z->raw.imm[1].size);
	for (unsigned int i = 0, at = 0; i < 2; i++) {
		unsigned int bits = z->raw.imm[i].size;

		if (!bits)
			continue;
		imm |= (z->raw.imm[i].value.u & ~0ull >> (64 - bits)) << at;
		at += bits;
	}
	CHECK_EQ(insn->imm, imm);
}

static void check_address(enum insn_mode mode, const struct insn *insn, const struct zydis *z)
{
	ZydisRegisterContext context = {0};
	const ZydisDecodedOperand *operand = NULL;
	struct vmcb_save s = {0};
	u64 gpr[16], bases[6], rip = test_random(), want = 0;

	for (unsigned int i = 0; i < z->insn.operand_count && !operand; i++)
		if (zydis_operand(z, i)->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    zydis_operand(z, i)->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
		    zydis_operand(z, i)->mem.type == ZYDIS_MEMOP_TYPE_MEM) /* not LEA */
			operand = zydis_operand(z, i);
	if (!operand || zydis_takes_r13d(insn))
		return;
	for (unsigned int i = 0; i < 16; i++) {
		gpr[i] = test_random();
		context.values[ZYDIS_REGISTER_RAX + i] = gpr[i];
		context.values[ZYDIS_REGISTER_EAX + i] = (u32)gpr[i];
		context.values[ZYDIS_REGISTER_AX + i] = (u16)gpr[i];
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(bases); i++)
		bases[i] = test_random();
	s.es.base = bases[0];
	s.cs.base = bases[1];
	s.ss.base = bases[2];
	s.ds.base = bases[3];
	if (mode == INSN_64) {
		s.efer = EFER_LMA;
		s.cs.attrib = SEG_ATTR_L;
	}
	CHECK(ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&z->insn, operand, rip, &context, &want)));
	if (mode != INSN_64 || operand->mem.segment >= ZYDIS_REGISTER_FS)
		want += bases[operand->mem.segment - ZYDIS_REGISTER_ES];
	if (mode != INSN_64)
		want = (u32)want;
	CHECK_EQ(insn_linear_address(insn, gpr, rip + z->insn.length, &s, bases[4], bases[5]),
		 want);
}

void fuzz_one(void)
{
	enum insn_mode mode = (enum insn_mode)test_below(3);
	size_t n = test_below(4) ? INSN_MAX_BYTES + 1 : test_below(INSN_MAX_BYTES + 1);
	struct insn insn, whole;
	u8 bytes[RANDOM_INSN_BYTES], *exact;
	unsigned int dropped;
	int error, error_whole;
	ZyanStatus status;
	struct zydis z;

	random_insn(mode, bytes);
	error_whole = insn_length(bytes, INSN_MAX_BYTES + 1, mode, &whole);
	/* in memory of just that size, so that reading beyond it is seen */
	exact = malloc(n);
	memcpy(exact, bytes, n);
	error = insn_length(exact, (unsigned int)n, mode, &insn);
	free(exact);
	if (n > INSN_MAX_BYTES)
		CHECK(error != -E_FAULT);
	else if (error == -E_FAULT)
		CHECK(error_whole || whole.length > n);
	else
		CHECK(error == error_whole && insn.length == whole.length);
	if (error == -E_FAULT)
		return;

	status = decode_unlocked(&z, mode, bytes, &dropped);
	if (error == -E_UNSUPP) {
		CHECK(!ZYAN_SUCCESS(status) || !is_legacy(&z.insn) || is_foreign(&z.insn));
	} else if (error == -E_INVAL) {
		CHECK(!ZYAN_SUCCESS(status) || z.insn.length + dropped > INSN_MAX_BYTES);
	} else if (ZYAN_SUCCESS(status)) {
		CHECK(is_legacy(&z.insn));
		CHECK_EQ(insn.length, z.insn.length + dropped);
		check_fields(mode, &insn, &z.insn);
		check_prefixes(mode, &insn, bytes);
		check_address(mode, &insn, &z);
	} else {
		CHECK(status == ZYDIS_STATUS_DECODING_ERROR || status == ZYDIS_STATUS_BAD_REGISTER);
		CHECK(opcode_exists(mode, &insn));
	}
}

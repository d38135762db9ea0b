/* SPDX-License-Identifier: MIT */
#include "hv/core/insn.h"

/* What follows an opcode. Immediates add up. */
enum follows {
	M = 0x01,   /* ModRM, and what it asks for */
	I8 = 0x02,  /* one byte */
	I16 = 0x04, /* two bytes */
	IZ = 0x08, /* operand size, but at most 4 bytes; also rel16/32, with 66 even in 64-bit mode */
	IV = 0x10,   /* operand size, 8 bytes with REX.W */
	NO64 = 0x20, /* #UD in 64-bit mode */
	SPEC = 0x40, /* see special() */
	BAD = 0x80,  /* no such opcode, or one that is not decoded here */
};

#define ARITHMETIC M, M, M, M, I8, IZ
#define X8(a) a, a, a, a, a, a, a, a
#define X16(a) X8(a), X8(a)

/* clang-format off */
/* APM3 tables. Prefixes and 0F never get here. */
static const u8 map_one[256] = {
	/* 00 */ ARITHMETIC, NO64, NO64, ARITHMETIC, NO64, BAD,
	/* 10 */ ARITHMETIC, NO64, NO64, ARITHMETIC, NO64, NO64,
	/* 20 */ ARITHMETIC, BAD, NO64, ARITHMETIC, BAD, NO64,
	/* 30 */ ARITHMETIC, BAD, NO64, ARITHMETIC, BAD, NO64,
	/* 40 */ X16(0),
	/* 50 */ X16(0),
	/* 60 */ NO64, NO64, M | SPEC, M, BAD, BAD, BAD, BAD, IZ, M | IZ, I8, M | I8, 0, 0, 0, 0,
	/* 70 */ X16(I8),
	/* 80 */ M | I8, M | IZ, M | I8 | NO64, M | I8, M, M, M, M, M, M, M, M, M, M, M, M | SPEC,
	/* 90 */ X8(0), 0, 0, NO64 | IZ | I16, 0, 0, 0, 0, 0,
	/* A0 */ SPEC, SPEC, SPEC, SPEC, 0, 0, 0, 0, I8, IZ, 0, 0, 0, 0, 0, 0,
	/* B0 */ X8(I8), X8(IV),
	/* C0 */ M | I8, M | I8, I16, 0, M | SPEC, M | SPEC, M | I8, M | IZ,
	/* C8 */ I16 | I8, 0, I16, 0, 0, I8, NO64, 0,
	/* D0 */ M, M, M, M, NO64 | I8, NO64 | I8, NO64, 0, X8(M),
	/* E0 */ X8(I8), IZ, IZ, NO64 | IZ | I16, I8, 0, 0, 0, 0,
	/* F0 */ BAD, 0, BAD, BAD, 0, 0, M | SPEC, M | SPEC, 0, 0, 0, 0, 0, 0, M, M,
};

/* APM3 tables, after 0F. */
static const u8 map_0f[256] = {
	/* 00 */ M, M, M, M, BAD, 0, 0, 0, 0, 0, BAD, 0, BAD, M, 0, M | I8,
	/* 10 */ X16(M),
	/* 20 */ M, M, M, M, BAD, BAD, BAD, BAD, X8(M),
	/* 30 */ 0, 0, 0, 0, 0, 0, BAD, BAD, X8(BAD),
	/* 40 */ X16(M),
	/* 50 */ X16(M),
	/* 60 */ X16(M),
	/* 70 */ M | I8, M | I8, M | I8, M | I8, M, M, M, 0, M | SPEC, M, BAD, BAD, M, M, M, M,
	/* 80 */ X16(IZ),
	/* 90 */ X16(M),
	/* A0 */ 0, 0, 0, M, M | I8, M, BAD, BAD, 0, 0, 0, M, M | I8, M, M, M,
	/* B0 */ X8(M), M, M, M | I8, M, M, M, M, M,
	/* C0 */ M, M, M | I8, M, M | I8, M | I8, M | I8, M, X8(0),
	/* D0 */ X16(M),
	/* E0 */ X16(M),
	/* F0 */ X16(M),
};
/* clang-format on */

struct cursor {
	const u8 *bytes;
	unsigned int n, pos;
	int error;
};

/* The next count (0..8) bytes, little endian. After an error everything reads 0. */
static u64 take(struct cursor *c, unsigned int count)
{
	u64 value = 0;

	if (c->error)
		return 0;
	if (c->pos + count > INSN_MAX_BYTES)
		c->error = -E_INVAL;
	else if (c->pos + count > c->n)
		c->error = -E_FAULT;
	if (c->error)
		return 0;
	for (unsigned int i = 0; i < count; i++)
		value |= (u64)c->bytes[c->pos + i] << (8 * i);
	c->pos += count;
	return value;
}

/* Takes all prefixes and returns the byte after them. */
static u8 take_prefixes(struct cursor *c, enum insn_mode mode, struct insn *out)
{
	for (;;) {
		u8 byte = (u8)take(c, 1);
		unsigned int segment;

		if (mode == INSN_64 && (byte & 0xf0) == 0x40) {
			out->rex = byte;
			continue;
		}
		switch (byte) {
		case 0x66:
			out->prefixes |= INSN_PREFIX_66;
			break;
		case 0x67:
			out->prefixes |= INSN_PREFIX_67;
			break;
		case 0xf0:
			out->prefixes |= INSN_PREFIX_LOCK;
			break;
		case 0xf2:
			out->prefixes |= INSN_PREFIX_REPNE;
			break;
		case 0xf3:
			out->prefixes |= INSN_PREFIX_REP;
			break;
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x64:
		case 0x65:
			segment = byte < 0x64 ? (byte >> 3) & 3 : 4 + (byte & 1u);
			/* in 64-bit mode only FS and GS are overrides, APM3 §1.2.4 */
			if (mode != INSN_64 || segment >= 4) {
				out->prefixes |= INSN_PREFIX_SEGMENT;
				out->segment = (u8)segment;
			}
			break;
		default:
			return byte;
		}
		/* REX counts only right before the opcode, APM3 §1.2.7 */
		out->rex = 0;
	}
}

static void take_modrm(struct cursor *c, struct insn *out)
{
	unsigned int base;

	out->has_modrm = true;
	out->modrm = (u8)take(c, 1);
	out->mod = out->modrm >> 6;
	out->reg = (u8)(((out->modrm >> 3) & 7) | ((out->rex & 4) << 1));
	out->rm = (u8)((out->modrm & 7) | ((out->rex & 1) << 3));

	/* MOV to and from CRn and DRn: a register whatever mod says, APM3 "MOV CRn" */
	if (out->map == INSN_MAP_0F && (out->opcode & 0xfc) == 0x20)
		out->mod = 3;
	if (out->mod == 3)
		return;

	base = out->modrm & 7;
	if (out->address_bytes == 2) {
		if (out->mod == 1)
			out->disp_bytes = 1;
		else if (out->mod == 2 || base == 6)
			out->disp_bytes = 2;
	} else {
		if (base == 4) {
			out->has_sib = true;
			out->sib = (u8)take(c, 1);
			base = out->sib & 7;
		}
		if (out->mod == 1)
			out->disp_bytes = 1;
		else if (out->mod == 2 || base == 5)
			out->disp_bytes = 4;
	}
	switch (out->disp_bytes) {
	case 1:
		out->disp = (s32)((take(c, 1) ^ 0x80) - 0x80);
		break;
	case 2:
		out->disp = (s32)((take(c, 2) ^ 0x8000) - 0x8000);
		break;
	case 4:
		out->disp = (s32)take(c, 4);
		break;
	}
}

/* Opcodes whose length hangs on more than the table says. ModRM has not been taken yet; returns
 * what follows. */
static u8 special(const struct cursor *c, enum insn_mode mode, const struct insn *out)
{
	/* if there is none, taking ModRM fails */
	u8 next = c->pos < c->n && c->pos < INSN_MAX_BYTES ? c->bytes[c->pos] : 0;
	unsigned int reg = (next >> 3) & 7;

	if (out->map ==
	    INSN_MAP_0F) /* 78: EXTRQ, INSERTQ with two bytes; without a prefix Intel's VMREAD */
		return out->prefixes & (INSN_PREFIX_66 | INSN_PREFIX_REPNE) ? M | I16 : BAD;

	switch (out->opcode) {
	case 0x62: /* BOUND, or EVEX */
	case 0xc4: /* LES, or VEX */
	case 0xc5: /* LDS, or VEX */
		return mode == INSN_64 || next >> 6 == 3 ? BAD : M;
	case 0x8f: /* POP is /0; all others are XOP */
		return reg ? BAD : M;
	case 0xf6: /* TEST is /0 and /1 */
		return reg < 2 ? M | I8 : M;
	case 0xf7:
		return reg < 2 ? M | IZ : M;
	default: /* A0..A3: the offset is taken by the caller */
		return 0;
	}
}

int insn_length(const u8 *bytes, unsigned int n, enum insn_mode mode, struct insn *out)
{
	struct cursor c = {bytes, n, 0, 0};
	unsigned int imm_bytes = 0, z;
	u8 follows;

	*out = (struct insn){0};
	out->opcode = take_prefixes(&c, mode, out);
	if (c.error)
		return c.error;

	z = (mode == INSN_16) == !(out->prefixes & INSN_PREFIX_66) ? 2 : 4;
	if (out->rex & 8)
		z = 4;
	out->operand_bytes = out->rex & 8 ? 8 : (u8)z;
	if (mode == INSN_64)
		out->address_bytes = out->prefixes & INSN_PREFIX_67 ? 4 : 8;
	else
		out->address_bytes = (mode == INSN_16) == !(out->prefixes & INSN_PREFIX_67) ? 2 : 4;

	follows = map_one[out->opcode];
	if (out->opcode == 0x0f) {
		out->opcode = (u8)take(&c, 1);
		out->map = INSN_MAP_0F;
		follows = map_0f[out->opcode];
		if (out->opcode == 0x38) {
			out->opcode = (u8)take(&c, 1);
			out->map = INSN_MAP_0F38;
			follows = M;
		} else if (out->opcode == 0x3a) {
			out->opcode = (u8)take(&c, 1);
			out->map = INSN_MAP_0F3A;
			follows = M | I8;
		} else if (out->opcode == 0x0f) {
			out->map = INSN_MAP_3DNOW;
		}
	}
	if (c.error)
		return c.error;
	if (follows & SPEC)
		follows = special(&c, mode, out);
	if ((follows & BAD) || ((follows & NO64) && mode == INSN_64))
		return -E_UNSUPP;

	if (follows & M)
		take_modrm(&c, out);
	if (follows & I8)
		imm_bytes += 1;
	if (follows & I16)
		imm_bytes += 2;
	if (follows & IZ)
		imm_bytes += z;
	if (follows & IV)
		imm_bytes += out->operand_bytes;
	if (out->map == INSN_MAP_ONE && (out->opcode & 0xfc) == 0xa0)
		imm_bytes = out->address_bytes;
	out->imm_bytes = (u8)imm_bytes;
	out->imm = take(&c, imm_bytes);
	if (out->map == INSN_MAP_3DNOW) {
		out->opcode = (u8)out->imm;
		out->imm_bytes = 0;
		out->imm = 0;
	}
	out->length = (u8)c.pos;
	return c.error;
}

/* SPDX-License-Identifier: MIT */
/* Addresses of operands, EXITINFO1 of decode assists, exits with nRIP: cases by hand, and random ones against a twin. */
#include <string.h>

#include "hv/core/operand.h"
#include "x86/cr.h"
#include "operand_naive.h"
#include "test.h"

static const u64 gpr[16] = {
	0x1000000000000001, 0x2000000000000020, 0x3000000000000300, 0x4000000000004000,
	0x5000000000050000, 0x6000000000600000, 0x7000000007000000, 0x7800000080000000,
	0x8000000900000008, 0x9000009000000009, 0xa00000a00000000a, 0xb00000b00000000b,
	0xc00000c00000000c, 0xd0000d000000000d, 0xe000e0000000000e, 0xf00f00000000000f,
};
#define FS_BASE 0xffff800000111000ull
#define GS_BASE 0xffff900000222000ull
#define NEXT_RIP 0xfffffff812345678ull

static struct vmcb_save save_of(enum insn_mode mode)
{
	struct vmcb_save s;

	memset(&s, 0, sizeof(s));
	s.es.base = 0x10000000;
	s.cs.base = 0x20000000;
	s.ss.base = 0x30000000;
	s.ds.base = 0xf0000000;
	if (mode == INSN_64) {
		s.efer = EFER_LME | EFER_LMA;
		s.cs.attrib = SEG_ATTR_L;
	}
	return s;
}

static struct insn decode(enum insn_mode mode, const u8 *bytes)
{
	struct insn insn;

	CHECK_EQ(insn_length(bytes, INSN_MAX_BYTES, mode, &insn), 0);
	return insn;
}

#define LINEAR(mode, want, ...)                                                                    \
	do {                                                                                       \
		const u8 bytes_[INSN_MAX_BYTES] = {__VA_ARGS__};                                   \
		struct vmcb_save s_ = save_of(mode);                                               \
		struct insn insn_ = decode(mode, bytes_);                                          \
		CHECK_EQ(insn_linear_address(&insn_, gpr, NEXT_RIP, &s_, FS_BASE, GS_BASE), want); \
	} while (0)

/* INVLPG, 0F 01 /7 */
TEST(operand_address_64)
{
	LINEAR(INSN_64, 0x1000000000000001, 0x0f, 0x01, 0x38);		   /* [rax] */
	LINEAR(INSN_64, 0x8000000900000008, 0x41, 0x0f, 0x01, 0x38);	   /* [r8] */
	LINEAR(INSN_64, 0x5000000000050000, 0x0f, 0x01, 0x3c, 0x24);	   /* [rsp] */
	LINEAR(INSN_64, 0xc00000c00000000c, 0x41, 0x0f, 0x01, 0x3c, 0x24); /* [r12] */
	LINEAR(INSN_64, 0x5fffffffffffffff + 1, 0x0f, 0x01, 0xbd, 0, 0, 0xa0,
	       0xff);							   /* [rbp-600000h] */
	LINEAR(INSN_64, 0xd0000d000000000c, 0x41, 0x0f, 0x01, 0x7d, 0xff); /* [r13-1] */
	LINEAR(INSN_64, NEXT_RIP - 0x78, 0x0f, 0x01, 0x3d, 0x88, 0xff, 0xff, 0xff); /* [rip-78h] */
	LINEAR(INSN_64, NEXT_RIP + 1, 0x41, 0x0f, 0x01, 0x3d, 1, 0, 0, 0); /* REX.B all the same */
	LINEAR(INSN_64, 0x12345679, 0x67, 0x0f, 0x01, 0x3d, 1, 0, 0, 0);   /* [eip+1] */
	LINEAR(INSN_64, 0xffffffff80000000, 0x0f, 0x01, 0x3c, 0x25, 0, 0, 0,
	       0x80); /* [-80000000h] */
	LINEAR(INSN_64, 0xffffffff80000000, 0x41, 0x0f, 0x01, 0x3c, 0x25, 0, 0, 0, 0x80);
	/* [rsp+rax*4-80h], [rax+r12*8] */
	LINEAR(INSN_64, 0x900000000004ff84, 0x0f, 0x01, 0x7c, 0x84, 0x80);
	LINEAR(INSN_64, 0x1000060000000061, 0x42, 0x0f, 0x01, 0x3c, 0xe0);
	/* segments: only FS and GS, also with a 32-bit address */
	LINEAR(INSN_64, 0x1000000000000001, 0x36, 0x0f, 0x01, 0x38);
	LINEAR(INSN_64, 0x0fff800000111001, 0x64, 0x0f, 0x01, 0x38);
	LINEAR(INSN_64, 0xffff900080222000, 0x65, 0x67, 0x0f, 0x01, 0x3f); /* gs:[edi] */
	LINEAR(INSN_64, 0x80000000, 0x67, 0x0f, 0x01, 0x3f);
}

TEST(operand_address_32)
{
	LINEAR(INSN_32, 0xf0000001, 0x0f, 0x01, 0x38);		/* [eax] */
	LINEAR(INSN_32, 0x70000000, 0x0f, 0x01, 0x3f);		/* [edi]: wraps at 4 GByte */
	LINEAR(INSN_32, 0x30600000, 0x0f, 0x01, 0x7d, 0);	/* ss:[ebp] */
	LINEAR(INSN_32, 0x30050020, 0x0f, 0x01, 0x3c, 0x0c);	/* ss:[esp+ecx] */
	LINEAR(INSN_32, 0xf0600020, 0x0f, 0x01, 0x3c, 0x29);	/* ds:[ecx+ebp] */
	LINEAR(INSN_32, 0x20600000, 0x2e, 0x0f, 0x01, 0x7d, 0); /* cs:[ebp] */
	LINEAR(INSN_32, 0xf0001234, 0x0f, 0x01, 0x3d, 0x34, 0x12, 0, 0); /* [1234h] */
	LINEAR(INSN_32, 0x00111001, 0x64, 0x0f, 0x01, 0x38);		 /* fs:[eax] */
	LINEAR(INSN_32, 0xf0004000, 0x67, 0x0f, 0x01, 0x3f);		 /* [bx] */
}

TEST(operand_address_16)
{
	LINEAR(INSN_16, 0xf0004000, 0x0f, 0x01, 0x38);		/* [bx+si] */
	LINEAR(INSN_16, 0x30000000, 0x0f, 0x01, 0x3b);		/* ss:[bp+di] */
	LINEAR(INSN_16, 0x3000ffff, 0x0f, 0x01, 0x7e, 0xff);	/* ss:[bp-1] wraps at 64 KByte */
	LINEAR(INSN_16, 0xf0008000, 0x0f, 0x01, 0x3e, 0, 0x80); /* [8000h] */
	LINEAR(INSN_16, 0x10008000, 0x26, 0x0f, 0x01, 0x3e, 0, 0x80);
	LINEAR(INSN_16, 0xf0003000, 0x0f, 0x01, 0xbf, 0, 0xf0);	   /* [bx-1000h] */
	LINEAR(INSN_16, 0x30050000, 0x67, 0x0f, 0x01, 0x3c, 0x24); /* ss:[esp] */
}

TEST(operand_address_random)
{
	unsigned int done = 0;

	while (done < 200000) {
		enum insn_mode mode = (enum insn_mode)test_below(3);
		u8 bytes[INSN_MAX_BYTES];
		struct insn insn;
		struct vmcb_save s;
		u64 g[16], rip = test_random(), fs = test_random(), gs = test_random();

		for (unsigned int i = 0; i < sizeof(bytes); i++)
			bytes[i] = (u8)test_random();
		if (insn_length(bytes, sizeof(bytes), mode, &insn) || !insn.has_modrm ||
		    insn.mod == 3)
			continue;
		s = save_of(mode);
		s.es.base = test_random();
		s.cs.base = test_random();
		s.ss.base = test_random();
		s.ds.base = test_random();
		for (unsigned int i = 0; i < 16; i++)
			g[i] = test_random();
		CHECK_EQ(insn_linear_address(&insn, g, rip, &s, fs, gs),
			 naive_linear(&insn, g, rip, &s, fs, gs));
		done++;
	}
}

#define ASSIST(code, want, ...)                                                                    \
	do {                                                                                       \
		const u8 bytes_[INSN_MAX_BYTES] = {__VA_ARGS__};                                   \
		struct insn insn_ = decode(INSN_64, bytes_);                                       \
		CHECK_EQ(insn_decode_assist(code, &insn_), want);                                  \
	} while (0)

TEST(operand_decode_assist)
{
	ASSIST(VMEXIT_CR_READ(0), BIT(63) | 3, 0x0f, 0x20, 0xc3);	  /* mov rbx, cr0 */
	ASSIST(VMEXIT_CR_WRITE(3), BIT(63) | 15, 0x41, 0x0f, 0x22, 0xdf); /* mov cr3, r15 */
	ASSIST(VMEXIT_CR_WRITE(8), BIT(63) | 9, 0x45, 0x0f, 0x22, 0xc1);  /* mov cr8, r9 */
	ASSIST(VMEXIT_CR_WRITE(15), BIT(63), 0x44, 0x0f, 0x22, 0xf8);	  /* mov cr15, rax */
	ASSIST(VMEXIT_CR0_SEL_WRITE, BIT(63) | 1, 0x0f, 0x22, 0xc1);	  /* mov cr0, rcx */
	ASSIST(VMEXIT_CR_READ(0), 0, 0x0f, 0x01, 0xe3);			  /* smsw ebx */
	ASSIST(VMEXIT_CR_WRITE(0), 0, 0x0f, 0x01, 0xf3);		  /* lmsw bx */
	ASSIST(VMEXIT_CR0_SEL_WRITE, 0, 0x0f, 0x01, 0xf3);
	ASSIST(VMEXIT_CR_WRITE(0), 0, 0x0f, 0x06);	       /* clts */
	ASSIST(VMEXIT_DR_READ(7), 10, 0x41, 0x0f, 0x21, 0xfa); /* mov r10, dr7 */
	ASSIST(VMEXIT_DR_WRITE(0), 5, 0x0f, 0x23, 0xc5);       /* mov dr0, rbp */
	ASSIST(VMEXIT_SWINT, 0x80, 0xcd, 0x80);		       /* int 80h */
	ASSIST(VMEXIT_SWINT, 0xff, 0xcd, 0xff);
	ASSIST(VMEXIT_EXCEPTION(3), 0, 0xcc);
	ASSIST(VMEXIT_INVLPG, 0, 0x0f, 0x01, 0x3b);
	ASSIST(VMEXIT_CPUID, 0, 0x0f, 0xa2);
	ASSIST(VMEXIT_MSR, 0, 0x0f, 0x30);
	ASSIST(VMEXIT_NPF, 0, 0x0f, 0x20, 0xc3);
}

TEST(operand_exits_with_nrip)
{
	unsigned int n = 0;

	for (u64 code = 0; code < 0x2000; code++) {
		CHECK_EQ(exit_has_nrip(code), naive_has_nrip(code));
		n += exit_has_nrip(code);
	}
	CHECK_EQ(n, 64 + 3 + 45);
	CHECK(!exit_has_nrip(VMEXIT_INVALID) && !exit_has_nrip(0xf0000000) &&
	      !exit_has_nrip((u32)VMEXIT_INVALID) && !exit_has_nrip(BIT(32)));
}

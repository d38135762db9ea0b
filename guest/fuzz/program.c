/* SPDX-License-Identifier: MIT */
/*
 * L2's programs. Each ends by construction: all jumps go forward, REP has a small count, and what follows the last
 * instruction exits. Nothing reads time.
 */
#include "guest/fuzz/fuzz.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define MAX_KNOWN 128
#define MAX_STEPS 16
#define PROGRAM_BYTES (sizeof(((struct l2_memory *)NULL)->code))
#define SCRATCH_PORT 0x80u

enum reg { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

static struct {
	struct vmcb_control *c;
	struct known_insn known[MAX_KNOWN];
	u32 count;
	u32 start, at, insn; /* linear */
	u32 steps, step_at[MAX_STEPS];
	enum final final;
	unsigned int bits; /* 64, 32 or 16: the code at this place */
	u32 cs;		   /* selector there */
} p;
u32 program_needs[6];
bool program_needs_iopm, program_needs_msrpm;

/* ---- bytes ---- */

static void emit(const u8 *bytes, u64 n)
{
	while (n--)
		ARENA->l2.code[p.at++ - L2_AT(code)] = *bytes++;
}

#define E(...) emit((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void emit_number(u64 v, unsigned int bytes)
{
	for (; bytes--; v >>= 8)
		E((u8)v);
}

static void begin(void)
{
	p.insn = p.at;
}

static void end_as(enum kind kind, u8 gpr, u64 value)
{
	if (p.count == MAX_KNOWN)
		return;
	p.known[p.count++] = (struct known_insn){
		.at = p.insn,
		.length = (u8)(p.at - p.insn),
		.gpr = gpr,
		.kind = kind,
		.value = value,
	};
}

static void end(void)
{
	end_as(INSN_OTHER, 0, 0);
}

/* A whole instruction. */
#define I(...)                                                                                     \
	do {                                                                                       \
		begin();                                                                           \
		E(__VA_ARGS__);                                                                    \
		end();                                                                             \
	} while (0)

/* 32-bit operands, 32-bit addresses, 64-bit operands: the prefix that the mode needs for it. */
static void operand32(void)
{
	if (p.bits == 16)
		E(0x66);
}

static void address32(void)
{
	if (p.bits == 16)
		E(0x67);
}

static void operand64(void)
{
	if (p.bits == 64)
		E(0x48);
}

/* Prefixes without a meaning for the instruction that follows; what decodes it must see through them. */
static void idle_prefixes(void)
{
	static const u8 legacy[] = {0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65};

	if (!once_in(4))
		return;
	for (u64 n = below(3); n; n--)
		E(PICK(legacy));
	if (p.bits == 64 && once_in(2))
		E((u8)(0x40 | below(8)));
}

/* The same for an instruction that the operand size does not change. */
static void any_prefixes(void)
{
	if (once_in(8))
		E(0x66);
	idle_prefixes();
}

static void mov(enum reg reg, u64 value)
{
	begin();
	operand32();
	if (p.bits == 64 && value >> 32) {
		E(0x48, (u8)(0xb8 + reg));
		emit_number(value, 8);
	} else {
		E((u8)(0xb8 + reg));
		emit_number((u32)value, 4);
	}
	end();
}

static void push_imm(u32 value)
{
	begin();
	E(0x68);
	emit_number(value, p.bits == 16 ? 2 : 4);
	end();
}

/* ModRM for the memory at rDI. */
static u8 at_rdi(unsigned int reg)
{
	return (u8)(reg << 3 | 7);
}

/* ---- what an instruction needs to be the same everywhere ---- */

static void need(unsigned int bit)
{
	program_needs[bit / 32] |= 1u << bit % 32;
	vmcb_set_intercept(p.c, bit);
}

/* For instructions whose effect is not the same on every platform; only their exit is. */
static void need_where(enum departure d, unsigned int bit)
{
	if (avoid(d))
		need(bit);
}

/* ---- operands ---- */

static u32 somewhere(void)
{
	switch (below(16)) {
	case 0:
		return L2_AT(data) + (u32)PAGE_SIZE - 1 - (u32)below(8); /* into the next page */
	case 1:
		return L2_AT(data) + 2 * (u32)PAGE_SIZE - 1 - (u32)below(8);
	case 2:
		return L2_NOT_MAPPED + (u32)below(PAGE_SIZE);
	case 3:
		return L2_AT(gdt) + (u32)below(GDT_LIMIT);
	case 4:
		return L2_AT(stack) + (u32)below(PAGE_SIZE);
	case 5:
		return (u32)rnd();
	default:
		return L2_AT(data) + (u32)below(2 * PAGE_SIZE - 128);
	}
}

/* rDI = an address, mostly one that is good. */
static u64 point(void)
{
	u64 to = somewhere();

	if (p.bits == 64 && once_in(24))
		to = once_in(2) ? rnd() : BIT(47) + below(16);
	mov(RDI, to);
	return to;
}

static u32 data_address(void)
{
	return L2_AT(data) + (u32)below(2 * PAGE_SIZE - 128);
}

static const u16 selectors[] = {
	0,
	SEL_CODE64,
	SEL_DATA,
	SEL_USER_DATA,
	SEL_USER_CODE64,
	SEL_CODE32,
	SEL_USER_CODE32,
	SEL_CODE16,
	SEL_DATA16,
	SEL_TSS,
	SEL_LDT,
	SEL_ABSENT,
	SEL_CONFORMING,
	SEL_FREE_TSS,
	0x88,
	SEL_DATA | 4,
	SEL_DATA | 3,
};

/* ---- steps: one instruction of interest, with what it needs before it ---- */

static void s_cpuid(void)
{
	/* those that tell the same bare and under a hypervisor; any other if it is not carried out */
	static const u32 leaves[] = {0,		  1,	       2,	   4,		5,
				     6,		  7,	       0xd,	   0x80000002u, 0x80000003u,
				     0x80000004u, 0x80000005u, 0x80000006u};

	mov(RAX, PICK(leaves));
	mov(RCX, below(3));
	begin();
	any_prefixes();
	E(0x0f, 0xa2);
	end();
}

static void s_cpuid_any(void)
{
	mov(RAX, once_in(2) ? 0x80000000u + below(0x24) : 0x40000000u + below(8));
	need(VMEXIT_CPUID);
	I(0x0f, 0xa2);
}

/* MSRs of L2's own, which VMLOAD sets again, and EFER. */
static const u32 own_msrs[] = {
	MSR_STAR,    MSR_LSTAR,		 MSR_CSTAR,	  MSR_SFMASK,	    MSR_FS_BASE,
	MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
};

/* What is only looked up in the permission map. */
static const u32 other_msrs[] = {
	MSR_TSC,     MSR_PAT,	  0xc0010000u,	   0xc0010004u, 0xc0010200u,
	0xc0010201u, MSR_VM_CR,	  MSR_VM_HSAVE_PA, 0x1fff,	0x2000,
	0xc0001fffu, 0xc0002000u, 0xc0011fffu,	   0xc0012000u, MSR_DEBUGCTL,
	0xffffffffu, 0x40000000u, MSR_APIC_BASE,   MSR_EFER,	MSR_TSC_RATIO,
};

/* With the map that intercepts all: an MSR that is not there is not the same everywhere. */
static void all_msrs_exit(void)
{
	program_needs_msrpm = true;
	need(VMEXIT_MSR);
}

static void s_rdmsr(void)
{
	mov(RCX, once_in(8) ? MSR_EFER : PICK(own_msrs));
	begin();
	any_prefixes();
	E(0x0f, 0x32);
	end();
}

static void s_wrmsr(void)
{
	u32 msr = PICK(own_msrs);

	mov(RCX, msr);
	mov(RAX, msr == MSR_SYSENTER_CS ? SEL_CODE64 : somewhere());
	mov(RDX, 0);
	begin();
	any_prefixes();
	E(0x0f, 0x30);
	end();
}

/* EFER: only what every CPU takes, and never without SVME. */
static void s_wrmsr_efer(void)
{
	u64 efer = EFER_SVME | (mode_is_long() ? EFER_LME : 0);

	mov(RCX, MSR_EFER);
	mov(RAX, efer | (once_in(2) ? EFER_SCE : 0) | (once_in(4) ? 0 : EFER_NXE));
	mov(RDX, 0);
	I(0x0f, 0x30);
}

static void s_msr_any(void)
{
	mov(RCX, once_in(3) ? (u32)rnd() : PICK(other_msrs));
	mov(RAX, rnd() & ~0u);
	all_msrs_exit();
	begin();
	any_prefixes();
	E(0x0f, once_in(2) ? 0x32 : 0x30);
	end();
}

static void s_rdtsc(void)
{
	need(VMEXIT_RDTSC);
	begin();
	any_prefixes();
	E(0x0f, 0x31);
	end();
}

static void s_rdtscp(void)
{
	need(VMEXIT_RDTSC); /* RDTSCP */
	need(VMEXIT_RDTSCP);
	I(0x0f, 0x01, 0xf9);
}

static void s_rdpmc(void)
{
	mov(RCX, below(8));
	need(VMEXIT_RDPMC);
	I(0x0f, 0x33);
}

/* SAHF, after which QEMU has the flags ready. */
static void flags_ready(void)
{
	if (avoid(DEPARTURE_HELPER_FLAGS))
		I(0x9e);
}

static void s_in_out(void)
{
	const bool dx = once_in(2), wide = once_in(2);
	const u8 in = (u8)(once_in(2) ? 0 : 2);
	u32 port = SCRATCH_PORT;

	if (dx && once_in(3)) { /* any, if it is not carried out */
		port = (u32)below(0x10000);
		program_needs_iopm = true;
		need(VMEXIT_IOIO);
	}
	if (dx)
		mov(RDX, port);
	if (shape.user) /* then the TSS is looked into */
		flags_ready();
	begin();
	if (wide && once_in(2))
		E(0x66);
	if (dx)
		E((u8)(0xec | in | wide));
	else
		E((u8)(0xe4 | in | wide), (u8)port);
	end();
}

static void s_ins_outs(void)
{
	const bool in = once_in(2), wide = once_in(2);

	mov(RDX, SCRATCH_PORT);
	mov(RCX, below(5));
	mov(RDI, data_address());
	mov(RSI, data_address());
	if (shape.user) /* then the TSS is looked into */
		flags_ready();
	begin();
	address32();
	if (once_in(2))
		E(0xf3);
	E((u8)((in ? 0x6c : 0x6e) | wide));
	end();
}

static const u8 crs[] = {0, 2, 3, 4, 8};

static void cr_insn(bool write, u8 cr, u8 gpr)
{
	u8 rex = (u8)((cr == 8 && p.bits == 64 ? 4 : 0) | (gpr > 7 ? 1 : 0));

	begin();
	if (cr == 8 && p.bits != 64)
		E(0xf0); /* LOCK MOV CR0 is CR8 */
	if (p.bits == 64 && (rex || once_in(8)))
		E((u8)(0x40 | rex | (once_in(4) ? 8 : 0)));
	/* the mod bits are ignored */
	E(0x0f, write ? 0x22 : 0x20, (u8)(0xc0 | (cr & 7) << 3 | (gpr & 7)));
	end_as(write ? INSN_MOV_TO_CR : INSN_MOV_CR, gpr, cr);
}

static u8 any_gpr(void)
{
	u8 gpr = (u8)below(p.bits == 64 ? 16 : 8);

	return gpr == RSP ? RBX : gpr;
}

static void s_mov_from_cr(void)
{
	cr_insn(false, PICK(crs), any_gpr());
}

/* Flips one bit of what is in the register, which stays legal, or writes anything if that exits. */
static void s_mov_to_cr(void)
{
	static const u8 cr0_bits[] = {1, 2, 3, 5, 16, 18, 30};
	static const u8 cr4_bits[] = {2, 3, 6, 7, 9, 10};
	const u8 cr = PICK(crs);
	u64 bit = 0;

	if (once_in(4)) {
		mov(RAX, rnd() >> below(64));
		need(INTERCEPT_CR_WRITE(cr));
		cr_insn(true, cr, RAX);
		return;
	}
	switch (cr) {
	case 0:
		bit = BIT(PICK(cr0_bits));
		break;
	case 4:
		bit = BIT(PICK(cr4_bits));
		break;
	default:
		break;
	}
	if (cr == 2 || cr == 8)
		mov(RAX, cr == 2 ? rnd() >> 16
				 : below(once_in(4) && !avoid(DEPARTURE_CR8_RESERVED) ? 32 : 16));
	else
		cr_insn(false, cr, RAX);
	if (bit) { /* XOR EAX, imm32 */
		begin();
		operand32();
		E(0x35);
		emit_number(bit, 4);
		end();
	}
	if (cr == 8 && once_in(2))
		need_where(DEPARTURE_CR8_ABORT, INTERCEPT_CR_WRITE(8));
	cr_insn(true, cr, RAX);
}

static void s_clts(void)
{
	begin();
	any_prefixes();
	E(0x0f, 0x06);
	end_as(INSN_CR_OTHER, 0, 0);
}

static void s_smsw(void)
{
	bool memory = once_in(3);

	if (memory)
		point();
	begin();
	if (memory)
		address32();
	E(0x0f, 0x01, memory ? at_rdi(4) : 0xe0);
	end_as(INSN_CR_OTHER, 0, 0);
}

static void s_lmsw(void)
{
	mov(RAX, CR0_PE | below(16));
	begin();
	E(0x0f, 0x01, 0xf0);
	end_as(INSN_CR_OTHER, 0, 0);
}

static void s_mov_dr(void)
{
	const bool write = once_in(2);
	const u8 dr = (u8)below(8);
	u8 gpr = any_gpr();

	if (write) {
		gpr = RAX;
		/* no breakpoint becomes active, and sometimes a bit that must be zero is set */
		mov(RAX,
		    dr == 7 || dr == 5 ? DR7_RESET | (once_in(8) ? BIT(13) : 0) : rnd() & 0xfffff);
	}
	begin();
	if (p.bits == 64 && (gpr > 7 || once_in(8)))
		E((u8)(0x40 | (gpr > 7 ? 1 : 0)));
	E(0x0f, write ? 0x23 : 0x21, (u8)(0xc0 | dr << 3 | (gpr & 7)));
	end_as(INSN_MOV_DR, gpr, dr);
	if (p.count)
		p.known[p.count - 1].write = write;
}

static void s_int(void)
{
	const u8 vector = (u8)(once_in(4) ? below(256) : 0x30 + below(64));

	begin();
	idle_prefixes();
	E(0xcd, vector);
	end_as(INSN_INT, 0, vector);
}

static void s_int3(void)
{
	begin();
	E(0xcc);
	end_as(INSN_INT, 0, VEC_BP);
}

static void s_into(void)
{
	if (p.bits == 64 && avoid(DEPARTURE_INTO_64)) {
		I(0x90);
		return;
	}
	if (p.bits != 64) { /* ADD AL, 7Fh twice, which overflows at one of them */
		I(0x04, 0x7f);
		I(0x04, 0x7f);
	}
	begin();
	E(0xce);
	end_as(INSN_INT, 0, VEC_OF);
}

static void s_icebp(void)
{
	I(0xf1);
}

static void s_pushf_popf(void)
{
	static const u32 flags[] = {RFLAGS_IF, RFLAGS_DF, BIT(18), BIT(14), RFLAGS_CF, BIT(12)};

	I(0x9c);
	if (once_in(2)) { /* XOR WORD or DWORD [rSP], imm */
		u32 change = once_in(3) ? (u32)RFLAGS_TF : PICK(flags);

		begin();
		address32();
		E(0x81, 0x34, 0x24);
		emit_number(change, p.bits == 16 ? 2 : 4);
		end();
	}
	I(0x9d);
}

static void s_if(void)
{
	I((u8)(once_in(3) ? 0xfa : 0xfb));
}

/* A forward far jump in one of its forms, over bytes that are not to be executed. */
static void skip_over(void)
{
	for (u64 n = below(4); n; n--)
		E(0x0f, 0x0b);
}

static u32 *patch_here(u32 at)
{
	return (u32 *)&ARENA->l2.code[at - L2_AT(code)];
}

static void patch(u32 at)
{
	if (p.bits == 16)
		*(u16 *)patch_here(at) = (u16)p.at;
	else
		*patch_here(at) = p.at;
}

static void push_target(u32 *at)
{
	push_imm(0);
	*at = p.at - (p.bits == 16 ? 2 : 4);
}

static void s_iret(void)
{
	u32 at;

	if (p.bits == 64) {
		mov(RBX, shape.user ? SEL_USER_DATA : SEL_DATA);
		I(0x48, 0x89, 0xe1); /* MOV RCX, RSP */
		I(0x53);
		I(0x51);
	}
	I(0x9c);
	if (once_in(3)) { /* OR the flags of the frame: RF, TF, NT, IF */
		begin();
		address32();
		E(0x81, 0x0c, 0x24);
		emit_number(once_in(2)				       ? RFLAGS_TF
			    : once_in(2)			       ? RFLAGS_IF
			    : once_in(2) && !avoid(DEPARTURE_RF_STAYS) ? RFLAGS_RF
								       : BIT(14),
			    p.bits == 16 ? 2 : 4);
		end();
	}
	push_imm(p.cs);
	push_target(&at);
	begin();
	operand64();
	E(0xcf);
	end();
	skip_over();
	patch(at);
}

/* RETF; under long mode into code of another size. */
static void s_retf(void)
{
	u32 at, cs = p.cs, bits = p.bits;

	if (mode_is_long() && once_in(2)) {
		cs = bits == 64 ? (shape.user ? SEL_USER_CODE32 : SEL_CODE32)
				: (shape.user ? SEL_USER_CODE64 : SEL_CODE64);
		bits = bits == 64 ? 32 : 64;
	}
	push_imm(once_in(16) ? PICK(selectors) : cs);
	push_target(&at);
	begin();
	operand64();
	E(0xcb);
	end();
	skip_over();
	patch(at);
	p.cs = cs;
	p.bits = bits;
}

static void s_jump_far(void)
{
	u32 at;

	if (p.bits == 64) { /* JMP m16:32 */
		u32 to = data_address() & ~7u;

		mov(RDI, to);
		begin();
		E(0xc7, 0x07);
		at = p.at;
		emit_number(0, 4);
		end();
		begin();
		E(0xc7, 0x47, 4);
		emit_number(p.cs, 4);
		end();
		begin();
		E(0xff, at_rdi(5));
		end();
	} else {
		begin();
		E(0xea);
		at = p.at;
		emit_number(0, p.bits / 8);
		emit_number(p.cs, 2);
		end();
	}
	skip_over();
	patch(at);
}

static void s_jump(void)
{
	const u8 bytes = (u8)(2 * below(4));

	begin();
	if (once_in(2))
		E(0xeb, bytes);
	else
		E(0x74, bytes); /* JZ */
	end();
	for (u8 i = 0; i < bytes; i += 2)
		I(0x66, 0x90); /* NOP of two bytes */
}

static void s_call(void)
{
	begin();
	E(0xe8); /* of the next instruction */
	emit_number(0, p.bits == 16 ? 2 : 4);
	end();
	if (once_in(2))
		I(0x58); /* POP rAX */
}

static void s_table_store(void)
{
	/* SGDT, SIDT, SLDT, STR, the last two also to a register */
	const u64 which = below(4);
	const bool memory = which < 2 || once_in(2);

	if (memory)
		point();
	begin();
	if (memory)
		address32();
	E(0x0f, which < 2 ? 0x01 : 0x00);
	E(memory ? at_rdi(which & 1) : (u8)(0xc0 | (which & 1) << 3));
	end();
}

/* LGDT and LIDT of what SGDT and SIDT tell, so that L2 lives on; with luck a limit is changed. */
static void s_table_load(void)
{
	const u8 which = (u8)below(2);

	mov(RDI, data_address() & ~15u);
	/* SGDT and SIDT may exit and be skipped: MOV DWORD [RDI + 6], 0 over what is there */
	if (p.bits == 64 && avoid(DEPARTURE_TABLE_BASE)) {
		begin();
		E(0xc7, 0x47, 6);
		emit_number(0, 4);
		end();
	}
	begin();
	address32();
	E(0x0f, 0x01, at_rdi(which));
	end();
	if (once_in(4)) { /* XOR BYTE [rDI], imm */
		begin();
		address32();
		E(0x80, 0x37, (u8)below(16));
		end();
	}
	begin();
	address32();
	if (p.bits == 16)
		E(0x66); /* all of the base */
	E(0x0f, 0x01, at_rdi(which + 2u));
	end();
}

static void s_selector_load(void)
{
	/* LLDT, LTR */
	const bool ltr = once_in(2);

	mov(RAX, once_in(4) ? PICK(selectors) : ltr ? SEL_FREE_TSS : SEL_LDT);
	I(0x0f, 0x00, ltr ? 0xd8 : 0xd0);
}

static void s_mov_segment(void)
{
	static const u8 registers[] = {0xc0, 0xd8, 0xd8, 0xe0, 0xe8}; /* ES DS DS FS GS of AX */

	mov(RAX, once_in(2) ? (shape.user ? SEL_USER_DATA : SEL_DATA) : PICK(selectors));
	I(0x8e, PICK(registers));
}

static void s_segment_query(void)
{
	/* LAR, LSL, VERR, VERW */
	mov(RCX, PICK(selectors));
	flags_ready();
	if (once_in(2))
		I(0x0f, (u8)(0x02 + below(2)), 0xc1);
	else
		I(0x0f, 0x00, (u8)(0xe1 + 8 * below(2)));
}

/* MOV SS: no interrupt and no trap between it and the next instruction. */
static void s_mov_ss(void)
{
	if (shape.mode == REAL16)
		mov(RAX, 0);
	else
		mov(RAX, shape.user ? SEL_USER_DATA : shape.mode == PROT16 ? SEL_DATA16 : SEL_DATA);
	I(0x8e, 0xd0);
}

static void s_pause(void)
{
	I(0xf3, 0x90);
}

static void s_hlt(void)
{
	begin();
	any_prefixes();
	E(0xf4);
	end();
}

static void s_invlpg(void)
{
	point();
	begin();
	address32();
	E(0x0f, 0x01, at_rdi(7));
	end_as(INSN_INVLPG, 0, 0);
}

static void s_caches(void)
{
	I(0x0f, once_in(2) ? 0x08 : 0x09);
}

static void s_monitor(void)
{
	mov(RAX, data_address());
	mov(RCX, 0);
	mov(RDX, 0);
	I(0x0f, 0x01, 0xc8);
}

static void s_mwait(void)
{
	mov(RAX, 0);
	mov(RCX, 0);
	I(0x0f, 0x01, 0xc9);
}

static void s_xsetbv(void)
{
	mov(RCX, once_in(8) ? below(3) : 0);
	mov(RAX, once_in(8) ? below(8) : 3);
	mov(RDX, 0);
	I(0x0f, 0x01, 0xd1);
}

static void s_xgetbv(void)
{
	mov(RCX, 0);
	I(0x0f, 0x01, 0xd0);
}

static void s_rsm(void)
{
	I(0x0f, 0xaa);
}

static void s_ud2(void)
{
	I(0x0f, 0x0b);
}

static void s_divide(void)
{
	mov(RCX, below(2));
	I(0xf7, 0xf1);
}

static void s_fpu(void)
{
	static const u8 second[] = {0xd0, 0xe1}; /* FNOP, FABS */

	if (once_in(3))
		I(0x9b); /* WAIT */
	else
		I(0xd9, PICK(second));
}

static void s_read(void)
{
	point();
	begin();
	operand32();
	address32();
	if (once_in(2))
		operand64();
	E(0x8b, at_rdi(RAX));
	end();
}

static void s_write(void)
{
	point();
	mov(RBX, rnd());
	begin();
	operand32();
	address32();
	if (once_in(2))
		operand64();
	E(0x89, at_rdi(RBX));
	end();
}

static void s_modify(void)
{
	point();
	mov(RCX, rnd());
	begin();
	if (once_in(2))
		E(0xf0);
	operand32();
	address32();
	if (once_in(3))
		E(0x0f, 0xc1, at_rdi(RCX)); /* XADD */
	else if (once_in(2))
		E(0x01, at_rdi(RCX)); /* ADD */
	else
		E(0x0f, 0xb1, at_rdi(RCX)); /* CMPXCHG */
	end();
}

static void s_push_pop(void)
{
	I((u8)(0x50 + below(4)));
	if (once_in(2))
		I((u8)(0x58 + below(4)));
	else if (once_in(3)) {
		point();
		begin();
		address32();
		E(0x8f, at_rdi(0)); /* POP [rDI] */
		end();
	}
}

static void s_strings(void)
{
	static const u8 opcodes[] = {0xa4, 0xa5, 0xaa, 0xab, 0xa6, 0xac, 0xae};

	mov(RSI, somewhere());
	mov(RDI, somewhere());
	mov(RCX, below(20));
	begin();
	address32();
	if (!once_in(8))
		E(once_in(4) ? 0xf2 : 0xf3);
	E(PICK(opcodes));
	end();
}

static void s_syscall(void)
{
	bool sysenter = once_in(2);

	if (mode_is_long() && avoid(DEPARTURE_SYSENTER_LONG))
		sysenter = false;
	I(0x0f, sysenter ? 0x34 : 0x05);
}

static void s_swapgs(void)
{
	I(0x0f, 0x01, 0xf8);
}

static void s_vmrun(void)
{
	mov(RAX, (u64)&ARENA->vmcb[0] + (once_in(4) ? below(PAGE_SIZE) : 0));
	begin();
	any_prefixes();
	E(0x0f, 0x01, 0xd8);
	end();
}

static void s_vmmcall(void)
{
	mov(RAX, rnd() >> below(64));
	begin();
	any_prefixes();
	E(0x0f, 0x01, 0xd9);
	end();
}

/* The page is named by its L1-physical address. */
static void s_vmload_vmsave(void)
{
	const bool load = once_in(2);
	const unsigned int bit = load ? VMEXIT_VMLOAD : VMEXIT_VMSAVE;

	mov(RAX, (u64)ARENA->l2.vmcb);
	if (shape.mode != LONG64 || shape.space == NO_NPT)
		need_where(DEPARTURE_VMLOAD_EXITS, bit);
	if (once_in(8)) {
		mov(RAX, rnd() >> below(64));
		need(bit);
	}
	begin();
	any_prefixes();
	E(0x0f, 0x01, load ? 0xda : 0xdb);
	end();
}

static void s_gif(void)
{
	begin();
	any_prefixes();
	E(0x0f, 0x01, once_in(2) ? 0xdc : 0xdd); /* STGI, CLGI */
	end();
}

static void s_skinit(void)
{
	mov(RAX, 0);
	I(0x0f, 0x01, 0xde);
}

static void s_invlpga(void)
{
	mov(RAX, data_address());
	mov(RCX, below(4));
	begin();
	any_prefixes();
	E(0x0f, 0x01, 0xdf);
	end();
}

static void s_nothing(void)
{
	I(0x90);
}

#define NO_INTERCEPT INTERCEPT_BITS
#define ANY_CR (INTERCEPT_BITS + 1)
#define ANY_DR (INTERCEPT_BITS + 2)

static const struct step {
	const char *name;
	void (*make)(void);
	unsigned int intercept; /* that asks for it */
} steps[] = {
	{"CPUID", s_cpuid, VMEXIT_CPUID},
	{"CPUID", s_cpuid, VMEXIT_CPUID},
	{"CPUID, any leaf", s_cpuid_any, NO_INTERCEPT},
	{"RDMSR", s_rdmsr, VMEXIT_MSR},
	{"WRMSR", s_wrmsr, VMEXIT_MSR},
	{"WRMSR EFER", s_wrmsr_efer, VMEXIT_MSR},
	{"any MSR", s_msr_any, NO_INTERCEPT},
	{"RDTSC", s_rdtsc, NO_INTERCEPT},
	{"RDTSCP", s_rdtscp, NO_INTERCEPT},
	{"RDPMC", s_rdpmc, NO_INTERCEPT},
	{"IN or OUT", s_in_out, VMEXIT_IOIO},
	{"INS or OUTS", s_ins_outs, VMEXIT_IOIO},
	{"MOV from CR", s_mov_from_cr, ANY_CR},
	{"MOV to CR", s_mov_to_cr, ANY_CR},
	{"MOV to CR", s_mov_to_cr, VMEXIT_CR0_SEL_WRITE},
	{"CLTS", s_clts, INTERCEPT_CR_WRITE(0)},
	{"SMSW", s_smsw, INTERCEPT_CR_READ(0)},
	{"LMSW", s_lmsw, VMEXIT_CR0_SEL_WRITE},
	{"MOV DR", s_mov_dr, ANY_DR},
	{"INT", s_int, VMEXIT_SWINT},
	{"INT3", s_int3, VMEXIT_SWINT},
	{"INTO", s_into, VMEXIT_SWINT},
	{"ICEBP", s_icebp, VMEXIT_ICEBP},
	{"PUSHF, POPF", s_pushf_popf, VMEXIT_POPF},
	{"PUSHF, POPF", s_pushf_popf, VMEXIT_PUSHF},
	{"CLI or STI", s_if, NO_INTERCEPT},
	{"IRET", s_iret, VMEXIT_IRET},
	{"RETF", s_retf, NO_INTERCEPT},
	{"JMP FAR", s_jump_far, NO_INTERCEPT},
	{"JMP", s_jump, NO_INTERCEPT},
	{"CALL", s_call, NO_INTERCEPT},
	{"SGDT, SIDT, SLDT, STR", s_table_store, VMEXIT_IDTR_READ},
	{"SGDT, SIDT, SLDT, STR", s_table_store, VMEXIT_LDTR_READ},
	{"LGDT, LIDT", s_table_load, VMEXIT_GDTR_WRITE},
	{"LLDT, LTR", s_selector_load, VMEXIT_TR_WRITE},
	{"MOV to a segment register", s_mov_segment, INTERCEPT_EXCEPTION(VEC_GP)},
	{"MOV SS", s_mov_ss, NO_INTERCEPT},
	{"LAR, LSL, VERR, VERW", s_segment_query, NO_INTERCEPT},
	{"PAUSE", s_pause, VMEXIT_PAUSE},
	{"HLT", s_hlt, NO_INTERCEPT},
	{"INVLPG", s_invlpg, VMEXIT_INVLPG},
	{"INVD, WBINVD", s_caches, VMEXIT_WBINVD},
	{"MONITOR", s_monitor, VMEXIT_MONITOR},
	{"MWAIT", s_mwait, NO_INTERCEPT},
	{"XSETBV", s_xsetbv, VMEXIT_XSETBV},
	{"XGETBV", s_xgetbv, NO_INTERCEPT},
	{"RSM", s_rsm, VMEXIT_RSM},
	{"UD2", s_ud2, INTERCEPT_EXCEPTION(VEC_UD)},
	{"DIV", s_divide, INTERCEPT_EXCEPTION(VEC_DE)},
	{"FPU", s_fpu, INTERCEPT_EXCEPTION(VEC_NM)},
	{"read", s_read, INTERCEPT_EXCEPTION(VEC_PF)},
	{"write", s_write, INTERCEPT_EXCEPTION(VEC_PF)},
	{"read-modify-write", s_modify, INTERCEPT_EXCEPTION(VEC_PF)},
	{"PUSH, POP", s_push_pop, INTERCEPT_EXCEPTION(VEC_SS)},
	{"string", s_strings, INTERCEPT_EXCEPTION(VEC_PF)},
	{"SYSCALL, SYSENTER", s_syscall, INTERCEPT_EXCEPTION(VEC_UD)},
	{"SWAPGS", s_swapgs, NO_INTERCEPT},
	{"VMRUN", s_vmrun, NO_INTERCEPT},
	{"VMMCALL", s_vmmcall, VMEXIT_VMMCALL},
	{"VMLOAD, VMSAVE", s_vmload_vmsave, VMEXIT_VMLOAD},
	{"VMLOAD, VMSAVE", s_vmload_vmsave, VMEXIT_VMSAVE},
	{"STGI, CLGI", s_gif, VMEXIT_CLGI},
	{"STGI, CLGI", s_gif, VMEXIT_STGI},
	{"SKINIT", s_skinit, VMEXIT_SKINIT},
	{"INVLPGA", s_invlpga, VMEXIT_INVLPGA},
	{"NOP", s_nothing, NO_INTERCEPT},
};

/* Drawn by the first item of a pair; the second intercepts this one or any other. */
static void make_step(const struct step *s)
{
	const u32 first = p.at;

	s->make();
	tell("%s", s->name);
	if (!choices.detail)
		return;
	print("#     %x:", first);
	for (u32 at = first; at < p.at; at++)
		print(" %02x", ARENA->l2.code[at - L2_AT(code)]);
	print("\n");
}

static void intercept_some(const struct step *own)
{
	const struct step *s = once_in(2) ? own : &PICK(steps);
	unsigned int bit = s->intercept;

	if (once_in(2))
		return;
	if (bit == NO_INTERCEPT)
		return;
	if (bit == ANY_CR)
		bit = once_in(2) ? INTERCEPT_CR_READ(PICK(crs)) : INTERCEPT_CR_WRITE(PICK(crs));
	if (bit == ANY_DR)
		bit = (u32)(once_in(2) ? INTERCEPT_DR_READ(0) : INTERCEPT_DR_WRITE(0)) +
		      (u32)below(8);
	if (s == own && p.count && once_in(2)) { /* exactly that of its register */
		const struct known_insn *last = &p.known[p.count - 1];

		if (last->kind == INSN_MOV_CR)
			bit = INTERCEPT_CR_READ((u32)last->value);
		if (last->kind == INSN_MOV_TO_CR)
			bit = INTERCEPT_CR_WRITE((u32)last->value);
		if (last->kind == INSN_MOV_DR)
			bit = (last->write ? INTERCEPT_DR_WRITE(0) : INTERCEPT_DR_READ(0)) +
			      (u32)last->value;
	}
	tell("intercept 0x%x", bit);
	vmcb_set_intercept(p.c, bit);
}

static const struct {
	u8 bytes, code[4];
	unsigned int intercept;
} finals[FINALS] = {
	[FINAL_CPUID] = {2, {0x0f, 0xa2}, VMEXIT_CPUID},
	[FINAL_VMMCALL] = {3, {0x0f, 0x01, 0xd9}, VMEXIT_VMMCALL},
	[FINAL_HLT] = {1, {0xf4}, VMEXIT_HLT},
};

void program_make(struct vmcb_control *c, u32 count, enum final final)
{
	p.c = c;
	p.count = p.steps = 0;
	p.final = final;
	for (u32 i = 0; i < ARRAY_SIZE(program_needs); i++)
		program_needs[i] = 0;
	program_needs_iopm = program_needs_msrpm = false;
	p.bits = shape.mode == LONG64 ? 64 : shape.mode >= PROT16 ? 16 : 32;
	p.cs = shape.mode == LONG64   ? (shape.user ? SEL_USER_CODE64 : SEL_CODE64)
	       : shape.mode == PROT16 ? SEL_CODE16
	       : shape.mode == REAL16 ? 0
				      : (shape.user ? SEL_USER_CODE32 : SEL_CODE32);
	for (u64 i = 0; i < PROGRAM_BYTES / 8; i++)
		((u64 *)ARENA->l2.code)[i] = 0xf4f4f4f4f4f4f4f4ull;
	choices_restart(1);
	/* with luck it crosses into the next page */
	p.start = p.at = L2_AT(code) + (u32)(once_in(3) ? PAGE_SIZE - below(64) : below(256));
	for (u32 i = 0; i < count; i++) {
		const bool keep = item();
		const struct step *s = &PICK(steps);

		if (keep) {
			p.step_at[p.steps++] = p.at;
			make_step(s);
		}
		if (item())
			intercept_some(s);
	}
	choices_restart(2);
	begin();
	emit(finals[final].code, finals[final].bytes);
	end();
	need(finals[final].intercept);
	need(VMEXIT_HLT); /* also what QEMU cannot do under RFLAGS.TF, and what would wait for ever */
	need(VMEXIT_MWAIT);
	need(VMEXIT_MWAIT_CONDITIONAL);
	memory_stubs(finals[final].code, finals[final].bytes, once_in(3));
}

u32 program_start(void)
{
	return p.start;
}

u32 program_step(u64 n)
{
	return p.steps ? p.step_at[n % p.steps] : p.start;
}

const struct known_insn *program_insn(u64 at)
{
	static struct known_insn stub;

	for (u32 i = 0; i < p.count; i++)
		if (p.known[i].at == at)
			return &p.known[i];
	if (at < L2_AT(stubs) || at >= L2_AT(stack) || at % sizeof(ARENA->l2.stubs[0]))
		return NULL;
	stub = (struct known_insn){.at = (u32)at, .length = finals[p.final].bytes};
	if (ARENA->l2.stubs[0][0] != ARENA->l2.stubs[(at - L2_AT(stubs)) / 16][0])
		stub.length = mode_is_long() ? 2 : 1; /* IRET */
	return &stub;
}

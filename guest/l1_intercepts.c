/* SPDX-License-Identifier: MIT */
/*
 * One intercept at a time: set, its instruction exits with its code and RIP still at the
 * instruction; clear, the instruction is carried out in L2.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define SCRATCH_PORT 0x80u /* POST code: reads and writes harm nobody */
#define CPUID_1_ECX_XSAVE BIT(26)
#define UNMAPPED (1ull << 40)

static u8 scratch[PAGE_SIZE] ALIGNED(4096);

/* ---- instructions ---- */

L2_CODE(i_read_cr0, "mov %cr0, %rax");
L2_CODE(i_smsw, "smsw %eax");
L2_CODE(i_read_cr2, "mov %cr2, %rax");
L2_CODE(i_read_cr3, "mov %cr3, %rax");
L2_CODE(i_read_cr4, "mov %cr4, %rax");
L2_CODE(i_read_cr8, "mov %cr8, %rax");
L2_CODE(i_write_cr0, "mov %rax, %cr0");
L2_CODE(i_clts, "clts");
L2_CODE(i_lmsw, "lmsw %ax");
L2_CODE(i_write_cr2, "mov %rax, %cr2");
L2_CODE(i_write_cr3, "mov %rax, %cr3");
L2_CODE(i_write_cr4, "mov %rax, %cr4");
L2_CODE(i_write_cr8, "mov %rax, %cr8");
L2_CODE(i_read_dr0, "mov %dr0, %rcx");
L2_CODE(i_read_dr1, "mov %dr1, %rcx");
L2_CODE(i_read_dr2, "mov %dr2, %rcx");
L2_CODE(i_read_dr3, "mov %dr3, %rcx");
L2_CODE(i_read_dr6, "mov %dr6, %rcx");
L2_CODE(i_read_dr7, "mov %dr7, %rcx");
L2_CODE(i_write_dr0, "mov %rcx, %dr0");
L2_CODE(i_write_dr1, "mov %rcx, %dr1");
L2_CODE(i_write_dr2, "mov %rcx, %dr2");
L2_CODE(i_write_dr3, "mov %rcx, %dr3");
L2_CODE(i_write_dr6, "mov %rcx, %dr6");
L2_CODE(i_write_dr7, "mov %rcx, %dr7");
L2_CODE(i_sidt, "sidt (%rdi)");
L2_CODE(i_sgdt, "sgdt (%rdi)");
L2_CODE(i_sldt, "sldt %ecx");
L2_CODE(i_str, "str %ecx");
L2_CODE(i_lidt, "lidt (%rdi)");
L2_CODE(i_lgdt, "lgdt (%rdi)");
L2_CODE(i_lldt, "lldt %cx");
L2_CODE(i_ltr, "ltr %cx");
L2_CODE(i_rdtsc, "rdtsc");
L2_CODE(i_rdtscp, "rdtscp");
L2_CODE(i_rdpmc, "rdpmc");
L2_CODE(i_pushf, "pushfq");
L2_CODE(i_popf, "popfq");
L2_CODE(i_cpuid, "cpuid");
L2_CODE(i_cpuid_prefixed, ".byte 0x66, 0xf3, 0x4f\n\tcpuid");
L2_CODE(i_rsm, "rsm");
L2_CODE(i_iret, "iretq");
L2_CODE(i_int, "int $0x81");
L2_CODE(i_invd, "invd");
L2_CODE(i_pause, "pause");
L2_CODE(i_hlt, "hlt");
L2_CODE(i_invlpg, "invlpg (%rdi)");
L2_CODE(i_invlpga, "invlpga %rax, %ecx");
L2_CODE(i_vmrun, "vmrun %rax");
L2_CODE(i_vmmcall, "");
L2_CODE(i_vmload, "vmload %rax");
L2_CODE(i_vmsave, "vmsave %rax");
L2_CODE(i_stgi, "stgi");
L2_CODE(i_clgi, "clgi");
L2_CODE(i_skinit, "skinit %eax");
L2_CODE(i_icebp, ".byte 0xf1");
L2_CODE(i_wbinvd, "wbinvd");
L2_CODE(i_monitor, "monitor");
L2_CODE(i_mwait, "mwait");
L2_CODE(i_xsetbv, "xsetbv");

/* What RAX must hold. */
enum rax { ZERO, CUR_CR0, CUR_CR3, CUR_CR4, PAGE, MSW, XCR0 };
/* What may happen with the intercept clear: NEVER is for instructions that would hang, fault or
 * harm. */
enum clear { RUN, NEVER };

static const struct instruction {
	const char *name;
	const u8 *code, *end;
	unsigned int bit;
	enum rax rax;
	enum clear clear;
	int departure; /* enum departure, or -1 */
} instructions[] = {
#define I(name, code, bit, rax, clear)                                                             \
	{                                                                                          \
		name, code, code##_end, bit, rax, clear, -1                                        \
	}
#define D(name, code, bit, rax, clear, departure)                                                  \
	{                                                                                          \
		name, code, code##_end, bit, rax, clear, departure                                 \
	}
	I("MOV from CR0", i_read_cr0, INTERCEPT_CR_READ(0), ZERO, RUN),
	I("SMSW", i_smsw, INTERCEPT_CR_READ(0), ZERO, RUN),
	D("MOV from CR2", i_read_cr2, INTERCEPT_CR_READ(2), ZERO, RUN, DEPARTURE_CR_READ),
	D("MOV from CR3", i_read_cr3, INTERCEPT_CR_READ(3), ZERO, RUN, DEPARTURE_CR_READ),
	D("MOV from CR4", i_read_cr4, INTERCEPT_CR_READ(4), ZERO, RUN, DEPARTURE_CR_READ),
	D("MOV from CR8", i_read_cr8, INTERCEPT_CR_READ(8), ZERO, RUN, DEPARTURE_CR_READ),
	I("MOV to CR0", i_write_cr0, INTERCEPT_CR_WRITE(0), CUR_CR0, RUN),
	I("CLTS", i_clts, INTERCEPT_CR_WRITE(0), ZERO, RUN),
	I("LMSW", i_lmsw, INTERCEPT_CR_WRITE(0), MSW, RUN),
	I("MOV to CR2", i_write_cr2, INTERCEPT_CR_WRITE(2), ZERO, RUN),
	I("MOV to CR3", i_write_cr3, INTERCEPT_CR_WRITE(3), CUR_CR3, RUN),
	I("MOV to CR4", i_write_cr4, INTERCEPT_CR_WRITE(4), CUR_CR4, RUN),
	I("MOV to CR8", i_write_cr8, INTERCEPT_CR_WRITE(8), ZERO, RUN),
	D("LMSW, selective", i_lmsw, INTERCEPT(CR0_SEL_WRITE), MSW, RUN, DEPARTURE_LMSW_UNCHANGED),
	I("MOV from DR0", i_read_dr0, INTERCEPT_DR_READ(0), ZERO, RUN),
	I("MOV from DR1", i_read_dr1, INTERCEPT_DR_READ(1), ZERO, RUN),
	I("MOV from DR2", i_read_dr2, INTERCEPT_DR_READ(2), ZERO, RUN),
	I("MOV from DR3", i_read_dr3, INTERCEPT_DR_READ(3), ZERO, RUN),
	I("MOV from DR6", i_read_dr6, INTERCEPT_DR_READ(6), ZERO, RUN),
	I("MOV from DR7", i_read_dr7, INTERCEPT_DR_READ(7), ZERO, RUN),
	I("MOV to DR0", i_write_dr0, INTERCEPT_DR_WRITE(0), ZERO, RUN),
	I("MOV to DR1", i_write_dr1, INTERCEPT_DR_WRITE(1), ZERO, RUN),
	I("MOV to DR2", i_write_dr2, INTERCEPT_DR_WRITE(2), ZERO, RUN),
	I("MOV to DR3", i_write_dr3, INTERCEPT_DR_WRITE(3), ZERO, RUN),
	I("MOV to DR6", i_write_dr6, INTERCEPT_DR_WRITE(6), ZERO, RUN),
	I("MOV to DR7", i_write_dr7, INTERCEPT_DR_WRITE(7), ZERO, RUN),
	I("SIDT", i_sidt, INTERCEPT(IDTR_READ), ZERO, RUN),
	I("SGDT", i_sgdt, INTERCEPT(GDTR_READ), ZERO, RUN),
	I("SLDT", i_sldt, INTERCEPT(LDTR_READ), ZERO, RUN),
	I("STR", i_str, INTERCEPT(TR_READ), ZERO, RUN),
	I("LIDT", i_lidt, INTERCEPT(IDTR_WRITE), ZERO, RUN),
	I("LGDT", i_lgdt, INTERCEPT(GDTR_WRITE), ZERO, RUN),
	I("LLDT", i_lldt, INTERCEPT(LDTR_WRITE), ZERO, RUN),
	/* NEVER: our TSS is busy. */
	I("LTR", i_ltr, INTERCEPT(TR_WRITE), ZERO, NEVER),
	I("RDTSC", i_rdtsc, INTERCEPT(RDTSC), ZERO, RUN),
	D("RDTSCP", i_rdtscp, INTERCEPT(RDTSCP), ZERO, RUN, DEPARTURE_RDTSCP),
	I("RDPMC", i_rdpmc, INTERCEPT(RDPMC), ZERO, NEVER),
	I("PUSHF", i_pushf, INTERCEPT(PUSHF), ZERO, RUN),
	I("POPF", i_popf, INTERCEPT(POPF), ZERO, RUN),
	I("CPUID", i_cpuid, INTERCEPT(CPUID), ZERO, RUN),
	I("CPUID with prefixes", i_cpuid_prefixed, INTERCEPT(CPUID), ZERO, RUN),
	I("RSM", i_rsm, INTERCEPT(RSM), ZERO, NEVER),
	I("IRET", i_iret, INTERCEPT(IRET), ZERO, NEVER),
	I("INTn", i_int, INTERCEPT(SWINT), ZERO, NEVER),
	I("INVD", i_invd, INTERCEPT(INVD), ZERO, NEVER),
	I("PAUSE", i_pause, INTERCEPT(PAUSE), ZERO, RUN),
	I("HLT", i_hlt, INTERCEPT(HLT), ZERO, NEVER),
	I("INVLPG", i_invlpg, INTERCEPT(INVLPG), ZERO, RUN),
	I("INVLPGA", i_invlpga, INTERCEPT(INVLPGA), ZERO, RUN),
	I("VMRUN", i_vmrun, INTERCEPT(VMRUN), PAGE, NEVER),
	I("VMMCALL", i_vmmcall, INTERCEPT(VMMCALL), ZERO, NEVER),
	I("VMLOAD", i_vmload, INTERCEPT(VMLOAD), PAGE, NEVER),
	I("VMSAVE", i_vmsave, INTERCEPT(VMSAVE), PAGE, NEVER),
	I("STGI", i_stgi, INTERCEPT(STGI), ZERO, RUN),
	I("CLGI", i_clgi, INTERCEPT(CLGI), ZERO, NEVER),
	I("SKINIT", i_skinit, INTERCEPT(SKINIT), ZERO, NEVER),
	I("ICEBP", i_icebp, INTERCEPT(ICEBP), ZERO, NEVER),
	I("WBINVD", i_wbinvd, INTERCEPT(WBINVD), ZERO, RUN),
	I("MONITOR", i_monitor, INTERCEPT(MONITOR), PAGE, RUN),
	I("MWAIT", i_mwait, INTERCEPT(MWAIT), ZERO, NEVER),
	I("XSETBV", i_xsetbv, INTERCEPT(XSETBV), XCR0, NEVER),
#undef I
#undef D
};

static void set_registers(enum rax rax)
{
	struct vmcb_save *s = &l2.vmcb.save;

	switch (rax) {
	case CUR_CR0:
		s->rax = s->cr0;
		break;
	case CUR_CR3:
		s->rax = s->cr3;
		break;
	case CUR_CR4:
		s->rax = s->cr4;
		break;
	case PAGE:
		s->rax = (u64)scratch;
		break;
	case MSW:
		s->rax = s->cr0 & (CR0_PE | CR0_MP);
		break;
	case XCR0:
		s->cr4 |= CR4_OSXSAVE;
		s->rax = 1;
		break;
	case ZERO:
		break;
	}
	l2.regs.rdi = (u64)scratch;
}

static const char *missing_feature(const struct instruction *i)
{
	u32 ecx = cpuid(CPUID_FEATURES).ecx;

	if (i->code == i_skinit && !(cpuid(CPUID_EXT_FEATURES).ecx & CPUID_EXT1_ECX_SKINIT))
		return "no SKINIT in CPUID: #UD comes first";
	if ((i->code == i_monitor || i->code == i_mwait) && !(ecx & CPUID_1_ECX_MONITOR))
		return "no MONITOR in CPUID";
	if (i->code == i_xsetbv && !(ecx & CPUID_1_ECX_XSAVE))
		return "no XSAVE in CPUID";
	return NULL;
}

static void check_instruction(const void *arg)
{
	const struct instruction *i = arg;
	u64 code = i->bit < 64 ? i->bit : i->bit - 96 + 0x60;
	const char *missing = missing_feature(i);

	if (missing) {
		tap_skip(missing);
		return;
	}
	if (i->departure >= 0 && departs((enum departure)i->departure)) {
		tap_skip("QEMU TCG departs");
		return;
	}
	l2_reset(i->code);
	set_registers(i->rax);
	l2_intercept(i->bit);
	CHECK_EQ(l2_run(), code);
	CHECK_EQ(l2.vmcb.save.rip, (u64)i->code);
	if (platform.svm_edx & SVM_NRIPS && i->bit >= 96 && i->end > i->code)
		CHECK_EQ(l2.vmcb.control.next_rip, (u64)i->end);
	if (i->clear == NEVER)
		return;
	/* For the instructions that read a table register's memory: what SIDT or SGDT would have
	 * written. */
	l2_reset(i->code);
	set_registers(i->rax);
	if (i->code == i_lidt)
		*(struct table_register *)scratch = (struct table_register){
			(u16)l2.vmcb.save.idtr.limit, l2.vmcb.save.idtr.base};
	if (i->code == i_lgdt)
		*(struct table_register *)scratch = (struct table_register){
			(u16)l2.vmcb.save.gdtr.limit, l2.vmcb.save.gdtr.base};
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rip, (u64)i->end);
}

/* ---- CR0, selectively ---- */

static void check_cr0_selective(const void *arg)
{
	(void)arg;
	l2_reset(i_write_cr0);
	l2_intercept(INTERCEPT(CR0_SEL_WRITE));
	l2.vmcb.save.rax = l2.vmcb.save.cr0 ^ CR0_AM;
	CHECK_EQ(l2_run(), VMEXIT_CR0_SEL_WRITE);
	CHECK_EQ(l2.vmcb.save.rip, (u64)i_write_cr0);

	/* TS and MP are free. */
	l2_reset(i_write_cr0);
	l2_intercept(INTERCEPT(CR0_SEL_WRITE));
	l2.vmcb.save.rax = l2.vmcb.save.cr0 ^ CR0_MP;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);

	/* The plain intercept wins. */
	l2_reset(i_write_cr0);
	l2_intercept(INTERCEPT(CR0_SEL_WRITE));
	l2_intercept(INTERCEPT_CR_WRITE(0));
	l2.vmcb.save.rax = l2.vmcb.save.cr0 ^ CR0_AM;
	CHECK_EQ(l2_run(), VMEXIT_CR_WRITE(0));
}

/* ---- exceptions ---- */

L2_CODE(e_de, "div %ecx");
L2_CODE(e_ud, "ud2");
L2_CODE(e_gp, "mov (%rcx), %rax");
L2_CODE(e_gp_selector, "mov %ecx, %ds");
L2_CODE(e_pf_read, "mov (%rcx), %rax");
L2_CODE(e_pf_write, "mov %rax, (%rcx)");
L2_CODE(e_nm, "fninit");
L2_CODE(e_bp, "int3");

#define BAD_SELECTOR 0x58u /* behind the GDT */

static const struct exception {
	const char *name;
	const u8 *code;
	u32 vector;
	u64 rcx;
	bool has_error;
	u64 error;
	u64 cr2;
} exceptions[] = {
	{"#DE", e_de, VEC_DE, 0, false, 0, 0},
	{"#UD", e_ud, VEC_UD, 0, false, 0, 0},
	{"#GP, address not canonical", e_gp, VEC_GP, 1ull << 62, true, 0, 0},
	{"#GP, selector", e_gp_selector, VEC_GP, BAD_SELECTOR, true, BAD_SELECTOR, 0},
	{"#PF, read", e_pf_read, VEC_PF, UNMAPPED, true, 0, UNMAPPED},
	{"#PF, write", e_pf_write, VEC_PF, UNMAPPED + 8, true, PFERR_W, UNMAPPED + 8},
	{"#NM", e_nm, VEC_NM, 0, false, 0, 0},
	{"#BP", e_bp, VEC_BP, 0, false, 0, 0},
};

static void exception_ready(const struct exception *e)
{
	l2_reset(e->code);
	l2_catch_events();
	l2.regs.rcx = e->rcx;
	l2.vmcb.save.cr2 = 0x1111;
	if (e->vector == VEC_NM)
		l2.vmcb.save.cr0 |= CR0_TS;
}

static void check_exception(const void *arg)
{
	const struct exception *e = arg;
	const u64 *frame;

	exception_ready(e);
	l2_intercept(INTERCEPT_EXCEPTION(e->vector));
	if (e->vector != VEC_BP || !departs(DEPARTURE_BP_INTERCEPT)) {
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(e->vector));
		CHECK_EQ(l2.vmcb.save.rip, (u64)e->code);
		if (e->has_error)
			CHECK_EQ(l2.vmcb.control.exit_info_1, e->error);
		if (e->vector == VEC_PF) {
			CHECK_EQ(l2.vmcb.control.exit_info_2, e->cr2);
			CHECK_EQ(l2.vmcb.save.cr2, 0x1111);
		}
	}

	exception_ready(e);
	l2_run();
	CHECK_EQ(l2_caught(), e->vector);
	frame = (const u64 *)l2.vmcb.save.rsp;
	if (e->has_error)
		CHECK_EQ(*frame++, e->error);
	CHECK_EQ(frame[0], (u64)e->code + (e->vector == VEC_BP));
	if (e->vector == VEC_PF)
		CHECK_EQ(l2.vmcb.save.cr2, e->cr2);
}

static void check_shutdown(const void *arg)
{
	(void)arg;
	for (u32 npt = 0; npt < (platform.svm_edx & SVM_NP ? 2u : 1u); npt++) {
		l2_reset(e_ud);
		if (npt)
			l2_use_npt();
		l2.vmcb.save.idtr.limit = 0;
		CHECK_EQ(l2_run(), VMEXIT_SHUTDOWN);
	}
	CHECK_EQ(l2_run_from(i_vmmcall), VMEXIT_VMMCALL);
}

/* ---- I/O ---- */

L2_CODE(io_in8, "in %dx, %al");
L2_CODE(io_in16, "in %dx, %ax");
L2_CODE(io_in32, "in %dx, %eax");
L2_CODE(io_out8, "out %al, %dx");
L2_CODE(io_out16, "out %ax, %dx");
L2_CODE(io_out32, "out %eax, %dx");
L2_CODE(io_out8_imm, "out %al, $0x80");
L2_CODE(io_outsb, "outsb");
L2_CODE(io_rep_outsb, "rep outsb");
L2_CODE(io_rep_insd, "rep insl");

static const struct io {
	const char *name;
	const u8 *code, *end;
	u16 port;
	u32 info; /* EXITINFO1 without the port */
	u32 bytes;
} ios[] = {
#define IO(name, code, port, info, bytes)                                                          \
	{                                                                                          \
		name, code, code##_end, port, (u32)(info), bytes                                   \
	}
	IO("IN AL, DX", io_in8, SCRATCH_PORT, IOIO_IN | IOIO_SZ8, 1),
	IO("IN AX, DX", io_in16, SCRATCH_PORT, IOIO_IN | IOIO_SZ16, 2),
	IO("IN EAX, DX", io_in32, SCRATCH_PORT, IOIO_IN | IOIO_SZ32, 4),
	IO("OUT DX, AL", io_out8, SCRATCH_PORT, IOIO_SZ8, 1),
	IO("OUT DX, AX", io_out16, SCRATCH_PORT, IOIO_SZ16, 2),
	IO("OUT DX, EAX", io_out32, SCRATCH_PORT, IOIO_SZ32, 4),
	IO("OUT imm8, AL", io_out8_imm, SCRATCH_PORT, IOIO_SZ8, 1),
	IO("OUTSB", io_outsb, SCRATCH_PORT, IOIO_STR | IOIO_SZ8, 1),
	IO("REP OUTSB", io_rep_outsb, SCRATCH_PORT, IOIO_REP | IOIO_STR | IOIO_SZ8, 1),
	IO("REP INSD", io_rep_insd, SCRATCH_PORT, IOIO_REP | IOIO_STR | IOIO_IN | IOIO_SZ32, 4),
	/* The bitmap has 64K + 3 bits. */
	IO("IN EAX at port FFFFh", io_in32, 0xffff, IOIO_IN | IOIO_SZ32, 4),
#undef IO
};

static void io_ready(const struct io *io)
{
	l2_reset(io->code);
	l2_intercept(INTERCEPT(IOIO));
	l2.regs.rdx = io->port;
	l2.regs.rcx = 4;
	l2.regs.rsi = l2.regs.rdi = (u64)scratch;
}

static void check_io(const void *arg)
{
	const struct io *io = arg;
	/* Bits 12:7 are defined for strings only: 64-bit addresses, and DS for OUTS. */
	bool sizes = io->info & IOIO_STR && !departs(DEPARTURE_IOIO_SIZES);
	u64 mask = sizes ? ~0ull : ~BITS(12, 7);
	u64 want = io->info | (u64)io->port << IOIO_PORT_SHIFT;

	if (sizes)
		want |= BIT(9) | (io->info & IOIO_IN ? 0 : 3ull << 10);
	/* Any of the accessed ports is enough. */
	for (u32 i = 0; i < io->bytes; i++) {
		io_ready(io);
		iopm_set(io->port + i);
		CHECK_EQ(l2_run(), VMEXIT_IOIO);
		CHECK_EQ(l2.vmcb.save.rip, (u64)io->code);
		CHECK_EQ(l2.vmcb.control.exit_info_1 & mask, want & mask);
		CHECK_EQ(l2.vmcb.control.exit_info_2, (u64)io->end);
		CHECK_EQ(l2.regs.rcx, 4);
	}
	/* The neighbours are not. */
	io_ready(io);
	iopm_set(io->port - 1u);
	iopm_set(io->port + io->bytes);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rip, (u64)io->end);
	/* Without IOIO_PROT the map does not matter. */
	io_ready(io);
	vmcb_clr_intercept(&l2.vmcb.control, INTERCEPT(IOIO));
	iopm_set(io->port);
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
}

/* ---- MSRs ---- */

L2_CODE(msr_read, "rdmsr");
L2_CODE(msr_write, "wrmsr");

static const struct msr {
	const char *name;
	u32 msr;
	bool exists; /* on every CPU: may be read, and the value written back */
	bool in_map;
} msrs[] = {
	{"MSR 0", 0, false, true},
	{"MSR 277h (PAT)", MSR_PAT, true, true},
	{"MSR 1FFFh, end of the first range", 0x1fff, false, true},
	{"MSR 2000h, behind it", 0x2000, false, false},
	{"MSR 4000_0000h", 0x40000000, false, false},
	{"MSR BFFF_FFFFh", 0xbfffffff, false, false},
	{"MSR C000_0082h (LSTAR)", MSR_LSTAR, true, true},
	{"MSR C000_0102h (KernelGSBase)", MSR_KERNEL_GS_BASE, true, true},
	{"MSR C000_1FFFh, end of the second range", 0xc0001fff, false, true},
	{"MSR C000_2000h, behind it", 0xc0002000, false, false},
	{"MSR C001_0117h (VM_HSAVE_PA)", MSR_VM_HSAVE_PA, true, true},
	{"MSR C001_1FFFh, end of the third range", 0xc0011fff, false, true},
	{"MSR C001_2000h, behind it", 0xc0012000, false, false},
	{"MSR FFFF_FFFFh", 0xffffffff, false, false},
};

static u64 msr_run(const struct msr *m, bool write, bool protect, bool read_bit, bool write_bit)
{
	u64 value = m->exists ? rdmsr(m->msr) : 0;

	l2_reset(write ? msr_write : msr_read);
	if (protect)
		l2_intercept(INTERCEPT(MSR));
	if (m->in_map)
		msrpm_set(m->msr, read_bit, write_bit);
	l2.regs.rcx = m->msr;
	l2.vmcb.save.rax = (u32)value;
	l2.regs.rdx = value >> 32;
	return l2_run();
}

static void check_msr(const void *arg)
{
	const struct msr *m = arg;

	for (u32 write = 0; write < 2; write++) {
		CHECK_EQ(msr_run(m, write, true, !write, write), VMEXIT_MSR);
		CHECK_EQ(l2.vmcb.control.exit_info_1, write);
		CHECK_EQ(l2.vmcb.save.rip, (u64)(write ? msr_write : msr_read));
		if (!m->exists)
			continue;
		/* The other direction's bit does not matter, nor any without MSR_PROT. */
		CHECK_EQ(msr_run(m, write, true, write, !write), VMEXIT_VMMCALL);
		CHECK_EQ(msr_run(m, write, false, true, true), VMEXIT_VMMCALL);
		if (!write)
			CHECK_EQ((u32)l2.vmcb.save.rax, (u32)rdmsr(m->msr));
	}
}

/* L2 has an EFER of its own, L1's is not touched. */
static void check_efer(const void *arg)
{
	u64 efer = rdmsr(MSR_EFER);

	(void)arg;
	l2_reset(msr_read);
	l2.regs.rcx = MSR_EFER;
	l2.vmcb.save.efer ^= EFER_SCE;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ((u32)l2.vmcb.save.rax, (u32)(efer ^ EFER_SCE));

	l2_reset(msr_write);
	l2.regs.rcx = MSR_EFER;
	l2.vmcb.save.rax = efer ^ EFER_SCE;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.efer, efer ^ EFER_SCE);
	CHECK_EQ(rdmsr(MSR_EFER), efer);
}

/* ---- registers ---- */

L2_CODE(increment_all,
	"inc %rax\n\tinc %rbx\n\tinc %rcx\n\tinc %rdx\n\tinc %rsi\n\tinc %rdi\n\tinc %rbp\n\t"
	"inc %r8\n\tinc %r9\n\tinc %r10\n\tinc %r11\n\tinc %r12\n\tinc %r13\n\tinc %r14\n\t"
	"inc %r15");

static void check_registers(const void *arg)
{
	u64 *r = (u64 *)&l2.regs;

	(void)arg;
	l2_reset(increment_all);
	for (u32 i = 0; i < sizeof(l2.regs) / 8; i++)
		r[i] = 0x1111111100000000ull * (i + 1) + i;
	l2.vmcb.save.rax = 0x77;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	for (u32 i = 0; i < sizeof(l2.regs) / 8; i++)
		CHECK_EQ(r[i], 0x1111111100000000ull * (i + 1) + i + 1);
	CHECK_EQ(l2.vmcb.save.rax, 0x78);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(instructions) + ARRAY_SIZE(exceptions) + ARRAY_SIZE(ios) +
		 ARRAY_SIZE(msrs) + 4);
	if (!svm_start())
		return;
	tap_run("registers in and out", check_registers, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
		tap_run(instructions[i].name, check_instruction, &instructions[i]);
	tap_run("MOV to CR0, selective", check_cr0_selective, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(exceptions); i++)
		tap_run(exceptions[i].name, check_exception, &exceptions[i]);
	tap_run("SHUTDOWN", check_shutdown, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(ios); i++)
		tap_run(ios[i].name, check_io, &ios[i]);
	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++)
		tap_run(msrs[i].name, check_msr, &msrs[i]);
	tap_run("L2's own EFER", check_efer, NULL);
}

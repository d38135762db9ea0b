/* SPDX-License-Identifier: MIT */
/*
 * ACPI's PM1a_CNT of the machine that QEMU calls q35: what would suspend it to memory does nothing, from L1 and from L2, by
 * every instruction, and all else of the port is as it was. Bare, the first of these writes is the last that anybody sees.
 */
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/pmu.h"

/* The ICH9's PMBASE, and the register behind it; SLP_EN and SLP_TYP (S3 is 1 in QEMU's tables; 2 is S4, 0 is off). */
#define PCI_PMBASE 0x8000f840u
#define PM1_CNT 4
#define SLP_EN BIT(13)
#define S3 (1u << 10)
#define SCI_EN BIT(0)

static u32 port;

static void out16(u32 to, u16 value)
{
	asm volatile("outw %0, %1" : : "a"(value), "Nd"((u16)to));
}

static u16 in16(u32 from)
{
	u16 value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"((u16)from));
	return value;
}

static void find_port(void)
{
	asm volatile("outl %0, %1" : : "a"(PCI_PMBASE), "Nd"((u16)0xcf8));
	asm volatile("inl %1, %0" : "=a"(port) : "Nd"((u16)0xcfc));
	port = (port & 0xff80) + PM1_CNT;
}

static void check_refused(const void *arg)
{
	u16 before = in16(port);

	(void)arg;
	note("PM1a_CNT is port %x and holds %x", port, before);
	out16(port, SLP_EN | S3);
	CHECK_EQ(in16(port), before);
	/* the byte with both fields alone, and four bytes that end with it */
	asm volatile("outb %0, %1" : : "a"((u8)((SLP_EN | S3) >> 8)), "Nd"((u16)(port + 1)));
	CHECK_EQ(in16(port), before);
	asm volatile("outl %0, %1" : : "a"((u32)(SLP_EN | S3) << 16), "Nd"((u16)(port - 2)));
	CHECK_EQ(in16(port), before);
	/* no type that the tables do not name */
	for (u32 type = 3; type < 8; type++)
		out16(port, (u16)(SLP_EN | type << 10));
	CHECK_EQ(in16(port), before);
}

static void check_others(const void *arg)
{
	u16 before = in16(port);
	u64 rax = 0xffffffffffffffff;

	(void)arg;
	out16(port, before ^ SCI_EN);
	CHECK_EQ(in16(port), before ^ SCI_EN);
	out16(port, S3); /* the type alone */
	CHECK_EQ(in16(port) & (7u << 10), S3);
	out16(port, before);
	CHECK_EQ(in16(port), before);
	asm volatile("inw %%dx, %%ax" : "+a"(rax) : "d"(port));
	CHECK_EQ(rax, 0xffffffffffff0000 | before);
	rax = 0xffffffffffffffff;
	asm volatile("inb %%dx, %%al" : "+a"(rax) : "d"(port + 1));
	CHECK_EQ(rax, 0xffffffffffffff00 | before >> 8);
	rax = 0xffffffffffffffff;
	asm volatile("inl %%dx, %%eax" : "+a"(rax) : "d"(port - 2));
	CHECK_EQ(rax >> 32, 0);
}

static void outs(const void *unused)
{
	static const u16 value = SLP_EN | S3;
	const u16 *from = &value;
	u64 count = 1;

	(void)unused;
	asm volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static void check_string(const void *arg)
{
	(void)arg;
	CHECK_EQ(try_call(outs, NULL), VEC_GP);
}

L2_CODE(l2_out, "out %ax, %dx");

static u64 l2_out_with(u16 value, bool intercept)
{
	l2_reset(l2_out);
	l2.vmcb.save.rax = value;
	l2.regs.rdx = port;
	if (intercept)
		l2_intercept(INTERCEPT(IOIO));
	return l2_run();
}

static void check_l2(const void *arg)
{
	u16 before = in16(port);

	(void)arg;
	CHECK_EQ(l2_out_with(SLP_EN | S3, false), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rip, (u64)l2_out_end);
	/* L1's map has none of the port's bits */
	CHECK_EQ(l2_out_with(SLP_EN | S3, true), VMEXIT_VMMCALL);
	CHECK_EQ(in16(port), before);
	CHECK_EQ(l2_out_with(before ^ SCI_EN, true), VMEXIT_VMMCALL);
	CHECK_EQ(in16(port), before ^ SCI_EN);
	out16(port, before);
	/* and here it has: one of the two, and both */
	for (u32 bits = 1; bits < 4; bits++) {
		l2_reset(l2_out);
		for (u32 i = 0; i < 2; i++)
			if (bits >> i & 1)
				iopm_set(port + i);
		l2.vmcb.save.rax = SLP_EN | S3;
		l2.regs.rdx = port;
		l2_intercept(INTERCEPT(IOIO));
		CHECK_EQ(l2_run(), VMEXIT_IOIO);
		CHECK_EQ(l2.vmcb.control.exit_info_1 >> IOIO_PORT_SHIFT & 0xffff, port);
		CHECK_EQ(l2.vmcb.control.exit_info_2, (u64)l2_out_end);
	}
	CHECK_EQ(in16(port), before);
}

static const struct {
	const char *name;
	void (*run)(const void *);
} cases[] = {
	{"PM1a_CNT: no suspend to memory", check_refused},
	{"PM1a_CNT: everything else", check_others},
	{"PM1a_CNT: REP OUTSW is #GP", check_string},
	{"PM1a_CNT: L2, with and without L1's map", check_l2},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	find_port();
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, NULL);
}

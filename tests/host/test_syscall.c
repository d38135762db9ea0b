/* SPDX-License-Identifier: MIT */
/* SYSCALL and its like, against numbers from APM3's pseudocode by hand. */
#include "hv/core/syscall.h"
#include "test.h"

#define LONG_MODE 0x500ull /* EFER.LME, LMA */
#define STAR 0x0013000800001234ull

static struct vmcb_save user(u64 efer)
{
	return (struct vmcb_save){
		.cs = {0x23, 0xafb, 0xffffffff, 0},
		.ss = {0x1b, 0xcf3, 0xffffffff, 0},
		.cpl = 3,
		.efer = efer,
		.rip = 0x401000,
		.rsp = 0x7000,
		.rflags = 0x10ad7, /* RF, IF, SF, ZF, AF, PF, CF, bit 1 */
	};
}

static void check_seg(const struct vmcb_seg *seg, u64 selector, u64 attrib, u64 limit)
{
	CHECK_EQ(seg->selector, selector);
	CHECK_EQ(seg->attrib, attrib);
	CHECK_EQ(seg->limit, limit);
	CHECK_EQ(seg->base, 0);
}

TEST(syscall_in_long_mode)
{
	struct vmcb_save s = user(LONG_MODE);
	u64 rcx = 1, r11 = 2;

	syscall_enter(&s, 0x401002, STAR, 0xffffffff81000000, 0x47700, &rcx, &r11);
	CHECK_EQ(rcx, 0x401002);
	CHECK_EQ(r11, 0xad7); /* without RF */
	CHECK_EQ(s.rip, 0xffffffff81000000);
	CHECK_EQ(s.rflags, 0x8d7 & ~0x700);
	CHECK_EQ(s.cpl, 0);
	CHECK_EQ(s.rsp, 0x7000);
	check_seg(&s.cs, 0x08, 0xa9b, 0xffffffff);
	check_seg(&s.ss, 0x10, 0xc93, 0xffffffff);
}

TEST(syscall_outside_long_mode)
{
	struct vmcb_save s = user(0);
	u64 rcx = 1, r11 = 2;

	s.rflags |= 1 << 17; /* VM */
	syscall_enter(&s, 0x401002, STAR, (u32)STAR, ~0ull, &rcx, &r11);
	CHECK_EQ(rcx, 0x401002);
	CHECK_EQ(r11, 2);
	CHECK_EQ(s.rip, 0x1234);
	CHECK_EQ(s.rflags, 0x8d7); /* no IF, RF, VM; SFMASK has no say */
	check_seg(&s.cs, 0x08, 0xc9b, 0xffffffff);
	check_seg(&s.ss, 0x10, 0xc93, 0xffffffff);
}

TEST(sysret_of_each_size)
{
	for (unsigned int bits = 0; bits < 4; bits++) {
		bool from_64 = bits & 1, to_64 = bits == 3;
		struct vmcb_save s = user(LONG_MODE);

		s.cpl = 0;
		s.rflags = 0x2;
		s.ss = (struct vmcb_seg){0x10, 0x493, 0x12345, 0x678};
		syscall_return(&s, from_64, to_64, STAR, 0x1234500401002, ~0ull);
		CHECK_EQ(s.cpl, 3);
		CHECK_EQ(s.rip, to_64 ? 0x1234500401002 : 0x401002);
		/* all that exist but RF and VM; from elsewhere IF */
		CHECK_EQ(s.rflags, from_64 ? 0x3c7fd7 : 0x202);
		check_seg(&s.cs, to_64 ? 0x23 : 0x13, to_64 ? 0xafb : 0xcfb, 0xffffffff);
		CHECK_EQ(s.ss.selector, 0x1b);
		CHECK_EQ(s.ss.attrib, 0x4f3); /* as it was, but for DPL */
		CHECK_EQ(s.ss.limit, 0x12345);
		CHECK_EQ(s.ss.base, 0x678);
	}
}

TEST(sysenter_and_sysexit)
{
	struct vmcb_save s = user(0);

	sysenter_enter(&s, 0x0b, 0x1c0000010, 0x2c0001000);
	CHECK_EQ(s.rip, 0xc0000010);
	CHECK_EQ(s.rsp, 0xc0001000);
	CHECK_EQ(s.rflags, 0x8d7);
	CHECK_EQ(s.cpl, 0);
	check_seg(&s.cs, 0x08, 0xc9b, 0xffffffff);
	check_seg(&s.ss, 0x10, 0xc93, 0xffffffff);

	sysenter_return(&s, 0x08, 0x100401002, 0x100007000);
	CHECK_EQ(s.rip, 0x401002);
	CHECK_EQ(s.rsp, 0x7000);
	CHECK_EQ(s.rflags, 0x8d7);
	CHECK_EQ(s.cpl, 3);
	check_seg(&s.cs, 0x1b, 0xcfb, 0xffffffff);
	check_seg(&s.ss, 0x23, 0xcf3, 0xffffffff);
}

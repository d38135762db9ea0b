/* SPDX-License-Identifier: MIT */
#include "hv/core/event.h"
#include "event_naive.h"
#include "test.h"

#define V BIT(31)
#define EV BIT(11)
#define EXCEPTION (3ull << 8)
#define DOUBLE_FAULT (V | EXCEPTION | EV | 8)

/* Every type and vector first, every exception second. */
TEST(event_combines_as_the_manual_says)
{
	for (unsigned int type = 0; type < 8; type++) {
		for (unsigned int one = 0; one < 256; one++) {
			u64 first = V | (u64)type << 8 | one | (one & 1 ? EV | 0x55ull << 32 : 0);

			for (unsigned int two = 0; two < 256; two++) {
				u64 second = V | EXCEPTION | two | EV | 0x1234ull << 32;
				enum naive_outcome want =
					type == 3 ? naive_combined(one, two) : SERIAL;

				CHECK_EQ(event_combine(first, second), want == SERIAL ? second
								       : want == DOUBLE
									       ? DOUBLE_FAULT
									       : 0);
				/* without V there was no first event */
				CHECK_EQ(event_combine(first & ~V, second), second);
			}
		}
	}
	CHECK_EQ(event_combine(0, DOUBLE_FAULT), DOUBLE_FAULT);
}

/* What is no exception waits, whatever is being delivered. */
TEST(event_that_is_no_exception_never_combines)
{
	for (unsigned int type = 0; type < 8; type++)
		for (unsigned int one = 0; one < 256; one++)
			for (unsigned int two = 0; two < 256 && type != 3; two++) {
				u64 second = V | (u64)type << 8 | two;

				CHECK_EQ(event_combine(V | EXCEPTION | one, second), second);
			}
}

/* Two contributory exceptions, then a third event: the way to shutdown. */
TEST(event_three_in_a_row_are_shutdown)
{
	u64 page_fault = V | EXCEPTION | EV | 14 | 6ull << 32;
	u64 twice = event_combine(page_fault, page_fault);

	CHECK_EQ(twice, DOUBLE_FAULT);
	CHECK_EQ(event_combine(twice, page_fault), 0);
	CHECK_EQ(event_combine(twice, V | EXCEPTION | 18), 0);
	/* an #UD whose delivery faults is no double fault yet */
	CHECK_EQ(event_combine(V | EXCEPTION | 6, page_fault), page_fault);
}

/* Table 14-1, byte by byte: what INIT sets, and that nothing else is touched. */
TEST(event_init_sets_the_state_of_table_14_1)
{
	static struct vmcb_save s, want;

	for (size_t i = 0; i < sizeof(s); i++)
		((u8 *)&s)[i] = 0xa5;
	s.cr0 = 0xe005003bull; /* CD, NW, PG and more */
	want = s;
	event_init_state(&s);

	want.es = want.ss = want.ds = want.fs = want.gs = (struct vmcb_seg){0, 0x93, 0xffff, 0};
	want.cs = (struct vmcb_seg){0xf000, 0x9b, 0xffff, 0xffff0000};
	want.gdtr = want.idtr = (struct vmcb_seg){0, 0, 0xffff, 0};
	want.ldtr = (struct vmcb_seg){0, 0x82, 0xffff, 0};
	want.tr = (struct vmcb_seg){0, 0x83, 0xffff, 0};
	want.cpl = 0;
	want.efer = BIT(12);
	want.cr0 = 0x60000010;
	want.cr2 = want.cr3 = want.cr4 = 0;
	want.dr6 = 0xffff0ff0;
	want.dr7 = 0x400;
	want.rflags = 2;
	want.rip = 0xfff0;
	want.rsp = want.rax = 0;
	for (size_t i = 0; i < sizeof(s); i++)
		if (((u8 *)&s)[i] != ((u8 *)&want)[i]) {
			CHECK_EQ(i, sizeof(s));
			break;
		}

	/* CD and NW are as they were */
	s.cr0 = BIT(31) | BIT(0);
	event_init_state(&s);
	CHECK_EQ(s.cr0, 0x10);
}

/* Every case of APM2 §15.21.8: GIF first, then L1's intercept, then VM_CR.R_INIT. */
TEST(event_init_goes_where_gif_intercept_and_r_init_say)
{
	for (unsigned int n = 0; n < 16; n++) {
		bool gif = n & 1, in_l2 = n & 2, intercepts = n & 4, r_init = n & 8;
		enum event_init_fate fate = event_init_fate(gif, in_l2, intercepts, r_init);

		CHECK_EQ(fate == EVENT_INIT_HELD, !gif);
		CHECK_EQ(fate == EVENT_INIT_EXIT, gif && in_l2 && intercepts);
		CHECK_EQ(fate == EVENT_INIT_SX, gif && !(in_l2 && intercepts) && r_init);
		CHECK_EQ(fate == EVENT_INIT_RESET, gif && !(in_l2 && intercepts) && !r_init);
	}
}

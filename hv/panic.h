/* SPDX-License-Identifier: MIT */
/* The end: for L0's own bugs only, never for what a guest does. */
#ifndef TALLY_HV_PANIC_H
#define TALLY_HV_PANIC_H

#include "types.h"

struct fault_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

NORETURN void panic_at(const char *file, int line, const char *fmt, ...) PRINTF(3, 4);
#define panic(...) panic_at(__FILE__, __LINE__, __VA_ARGS__)

/* Always built in. */
#define ASSERT(cond)                                                                               \
	do {                                                                                       \
		if (unlikely(!(cond)))                                                             \
			panic("assertion failed: %s", #cond);                                      \
	} while (0)

/* An exception in L0: the place in the exception table that continues it, or the panic page. */
void fault(struct fault_frame *frame);

#endif

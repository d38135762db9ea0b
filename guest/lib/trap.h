/* SPDX-License-Identifier: MIT */
/*
 * The guest's own GDT, TSS and IDT, in place from guest_main's first instruction to its last, and
 * a way to ask "which exception does this raise?". An exception that nobody asked for ends the
 * guest as CRASH.
 */
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#include "types.h"

#define GDT_CODE 0x08u
#define GDT_DATA 0x10u
#define GDT_USER_DATA 0x1bu
#define GDT_USER_CODE 0x23u
#define GDT_CODE32 0x28u
#define GDT_TSS 0x30u
#define GDT_USER_CODE32 0x43u
#define GDT_CODE16 0x48u /* flat: 4 GByte, unlike the firmware's */
#define GDT_USER_CODE16 0x53u

#define VEC_NONE 0x100u	     /* no exception */
#define VEC_TRY_RETURN 0x80u /* INT of user code that came to its end */

struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

/* What the last try_call or try_user ended with. */
struct trap_info {
	u64 vector, error, rip, cr2;
};
extern struct trap_info trap_info;

/* Calls fn(arg) at CPL 0 (at CPL 3) and returns the vector of the first exception, or VEC_NONE. Not
 * recursive. */
u64 try_call(void (*fn)(const void *arg), const void *arg);
u64 try_user(void (*fn)(const void *arg), const void *arg);

/* Handles a vector until reset to NULL. Interrupts without a hook are acknowledged and counted in
 * trap_strays. */
void trap_hook(u32 vector, void (*hook)(struct trap_frame *frame));
extern volatile u64 trap_strays;

void trap_init(void);
/* Points a gate of the own IDT at a bare stub, NULL: back to normal. */
void trap_gate(u32 vector, const void *stub);
/* The same, for INTn at CPL 3. */
void trap_gate_user(u32 vector, const void *stub);

struct idt_gate {
	u16 offset_lo, selector;
	u8 ist, type;
	u16 offset_mid;
	u32 offset_hi, reserved;
} PACKED;
void idt_gate_set(struct idt_gate *gate, const void *handler, u8 dpl);

#endif

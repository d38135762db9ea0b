/* SPDX-License-Identifier: MIT */
#include "guest/lib/legacy.h"

#include "guest/lib/trap.h"

/* legacy.asm */
void legacy_enter(struct legacy *l);
extern const u8 legacy_fault[];

#define VECTORS 32

static u8 stack[PAGE_SIZE] ALIGNED(16);
static u8 stubs[VECTORS][16];
static u64 idt[VECTORS];

static u32 address(const void *p)
{
	return (u32)(u64)p;
}

static void put32(u8 *at, u32 value)
{
	__builtin_memcpy(at, &value, sizeof(value));
}

/* 32-bit code cannot find its data by RIP, so the stubs have it in them. */
static void make_idt(const struct legacy *l)
{
	for (u32 v = 0; v < VECTORS; v++) {
		u8 *s = stubs[v];
		u64 at = address(s);

		s[0] = 0xbb; /* MOV EBX, l */
		put32(s + 1, address(l));
		s[5] = 0xb8; /* MOV EAX, v */
		put32(s + 6, v);
		s[10] = 0xe9; /* JMP legacy_fault */
		put32(s + 11, address(legacy_fault) - address(s + 15));
		idt[v] = (at & 0xffff) | (u64)GDT_CODE32 << 16 | 0x8eull << 40 | (at >> 16) << 48;
	}
}

u32 legacy_run(struct legacy *l)
{
	make_idt(l);
	l->vector = VEC_NONE;
	l->error = l->eip = l->cr2 = 0;
	l->stack = address(stack + sizeof(stack));
	l->idtr.limit = sizeof(idt) - 1;
	l->idtr.base = address(idt);
	legacy_enter(l);
	return l->vector;
}

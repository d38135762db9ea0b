/* SPDX-License-Identifier: MIT */
/* Memory for an L2 whose code, registers and save area may be anything: nested paging gives it a cage and no more, in which
 * its own tables are, too. */
#ifndef GUEST_CAGE_H
#define GUEST_CAGE_H

#include "guest/lib/paging.h"
#include "guest/lib/svm.h"
#include "guest/lib/trap.h"
#include "types.h"

struct cage {
	u8 code[PAGE_SIZE];
	u8 stack[PAGE_SIZE];
	u64 gdt[PAGE_SIZE / 8];
	struct idt_gate idt[256]; /* every gate: to the end of code[], which does VMMCALL */
	struct paging tables;
} ALIGNED(4096);

extern struct cage *cage;

/* One of them does not cross a 2-MByte border, and so lies in the one page table that struct paging has. */
void cage_choose(struct cage two[2]);

/* NOPs, and the handler of all gates. */
void cage_clear_code(void);
void cage_write(u64 at, const void *code, u64 bytes);
/* VMMCALL; JMP to itself */
void cage_write_end(u64 at);

/* Page tables, GDT, IDT and stack, for L2's save area. */
void cage_fill(void);
/* l2.npt: entries for the cage, and all others 0. */
void cage_npt(void);
/* What keeps all that such an L2 does from L1's machine, and L2 from running for ever. */
void cage_intercept(struct vmcb_control *c);

#endif

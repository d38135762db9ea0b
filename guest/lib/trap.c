/* SPDX-License-Identifier: MIT */
#include "guest/lib/trap.h"

#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/start.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"

/* trap.asm */
extern const u8 trap_stubs[]; /* one every TRAP_STUB_BYTES */
extern u64 try_rsp;
void trap_load(const struct table_register *gdtr, const struct table_register *idtr);
void trap_entry(struct trap_frame *frame);
NORETURN void try_unwind(u64 vector);

#define TRAP_STUB_BYTES 16

struct trap_info trap_info;
volatile u64 trap_strays;

static void (*hooks[256])(struct trap_frame *);
static struct idt_gate idt[256] ALIGNED(16);
static u8 trap_stack[16 * 1024] ALIGNED(16);

static struct PACKED {
	u32 reserved_0;
	u64 rsp0;
	u8 other[90];
	u16 iopb;
} tss = {.iopb = sizeof(tss)};

/* Flat descriptors: G and P set, and L or D for code. */
static u64 gdt[] = {
	0,
	0x00af9b000000ffffull, /* GDT_CODE */
	0x00cf93000000ffffull, /* GDT_DATA */
	0x00cff3000000ffffull, /* GDT_USER_DATA */
	0x00affb000000ffffull, /* GDT_USER_CODE */
	0x00cf9b000000ffffull, /* GDT_CODE32 */
	0,		       /* GDT_TSS, 16 bytes */
	0,
	0x00cffb000000ffffull, /* GDT_USER_CODE32 */
	0x008f9b000000ffffull, /* GDT_CODE16 */
	0x008ffb000000ffffull, /* GDT_USER_CODE16 */
};

void idt_gate_set(struct idt_gate *gate, const void *handler, u8 dpl)
{
	u64 address = (u64)handler;

	*gate = (struct idt_gate){
		.offset_lo = (u16)address,
		.offset_mid = (u16)(address >> 16),
		.offset_hi = (u32)(address >> 32),
		.selector = GDT_CODE,
		.type = (u8)(0x8e | dpl << 5),
	};
}

void trap_gate(u32 vector, const void *stub)
{
	idt_gate_set(&idt[vector], stub ? stub : trap_stubs + (size_t)vector * TRAP_STUB_BYTES,
		     vector == VEC_TRY_RETURN ? 3 : 0);
}

void trap_gate_user(u32 vector, const void *stub)
{
	idt_gate_set(&idt[vector], stub, 3);
}

void trap_init(void)
{
	u64 base = (u64)&tss;

	tss.rsp0 = (u64)(trap_stack + sizeof(trap_stack));
	gdt[GDT_TSS / 8] = (sizeof(tss) - 1) | (base & BITS(23, 0)) << 16 | 0x89ull << 40 |
			   (base & BITS(31, 24)) << 32;
	gdt[GDT_TSS / 8 + 1] = base >> 32;
	for (u32 v = 0; v < ARRAY_SIZE(idt); v++)
		trap_gate(v, NULL);
	trap_load(&(struct table_register){sizeof(gdt) - 1, (u64)gdt},
		  &(struct table_register){sizeof(idt) - 1, (u64)idt});
}

void trap_hook(u32 vector, void (*hook)(struct trap_frame *frame))
{
	hooks[vector] = hook;
}

/* Called by the stubs. */
void trap_entry(struct trap_frame *frame)
{
	u32 vector = (u32)frame->vector;

	if (hooks[vector]) {
		hooks[vector](frame);
		return;
	}
	if (try_rsp) {
		trap_info = (struct trap_info){vector, frame->error, frame->rip, read_cr2()};
		if (vector == VEC_TRY_RETURN)
			trap_info.vector = VEC_NONE;
		if (vector < 32 || vector == VEC_TRY_RETURN)
			try_unwind(trap_info.vector);
	}
	if (vector >= 32) {
		trap_strays++;
		if (apic_bit(APIC_ISR, vector))
			apic_eoi();
		return;
	}
	note("CRASH: exception %u error 0x%lx at rip 0x%lx (image+0x%lx) rsp 0x%lx cr2 0x%lx",
	     vector, frame->error, frame->rip, frame->rip - image_base(), frame->rsp, read_cr2());
	guest_exit(VERDICT_CRASH);
}

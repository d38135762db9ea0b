/* SPDX-License-Identifier: MIT */
#include "guest/lib/cage.h"

#include "guest/lib/cpu.h"

#define HANDLER 0xff0 /* in code[] */

struct cage *cage;

void cage_choose(struct cage two[2])
{
	u64 first = (u64)&two[0], last = first + sizeof(two[0]) - 1;

	cage = &two[first / PAGE_2M != last / PAGE_2M];
}

void cage_write(u64 at, const void *code, u64 bytes)
{
	for (u64 i = 0; i < bytes; i++)
		cage->code[at + i] = ((const u8 *)code)[i];
}

void cage_write_end(u64 at)
{
	static const u8 end[] = {0x0f, 0x01, 0xd9, 0xeb, 0xfe};

	cage_write(at, end, sizeof(end));
}

void cage_clear_code(void)
{
	for (u64 i = 0; i < sizeof(cage->code); i++)
		cage->code[i] = 0x90;
	cage_write_end(HANDLER);
}

void cage_fill(void)
{
	struct table_register gdtr;
	struct vmcb_save *s = &l2.vmcb.save;

	asm volatile("sgdt %0" : "=m"(gdtr));
	for (u32 i = 0; i < (gdtr.limit + 1u) / 8; i++)
		cage->gdt[i] = ((const u64 *)gdtr.base)[i];
	for (u32 i = 0; i < ARRAY_SIZE(cage->idt); i++)
		idt_gate_set(&cage->idt[i], &cage->code[HANDLER], 3);
	for (u64 i = 0; i < sizeof(cage->stack); i++)
		cage->stack[i] = 0;
	paging_identity(&cage->tables, PTE_ALL);
	s->gdtr.base = (u64)cage->gdt;
	s->idtr = (struct vmcb_seg){.limit = sizeof(cage->idt) - 1, .base = (u64)cage->idt};
	s->cr3 = paging_root(&cage->tables);
	s->rsp = (u64)(cage->stack + sizeof(cage->stack) - 256);
}

void cage_npt(void)
{
	u64 base = (u64)cage, *entry;

	paging_identity(&l2.npt, PTE_ALL & ~(PTE_A | PTE_D));
	paging_split(&l2.npt, base);
	entry = paging_entry(&l2.npt, base, 2);
	for (u32 g = 0; g < ARRAY_SIZE(l2.npt.pd); g++)
		for (u32 i = 0; i < 512; i++)
			if (&l2.npt.pd[g][i] != entry)
				l2.npt.pd[g][i] = 0;
	for (u32 i = ARRAY_SIZE(l2.npt.pd); i < 512; i++)
		l2.npt.pdpt[i] = 0;
	for (u32 i = 0; i < 512; i++) {
		u64 page = ALIGN_DOWN(base, PAGE_2M) + i * PAGE_SIZE;

		if (page < base || page >= base + sizeof(*cage))
			l2.npt.pt[i] = 0;
	}
}

void cage_intercept(struct vmcb_control *c)
{
	static const unsigned int intercepts[] = {
		INTERCEPT(INTR),   INTERCEPT(NMI),    INTERCEPT(SHUTDOWN), INTERCEPT(VMLOAD),
		INTERCEPT(VMSAVE), INTERCEPT(STGI),   INTERCEPT(CLGI),	   INTERCEPT(SKINIT),
		INTERCEPT(INVD),   INTERCEPT(XSETBV), INTERCEPT(VMMCALL),
	};

	for (u32 i = 0; i < ARRAY_SIZE(intercepts); i++)
		vmcb_set_intercept(c, intercepts[i]);
}

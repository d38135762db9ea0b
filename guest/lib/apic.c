/* SPDX-License-Identifier: MIT */
#include "guest/lib/apic.h"

#include "guest/lib/trap.h"
#include "x86/cr.h"

volatile u32 interrupts, nmis;

static void on_interrupt(struct trap_frame *frame)
{
	(void)frame;
	interrupts++;
	apic_eoi();
}

static void on_nmi(struct trap_frame *frame)
{
	(void)frame;
	nmis++;
}

void apic_count(u32 vector)
{
	interrupts = nmis = 0;
	trap_hook(vector, on_interrupt);
	trap_hook(VEC_NMI, on_nmi);
}

void apic_count_end(u32 vector)
{
	trap_hook(vector, NULL);
	trap_hook(VEC_NMI, NULL);
}

void apic_settle(void)
{
	/* On silicon an IPI takes a moment. */
	for (u32 i = 0; i < 1000; i++)
		asm volatile("pause");
}

void apic_raise(u32 vector)
{
	apic_self_ipi(vector);
	apic_settle();
}

void apic_raise_nmi(void)
{
	apic_self_nmi();
	apic_settle();
}

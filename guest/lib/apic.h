/* SPDX-License-Identifier: MIT */
/* The local APIC, in whichever mode the firmware left it: IPIs to oneself and what comes of them, the timer, EOI. */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "guest/lib/cpu.h"
#include "types.h"
#include "x86/apic.h"
#include "x86/msr.h"

static inline bool apic_x2(void)
{
	return rdmsr(MSR_APIC_BASE) & APIC_BASE_X2;
}

static inline volatile u32 *apic_register(u32 reg)
{
	return (volatile u32 *)((rdmsr(MSR_APIC_BASE) & APIC_BASE_ADDRESS) + reg);
}

static inline u32 apic_read(u32 reg)
{
	return apic_x2() ? (u32)rdmsr(APIC_X2_MSR(reg)) : *apic_register(reg);
}

static inline void apic_write(u32 reg, u32 value)
{
	if (apic_x2())
		wrmsr(APIC_X2_MSR(reg), value);
	else
		*apic_register(reg) = value;
}

static inline u32 apic_id(void)
{
	return apic_x2() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> APIC_XAPIC_ID_SHIFT;
}

static inline bool apic_bit(u32 bank, u32 vector)
{
	return apic_read(bank + vector / 32 * 16) >> (vector % 32) & 1;
}

static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

static inline void apic_self_ipi(u32 vector)
{
	apic_write(APIC_ICR, vector | (u32)APIC_ICR_SELF);
}

/* The self shorthand is not defined for NMI (APM2 §16.5): send to our own id. */
static inline void apic_self_nmi(void)
{
	u32 id = apic_read(APIC_ID);

	if (apic_x2()) {
		wrmsr(APIC_X2_MSR(APIC_ICR), (u64)id << 32 | APIC_DELIVERY_NMI);
		return;
	}
	apic_write(APIC_ICR_HIGH, id);
	apic_write(APIC_ICR, APIC_DELIVERY_NMI);
}

/* One shot after `count` bus clocks; QEMU under -icount: nanoseconds. */
static inline void apic_timer(u32 vector, u32 count)
{
	apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, vector);
	apic_write(APIC_TIMER_COUNT, count);
}

static inline void apic_timer_stop(void)
{
	apic_write(APIC_TIMER_COUNT, 0);
	apic_write(APIC_LVT_TIMER, (u32)APIC_LVT_MASKED);
}

/* From 0 on, counts interrupts of this vector, and NMIs; until apic_count_end(). */
void apic_count(u32 vector);
void apic_count_end(u32 vector);
extern volatile u32 interrupts, nmis;

/* Until an IPI has arrived, if nothing holds it. */
void apic_settle(void);
/* To oneself, and settled. */
void apic_raise(u32 vector);
void apic_raise_nmi(void);

#endif

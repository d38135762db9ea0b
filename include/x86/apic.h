/* SPDX-License-Identifier: MIT */
/* The local APIC's registers. AMD64 APM vol. 2, rev. 3.44, ch. 16. */
#ifndef TALLY_X86_APIC_H
#define TALLY_X86_APIC_H

#include "types.h"

/* MSR_APIC_BASE */
#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2 BIT(10)
#define APIC_BASE_ENABLED BIT(11)
#define APIC_BASE_ADDRESS BITS(51, 12)
#define APIC_DEFAULT_PAGE 0xfee00000u
/* Offsets in the APIC's page; in x2APIC mode each is an MSR. */
#define APIC_X2_MSR(reg) (0x800u + (reg) / 16)
#define APIC_ID 0x20u
#define APIC_TPR 0x80u
#define APIC_EOI 0xb0u
#define APIC_LDR 0xd0u
#define APIC_DFR 0xe0u
#define APIC_SVR 0xf0u
#define APIC_ISR 0x100u
#define APIC_IRR 0x200u
#define APIC_ICR 0x300u
#define APIC_ICR_HIGH 0x310u
#define APIC_LVT_TIMER 0x320u
#define APIC_LVT_THERMAL 0x330u
#define APIC_LVTPC 0x340u
#define APIC_LVT_LINT0 0x350u
#define APIC_LVT_LINT1 0x360u
#define APIC_LVT_ERROR 0x370u
#define APIC_TIMER_COUNT 0x380u
#define APIC_TIMER_CURRENT 0x390u
#define APIC_TIMER_DIVIDE 0x3e0u
#define APIC_SELF_IPI 0x3f0u /* x2APIC mode only */

#define APIC_SVR_ENABLE 0x100u

/* ICR and LVT */
#define APIC_VECTOR 0xffu
#define APIC_DELIVERY 0x700u
#define APIC_DELIVERY_FIXED 0x000u
#define APIC_DELIVERY_SMI 0x200u
#define APIC_DELIVERY_NMI 0x400u
#define APIC_DELIVERY_EXTINT 0x700u
#define APIC_DELIVERY_INIT 0x500u
#define APIC_DELIVERY_SIPI 0x600u
#define APIC_DELIVERY_LOWEST 0x100u
#define APIC_ICR_LOGICAL BIT(11)
#define APIC_ICR_PENDING BIT(12)
#define APIC_ICR_ASSERT BIT(14)
#define APIC_ICR_LEVEL BIT(15)
#define APIC_ICR_SHORTHAND BITS(19, 18)
#define APIC_ICR_SELF BIT(18)
#define APIC_ICR_ALL BIT(19)
#define APIC_ICR_OTHERS BITS(19, 18)
#define APIC_LVT_MASKED BIT(16)
#define APIC_LVT_PERIODIC BIT(17)
#define APIC_LVT_TSC_DEADLINE BIT(18)
#define APIC_DIVIDE_BY_1 0xbu
/* SVR */
#define APIC_SVR_ENABLED BIT(8)

/* In the ID and LDR registers and ICR's high half, outside x2APIC mode. */
#define APIC_XAPIC_ID_SHIFT 24
#define APIC_XAPIC_BROADCAST 0xffu
#define APIC_X2_BROADCAST 0xffffffffu

#endif

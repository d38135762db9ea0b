/* SPDX-License-Identifier: MIT */
#ifndef TALLY_TESTS_LINUX_KVM_GUEST_H
#define TALLY_TESTS_LINUX_KVM_GUEST_H

/* What kvm-client.c and its guest's programs in kvm-guest.S agree on. Guest-physical addresses are
 * guest-virtual ones too. Memory is the first 2 MByte. */
#define GUEST_BYTES 0x200000
#define GUEST_PML4 0x1000
#define GUEST_PDPT 0x2000
#define GUEST_PD0 0x3000 /* the first GByte */
#define GUEST_PD3 0x4000 /* the fourth, with both APICs */
#define GUEST_PT 0x5000	 /* the first 2 MByte, in pages of 4 KByte */
#define GUEST_GDT 0x6000
#define GUEST_IDT 0x7000
#define GUEST_LOG 0x8000 /* the number of traps, then a struct trap for each */
#define GUEST_IN 0x9000
#define GUEST_OUT 0xa000
#define GUEST_STACK 0xc000   /* its top */
#define GUEST_STACK_1 0xb800 /* the second CPU's */
#define GUEST_CODE 0x10000
#define GUEST_READONLY 0x20000
#define GUEST_NOEXEC 0x21000

/* Mapped, but there is no memory. */
#define GUEST_MMIO 0x10000000
/* Its PDE has a reserved bit. */
#define GUEST_RESERVED 0x10400000
/* Not mapped. */
#define GUEST_ABSENT 0x20000000

#define SELECTOR_CODE 0x08
#define SELECTOR_DATA 0x10
#define SELECTOR_ABSENT 0x18

#define TRAPS_MAX 64

#define PORT_DATA 0x40
#define PORT_READY 0x41
#define PORT_IN_NMI 0x42
#define PORT_DONE 0x43

#define VECTOR_PIC 0x20
#define VECTOR_TIMER 0x50
#define VECTOR_IOAPIC 0x60
#define VECTOR_SELF 0x70
#define IOAPIC_PIN 20
#define PIC_PIN 5
#define ONESHOT_ROUNDS 10
#define PERIODIC_ROUNDS 10

/* guest_two: what its CPUs share. */
#define TWO_TAKEN GUEST_OUT	   /* interrupts taken by each */
#define TWO_ROUND (GUEST_OUT + 16) /* how far each says to be */
#define TWO_SUM (GUEST_OUT + 32)   /* both add to it in each round */
#define TWO_READY (GUEST_OUT + 40) /* how many have an APIC that is on */
#define VECTOR_IPI 0x90
#define TWO_ROUNDS 2000
#define TWO_REPORT 100

/* guest_pmu_*: words at GUEST_IN, what was read at GUEST_OUT. */
#define GUEST_HSAVE 0xd000
#define GUEST_VMCB 0xe000
#define GUEST_L3_STACK 0xf000 /* its top */
#define PMU_COUNTERS 6
#define PMU_NOPS 1000
#define VECTOR_PMI 0x80

/* guest_exits: rounds of 9 CPUID and one OUT. */
#define EXITS_PER_ROUND 10
#define EXITS_ROUNDS 100000

#endif

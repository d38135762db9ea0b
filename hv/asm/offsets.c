/* SPDX-License-Identifier: MIT */
/* Compiled to assembly, from which the Makefile takes the numbers for vmrun.asm. */
#include "hv/cpus.h"

#define OFFSET_IN(type, name, field)                                                               \
	asm volatile(".ascii \"@@ " #name " %c0\"" : : "i"(offsetof(struct type, field)))
#define OFFSET(name, field) OFFSET_IN(vcpu, name, field)

void offsets(void);

void offsets(void)
{
	OFFSET(VCPU_GPR, gpr);
	OFFSET(VCPU_VMCB_HPA, vmcb_hpa);
	OFFSET(VCPU_CLOCK_OVERHEAD, clock_overhead);
	OFFSET(VCPU_CLOCK_NOW, clock.now);
	OFFSET(VCPU_CLOCK_COUNTING, clock.counting);
	OFFSET(VCPU_CLOCK_DEADLINE, clock.deadline);
	OFFSET(VCPU_PROBE_RSP, probe_rsp);
	OFFSET(VCPU_ON_EXIT, on_exit);
	OFFSET(VCPU_NMI_SEEN, nmi_seen);
	OFFSET(VCPU_INIT_SEEN, init_seen);
	OFFSET(VCPU_IRQ_SEEN, irq_seen);
	OFFSET(VCPU_ON_ENTRY, on_entry);
	OFFSET(VCPU_IRPERF_COUNT, irperf.count);
	OFFSET(VCPU_IRPERF_OVERHEAD, irperf.overhead);
	OFFSET(VCPU_TIMER_LEAD, apic_timer.lead);
	OFFSET(VCPU_TIMER_LIMIT, apic_timer.limit);
	OFFSET(VCPU_TIMER_COUNT_AT, apic_timer.count_at);
	OFFSET(VCPU_VMCB, vmcb);
	OFFSET_IN(vmcb, VMCB_CPL, save.cpl);
	OFFSET(VCPU_SWITCHED_WRITES, switched.writes);
	OFFSET(VCPU_SWITCHED_WRITE, switched.write);
	OFFSET(VCPU_SWITCHED_ENTRIES, switched.entries);
	OFFSET(VCPU_SWITCHED_INTERRUPTING, switched.interrupting);
	OFFSET_IN(pmu_switched_write, WRITE_MSR, msr);
	OFFSET_IN(pmu_switched_write, WRITE_START, start);
	OFFSET_IN(pmu_switched_write, WRITE_STOP, stop);
	OFFSET_IN(pmu_switched_write, WRITE_HIGH, high);
	asm volatile(".ascii \"@@ STACK_BYTES %c0\"" : : "i"(STACK_BYTES));
	asm volatile(".ascii \"@@ CPU_BYTES %c0\"" : : "i"(sizeof(struct cpu)));
	asm volatile(".ascii \"@@ WRITE_SIZE %c0\"" : : "i"(sizeof(struct pmu_switched_write)));
}

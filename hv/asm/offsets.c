/* SPDX-License-Identifier: MIT */
/* Compiled to assembly, from which the Makefile takes the numbers for vmrun.asm. */
#include "hv/vcpu.h"

#define OFFSET(name, field)                                                                        \
	asm volatile(".ascii \"@@ " #name " %c0\"" : : "i"(offsetof(struct vcpu, field)))

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
}

/* SPDX-License-Identifier: MIT */
/* The CPU's own memory. One of these until more CPUs are supported. */
#ifndef TALLY_HV_MAIN_H
#define TALLY_HV_MAIN_H

#include "hv/vcpu.h"

#define STACK_BYTES 16384

struct cpu {
	u8 stack[STACK_BYTES] ALIGNED(4096);
	struct vcpu vcpu; /* RSP points here at VMRUN */
	struct vmcb vmcb01, vmcb02;
	u8 hsave[4096] ALIGNED(4096);
};

extern struct cpu the_cpu;

#endif

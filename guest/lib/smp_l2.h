/* SPDX-License-Identifier: MIT */
/* An L2 for each CPU, all from the one that svm.h makes. */
#ifndef GUEST_SMP_L2_H
#define GUEST_SMP_L2_H

#include "guest/lib/smp.h"
#include "guest/lib/svm.h"

struct smp_l2 {
	struct vmcb vmcb;
	u8 hsave[PAGE_SIZE];
	struct l2_regs regs;
} ALIGNED(4096);

/* Copies `l2`, as l2_reset() and the test have made it, for all CPUs: each with its number in RBX. Its stack is one on
 * which smp_this() knows the CPU, too. */
void smp_l2_prepare(void);
/* This CPU's. */
struct smp_l2 *smp_l2(void);
struct smp_l2 *smp_l2_of(u32 cpu);
/* On this CPU: EFER.SVME and VM_HSAVE_PA; then VMRUN between CLGI and STGI. Returns the exit code. */
void smp_l2_enable(void);
u64 smp_l2_run(void);

#endif

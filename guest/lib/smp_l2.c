/* SPDX-License-Identifier: MIT */
#include "guest/lib/smp_l2.h"

#include "guest/lib/cpu.h"
#include "x86/cr.h"
#include "x86/msr.h"

static struct smp_l2 l2s[MP_CPUS];

void smp_l2_prepare(void)
{
	for (u32 i = 0; i < smp_cpus(); i++) {
		l2s[i].vmcb = l2.vmcb;
		l2s[i].regs = l2.regs;
		l2s[i].regs.rbx = i;
		l2s[i].vmcb.save.rsp = smp_l2_stack(i);
	}
}

struct smp_l2 *smp_l2(void)
{
	return &l2s[smp_this()];
}

struct smp_l2 *smp_l2_of(u32 cpu)
{
	return &l2s[cpu];
}

void smp_l2_enable(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (u64)smp_l2()->hsave);
}

u64 smp_l2_run(void)
{
	struct smp_l2 *own = smp_l2();

	clgi();
	svm_vmrun(&own->vmcb, &own->regs);
	stgi();
	return own->vmcb.control.exit_code;
}

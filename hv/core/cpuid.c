/* SPDX-License-Identifier: MIT */
#include "hv/core/cpuid.h"

#include "x86/cpuid.h"
#include "x86/pmu.h"

void cpuid_extended(const struct cpuid_view *view, u32 leaf, struct cpuid_leaf *l)
{
	if (leaf > view->ext_max)
		*l = (struct cpuid_leaf){0};
	switch (leaf) {
	case CPUID_EXT_MAX:
		if (view->perfmon_v2 && l->eax < CPUID_PERFMON_V2)
			l->eax = CPUID_PERFMON_V2;
		break;
	case CPUID_EXT_FEATURES:
		l->ecx &= ~(u32)(CPUID_EXT1_ECX_SKINIT | CPUID_EXT1_ECX_PERFCTREXTCORE |
				 CPUID_EXT1_ECX_PERFCTREXTNB | CPUID_EXT1_ECX_PERFCTREXTL2I);
		if (view->core_extra)
			l->ecx |= CPUID_EXT1_ECX_PERFCTREXTCORE;
		break;
	case CPUID_ADDR_SIZES:
		/* PhysAddrSize; GuestPhysAddrSize: the same */
		l->eax = (l->eax & ~(CPUID_8_EAX_PHYS | CPUID_8_EAX_GUEST_PHYS)) | view->phys_bits;
		l->ebx &= ~(u32)CPUID_8_EBX_IRPERF;
		if (view->irperf)
			l->ebx |= (u32)CPUID_8_EBX_IRPERF;
		l->ebx |= (u32)CPUID_8_EBX_NO_LMSLE;
		break;
	case CPUID_SVM:
		l->ecx = 0;
		l->edx = view->svm;
		break;
	case CPUID_ENCRYPTION:
		/* under nested paging an L1's C-bit would be a bit of its physical addresses */
		*l = (struct cpuid_leaf){0};
		break;
	case CPUID_EXT_FEATURES_2:
		l->eax &= ~(u32)CPUID_21_EAX_PRECISE_RETIRE;
		break;
	case CPUID_PERFMON_V2:
		*l = (struct cpuid_leaf){0};
		if (view->perfmon_v2)
			*l = (struct cpuid_leaf){.eax = CPUID_22_EAX_PERFMON_V2,
						 .ebx = PMU_COUNTERS};
		break;
	}
}

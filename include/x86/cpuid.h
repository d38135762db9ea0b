/* SPDX-License-Identifier: MIT */
/* CPUID leaves and bits. AMD64 APM vol. 3 appendix E; SVM and PMU leaves: vol. 2 §15.4, §13.2.2. */
#ifndef TALLY_X86_CPUID_H
#define TALLY_X86_CPUID_H

#include "types.h"

#define CPUID_FEATURES 0x1u
#define CPUID_1_ECX_MONITOR BIT(3)
#define CPUID_1_ECX_X2APIC BIT(21)
#define CPUID_1_ECX_OSXSAVE BIT(27)
#define CPUID_1_ECX_HYPERVISOR BIT(31)

#define CPUID_POWER 0x6u
#define CPUID_6_ECX_EFF_FREQ BIT(0) /* APERF and MPERF */

#define CPUID_7_ECX_OSPKE BIT(4)

#define CPUID_HYPERVISOR 0x40000000u /* 4000_0000..4000_00FF are software's, APM3 E.3.10 */
#define CPUID_HYPERVISOR_LAST 0x400000ffu

#define CPUID_EXT_MAX 0x80000000u
#define CPUID_EXT_FEATURES 0x80000001u
#define CPUID_EXT1_ECX_SVM BIT(2)
#define CPUID_EXT1_ECX_SKINIT BIT(12)
#define CPUID_EXT1_ECX_PERFCTREXTCORE BIT(23)
#define CPUID_EXT1_ECX_PERFCTREXTNB BIT(24)
#define CPUID_EXT1_ECX_PERFCTREXTL2I BIT(28)
#define CPUID_EXT1_EDX_NX BIT(20)
#define CPUID_EXT1_EDX_FFXSR BIT(25)
#define CPUID_EXT1_EDX_PAGE1GB BIT(26)
#define CPUID_EXT1_EDX_LM BIT(29)
#define CPUID_ADDR_SIZES 0x80000008u
#define CPUID_8_EAX_PHYS 0xffu
#define CPUID_8_EAX_GUEST_PHYS 0xff0000u
#define CPUID_8_EBX_IRPERF BIT(1)
#define CPUID_8_EBX_NO_LMSLE BIT(20) /* EFER.LMSLE is not supported */
#define CPUID_SVM 0x8000000au
#define CPUID_ENCRYPTION 0x8000001fu
#define CPUID_1F_EAX_SME BIT(0)
#define CPUID_1F_EBX_REDUCTION(ebx)                                                                \
	((ebx) >> 6 & 63) /* of the physical address, with SYSCFG.MemEncryptionModEn */
#define CPUID_EXT_FEATURES_2 0x80000021u
#define CPUID_21_EAX_PRECISE_RETIRE BIT(12) /* PerfEvtSel2 has PREC_RET, bit 43 */
#define CPUID_PERFMON_V2 0x80000022u	    /* EBX[3:0]: number of core counters */
#define CPUID_22_EAX_PERFMON_V2 BIT(0)

/* 8000_000A EDX */
#define SVM_NP BIT(0)
#define SVM_LBR_VIRT BIT(1)
#define SVM_SVML BIT(2)
#define SVM_NRIPS BIT(3)
#define SVM_TSC_RATE BIT(4)
#define SVM_VMCB_CLEAN BIT(5)
#define SVM_FLUSH_BY_ASID BIT(6)
#define SVM_DECODE_ASSISTS BIT(7)
#define SVM_PMC_VIRT BIT(8)
#define SVM_PAUSE_FILTER BIT(10)
#define SVM_PAUSE_THRESHOLD BIT(12)
#define SVM_AVIC BIT(13)
#define SVM_VMSAVE_VIRT BIT(15)
#define SVM_VGIF BIT(16)
#define SVM_VMCB_ADDR_CHK BIT(28)

#endif

/* SPDX-License-Identifier: MIT */
/* Model-specific registers. AMD64 APM vol. 2, rev. 3.44, appendix A. PMU registers are in x86/pmu.h. */
#ifndef TALLY_X86_MSR_H
#define TALLY_X86_MSR_H

#include "types.h"

#define MSR_TSC 0x10u
#define MSR_APIC_BASE 0x1bu
#define MSR_PATCH_LEVEL 0x8bu /* the microcode's revision */
#define MSR_MPERF 0xe7u
#define MSR_APERF 0xe8u
#define MSR_MTRRCAP 0xfeu
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_DEBUGCTL 0x1d9u
#define MSR_BR_FROM 0x1dbu
#define MSR_BR_TO 0x1dcu
#define MSR_LAST_EXCP_FROM 0x1ddu
#define MSR_LAST_EXCP_TO 0x1deu
#define MSR_MTRR_PHYSBASE(n) (0x200u + 2 * (n))
#define MSR_MTRR_PHYSMASK(n) (0x201u + 2 * (n))
#define MSR_PAT 0x277u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_MPERF_READONLY 0xc00000e7u
#define MSR_APERF_READONLY 0xc00000e8u
#define MSR_IRPERF 0xc00000e9u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_TSC_RATIO 0xc0000104u
#define MSR_SYSCFG 0xc0010010u
#define SYSCFG_MEM_ENCRYPTION BIT(23)
#define MSR_HWCR 0xc0010015u
#define HWCR_IRPERF_EN BIT(30)
#define MSR_PATCH_LOADER 0xc0010020u
#define MSR_VM_CR 0xc0010114u
#define MSR_IGNNE 0xc0010115u
#define MSR_SMM_CTL 0xc0010116u
#define MSR_VM_HSAVE_PA 0xc0010117u
#define MSR_SVM_KEY 0xc0010118u

#define VM_CR_DPD BIT(0)
#define VM_CR_R_INIT BIT(1)
#define VM_CR_DIS_A20M BIT(2)
#define VM_CR_LOCK BIT(3)
#define VM_CR_SVMDIS BIT(4)
#define VM_CR_VALID BITS(4, 0) /* 63:5 MBZ, APM2 §15.30.1 */

/* 8.32 fixed point: 1.0; 63:40 MBZ, APM2 §15.30.5 */
#define TSC_RATIO_RESET 0x100000000ull
#define TSC_RATIO_MBZ BITS(63, 40)

#define DEBUGCTL_LBR BIT(0)
#define DEBUGCTL_BTF BIT(1)
#define DEBUGCTL_FREEZE_LBR BIT(11) /* on a PMC interrupt; with CPUID 8000_0022 EAX[2] */
#define DEBUGCTL_FREEZE_PMC BIT(12)

#define PAT_RESET 0x0007040600070406ull

#endif

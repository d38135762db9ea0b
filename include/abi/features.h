/* SPDX-License-Identifier: MIT */
/* What nested SVM can offer L1 in CPUID 8000_000A EDX, and the names that features= hides it by. */
#ifndef TALLY_ABI_FEATURES_H
#define TALLY_ABI_FEATURES_H

#include "types.h"
#include "x86/cpuid.h"

/* X(name, bit, software): software features are given whether or not the CPU has them, the others only where it has. */
#define TALLY_FEATURES(X)                                                                          \
	X(npt, SVM_NP, false)                                                                      \
	X(lbrv, SVM_LBR_VIRT, false)                                                               \
	X(nrips, SVM_NRIPS, true)                                                                  \
	X(tscrate, SVM_TSC_RATE, false)                                                            \
	X(clean, SVM_VMCB_CLEAN, true)                                                             \
	X(flushbyasid, SVM_FLUSH_BY_ASID, true)                                                    \
	X(decode, SVM_DECODE_ASSISTS, true)                                                        \
	X(vgif, SVM_VGIF, true)                                                                    \
	X(addrchk, SVM_VMCB_ADDR_CHK, true)

/* The offer: cpu_edx is what the CPU has, hidden what the configuration takes away. */
static inline u32 tally_features(u32 cpu_edx, u32 hidden)
{
	u32 offered = 0;

#define X(name, bit, software) offered |= (software) ? (u32)(bit) : cpu_edx & (u32)(bit);
	TALLY_FEATURES(X)
#undef X
	return offered & ~hidden;
}

#endif

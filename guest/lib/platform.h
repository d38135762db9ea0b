/* SPDX-License-Identifier: MIT */
/* What this guest runs on, from CPUID alone, and how the platform is known to depart from the manual. */
#ifndef GUEST_PLATFORM_H
#define GUEST_PLATFORM_H

#include "types.h"

struct platform {
	bool under_us;    /* CPUID 4000_0000 has our signature */
	bool tcg;         /* QEMU's TCG, bare; under us it cannot be seen */
	bool svm;
	bool pmu;         /* AMD core PMU with the extended counters */
	bool exact;       /* retired-instruction counts are exact, says the hypervisor */
	bool svme0_count; /* the hypervisor runs with svme0=count */
	bool long_1g;
	u32 backend;      /* enum tally_backend; TALLY_BACKEND_OFF when bare */
	u32 svm_edx;      /* CPUID 8000_000A EDX, x86/cpuid.h SVM_* */
	u32 phys_bits;
};

extern struct platform platform;

void platform_probe(void);

/*
 * Known departures of QEMU's TCG from the manual (QEMU 10). BARE: our hypervisor answers in its place, so
 * the manual holds under it. BOTH: it cannot be hidden, because nothing exits.
 */
#define DEPARTURES(X)                                                                              \
	X(LMSW_UNCHANGED, BOTH, "LMSW that changes nothing does not exit CR0_SEL_WRITE")           \
	X(CR_READ, BOTH, "reads of CR2, CR3, CR4, CR8 are intercepted by, and exit as, CR0 read")  \
	X(BP_INTERCEPT, BOTH, "INT3 does not exit by exception intercept 3 but by INTn's")         \
	X(RDTSCP, BOTH, "RDTSCP exits by RDTSC's intercept with RDTSC's code")                     \
	X(IOIO_SIZES, BOTH, "EXITINFO1 of IOIO has no address size and segment")                   \
	X(NPF_RESERVED_P, BARE, "an NPF by a reserved bit lacks P in its error code")              \
	X(NCR3_UNCHECKED, BARE, "nCR3 beyond the physical address size gives NPF, not INVALID")    \
	X(TPR_PRIO, BOTH, "V_IRQ is taken when V_INTR_PRIO equals V_TPR")                          \
	X(CR8_ABORT, BARE, "MOV to CR8 that lets a pending V_IRQ in aborts QEMU")                   \
	X(EXITINTINFO_TYPE, BARE, "EXITINTINFO of a delivered INTR, V_IRQ or NMI has type 3")      \
	X(EVENTINJ_VECTORS, BARE, "EVENTINJ type 3 accepts vectors that are no exceptions (<31)")  \
	X(INVALID_32, BARE, "VMEXIT_INVALID is written as 32 bits by some versions")                   \
	X(INVALID_SAVES, BARE, "a refused VMRUN overwrites the save area of the VMCB")             \
	X(VM_CR, BARE, "VM_CR reads 0 and ignores writes")

enum departure {
#define X(name, scope, text) TCG_##name,
	DEPARTURES(X)
#undef X
};

/* True if this platform departs from the manual so; it is then printed, once per guest. */
bool departs(enum departure d);

#endif

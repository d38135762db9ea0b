/* SPDX-License-Identifier: MIT */
/* What this guest runs on, from CPUID alone, and how the platform is known to depart from the
 * manual. */
#ifndef GUEST_PLATFORM_H
#define GUEST_PLATFORM_H

#include "types.h"

struct platform {
	bool under_us; /* CPUID 4000_0000 has our signature */
	bool tcg;      /* QEMU's TCG, bare; under us it cannot be seen */
	bool svm;
	bool pmu;	  /* AMD core PMU with the extended counters */
	bool exact;	  /* retired-instruction counts are exact, says the hypervisor */
	bool pmi_exact;	  /* an overflow interrupts at its instruction, says the hypervisor */
	bool svme0_count; /* the hypervisor runs with svme0=count */
	bool long_1g;
	u32 backend;	    /* enum tally_backend; TALLY_BACKEND_OFF when bare */
	u32 depth;	    /* how many of our hypervisors are below, one in the other */
	u32 lowest_backend; /* of the lowest of them */
	u32 svm_edx;	    /* CPUID 8000_000A EDX, x86/cpuid.h SVM_* */
	u32 phys_bits;
};

extern struct platform platform;

void platform_probe(void);

/*
 * Known departures from the manual, each of them by name, so that a test says where it does not
 * hold the platform to the manual. TCG_BARE: of QEMU's TCG (version 10); our hypervisor answers
 * in its place, so under it the manual holds. TCG_BOTH: of TCG, and nothing exits, so no
 * hypervisor can hide it. OURS: of our hypervisor.
 */
#define DEPARTURES(X)                                                                              \
	X(LMSW_UNCHANGED, TCG_BOTH, "LMSW that changes nothing does not exit CR0_SEL_WRITE")       \
	X(CR_READ, TCG_BARE,                                                                       \
	  "reads of CR2, CR3, CR4, CR8 are intercepted by, and exit as, "                          \
	  "reads of CR0")                                                                          \
	X(BP_INTERCEPT, TCG_BOTH, "INT3 does not exit by exception intercept 3 but by INTn's")     \
	X(RDTSCP, TCG_BOTH, "RDTSCP exits by RDTSC's intercept with RDTSC's code")                 \
	X(IOIO_SIZES, TCG_BOTH, "EXITINFO1 of IOIO has no address size and segment")               \
	X(TPR_PRIORITY, TCG_BOTH, "V_IRQ is taken when V_INTR_PRIO equals V_TPR")                  \
	X(FAULT_TICKS, TCG_BOTH,                                                                   \
	  "a #UD, #NM or #GP found by the decoder, and a fault of INTn, take a tick of -icount's " \
	  "clock, though nothing retires")                                                         \
	X(INJECTED_TWICE, TCG_BOTH,                                                                \
	  "an interrupt that EVENTINJ injects comes twice, if a timer or device ends QEMU's "      \
	  "loop before the next exception or exit")                                                \
	X(EXTINT_IPI, TCG_BOTH,                                                                    \
	  "an IPI with delivery mode ExtINT is taken for a fixed one, with its own vector")        \
	X(NPF_RESERVED_P, TCG_BARE, "an NPF by a reserved bit lacks P in its error code")          \
	X(NCR3_UNCHECKED, TCG_BARE,                                                                \
	  "nCR3 beyond the physical address size gives NPF, not "                                  \
	  "INVALID")                                                                               \
	X(CR8_ABORT, TCG_BARE, "MOV to CR8 that lets a pending V_IRQ in aborts QEMU")              \
	X(EVENTINJ_VECTORS, TCG_BARE,                                                              \
	  "EVENTINJ type 3 accepts vectors below 31 that are no "                                  \
	  "exceptions")                                                                            \
	X(INVALID_32, TCG_BARE, "VMEXIT_INVALID is written as 32 bits (QEMU 10.0.2; not all)")     \
	X(INVALID_SAVES, TCG_BARE, "a refused VMRUN overwrites the save area of the VMCB")         \
	X(EXITINTINFO_RESERVED, TCG_BARE, "bits 30:12 of EVENTINJ come back in EXITINTINFO")       \
	X(PF_RESERVED_P, TCG_BOTH, "a #PF by a reserved bit lacks P in its error code")            \
	X(EVENTINJ_NEXT_RIP, TCG_BARE,                                                             \
	  "an injected software interrupt returns to RIP, whatever nRIP says")                     \
	X(SYSENTER_LONG, TCG_BOTH,                                                                 \
	  "SYSENTER under long mode leaves CS with L and D, which VMRUN refuses")                  \
	X(INTO_64, TCG_BOTH,                                                                       \
	  "INTO in 64-bit mode, which does not exist there, exits by INTn's intercept")            \
	X(PDPTE_RESERVED, TCG_BOTH, "reserved bits in a PDPTE of PAE paging are not checked")      \
	X(MAP_LOW_BITS, TCG_BARE, "bits 11:0 of the permission maps' addresses are not ignored")   \
	X(PML4E_G, TCG_BOTH, "bit 8 of a PML4 entry is not taken for reserved")                    \
	X(BASE_64, TCG_BOTH, "RIP, segment and table bases keep bits 63:32 outside 64-bit mode")   \
	X(PCIDE_TAKEN, TCG_BARE, "VMRUN accepts CR4.PCIDE, which CPUID does not have")             \
	X(HELPER_FLAGS, TCG_BOTH,                                                                  \
	  "an exit in the look-up of the TSS's I/O map or, by LAR and the like, of a descriptor "  \
	  "loses arithmetic flags")                                                                \
	X(CR8_RESERVED, TCG_BOTH, "MOV to CR8 ignores reserved bits instead of raising #GP")       \
	X(TABLE_BASE, TCG_BOTH,                                                                    \
	  "LGDT and LIDT take a base that is not canonical instead of raising #GP")                \
	X(PKS_TAKEN, TCG_BARE, "VMRUN accepts CR4.PKS, which is Intel's, on the CPU model max")    \
	X(DR6_STEP, TCG_BOTH, "a single step clears B0 to B3 of DR6, which software is to clear")  \
	X(RF_STAYS, TCG_BOTH, "RFLAGS.RF is not cleared by every instruction that completes")      \
	X(NPT_1G_A, TCG_BARE,                                                                      \
	  "A of a nested 1-GByte leaf is set by an access that it does not allow")                 \
	X(INT_STATE_RESERVED, TCG_BARE,                                                            \
	  "reserved bits 63:32 of INTERRUPT_SHADOW's field are kept")                              \
	X(VIRQ_FAULT, TCG_BOTH, "V_IRQ is still set when the delivery of its interrupt faults")    \
	X(PDPTE_A, TCG_BOTH, "A is set in a PDPTE of PAE paging, where it is reserved")            \
	X(LMA_AS_IS, TCG_BARE, "VMRUN takes EFER.LMA as it is and does not compute it")            \
	X(VMEXIT_WITHOUT_PAE, TCG_BOTH,                                                            \
	  "#VMEXIT from LME=1, PG=0, PAE=0 leaves the host without paging")                        \
	X(MSR_RCX, TCG_BOTH, "the MSR permission map is looked up with all 64 bits of RCX")        \
	X(BUSY_TSS, TCG_BOTH,                                                                      \
	  "an interrupt from CPL 3 outside long mode aborts QEMU after VMLOAD of a busy TSS")      \
	X(VMLOAD_EXITS, TCG_BARE,                                                                  \
	  "VMLOAD and VMSAVE of L2 exit without an intercept, but in long mode with "              \
	  "nested paging")                                                                         \
	X(G_PAT, TCG_BARE, "L2 has no PAT of its own: G_PAT is ignored")                           \
	X(VM_CR, TCG_BARE, "VM_CR reads 0 and ignores writes")                                     \
	X(NPT_PDPTE, TCG_BARE,                                                                     \
	  "in a PDPTE of nested tables A is set and reserved bits are ignored")                    \
	X(NPT_TWO_LEVEL, TCG_BARE,                                                                 \
	  "nested tables of two levels are not used: L2-physical addresses are L1's")              \
	X(NPT_WRAPS, TCG_BARE,                                                                     \
	  "L2-physical addresses above 4 GByte wrap in nested tables of 32-bit formats")           \
	X(NP_HOST_PAGING, TCG_BARE, "nested paging with the host's CR0.PG=0 is not refused")       \
	X(INT3_TYPE, TCG_BOTH, "EXITINTINFO of INT3 has the type of INTn")                         \
	X(EXT_BIT, TCG_BOTH, "a fault in delivering an event lacks EXT in its error code")         \
	X(DF_INTERCEPT, TCG_BOTH, "two exceptions that make a #DF do not exit by #DF's intercept") \
	X(INJECTED_COMBINE, TCG_BOTH,                                                              \
	  "an exception in delivering an injected one does not combine with it")                   \
	X(GP_CR2, TCG_BOTH, "a #GP for an address that is not canonical writes CR2")               \
	X(SHUTDOWN_EXITS, TCG_BARE, "a shutdown of L2 exits though it is not intercepted")         \
	X(NO_MEMORY_ABORT, TCG_BOTH,                                                               \
	  "VMLOAD and VMSAVE of an address without memory abort QEMU under -icount")               \
	X(ADDRESS_16, TCG_BARE, "a 16-bit address size takes EAX, not AX, for SVM instructions")   \
	X(CR8_VALUE, TCG_BOTH, "MOV to CR8 takes values above 15")                                 \
	X(DR_PRIORITY, TCG_BOTH, "the intercept of MOV DR comes before its #UD and #GP")           \
	X(INVD_CPL, TCG_BOTH, "INVD and WBINVD are no #GP at CPL 3")                               \
	X(NO_AC_XF, TCG_BOTH, "there is no #AC and no #XF")                                        \
	X(EXITINTINFO_TYPE, TCG_BARE,                                                              \
	  "EXITINTINFO of an interrupt or NMI that the CPU takes itself has "                      \
	  "the type of an exception")                                                              \
	X(VIRQ_KEPT, TCG_BARE, "V_IRQ is still set when the delivery of its interrupt exits")      \
	X(INIT_TAKEN, TCG_BARE, "INIT is neither intercepted nor held by GIF=0")                   \
	X(APIC_STAYS, TCG_BOTH,                                                                    \
	  "the APIC stays where it is when APIC_BASE is given another address")                    \
	X(SIPI_REPLACED, TCG_BARE,                                                                 \
	  "a second SIPI that comes at once, before the CPU has begun, replaces the first")        \
	X(INIT_CR0, TCG_BARE, "INIT sets CR0.CD and NW, which it should leave as they were")       \
	X(NMI_AFTER_INJECTION, OURS,                                                               \
	  "an NMI that GIF=0 held, while EVENTINJ is in use, comes an exit later")                 \
	X(FRAME_IN_REGION, OURS,                                                                   \
	  "an exception's frame pushed into the hypervisor's memory can be read "                  \
	  "there until the next exit")                                                             \
	X(CPL_LATE, OURS,                                                                          \
	  "backend clock: user mode that is entered by a far RET counts as the kernel until the "  \
	  "next exit")                                                                             \
	X(TPR_WHILE_GIF0, OURS,                                                                    \
	  "while GIF=0, CR8 does not show what is written to the APIC's TPR register")

enum departure {
#define X(name, scope, text) DEPARTURE_##name,
	DEPARTURES(X)
#undef X
};

/* True if this platform departs from the manual so; it is then printed, once per guest. */
bool departs(enum departure d);
/* True if it or, under our hypervisor, the platform below does: for what two runs have to do in the same way. */
bool departs_below(enum departure d);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * What one CPU wants of another: L1's INIT, SIPI and NMI, which L0 carries, and L0's own requests. A request is a bit in
 * the other CPU's `mail`, and an NMI to make it look. So on more than one CPU NMIs exit, and L0 keeps the rule that one
 * NMI is not followed by another before IRET (APM2 §8.2.3), as the CPU does on one.
 */
#ifndef TALLY_HV_IPI_H
#define TALLY_HV_IPI_H

#include "hv/vcpu.h"

/* A write of L1's to ICR, as x2APIC has it: destination in 63:32. False: it is for the APIC itself. */
bool ipi_command(struct vcpu *v, u64 icr);

/* A SIPI that is in this CPU's mail is void. */
void ipi_forget_sipi(struct vcpu *v);

/* The NMI alone, for a CPU in nmi_wait(); not while one is under way, and not if the CPU cannot be reached. */
void ipi_wake(struct vcpu *v, struct vcpu *to);
bool ipi_is_reachable(const struct vcpu *to);

/* An NMI for L1 on this CPU, at the next VMRUN. */
void ipi_nmi_to_self(struct vcpu *v);

/* Whether this CPU's APIC is on: without, no NMI comes and nobody waits for it; it does at its next exit what others ask. */
void ipi_reachable(struct vcpu *v, bool reachable);

/* After an NMI that L0 took: does what others asked for. True if it was for that. */
bool ipi_receive(struct vcpu *v);

/* The same without the NMI, for a CPU that waits for another. */
void ipi_serve(struct vcpu *v);

/* Until a SIPI comes; L1 begins where it says. */
void ipi_wait_for_sipi(struct vcpu *v);

/* Has `request` (IPI_*) done by all other CPUs, and returns when it is. */
void ipi_ask_all(struct vcpu *v, u32 request);

/* For the panic page: they go no further than to their next exit. */
void ipi_stop_others(struct vcpu *v);

#define IPI_INIT BIT(0)
#define IPI_SIPI BIT(1)
#define IPI_NMI BIT(2)
#define IPI_FILTER BIT(3)   /* takes the event filter over: backend_take_filter() */
#define IPI_STOP BIT(4)	    /* for good: another CPU prints the panic page */
#define IPI_VECTOR_SHIFT 24 /* of IPI_SIPI */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * SVM for an L1: one guest (L2) in static memory, fresh for every test. By default it is 64-bit
 * code in L1's own address space (CR3, GDT, IDT), intercepts VMRUN, VMMCALL and SHUTDOWN only,
 * and exits by VMMCALL.
 */
#ifndef GUEST_SVM_H
#define GUEST_SVM_H

#include "guest/lib/paging.h"
#include "guest/lib/trap.h"
#include "types.h"
#include "x86/svm.h"

/* All GPRs but RAX and RSP, which are in the VMCB. svm.asm knows the order. */
struct l2_regs {
	u64 rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
};

struct l2 {
	struct vmcb vmcb;
	u8 iopm[IOPM_BYTES];
	u8 msrpm[MSRPM_BYTES];
	u8 stack[4 * PAGE_SIZE];
	struct paging npt;
	struct idt_gate idt[256]; /* see l2_catch_events */
	struct l2_regs regs;
} ALIGNED(4096);

extern struct l2 l2;
extern u8 hsave[PAGE_SIZE];

/* EFER.SVME and VM_HSAVE_PA. */
void svm_enable(void);
void svm_disable(void);
/* For guest_main: false, and every test skipped, if there is no SVM here; else it is enabled. */
bool svm_start(void);

/* Everything as new, RIP = entry. */
void l2_reset(const void *entry);
/* L2 at CPL 3. */
void l2_user(void);
/* L2 on nested paging: identity, l2.npt. */
void l2_use_npt(void);
/* Asks for a flush of L2's ASID at the next VMRUN; l2_run clears the request. */
void l2_flush(void);
void l2_intercept(unsigned int bit);
/* L2 gets an IDT of its own, whose every gate does VMMCALL: l2_caught() then tells the vector. */
void l2_catch_events(void);
/* The vector after such an exit, or VEC_NONE. l2.vmcb.save.rsp points at the pushed frame. */
u64 l2_caught(void);

/* Runs L2 until it exits; returns the exit code. CLGI and STGI around it, as any hypervisor does. */
u64 l2_run(void);
/* The same, but the APIC's timer ends an L2 that INTR is intercepted of, with V_INTR_MASKING, after `deadline`; and
 * TLB_CONTROL stays. */
u64 l2_run_for(u32 vector, u32 deadline);
/* Only VMRUN: for tests of GIF. */
void svm_vmrun(struct vmcb *vmcb, struct l2_regs *regs);

void msrpm_set(u32 msr, bool read, bool write);
void iopm_set(u32 port);

/* A fresh L2 that runs `entry` until its first exit. */
static inline u64 l2_run_from(const void *entry)
{
	l2_reset(entry);
	return l2_run();
}

/* A piece of code for L2 in file-scope assembler, from `name` to `name_end`, where a VMMCALL is. */
#define L2_CODE(name, text)                                                                        \
	extern const u8 name[], name##_end[];                                                      \
	asm(".pushsection .text\n.balign 16\n" #name ":\n\t" text "\n" #name                       \
	    "_end:\n\tvmmcall\n1:\tjmp 1b\n.popsection")

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The other CPUs. Each waits with IF=0, on a stack of its own, for functions to run; GDT, IDT and page tables are those of
 * the first one, which is number 0 here. Handlers of trap_hook() run on whichever CPU it happens, and ask smp_this().
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include <assert.h>

#include "guest/lib/apic.h"
#include "guest/lib/mp.h"
#include "abi/hypercall.h"
#include "types.h"

/* What a CPU finds when it comes from a SIPI. */
struct smp_first {
	u32 eax, ebx, ecx, edx, esi, edi, ebp, esp;
	u16 cs, ds, es, ss, fs, gs;
	u16 ip, unused;
	u32 cr0, cr2, cr3, cr4, efer, flags, dr6, dr7;
	struct PACKED smp_table {
		u16 limit;
		u32 base;
		u16 unused;
	} gdtr, idtr;
};

static_assert(offsetof(struct smp_first, cs) == 32, "smp.inc");
static_assert(offsetof(struct smp_first, ip) == 44, "smp.inc");
static_assert(offsetof(struct smp_first, cr0) == 48, "smp.inc");
static_assert(offsetof(struct smp_first, efer) == 64, "smp.inc");
static_assert(offsetof(struct smp_first, gdtr) == 80, "smp.inc");
static_assert(offsetof(struct smp_first, idtr) == 88, "smp.inc");

/* The same of its APIC. */
struct smp_first_apic {
	u32 id, tpr, ldr, dfr, svr, timer_count, timer_divide;
	u32 lvt_timer, lvt_lint0, lvt_lint1, lvt_error, lvt_pc;
	u32 pending; /* IRR and ISR, ORed */
	u64 base;    /* MSR_APIC_BASE */
};

struct smp_cpu {
	u32 id;		     /* its APIC's */
	volatile u32 starts; /* so often it came from a SIPI */
	volatile u64 beats;  /* counts as long as the CPU waits for work */
	/* the last start */
	struct smp_first first;
	struct smp_first_apic apic;
	/* work */
	void (*run)(void *arg);
	void *arg;
	volatile u32 asked, done;
	/* interrupts, by smp_count() */
	volatile u32 interrupts, nmis;
} ALIGNED(64);

/* Finds out about the CPUs; none is started. 0: the firmware does not tell, or has no memory to start them in. */
u32 smp_init(void);
/* svm_start() and that, for a guest that needs others, and with `xapic` the APIC's page. False: all tests are skipped. */
bool smp_begin(bool xapic);
/* smp_begin(), and all are started, for a guest that tries Tallyvisor below from all of them; its status is read. */
bool smp_begin_on_us(struct tally_status *status);
u32 smp_cpus(void);
struct smp_cpu *smp_at(u32 cpu);
u32 smp_this(void);
/* A second stack on which that is known. */
u64 smp_l2_stack(u32 cpu);

/* The ICR, by `destination` as the APIC's mode has it. */
void smp_command(u32 destination, u32 command);
/* The same, to one CPU's ID. */
void smp_send(u32 cpu, u32 command);
/* SIPI to the page that CPUs start in, and to another one with the same code. */
u32 smp_sipi(void);
u32 smp_sipi_other(void);

/* INIT, SIPI; until the CPU is there. These wait a limited time, and fail the running test if it passes. */
bool smp_start(u32 cpu);
bool smp_start_all(void);
bool smp_started(u32 cpu, u32 starts);
/* A CPU that goes on; one that does not. */
bool smp_beats(u32 cpu);
bool smp_stands(u32 cpu);
/* Whether to go on waiting, since the TSC was `begin`, for what another CPU is to do. */
bool smp_in_time(u64 begin);
/* Until *at is at least `value`. */
bool smp_reaches(volatile u32 *at, u32 value, const char *what);
/* As long as anything that was sent may take to have an effect. */
void smp_settle(void);

void smp_call(u32 cpu, void (*run)(void *arg), void *arg);
bool smp_done(u32 cpu);
bool smp_run(u32 cpu, void (*run)(void *arg), void *arg);
/* On all CPUs at once, with this one. */
bool smp_run_all(void (*run)(void *arg), void *arg);
/* In what that runs: waits until all CPUs have come here as often as this one. */
void smp_meet(void);
/* The same of `all` callers, whose *arrived is 0 at first. */
void smp_meet_at(volatile u32 *arrived, u32 all);

/* From 0 on, each CPU counts interrupts of `vector` and NMIs that it takes. */
void smp_count(u32 vector);
void smp_count_end(u32 vector);

/* INIT to all others: nothing is left running. */
void smp_end(void);

#endif

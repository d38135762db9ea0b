/* SPDX-License-Identifier: MIT */
/* Entry from the firmware and the way back to it. */
#ifndef GUEST_START_H
#define GUEST_START_H

#include "guest/lib/tap.h"
#include "types.h"

/*
 * Ends the guest: the verdict goes to QEMU's isa-debug-exit port. On a machine without one the
 * firmware's state is restored, everything printed is shown on the firmware's console, and the
 * application returns.
 */
NORETURN void guest_exit(enum verdict verdict);

/*
 * Memory at the same address in every run, whatever the firmware has loaded before: a guest that wants some defines this
 * object. It is taken from the firmware before guest_main(); false: it was not free.
 */
struct fixed_memory {
	u64 address, bytes;
};
extern const struct fixed_memory guest_fixed_memory;
bool have_fixed_memory(void);

/* This CPU as guest_main() finds it: with this image's page tables, GDT, IDT and TSS, and nothing that interrupts it. */
void start_cpu(void);
/* The last counter's selector; 0: it stays as it is. */
void start_selector(u64 value);

/* Load address of this application, to turn a RIP into an offset of its file. */
u64 image_base(void);

#endif

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

/* Load address of this application, to turn a RIP into an offset of its file. */
u64 image_base(void);

#endif

/* SPDX-License-Identifier: MIT */
/* MSRs of the CPU that os_connect() has named. */
#ifndef CLIENT_LINUX_H
#define CLIENT_LINUX_H

#include "types.h"

/* False: it faults, or Linux does not let it be. */
bool linux_rdmsr(u32 msr, u64 *value);
bool linux_wrmsr(u32 msr, u64 value);

#endif

/* SPDX-License-Identifier: MIT */
/* Whose exit it is: L1's or L0's. APM2 rev. 3.44 §15.9 and on. */
#ifndef TALLY_CORE_ROUTE_H
#define TALLY_CORE_ROUTE_H

#include "hv/core/msrpm.h"
#include "types.h"
#include "x86/svm.h"

/*
 * Whether L1 wants this exit of L2. ctl: L0's copy of vmcb12's; msrpm, msr and write matter for VMEXIT_MSR only. NPF, the
 * refusals and codes that have no intercept bit are L0's first. An I/O exit is L1's, whose map the CPU has read; of
 * L0's own ports io_exit_is_l1s() has said so before.
 */
static ALWAYS_INLINE bool route_to_l1(const struct vmcb_control *ctl, u64 code, const u8 *msrpm,
				      u32 msr, bool write)
{
	if (unlikely(code >= INTERCEPT_BITS) || !vmcb_intercepts(ctl, (unsigned int)code))
		return false;
	return code != VMEXIT_MSR || msrpm_intercepts(msrpm, msr, write);
}

#endif

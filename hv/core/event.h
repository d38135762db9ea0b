/* SPDX-License-Identifier: MIT */
/* Events in the format of EVENTINJ and EXITINTINFO. APM2 rev. 3.44 §8.2.9, §15.7.2, §15.20. */
#ifndef TALLY_CORE_EVENT_H
#define TALLY_CORE_EVENT_H

#include "types.h"
#include "x86/cr.h"
#include "x86/svm.h"

static inline u64 event_exception(unsigned int vector, bool has_error, u32 error)
{
	return EVENT_V | EVENT_TYPE_EXCEPTION | vector | (has_error ? EVENT_EV : 0) |
	       (u64)error << EVENT_ERROR_SHIFT;
}

/* Exceptions of which two in a row are a double fault (table 8-4). */
#define EVENT_CONTRIBUTORY (BIT(VEC_DE) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) | BIT(VEC_GP))

/*
 * What a #GP with `error` becomes that was raised while `first` was being delivered (0: no event was): itself, a #DF, or 0
 * for shutdown.
 */
static inline u64 event_gp_during(u64 first, u32 error)
{
	unsigned int vector = (unsigned int)(first & EVENT_VECTOR);

	if ((first & EVENT_V) && (first & EVENT_TYPE) == EVENT_TYPE_EXCEPTION) {
		if (vector == VEC_DF)
			return 0;
		if (vector == VEC_PF || (vector < 32 && (EVENT_CONTRIBUTORY >> vector & 1)))
			return event_exception(VEC_DF, true, 0);
	}
	return event_exception(VEC_GP, true, error);
}

#endif

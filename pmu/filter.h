/* SPDX-License-Identifier: MIT */
/* The event filter as a question to a selector. What is in it: abi/filter.h. */
#ifndef TALLY_PMU_FILTER_H
#define TALLY_PMU_FILTER_H

#include "abi/filter.h"

/* What of a selector the filter looks at. */
#define PMU_FILTER_EVENTSEL (EVTSEL_EVENT_LO | EVTSEL_EVENT_HI | EVTSEL_UMASK)

/* 0 if the filter can be used; -E_UNSUPP: of another version; -E_INVAL: malformed. */
int pmu_filter_check(const struct tally_filter *filter);

/* Whether a counter with this selector may count, by a filter that pmu_filter_check() has passed. */
bool pmu_filter_passes(const struct tally_filter *filter, u64 eventsel);

#endif

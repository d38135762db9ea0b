/* SPDX-License-Identifier: MIT */
#include "pmu/filter.h"

#include "x86/pmu.h"

static bool entry_valid(const struct tally_filter_entry *entry)
{
	return entry->event <= EVTSEL_EVENT_MAX && !(entry->umask_match & ~entry->umask_mask) &&
	       !(entry->flags & ~TALLY_FILTER_EXCLUDE);
}

int pmu_filter_check(const struct tally_filter *filter)
{
	if (filter->version != TALLY_FILTER_VERSION)
		return -E_UNSUPP;
	if (filter->action > TALLY_FILTER_DENY || filter->reserved ||
	    filter->count > (filter->action == TALLY_FILTER_OFF ? 0 : TALLY_FILTER_MAX))
		return -E_INVAL;
	for (u32 i = 0; i < filter->count; i++)
		if (!entry_valid(&filter->entry[i]))
			return -E_INVAL;
	return 0;
}

bool pmu_filter_passes(const struct tally_filter *filter, u64 eventsel)
{
	u32 event = EVTSEL_EVENT(eventsel), umask = (eventsel & EVTSEL_UMASK) >> 8;
	bool matches = false;

	for (u32 i = 0; i < filter->count; i++) {
		const struct tally_filter_entry *entry = &filter->entry[i];

		if (entry->event != event || (umask & entry->umask_mask) != entry->umask_match)
			continue;
		matches = !(entry->flags & TALLY_FILTER_EXCLUDE);
		if (!matches)
			break;
	}
	return filter->action == TALLY_FILTER_OFF ||
	       matches == (filter->action == TALLY_FILTER_ALLOW);
}

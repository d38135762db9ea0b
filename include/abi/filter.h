/* SPDX-License-Identifier: MIT */
/*
 * The event filter: which events the counters of L1 and its guests may count. filter= sets it at boot, and
 * TALLY_CALL_FILTER_SET (abi/hypercall.h) later. A counter on an event that it keeps off stands still, in every mode; its
 * selector reads back as it was written.
 */
#ifndef TALLY_ABI_FILTER_H
#define TALLY_ABI_FILTER_H

#include <assert.h>

#include "types.h"

#define TALLY_FILTER_VERSION 1u
#define TALLY_FILTER_MAX 64

enum tally_filter_action {
	TALLY_FILTER_OFF = 0, /* all events count; has no entries */
	TALLY_FILTER_ALLOW =
		1, /* only what the list matches counts: nothing, if it has no entries */
	TALLY_FILTER_DENY = 2, /* what the list matches does not count */
};

/* The list matches a selector if an entry without EXCLUDE does and none with EXCLUDE. */
#define TALLY_FILTER_EXCLUDE 1u

/* Matches a selector with this event number and (unit mask & umask_mask) == umask_match. */
struct tally_filter_entry {
	u16 event; /* 12 bits */
	u8 umask_mask;
	u8 umask_match; /* no bits but umask_mask's */
	u32 flags;	/* TALLY_FILTER_EXCLUDE; all others are 0 */
};

struct tally_filter {
	u32 version; /* TALLY_FILTER_VERSION */
	u32 action;  /* enum tally_filter_action */
	u32 count;
	u32 reserved; /* 0 */
	struct tally_filter_entry
		entry[TALLY_FILTER_MAX]; /* those from `count` on are not looked at */
};

static_assert(sizeof(struct tally_filter_entry) == 8, "tally_filter_entry");
static_assert(sizeof(struct tally_filter) == 16 + 8 * TALLY_FILTER_MAX, "tally_filter");

#endif

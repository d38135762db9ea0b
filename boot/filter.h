/* SPDX-License-Identifier: MIT */
/* The value of filter=. Pure, as config.c. */
#ifndef TALLY_BOOT_FILTER_H
#define TALLY_BOOT_FILTER_H

#include "abi/filter.h"

/* What is wrong with a value: a word of it, and what follows in the sentence about it. */
struct filter_problem {
	const char *word;
	size_t bytes;
	const char *text;
};

/*
 * `off`, or `allow:` or `deny:` and entries with commas between, all numbers hexadecimal:
 *
 *	EVENT			any unit mask
 *	EVENT/UMASK		that unit mask
 *	EVENT/UMASK:MASK	where (unit mask & MASK) == UMASK
 *	-...			excluded from the list again, wherever it is in it
 *
 * False: *problem says why, and *filter is not changed.
 */
bool filter_parse(struct tally_filter *filter, const char *text, size_t bytes,
		  struct filter_problem *problem);

#endif

/* SPDX-License-Identifier: MIT */
/* tallyvisor.cfg and load options: `key=value`, later wins. Pure: no UEFI here, so the host tests can feed it. */
#ifndef TALLY_BOOT_CONFIG_H
#define TALLY_BOOT_CONFIG_H

#include "types.h"
#include "abi/handoff.h"

#define CONFIG_MAX_BYTES 65536
#define CONFIG_NEXT_MAX 256

struct boot_config {
	struct config core;
	bool smp_ignore;
	/* path on the loader's volume, or with "*:" in front on any, '\' between names; empty: none */
	char next[CONFIG_NEXT_MAX];
};

/* Called once per problem, with one complete sentence without newline. */
struct config_reporter {
	void (*report)(struct config_reporter *self, const char *text);
};

void config_default(struct boot_config *config);

/*
 * Reads `bytes` of ASCII text: one key=value per line, '#' starts a comment line. What is wrong is reported
 * as "SOURCE:LINE: ..." and leaves the value as it was; after 4 problems the rest is counted, not listed.
 * A text with control or non-ASCII bytes is refused as a whole. Returns the number of problems.
 */
int config_parse(struct boot_config *config, const char *source, const char *text, size_t bytes,
		 struct config_reporter *reporter);

#endif

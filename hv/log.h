/* SPDX-License-Identifier: MIT */
/* The log: one line per notable thing, `key=value`. Always kept in a ring; one more sink can be configured. */
#ifndef TALLY_HV_LOG_H
#define TALLY_HV_LOG_H

#include "abi/handoff.h"
#include "types.h"

enum log_level {
	LOG_INFO,
	LOG_WARN,
	LOG_PANIC,
};

void log_init(enum log_sink where);
/* Of this hypervisor, see vcpu.h; those above the first say it in each line, since all may log to one place. */
void log_set_depth(u32 depth);
void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)

/* For lines that a guest can cause at will: the first `limit` that `lines` (a u32) counts, so that none hides others. */
#define log_limited(lines, limit, fmt, ...)                                                        \
	do {                                                                                       \
		if ((lines) < (limit) && ++(lines))                                                \
			log_warn(fmt "%s", ##__VA_ARGS__,                                          \
				 (lines) == (limit) ? " (further ones are not logged)" : "");      \
	} while (0)

/* The first 32 of each place. */
#define log_guest(fmt, ...)                                                                        \
	do {                                                                                       \
		static u32 lines_;                                                                 \
                                                                                                   \
		log_limited(lines_, 32, fmt, ##__VA_ARGS__);                                       \
	} while (0)

/* From a CPU that may have stopped in the middle of a line. */
void log_take_over(void);

/*
 * Copies up to n bytes from log position *position on, and moves *position past them. A position that is overwritten
 * already is moved to the oldest byte first, one that is in the future copies nothing. Returns the bytes copied.
 */
size_t log_read(u64 *position, char *buf, size_t n);

#endif

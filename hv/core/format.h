/* SPDX-License-Identifier: MIT */
/* A small snprintf for log lines: %s %c %d %u %x %ld %lu %lx %%, numbers with a width and
 * leading zeros (put before a minus sign). */
#ifndef TALLY_CORE_FORMAT_H
#define TALLY_CORE_FORMAT_H

#include <stdarg.h>

#include "types.h"

/* Writes at most size - 1 characters and a terminating 0. Returns the characters written. */
size_t format_v(char *buf, size_t size, const char *fmt, va_list args);
size_t format(char *buf, size_t size, const char *fmt, ...) PRINTF(3, 4);

#endif

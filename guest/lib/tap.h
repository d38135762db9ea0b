/* SPDX-License-Identifier: MIT */
/*
 * Reporting in TAP on COM1. A test is a function; it passes if no check in it failed.
 *
 *	void guest_main(void)            every guest defines it
 *	{
 *		tap_plan(2);
 *		tap_run("a name", test_function, argument);
 *	}
 */
#ifndef GUEST_TAP_H
#define GUEST_TAP_H

#include <stdarg.h>

#include "types.h"

/* What the debug-exit port is given (QEMU's own status is (code << 1) | 1). */
enum verdict {
	VERDICT_PASS = 0x10,
	VERDICT_FAIL = 0x11,
	VERDICT_SKIP = 0x12,  /* every test was skipped */
	VERDICT_CRASH = 0x13, /* an exception that no test expected */
};

void guest_main(void);

/* printf with %s %d %u %x %c, l for 64 bits, width, '-' and '0'. */
void print(const char *format, ...) PRINTF(1, 2);
void vprint(const char *format, va_list args);
/* The same as a TAP comment: "# " in front, a newline behind. */
void note(const char *format, ...) PRINTF(1, 2);

/* Everything printed so far, for the firmware's console. */
extern struct print_log {
	volatile u64 bytes;
	char text[32 * 1024];
} print_log;

void tap_plan(unsigned int tests);
void tap_run(const char *name, void (*run)(const void *arg), const void *arg);
/* The whole guest cannot run here: what is left of the plan is one SKIP each. */
void tap_skip_all(const char *reason);
/* Inside a test: the rest of it (and so all of it) does not apply here. Earlier failures still
 * count. */
void tap_skip(const char *reason);
/* Inside a test: a check. Returns whether it held. */
bool tap_check(bool ok, const char *what);
bool tap_equal(u64 got, u64 want, const char *what);
/* What to tell the outside; and the end mark. */
enum verdict tap_finish(void);
void tap_end(void);
/* This is one of several guests at once (every.h): its tests are numbered behind those of the ones before. The first one
 * says the plan, and what others print is in their log alone. */
void tap_instance(u32 index, u32 instances);
/* So many at once; usually 1. */
u32 tap_instances(void);

#define CHECK(condition) tap_check(condition, #condition)
#define CHECK_EQ(got, want) tap_equal(got, want, #got)

#endif

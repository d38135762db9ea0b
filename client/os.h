/* SPDX-License-Identifier: MIT */
/* What the client needs of the system that it runs on: linux.c and efi.c. */
#ifndef CLIENT_OS_H
#define CLIENT_OS_H

#include "types.h"

/* On the CPU with this number. False: cannot call, and os_error() was told why. */
bool os_connect(unsigned int cpu);

/*
 * Call `number` of include/abi/hypercall.h, with a buffer of `bytes`, at most a page: its answer, or, of a call that
 * changes something, what that needs, in whole 8 bytes. *result becomes RAX, *rdx what the
 * call makes of it; where a call goes on from RDX as it was left, it must come next. False: could not call, and os_error()
 * was told why.
 */
bool os_call(u32 number, void *buffer, u64 bytes, u64 *rdx, bool changes, s64 *result);

/* To the standard output. */
void os_print(const char *text, size_t bytes);
/* A line for a person, in place of the last such line; NULL: no more of them. */
void os_progress(const char *line);
/* "tally: ..." to the standard error output, and a line's end. */
void os_error(const char *fmt, ...) PRINTF(1, 2);

/* One file at a time, made new. False: os_error() was told. */
bool os_file_create(const char *path);
bool os_file_write(const void *data, size_t bytes);
bool os_file_close(void);

void os_sleep(unsigned int seconds);

/* What `tally probe` does to that CPU. NULL: os_error() was told why not. */
const struct probe_machine *os_probe_machine(unsigned int cpu);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target is one fuzz_one(), linked with fuzz.c and libFuzzer. Whatever it tries, it decides by test_random() and
 * test_below(): these take the fuzzer's bytes, and where those end, numbers that follow from the first four. So a short
 * input is a whole random case, and a longer one is that case with its first decisions changed.
 */
#ifndef TALLY_FUZZ_H
#define TALLY_FUZZ_H

#include "tests/host/test.h"

void fuzz_one(void);

/* Fills buf with n such bytes. */
void fuzz_bytes(void *buf, size_t n);

#endif

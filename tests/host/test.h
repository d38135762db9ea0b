/* SPDX-License-Identifier: MIT */
/* Host tests: a file of TEST(name) functions; all are linked into one program, see test.c. The fuzz targets have the same
 * functions from tests/fuzz/fuzz.c, so that both can share their twins. */
#ifndef TALLY_TEST_H
#define TALLY_TEST_H

#include "types.h"

struct test {
	const char *file;
	const char *name;
	void (*run)(void);
	struct test *next;
};

void test_register(struct test *t);
/* Marks the running test as failed and prints where; the test goes on. */
void test_fail(const char *file, int line, const char *fmt, ...) PRINTF(3, 4);
/* The same sequence in every run: a failure can be repeated. */
u64 test_random(void);
void test_seed(u64 seed);
/* A number below n. */
u64 test_below(u64 n);

#define TEST(name)                                                                                 \
	static void name(void);                                                                    \
	static struct test test_##name = {__FILE__, #name, name, NULL};                            \
	__attribute__((constructor)) static void register_##name(void)                             \
	{                                                                                          \
		test_register(&test_##name);                                                       \
	}                                                                                          \
	static void name(void)

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			test_fail(__FILE__, __LINE__, "%s", #cond);                                \
	} while (0)

#define CHECK_EQ(got, want)                                                                        \
	do {                                                                                       \
		u64 got_ = (u64)(got), want_ = (u64)(want);                                        \
		if (got_ != want_)                                                                 \
			test_fail(__FILE__, __LINE__, "%s: got %#llx, want %#llx", #got,           \
				  (unsigned long long)got_, (unsigned long long)want_);            \
	} while (0)

#endif

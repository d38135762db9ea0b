/* SPDX-License-Identifier: MIT */
/* Runs every registered test, or those whose name contains argv[1]; prints failures and one closing line. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

static struct test *tests, **last = &tests;
static int failures; /* of the running test */
static u64 state;

void test_register(struct test *t)
{
	*last = t;
	last = &t->next;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	if (++failures > 10)
		return;
	va_start(args, fmt);
	printf("  %s:%d: ", file, line);
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
}

void test_seed(u64 seed)
{
	state = seed * 2 + 1;
}

u64 test_random(void)
{
	/* splitmix64 */
	u64 z = (state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

u64 test_below(u64 n)
{
	return test_random() % n;
}

int main(int argc, char **argv)
{
	int passed = 0, failed = 0;

	for (struct test *t = tests; t; t = t->next) {
		if (argc > 1 && !strstr(t->name, argv[1]))
			continue;
		failures = 0;
		test_seed(1);
		t->run();
		if (failures) {
			printf("not ok %s (%s)\n", t->name, t->file);
			failed++;
		} else {
			passed++;
		}
		fflush(stdout);
	}
	printf("host: %d passed, %d failed\n", passed, failed);
	return failed || !passed;
}

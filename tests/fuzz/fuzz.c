/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static const u8 *input;
static size_t left;
static u64 state;

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "%s:%d: ", file, line);
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	abort();
}

void test_seed(u64 seed)
{
	state = seed * 2 + 1;
}

static u64 next(void)
{
	/* splitmix64 */
	u64 z = (state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void fuzz_bytes(void *buf, size_t n)
{
	size_t given = n < left ? n : left;
	u8 *out = buf;

	memcpy(out, input, given);
	input += given;
	left -= given;
	for (size_t at = given; at < n;) {
		u64 word = next();
		size_t bytes = n - at < sizeof(word) ? n - at : sizeof(word);

		memcpy(out + at, &word, bytes);
		at += bytes;
	}
}

u64 test_random(void)
{
	u64 word;

	fuzz_bytes(&word, sizeof(word));
	return word;
}

u64 test_below(u64 n)
{
	u64 value = 0;

	fuzz_bytes(&value, n <= 0x100 ? 1 : n <= 0x10000 ? 2 : sizeof(value));
	return value % n;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	u32 seed = 0;
	size_t bytes = size < sizeof(seed) ? size : sizeof(seed);

	if (!size) /* data may be NULL */
		return 0;
	memcpy(&seed, data, bytes);
	test_seed(seed);
	input = data + bytes;
	left = size - bytes;
	fuzz_one();
	return 0;
}

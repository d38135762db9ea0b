/* SPDX-License-Identifier: MIT */
/* format() against snprintf: conversions, widths, truncation, and not one byte beyond. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/core/format.h"
#include "test.h"

/* Compares at each size of the buffer from 0 to one more than is needed. The buffer is an allocation
 * of its own, so that ASan sees a byte too many. */
static PRINTF(1, 2) void check_format(const char *fmt, ...)
{
	va_list args, again;
	char want[600];
	size_t length;

	va_start(args, fmt);
	va_copy(again, args);
	length = (size_t)vsnprintf(want, sizeof(want), fmt, again);
	va_end(again);
	CHECK(length < sizeof(want));
	for (size_t size = 0; size <= length + 2; size++) {
		size_t shown = !size ? 0 : length < size ? length : size - 1, got;
		char *buf = malloc(size + 1);

		memset(buf, 0x55, size + 1);
		va_copy(again, args);
		got = format_v(buf, size, fmt, again);
		va_end(again);
		CHECK_EQ(got, shown);
		if (size && (memcmp(buf, want, shown) != 0 || buf[shown]))
			test_fail(__FILE__, __LINE__,
				  "\"%s\", size %zu: got \"%.*s\", want \"%.*s\"", fmt, size,
				  (int)size, buf, (int)shown, want);
		CHECK_EQ(buf[size], 0x55);
		free(buf);
	}
	va_end(args);
}

TEST(format_text)
{
	check_format("%s", ""); /* an empty format would be a warning */
	check_format("plain");
	check_format("%%");
	check_format("100%% of %s%%", "it");
	check_format("%s", "word");
	check_format("[%s][%s][%s]", "", "a", "two words");
	check_format("%c%c%c", 'a', ' ', '%');
	check_format("%s%c%s=%d", "no spaces", ':', "between", 1);
	check_format("\t\n\x01\x7f");
}

TEST(format_numbers)
{
	static const long numbers[] = {0,	 1,	   -1,		 9,	   10,
				       -10,	 99,	   255,		 256,	   -32768,
				       INT_MAX,	 INT_MIN,  INT_MAX + 1l, UINT_MAX, UINT_MAX + 1l,
				       LONG_MAX, LONG_MIN, LONG_MIN + 1};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		long n = numbers[i];
		unsigned long u = (unsigned long)n;

		check_format("%d %u %x", (int)n, (unsigned int)u, (unsigned int)u);
		check_format("%ld %lu %lx", n, u, u);
		check_format("[%4d|%4u|%4x]", (int)n, (unsigned int)u, (unsigned int)u);
		check_format("[%12ld|%21lu|%17lx]", n, u, u);
		check_format("[%04u|%04x|%08x]", (unsigned int)u, (unsigned int)u, (unsigned int)u);
		check_format("[%016lx|%022lu|%01lx]", u, u, u);
	}
	/* What follows an argument of each size is still found. */
	check_format("%d %lx %c %s %u %ld %x", -5, ~0ul, 'q', "s", 7u, LONG_MIN, 0xabcdefu);
}

TEST(format_widths)
{
	for (unsigned int width = 0; width < 70; width++) {
		char fmt[40];
		unsigned long value = test_random() >> test_below(64);

		snprintf(fmt, sizeof(fmt), "<%%%ulx>", width);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
		if (width)
			check_format(fmt, value);
		snprintf(fmt, sizeof(fmt), "<%%0%ulu>", width);
		check_format(fmt, value);
		snprintf(fmt, sizeof(fmt), "<%%%uld>", width);
		if (width)
			check_format(fmt, (long)value);
#pragma GCC diagnostic pop
	}
}

TEST(format_random_numbers)
{
	for (unsigned int i = 0; i < 3000; i++) {
		unsigned long u = test_random() >> test_below(64);
		long n = (long)(test_below(2) ? u : 0 - u);

		check_format("%lu/%lx/%ld/%u/%x/%d", u, u, n, (unsigned int)u, (unsigned int)u,
			     (int)n);
		check_format("%25ld|%7d|%010x", n, (int)n, (unsigned int)u);
	}
}

/* A '%' that ends the text, and one before a letter that means nothing: never past the end. */
TEST(format_odd_ends)
{
	static const char *const odd[] = {"%", "a%", "%0", "%12", "%l", "%08l"};
	char buf[32];

	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		char *fmt = malloc(strlen(odd[i]) + 1);

		strcpy(fmt, odd[i]);
		memset(buf, 0x55, sizeof(buf));
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
		CHECK_EQ(format(buf, sizeof(buf), fmt), odd[i][0] == 'a');
#pragma GCC diagnostic pop
		CHECK(!strcmp(buf, odd[i][0] == 'a' ? "a" : ""));
		free(fmt);
	}
}

/* SPDX-License-Identifier: MIT */
/* The client's pure parts: both renderings of its output, names, words of a command line. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "abi/hypercall.h"
#include "client/names.h"
#include "client/words.h"
#include "said.h"
#include "test.h"
#include "x86/pmu.h"
#include "x86/svm.h"

static void check_said(const char *want)
{
	if (strcmp(said, want) != 0)
		test_fail(__FILE__, __LINE__, "got:\n%s\nwant:\n%s", said, want);
	said_bytes = 0;
	said[0] = '\0';
}

static void describe(bool json)
{
	out_begin(&out, json, say);
	out_u64(&out, "exits", ~0ull);
	out_hex(&out, "address", 0x1f);
	out_bool(&out, "on", true);
	out_text(&out, "nothing", "");
	out_bits(&out, "bits", BIT(63) | BIT(2) | BIT(0));
	out_table(&out, "rows");
	for (u64 i = 0; i < 2; i++) {
		out_row(&out);
		out_text(&out, "name", i ? "a \"b\"" : "long name");
		out_u64(&out, "n", i * 1000);
		out_bool(&out, "yes", i);
		out_row_end(&out);
	}
	out_table_end(&out);
	out_table(&out, "none");
	out_table_end(&out);
	out_end(&out);
}

TEST(client_out_text)
{
	describe(false);
	check_said("exits    18446744073709551615\n"
		   "address  0x1f\n"
		   "on       yes\n"
		   "nothing  -\n"
		   "bits     0 2 63\n"
		   "\n"
		   "name          n  yes\n"
		   "long name     0  no\n"
		   "a \"b\"      1000  yes\n");
}

TEST(client_out_json)
{
	describe(true);
	check_said("{\n"
		   "  \"exits\": 18446744073709551615,\n"
		   "  \"address\": 31,\n"
		   "  \"on\": true,\n"
		   "  \"nothing\": \"\",\n"
		   "  \"bits\": 9223372036854775813,\n"
		   "  \"rows\": [\n"
		   "    {\n"
		   "      \"name\": \"long name\",\n"
		   "      \"n\": 0,\n"
		   "      \"yes\": false\n"
		   "    },\n"
		   "    {\n"
		   "      \"name\": \"a \\\"b\\\"\",\n"
		   "      \"n\": 1000,\n"
		   "      \"yes\": true\n"
		   "    }\n"
		   "  ],\n"
		   "  \"none\": []\n"
		   "}\n");
}

/* Every byte, read back by a decoder of the only escapes that there are. */
TEST(client_json_escapes)
{
	char byte;

	for (unsigned int c = 0; c < 256; c++) {
		unsigned int got = 0;

		byte = (char)c;
		out.print = say;
		out_json_text(&out, &byte, 1);
		for (size_t i = 0; i < said_bytes; i++)
			CHECK(said[i] >= 0x20 && said[i] < 0x7f);
		if (said_bytes == 6 && !memcmp(said, "\\u", 2))
			got = (unsigned int)strtoul(said + 2, NULL, 16);
		else if (said_bytes == 2 && said[0] == '\\')
			got = said[1] == 'n' ? '\n' : (u8)said[1];
		else if (said_bytes == 1 && said[0] != '"' && said[0] != '\\')
			got = (u8)said[0];
		else
			test_fail(__FILE__, __LINE__, "byte %#x is \"%s\"", c, said);
		CHECK_EQ(got, c);
		said_bytes = 0;
	}
}

/* More than there is room for is left out, and nothing is overwritten (ASan). */
TEST(client_out_full)
{
	out_begin(&out, false, say);
	out_table(&out, "rows");
	for (u64 i = 0; i < OUT_CELLS; i++) {
		out_row(&out);
		for (unsigned int c = 0; c < OUT_COLUMNS + 2; c++)
			out_u64(&out, "n", i);
		out_row_end(&out);
	}
	out_table_end(&out);
	out_end(&out);
	CHECK(said_bytes > 1000);
	said_bytes = 0;
}

static void check_exit_name(u64 code, const char *want)
{
	char name[NAME_BYTES];

	exit_code_name(name, code);
	if (strcmp(name, want) != 0)
		test_fail(__FILE__, __LINE__, "exit %#llx is %s, not %s", (unsigned long long)code,
			  name, want);
}

TEST(client_names)
{
	char event[NAME_BYTES], flags[2 * NAME_BYTES];

	check_exit_name(0x00, "CR0_READ");
	check_exit_name(0x18, "CR8_WRITE");
	check_exit_name(0x27, "DR7_READ");
	check_exit_name(0x5f, "EXCEPTION_31");
	check_exit_name(0x72, "CPUID");
	check_exit_name(0x93, "CR3_WRITE_TRAP");
	check_exit_name(0x400, "NPF");
	check_exit_name(~0ull, "INVALID");
	check_exit_name(0x999, "0x999");
	event_name(event, EVENT_RETIRED_INSTRUCTIONS | EVTSEL_EN);
	CHECK(!strcmp(event, "instructions"));
	event_name(event, EVENT_RETIRED_INSTRUCTIONS | 0x300 | BIT(32));
	CHECK(!strcmp(event, "event 1c0 unit 03"));
	/* the longest there is */
	selector_flags(flags, ~0ull);
	CHECK(!strcmp(flags, "USR OS EDGE INT EN INV Guest Host CMASK=255"));
	selector_flags(flags, 0);
	CHECK(!strcmp(flags, ""));
}

static void check_words(const char *line, unsigned int max, unsigned int count, ...)
{
	size_t bytes = strlen(line) + 1;
	char *copy = malloc(bytes);
	const char *words[8];
	va_list want;

	memcpy(copy, line, bytes);
	CHECK_EQ(words_split(copy, words, max), count);
	va_start(want, count);
	for (unsigned int i = 0; i < count; i++)
		CHECK(!strcmp(words[i], va_arg(want, const char *)));
	va_end(want);
	free(copy);
}

TEST(client_words)
{
	check_words("", 8, 0);
	check_words("   ", 8, 0);
	check_words("tally.efi", 8, 1, "tally.efi");
	check_words("tally.efi status --json", 8, 3, "tally.efi", "status", "--json");
	check_words("  a   b  ", 8, 2, "a", "b");
	check_words("a \"b c\" d\"e f\"g", 8, 3, "a", "b c", "de fg");
	check_words("a \"\" b", 8, 3, "a", "", "b");
	check_words("a \"b c", 8, 2, "a", "b c");
	check_words("a b c d", 2, 2, "a", "b");
}

/* SPDX-License-Identifier: MIT */
/* The configuration file: every key and message, and any text against a parser written twice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/features.h"
#include "boot/config.h"
#include "pmu/filter.h"
#include "test.h"

#define SOURCE "a.cfg"
#define KEPT 64 /* reports: more than a parse may ever make */

struct reports {
	struct config_reporter reporter;
	unsigned int count;
	char text[KEPT][256];
};

static void take_report(struct config_reporter *reporter, const char *text)
{
	struct reports *r = (struct reports *)reporter;

	CHECK(!strchr(text, '\n'));
	CHECK(!strncmp(text, SOURCE ":", sizeof(SOURCE)));
	CHECK(strlen(text) < sizeof(r->text[0]));
	CHECK(r->count < KEPT);
	snprintf(r->text[r->count++ % KEPT], sizeof(r->text[0]), "%s", text);
}

/* Not more than the bytes may be read: they are the whole of an allocation, without a NUL. */
static int parse_bytes(struct boot_config *config, struct reports *r, const char *text,
		       size_t bytes)
{
	char *copy = malloc(bytes ? bytes : 1);
	int problems;

	*r = (struct reports){.reporter = {take_report}};
	memcpy(copy, text, bytes);
	problems = config_parse(config, SOURCE, copy, bytes, &r->reporter);
	free(copy);
	return problems;
}

static int parse(struct boot_config *config, struct reports *r, const char *text)
{
	return parse_bytes(config, r, text, strlen(text));
}

static bool same(const struct boot_config *a, const struct boot_config *b)
{
	return a->core.log == b->core.log && a->core.svme0 == b->core.svme0 &&
	       a->core.pmu == b->core.pmu && a->core.pmu_flaw == b->core.pmu_flaw &&
	       a->core.dma == b->core.dma && a->core.irperf == b->core.irperf &&
	       a->smp_ignore == b->smp_ignore && a->core.pmu_version == b->core.pmu_version &&
	       !memcmp(&a->core.filter, &b->core.filter, sizeof(a->core.filter)) &&
	       a->core.hidden_features == b->core.hidden_features && !strcmp(a->next, b->next);
}

static bool is_default(const struct boot_config *config)
{
	struct boot_config plain;

	config_default(&plain);
	return same(config, &plain);
}

static void check_one_report(const char *text, const char *message)
{
	struct boot_config config;
	struct reports r;

	config_default(&config);
	CHECK_EQ(parse(&config, &r, text), 1);
	CHECK_EQ(r.count, 1);
	if (strcmp(r.text[0], message) != 0)
		test_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", r.text[0], message);
	CHECK(is_default(&config));
}

/* The values by number, and each key's choices in a row: the order of abi/handoff.h. */
static const char *const choices[][10] = {
	{"ring", "com1", "com2", "debugcon", NULL},
	{"stop", "count", NULL},
	{"auto", "guest-only", "clock", "off", "switched", NULL},
	{"auto", "legacy", "core", "v2", NULL},
	{"none", "no-host-guest", "lose-bits", "drop-writes", "four-counters", "fixed-counters",
	 "fixed-control", "uneven", "no-vmrun-tick", NULL},
	{"off", "on", NULL},
	{"off", "protect", NULL},
	{"all", "ignore", NULL},
};
static const char *const keys[] = {"log",      "svme0",	     "pmu", "pmu.version",
				   "pmu.flaw", "pmu.irperf", "dma", "smp"};

static void set_value(struct boot_config *config, unsigned int key, u32 value)
{
	switch (key) {
	case 0:
		config->core.log = value;
		break;
	case 1:
		config->core.svme0 = value;
		break;
	case 2:
		config->core.pmu = value;
		break;
	case 3:
		config->core.pmu_version = value;
		break;
	case 4:
		config->core.pmu_flaw = value;
		break;
	case 5:
		config->core.irperf = value;
		break;
	case 6:
		config->core.dma = value;
		break;
	default:
		config->smp_ignore = value;
	}
}

TEST(config_default_values)
{
	struct boot_config config;

	memset(&config, 0xff, sizeof(config));
	config_default(&config);
	CHECK_EQ(config.core.log, LOG_RING);
	CHECK_EQ(config.core.svme0, SVME0_STOP);
	CHECK_EQ(config.core.pmu, PMU_AUTO);
	CHECK_EQ(config.core.pmu_version, PMU_VERSION_AUTO);
	CHECK_EQ(config.core.pmu_flaw, PMU_FLAW_NONE);
	CHECK_EQ(config.core.irperf, 0);
	CHECK_EQ(config.core.dma, DMA_OFF);
	CHECK_EQ(config.core.hidden_features, 0);
	CHECK_EQ(config.core.filter.version, TALLY_FILTER_VERSION);
	CHECK_EQ(config.core.filter.action, TALLY_FILTER_OFF);
	CHECK_EQ(config.core.filter.count, 0);
	CHECK(!config.smp_ignore);
	CHECK(!*config.next);
}

static u32 hidden_by(const char *text)
{
	struct boot_config config;
	struct reports r;

	config_default(&config);
	CHECK_EQ(parse(&config, &r, text), 0);
	return config.core.hidden_features;
}

TEST(config_features)
{
#define X(name, bit, software) CHECK_EQ(hidden_by("features=-" #name), bit);
	TALLY_FEATURES(X)
#undef X
	CHECK_EQ(hidden_by("features=-nrips,-decode"), SVM_NRIPS | SVM_DECODE_ASSISTS);
	CHECK_EQ(hidden_by("features=-nrips,-vgif,+nrips"), SVM_VGIF);
	CHECK_EQ(hidden_by("features=-nrips\nfeatures=-vgif\nfeatures=+nrips"), SVM_VGIF);
	CHECK_EQ(hidden_by("features="), 0);
	CHECK_EQ(hidden_by("features=-clean,"), SVM_VMCB_CLEAN);

#define BAD(value)                                                                                 \
	check_one_report("features=" value, SOURCE                                                 \
			 ":1: features=" value " is not known, it stays as it was; possible: "     \
			 "-npt -lbrv -nrips -tscrate -clean -flushbyasid -decode -vgif -addrchk")
	BAD("vgif");
	BAD("-vgif,decode");
	BAD("-");
	BAD(",");
	BAD("-vgi");
	BAD("-vgiff");
	BAD("-vgif -npt");
#undef BAD
}

/* What the CPU has cannot be given by software but for the features that are. */
TEST(features_offered)
{
	u32 all = 0, software = 0;

#define X(name, bit, soft) all |= (u32)(bit), software |= (soft) ? (u32)(bit) : 0;
	TALLY_FEATURES(X)
#undef X
	CHECK_EQ(tally_features(0, 0), software);
	CHECK_EQ(tally_features(~0u, 0), all);
	for (unsigned int bit = 0; bit < 32; bit++) {
		CHECK_EQ(tally_features(1u << bit, 0), software | (all & 1u << bit));
		CHECK_EQ(tally_features(~0u, 1u << bit), all & ~(1u << bit));
	}
}

static struct tally_filter filter_of(const char *text)
{
	struct boot_config config;
	struct reports r;

	config_default(&config);
	CHECK_EQ(parse(&config, &r, text), 0);
	return config.core.filter;
}

TEST(config_filter)
{
	static const struct tally_filter_entry all[] = {
		{0xc0, 0, 0, 0},       {0x1c0, 0, 0, 0},       {0, 0, 0, 0},
		{0x60, 0xff, 0xff, 0}, {0xfff, 0xff, 0x00, 0}, {0x60, 0xf0, 0x50, 0},
		{0x60, 0xff, 0x20, 1}, {0xabc, 0, 0, 1},       {0xabc, 0x01, 0x01, 1},
		{0x60, 0x00, 0x00, 0},
	};
	struct tally_filter filter = filter_of("filter=allow:0c0,1C0,0,060/ff,FFF/0,60/50:f0,"
					       "-60/20,-aBc,-abc/1:1,060/0:0");

	CHECK_EQ(filter.version, TALLY_FILTER_VERSION);
	CHECK_EQ(filter.action, TALLY_FILTER_ALLOW);
	CHECK_EQ(filter.count, ARRAY_SIZE(all));
	CHECK(!memcmp(filter.entry, all, sizeof(all)));
	CHECK_EQ(pmu_filter_check(&filter), 0);
	filter = filter_of("filter=deny:0c2");
	CHECK_EQ(filter.action, TALLY_FILTER_DENY);
	CHECK_EQ(filter.count, 1);
	CHECK_EQ(filter.entry[0].event, 0xc2);
	filter = filter_of("filter=allow:1,2,3\nfilter=deny:4"); /* later wins, as a whole */
	CHECK_EQ(filter.action, TALLY_FILTER_DENY);
	CHECK_EQ(filter.count, 1);
	CHECK_EQ(filter.entry[0].event, 4);
	filter = filter_of("filter=allow:1,2\nfilter=off");
	CHECK_EQ(filter.action, TALLY_FILTER_OFF);
	CHECK_EQ(filter.count, 0);

#define BAD(value, word, text)                                                                     \
	check_one_report("filter=" value,                                                          \
			 SOURCE ":1: filter: '" word "' " text ", it stays as it was")
#define FORM "is not [-]EVENT[/UMASK[:MASK]] in hexadecimal"
#define ACTION "is not off, allow:LIST or deny:LIST"
	BAD("", "", ACTION);
	BAD("on", "on", ACTION);
	BAD("off:", "off:", ACTION);
	BAD("allow", "allow", ACTION);
	BAD("Deny:c0", "Deny:c0", ACTION);
	BAD("0123456789012345678901234", "012345678901234567890123", ACTION);
	BAD("allow:", "", FORM);
	BAD("deny:c0,", "", FORM);
	BAD("deny:,c0", "", FORM);
	BAD("deny:c0,,c1", "", FORM);
	BAD("deny:c0,1000,c1", "1000", FORM);
	BAD("deny:0x76", "0x76", FORM);
	BAD("deny:--c0", "--c0", FORM);
	BAD("deny:-", "-", FORM);
	BAD("deny:c0/", "c0/", FORM);
	BAD("deny:/01", "/01", FORM);
	BAD("deny:c0/100", "c0/100", FORM);
	BAD("deny:c0/1:", "c0/1:", FORM);
	BAD("deny:c0/1:100", "c0/1:100", FORM);
	BAD("deny:c0/1:1:1", "c0/1:1:1", FORM);
	BAD("deny:c0:1", "c0:1", FORM);
	BAD("deny: c0", " c0", FORM);
	BAD("deny:c0 c1", "c0 c1", FORM);
	BAD("deny:c0/3:1", "c0/3:1", "matches nothing: UMASK has bits that MASK has not");
#undef BAD
}

/* As many entries as there can be, and one more; every event and unit mask. */
TEST(config_filter_entries)
{
	for (unsigned int n = 63; n <= 66; n++) {
		struct boot_config config;
		char text[600] = "filter=deny:0";
		struct reports r;

		for (unsigned int i = 1; i < n; i++)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), ",%x", i);
		config_default(&config);
		CHECK_EQ(parse(&config, &r, text), n > 64);
		CHECK_EQ(config.core.filter.count, n > 64 ? 0 : n);
		if (n > 64)
			CHECK(!strcmp(r.text[0],
				      SOURCE ":1: filter: '40' is more than the 64 entries "
					     "that there can be, it stays as it was"));
	}
	for (unsigned int event = 0; event < 0x1000; event++) {
		struct tally_filter filter;
		char text[40];

		snprintf(text, sizeof(text), "filter=deny:%03x/%02x", event, event & 0xff);
		filter = filter_of(text);
		CHECK_EQ(filter.entry[0].event, event);
		CHECK_EQ(filter.entry[0].umask_match, event & 0xff);
		CHECK_EQ(filter.entry[0].umask_mask, 0xff);
	}
}

/* Each value of each key, alone and after each other value of it: the later one holds, and no other
 * key changes. */
TEST(config_every_key_and_value)
{
	for (unsigned int key = 0; key < ARRAY_SIZE(keys); key++) {
		for (u32 old = 0; choices[key][old]; old++) {
			for (u32 new = 0; choices[key][new]; new ++) {
				struct boot_config config, want;
				struct reports r;
				char text[100];

				config_default(&config);
				config_default(&want);
				set_value(&want, key, old);
				snprintf(text, sizeof(text), "%s=%s", keys[key], choices[key][old]);
				CHECK_EQ(parse(&config, &r, text), 0);
				CHECK(same(&config, &want));

				set_value(&want, key, new);
				snprintf(text, sizeof(text), "%s=%s\n%s=%s\n", keys[key],
					 choices[key][old], keys[key], choices[key][new]);
				CHECK_EQ(parse(&config, &r, text), 0);
				CHECK_EQ(r.count, 0);
				CHECK(same(&config, &want));
			}
		}
	}
}

/* The words after `label` in the parser's answer to `line`; each ends in NUL, an empty one ends the list. */
static void words_of(char list[16][32], const char *line, const char *label)
{
	struct boot_config config;
	struct reports r;
	unsigned int n = 0;
	int used;
	const char *at;

	config_default(&config);
	CHECK_EQ(parse(&config, &r, line), 1);
	at = strstr(r.text[0], label);
	CHECK(at);
	for (at = at ? at + strlen(label) : ""; n < 15 && sscanf(at, "%31s%n", list[n], &used) == 1;
	     n++)
		at += used;
	CHECK(n < 15 && !*at);
	list[n][0] = 0;
}

/* The file that the image carries: right as it is, and it has each key with its choices and its default. */
TEST(config_file_of_the_image)
{
	static char text[CONFIG_MAX_BYTES], defaults[CONFIG_MAX_BYTES];
	char keys_known[16][32], values[16][32];
	FILE *file = fopen("boot/tallyvisor.cfg", "r");
	struct boot_config config;
	struct reports r;
	size_t bytes, used = 0;

	CHECK(file); /* the tests are run from the top of the sources */
	if (!file)
		return;
	bytes = fread(text + 1, 1, sizeof(text) - 2, file);
	fclose(file);
	text[0] = '\n';

	config_default(&config);
	CHECK_EQ(parse_bytes(&config, &r, text, bytes + 1), 0);
	CHECK(!strcmp(config.next, "\\EFI\\tallyvisor\\grubx64.efi"));
	config.next[0] = 0;
	CHECK(is_default(&config));

	/* "#key=value" is a setting that is off */
	for (size_t i = 0; i <= bytes; i++)
		if (text[i] != '#' || text[i - 1] != '\n' || text[i + 1] == ' ' ||
		    text[i + 1] == '\n')
			defaults[used++] = text[i];
	CHECK_EQ(parse_bytes(&config, &r, defaults, used), 0);
	config.next[0] = 0;
	CHECK(is_default(&config));

	words_of(keys_known, "?=", "known:");
	for (unsigned int k = 0; *keys_known[k]; k++) {
		char line[400];
		int n;

		snprintf(line, sizeof(line), "\n%s=", keys_known[k]);
		if (!strstr(defaults, line))
			test_fail(__FILE__, __LINE__, "tallyvisor.cfg does not set %s",
				  keys_known[k]);
		n = snprintf(line, sizeof(line), "\n# %s=", keys_known[k]);
		/* these two take what is no list */
		if (strcmp(keys_known[k], "next") != 0 && strcmp(keys_known[k], "filter") != 0) {
			char bad[40];

			snprintf(bad, sizeof(bad), "%s=?", keys_known[k]);
			words_of(values, bad, "possible:");
			for (unsigned int v = 0; *values[v]; v++)
				n += snprintf(line + n, sizeof(line) - (size_t)n, "%s%s",
					      v ? "|" : "", values[v]);
			snprintf(line + n, sizeof(line) - (size_t)n, "\n");
		}
		if (!strstr(text, line))
			test_fail(__FILE__, __LINE__, "tallyvisor.cfg has no line \"%s\"",
				  line + 1);
	}
}

TEST(config_lines)
{
	static const char *const same_text[] = {
		"svme0=count\nnext=\\a b\\c.efi",
		"svme0=count\r\nnext=\\a b\\c.efi\r\n",
		"\n \t\r\n# a = b\n\t# svme0=stop\n#\n  svme0=count \t\n\tnext=/a b/c.efi \r\n\n",
		"next=x\nnext=\nnext=/a b\\c.efi\nsvme0=stop\nsvme0=count\r",
	};
	struct boot_config config;
	struct reports r;

	for (size_t i = 0; i < ARRAY_SIZE(same_text); i++) {
		config_default(&config);
		CHECK_EQ(parse(&config, &r, same_text[i]), 0);
		CHECK_EQ(r.count, 0);
		CHECK_EQ(config.core.svme0, SVME0_COUNT);
		CHECK(!strcmp(config.next, "\\a b\\c.efi"));
		config.core.svme0 = SVME0_STOP;
		config.next[0] = 0;
		CHECK(is_default(&config));
	}
	CHECK_EQ(parse(&config, &r, ""), 0);
	CHECK_EQ(parse(&config, &r, "#"), 0);
	CHECK_EQ(parse(&config, &r, "\n"), 0);
	CHECK_EQ(r.count, 0);
	CHECK(is_default(&config));
}

TEST(config_messages)
{
	check_one_report("log=com3", SOURCE ":1: log=com3 is not known, it stays as it was; "
					    "possible: ring com1 com2 debugcon");
	check_one_report("\n\nsvme0=", SOURCE ":3: svme0= is not known, it stays as it was; "
					      "possible: stop count");
	check_one_report("pmu=clockwork",
			 SOURCE ":1: pmu=clockwork is not known, it stays as it "
				"was; possible: auto guest-only switched clock off");
	check_one_report("smp=al", SOURCE ":1: smp=al is not known, it stays as it was; "
					  "possible: all ignore");
	check_one_report("dma=on", SOURCE ":1: dma=on is not known, it stays as it was; "
					  "possible: off protect");
	check_one_report("pmu= clock", SOURCE ":1: pmu= clock is not known, it stays as it was; "
					      "possible: auto guest-only switched clock off");
	check_one_report("pmu=123456789012345678901234567890",
			 SOURCE ":1: pmu=123456789012345678901234 is not known, it stays as it "
				"was; possible: auto guest-only switched clock off");
#define KNOWN "log svme0 pmu pmu.version pmu.irperf pmu.flaw smp dma filter features next"
	check_one_report("PMU=clock", SOURCE ":1: unknown key 'PMU', ignored; known: " KNOWN);
	check_one_report("pmu =clock", SOURCE ":1: unknown key 'pmu ', ignored; known: " KNOWN);
	check_one_report("=", SOURCE ":1: unknown key '', ignored; known: " KNOWN);
	check_one_report("123456789012345678901234567890=1", SOURCE
			 ":1: unknown key '123456789012345678901234', ignored; known: " KNOWN);
#undef KNOWN
	check_one_report("# one\r\n  off \r\n",
			 SOURCE ":2: 'off' is not of the form key=value, ignored");
	check_one_report("123456789012345678901234567890", SOURCE
			 ":1: '123456789012345678901234' is not of the form key=value, ignored");
}

/* A bad value leaves what was set before. */
TEST(config_bad_value_keeps)
{
	struct boot_config config;
	struct reports r;

	config_default(&config);
	CHECK_EQ(parse(&config, &r, "pmu=off\nsmp=ignore\nnext=a\npmu=on\nsmp=maybe\nx\n"), 3);
	CHECK_EQ(r.count, 3);
	CHECK_EQ(config.core.pmu, PMU_OFF);
	CHECK(config.smp_ignore);
	CHECK(!strcmp(config.next, "a"));
}

TEST(config_many_problems)
{
	for (unsigned int n = 1; n < 40; n++) {
		char text[40 * 8] = "", summary[100];
		struct boot_config config;
		struct reports r;

		for (unsigned int i = 0; i < n; i++)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "pmu=%u\n", i);
		strcat(text, "svme0=count"); /* what is right counts, however late */
		config_default(&config);
		CHECK_EQ(parse(&config, &r, text), n);
		CHECK_EQ(r.count, n <= 4 ? n : 5);
		for (unsigned int i = 0; i < n && i < 4; i++) {
			snprintf(summary, sizeof(summary), SOURCE ":%u: pmu=%u ", i + 1, i);
			CHECK(!strncmp(r.text[i], summary, strlen(summary)));
		}
		snprintf(summary, sizeof(summary), SOURCE ": and %u more problem", n - 4);
		if (n > 4)
			CHECK(!strncmp(r.text[4], summary, strlen(summary)));
		CHECK_EQ(config.core.svme0, SVME0_COUNT);
		CHECK_EQ(config.core.pmu, PMU_AUTO);
	}
}

TEST(config_next_length)
{
	for (size_t n = 250; n < 260; n++) {
		struct boot_config config;
		struct reports r;
		char text[300] = "next=old\nnext=";
		size_t start = strlen(text);

		memset(text + start, '/', n);
		config_default(&config);
		CHECK_EQ(parse(&config, &r, text), n > 255);
		if (n > 255) {
			CHECK(!strcmp(r.text[0], SOURCE ":2: the path of next= is over 255 "
							"characters, ignored"));
			CHECK(!strcmp(config.next, "old"));
		} else {
			CHECK_EQ(strlen(config.next), n);
			CHECK_EQ(strspn(config.next, "\\"), n);
		}
	}
}

/* One byte that is no text, anywhere: nothing of the whole is taken, and that is one message. */
TEST(config_not_text)
{
	static const char good[] = "svme0=count\nnext=a\n";
	struct boot_config config;
	struct reports r;

	for (unsigned int byte = 0; byte < 256; byte++) {
		bool text = (byte >= 0x20 && byte < 0x7f) || byte == '\n' || byte == '\r' ||
			    byte == '\t';

		for (size_t at = 0; at < sizeof(good) && !text; at++) {
			char bytes[sizeof(good)];

			memcpy(bytes, good, sizeof(good) - 1);
			memmove(bytes + at + 1, bytes + at, sizeof(good) - 1 - at);
			bytes[at] = (char)byte;
			config_default(&config);
			CHECK_EQ(parse_bytes(&config, &r, bytes, sizeof(bytes)), 1);
			CHECK_EQ(r.count, 1);
			CHECK(!strcmp(r.text[0], SOURCE ": is not plain ASCII text, ignored as a "
							"whole; defaults apply"));
			CHECK(is_default(&config));
		}
		if (text) {
			char bytes[] = {'#', (char)byte};

			CHECK_EQ(parse_bytes(&config, &r, bytes, 2), 0);
		}
	}
}

TEST(config_size)
{
	char *text = malloc(65537);
	struct boot_config config;
	struct reports r;

	memset(text, ' ', 65537);
	memcpy(text + 65536 - 7, "pmu=off", 7);
	config_default(&config);
	CHECK_EQ(parse_bytes(&config, &r, text, 65537), 1);
	CHECK_EQ(r.count, 1);
	CHECK(!strcmp(r.text[0], SOURCE ": is over 64 KiB, ignored as a whole; defaults apply"));
	CHECK(is_default(&config));
	CHECK_EQ(parse_bytes(&config, &r, text, 65536), 0);
	CHECK_EQ(config.core.pmu, PMU_OFF);

	/* The most lines, and the most problems, that there can be. */
	memset(text, '\n', 65536);
	CHECK_EQ(parse_bytes(&config, &r, text, 65536), 0);
	for (size_t i = 0; i < 65536; i += 2)
		text[i] = '=';
	CHECK_EQ(parse_bytes(&config, &r, text, 65536), 32768);
	CHECK_EQ(r.count, 5);
	CHECK(!strncmp(r.text[4], SOURCE ": and 32764 more", strlen(SOURCE ": and 32764 more")));
	free(text);
}

TEST(config_random_bytes)
{
	char *text = malloc(65536);

	for (unsigned int seed = 0; seed < 32; seed++) {
		struct boot_config config;
		struct reports r;

		test_seed(seed);
		for (size_t i = 0; i < 65536; i++)
			text[i] = (char)(seed & 1 ? ' ' + test_below(95) : test_random());
		config_default(&config);
		CHECK_EQ(parse_bytes(&config, &r, text, 65536), 1);
		CHECK_EQ(r.count, 1);
		CHECK(is_default(&config));
	}
	free(text);
}

/* ---- the same again, with strings ---- */

/* Up to `max`, and what ends it. */
static bool naive_number(char *text, unsigned long max, unsigned long *value)
{
	if (!*text || strspn(text, "0123456789abcdefABCDEF") != strlen(text))
		return false;
	*value = strtoul(text, NULL, 16);
	return *value <= max;
}

static int naive_filter(struct boot_config *config, char *value)
{
	struct tally_filter filter = {.version = 1};
	char *list = strchr(value, ':'), *word, *end;

	if (!strcmp(value, "off")) {
		config->core.filter = filter;
		return 0;
	}
	if (!list)
		return 1;
	*list++ = 0;
	filter.action = !strcmp(value, "allow") ? 1 : !strcmp(value, "deny") ? 2 : 0;
	if (!filter.action)
		return 1;
	for (word = list; word; word = end) {
		unsigned long event, umask = 0, mask = 0;
		char *slash, *colon = NULL;

		end = strchr(word, ',');
		if (end)
			*end++ = 0;
		if (filter.count == 64)
			return 1;
		filter.entry[filter.count].flags = *word == '-';
		word += *word == '-';
		slash = strchr(word, '/');
		if (slash) {
			*slash++ = 0;
			mask = 0xff;
			colon = strchr(slash, ':');
			if (colon)
				*colon++ = 0;
		}
		if (!naive_number(word, 0xfff, &event) ||
		    (slash && !naive_number(slash, 0xff, &umask)) ||
		    (colon && !naive_number(colon, 0xff, &mask)) || (umask & mask) != umask)
			return 1;
		filter.entry[filter.count].event = (u16)event;
		filter.entry[filter.count].umask_mask = (u8)mask;
		filter.entry[filter.count++].umask_match = (u8)umask;
	}
	config->core.filter = filter;
	return 0;
}

static int naive_line(struct boot_config *config, char *line)
{
	size_t n = strlen(line);
	char *value;

	while (n && strchr(" \t\r", line[n - 1]))
		line[--n] = 0;
	line += strspn(line, " \t\r");
	if (!*line || *line == '#')
		return 0;
	value = strchr(line, '=');
	if (!value)
		return 1;
	*value++ = 0;
	if (!strcmp(line, "next")) {
		if (strlen(value) > 255)
			return 1;
		strcpy(config->next, value);
		for (char *c = config->next; *c; c++)
			if (*c == '/')
				*c = '\\';
		return 0;
	}
	if (!strcmp(line, "features")) {
		u32 hidden = config->core.hidden_features;

		for (char *word = value, *end; *word; word = end) {
			u32 bit = 0;

			end = word + strcspn(word, ",");
			if (*end)
				*end++ = 0;
#define X(name, value, software) bit |= *word && !strcmp(word + 1, #name) ? (u32)(value) : 0;
			TALLY_FEATURES(X)
#undef X
			if (!bit || !strchr("+-", *word))
				return 1;
			hidden = *word == '-' ? hidden | bit : hidden & ~bit;
		}
		config->core.hidden_features = hidden;
		return 0;
	}
	if (!strcmp(line, "filter"))
		return naive_filter(config, value);
	for (unsigned int key = 0; key < ARRAY_SIZE(keys); key++) {
		for (u32 i = 0; !strcmp(line, keys[key]) && choices[key][i]; i++) {
			if (!strcmp(value, choices[key][i])) {
				set_value(config, key, i);
				return 0;
			}
		}
	}
	return 1;
}

static int naive_parse(struct boot_config *config, const char *text, size_t bytes)
{
	char copy[8192];
	int problems = 0;

	for (size_t i = 0; i < bytes; i++)
		if (!strchr("\t\n\r", text[i]) && (text[i] < ' ' || text[i] > '~'))
			return 1;
	if (memchr(text, 0, bytes))
		return 1;
	memcpy(copy, text, bytes);
	copy[bytes] = 0;
	for (char *line = copy, *end; line; line = end) {
		end = strchr(line, '\n');
		if (end)
			*end++ = 0;
		problems += naive_line(config, line);
	}
	return problems;
}

TEST(config_random_texts)
{
	static const char *const fragments[] = {
		"log",
		"svme0",
		"pmu",
		"smp",
		"next",
		"=",
		"=",
		"=",
		"=",
		"ring",
		"com1",
		"com2",
		"off",
		"count",
		"stop",
		"auto",
		"\n",
		"\n",
		"\n",
		"\r\n",
		" ",
		"\t",
		"#",
		"debugcon",
		"/",
		"\\",
		"x",
		"log=",
		"pmu=",
		"smp=",
		"svme0=",
		"next=/",
		"guest-only",
		"clock",
		"switched",
		"smp=ignore\n",
		"all",
		"ignore",
		"features=",
		"-vgif",
		"+vgif",
		"-decode",
		",",
		"features=-nrips\n",
		"filter=",
		"filter=deny:",
		"filter=allow:c0",
		"filter=off",
		":",
		"-1c0",
		"/",
		"0f",
		",76",
		"/3:",
		"pmu.version=",
		"legacy",
		"v2\n",
		"pmu=off\n",
		"pmu.flaw=lose-bits\n",
		"next=EFI/debian/grubx64.efi\r\n",
		"",
	};

	for (unsigned int i = 0; i < 100000; i++) {
		struct boot_config config, want;
		size_t bytes = 0, n = test_below(24);
		char text[8192];
		struct reports r;
		int problems;

		while (n--) {
			const char *fragment = fragments[test_below(ARRAY_SIZE(fragments))];
			size_t length = strlen(fragment);

			memcpy(text + bytes, fragment, length);
			bytes += length;
			if (test_below(100) == 0) { /* a long word, about as long as next= takes */
				length = 240 + test_below(30);
				memset(text + bytes, 'y', length);
				bytes += length;
			}
		}
		if (bytes && test_below(50) == 0)
			text[test_below(bytes)] = (char)test_random();
		config_default(&config);
		config_default(&want);
		problems = parse_bytes(&config, &r, text, bytes);
		CHECK_EQ(problems, naive_parse(&want, text, bytes));
		CHECK_EQ(r.count, problems <= 4 ? problems : 5);
		CHECK(same(&config, &want));
	}
}

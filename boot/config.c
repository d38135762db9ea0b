/* SPDX-License-Identifier: MIT */
#include "boot/config.h"

#include "abi/features.h"
#include "boot/filter.h"

#define LISTED_PROBLEMS 4

struct choice {
	const char *name;
	u32 value;
};

static const struct choice log_choices[] = {{"ring", LOG_RING},
					    {"com1", LOG_COM1},
					    {"com2", LOG_COM2},
					    {"debugcon", LOG_DEBUGCON},
					    {NULL, 0}};
static const struct choice svme0_choices[] = {
	{"stop", SVME0_STOP}, {"count", SVME0_COUNT}, {NULL, 0}};
static const struct choice pmu_choices[] = {
	{"auto", PMU_AUTO},	    {"guest-only", PMU_GUEST_ONLY},
	{"switched", PMU_SWITCHED}, {"clock", PMU_CLOCK},
	{"off", PMU_OFF},	    {NULL, 0}};
static const struct choice pmu_flaw_choices[] = {{"none", PMU_FLAW_NONE},
						 {"no-host-guest", PMU_FLAW_NO_HOST_GUEST},
						 {"lose-bits", PMU_FLAW_LOSE_BITS},
						 {"drop-writes", PMU_FLAW_DROP_WRITES},
						 {"four-counters", PMU_FLAW_FOUR_COUNTERS},
						 {"fixed-counters", PMU_FLAW_FIXED_COUNTERS},
						 {"fixed-control", PMU_FLAW_FIXED_CONTROL},
						 {"uneven", PMU_FLAW_UNEVEN},
						 {"no-vmrun-tick", PMU_FLAW_NO_VMRUN_TICK},
						 {NULL, 0}};
static const struct choice version_choices[] = {{"auto", PMU_VERSION_AUTO},
						{"legacy", PMU_VERSION_LEGACY},
						{"core", PMU_VERSION_CORE},
						{"v2", PMU_VERSION_V2},
						{NULL, 0}};
static const struct choice irperf_choices[] = {{"off", 0}, {"on", 1}, {NULL, 0}};
static const struct choice smp_choices[] = {{"all", 0}, {"ignore", 1}, {NULL, 0}};

static const struct choice dma_choices[] = {{"off", DMA_OFF}, {"protect", DMA_PROTECT}, {NULL, 0}};

static const struct choice feature_choices[] = {
#define X(name, bit, software) {"-" #name, (u32)(bit)},
	TALLY_FEATURES(X)
#undef X
		{NULL, 0}};

struct parser {
	const char *source;
	struct config_reporter *reporter;
	int problems;
	char text[240];
	size_t used;
};

static void put(struct parser *p, const char *s, size_t n)
{
	while (n-- && *s && p->used < sizeof(p->text) - 1)
		p->text[p->used++] = *s++;
	p->text[p->used] = 0;
}

static void put_text(struct parser *p, const char *s)
{
	put(p, s, sizeof(p->text));
}

static void put_number(struct parser *p, unsigned int n)
{
	char digits[12];
	size_t at = sizeof(digits);

	digits[--at] = 0;
	do
		digits[--at] = (char)('0' + n % 10);
	while (n /= 10);
	put_text(p, digits + at);
}

static void begin(struct parser *p, unsigned int line)
{
	p->used = 0;
	put_text(p, p->source);
	if (line) {
		put_text(p, ":");
		put_number(p, line);
	}
	put_text(p, ": ");
}

static void end(struct parser *p)
{
	if (++p->problems <= LISTED_PROBLEMS)
		p->reporter->report(p->reporter, p->text);
}

static bool equal(const char *s, size_t n, const char *word)
{
	size_t i;

	for (i = 0; i < n && word[i]; i++)
		if (s[i] != word[i])
			return false;
	return i == n && !word[i];
}

static void bad_value(struct parser *p, unsigned int line, const char *key, size_t key_bytes,
		      const char *value, size_t value_bytes, const struct choice *choices)
{
	begin(p, line);
	put(p, key, key_bytes);
	put_text(p, "=");
	put(p, value, value_bytes < 24 ? value_bytes : 24);
	put_text(p, " is not known, it stays as it was; possible:");
	for (; choices->name; choices++) {
		put_text(p, " ");
		put_text(p, choices->name);
	}
	end(p);
}

static const struct choice *find(const struct choice *choices, const char *s, size_t n)
{
	for (; choices->name; choices++)
		if (equal(s, n, choices->name))
			return choices;
	return NULL;
}

/* Their names are written with the sign, for bad_value(). */
static const struct choice *find_feature(const char *s, size_t n)
{
	for (const struct choice *c = feature_choices; c->name; c++)
		if (equal(s, n, c->name + 1))
			return c;
	return NULL;
}

/* `-name` hides, `+name` gives back; several with commas. One bad word, and all of the value is dropped. */
static void set_features(struct parser *p, u32 *hidden, unsigned int line, const char *value,
			 size_t bytes)
{
	u32 wanted = *hidden;

	for (size_t at = 0, end; at < bytes; at = end + 1) {
		const struct choice *c = NULL;

		for (end = at; end < bytes && value[end] != ',';)
			end++;
		if (value[at] == '-' || value[at] == '+')
			c = find_feature(value + at + 1, end - at - 1);
		if (!c) {
			bad_value(p, line, "features", 8, value, bytes, feature_choices);
			return;
		}
		wanted = value[at] == '-' ? wanted | c->value : wanted & ~c->value;
	}
	*hidden = wanted;
}

static void set_filter(struct parser *p, struct tally_filter *filter, unsigned int line,
		       const char *value, size_t bytes)
{
	struct filter_problem problem;

	if (filter_parse(filter, value, bytes, &problem))
		return;
	begin(p, line);
	put_text(p, "filter: '");
	put(p, problem.word, problem.bytes < 24 ? problem.bytes : 24);
	put_text(p, "' ");
	put_text(p, problem.text);
	put_text(p, ", it stays as it was");
	end(p);
}

/* One `key=value` without surrounding blanks. */
static void setting(struct parser *p, struct boot_config *config, unsigned int line, const char *s,
		    size_t n)
{
	u32 smp = config->smp_ignore;
	const struct {
		const char *key;
		const struct choice *choices;
		u32 *value;
	} keys[] = {
		{"log", log_choices, &config->core.log},
		{"svme0", svme0_choices, &config->core.svme0},
		{"pmu", pmu_choices, &config->core.pmu},
		{"pmu.version", version_choices, &config->core.pmu_version},
		{"pmu.irperf", irperf_choices, &config->core.irperf},
		{"pmu.flaw", pmu_flaw_choices, &config->core.pmu_flaw},
		{"smp", smp_choices, &smp},
		{"dma", dma_choices, &config->core.dma},
	};
	size_t key_bytes = 0, value_bytes;
	const char *value;

	while (key_bytes < n && s[key_bytes] != '=')
		key_bytes++;
	if (key_bytes == n) {
		begin(p, line);
		put_text(p, "'");
		put(p, s, n < 24 ? n : 24);
		put_text(p, "' is not of the form key=value, ignored");
		end(p);
		return;
	}
	value = s + key_bytes + 1;
	value_bytes = n - key_bytes - 1;

	if (equal(s, key_bytes, "next")) {
		if (value_bytes >= CONFIG_NEXT_MAX) {
			begin(p, line);
			put_text(p, "the path of next= is over 255 characters, ignored");
			end(p);
			return;
		}
		for (size_t i = 0; i < value_bytes; i++)
			config->next[i] = value[i] == '/' ? '\\' : value[i];
		config->next[value_bytes] = 0;
		return;
	}
	if (equal(s, key_bytes, "features")) {
		set_features(p, &config->core.hidden_features, line, value, value_bytes);
		return;
	}
	if (equal(s, key_bytes, "filter")) {
		set_filter(p, &config->core.filter, line, value, value_bytes);
		return;
	}
	for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
		const struct choice *c;

		if (!equal(s, key_bytes, keys[k].key))
			continue;
		c = find(keys[k].choices, value, value_bytes);
		if (!c) {
			bad_value(p, line, s, key_bytes, value, value_bytes, keys[k].choices);
			return;
		}
		*keys[k].value = c->value;
		config->smp_ignore = smp;
		return;
	}
	begin(p, line);
	put_text(p, "unknown key '");
	put(p, s, key_bytes < 24 ? key_bytes : 24);
	put_text(p, "', ignored; known:");
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		put_text(p, " ");
		put_text(p, keys[i].key);
	}
	put_text(p, " filter features next");
	end(p);
}

static bool is_text(const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if ((text[i] < 0x20 || text[i] > 0x7e) && text[i] != '\n' && text[i] != '\r' &&
		    text[i] != '\t')
			return false;
	return true;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

void config_default(struct boot_config *config)
{
	config->core = (struct config){.log = LOG_RING,
				       .svme0 = SVME0_STOP,
				       .pmu = PMU_AUTO,
				       .filter.version = TALLY_FILTER_VERSION};
	config->smp_ignore = false;
	config->next[0] = 0;
}

int config_parse(struct boot_config *config, const char *source, const char *text, size_t bytes,
		 struct config_reporter *reporter)
{
	struct parser p = {.source = source, .reporter = reporter};
	unsigned int line = 1;

	if (bytes > CONFIG_MAX_BYTES || !is_text(text, bytes)) {
		begin(&p, 0);
		put_text(&p,
			 bytes > CONFIG_MAX_BYTES ? "is over 64 KiB" : "is not plain ASCII text");
		put_text(&p, ", ignored as a whole; defaults apply");
		end(&p);
		return p.problems;
	}
	for (size_t at = 0; at < bytes; line++) {
		size_t start = at, stop;

		while (at < bytes && text[at] != '\n')
			at++;
		stop = at++;
		while (start < stop && blank(text[start]))
			start++;
		while (stop > start && blank(text[stop - 1]))
			stop--;
		if (start < stop && text[start] != '#')
			setting(&p, config, line, text + start, stop - start);
	}
	if (p.problems > LISTED_PROBLEMS) {
		begin(&p, 0);
		put_text(&p, "and ");
		put_number(&p, (unsigned int)(p.problems - LISTED_PROBLEMS));
		put_text(&p,
			 p.problems == LISTED_PROBLEMS + 1 ? " more problem" : " more problems");
		reporter->report(reporter, p.text);
	}
	return p.problems;
}

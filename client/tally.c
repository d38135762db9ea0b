/* SPDX-License-Identifier: MIT */
/* Arguments and commands. Whatever is shown goes through out.h, so that each command has one description for both forms. */
#include "client/tally.h"
#include "boot/filter.h"
#include "client/names.h"
#include "client/os.h"
#include "client/out.h"
#include "client/probe.h"
#include "hv/core/format.h"
#include "x86/cpuid.h"
#include "x86/pmu.h"

struct arguments {
	const char *const *words; /* behind the command */
	unsigned int count;
	bool json;
	unsigned int cpu;
	unsigned int seconds; /* of --cost */
	bool force;
};

static struct out out;
static u8 page[PAGE_SIZE] ALIGNED(4096);

static const char help[] =
	"tally: what Tallyvisor knows, and what its performance counters do\n"
	"\n"
	"  tally [--json] [--cpu N] COMMAND\n"
	"\n"
	"  status             the hypervisor and its counts\n"
	"  counters           each counter: its selector, here and at each level, its value\n"
	"  stats              exits of each kind; with --cost N also what they cost, watched for N "
	"seconds\n"
	"  filter             which events may count\n"
	"  filter HOW         from now on: off, allow:LIST or deny:LIST, as filter= in "
	"tallyvisor.cfg\n"
	"  log                the hypervisor's log\n"
	"  trace start        begins to record what the counters do\n"
	"  trace stop         ends it; what was recorded stays\n"
	"  trace save FILE    writes it to FILE, for tools/trace-to-perfetto and "
	"tools/trace-to-svg\n"
	"  probe              what this machine's performance counters and SVM do, tried out, to "
	"be "
	"mailed\n"
	"                     to us; also without Tallyvisor. --force: though somebody uses the "
	"counters\n"
	"\n"
	"  --json             the same for programs\n"
	"  --cpu N            of CPU N, else of CPU 0\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0 done, 1 an error, 2 a mistake in the arguments, 3 not under Tallyvisor.\n"
	"On Linux it needs root and the module msr (modprobe msr).\n";

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

static struct cpuid cpuid(u32 leaf)
{
	struct cpuid r;

	asm volatile("cpuid"
		     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
		     : "a"(leaf), "c"(0));
	return r;
}

static bool equal(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

/* Decimal, up to 9 digits. */
static bool parse_number(const char *text, unsigned int *value)
{
	unsigned int n = 0;

	*value = 0;
	for (; *text >= '0' && *text <= '9' && n < 9; text++, n++)
		*value = *value * 10 + (unsigned int)(*text - '0');
	return n && !*text;
}

static u32 number_of(u64 call)
{
	return (u32)(call - TALLY_CALL_BASE);
}

/* A call that changes nothing, into page[]. */
static bool look(u64 call, u64 *rdx, s64 *result)
{
	if (!os_call(number_of(call), page, sizeof(page), rdx, false, result))
		return false;
	if (*result < 0)
		os_error("the hypervisor refuses call %u (error %ld)", number_of(call), -*result);
	return *result >= 0;
}

static bool get_status(struct tally_status *status)
{
	u64 rdx = 0;
	s64 result;

	if (!look(TALLY_CALL_STATUS, &rdx, &result))
		return false;
	__builtin_memcpy(status, page, sizeof(*status));
	return true;
}

/* ---- commands ---- */

static int command_status(const struct arguments *a)
{
	struct cpuid own = cpuid(TALLY_CPUID_STATUS);
	struct tally_status s;

	if (!get_status(&s))
		return TALLY_EXIT_ERROR;
	out_begin(&out, a->json, os_print);
	out_u64(&out, "abi_version", s.version);
	out_u64(&out, "cpu", a->cpu);
	out_u64(&out, "depth", TALLY_STATUS_DEPTH(own.ecx));
	out_text(&out, "backend", backend_name(s.backend));
	out_text(&out, "lowest_backend", backend_name(TALLY_STATUS_LOWEST_BACKEND(own.ecx)));
	out_bool(&out, "exact", s.exact);
	if (s.exact && s.backend == TALLY_BACKEND_CLOCK) {
		out_u64(&out, "ticks_per_instruction", 1ull << (own.edx & 63));
		out_text(&out, "pmi", own.ecx & TALLY_STATUS_ECX_PMI_EXACT ? "exact" : "next-exit");
	}
	out_text(&out, "svme0", own.ecx & TALLY_STATUS_ECX_SVME0_COUNT ? "count" : "stop");
	out_text(&out, "level", level_name(s.level));
	out_u64(&out, "counters", s.counters);
	out_bool(&out, "perfmon_v2", s.perfmon_v2);
	out_hex(&out, "region_gpa", s.region_gpa);
	out_u64(&out, "region_bytes", s.region_bytes);
	out_u64(&out, "exits", s.exits);
	out_u64(&out, "transitions", s.transitions);
	out_u64(&out, "svme_toggles", s.svme_toggles);
	out_u64(&out, "commits", s.commits);
	out_u64(&out, "selector_writes", s.evtsel_writes);
	out_u64(&out, "selector_writes_elided", s.evtsel_elided);
	out_u64(&out, "shadow_fills", s.shadow_fills);
	out_u64(&out, "shadow_flushes", s.shadow_flushes);
	out_u64(&out, "shadow_pages", s.shadow_pages);
	out_u64(&out, "tlb_flushes", s.tlb_flushes);
	out_u64(&out, "hole_accesses", s.hole_accesses);
	out_bool(&out, "tracing", s.watching & TALLY_WATCH_TRACE);
	out_bool(&out, "measuring_cost", s.watching & TALLY_WATCH_COST);
	out_end(&out);
	return TALLY_EXIT_OK;
}

static void counter_row(const struct tally_status *s, unsigned int i)
{
	u64 eventsel = s->counter[i].eventsel;
	char flags[2 * NAME_BYTES], event[NAME_BYTES];

	event_name(event, eventsel);
	selector_flags(flags, eventsel);
	out_row(&out);
	out_u64(&out, "n", i);
	out_text(&out, "event", eventsel ? event : "");
	out_text(&out, "flags", flags);
	out_hex(&out, "eventsel", eventsel);
	out_hex(&out, "hw", s->counter[i].eventsel_hw);
	out_hex(&out, "hw_svme0", s->eventsel_hw_at[i][TALLY_LEVEL_SVME0]);
	out_hex(&out, "hw_l1", s->eventsel_hw_at[i][TALLY_LEVEL_L1]);
	out_hex(&out, "hw_l2", s->eventsel_hw_at[i][TALLY_LEVEL_L2]);
	out_bool(&out, "on_transition", s->reprogram_pmc_on_nested_transition >> i & 1);
	out_bool(&out, "on_svme", s->reprogram_pmc_on_svme_toggle >> i & 1);
	out_bool(&out, "counting", s->counting >> i & 1);
	out_u64(&out, "value", s->counter[i].value);
	out_row_end(&out);
}

static int command_counters(const struct arguments *a)
{
	struct tally_status s;

	if (!get_status(&s))
		return TALLY_EXIT_ERROR;
	out_begin(&out, a->json, os_print);
	out_text(&out, "backend", backend_name(s.backend));
	out_text(&out, "level", level_name(s.level));
	out_bits(&out, "reprogram_pmc_on_nested_transition", s.reprogram_pmc_on_nested_transition);
	out_bits(&out, "reprogram_pmc_on_svme_toggle", s.reprogram_pmc_on_svme_toggle);
	out_bits(&out, "reprogram_pending", s.reprogram_pending);
	if (s.perfmon_v2) {
		out_hex(&out, "global_ctl", s.global_ctl);
		out_hex(&out, "global_status", s.global_status);
	}
	out_table(&out, "counters");
	for (unsigned int i = 0; i < s.counters && i < TALLY_MAX_COUNTERS; i++)
		counter_row(&s, i);
	out_table_end(&out);
	out_end(&out);
	return TALLY_EXIT_OK;
}

static bool watch(u64 what, u64 *was)
{
	s64 result;

	if (!os_call(number_of(TALLY_CALL_TRACE_CONTROL), NULL, 0, &what, true, &result))
		return false;
	if (result < 0)
		os_error("the hypervisor refuses to watch 0x%lx (error %ld)", what, -result);
	*was = (u64)result;
	return result >= 0;
}

/* Switches TALLY_WATCH_* bits on or off, the others stay. */
static bool watch_bits(u32 set, u32 clear, u32 *was)
{
	struct tally_status s;
	u64 before;

	if (!get_status(&s))
		return false;
	if (was)
		*was = s.watching;
	return watch((s.watching & ~clear) | set, &before);
}

static void exit_row(const struct tally_exit *e, u64 all, bool cost)
{
	char name[NAME_BYTES];

	exit_code_name(name, e->code);
	out_row(&out);
	out_text(&out, "exit", name);
	out_hex(&out, "code", e->code);
	out_u64(&out, "count", e->exits);
	out_u64(&out, "per_mille", all ? e->exits * 1000 / all : 0);
	if (cost) {
		out_u64(&out, "timed", e->timed);
		out_u64(&out, "ticks_mean", e->timed ? e->ticks / e->timed : 0);
		out_u64(&out, "ticks_max", e->ticks_max);
		out_u64(&out, "ticks", e->ticks);
	}
	out_row_end(&out);
}

static bool exit_rows(u64 all, bool cost)
{
	const struct tally_stats *s = (const struct tally_stats *)page;
	u64 rdx = 0;
	s64 result;

	do {
		if (!look(TALLY_CALL_STATS, &rdx, &result))
			return false;
		for (u32 i = 0; i < s->kinds; i++)
			exit_row(&s->exit[i], all, cost);
	} while (rdx && s->kinds);
	return true;
}

static int command_stats(const struct arguments *a)
{
	bool ok, cost = a->seconds;
	struct tally_status s;
	u32 was;

	if (cost) {
		if (!watch_bits(TALLY_WATCH_COST, 0, &was))
			return TALLY_EXIT_ERROR;
		os_sleep(a->seconds);
		if (!(was & TALLY_WATCH_COST) && !watch_bits(0, TALLY_WATCH_COST, NULL))
			return TALLY_EXIT_ERROR;
	}
	if (!get_status(&s))
		return TALLY_EXIT_ERROR;
	out_begin(&out, a->json, os_print);
	out_u64(&out, "exits", s.exits);
	out_u64(&out, "transitions", s.transitions);
	out_u64(&out, "svme_toggles", s.svme_toggles);
	out_u64(&out, "commits", s.commits);
	out_u64(&out, "selector_writes", s.evtsel_writes);
	out_u64(&out, "selector_writes_elided", s.evtsel_elided);
	out_table(&out, "kinds");
	ok = exit_rows(s.exits, cost);
	out_table_end(&out);
	out_end(&out);
	return ok ? TALLY_EXIT_OK : TALLY_EXIT_ERROR;
}

static int show_filter(const struct arguments *a)
{
	static const char *const actions[] = {"off", "allow", "deny"};
	struct tally_filter f;
	s64 result;
	u64 rdx = 0;

	if (!look(TALLY_CALL_FILTER_GET, &rdx, &result))
		return TALLY_EXIT_ERROR;
	__builtin_memcpy(&f, page, sizeof(f));
	out_begin(&out, a->json, os_print);
	out_text(&out, "filter", f.action < ARRAY_SIZE(actions) ? actions[f.action] : "unknown");
	out_table(&out, "list");
	for (u32 i = 0; i < f.count && i < TALLY_FILTER_MAX; i++) {
		out_row(&out);
		out_hex(&out, "event", f.entry[i].event);
		out_hex(&out, "umask", f.entry[i].umask_match);
		out_hex(&out, "umask_mask", f.entry[i].umask_mask);
		out_bool(&out, "excluded", f.entry[i].flags & TALLY_FILTER_EXCLUDE);
		out_row_end(&out);
	}
	out_table_end(&out);
	out_end(&out);
	return TALLY_EXIT_OK;
}

static int command_filter(const struct arguments *a)
{
	struct filter_problem problem;
	struct tally_filter f;
	size_t bytes = 0;
	char word[64];
	u64 rdx = 0;
	s64 result;

	if (!a->count)
		return show_filter(a);
	while (a->words[0][bytes])
		bytes++;
	if (!filter_parse(&f, a->words[0], bytes, &problem)) {
		bytes = problem.bytes < sizeof(word) ? problem.bytes : sizeof(word) - 1;
		__builtin_memcpy(word, problem.word, bytes);
		word[bytes] = '\0';
		os_error("\"%s\" %s", word, problem.text);
		return TALLY_EXIT_USAGE;
	}
	if (!os_call(number_of(TALLY_CALL_FILTER_SET), &f, sizeof(f), &rdx, true, &result))
		return TALLY_EXIT_ERROR;
	if (result < 0) {
		os_error("the hypervisor refuses this filter (error %ld)", -result);
		return TALLY_EXIT_ERROR;
	}
	return show_filter(a);
}

static int command_log(const struct arguments *a)
{
	u64 position = 0, bytes;
	s64 result = 1;

	if (a->json) {
		os_print("{\n  \"log\": [", 12);
		out.print = os_print;
	}
	/* one line per string of the array; lines may go over the end of a page */
	for (bool inside = false, first = true; result > 0;) {
		if (!look(TALLY_CALL_LOG_READ, &position, &result))
			return TALLY_EXIT_ERROR;
		bytes = (u64)result;
		if (!a->json) {
			os_print((const char *)page, bytes);
			continue;
		}
		for (u64 i = 0; i < bytes; i++) {
			if (!inside)
				os_print(first ? "\n    \"" : ",\n    \"", first ? 6 : 7);
			inside = page[i] != '\n';
			first = false;
			if (inside)
				out_json_text(&out, (const char *)page + i, 1);
			else
				os_print("\"", 1);
		}
		if (!bytes && inside)
			os_print("\"", 1);
	}
	if (a->json)
		os_print("\n  ]\n}\n", 7);
	return TALLY_EXIT_OK;
}

/* ---- trace ---- */

static bool save_header(void)
{
	struct tally_trace_file head = {
		.version = TALLY_ABI_VERSION,
		.header_bytes = sizeof(head),
		.record_bytes = sizeof(struct tally_trace_record),
		.backend = cpuid(TALLY_CPUID_STATUS).ebx,
	};

	__builtin_memcpy(head.magic, TALLY_TRACE_MAGIC, sizeof(head.magic));
	return os_file_write(&head, sizeof(head));
}

static bool save_gap(u64 records)
{
	struct tally_trace_record gap = {.kind = TALLY_TRACE_DROPPED, .value = records};

	return !records || os_file_write(&gap, sizeof(gap));
}

static void save_progress(u64 done, u64 all)
{
	char line[64];

	format(line, sizeof(line), "%lu of %lu records", done, all);
	os_progress(line);
}

/* What there is when it begins: with the trace on, reading makes records of its own. */
static bool save_records(u64 *records, u64 *dropped)
{
	const struct tally_trace *t = (const struct tally_trace *)page;
	u64 number = 0, end = ~0ull;
	s64 result;

	*records = *dropped = 0;
	do {
		if (!look(TALLY_CALL_TRACE_READ, &number, &result))
			return false;
		if (end == ~0ull)
			end = t->written;
		if (!save_gap(t->dropped) ||
		    !os_file_write(t->record, t->records * sizeof(t->record[0])))
			return false;
		*dropped += t->dropped;
		*records += t->records;
		if (t->written > 1000)
			save_progress(number, end);
	} while (t->records && number < end);
	os_progress(NULL);
	return true;
}

static int trace_save(const struct arguments *a, const char *path)
{
	u64 records, dropped;
	bool ok;

	if (!os_file_create(path))
		return TALLY_EXIT_ERROR;
	ok = save_header() && save_records(&records, &dropped);
	if (!os_file_close() || !ok)
		return TALLY_EXIT_ERROR;
	out_begin(&out, a->json, os_print);
	out_text(&out, "file", path);
	out_u64(&out, "records", records);
	out_u64(&out, "dropped", dropped);
	out_end(&out);
	return TALLY_EXIT_OK;
}

static int trace_switch(const struct arguments *a, bool on)
{
	u32 was;

	if (!watch_bits(on ? TALLY_WATCH_TRACE : 0, on ? 0 : TALLY_WATCH_TRACE, &was))
		return TALLY_EXIT_ERROR;
	out_begin(&out, a->json, os_print);
	out_bool(&out, "tracing", on);
	out_bool(&out, "was_tracing", was & TALLY_WATCH_TRACE);
	out_end(&out);
	return TALLY_EXIT_OK;
}

static int command_trace(const struct arguments *a)
{
	if (equal(a->words[0], "start"))
		return trace_switch(a, true);
	if (equal(a->words[0], "stop"))
		return trace_switch(a, false);
	return trace_save(a, a->words[1]);
}

static int command_probe(const struct arguments *a)
{
	static struct probe probe;
	const struct probe_machine *machine = os_probe_machine(a->cpu);
	const char *why;

	if (!machine)
		return TALLY_EXIT_ERROR;
	why = probe_measure(&probe, machine, a->force);
	if (why) {
		os_error("%s", why);
		return TALLY_EXIT_ERROR;
	}
	out_begin(&out, a->json, os_print);
	probe_show(&probe, &out);
	out_end(&out);
	return TALLY_EXIT_OK;
}

/* ---- arguments ---- */

static const struct command {
	const char *name, *word; /* the word behind it, if it must have one */
	unsigned int words;	 /* behind the command */
	int (*run)(const struct arguments *a);
	bool anywhere; /* not only under Tallyvisor */
} commands[] = {
	{"status", NULL, 0, command_status, false},  {"counters", NULL, 0, command_counters, false},
	{"stats", NULL, 0, command_stats, false},    {"log", NULL, 0, command_log, false},
	{"filter", NULL, 0, command_filter, false},  {"filter", NULL, 1, command_filter, false},
	{"trace", "start", 1, command_trace, false}, {"trace", "stop", 1, command_trace, false},
	{"trace", "save", 2, command_trace, false},  {"probe", NULL, 0, command_probe, true},
};

static const struct command *find_command(const char *name, const struct arguments *a)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];

		if (equal(c->name, name) && c->words == a->count &&
		    (!c->word || equal(c->word, a->words[0])))
			return c;
	}
	return NULL;
}

static int usage(const char *what, const char *word)
{
	os_error("%s%s%s; see tally --help", what, word ? " " : "", word ? word : "");
	return TALLY_EXIT_USAGE;
}

static void print_text(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	os_print(text, n);
}

static bool under_tallyvisor(void)
{
	struct cpuid hv = cpuid(CPUID_HYPERVISOR);

	return hv.ebx == TALLY_CPUID_EBX && hv.ecx == TALLY_CPUID_ECX && hv.edx == TALLY_CPUID_EDX;
}

static int run(const struct command *command, const struct arguments *a)
{
	u32 version;

	if (command->anywhere)
		return command->run(a);
	if (!under_tallyvisor()) {
		os_error("this machine does not run under Tallyvisor (CPUID 4000_0000 has another "
			 "signature)");
		return TALLY_EXIT_ABSENT;
	}
	version = cpuid(TALLY_CPUID_STATUS).eax;
	if (version < TALLY_ABI_VERSION) {
		os_error("this Tallyvisor has version %u of the interface, and %u is needed: use "
			 "the "
			 "tally of its own build",
			 version, TALLY_ABI_VERSION);
		return TALLY_EXIT_ERROR;
	}
	if (!os_connect(a->cpu))
		return TALLY_EXIT_ERROR;
	return command->run(a);
}

int tally_main(unsigned int argc, const char *const *argv)
{
	static const char *words[8];
	struct arguments a = {.words = words};
	const struct command *command;
	const char *name = NULL;

	for (unsigned int i = 1; i < argc; i++) {
		const char *word = argv[i];

		if (equal(word, "--help") || equal(word, "-h")) {
			print_text(help);
			return TALLY_EXIT_OK;
		}
		if (equal(word, "--version")) {
			print_text("tally " TALLY_VERSION "\n");
			return TALLY_EXIT_OK;
		}
		if (equal(word, "--json")) {
			a.json = true;
		} else if (equal(word, "--force")) {
			a.force = true;
		} else if (equal(word, "--cpu") || equal(word, "--cost")) {
			unsigned int *value = equal(word, "--cpu") ? &a.cpu : &a.seconds;

			if (++i == argc || !parse_number(argv[i], value) ||
			    (value == &a.seconds && !*value))
				return usage("a number must follow", word);
		} else if (word[0] == '-') {
			return usage("there is no option", word);
		} else if (!name) {
			name = word;
		} else if (a.count < ARRAY_SIZE(words)) {
			words[a.count++] = word;
		}
	}
	if (!name)
		return usage("a command is missing", NULL);
	command = find_command(name, &a);
	if (!command)
		return usage("there is no such command, or not with these arguments:", name);
	if (a.seconds && command->run != command_stats)
		return usage("--cost is for", "stats");
	if (a.force && command->run != command_probe)
		return usage("--force is for", "probe");
	return run(command, &a);
}

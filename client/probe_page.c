/* SPDX-License-Identifier: MIT */
/* What a probe has found: one page for a person, or the same as JSON. */
#include "client/probe.h"
#include "hv/core/format.h"
#include "x86/pmu.h"

static const char *const bits_name[PROBE_BITS] = {"none", "GuestOnly", "HostOnly", "both"};
static const char not_measured[] = "not measured";

/* A field that has a reason instead of a value says so in its place. */
static void show_why(struct out *o, const char *name, const char *why)
{
	char text[128];

	format(text, sizeof(text), "not measured: %s", why);
	out_text(o, name, text);
}

static void show_u64(struct out *o, const char *name, const struct probe_value *v)
{
	if (v->why)
		show_why(o, name, v->why);
	else
		out_u64(o, name, v->value);
}

static void show_hex(struct out *o, const char *name, const struct probe_value *v)
{
	if (v->why)
		show_why(o, name, v->why);
	else
		out_hex(o, name, v->value);
}

static void show_bool(struct out *o, const char *name, const struct probe_value *v)
{
	if (v->why)
		show_why(o, name, v->why);
	else
		out_bool(o, name, v->value);
}

/* In a table the reasons are in the row's last field. */
static void cell_u64(struct out *o, const char *name, const char *why, u64 value)
{
	if (why)
		out_text(o, name, not_measured);
	else
		out_u64(o, name, value);
}

static void cell_bool(struct out *o, const char *name, const char *why, bool value)
{
	if (why)
		out_text(o, name, not_measured);
	else
		out_bool(o, name, value);
}

static const char *cell_text(enum probe_cell cell)
{
	static const char *const text[] = {
		[PROBE_CELL_UNKNOWN] = not_measured,
		[PROBE_CELL_NO] = "no",
		[PROBE_CELL_PART] = "in part",
		[PROBE_CELL_YES] = "yes",
	};

	return text[cell];
}

static void show_machine(const struct probe *p, struct out *o)
{
	out_text(o, "tally", TALLY_VERSION);
	out_text(o, "system", p->system);
	out_text(o, "cpu", p->cpu);
	out_text(o, "vendor", p->vendor);
	out_u64(o, "family", p->family);
	out_u64(o, "model", p->model);
	out_u64(o, "stepping", p->stepping);
	show_hex(o, "microcode", &p->microcode);
	out_text(o, "hypervisor", p->hypervisor);
	out_u64(o, "svm_revision", p->svm_revision);
	out_u64(o, "svm_asids", p->asids);
	out_hex(o, "svm_features", p->svm_features);
	out_bool(o, "perfctr_core", p->perfctr_core);
	out_bool(o, "perfmon_v2", p->perfmon_v2);
	out_u64(o, "cpuid_counters", p->cpuid_counters);
}

/* Bits that are not as in the manual: lost, and kept though reserved. */
static void show_selector(const struct probe *p, struct out *o)
{
	struct probe_value lost = p->selector_bits, reserved = p->selector_bits;

	lost.value = EVTSEL_WRITABLE & ~lost.value;
	reserved.value &= ~EVTSEL_WRITABLE;
	if (!reserved.why)
		reserved.why = p->selector_reserved_why;
	show_hex(o, "selector_bits", &p->selector_bits);
	show_hex(o, "selector_bits_2", &p->selector_bits_2);
	show_hex(o, "selector_lost", &lost);
	show_hex(o, "selector_reserved", &reserved);
}

static void show_pmu(const struct probe *p, struct out *o)
{
	if (p->no_pmu)
		show_why(o, "pmu", p->no_pmu);
	else
		out_text(o, "pmu", "counts instructions");
	out_hex(o, "selector_msr", p->selector_base);
	show_u64(o, "counters", &p->counters);
	show_selector(p, o);
	show_u64(o, "counter_bits", &p->counter_bits);
	show_hex(o, "global_ctl_bits", &p->global_ctl_bits);
	show_bool(o, "global_ctl_stops", &p->global_ctl_stops);
	show_bool(o, "status_set", &p->status_sets);
	show_bool(o, "status_clear", &p->status_clears);
	if (p->no_pmu)
		show_why(o, "host_guest", p->no_pmu);
	else
		out_text(o, "host_guest", probe_verdict(p));
}

/* Why not, or that it was not the same each time. */
static void show_note(struct out *o, const struct probe *p, const struct probe_count *c, u32 count)
{
	char text[64];
	const char *note = "";

	for (u32 i = count; i--;) {
		if (c[i].why) {
			note = c[i].why;
		} else if (p->exact && c[i].most != c[i].least && !*note) {
			format(text, sizeof(text), "varies, up to %lu", c[i].most);
			note = text;
		}
	}
	out_text(o, "note", note);
}

static void show_table(const struct probe *p, struct out *o)
{
	static const char *const mode_name[PROBE_MODES] = {"svme0", "host", "guest"};
	static const char *const count_name[PROBE_MODES] = {"n_svme0", "n_host", "n_guest"};

	out_table(o, "table");
	for (u32 bits = 0; bits < PROBE_BITS; bits++) {
		const struct probe_count *row = p->table[bits];

		out_row(o);
		out_text(o, "bits", bits_name[bits]);
		for (u32 mode = 0; mode < PROBE_MODES; mode++)
			out_text(o, mode_name[mode], cell_text(probe_cell(&row[mode], p->nops)));
		for (u32 mode = 0; mode < PROBE_MODES; mode++)
			cell_u64(o, count_name[mode], row[mode].why, row[mode].least);
		out_u64(o, "of", p->nops);
		show_note(o, p, row, PROBE_MODES);
		out_row_end(o);
	}
	out_table_end(o);
}

static void show_event(const struct probe *p, struct out *o, u32 event, const char *name)
{
	const struct probe_count *control = &p->event[event].control;

	out_row(o);
	out_text(o, "vmrun_adds", name);
	for (u32 bits = 0; bits < PROBE_BITS; bits++)
		cell_u64(o, bits_name[bits], p->event[event].vmruns[bits].why,
			 p->event[event].vmruns[bits].least);
	out_u64(o, "vmruns", p->vmruns);
	cell_u64(o, "control", control->why, control->least);
	out_u64(o, "of", p->event[event].control_of);
	show_note(o, p, p->event[event].vmruns, PROBE_BITS);
	out_row_end(o);
}

static void show_events(const struct probe *p, struct out *o)
{
	static const char *const name[PROBE_EVENTS] = {"instructions", "branches", "far transfers"};

	out_table(o, "vmrun");
	for (u32 e = 0; e < PROBE_EVENTS; e++)
		show_event(p, o, e, name[e]);
	out_table_end(o);
}

static void show_overflows(const struct probe *p, struct out *o)
{
	static const char *const name[PROBE_SIGNALS] = {"INT=0", "INT=1", "INT=1, NMI"};

	out_table(o, "overflow");
	for (u32 s = 0; s < PROBE_SIGNALS; s++) {
		const char *why = p->overflow[s].why;
		const struct probe_interrupts *i = &p->overflow[s].interrupts;
		const char *no_count = why ? why : i->why;
		const char *no_skid = no_count ? no_count : i->skid_why;
		const char *no_status = why ? why : p->overflow[s].status.why;

		out_row(o);
		out_text(o, "overflow", name[s]);
		cell_bool(o, "wraps", why, p->overflow[s].after < p->overflow[s].start);
		cell_bool(o, "status", no_status, p->overflow[s].status.value);
		cell_u64(o, "interrupts", no_count, i->count);
		cell_bool(o, "lvtpc_masked", no_count, i->lvtpc_masked);
		cell_u64(o, "skid", no_skid, i->skid);
		out_text(o, "note", no_skid ? no_skid : no_status ? no_status : "");
		out_row_end(o);
	}
	out_table_end(o);
}

static void show_costs(const struct probe *p, struct out *o)
{
	static const char *const name[PROBE_COST_KINDS] = {
#define X(name, text) text,
		PROBE_COSTS(X)
#undef X
	};

	out_table(o, "costs");
	for (u32 c = 0; c < PROBE_COST_KINDS; c++) {
		out_row(o);
		out_text(o, "cost", name[c]);
		cell_u64(o, "ticks_least", p->cost[c].why, p->cost[c].least);
		cell_u64(o, "ticks_median", p->cost[c].why, p->cost[c].median);
		out_text(o, "note", p->cost[c].why ? p->cost[c].why : "");
		out_row_end(o);
	}
	out_table_end(o);
}

void probe_show(const struct probe *p, struct out *o)
{
	show_machine(p, o);
	show_pmu(p, o);
	out_text(o, "ticks_are", p->costs_are);
	show_table(p, o);
	show_events(p, o);
	show_overflows(p, o);
	show_costs(p, o);
}

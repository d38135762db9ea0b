/* SPDX-License-Identifier: MIT */
/* The calls of include/abi/hypercall.h, by VMMCALL and by MSR. A call sees a buffer that is checked already. */
#include "hv/apic.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "pmu/filter.h"

struct call {
	/* Writes at most `bytes` to `buffer`. Returns RAX, and changes *rdx. */
	s64 (*handle)(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx);
	u64 default_bytes; /* for RCX = 0 */
	u64 least_bytes;
	bool no_buffer;
	bool unaligned; /* buffers need no alignment */
	bool changes;	/* something: not by RDMSR */
};

static s64 call_status(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	struct tally_status status = {
		.version = TALLY_ABI_VERSION,
		.backend = v->backend,
		.exact = vcpu_counts_exactly(v),
		.counters = v->backend == TALLY_BACKEND_OFF ? 0 : pmu_counters(&v->pmu),
		.reprogram_pmc_on_nested_transition = v->pmu.reprogram_pmc_on_nested_transition,
		.evtsel_writes = v->pmu.evtsel_writes,
		.transitions = v->transitions,
		.svme_toggles = v->svme_toggles,
		.exits = v->exits,
		.shadow_fills = v->shadow.fills,
		.shadow_flushes = v->shadow.flushes,
		.tlb_flushes = v->tlb_flushes,
		.shadow_pages = v->shadow.pool.used,
		.hole_accesses = v->hole_accesses,
		.region_gpa = v->holes->range[0].start,
		.region_bytes = v->holes->range[0].end - v->holes->range[0].start,
		.bytes = sizeof(status),
		.level = v->pmu.mode,
		.perfmon_v2 = v->pmu.has_v2,
		.watching = v->watching,
		.reprogram_pmc_on_svme_toggle = v->pmu.reprogram_pmc_on_svme_toggle,
		.reprogram_pending = v->pmu.reprogram_pending,
		.counting = vcpu_counting(v),
		.global_ctl = v->pmu.global_ctl,
		.commits = v->pmu.commits,
		.evtsel_elided = v->pmu.evtsel_elided,
	};

	(void)rdx;
	if (v->pmu.has_v2)
		pmu_rdmsr(&v->pmu, MSR_PERF_GLOBAL_STATUS, &status.global_status);
	for (unsigned int i = 0; i < status.counters; i++) {
		status.counter[i].eventsel = v->pmu.eventsel[i];
		status.counter[i].eventsel_hw = pmu_machine_evtsel(&v->pmu, i);
		pmu_rdpmc(&v->pmu, i, &status.counter[i].value);
		for (enum pmu_mode mode = 0; mode < PMU_MODES; mode++)
			status.eventsel_hw_at[i][mode] = pmu_machine_evtsel_in(&v->pmu, i, mode);
	}
	__builtin_memcpy(buffer, &status, bytes < sizeof(status) ? bytes : sizeof(status));
	return 0;
}

static s64 call_log_read(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	(void)v;
	return (s64)log_read(rdx, buffer, bytes);
}

/* The codes at the top are negative numbers. */
static u64 code_of_slot(u64 slot)
{
	return slot < EXIT_SLOTS - 16 ? slot : slot - EXIT_SLOTS;
}

static s64 call_stats(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	struct tally_stats head = {.version = TALLY_ABI_VERSION,
				   .header_bytes = sizeof(head),
				   .kind_bytes = sizeof(struct tally_exit),
				   .watching = v->watching,
				   .tsc = cpu_rdtsc()};
	struct tally_exit *to;
	u64 room, slot;

	if (bytes < sizeof(head))
		return -E_RANGE;
	to = ((struct tally_stats *)buffer)->exit;
	room = (bytes - sizeof(head)) / sizeof(*to);
	for (slot = exit_slot(*rdx); slot < EXIT_SLOTS; slot++) {
		const struct exit_cost *cost = &v->exit_costs[slot];

		if (!v->exit_counts[slot])
			continue;
		if (head.kinds == room)
			break;
		to[head.kinds++] = (struct tally_exit){code_of_slot(slot), v->exit_counts[slot],
						       cost->timed, cost->ticks, cost->ticks_max};
	}
	*rdx = slot < EXIT_SLOTS ? code_of_slot(slot) : 0;
	__builtin_memcpy(buffer, &head, sizeof(head));
	return (s64)(sizeof(head) + head.kinds * sizeof(*to));
}

static s64 call_filter_set(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	struct tally_filter filter;
	int error;

	(void)bytes;
	(void)rdx;
	__builtin_memcpy(&filter, buffer, sizeof(filter));
	asm volatile(""
		     :
		     :
		     : "memory"); /* L1's may change; the copy is what is checked and taken */
	error = pmu_filter_check(&filter);
	if (error)
		return error;
	backend_set_filter(v, &filter);
	log_guest("event=filter action=%u entries=%u", filter.action, filter.count);
	return 0;
}

static s64 call_filter_get(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	(void)bytes;
	(void)rdx;
	__builtin_memcpy(buffer, &v->pmu.filter, sizeof(v->pmu.filter));
	return 0;
}

static s64 call_trace_control(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	(void)buffer;
	(void)bytes;
	return trace_watch(v, *rdx);
}

static s64 call_trace_read(struct vcpu *v, void *buffer, u64 bytes, u64 *rdx)
{
	size_t used = trace_ring_read(&v->trace.ring, rdx, buffer, bytes);

	return used ? (s64)used : -E_RANGE;
}

#define CALL(name) [TALLY_CALL_##name - TALLY_CALL_BASE]

static const struct call calls[TALLY_CALLS] = {
	CALL(STATUS) = {.handle = call_status, .default_bytes = TALLY_STATUS_BYTES_V1},
	CALL(LOG_READ) = {.handle = call_log_read, .unaligned = true},
	CALL(STATS) = {.handle = call_stats},
	CALL(FILTER_SET) = {.handle = call_filter_set,
			    .least_bytes = sizeof(struct tally_filter),
			    .changes = true},
	CALL(FILTER_GET) = {.handle = call_filter_get, .least_bytes = sizeof(struct tally_filter)},
	CALL(TRACE_CONTROL) = {.handle = call_trace_control, .no_buffer = true, .changes = true},
	CALL(TRACE_READ) = {.handle = call_trace_read},
};

/* NULL: there is no such call. */
static const struct call *find_call(u64 number)
{
	return number < ARRAY_SIZE(calls) && calls[number].handle ? &calls[number] : NULL;
}

/* A buffer that a guest named: inside one page, not ours, and not the APIC's page, where L0 could be made to write an INIT. */
static bool buffer_ok(struct vcpu *v, const struct call *call, u64 gpa, u64 bytes)
{
	return bytes && bytes >= call->least_bytes && bytes <= PAGE_SIZE &&
	       !vcpu_no_memory(v, gpa) && gpa % PAGE_SIZE + bytes <= PAGE_SIZE &&
	       (call->unaligned || !(gpa % 8)) && !apic_traps(v, gpa) &&
	       !vcpu_names_hole(v, gpa, bytes, "hypercall-buffer");
}

u32 exit_vmmcall(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;
	const struct call *call = find_call(s->rax - TALLY_CALL_BASE);
	u64 gpa = v->gpr[GPR_RBX], bytes = v->gpr[GPR_RCX];

	if (vcpu_in_l2(v) || s->cpl || !call)
		return INJECT_UD;
	if (!bytes)
		bytes = call->default_bytes;
	if (call->no_buffer || buffer_ok(v, call, gpa, bytes))
		s->rax = (u64)call->handle(v, guest_at(&v->mem, gpa), bytes, &v->gpr[GPR_RDX]);
	else
		s->rax = (u64)-E_RANGE;
	return ADVANCE;
}

/* ---- by MSR ---- */

bool hypercall_is_msr(u32 msr)
{
	return msr - TALLY_MSR_VERSION < TALLY_MSR_CALL(TALLY_CALLS) - TALLY_MSR_VERSION;
}

static void window_call(struct vcpu *v, const struct call *call)
{
	struct call_window *w = &v->window;

	w->position = 0;
	w->result = (u64)call->handle(v, w->buffer, sizeof(w->buffer), &w->rdx);
}

static void window_reset(struct call_window *w)
{
	w->position = 0;
	w->rdx = 0;
	w->result = 0;
}

/* Where DATA is now, and then behind it. */
static u64 *window_next(struct call_window *w)
{
	u64 *data = &w->buffer[w->position];

	w->position = (w->position + 1) % ARRAY_SIZE(w->buffer);
	return data;
}

/* L2 has none of it. CPL was checked by the CPU. */
u32 hypercall_rdmsr(struct vcpu *v, u32 msr, u64 *value)
{
	const struct call *call = find_call(msr - TALLY_MSR_CALL(0));
	struct call_window *w = &v->window;

	if (vcpu_in_l2(v))
		return INJECT_GP;
	if (call && !call->changes) {
		window_call(v, call);
		*value = w->result;
		return ADVANCE;
	}
	switch (msr) {
	case TALLY_MSR_VERSION:
		window_reset(w);
		*value = TALLY_ABI_VERSION;
		return ADVANCE;
	case TALLY_MSR_DATA:
		*value = *window_next(w);
		return ADVANCE;
	case TALLY_MSR_RESULT:
		*value = w->result;
		return ADVANCE;
	case TALLY_MSR_RDX:
		*value = w->rdx;
		return ADVANCE;
	default:
		return INJECT_GP;
	}
}

u32 hypercall_wrmsr(struct vcpu *v, u32 msr, u64 value)
{
	const struct call *call = find_call(msr - TALLY_MSR_CALL(0));
	struct call_window *w = &v->window;

	if (vcpu_in_l2(v))
		return INJECT_GP;
	if (call) {
		w->rdx = value;
		window_call(v, call);
		return ADVANCE;
	}
	switch (msr) {
	case TALLY_MSR_VERSION:
		window_reset(w);
		return ADVANCE;
	case TALLY_MSR_DATA:
		*window_next(w) = value;
		return ADVANCE;
	case TALLY_MSR_RDX:
		w->rdx = value;
		return ADVANCE;
	default:
		return INJECT_GP;
	}
}

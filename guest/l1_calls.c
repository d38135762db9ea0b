/* SPDX-License-Identifier: MIT */
/*
 * Random hypercalls on all CPUs at once: any number, any buffer, all registers. Nothing changes but RAX, RDX and the buffer;
 * what is refused changes nothing at all.
 */
#include "abi/handoff.h"
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/tap.h"
#include "guest/lib/trap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

#define CALLS 1500u
#define PATTERN 0x5a5a0000a5a50000ull
#define WORDS (3 * PAGE_SIZE / 8)

const bool guest_wants_cpus = true;

/* RAX to R15 in the order of their encoding, without RSP. */
enum { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, REGISTERS = 15 };

static struct caller {
	u64 memory[WORDS]; /* the middle one of three pages is where buffers begin */
	u64 before[REGISTERS], after[REGISTERS];
	u64 random;
	u64 wrong, first_wrong, at_call;
	u32 known, refused, undefined;
	volatile bool ud;
} callers[MP_CPUS] ALIGNED(4096);

static struct tally_status status ALIGNED(512);
static const struct tally_filter all_events ALIGNED(1024) = {.version = TALLY_FILTER_VERSION,
							     .action = TALLY_FILTER_OFF};
static u64 beyond; /* the first address that does not exist */

/* All registers from before[], VMMCALL, all into after[]. */
void calls_vmmcall(const u64 *before, u64 *after);
asm(".pushsection .text\n.balign 16\n.globl calls_vmmcall\ncalls_vmmcall:\n\t"
    "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\tpush %rsi\n\t"
    "mov %rdi, %rax\n\t"
    "mov 8(%rax), %rcx\n\tmov 16(%rax), %rdx\n\tmov 24(%rax), %rbx\n\tmov 32(%rax), %rbp\n\t"
    "mov 40(%rax), %rsi\n\tmov 48(%rax), %rdi\n\tmov 56(%rax), %r8\n\tmov 64(%rax), %r9\n\t"
    "mov 72(%rax), %r10\n\tmov 80(%rax), %r11\n\tmov 88(%rax), %r12\n\tmov 96(%rax), %r13\n\t"
    "mov 104(%rax), %r14\n\tmov 112(%rax), %r15\n\tmov (%rax), %rax\n\t"
    "vmmcall\n\t"
    "xchg %rax, (%rsp)\n\t"
    "mov %rcx, 8(%rax)\n\tmov %rdx, 16(%rax)\n\tmov %rbx, 24(%rax)\n\tmov %rbp, 32(%rax)\n\t"
    "mov %rsi, 40(%rax)\n\tmov %rdi, 48(%rax)\n\tmov %r8, 56(%rax)\n\tmov %r9, 64(%rax)\n\t"
    "mov %r10, 72(%rax)\n\tmov %r11, 80(%rax)\n\tmov %r12, 88(%rax)\n\tmov %r13, 96(%rax)\n\t"
    "mov %r14, 104(%rax)\n\tmov %r15, 112(%rax)\n\tpop %rcx\n\tmov %rcx, (%rax)\n\t"
    "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n.popsection");

static void on_ud(struct trap_frame *frame)
{
	callers[smp_this()].ud = true;
	frame->rip += 3;
}

static u64 next_random(struct caller *c)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return c->random;
}

static u64 below(struct caller *c, u64 n)
{
	return (next_random(c) >> 8) % n;
}

static void wrong_with(struct caller *c, bool right, u64 what)
{
	if (right)
		return;
	if (!c->wrong++) {
		c->first_wrong = what;
		c->at_call = c->before[RAX];
	}
}

static u64 random_number(struct caller *c)
{
	switch (below(c, 8)) {
	case 0:
		return next_random(c);
	case 1:
		return TALLY_CALL_BASE - 1 - below(c, 3);
	case 2:
		return (TALLY_CALL_BASE + below(c, TALLY_CALLS)) | next_random(c) << 32;
	default:
		return TALLY_CALL_BASE +
		       (below(c, 4) ? 1 + below(c, 7) : below(c, TALLY_CALLS + 2));
	}
}

/* Never memory that is somebody else's: it would be written. */
static u64 random_buffer(struct caller *c)
{
	u64 page = (u64)c->memory + PAGE_SIZE;

	switch (below(c, 20)) {
	case 0:
		return status.region_gpa + below(c, status.region_bytes);
	case 1:
		return status.region_gpa - below(c, 64) - 1 + 8 * PAGE_SIZE;
	case 2:
		return beyond + below(c, PAGE_SIZE);
	case 3:
		return next_random(c) | 1ull << 63;
	case 4:
		return ~0ull - below(c, 64);
	case 5:
		return page + PAGE_SIZE -
		       below(c, 64); /* crosses into the next one, if it is too long */
	case 6:
		return page + below(c, PAGE_SIZE);
	case 7:
		return apic_x2() ? beyond : (u64)apic_register(0) + (below(c, PAGE_SIZE) & ~7ull);
	default:
		return page + (below(c, PAGE_SIZE) & ~7ull);
	}
}

static u64 random_length(struct caller *c)
{
	static const u64 lengths[] = {
		0, 1, 7, 8, 63, 64, 304, 512, 1024, PAGE_SIZE, PAGE_SIZE + 1, 1ull << 32, ~0ull};

	return below(c, 4) ? lengths[below(c, ARRAY_SIZE(lengths))] : below(c, PAGE_SIZE);
}

/* Words of the three pages that the buffer is not in, or that no call may have touched. */
static void check_memory(struct caller *c, u64 start, u64 bytes, bool refused)
{
	for (u64 i = 0; i < WORDS; i++) {
		u64 at = (u64)&c->memory[i], value = c->memory[i];

		if (value == PATTERN + i)
			continue;
		wrong_with(c, !refused && at + 8 > start && at < start + bytes,
			   at - (u64)c->memory);
		/* no address of the hypervisor's own in what it tells */
		wrong_with(c, value < CORE_VA || value - CORE_VA >= status.region_bytes, value);
		c->memory[i] = PATTERN + i;
	}
}

static void call_at_random(void *arg)
{
	struct caller *c = &callers[smp_this()];

	(void)arg;
	for (u32 n = 0; n < CALLS; n++) {
		u64 bytes;

		for (u32 r = 0; r < REGISTERS; r++)
			c->before[r] = next_random(c);
		c->before[RAX] = random_number(c);
		c->before[RBX] = random_buffer(c);
		c->before[RCX] = random_length(c);
		if (below(c, 2))
			c->before[RDX] = below(c, 2000);
		c->ud = false;
		calls_vmmcall(c->before, c->after);
		for (u32 r = 0; r < REGISTERS; r++)
			if (r != RAX && (r != RDX || c->ud))
				wrong_with(c, c->after[r] == c->before[r], r);
		if (c->ud) {
			wrong_with(c, c->after[RAX] == c->before[RAX], RAX);
			c->undefined++;
		} else if ((s64)c->after[RAX] < 0) {
			c->refused++;
		} else {
			c->known++;
		}
		wrong_with(c, c->ud || (c->before[RAX] - TALLY_CALL_BASE) < TALLY_CALLS,
			   c->before[RAX]);
		bytes = c->before[RCX] ? c->before[RCX] : TALLY_STATUS_BYTES_V1;
		check_memory(c, c->before[RBX], bytes, c->ud || (s64)c->after[RAX] < 0);
	}
}

static void look_at_region(void *arg)
{
	const volatile u64 *region = (const volatile u64 *)status.region_gpa;
	struct caller *c = &callers[smp_this()];

	(void)arg;
	for (u64 at = 0; at < status.region_bytes / 8; at += 0x1237)
		wrong_with(c, region[at] == ~0ull, region[at]);
}

static void check_random(const void *arg)
{
	u32 known = 0, refused = 0, undefined = 0;

	(void)arg;
	trap_hook(VEC_UD, on_ud);
	smp_run_all(call_at_random, NULL);
	trap_hook(VEC_UD, NULL);
	smp_run_all(look_at_region, NULL);
	for (u32 i = 0; i < smp_cpus(); i++) {
		if (!CHECK_EQ(callers[i].wrong, 0))
			note("CPU %u: first %lx at call %lx", i, callers[i].first_wrong,
			     callers[i].at_call);
		CHECK(!i || smp_beats(i));
		known += callers[i].known;
		refused += callers[i].refused;
		undefined += callers[i].undefined;
	}
	note("%u done, %u refused, %u undefined", known, refused, undefined);
	CHECK(known > CALLS / 10 && refused > CALLS / 10 && undefined > CALLS / 10);
}

static void watch_nothing(void *arg)
{
	struct caller *c = &callers[smp_this()];

	(void)arg;
	hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, 0);
	wrong_with(c, !hypercall(TALLY_CALL_TRACE_CONTROL, 0, 0, 0), 0);
	wrong_with(c, !hypercall(TALLY_CALL_STATUS, (u64)&c->memory[PAGE_SIZE / 8], 0, 0), 1);
}

static void check_afterwards(const void *arg)
{
	(void)arg;
	CHECK_EQ((u64)hypercall(TALLY_CALL_FILTER_SET, (u64)&all_events, sizeof(all_events), 0), 0);
	smp_run_all(watch_nothing, NULL);
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(callers[i].wrong, 0);
}

void guest_main(void)
{
	tap_plan(2);
	if (!smp_begin_on_us(&status))
		return;
	beyond = BIT(cpuid(CPUID_ADDR_SIZES).eax & 0xff);
	for (u32 i = 0; i < smp_cpus(); i++) {
		callers[i].random = 88172645463325252ull + i;
		for (u64 w = 0; w < WORDS; w++)
			callers[i].memory[w] = PATTERN + w;
	}
	tap_run("random calls on all CPUs", check_random, NULL);
	tap_run("calls work afterwards", check_afterwards, NULL);
	smp_end();
}

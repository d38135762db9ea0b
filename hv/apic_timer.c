/* SPDX-License-Identifier: MIT */
/*
 * The guest's APIC timer, borrowed so that an overflow interrupt of the backend `clock` comes at its instruction: the timer
 * ends VMRUN there, with a vector that L0 takes for itself. Under QEMU's -icount it counts what the TSC counts, and
 * interrupts between two instructions; whether it does is tried at boot.
 *
 * While it is borrowed the guest's own timer is kept here: when it is due, L0 raises its interrupt. An access of the guest
 * to the APIC exits, finds its own timer there, and then the timer is borrowed again. docs/pmu.md, "Overflow".
 */
#include "hv/apic.h"
#include "hv/core/timer.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "x86/cr.h"

/* By convention the spurious vector: nobody's interrupt, and of all vectors the first that an APIC gives. */
#define VECTOR 0xffu
#define CLASS_F 0xfu

/* Bits of the APIC's last IRR or ISR register */
#define BANK(first) ((first) + 0x70u)
#define BANK_VECTOR BIT(VECTOR % 32)
#define BANK_CLASS_F BITS(31, 16)

static u64 apic_base(void)
{
	return cpu_rdmsr(MSR_APIC_BASE);
}

static bool pending(const struct vcpu *v, u64 base)
{
	return apic_read(v, base, BANK(APIC_IRR)) & BANK_VECTOR;
}

/* Our interrupt out of the APIC, which TPR, an NMI and the PIC must not keep there. */
static void take(struct vcpu *v, u64 base)
{
	u32 lint0 = apic_read(v, base, APIC_LVT_LINT0);
	u64 tpr = cpu_read_cr8();

	if (!(lint0 & APIC_LVT_MASKED))
		apic_write(v, base, APIC_LVT_LINT0, lint0 | (u32)APIC_LVT_MASKED);
	if (tpr == CLASS_F)
		cpu_write_cr8(0);
	for (unsigned int i = 0; i < 4 && pending(v, base); i++)
		if (events_take(v, true) == VECTOR)
			apic_write(v, base, APIC_EOI, 0);
	if (tpr == CLASS_F)
		cpu_write_cr8(tpr);
	if (!(lint0 & APIC_LVT_MASKED))
		apic_write(v, base, APIC_LVT_LINT0, lint0);
}

void apic_timer_exit(struct vcpu *v)
{
	struct apic_timer *t = &v->apic_timer;
	u64 base;

	if (!t->armed)
		return;
	t->armed = false;
	v->on_entry = vmrun_enter;
	base = apic_base();
	apic_write(v, base, APIC_TIMER_COUNT, 0);
	t->fired = pending(v, base);
	if (t->fired)
		take(v, base);
}

/* It also fires while L0 runs, after an exit for something else. If another interrupt is there, too, that exits next. */
bool apic_timer_own_exit(const struct vcpu *v)
{
	return v->apic_timer.fired && v->vmcb->control.exit_code == VMEXIT_INTR &&
	       v->clock.now >= v->apic_timer.until;
}

static void arm(struct vcpu *v, u64 base)
{
	struct apic_timer *t = &v->apic_timer;

	t->count_at = apic_register(v, base, APIC_TIMER_COUNT);
	t->armed = true;
	v->on_entry = vmrun_enter_armed;
}

/* The guest's timer is due: edge-triggered and fixed, as an IPI is. */
static void raise(struct vcpu *v, u64 base)
{
	struct apic_timer *t = &v->apic_timer;

	t->due = 0;
	if (!(t->lvt & APIC_LVT_MASKED))
		apic_send_to_self(v, base, t->lvt & APIC_VECTOR);
}

/* A timer that shows 0 has interrupted, or does so within one more unit of its count: that unit passes first. */
static void let_finish(const struct vcpu *v, u64 base, u32 divide)
{
	u64 from = cpu_rdtsc();

	while (cpu_rdtsc() - from < 2ull << timer_shift(divide))
		apic_read(v, base, APIC_TIMER_CURRENT);
}

/* False: a timer that could not be given back as it was, or that interrupts right now. */
static bool borrow(struct vcpu *v, u64 base)
{
	struct apic_timer *t = &v->apic_timer;
	u32 current;
	u64 now, due, slack;

	t->lvt = apic_read(v, base, APIC_LVT_TIMER);
	if ((t->lvt & (APIC_DELIVERY | APIC_LVT_TSC_DEADLINE)) ||
	    ((t->lvt & APIC_LVT_PERIODIC) && !(t->lvt & APIC_LVT_MASKED)))
		return false;
	t->count = apic_read(v, base, APIC_TIMER_COUNT);
	t->divide = apic_read(v, base, APIC_TIMER_DIVIDE);
	slack = (1ull << timer_shift(t->divide)) + 48 * v->clock.insn_ticks;
	now = cpu_rdtsc();
	current = apic_read(v, base, APIC_TIMER_CURRENT);
	if (t->lvt & APIC_LVT_PERIODIC)
		current = 0; /* runs on when it is given back, at whatever phase */
	else if (current && current << timer_shift(t->divide) < 100 * v->clock.insn_ticks)
		return false;
	else if (!current && t->count && !(t->lvt & APIC_LVT_MASKED))
		let_finish(v, base, t->divide);
	apic_write(v, base, APIC_TIMER_COUNT, 0);
	due = timer_due(now, current, t->divide);
	/* as given back, and not set anew: then nothing is lost by reading it */
	if (t->count != t->given || due - t->due + slack > 2 * slack)
		t->due = due;
	apic_write(v, base, APIC_LVT_TIMER, VECTOR);
	apic_write(v, base, APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	t->borrowed = true;
	return true;
}

void apic_timer_give_back(struct vcpu *v)
{
	struct apic_timer *t = &v->apic_timer;
	u64 base, now;

	if (!t->borrowed)
		return;
	apic_timer_exit(v);
	t->borrowed = false;
	base = apic_base();
	apic_write(v, base, APIC_TIMER_DIVIDE, t->divide);
	apic_write(v, base, APIC_LVT_TIMER, t->lvt);
	now = cpu_rdtsc();
	if (t->due > now) {
		t->given = timer_count(now, t->due, t->divide);
		apic_write(v, base, APIC_TIMER_COUNT, t->given);
	} else if (t->due)
		raise(v, base);
	else if (t->lvt & APIC_LVT_PERIODIC)
		apic_write(v, base, APIC_TIMER_COUNT, t->count);
}

static void set_trap(struct vcpu *v, bool on)
{
	u64 *leaf = v->apic.leaf;

	if (v->apic_timer.trapped == on)
		return;
	v->apic_timer.trapped = on;
	if (!on) {
		*leaf |= PTE_P;
		return;
	}
	*leaf &= ~PTE_P;
	v->vmcb->control.tlb_control =
		TLB_CONTROL_FLUSH_ALL; /* L1's ASID, and L2's without nested paging */
	v->tlb_flushes++;
	vcpu_set_special(v, SPECIAL_ENTRY);
}

/*
 * Not in x2APIC mode: there QEMU gives up at an RDMSR or WRMSR that needs its instruction clock, which is the timer's count.
 */
static bool usable_mode(u64 base)
{
	return (base & (APIC_BASE_ENABLED | APIC_BASE_X2 | APIC_BASE_ADDRESS)) ==
	       (APIC_BASE_ENABLED | APIC_DEFAULT_PAGE);
}

static bool may_trap(const struct vcpu *v, u64 base)
{
	if (v->clock.deadline == PMU_CLOCK_NEVER || (v->special & SPECIAL_STEP) ||
	    (vcpu_in_l2(v) && v->nested.space && v->apic_timer.l2_reaches))
		return false;
	return usable_mode(base);
}

/* Asleep the guest waits for its own timer; and what an APIC does not give to the CPU does not end VMRUN. */
static bool may_borrow(const struct vcpu *v, u64 base)
{
	return !(v->special & SPECIAL_HALT) && (apic_read(v, base, APIC_SVR) & APIC_SVR_ENABLED) &&
	       !(apic_read(v, base, BANK(APIC_ISR)) & BANK_CLASS_F) && !pending(v, base);
}

void apic_timer_entry(struct vcpu *v)
{
	struct apic_timer *t = &v->apic_timer;
	u64 base = apic_base(), now;
	bool trap;

	apic_timer_exit(v);
	t->fired = false;
	if (!(v->special & SPECIAL_HALT) && v->clock.now >= v->clock.deadline)
		pmi_due(v); /* by an instruction that L0 emulated */
	trap = may_trap(v, base);
	if (!trap || !may_borrow(v, base))
		apic_timer_give_back(v);
	else if (t->borrowed || borrow(v, base)) {
		now = cpu_rdtsc();
		if (t->due && t->due <= now + t->lead)
			raise(v, base);
		t->limit = timer_limit(now, t->lvt & APIC_LVT_MASKED ? 0 : t->due, t->lead);
		t->until = v->clock.deadline - v->clock.now < t->limit ? v->clock.deadline
								       : v->clock.now + t->limit;
		arm(v, base);
	}
	set_trap(v, trap);
}

void apic_timer_end(struct vcpu *v)
{
	apic_timer_give_back(v);
	set_trap(v, false);
	vcpu_clr_special(v, SPECIAL_PMI);
}

bool apic_timer_fault(struct vcpu *v, u64 gpa)
{
	if (!v->apic_timer.trapped || gpa / PAGE_SIZE != APIC_DEFAULT_PAGE / PAGE_SIZE)
		return false;
	step_begin(v); /* while which the page is there, and the timer the guest's */
	return true;
}

void apic_timer_shadowed(struct vcpu *v, u64 gpa, u64 bytes)
{
	u64 start = ALIGN_DOWN(gpa, bytes);

	if (start <= APIC_DEFAULT_PAGE && APIC_DEFAULT_PAGE - start < bytes)
		v->apic_timer.l2_reaches = true;
}

/* ---- at boot ---- */

/* How many instructions the guest of `run` is let execute by a timer of so many ticks; ~0 if it is not the timer. */
static u64 stops_after(struct vcpu *v, u64 base, u64 (*run)(struct vcpu *), u64 ticks)
{
	u64 executed;

	v->apic_timer.fired = false;
	arm(v, base);
	v->clock.now = 0;
	v->clock.deadline = ticks;
	executed = run(v);
	apic_timer_exit(v);
	v->clock.deadline = PMU_CLOCK_NEVER;
	return v->apic_timer.fired ? executed : ~0ull;
}

static bool stops_exactly(struct vcpu *v, u64 base, unsigned int shift, u64 (*run)(struct vcpu *))
{
	static const u64 counts[] = {0, 1, 2, 3, 10, 100, 999};
	const u64 trial = 600;
	struct apic_timer *t = &v->apic_timer;
	u64 executed;

	t->limit = TIMER_COUNT_MAX;
	t->lead = 0;
	executed = stops_after(v, base, run, (trial << shift) - 1);
	if (executed >= trial)
		return false;
	t->lead = ((trial - executed) << shift) - 1;
	t->limit -= t->lead;
	for (unsigned int round = 0; round < 16; round++)
		for (unsigned int i = 0; i < ARRAY_SIZE(counts); i++)
			if (stops_after(v, base, run, counts[i] << shift) != counts[i])
				return false;
	return true;
}

void apic_timer_probe(struct vcpu *v, unsigned int shift, u64 (*run)(struct vcpu *))
{
	struct apic_timer *t = &v->apic_timer;
	u64 base = apic_base(), tpr = cpu_read_cr8();

	if (!usable_mode(base) || !(apic_read(v, base, APIC_SVR) & APIC_SVR_ENABLED) ||
	    pending(v, base))
		return;
	t->lvt = apic_read(v, base, APIC_LVT_TIMER);
	t->count = apic_read(v, base, APIC_TIMER_COUNT);
	t->divide = apic_read(v, base, APIC_TIMER_DIVIDE);
	apic_write(v, base, APIC_TIMER_COUNT, 0);
	apic_write(v, base, APIC_LVT_TIMER, VECTOR);
	apic_write(v, base, APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	cpu_write_cr8(CLASS_F - 1); /* nobody else's */
	t->usable = stops_exactly(v, base, shift, run);
	cpu_write_cr8(tpr);
	apic_write(v, base, APIC_TIMER_DIVIDE, t->divide);
	apic_write(v, base, APIC_LVT_TIMER, t->lvt);
	apic_write(v, base, APIC_TIMER_COUNT, t->count); /* the firmware's, periodic or long over */
}

/* SPDX-License-Identifier: MIT */
#include "guest/lib/smp.h"

#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "guest/lib/trap.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define STACK_BYTES 0x8000
#define PAGE_DATA 0x800

/* TSC ticks, nanoseconds under -icount: long, for a machine that has other things to do. */
#define PATIENCE 120000000000ull
#define SETTLE 8000000ull
#define SETTLE_THREADS 50000000ull
#define BEATS 1000u

/* Behind the code in the page that a SIPI names. */
struct smp_page {
	u32 cr3, cr4, efer, cr0;
	struct PACKED {
		u32 offset;
		u16 selector, unused;
	} entry;
	struct PACKED {
		u16 limit;
		u32 base;
		u16 unused;
	} gdtr;
	u64 gdt[3], unused;
	struct smp_first first;
};

static_assert(offsetof(struct smp_page, entry) == 16, "smp.inc");
static_assert(offsetof(struct smp_page, gdtr) == 24, "smp.inc");
static_assert(offsetof(struct smp_page, gdt) == 32, "smp.inc");
static_assert(offsetof(struct smp_page, first) == 64, "smp.inc");

/* smp.asm */
extern const u8 smp_trampoline[], smp_trampoline_end[], smp_enter[];
extern u8 smp_index[256], smp_stacks[MP_CPUS][STACK_BYTES];
extern struct table_register smp_gdtr, smp_idtr;
NORETURN void smp_main(u32 cpu);

u8 smp_index[256], smp_stacks[MP_CPUS][STACK_BYTES] ALIGNED(4096);
struct table_register smp_gdtr, smp_idtr;

static struct smp_cpu cpus[MP_CPUS];
static u32 count;
static volatile u32 met; /* smp_meet() */
static u64 settle;	 /* what smp_settle() waits for */

static struct smp_page *page_at(u32 n)
{
	return (struct smp_page *)(mp_low + n * PAGE_SIZE + PAGE_DATA);
}

bool smp_begin(bool xapic)
{
	if (!svm_start())
		return false;
	if (smp_init() < 2) {
		tap_skip_all("one CPU only");
		return false;
	}
	if (xapic && apic_x2()) {
		tap_skip_all("the firmware has left x2APIC mode on");
		return false;
	}
	note("cpus: %u", smp_cpus());
	return true;
}

bool smp_begin_on_us(struct tally_status *status)
{
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return false;
	}
	if (!smp_begin(false))
		return false;
	if (!smp_start_all() || hypercall(TALLY_CALL_STATUS, (u64)status, 0, 0)) {
		tap_skip_all("a CPU does not start, see l1_smp");
		return false;
	}
	return true;
}

u32 smp_cpus(void)
{
	return count;
}

struct smp_cpu *smp_at(u32 cpu)
{
	return &cpus[cpu];
}

/* The first CPU is on the firmware's stack. */
u32 smp_this(void)
{
	u64 offset = (u64)__builtin_frame_address(0) - (u64)smp_stacks;

	return offset < sizeof(smp_stacks) ? (u32)(offset / STACK_BYTES) : 0;
}

u64 smp_l2_stack(u32 cpu)
{
	return (u64)smp_stacks[cpu] + STACK_BYTES / 4 - 8; /* as after a CALL */
}

static void make_page(u32 n)
{
	struct smp_page *page = page_at(n);
	u8 *code = (u8 *)(mp_low + n * PAGE_SIZE);

	for (u64 i = 0; i < (u64)(smp_trampoline_end - smp_trampoline); i++)
		code[i] = smp_trampoline[i];
	*page = (struct smp_page){
		.cr3 = (u32)read_cr3(),
		.cr4 = (u32)read_cr4(),
		.efer = (u32)(rdmsr(MSR_EFER) & ~(EFER_LMA | EFER_SVME)),
		.cr0 = (u32)read_cr0(),
		.entry = {(u32)(u64)smp_enter, GDT_CODE, 0},
		.gdtr = {sizeof(page->gdt) - 1, (u32)(u64)page->gdt, 0},
		.gdt = {0, 0x00af9b000000ffffull, 0x00cf93000000ffffull},
	};
}

u32 smp_init(void)
{
	if (!mp_count || !mp_low)
		return 0;
	count = mp_count;
	asm volatile("sgdt %0" : "=m"(smp_gdtr));
	asm volatile("sidt %0" : "=m"(smp_idtr));
	for (u32 i = 0; i < count; i++) {
		cpus[i].id = mp_ids[i];
		smp_index[mp_ids[i] & 0xff] = (u8)i;
	}
	for (u32 i = 0; i < MP_LOW_PAGES; i++)
		make_page(i);
	/* the first CPU may be the firmware's idea of one with SVR's bit clear */
	apic_write(APIC_SVR, apic_read(APIC_SVR) | APIC_SVR_ENABLE);
	return count;
}

/* ---- the other CPUs' side ---- */

static void store_apic(struct smp_first_apic *a)
{
	a->base = rdmsr(MSR_APIC_BASE);
	a->id = apic_id();
	a->tpr = apic_read(APIC_TPR);
	a->ldr = apic_read(APIC_LDR);
	a->dfr = apic_x2() ? ~0u : apic_read(APIC_DFR);
	a->svr = apic_read(APIC_SVR);
	a->timer_count = apic_read(APIC_TIMER_COUNT);
	a->timer_divide = apic_read(APIC_TIMER_DIVIDE);
	a->lvt_timer = apic_read(APIC_LVT_TIMER);
	a->lvt_lint0 = apic_read(APIC_LVT_LINT0);
	a->lvt_lint1 = apic_read(APIC_LVT_LINT1);
	a->lvt_error = apic_read(APIC_LVT_ERROR);
	a->lvt_pc = apic_read(APIC_LVTPC);
	a->pending = 0;
	for (u32 i = 0; i < 8; i++)
		a->pending |= apic_read(APIC_IRR + i * 16) | apic_read(APIC_ISR + i * 16);
}

/* What it was asked before it came is void. */
void smp_main(u32 cpu)
{
	struct smp_cpu *c = &cpus[cpu];

	for (u32 i = 0; i < MP_LOW_PAGES; i++) {
		struct smp_first *first = &page_at(i)->first;

		if (first->cs)
			c->first = *first;
		first->cs = 0;
	}
	store_apic(&c->apic);
	apic_write(APIC_SVR, APIC_SVR_ENABLE | 0xff);
	c->done = c->asked;
	c->starts++;
	for (;;) {
		c->beats++;
		if (c->done != c->asked) {
			c->run(c->arg);
			cli();
			c->done = c->asked;
		}
		asm volatile("pause" : : : "memory");
	}
}

/* ---- the first CPU's ---- */

void smp_command(u32 destination, u32 command)
{
	if (apic_x2()) {
		wrmsr(APIC_X2_MSR(APIC_ICR), (u64)destination << 32 | command);
		return;
	}
	apic_write(APIC_ICR_HIGH, destination << APIC_XAPIC_ID_SHIFT);
	apic_write(APIC_ICR, command);
	while (apic_read(APIC_ICR) & APIC_ICR_PENDING)
		asm volatile("pause" : : : "memory");
}

void smp_send(u32 cpu, u32 command)
{
	smp_command(cpus[cpu].id, command);
}

u32 smp_sipi(void)
{
	return APIC_DELIVERY_SIPI | (u32)(mp_low / PAGE_SIZE);
}

u32 smp_sipi_other(void)
{
	return smp_sipi() + 1;
}

bool smp_in_time(u64 begin)
{
	return rdtsc() - begin <= PATIENCE;
}

bool smp_reaches(volatile u32 *at, u32 value, const char *what)
{
	u64 begin = rdtsc();

	while ((s32)(*at - value) < 0) {
		if (!smp_in_time(begin)) {
			note("%s: %u after a long time, not %u", what, *at, value);
			return tap_check(false, what);
		}
		asm volatile("pause" : : : "memory");
	}
	return true;
}

/* By the instruction clock a pair of RDTSC takes the same time each time, and all CPUs take turns. */
static bool is_instruction_clock(void)
{
	u64 first = 0, ticks;

	for (u32 n = 0; n < 32; n++) {
		ticks = rdtsc();
		ticks = rdtsc() - ticks;
		if (n && ticks != first)
			return false;
		first = ticks;
	}
	return true;
}

/* Without it each CPU is a thread, which the machine below may let wait. */
void smp_settle(void)
{
	u64 begin = rdtsc();

	if (!settle)
		settle = is_instruction_clock() ? SETTLE : SETTLE_THREADS;
	while (rdtsc() - begin < settle)
		asm volatile("pause" : : : "memory");
}

bool smp_started(u32 cpu, u32 starts)
{
	return smp_reaches(&cpus[cpu].starts, starts, "a CPU starts");
}

bool smp_start(u32 cpu)
{
	u32 starts = cpus[cpu].starts;

	smp_send(cpu, APIC_DELIVERY_INIT | (u32)APIC_ICR_ASSERT);
	smp_settle();
	smp_send(cpu, smp_sipi());
	return smp_started(cpu, starts + 1);
}

bool smp_start_all(void)
{
	bool all = true;

	for (u32 i = 1; i < count; i++)
		all &= smp_start(i);
	return all;
}

bool smp_beats(u32 cpu)
{
	u64 before = cpus[cpu].beats, begin = rdtsc();

	while (cpus[cpu].beats - before < BEATS) {
		if (!smp_in_time(begin))
			return false;
		asm volatile("pause" : : : "memory");
	}
	return true;
}

bool smp_stands(u32 cpu)
{
	u64 before;

	smp_settle();
	before = cpus[cpu].beats;
	smp_settle();
	return cpus[cpu].beats == before;
}

void smp_call(u32 cpu, void (*run)(void *arg), void *arg)
{
	cpus[cpu].run = run;
	cpus[cpu].arg = arg;
	asm volatile("" : : : "memory");
	cpus[cpu].asked++;
}

bool smp_done(u32 cpu)
{
	return smp_reaches(&cpus[cpu].done, cpus[cpu].asked, "a CPU is done");
}

bool smp_run(u32 cpu, void (*run)(void *arg), void *arg)
{
	smp_call(cpu, run, arg);
	return smp_done(cpu);
}

bool smp_run_all(void (*run)(void *arg), void *arg)
{
	bool all = true;

	met = 0;
	for (u32 i = 1; i < count; i++)
		smp_call(i, run, arg);
	run(arg);
	cli();
	for (u32 i = 1; i < count; i++)
		all &= smp_done(i);
	return all;
}

void smp_meet_at(volatile u32 *arrived, u32 all)
{
	u32 before = __atomic_fetch_add(arrived, 1, __ATOMIC_SEQ_CST);

	while (*arrived < (before / all + 1) * all)
		asm volatile("pause" : : : "memory");
}

void smp_meet(void)
{
	smp_meet_at(&met, count);
}

/* ---- counting ---- */

static void on_interrupt(struct trap_frame *frame)
{
	(void)frame;
	cpus[smp_this()].interrupts++;
	apic_eoi();
}

static void on_nmi(struct trap_frame *frame)
{
	(void)frame;
	cpus[smp_this()].nmis++;
}

void smp_count(u32 vector)
{
	for (u32 i = 0; i < count; i++)
		cpus[i].interrupts = cpus[i].nmis = 0;
	trap_hook(vector, on_interrupt);
	trap_hook(VEC_NMI, on_nmi);
}

void smp_count_end(u32 vector)
{
	trap_hook(vector, NULL);
	trap_hook(VEC_NMI, NULL);
}

void smp_end(void)
{
	for (u32 i = 1; i < count; i++)
		smp_send(i, APIC_DELIVERY_INIT | (u32)APIC_ICR_ASSERT);
}

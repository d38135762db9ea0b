/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's page by every instruction that writes memory, from L1 and from L2, and x2APIC mode; timers on all CPUs.
 * With several CPUs, writes to the page are the hypervisor's to carry out. APM2 §16.3.2, §16.4.1, §16.14.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "guest/lib/trap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define VECTOR 0x51u
#define TICKS 3000u
#define INIT (APIC_DELIVERY_INIT | (u32)APIC_ICR_ASSERT)

const bool guest_wants_cpus = true;

/* RDI is the register's address, EAX the value, and each leaves it there. */
typedef void form(u64 rdi, u32 value);

#define FORM(name, code)                                                                           \
	form form_##name;                                                                          \
	asm(".pushsection .text\n.balign 16\nform_" #name ":\n\tmov %esi, %eax\n\t" code           \
	    "\n\tret\n.popsection")

/* 89 /r with each register; those that C wants back are saved. */
#define FORM_REG(name) FORM(name, "mov %eax, %" #name "\n\tmov %" #name ", (%rdi)")
#define FORM_SAVED(name, full)                                                                     \
	FORM(name,                                                                                 \
	     "push %" #full "\n\tmov %eax, %" #name "\n\tmov %" #name ", (%rdi)\n\tpop %" #full)

FORM_REG(ecx);
FORM_REG(edx);
FORM_REG(esi);
FORM_REG(r8d);
FORM_REG(r9d);
FORM_REG(r10d);
FORM_REG(r11d);
FORM_SAVED(ebx, rbx);
FORM_SAVED(ebp, rbp);
FORM_SAVED(r12d, r12);
FORM_SAVED(r13d, r13);
FORM_SAVED(r14d, r14);
FORM_SAVED(r15d, r15);
FORM(esp, "mov %rsp, %rcx\n\tmov %eax, %esp\n\tmov %esp, (%rdi)\n\tmov %rcx, %rsp");
FORM(eax, "mov %eax, (%rdi)");
/* the address is the value: in the low bits of it there is nothing to keep */
FORM(displacement, "lea -0x1234567(%rdi), %rcx\n\tmov %eax, 0x1234567(%rcx)");
FORM(byte_displacement, "lea 0x70(%rdi), %rcx\n\tmov %eax, -0x70(%rcx)");
FORM(sib, "lea -8(%rdi), %rcx\n\tmov $2, %edx\n\tmov %eax, (%rcx,%rdx,4)");
FORM(r12_base, "push %r12\n\tmov %rdi, %r12\n\tmov %eax, (%r12)\n\tpop %r12");
FORM(r13_base, "push %r13\n\tmov %rdi, %r13\n\tmov %eax, (%r13)\n\tpop %r13");
FORM(sib_r9, "mov %rdi, %r9\n\tmov %eax, (,%r9,1)");
FORM(address_32, "mov %eax, (%edi)");
FORM(segments, "mov %eax, %ds:(%rdi)\n\tmov %eax, %es:(%rdi)");
FORM(padded, ".byte 0x2e, 0x3e, 0x26, 0x89, 0x07");
FORM(repeated, ".byte 0xf3, 0x89, 0x07"); /* a prefix without a meaning here */
FORM(rex, ".byte 0x40, 0x89, 0x07");
/* MOV moffs32, EAX: the APIC's page is at FEE0_0000 on all machines that begin so; apic_at() */
FORM(moffs, "lea 1f(%rip), %rcx\n\tmov %rdi, 1(%rcx)\n1:\tmovabs %eax, 0x1122334455667788");
FORM(moffs_32, "lea 1f(%rip), %rcx\n\tmov %edi, 2(%rcx)\n1:\t.byte 0x67, 0xa3, 1, 2, 3, 4");
FORM(immediate, "lea 1f(%rip), %rcx\n\tmov %eax, 2(%rcx)\n1:\tmovl $0x11223344, (%rdi)");
FORM(immediate_sib, "lea 1f(%rip), %rcx\n\tmov %eax, 4(%rcx)\n\tlea -8(%rdi), %rdx\n"
		    "1:\t.byte 0xc7, 0x44, 0x22, 8, 1, 2, 3, 4");
/* more than 2 GByte away, so modulo 2^32 */
FORM(relative, "lea 1f(%rip), %rcx\n\tmov %rdi, %rdx\n\tsub %rcx, %rdx\n\tmov %edx, -4(%rcx)\n\t"
	       ".byte 0x67, 0x89, 0x05, 1, 2, 3, 4\n1:");
FORM(relative_immediate, "lea 1f(%rip), %rcx\n\tmov %rdi, %rdx\n\tsub %rcx, %rdx\n\t"
			 "mov %edx, -8(%rcx)\n\tmov %eax, -4(%rcx)\n\t"
			 ".byte 0x67, 0xc7, 0x05, 1, 2, 3, 4, 5, 6, 7, 8\n1:");
/* other instructions than MOV */
FORM(xchg, "xchg %eax, (%rdi)");
FORM(and_or, "andl $0, (%rdi)\n\tor %eax, (%rdi)");
FORM(add, "sub (%rdi), %eax\n\tadd %eax, (%rdi)");
FORM(sub, "mov (%rdi), %ecx\n\tsub %eax, %ecx\n\tsub %ecx, (%rdi)");
FORM(xor, "xor (%rdi), %eax\n\txor %eax, (%rdi)");
FORM(inc, "dec %eax\n\tmov %eax, (%rdi)\n\tincl (%rdi)");
FORM(not, "mov %eax, (%rdi)\n\tnotl (%rdi)\n\tnotl (%rdi)");
FORM(cmpxchg, "mov %eax, %ecx\n\tmov (%rdi), %eax\n\tcmpxchg %ecx, (%rdi)");
FORM(stosd, "stosl");
FORM(rep_stosd, "mov $1, %ecx\n\trep stosl");
FORM(movsd, "push %rax\n\tmov %rsp, %rsi\n\tmovsl\n\tpop %rax");
FORM(bits,
     "xor (%rdi), %eax\n\tmov %eax, %edx\n\txor %ecx, %ecx\n"
     "1:\tbt %ecx, %edx\n\tjnc 2f\n\tbtcl %ecx, (%rdi)\n2:\tinc %ecx\n\tcmp $32, %ecx\n\tjne 1b");

static const struct {
	const char *name;
	form *write;
} forms[] = {
#define ENTRY(name)                                                                                \
	{                                                                                          \
#name, form_##name                                                                 \
	}
	ENTRY(eax),
	ENTRY(ecx),
	ENTRY(edx),
	ENTRY(ebx),
	ENTRY(esp),
	ENTRY(ebp),
	ENTRY(esi),
	ENTRY(r8d),
	ENTRY(r9d),
	ENTRY(r10d),
	ENTRY(r11d),
	ENTRY(r12d),
	ENTRY(r13d),
	ENTRY(r14d),
	ENTRY(r15d),
	ENTRY(displacement),
	ENTRY(byte_displacement),
	ENTRY(sib),
	ENTRY(r12_base),
	ENTRY(r13_base),
	ENTRY(sib_r9),
	ENTRY(address_32),
	ENTRY(segments),
	ENTRY(padded),
	ENTRY(repeated),
	ENTRY(rex),
	ENTRY(moffs),
	ENTRY(moffs_32),
	ENTRY(immediate),
	ENTRY(immediate_sib),
	ENTRY(relative),
	ENTRY(relative_immediate),
	ENTRY(xchg),
	ENTRY(and_or),
	ENTRY(add),
	ENTRY(sub),
	ENTRY(xor),
	ENTRY(inc),
	ENTRY(not ),
	ENTRY(cmpxchg),
	ENTRY(stosd),
	ENTRY(rep_stosd),
	ENTRY(movsd),
	ENTRY(bits),
#undef ENTRY
};

/* Registers that keep what is written, and the bits that they keep. */
static const struct {
	u32 reg, mask;
	u32 values[2];
} kept[] = {
	{APIC_TPR, 0xff, {0x10, 0xe3}},
	{APIC_LVT_TIMER, 0x300ff, {0x10040, 0x30041}},
	{APIC_LDR, 0xff000000, {0x5a000000, 0x81000000}},
	{APIC_TIMER_DIVIDE, 0xb, {0x3, 0xa}},
	{APIC_LVTPC, 0x107ff, {0x10044, 0x10745}},
	{APIC_ICR_HIGH, 0xff000000, {0x12000000, 0xfd000000}},
};

static u64 apic_at(u32 reg)
{
	return (u64)apic_register(reg);
}

/* Some times: a place that is known may be gone by another way, and it must not remember the value. */
static void check_form(void (*write)(form *, u64, u32), u32 f, u32 r)
{
	for (u32 n = 0; n < 6; n++) {
		u32 value = kept[r].values[n % 2], mask = kept[r].mask;

		write(forms[f].write, apic_at(kept[r].reg), value);
		if (!tap_equal(apic_read(kept[r].reg) & mask, value & mask, forms[f].name)) {
			note("register 0x%x, write %u", kept[r].reg, n);
			return;
		}
	}
}

static void check_forms(void (*write)(form *, u64, u32))
{
	for (u32 r = 0; r < ARRAY_SIZE(kept); r++) {
		u32 reg = kept[r].reg, was = apic_read(reg);

		for (u32 f = 0; f < ARRAY_SIZE(forms); f++)
			if (forms[f].write != form_inc || (kept[r].mask & 1)) /* a carry */
				check_form(write, f, r);
		apic_write(reg, was);
	}
}

static void write_here(form *write, u64 address, u32 value)
{
	write(address, value);
}

static void check_l1(const void *arg)
{
	(void)arg;
	check_forms(write_here);
}

L2_CODE(l2_write, "call *%rbx");

static void write_in_l2(form *write, u64 address, u32 value)
{
	l2.vmcb.save.rip = (u64)l2_write;
	l2.vmcb.save.rsp = (u64)(l2.stack + sizeof(l2.stack) - 8);
	l2.regs.rbx = (u64)write;
	l2.regs.rdi = address;
	l2.regs.rsi = value;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
}

static void check_l2(const void *nested_paging)
{
	l2_reset(l2_write);
	if (nested_paging)
		l2_use_npt();
	check_forms(write_in_l2);
}

/* The instruction is stepped over by the hypervisor, but TF is L1's: one #DB for each, and RFLAGS as it was. */
static u32 steps;
static u64 step_flags;

static void on_step(struct trap_frame *frame)
{
	steps++;
	step_flags |= frame->rflags;
}

static void check_tf(const void *arg)
{
	u64 tpr = apic_at(APIC_TPR);

	(void)arg;
	trap_hook(VEC_DB, on_step);
	steps = 0;
	asm volatile("pushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\t"
		     "movl $0x20, (%0)\n\txorl $0x10, (%0)\n\tincl (%0)\n\t"
		     "pushfq\n\tandl $~0x100, (%%rsp)\n\tpopfq"
		     :
		     : "r"(tpr)
		     : "memory", "cc");
	CHECK_EQ(steps, 6);
	CHECK_EQ(apic_read(APIC_TPR) & 0xff, 0x31);
	CHECK(!(read_flags() & RFLAGS_TF));
	apic_write(APIC_TPR, 0);
	trap_hook(VEC_DB, NULL);
}

/* ICR by something else than MOV: it sends, once. */
static void check_icr(const void *arg)
{
	(void)arg;
	smp_count(VECTOR);
	for (u32 f = 0; f < ARRAY_SIZE(forms); f++) {
		u32 before = smp_at(1)->nmis;

		/* they read the old command, and some write more than once: only these are one write */
		if (forms[f].write == form_and_or || forms[f].write == form_inc ||
		    forms[f].write == form_not || forms[f].write == form_bits ||
		    forms[f].write == form_segments)
			continue;
		apic_write(APIC_ICR_HIGH, smp_at(1)->id << APIC_XAPIC_ID_SHIFT);
		forms[f].write(apic_at(APIC_ICR), APIC_DELIVERY_NMI);
		if (!smp_reaches(&smp_at(1)->nmis, before + 1, forms[f].name))
			break;
	}
	smp_settle();
	CHECK_EQ(smp_at(1)->nmis, ARRAY_SIZE(forms) - 5);
	smp_count_end(VECTOR);
}

/* ---- timers on all CPUs ---- */

static volatile u32 finished;

static void tick(void *arg)
{
	volatile u32 *taken = &smp_at(smp_this())->interrupts;

	apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, VECTOR | (u32)APIC_LVT_PERIODIC);
	apic_write(APIC_TIMER_COUNT, *(const u32 *)arg);
	sti();
	smp_reaches(taken, TICKS, "the timer's interrupts");
	cli();
	apic_timer_stop();
	interrupt_window();
}

static void check_timers(const void *arg)
{
	static u32 count = 200000; /* some thousand instructions of each CPU, or 200 us */

	(void)arg;
	smp_count(VECTOR);
	finished = 0;
	smp_run_all(tick, &count);
	for (u32 i = 0; i < smp_cpus(); i++) {
		CHECK(smp_at(i)->interrupts >= TICKS);
		CHECK(smp_at(i)->interrupts < 2 * TICKS);
	}
	smp_count_end(VECTOR);
}

/* ---- x2APIC ---- */

static void x2_on(void *arg)
{
	(void)arg;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2);
}

/* Only by way of a disabled APIC (§16.9). */
static void x2_off(void *arg)
{
	u64 base = rdmsr(MSR_APIC_BASE) & ~(APIC_BASE_X2 | APIC_BASE_ENABLED);

	(void)arg;
	wrmsr(MSR_APIC_BASE, base);
	wrmsr(MSR_APIC_BASE, base | APIC_BASE_ENABLED);
	apic_write(APIC_SVR, APIC_SVR_ENABLE | 0xff);
}

static void take_all(void *arg)
{
	(void)arg;
	sti();
	while (!finished)
		asm volatile("pause" : : : "memory");
}

static void x2_fixed(u32 destination, u32 command, u32 flags)
{
	u32 before[MP_CPUS] = {0};

	for (u32 i = 0; i < smp_cpus(); i++)
		before[i] = smp_at(i)->interrupts;
	smp_command(destination, VECTOR | command);
	for (u32 i = 0; i < smp_cpus(); i++)
		if (flags >> i & 1)
			smp_reaches(&smp_at(i)->interrupts, before[i] + 1, "a fixed IPI");
	smp_settle();
	for (u32 i = 0; i < smp_cpus(); i++)
		CHECK_EQ(smp_at(i)->interrupts, before[i] + (flags >> i & 1));
}

static void x2_ipis(void)
{
	u32 all = (1u << smp_cpus()) - 1;

	smp_count(VECTOR);
	finished = 0;
	for (u32 i = 1; i < smp_cpus(); i++)
		smp_call(i, take_all, NULL);
	sti();
	for (u32 i = 0; i < smp_cpus(); i++)
		x2_fixed(smp_at(i)->id, 0, 1u << i);
	x2_fixed(APIC_X2_BROADCAST, 0, all);
	x2_fixed(0, (u32)APIC_ICR_OTHERS, all & ~1u);
	x2_fixed(0, (u32)APIC_ICR_SELF, 1);
	for (u32 i = 0; i < smp_cpus(); i++)
		x2_fixed(smp_at(i)->id >> 4 << 16 | 1u << (smp_at(i)->id & 15),
			 (u32)APIC_ICR_LOGICAL, 1u << i);
	wrmsr(APIC_X2_MSR(APIC_SELF_IPI), VECTOR);
	smp_settle();
	CHECK_EQ(smp_at(0)->interrupts, 5);
	cli();
	finished = 1;
	for (u32 i = 1; i < smp_cpus(); i++) {
		smp_done(i);
		for (u32 n = 1; n <= 50; n++) {
			smp_send(i, APIC_DELIVERY_NMI);
			if (!smp_reaches(&smp_at(i)->nmis, n, "an NMI"))
				break;
		}
		CHECK_EQ(smp_at(i)->nmis, 50);
	}
	apic_self_nmi();
	smp_settle();
	CHECK_EQ(smp_at(0)->nmis, 1);
	smp_count_end(VECTOR);
}

/* INIT leaves the mode as it is. */
static void x2_init(void)
{
	for (u32 i = 1; i < smp_cpus(); i++) {
		CHECK(smp_start(i));
		CHECK(smp_beats(i));
		CHECK_EQ(smp_at(i)->apic.base, rdmsr(MSR_APIC_BASE) & ~APIC_BASE_BSP);
		CHECK_EQ(smp_at(i)->apic.id, smp_at(i)->id);
		CHECK_EQ(smp_at(i)->apic.svr, 0xff);
		CHECK_EQ(smp_at(i)->apic.lvt_timer, APIC_LVT_MASKED);
		smp_send(i, INIT);
		CHECK(smp_stands(i));
		CHECK(smp_start(i));
	}
	smp_command(0, INIT | (u32)APIC_ICR_OTHERS);
	for (u32 i = 1; i < smp_cpus(); i++)
		CHECK(smp_stands(i));
	for (u32 i = 1; i < smp_cpus(); i++)
		smp_start(i);
}

static void check_x2(const void *arg)
{
	(void)arg;
	if (!(cpuid(CPUID_FEATURES).ecx & BIT(21))) {
		tap_skip("no x2APIC in CPUID 1 ECX[21]");
		return;
	}
	smp_run_all(x2_on, NULL);
	CHECK(apic_x2());
	x2_ipis();
	x2_init();
	smp_run_all(x2_off, NULL);
	CHECK(!apic_x2());
	CHECK(smp_start(1));
	CHECK(smp_beats(1));
}

/* ---- ways around ICR ---- */

static struct tally_status status ALIGNED(512);

static bool all_beat(void)
{
	for (u32 i = 1; i < smp_cpus(); i++)
		if (!smp_beats(i))
			return false;
	return true;
}

/* The hypervisor writes what it is asked for to where it is asked to: not to the APIC's page. A counter is INIT to all. */
static void check_calls(const void *arg)
{
	const u64 icr = apic_at(APIC_ICR), offset = offsetof(struct tally_status, counter[0].value);
	u64 counter = 0;

	(void)arg;
	if (!platform.under_us) {
		tap_skip("no Tallyvisor below");
		return;
	}
	if (platform.pmu) {
		wrmsr(MSR_PERFEVTSEL(0), 0);
		wrmsr(MSR_PERFCTR(0), INIT | (u32)APIC_ICR_OTHERS);
	}
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, sizeof(status), 0), 0);
	counter = status.counter[0].value;
	CHECK_EQ(counter, platform.pmu ? INIT | (u32)APIC_ICR_OTHERS : 0);
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, icr - offset, offset + 8, 0), (u64)-E_RANGE);
	for (u64 at = icr & ~0xfffull; at < (icr | 0xfff); at += 0x70) {
		CHECK_EQ((u64)hypercall(TALLY_CALL_STATS, at, 64, 0), (u64)-E_RANGE);
		CHECK_EQ((u64)hypercall(TALLY_CALL_LOG_READ, at + 1, 16, 0), (u64)-E_RANGE);
	}
	CHECK(all_beat());
	if (platform.pmu)
		wrmsr(MSR_PERFCTR(0), 0);
}

/* What is no register is not there: QEMU takes it for the one below, and the first for an MSI. */
static void check_no_register(const void *arg)
{
	static const u32 offsets[] = {0, 4, 0x304, 0x308, 0x30c};

	(void)arg;
	if (!platform.under_us) {
		tap_skip("no Tallyvisor below");
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(offsets); i++)
		for (u32 f = 0; f < ARRAY_SIZE(forms); f++) {
			apic_write(APIC_ICR_HIGH, smp_at(1)->id << APIC_XAPIC_ID_SHIFT);
			forms[f].write(apic_at(offsets[i]), INIT);
		}
	CHECK(all_beat());
}

static void set_base(const void *arg)
{
	wrmsr(MSR_APIC_BASE, *(const u64 *)arg);
}

/* Nor is it elsewhere than the hypervisor believes: QEMU's says that it moves, and does not. */
static void check_base(const void *arg)
{
	const u64 before = rdmsr(MSR_APIC_BASE), moved = before ^ 0x10000000;

	(void)arg;
	if (!platform.under_us) {
		tap_skip("no Tallyvisor below");
		return;
	}
	if (try_call(set_base, &moved) == VEC_NONE) {
		smp_send(1, INIT);
		smp_settle();
		*(volatile u32 *)((before & APIC_BASE_ADDRESS) + APIC_ICR) =
			INIT | (u32)APIC_ICR_OTHERS;
		set_base(&before);
		CHECK(smp_start_all());
	}
	CHECK(all_beat());
}

/* ---- another page ---- */

static u8 other_page[PAGE_SIZE] ALIGNED(4096);

/* INIT and SIPI of another CPU, and a write to a register, where the APIC is now. */
static void use_apic(void)
{
	u32 tpr = apic_read(APIC_TPR);

	smp_send(1, INIT);
	CHECK(smp_stands(1));
	CHECK(smp_start(1));
	CHECK(smp_beats(1));
	apic_write(APIC_TPR, 0x50);
	CHECK_EQ(read_cr8(), 5);
	apic_write(APIC_TPR, tpr);
}

/*
 * APIC_BASE gets the address of ordinary memory, at once and by way of a disabled APIC. The APIC goes there, or #GP says
 * that it does not; in between it must not be somewhere where nobody watches it.
 */
static void check_other_page(const void *arg)
{
	u64 base = rdmsr(MSR_APIC_BASE), off = base & ~APIC_BASE_ENABLED,
	    other = (base & (PAGE_SIZE - 1)) | (u64)other_page,
	    other_off = other & ~APIC_BASE_ENABLED;
	bool stays = departs(DEPARTURE_APIC_STAYS);
	u64 vector = stays && platform.under_us ? VEC_GP : VEC_NONE;

	(void)arg;
	for (u32 i = 0; i < PAGE_SIZE; i++)
		other_page[i] = (u8)i;
	CHECK_EQ(try_call(set_base, &other), vector);
	CHECK_EQ(rdmsr(MSR_APIC_BASE), vector == VEC_GP ? base : other);
	if (!stays)
		use_apic();
	wrmsr(MSR_APIC_BASE, base);
	for (u32 i = 0; i < PAGE_SIZE; i++)
		if (!CHECK_EQ(other_page[i], (u8)i))
			break;
	use_apic();

	wrmsr(MSR_APIC_BASE, off);
	CHECK_EQ(try_call(set_base, &other_off), VEC_NONE);
	CHECK_EQ(try_call(set_base, &other), vector);
	CHECK_EQ(rdmsr(MSR_APIC_BASE), vector == VEC_GP ? other_off : other);
	wrmsr(MSR_APIC_BASE, off);
	wrmsr(MSR_APIC_BASE, base);
	apic_write(APIC_SVR, APIC_SVR_ENABLE | 0xff);
	use_apic();
}

static const struct test {
	const char *name;
	void (*run)(const void *arg);
	const void *arg;
} tests[] = {
	{"x2APIC: IPIs, INIT and SIPI", check_x2,
	 NULL}, /* first: the firmware may have left it on */
	{"the page by every form of a write, in L1", check_l1, NULL},
	{"the same in L2 without nested paging", check_l2, NULL},
	{"the same in L2 with nested paging", check_l2, ""},
	{"single steps over writes to it", check_tf, NULL},
	{"ICR by every form of a write", check_icr, NULL},
	{"no INIT by a hypercall's buffer", check_calls, NULL},
	{"no INIT by what is no register", check_no_register, NULL},
	{"no INIT by a page that has moved", check_base, NULL},
	{"timers on all CPUs", check_timers, NULL},
	{"APIC_BASE with another address", check_other_page, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!smp_begin(false))
		return;
	note("x2APIC mode was %s", apic_x2() ? "on" : "off");
	if (!smp_start_all()) {
		tap_run("all CPUs start", tests[0].run, NULL);
		return;
	}
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, tests[i].run, tests[i].arg);
	smp_end();
}

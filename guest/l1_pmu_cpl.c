/* SPDX-License-Identifier: MIT */
/*
 * Counters with one of USR and OS, to the last instruction: through everything that changes the CPL. What changes it
 * counts where it goes to: SYSCALL and INTn in OS, SYSRET and IRET in USR (docs/pmu.md).
 */
#include "abi/hypercall.h"
#include "guest/lib/apic.h"
#include "guest/lib/pmu.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"

enum { BOTH, USR, OS, COUNTERS };

static const char *const counter_name[COUNTERS] = {"USR and OS", "USR", "OS"};

/* As in l1_pmu_retire: five instructions for each reading, which are the kernel's. */
#define AHEAD(i) (4 + 5 * (COUNTERS - 1 - (i)))
#define BEHIND(i) (5 * (i) + 1)
#define READ(i, where)                                                                             \
	"mov $" #i ", %%ecx\n\trdpmc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\t"                     \
	"mov %%rax, 8*" #i "+cpl_" #where "(%%rip)\n\t"

u64 cpl_before[COUNTERS], cpl_after[COUNTERS], cpl_rsp, cpl_user_stack[64];
volatile u64 cpl_interrupts;

/*
 * A case: `text` goes to user mode by TO_USER (once or more) and comes back to `NAME_back`, where the kernel's stack is
 * found again. Vector 80h, the gate that user code may call, and whatever the case wants point there.
 */
#define CASE(name, text)                                                                           \
	extern const u8 name##_back[];                                                             \
	static void name(void)                                                                     \
	{                                                                                          \
		asm volatile(                                                                      \
			READ(0, before) READ(1, before)                                            \
				READ(2, before) "mov %%rsp, cpl_rsp(%%rip)\n\t" text "\n"          \
						".globl " #name "_back\n" #name "_back:\n\t"       \
						"mov cpl_rsp(%%rip), %%rsp\n\t"                    \
						"mov $0x10, %%ecx\n\tmov %%ecx, %%ss\n\t" READ(    \
							0, after) READ(1, after) READ(2, after)    \
			:                                                                          \
			:                                                                          \
			: "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");   \
	}
/* the MOV before `text` and the three behind NAME_back */
#define FRAME_KERNEL 4

/* Six instructions of the kernel's, and IRETQ, which counts in user mode. */
#define TO_USER_FLAGS(flags)                                                                       \
	"lea cpl_user_stack+512(%%rip), %%rax\n\tpush $0x1b\n\tpush %%rax\n\tpush $" flags         \
	"\n\tpush $0x23\n\tlea 77f(%%rip), %%rax\n\tpush %%rax\n\tiretq\n77:\n\t"
#define TO_USER TO_USER_FLAGS("2")
#define TO_USER_KERNEL 7
#define TO_USER_USER 1

CASE(c_int, TO_USER ".rept 10\n\tnop\n\t.endr\n\tint $0x80")
CASE(c_int_prefixed, TO_USER ".byte 0x66\n\tint $0x80")
CASE(c_int3, TO_USER "nop\n\tint3")
CASE(c_ud2, TO_USER "nop\n\tnop\n\tud2")
CASE(c_de, TO_USER "xor %%ecx, %%ecx\n\tdiv %%ecx")
CASE(c_gp, TO_USER "nop\n\thlt")
CASE(c_pf, TO_USER "xor %%ecx, %%ecx\n\tnot %%rcx\n\tshr $20, %%rcx\n\tmov (%%rcx), %%eax")
CASE(c_db, TO_USER_FLAGS("0x102") "nop\n\tnop")
CASE(c_int_gp, TO_USER "nop\n\tint $0x81") /* DPL 0: #GP */
CASE(c_cpuid, TO_USER ".rept 7\n\tcpuid\n\t.endr\n\tint $0x80")
CASE(c_syscall, TO_USER "nop\n\tsyscall")
/* kernel: three MOVs, SYSRET to 88:, ten NOPs, and back */
CASE(c_sysret, "lea 88f(%%rip), %%rcx\n\tmov $2, %%r11d\n\tnop\n\tsysretq\n88:\t.rept "
	       "10\n\tnop\n\t.endr\n\tint $0x80")
/* user mode a hundred times by SYSCALL, a handler of two instructions and SYSRET */
asm(".pushsection .text\n.balign 16\nlone_sysret:\n\tnop\n\tsysretq\n.popsection");
extern const u8 lone_sysret[];
CASE(c_syscalls, TO_USER ".rept 100\n\tsyscall\n\t.endr\n\tint $0x80")
/* INT to a handler of two instructions and back, a hundred times */
asm(".pushsection .text\n.balign 16\nlone_iretq_nop:\n\tnop\n\tiretq\n.popsection");
extern const u8 lone_iretq_nop[];
CASE(c_ints, TO_USER ".rept 100\n\tint $0x82\n\t.endr\n\tint $0x80")
/* Far RET to user mode instead of IRETQ, an exit there, and back. */
CASE(c_far_ret, "lea cpl_user_stack+512(%%rip), %%rax\n\tpush $0x1b\n\tpush %%rax\n\tpush $0x23\n\t"
		"lea 77f(%%rip), %%rax\n\tpush %%rax\n\tlretq\n77:\t.rept 10\n\tnop\n\t.endr\n\t"
		"cpuid\n\t.rept 5\n\tnop\n\t.endr\n\tint $0x80")
/* from kernel to kernel nothing changes */
CASE(c_kernel_int, "int $0x82\n\tnop")
CASE(c_kernel_trap, "pushf\n\torq $0x100, (%%rsp)\n\tpopf\n\tnop\n\tnop")
/* user mode with interrupts, until the handler has seen three */
asm(".pushsection .text\n.balign 16\nlone_timer:\n\tincq cpl_interrupts(%rip)\n\tpush %rax\n\t"
    "mov cpl_eoi(%rip), %rax\n\tmovl $0, (%rax)\n\tpop %rax\n\tiretq\n.popsection");
extern const u8 lone_timer[];
u64 cpl_eoi;
CASE(c_timer, TO_USER_FLAGS("0x202") "1:\tcmpq $3, cpl_interrupts(%%rip)\n\tjb 1b\n\tint $0x80")

#define TIMER_VECTOR 0x50u

/* An interrupt takes the more instructions the more of us are below. */
static void timer_ready(void)
{
	u32 count = 1000000;

	for (u32 level = 1; level < platform.depth; level++)
		count *= 16;
	cpl_interrupts = 0;
	cpl_eoi = (u64)apic_register(APIC_EOI);
	trap_gate(TIMER_VECTOR, lone_timer);
	apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, TIMER_VECTOR | 1u << 17); /* periodic */
	apic_write(APIC_TIMER_COUNT, count);
}

static void timer_done(void)
{
	apic_timer_stop();
	trap_gate(TIMER_VECTOR, NULL);
}

static u64 efer_was, star_was, lstar_was, sfmask_was;

static void syscall_ready(const void *target)
{
	wrmsr(MSR_STAR, (u64)(GDT_USER_DATA - 8) << 48 | (u64)GDT_CODE << 32);
	wrmsr(MSR_LSTAR, (u64)target);
	wrmsr(MSR_SFMASK, RFLAGS_IF | RFLAGS_TF);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

static void syscall_done(void)
{
	wrmsr(MSR_EFER, efer_was);
	wrmsr(MSR_STAR, star_was);
	wrmsr(MSR_LSTAR, lstar_was);
	wrmsr(MSR_SFMASK, sfmask_was);
}

static void syscall_back_ready(void)
{
	syscall_ready(c_syscall_back);
}

static void syscalls_ready(void)
{
	syscall_ready(lone_sysret);
}

static void ints_ready(void)
{
	trap_gate_user(0x82, lone_iretq_nop);
}

static void ints_done(void)
{
	trap_gate(0x82, NULL);
}

static const struct crossing {
	const char *name;
	void (*measured)(void);
	const u8 *back;
	u32 vector;	  /* that leads there beside 80h */
	u64 kernel, user; /* instructions */
	void (*ready)(void), (*done)(void);
	bool any;	/* how many there are nobody knows: only the sum is checked */
	u32 fault_tick; /* departure FAULT_TICKS shows in this counter */
	u64 late;	/* of `user`, what departure CPL_LATE has in the kernel's counter */
} cases[] = {
/* INTn and its like count in the kernel. */
#define CROSSING(text, code, vector_, in_kernel, in_user, ...)                                     \
	{                                                                                          \
		.name = (text), .measured = (code), .back = code##_back, .vector = (vector_),      \
		.kernel = (in_kernel), .user = (in_user), __VA_ARGS__                              \
	}
#define FROM_USER(text, code, vector_, in_kernel, in_user, ...)                                    \
	CROSSING(text, code, vector_, TO_USER_KERNEL + (in_kernel), TO_USER_USER + (in_user),      \
		 __VA_ARGS__)
	FROM_USER("IRETQ, ten NOPs, INTn", c_int, 0x80, 1, 10),
	FROM_USER("INTn with a prefix", c_int_prefixed, 0x80, 1, 0),
	FROM_USER("INT3", c_int3, VEC_BP, 1, 1),
	FROM_USER("#UD", c_ud2, VEC_UD, 0, 2, .fault_tick = USR),
	FROM_USER("#DE", c_de, VEC_DE, 0, 1),
	FROM_USER("#GP", c_gp, VEC_GP, 0, 1, .fault_tick = USR),
	FROM_USER("#PF", c_pf, VEC_PF, 0, 3),
	FROM_USER("#DB of RFLAGS.TF", c_db, VEC_DB, 0, 1),
	FROM_USER("INTn that is #GP", c_int_gp, VEC_GP, 0, 1, .fault_tick = OS),
	FROM_USER("CPUID in user mode", c_cpuid, 0x80, 1, 7),
	FROM_USER("SYSCALL", c_syscall, 0x80, 1, 1, .ready = syscall_back_ready,
		  .done = syscall_done),
	CROSSING("SYSRET", c_sysret, 0x80, 3 + 1, 1 + 10, .ready = syscalls_ready,
		 .done = syscall_done),
	FROM_USER("a hundred times SYSCALL and SYSRET", c_syscalls, 0x80, 200 + 1, 100,
		  .ready = syscalls_ready, .done = syscall_done),
	FROM_USER("a hundred times INTn and IRETQ", c_ints, 0x80, 200 + 1, 100, .ready = ints_ready,
		  .done = ints_done),
	/* RET and ten NOPs: the exit is CPUID's */
	CROSSING("far RET to user mode", c_far_ret, 0x80, 6 + 1, 1 + 10 + 1 + 5, .late = 1 + 10),
	CROSSING("INTn and IRETQ in the kernel", c_kernel_int, 0x80, 4, 0, .ready = ints_ready,
		 .done = ints_done),
	CROSSING("#DB in the kernel", c_kernel_trap, VEC_DB, 4, 0),
	FROM_USER("interrupts in user mode", c_timer, 0x80, 0, 0, .ready = timer_ready,
		  .done = timer_done, .any = true),
};

L2_CODE(l2_call, "call *%rbx");

static void in_l1(void (*measured)(void))
{
	measured();
}

static void in_l2(void (*measured)(void))
{
	l2_reset(l2_call);
	l2.regs.rbx = (u64)measured;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
}

static void in_l2_with_npt(void (*measured)(void))
{
	l2_reset(l2_call);
	l2_use_npt();
	l2.regs.rbx = (u64)measured;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
}

/* Where the cases run, and the counters' HostOnly and GuestOnly. */
static const struct place {
	const char *name;
	void (*run)(void (*measured)(void));
	u64 bits;
} places[] = {
	{"L1", in_l1, 0},
	{"L1, HostOnly", in_l1, EVTSEL_HOSTONLY},
	{"L2", in_l2, 0},
	{"L2 with nested paging, GuestOnly", in_l2_with_npt, EVTSEL_GUESTONLY},
};

static const struct place *place;

static void run_case(const void *arg)
{
	const struct crossing *c = arg;
	u64 got[COUNTERS];

	trap_gate_user(0x80, c->back);
	trap_gate_user(c->vector, c->back);
	if (c->ready)
		c->ready();
	place->run(c->measured);
	if (c->done)
		c->done();
	trap_gate(0x80, NULL);
	trap_gate(c->vector, NULL);
	for (u32 i = 0; i < COUNTERS; i++)
		got[i] = (cpl_after[i] - cpl_before[i] - (i == USR ? 0 : AHEAD(i) + BEHIND(i))) &
			 PMU_COUNTER_MASK;
	if (c->any) {
		tap_equal(got[BOTH], got[OS] + got[USR], "the sum");
		/* the handler's last one of six counts in user mode */
		tap_equal(got[OS], FRAME_KERNEL + TO_USER_KERNEL + 1 + 3 * 5, counter_name[OS]);
		CHECK(got[USR] > 10000);
		return;
	}
	if (c->fault_tick && departs(DEPARTURE_FAULT_TICKS)) {
		got[BOTH]--;
		got[c->fault_tick]--;
	}
	if (c->late && platform.lowest_backend == TALLY_BACKEND_CLOCK &&
	    departs(DEPARTURE_CPL_LATE)) {
		/* `clock` itself has still the old state when it carries CPUID out */
		u64 late = c->late + (platform.backend == TALLY_BACKEND_CLOCK);

		got[OS] -= late;
		got[USR] += late;
	}
	tap_equal(got[BOTH], FRAME_KERNEL + c->kernel + c->user, counter_name[BOTH]);
	tap_equal(got[USR], c->user, counter_name[USR]);
	tap_equal(got[OS], FRAME_KERNEL + c->kernel, counter_name[OS]);
}

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(places) * ARRAY_SIZE(cases));
	if (!pmu_start_exact() || !svm_start())
		return;
	efer_was = rdmsr(MSR_EFER);
	star_was = rdmsr(MSR_STAR);
	lstar_was = rdmsr(MSR_LSTAR);
	sfmask_was = rdmsr(MSR_SFMASK);
	pmu_stop_all();
	for (place = places; place < places + ARRAY_SIZE(places); place++) {
		note("in %s", place->name);
		wrmsr(MSR_PERFEVTSEL(BOTH), SEL_INSTRUCTIONS | place->bits);
		wrmsr(MSR_PERFEVTSEL(USR), (SEL_INSTRUCTIONS & ~EVTSEL_OS) | place->bits);
		wrmsr(MSR_PERFEVTSEL(OS), (SEL_INSTRUCTIONS & ~EVTSEL_USR) | place->bits);
		for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
			tap_run(cases[i].name, run_case, &cases[i]);
	}
	pmu_stop_all();
}

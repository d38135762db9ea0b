/* SPDX-License-Identifier: MIT */
/*
 * Between check and use: each CPU with an even number runs L2s, and the next one writes meanwhile to what the hypervisor
 * reads for that, values from right to hostile: nested tables, vmcb12, permission maps, the instructions that exit. Whatever
 * comes of it, it is what one of the values allows.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/smp_l2.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define ROUNDS 1000u
#define WRITES 1000u
#define TARGETS 32u
#define VALUES 7u
#define MARK_A 0xaaaa0000aaaa0000ull
#define MARK_B 0xbbbb0000bbbb0000ull
#define MARK_WINDOW 0xcccc0000cccc0000ull
#define MARK_SECRET 0xdddd0000dddd0000ull
#define LEAF (PTE_P | PTE_W | PTE_U)
#define PORT_GUARDED 0xf4u /* a write to it ends the machine */
#define PORT 0x80u
#define KINDS 8u

const bool guest_wants_cpus = true;

/* What the attacker writes to. */
struct target {
	void *at;
	u32 bytes, values;
	u64 value[VALUES];
};

static struct victim {
	u64 a[512], b[512], window[512], secret[512]; /* L2 has no way to the last one */
	u8 code[PAGE_SIZE];
	struct paging tables, others;
	u8 iopm[2][IOPM_BYTES] ALIGNED(4096);
	u8 msrpm[2][MSRPM_BYTES] ALIGNED(4096);
	struct vmcb good;
	struct target target[TARGETS];
	u32 targets;
	u64 random;
	u64 wrong, first_wrong; /* with what */
	u32 ended[KINDS];
	volatile bool over;
	volatile u64 writes;
	bool waits; /* for the attacker, before each VMRUN */
} victims[MP_CPUS] ALIGNED(4096);

static struct tally_status status ALIGNED(512);
static u64 beyond; /* the first address that does not exist */

L2_CODE(l2_window, "mov (%rsi), %rax\n\tmov %rdi, 8(%rsi)\n\tmov (%rsi), %rdx");
L2_CODE(l2_maps, "mov $0x174, %ecx\n\trdmsr\n\tin $0x80, %al\n\t"
		 "mov $0xc0000082, %ecx\n\trdmsr\n\twrmsr\n\tout %al, $0xf4");

static void wrong_with(struct victim *v, bool right, u64 what)
{
	if (right)
		return;
	if (!v->wrong++)
		v->first_wrong = what;
}

/* random.h's state is one for all CPUs. */
static u64 next_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void add(struct victim *v, void *at, u32 bytes, u32 values, const u64 *value)
{
	struct target *t = &v->target[v->targets++];

	*t = (struct target){.at = at, .bytes = bytes, .values = values};
	for (u32 i = 0; i < values; i++)
		t->value[i] = value[i];
}

#define ADD(v, at, ...)                                                                            \
	add(v, at, sizeof(*(at)), sizeof((u64[]){__VA_ARGS__}) / 8, (u64[]){__VA_ARGS__})

/* Of a VMCB, which is packed. */
#define ADD_FIELD(v, area, field, ...)                                                             \
	add(v, (u8 *)(area) + offsetof(__typeof__(*(area)), field), sizeof((area)->field),         \
	    sizeof((u64[]){__VA_ARGS__}) / 8, (u64[]){__VA_ARGS__})

static void store(const struct target *t, u64 value)
{
	switch (t->bytes) {
	case 1:
		*(volatile u8 *)t->at = (u8)value;
		break;
	case 2:
		*(volatile u16 *)t->at = (u16)value;
		break;
	case 4:
		*(volatile u32 *)t->at = (u32)value;
		break;
	default:
		*(volatile u64 *)t->at = value;
	}
}

static void attack(struct victim *v)
{
	u64 state = 0x9e3779b97f4a7c15ull + smp_this();

	while (!v->over) {
		const struct target *t = &v->target[next_random(&state) % v->targets];

		/* there and back, as often as a VMRUN takes: so one reads the one, and the next reads the other */
		for (u64 n = next_random(&state) & 0xff; n; n--) {
			store(t, t->value[next_random(&state) % t->values]);
			v->writes++;
			store(t, t->value[0]);
		}
		if (state >> 32 & 1)
			store(t, t->value[next_random(&state) % t->values]);
	}
	for (u32 i = 0; i < v->targets; i++)
		store(&v->target[i], v->target[i].value[0]);
}

/* The even CPUs do `run`, of which the other ones know nothing but its victim. */
static void race(void *run)
{
	u32 me = smp_this();
	void (*const rounds)(struct victim * v) = (void (*)(struct victim *))(u64)run;

	smp_l2_enable();
	if (me & 1) {
		attack(&victims[me - 1]);
		return;
	}
	rounds(&victims[me]);
	victims[me].over = true;
}

static void fill(u64 *page, u64 mark)
{
	for (u32 i = 0; i < 512; i++)
		page[i] = mark;
}

/* Everything is good, and nothing is attacked. */
static void prepare(const void *entry)
{
	l2_reset(entry);
	for (unsigned int vector = 0; vector < 32; vector++)
		if (vector != VEC_NMI)
			l2_intercept(INTERCEPT_EXCEPTION(vector));
	l2_intercept(INTERCEPT(INTR));
	l2_intercept(INTERCEPT(MSR));
	l2_intercept(INTERCEPT(IOIO));
	smp_l2_prepare();
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];
		struct vmcb_control *c = &smp_l2_of(i)->vmcb.control;

		fill(v->a, MARK_A);
		fill(v->b, MARK_B);
		fill(v->window, MARK_WINDOW);
		fill(v->secret, MARK_SECRET);
		paging_identity(&v->tables, LEAF);
		paging_identity(&v->others, LEAF);
		*paging_split(&v->tables, (u64)v->window) = (u64)v->a | LEAF;
		for (u32 m = 0; m < 2; m++) {
			for (u32 at = 0; at < IOPM_BYTES; at++)
				v->iopm[m][at] = 0;
			v->iopm[m][PORT_GUARDED / 8] |= 1 << PORT_GUARDED % 8;
			for (u32 at = 0; at < MSRPM_BYTES; at++)
				v->msrpm[m][at] = 0;
			v->msrpm[m][0x800 + 0x82 / 4] |= 3 << 0x82 % 4 * 2; /* LSTAR */
		}
		c->iopm_base_pa = (u64)v->iopm[0];
		c->msrpm_base_pa = (u64)v->msrpm[0];
		c->np_ctl = NP_ENABLE;
		c->nested_cr3 = paging_root(&v->tables);
		c->tlb_control = TLB_CONTROL_FLUSH_ALL;
		v->good = smp_l2_of(i)->vmcb;
		v->targets = 0;
		v->random = 88172645463325252ull + i;
		v->wrong = v->writes = 0;
		v->over = v->waits = false;
		for (u32 k = 0; k < KINDS; k++)
			v->ended[k] = 0;
	}
}

/* VMRUN of the good VMCB, if nobody writes to it. */
static u64 run(struct victim *v, const void *entry)
{
	struct smp_l2 *own = smp_l2();

	own->vmcb = v->good;
	own->vmcb.save.rip = (u64)entry;
	/* something of it is another value by now, perhaps */
	for (u64 before = v->writes, n = 0; v->writes == before && v->waits && n < 1000; n++)
		asm volatile("pause");
	own->regs.rsi = (u64)v->window;
	own->regs.rdi = MARK_A;
	return smp_l2_run();
}

/* Each way to end has a number, by which it is counted. */
static u32 kind_of(u64 code)
{
	switch (code) {
	case VMEXIT_VMMCALL:
		return 0;
	case VMEXIT_NPF:
		return 1;
	case VMEXIT_INVALID:
		return 2;
	case VMEXIT_MSR:
		return 3;
	case VMEXIT_IOIO:
		return 4;
	case VMEXIT_SHUTDOWN:
		return 5;
	default:
		return code >= VMEXIT_EXCEPTION(0) && code <= VMEXIT_EXCEPTION(31) ? 6 : 7;
	}
}

/* ---- afterwards ---- */

static void be_good(void *arg)
{
	struct victim *v = &victims[smp_this()];
	const volatile u64 *region = (const volatile u64 *)status.region_gpa;
	u64 own_status[64] ALIGNED(512);

	(void)arg;
	smp_l2_enable();
	for (u32 n = 0; n < 4; n++) {
		u64 code = run(v, l2_window);

		wrong_with(v, code == VMEXIT_VMMCALL, code);
		wrong_with(v, smp_l2()->vmcb.save.rax == MARK_A, smp_l2()->vmcb.save.rax);
	}
	for (u64 at = 0; at < status.region_bytes / 8; at += 0x1237)
		wrong_with(v, region[at] == ~0ull, region[at]);
	for (u32 i = 0; i < 512; i++)
		wrong_with(v, v->secret[i] == MARK_SECRET, v->secret[i]);
	wrong_with(v, !hypercall(TALLY_CALL_STATUS, (u64)own_status, 0, 0), 0);
}

static void check_all(const char *what)
{
	u64 writes = 0;
	u32 ended[KINDS] = {0};

	smp_run_all(be_good, NULL);
	for (u32 i = 0; i < smp_cpus(); i++) {
		if (!CHECK_EQ(victims[i].wrong, 0))
			note("CPU %u: first %lx", i, victims[i].first_wrong);
		CHECK(!i || smp_beats(i));
		writes += victims[i].writes;
		for (u32 k = 0; k < KINDS; k++)
			ended[k] += victims[i].ended[k];
	}
	note("%s: %lu writes; VMMCALL %u NPF %u INVALID %u MSR %u IOIO %u SHUTDOWN %u exceptions "
	     "%u others %u",
	     what, writes, ended[0], ended[1], ended[2], ended[3], ended[4], ended[5], ended[6],
	     ended[7]);
	CHECK(writes >= WRITES);
}

static void race_all(void (*rounds)(struct victim *v), const char *what)
{
	smp_run_all(race, (void *)(u64)rounds);
	check_all(what);
}

/* ---- nested tables ---- */

static void check_window(struct victim *v, u64 code)
{
	const struct vmcb_save *s = &smp_l2()->vmcb.save;
	const u64 seen[] = {s->rax, smp_l2()->regs.rdx};

	v->ended[kind_of(code)]++;
	if (code != VMEXIT_VMMCALL)
		return;
	for (u32 i = 0; i < 2; i++)
		wrong_with(v,
			   seen[i] == MARK_A || seen[i] == MARK_B || seen[i] == MARK_WINDOW ||
				   seen[i] == ~0ull,
			   seen[i]);
}

static void run_tables(struct victim *v)
{
	for (u32 n = 0; n < ROUNDS || v->writes < WRITES; n++) {
		u64 code = run(v, l2_window);

		check_window(v, code);
		wrong_with(v, code == VMEXIT_VMMCALL || code == VMEXIT_NPF, code);
	}
}

static void check_tables(const void *arg)
{
	const u64 region = status.region_gpa;

	(void)arg;
	prepare(l2_window);
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];
		u64 window = (u64)v->window, pt = (u64)v->tables.pt, pd = (u64)v->tables.pd[0],
		    pdpt = (u64)v->tables.pdpt;

		ADD(v, paging_entry(&v->tables, window, 1), (u64)v->a | LEAF, (u64)v->b | LEAF,
		    (u64)v->b | (PTE_P | PTE_U), 0, region | LEAF, (u64)v->a | LEAF | BIT(51),
		    beyond | LEAF);
		ADD(v, paging_entry(&v->tables, window, 2), pt | LEAF, 0,
		    ALIGN_DOWN(window, PAGE_2M) | LEAF | PTE_PS, region | LEAF, pt | LEAF | BIT(51),
		    beyond | LEAF, ALIGN_DOWN(window, PAGE_2M) | LEAF | PTE_PS | BIT(13));
		ADD(v, paging_entry(&v->tables, window, 3), pd | LEAF, 0, region | LEAF,
		    beyond | LEAF, pd | LEAF | PTE_PS | BIT(13));
		ADD(v, &v->tables.pml4[0], pdpt | LEAF, pdpt | LEAF | PTE_PS, region | LEAF);
	}
	race_all(run_tables, "nested tables");
}

/* ---- vmcb12 ---- */

static void run_vmcb(struct victim *v)
{
	v->waits = true;
	for (u32 n = 0; n < ROUNDS || v->writes < WRITES; n++)
		check_window(v, run(v, l2_window));
	v->waits = false;
}

static void check_vmcb(const void *arg)
{
	const u64 region = status.region_gpa, bad_event = EVENT_V | 1 << 8,
		  no_vector = EVENT_V | EVENT_TYPE_EXCEPTION | 40;

	(void)arg;
	prepare(l2_window);
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];
		struct vmcb_control *c = &smp_l2_of(i)->vmcb.control;
		struct vmcb_save *s = &smp_l2_of(i)->vmcb.save;
		const struct vmcb_save *g = &v->good.save;
		const u32 word = INTERCEPT(VMRUN) / 32;

		ADD_FIELD(v, c, nested_cr3, v->good.control.nested_cr3, paging_root(&v->others),
			  region, beyond, ~0ull);
		ADD_FIELD(v, c, asid, 1, 0, 2, ~0u);
		ADD_FIELD(v, c, np_ctl, NP_ENABLE, 0);
		ADD_FIELD(v, c, tlb_control, TLB_CONTROL_FLUSH_ALL, 0, TLB_CONTROL_FLUSH_ASID, 7,
			  0xff);
		ADD_FIELD(v, c, iopm_base_pa, (u64)v->iopm[0], (u64)v->iopm[1], region, beyond,
			  ~0ull, beyond - PAGE_SIZE);
		ADD_FIELD(v, c, msrpm_base_pa, (u64)v->msrpm[0], (u64)v->msrpm[1], region, beyond,
			  ~0ull, beyond - PAGE_SIZE);
		ADD_FIELD(v, c, intercepts[word], v->good.control.intercepts[word],
			  v->good.control.intercepts[word] & ~(1u << INTERCEPT(VMRUN) % 32));
		ADD_FIELD(v, c, event_inj, 0, bad_event, no_vector);
		ADD_FIELD(v, c, int_ctl, 0, V_INTR_MASKING, V_IRQ, V_GIF_ENABLE,
			  V_GIF_ENABLE | V_IRQ, 0xf);
		ADD_FIELD(v, c, virt_ext, 0, 1, 2, 3, ~0u);
		ADD_FIELD(v, c, clean, 0, ~0u);
		ADD_FIELD(v, s, efer, g->efer, g->efer & ~EFER_SVME, g->efer | BIT(40),
			  g->efer & ~EFER_LMA);
		ADD_FIELD(v, s, cr0, g->cr0, g->cr0 | BIT(40), (g->cr0 & ~CR0_CD) | CR0_NW);
		ADD_FIELD(v, s, cr4, g->cr4, g->cr4 | BIT(40), g->cr4 & ~CR4_PAE);
		ADD_FIELD(v, s, cr3, g->cr3, beyond, ~0ull);
		ADD_FIELD(v, s, dr6, g->dr6, BIT(40));
		ADD_FIELD(v, s, dr7, g->dr7, BIT(40));
		ADD_FIELD(v, s, g_pat, g->g_pat, ~0ull);
		ADD_FIELD(v, s, cs.attrib, g->cs.attrib, g->cs.attrib | SEG_ATTR_DB);
		ADD_FIELD(v, s, rip, (u64)l2_window, 1ull << 50, region, ~0ull);
		ADD_FIELD(v, s, rsp, g->rsp, region, 0);
		ADD_FIELD(v, s, idtr.base, g->idtr.base, region);
		ADD_FIELD(v, c, exit_code, 0, ~0ull);
		ADD_FIELD(v, c, exit_int_info, 0, ~0ull);
	}
	race_all(run_vmcb, "vmcb12");
}

/* ---- permission maps ---- */

static void run_maps(struct victim *v)
{
	struct smp_l2 *own = smp_l2();
	struct vmcb_save *s = &own->vmcb.save;

	for (u32 n = 0; n < ROUNDS || v->writes < WRITES; n++) {
		u64 code = run(v, l2_maps);
		u32 guarded = 0;

		for (u32 exits = 0; code == VMEXIT_MSR || code == VMEXIT_IOIO; exits++) {
			bool port = code == VMEXIT_IOIO;

			v->ended[kind_of(code)]++;
			if (port ? own->vmcb.control.exit_info_1 >> 16 == PORT_GUARDED
				 : (u32)own->regs.rcx == MSR_LSTAR)
				guarded++;
			s->rip += 2;
			if (exits == 8)
				break;
			code = smp_l2_run();
		}
		v->ended[kind_of(code)]++;
		wrong_with(v, code == VMEXIT_VMMCALL, code);
		wrong_with(v, guarded == 3, guarded);
	}
}

static void check_maps(const void *arg)
{
	const u64 region = status.region_gpa;

	(void)arg;
	prepare(l2_maps);
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];
		struct vmcb_control *c = &smp_l2_of(i)->vmcb.control;

		for (u32 m = 0; m < 2; m++) {
			ADD(v, &v->msrpm[m][0x174 / 4], 0, 1, 3, 0xff);
			ADD(v, (u64 *)(u64)&v->msrpm[m][ALIGN_DOWN(0x174 / 4, 8)], 0, ~0ull);
			ADD(v, &v->msrpm[m][0x800 + 0x82 / 4], 3 << 0x82 % 4 * 2, 0xff);
			ADD(v, &v->iopm[m][PORT / 8], 0, 1, 0xff);
		}
		ADD_FIELD(v, c, msrpm_base_pa, (u64)v->msrpm[0], (u64)v->msrpm[1], region);
		ADD_FIELD(v, c, iopm_base_pa, (u64)v->iopm[0], (u64)v->iopm[1], region);
	}
	race_all(run_maps, "permission maps");
}

/* ---- instructions ---- */

#define CPUID_BYTES 0xa20full
#define RDMSR_BYTES 0x320full
#define RDTSC_BYTES 0x310full
/* RET, and the second byte of one that exits: QEMU fetches byte by byte, so the first one may be that of another value. */
#define RET_CPUID 0xa2c3ull
#define RET_RDMSR 0x32c3ull
#define RET 0xc3ull
#define CODE_ROUNDS 20000u

/* What the second byte, A2h, is by itself: MOV of AL to an absolute address, the first byte of which is the RET. */
static u8 mislaid[RET + 1] ALIGNED(0x100);
#define MISLAID 0xeeu

/* EAX and ECX are what the first two of these want; returns EAX, and EDX above it. */
static u64 execute(struct victim *v)
{
	u32 eax = CPUID_HYPERVISOR, ecx = (u32)MSR_EFER, edx;

	asm volatile("push %%rbx\n\tcall *%3\n\tpop %%rbx"
		     : "+a"(eax), "+c"(ecx), "=d"(edx)
		     : "r"(v->code)
		     : "memory", "cc");
	return (u64)edx << 32 | eax;
}

static void run_code(struct victim *v)
{
	for (u32 n = 0; n < CODE_ROUNDS || v->writes < WRITES; n++)
		execute(v);
}

/* Nobody writes any more: each is what it is. */
static void run_code_still(void *arg)
{
	struct victim *v = &victims[smp_this()];
	volatile u16 *insn = (volatile u16 *)(u64)v->code;

	(void)arg;
	wrong_with(v, mislaid[RET] == MISLAID, mislaid[RET]);
	for (u32 n = 0; n < 50; n++) {
		*insn = (u16)CPUID_BYTES;
		wrong_with(v, (u32)execute(v) == cpuid(CPUID_HYPERVISOR).eax, 1);
		*insn = (u16)RDMSR_BYTES;
		wrong_with(v, execute(v) == rdmsr(MSR_EFER), 2);
	}
}

static void check_code(const void *arg)
{
	(void)arg;
	prepare(l2_window);
	mislaid[RET] = MISLAID;
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];

		*(u16 *)(u64)v->code = (u16)RET_CPUID;
		__builtin_memcpy(v->code + 2, &(u64){(u64)&mislaid[RET]}, 8);
		v->code[10] = (u8)RET;
		ADD(v, (u16 *)(u64)v->code, RET_CPUID, CPUID_BYTES, RDMSR_BYTES, RET_RDMSR,
		    CPUID_BYTES, RDMSR_BYTES, RDTSC_BYTES);
	}
	race_all(run_code, "instructions that exit");
	smp_run_all(run_code_still, NULL);
	check_all("instructions that exit, afterwards");
}

/* MOV to a register of the APIC's from EAX or ECX: whichever, only one of the two values is written. */
#define MOV_EAX 0x0789ull
#define MOV_ECX 0x0f89ull
#define XCHG_EAX 0x0787ull
#define VALUE_EAX (0x51u | (u32)APIC_LVT_MASKED)
#define VALUE_ECX (0x52u | (u32)APIC_LVT_MASKED)

static u32 write_apic(struct victim *v)
{
	u64 at = (u64)apic_register(APIC_LVT_ERROR);
	u32 eax = VALUE_EAX, ecx = VALUE_ECX;

	asm volatile("call *%3" : "+a"(eax), "+c"(ecx) : "D"(at), "r"(v->code) : "memory", "cc");
	return apic_read(APIC_LVT_ERROR);
}

static void run_apic(struct victim *v)
{
	for (u32 n = 0; n < ROUNDS || v->writes < WRITES; n++) {
		u32 value = write_apic(v);

		wrong_with(v, value == VALUE_EAX || value == VALUE_ECX, value);
	}
}

static void run_apic_still(void *arg)
{
	struct victim *v = &victims[smp_this()];
	volatile u16 *insn = (volatile u16 *)(u64)v->code;
	u32 value;

	(void)arg;
	for (u32 n = 0; n < 50; n++) {
		*insn = n & 1 ? (u16)MOV_EAX : (u16)MOV_ECX;
		value = write_apic(v);
		wrong_with(v, value == (n & 1 ? VALUE_EAX : VALUE_ECX), value);
	}
}

static void check_apic(const void *arg)
{
	(void)arg;
	if (apic_x2()) {
		tap_skip("the firmware has left x2APIC mode on");
		return;
	}
	prepare(l2_window);
	for (u32 i = 0; i < smp_cpus(); i++) {
		struct victim *v = &victims[i];

		*(u32 *)(u64)v->code = (u32)(RET << 16 | MOV_EAX);
		ADD(v, (u16 *)(u64)v->code, MOV_EAX, MOV_ECX, XCHG_EAX, MOV_ECX);
	}
	race_all(run_apic, "writes to the APIC");
	smp_run_all(run_apic_still, NULL);
	check_all("writes to the APIC, afterwards");
}

static const struct test {
	const char *name;
	void (*run)(const void *arg);
} tests[] = {
	{"nested tables while L2 runs on them", check_tables},
	{"vmcb12 during VMRUN and #VMEXIT", check_vmcb},
	{"permission maps while L2 runs", check_maps},
	{"instructions while they exit", check_code},
	{"instructions that write to the APIC", check_apic},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!smp_begin_on_us(&status))
		return;
	beyond = BIT(cpuid(CPUID_ADDR_SIZES).eax & 0xff);
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, tests[i].run, NULL);
	smp_end();
}

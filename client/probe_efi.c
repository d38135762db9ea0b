/* SPDX-License-Identifier: MIT */
/*
 * The probe at CPL 0 of the firmware's one CPU, with a guest of its own. From begin() to end() RFLAGS.IF is 0, the IDT is a
 * copy of the firmware's with three gates of our own, and nothing of the firmware is called.
 */
#include "client/os.h"
#include "client/probe.h"
#include "x86/apic.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"
#include "x86/svm.h"

/* probe_efi.asm has as many of each. */
#define NOPS 1000u
#define JUMPS 1000u
#define IRETS 100u
#define VMRUNS 16u

#define VECTOR_NMI 2u
#define VECTOR_GP 13u
#define VECTOR_PMI 0xf1u
#define TPR_BELOW_PMI 14u /* of CR8: the firmware's own interrupts wait */
#define PIC_MASK_1 0x21u  /* but for those of the PIC, which know no TPR */
#define PIC_MASK_2 0xa1u

#define ATTR_CODE64 0xa9b
#define ATTR_DATA 0xc93

struct gate {
	u16 offset_lo, selector;
	u8 ist, type;
	u16 offset_mid;
	u32 offset_hi, reserved;
} PACKED;
static_assert(sizeof(struct gate) == 16, "a gate of the IDT, APM2 figure 4-24");

struct table_register {
	u16 limit;
	u64 base;
} PACKED;

/* probe_efi.asm */
extern const u8 probe_nothing[], probe_nops[], probe_jumps[], probe_irets[], probe_vmrun[],
	probe_vmruns[];
extern const u8 probe_do_clgi[], probe_do_stgi[], probe_do_vmload[], probe_do_vmsave[],
	probe_do_cpuid[], probe_do_rdmsr[], probe_do_wrmsr[];
extern const u8 probe_l2_nops[], probe_l2_vmmcall[], probe_l2_cpuid[], probe_l2_rdmsr[],
	probe_l2_wrmsr[], probe_l2_hlt[], probe_l2_out[];
extern const u8 probe_sled[], probe_sled_end[];
extern const u8 probe_on_gp[], probe_on_pmi[], probe_on_nmi[];
extern u64 probe_firmware_gp, probe_pmi_rip;
extern volatile u32 probe_pmis;
bool probe_rdmsr(u32 msr, u64 *value);
bool probe_wrmsr(u32 msr, u64 value);
void probe_between(u32 msr, u64 eventsel, const u8 *code, u64 rax);
void probe_over(u32 msr, u64 eventsel, bool interrupts);
u64 probe_time(const u8 *code, u64 rax);

static struct vmcb vmcb, host_state;
static u8 hsave[PAGE_SIZE] ALIGNED(4096);
static u8 iopm[IOPM_BYTES] ALIGNED(4096), msrpm[MSRPM_BYTES] ALIGNED(4096);
static u8 guest_stack[PAGE_SIZE] ALIGNED(16);
static struct gate idt[256] ALIGNED(16);
static struct {
	struct table_register idtr;
	u64 rflags, efer, hsave_pa, cr8;
	u32 lvtpc, lvt_timer;
	u8 pic_1, pic_2;
} saved;

/* ---- one instruction each ---- */

static void cpuid(u32 leaf, u32 r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* Of one that every CPU with SVM has. */
static u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static u8 inb(u16 port)
{
	u8 v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

#define READ(what, name)                                                                           \
	static u64 name(void)                                                                      \
	{                                                                                          \
		u64 v;                                                                             \
		asm volatile("mov %%" what ", %0" : "=r"(v) : : "memory");                         \
		return v;                                                                          \
	}
READ("cr0", read_cr0)
READ("cr3", read_cr3)
READ("cr4", read_cr4)
READ("cr8", read_cr8)
READ("cs", read_cs)

static void write_cr8(u64 v)
{
	asm volatile("mov %0, %%cr8" : : "r"(v) : "memory");
}

static u64 read_flags(void)
{
	u64 v;

	asm volatile("pushfq; pop %0" : "=r"(v) : : "memory");
	return v;
}

static void clgi(void)
{
	asm volatile("clgi" : : : "memory");
}

static void stgi(void)
{
	asm volatile("stgi" : : : "memory");
}

/* ---- the local APIC ---- */

static u32 apic_read(u32 reg)
{
	u64 base = rdmsr(MSR_APIC_BASE);

	if (base & APIC_BASE_X2)
		return (u32)rdmsr(APIC_X2_MSR(reg));
	return *(volatile u32 *)((base & APIC_BASE_ADDRESS) + reg);
}

static void apic_write(u32 reg, u32 value)
{
	u64 base = rdmsr(MSR_APIC_BASE);

	if (base & APIC_BASE_X2)
		wrmsr(APIC_X2_MSR(reg), value);
	else
		*(volatile u32 *)((base & APIC_BASE_ADDRESS) + reg) = value;
}

/* ---- the machine for the time ---- */

static void gate_set(u32 vector, const u8 *handler)
{
	u64 address = (u64)handler;

	idt[vector] = (struct gate){
		.offset_lo = (u16)address,
		.offset_mid = (u16)(address >> 16),
		.offset_hi = (u32)(address >> 32),
		.selector = (u16)read_cs(),
		.type = 0x8e,
	};
}

static void load_idt(void)
{
	const struct table_register idtr = {sizeof(idt) - 1, (u64)idt};
	const struct gate *gp = &idt[VECTOR_GP];
	u64 bytes = saved.idtr.limit + 1ull;

	__builtin_memset(idt, 0, sizeof(idt));
	__builtin_memcpy(idt, (const void *)saved.idtr.base,
			 bytes < sizeof(idt) ? bytes : sizeof(idt));
	probe_firmware_gp = gp->offset_lo | (u64)gp->offset_mid << 16 | (u64)gp->offset_hi << 32;
	gate_set(VECTOR_NMI, probe_on_nmi);
	gate_set(VECTOR_GP, probe_on_gp);
	gate_set(VECTOR_PMI, probe_on_pmi);
	asm volatile("lidt %0" : : "m"(idtr));
}

static void guest_reset(void)
{
	const struct vmcb_seg data = {.selector = 0x10, .attrib = ATTR_DATA, .limit = ~0u};
	struct vmcb_control *c = &vmcb.control;
	struct vmcb_save *s = &vmcb.save;
	struct table_register gdtr;

	vmcb = (struct vmcb){0};
	__builtin_memset(iopm, 0xff, sizeof(iopm));
	__builtin_memset(msrpm, 0xff, sizeof(msrpm));
	asm volatile("sgdt %0" : "=m"(gdtr));
	c->asid = 1;
	c->iopm_base_pa = (u64)iopm;
	c->msrpm_base_pa = (u64)msrpm;
	vmcb_set_intercept(c, INTERCEPT(CPUID));
	vmcb_set_intercept(c, INTERCEPT(HLT));
	vmcb_set_intercept(c, INTERCEPT(IOIO));
	vmcb_set_intercept(c, INTERCEPT(MSR));
	vmcb_set_intercept(c, INTERCEPT(SHUTDOWN));
	vmcb_set_intercept(c, INTERCEPT(VMRUN));
	vmcb_set_intercept(c, INTERCEPT(VMMCALL));
	s->cs = (struct vmcb_seg){.selector = (u16)read_cs(), .attrib = ATTR_CODE64, .limit = ~0u};
	s->ds = s->es = s->ss = data;
	s->gdtr = (struct vmcb_seg){.limit = gdtr.limit, .base = gdtr.base};
	s->idtr = (struct vmcb_seg){.limit = sizeof(idt) - 1, .base = (u64)idt};
	s->efer = rdmsr(MSR_EFER) | EFER_SVME;
	s->cr0 = read_cr0();
	s->cr3 = read_cr3();
	s->cr4 = read_cr4();
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->g_pat = rdmsr(MSR_PAT);
	s->rflags = RFLAGS_FIXED;
	s->rsp = (u64)(guest_stack + sizeof(guest_stack));
}

/* The guest as probe_vmrun finds it: RIP is where it is, whatever exited there last. */
static void guest_at(const u8 *where)
{
	vmcb.save.rip = (u64)where;
	vmcb.save.rax = 0;
}

static const char *begin(void)
{
	saved.rflags = read_flags();
	asm volatile("cli" : : : "memory");
	asm volatile("sidt %0" : "=m"(saved.idtr));
	load_idt();
	saved.efer = rdmsr(MSR_EFER);
	saved.hsave_pa = rdmsr(MSR_VM_HSAVE_PA);
	saved.lvtpc = apic_read(APIC_LVTPC);
	saved.lvt_timer = apic_read(APIC_LVT_TIMER);
	apic_write(APIC_LVT_TIMER, saved.lvt_timer | (u32)APIC_LVT_MASKED);
	saved.cr8 = read_cr8();
	saved.pic_1 = inb(PIC_MASK_1);
	saved.pic_2 = inb(PIC_MASK_2);
	outb(PIC_MASK_1, 0xff);
	outb(PIC_MASK_2, 0xff);
	write_cr8(TPR_BELOW_PMI);
	wrmsr(MSR_EFER, saved.efer | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (u64)hsave);
	guest_reset();
	/* once, with whatever the TLB has of this ASID; what comes of it shows later */
	vmcb.control.tlb_control = TLB_CONTROL_FLUSH_ALL;
	guest_at(probe_l2_vmmcall);
	clgi();
	probe_time(probe_vmrun, (u64)&vmcb);
	stgi();
	vmcb.control.tlb_control = TLB_CONTROL_NONE;
	return NULL;
}

static void end(void)
{
	wrmsr(MSR_VM_HSAVE_PA, saved.hsave_pa);
	wrmsr(MSR_EFER, saved.efer);
	apic_write(APIC_LVTPC, saved.lvtpc);
	apic_write(APIC_LVT_TIMER, saved.lvt_timer);
	write_cr8(saved.cr8);
	outb(PIC_MASK_1, saved.pic_1);
	outb(PIC_MASK_2, saved.pic_2);
	asm volatile("lidt %0" : : "m"(saved.idtr));
	if (saved.rflags & RFLAGS_IF)
		asm volatile("sti" : : : "memory");
}

/* ---- what is asked for ---- */

static const char *exit_is(u64 code)
{
	if (vmcb.control.exit_code == code)
		return NULL;
	return vmcb.control.exit_code == VMEXIT_INVALID ? "VMRUN refuses the guest"
							: "the guest exits otherwise";
}

static const char *in_guest(const struct probe_run *run)
{
	const u8 *code = probe_vmrun;

	vmcb.control.exit_code = 0;
	if (run->code == PROBE_VMRUNS) {
		guest_at(probe_l2_vmmcall);
		code = run->any ? probe_vmruns : probe_nothing;
	} else if (run->code == PROBE_NOPS) {
		guest_at(run->any ? probe_l2_nops : probe_l2_vmmcall);
	} else {
		return "the guest has no such code";
	}
	clgi();
	probe_between(run->selector_msr, run->eventsel, code, (u64)&vmcb);
	stgi();
	return code == probe_nothing ? NULL : exit_is(VMEXIT_VMMCALL);
}

static const char *run(const struct probe_run *run)
{
	static const u8 *const code[PROBE_CODES] = {[PROBE_NOPS] = probe_nops,
						    [PROBE_JUMPS] = probe_jumps,
						    [PROBE_IRETS] = probe_irets};
	const u64 efer = saved.efer | EFER_SVME;

	if (run->mode == PROBE_GUEST)
		return in_guest(run);
	if (run->code == PROBE_VMRUNS)
		return "VMRUN needs SVME";
	wrmsr(MSR_EFER, run->mode == PROBE_SVME0 ? efer & ~EFER_SVME : efer);
	probe_between(run->selector_msr, run->eventsel, run->any ? code[run->code] : probe_nothing,
		      0);
	wrmsr(MSR_EFER, efer);
	return NULL;
}

/* On silicon it takes a moment. */
static void settle(void)
{
	for (u32 i = 0; i < 1000; i++)
		asm volatile("pause");
}

static const char *overflow(const struct probe_overflow_run *run, struct probe_interrupts *i)
{
	const bool fixed = run->signal != PROBE_NMI;

	probe_pmis = 0;
	probe_pmi_rip = 0;
	apic_write(APIC_LVTPC, fixed ? VECTOR_PMI : APIC_DELIVERY_NMI);
	probe_over(run->selector_msr, run->eventsel, fixed);
	settle();
	/* one that is late, and a second, behind the EOI of the first */
	for (u32 more = 0; fixed && more < 2; more++) {
		asm volatile("sti; nop; nop; nop; cli" : : : "memory");
		if (apic_read(APIC_ISR + VECTOR_PMI / 32 * 16) >> VECTOR_PMI % 32 & 1)
			apic_write(APIC_EOI, 0);
	}
	i->count = probe_pmis;
	i->lvtpc_masked = apic_read(APIC_LVTPC) & APIC_LVT_MASKED;
	apic_write(APIC_LVTPC, saved.lvtpc);
	if (!i->count)
		i->skid_why = "no interrupt";
	else if (probe_pmi_rip < (u64)probe_sled || probe_pmi_rip > (u64)probe_sled_end)
		i->skid_why = "it came more than 16,000 instructions late";
	else if (probe_pmi_rip < (u64)probe_sled + run->to_overflow)
		i->skid_why = "it came before the overflow";
	else
		i->skid = probe_pmi_rip - (u64)probe_sled - run->to_overflow;
	return NULL;
}

struct exit_cost {
	const u8 *guest;
	u64 code;
};

static const char *exit_ticks(const struct exit_cost *e, u64 *ticks)
{
	vmcb.control.exit_code = 0;
	guest_at(e->guest);
	*ticks = probe_time(probe_vmrun, (u64)&vmcb);
	return exit_is(e->code);
}

static const char *cost(enum probe_cost what, u64 *ticks)
{
	static const struct exit_cost exits[] = {
		[PROBE_COST_EXIT_VMMCALL] = {probe_l2_vmmcall, VMEXIT_VMMCALL},
		[PROBE_COST_EXIT_CPUID] = {probe_l2_cpuid, VMEXIT_CPUID},
		[PROBE_COST_EXIT_RDMSR] = {probe_l2_rdmsr, VMEXIT_MSR},
		[PROBE_COST_EXIT_WRMSR] = {probe_l2_wrmsr, VMEXIT_MSR},
		[PROBE_COST_EXIT_HLT] = {probe_l2_hlt, VMEXIT_HLT},
		[PROBE_COST_EXIT_OUT] = {probe_l2_out, VMEXIT_IOIO},
	};
	static const u8 *const code[PROBE_COST_KINDS] = {
		[PROBE_COST_CLGI] = probe_do_clgi,
		[PROBE_COST_STGI] = probe_do_stgi,
		[PROBE_COST_VMLOAD] = probe_do_vmload,
		[PROBE_COST_VMSAVE] = probe_do_vmsave,
		[PROBE_COST_CPUID] = probe_do_cpuid,
		[PROBE_COST_RDMSR_COUNTER] = probe_do_rdmsr,
		[PROBE_COST_WRMSR_SELECTOR] = probe_do_wrmsr,
	};
	u64 nothing, rax = (u64)&host_state;
	const char *why = NULL;

	if (what == PROBE_COST_RDMSR_COUNTER)
		rax = MSR_LEGACY_PERFCTR(0);
	if (what == PROBE_COST_WRMSR_SELECTOR)
		rax = MSR_LEGACY_PERFEVTSEL(0);
	/* so that VMLOAD loads what is there */
	asm volatile("vmsave %%rax" : : "a"(&host_state) : "memory");
	if (what == PROBE_COST_CLGI)
		stgi();
	else
		clgi();
	nothing = probe_time(probe_nothing, 0);
	if (what < ARRAY_SIZE(exits))
		why = exit_ticks(&exits[what], ticks);
	else
		*ticks = probe_time(code[what], rax);
	stgi();
	*ticks = *ticks > nothing ? *ticks - nothing : 0;
	return why;
}

const struct probe_machine *os_probe_machine(unsigned int cpu)
{
	static struct probe_machine m = {
		.system = "UEFI",
		.cpl = EVTSEL_USR | EVTSEL_OS,
		.repeats = {[PROBE_NOPS] = NOPS,
			    [PROBE_JUMPS] = JUMPS,
			    [PROBE_IRETS] = IRETS,
			    [PROBE_VMRUNS] = VMRUNS},
		.exact = true,
		.cost_rounds = PROBE_COST_ROUNDS,
		.costs = "of the TSC; an exit is from VMRUN to behind it",
		.cpuid = cpuid,
		.rdmsr = probe_rdmsr,
		.wrmsr = probe_wrmsr,
		.begin = begin,
		.end = end,
		.run = run,
		.overflow = overflow,
		.cost = cost,
	};

	return os_connect(cpu) ? &m : NULL;
}

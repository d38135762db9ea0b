/* SPDX-License-Identifier: MIT */
/* Takes the CPU over from the loader: own tables, vmcb01 from the present state, and into the loop. */
#include "abi/features.h"
#include "hv/apic.h"
#include "hv/cpu.h"
#include "hv/cpus.h"
#include "hv/iommu.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/panic.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* What core_entry pushed: the loader's registers and where it goes on. */
struct entry_frame {
	u64 r15, r14, r13, r12, rbp, rbx, rflags, rip;
};

s64 core_main(struct handoff *handoff, const struct entry_frame *frame);
NORETURN void core_leave_boot_stack(struct vcpu *v, u32 *entered); /* vmrun.asm */

extern const u8 __text_end[], __rodata_end[], __image_end[];
extern const u64 idt_entries[256];
void load_tables(u64 cr3, const struct descriptor_table *gdt, const struct descriptor_table *idt);

static u64 gdt[] = {
	0, 0x00af9b000000ffffull, /* 08h: 64-bit code */
	0x00cf93000000ffffull,	  /* 10h: data */
};

struct gate {
	u16 offset_lo, selector;
	u16 flags;
	u16 offset_mid;
	u32 offset_hi, reserved;
};

static struct gate idt[256];

#define GATE_INTERRUPT 0x8e00

static void fill_idt(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(idt); i++) {
		u64 entry = idt_entries[i];

		idt[i] = (struct gate){.offset_lo = (u16)entry,
				       .offset_mid = (u16)(entry >> 16),
				       .offset_hi = (u32)(entry >> 32),
				       .selector = 0x08,
				       .flags = GATE_INTERRUPT};
	}
}

/* A segment register as vmcb01 has it: selector, and the descriptor behind it in the loader's GDT. */
static struct vmcb_seg segment(u16 selector, const struct descriptor_table *table)
{
	const u64 *descriptors = (const u64 *)(uintptr_t)table->base;
	u64 d = selector & 0xfff8 ? descriptors[selector >> 3] : 0;
	u32 limit = (u32)((d & 0xffff) | ((d >> 32) & 0xf0000));

	return (struct vmcb_seg){.selector = selector,
				 .attrib = (u16)(((d >> 40) & 0xff) | ((d >> 44) & 0xf00)),
				 .limit = (d >> 55) & 1 ? limit << 12 | 0xfff : limit,
				 .base = ((d >> 16) & 0xffffff) | ((d >> 32) & 0xff000000)};
}

static void capture_loader(struct vmcb_save *s, u64 loader_cr3, const struct entry_frame *frame)
{
	struct descriptor_table table;

	cpu_sgdt(&table);
	s->gdtr.base = table.base;
	s->gdtr.limit = table.limit;
	s->cs = segment(cpu_read_cs(), &table);
	s->ds = segment(cpu_read_ds(), &table);
	s->es = segment(cpu_read_es(), &table);
	s->ss = segment(cpu_read_ss(), &table);
	cpu_sidt(&table);
	s->idtr.base = table.base;
	s->idtr.limit = table.limit;
	s->efer = cpu_rdmsr(MSR_EFER) | EFER_SVME;
	s->cr0 = cpu_read_cr0();
	s->cr3 = loader_cr3;
	s->cr4 = cpu_read_cr4();
	s->cr2 = cpu_read_cr2();
	s->dr6 = cpu_read_dr6();
	s->dr7 = cpu_read_dr7();
	s->g_pat = cpu_rdmsr(MSR_PAT);
	s->rflags = frame->rflags;
	s->rip = frame->rip;
	s->rsp = (u64)(uintptr_t)(frame + 1);
	s->rax = 0;
}

/* EFER bits that L1 has (APM2 §3.1.7); all others are #GP in WRMSR and invalid in VMRUN. LMSLE is none of them, whatever
 * the CPU has (new ones have not): TCG shows it and refuses it in VMRUN. */
static u64 efer_bits(void)
{
	u32 max = cpu_cpuid(CPUID_EXT_MAX, 0).eax;
	struct cpuid_leaf f = cpu_cpuid(CPUID_EXT_FEATURES, 0);
	u32 b = cpu_cpuid(CPUID_ADDR_SIZES, 0).ebx,
	    a21 = max >= 0x80000021u ? cpu_cpuid(0x80000021u, 0).eax : 0;
	u64 bits = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME;

	bits |= f.edx & BIT(25) ? EFER_FFXSR : 0;
	bits |= f.ecx & BIT(17) ? EFER_TCE : 0;
	bits |= b & BIT(8) ? EFER_MCOMMIT : 0;
	bits |= b & BIT(13) ? EFER_INTWB : 0;
	bits |= a21 & BIT(8) ? EFER_AIBRSE : 0;
	bits |= a21 & BIT(7) ? EFER_UAIE : 0;
	return bits;
}

/* CR4 bits that exist on this CPU (APM2 §3.1.3). */
static u64 cr4_bits(void)
{
	struct cpuid_leaf f = cpu_cpuid(CPUID_FEATURES, 0), f7 = {0};
	u64 bits = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
		   CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

	if (cpu_cpuid(0, 0).eax >= 7)
		f7 = cpu_cpuid(7, 0);
	bits |= f.ecx & BIT(26) ? CR4_OSXSAVE : 0;
	bits |= f.ecx & BIT(17) ? CR4_PCIDE : 0;
	bits |= f7.ebx & BIT(0) ? CR4_FSGSBASE : 0;
	bits |= f7.ebx & BIT(7) ? CR4_SMEP : 0;
	bits |= f7.ebx & BIT(20) ? CR4_SMAP : 0;
	bits |= f7.ecx & BIT(2) ? CR4_UMIP : 0;
	bits |= f7.ecx & BIT(3) ? CR4_PKE : 0;
	bits |= f7.ecx & BIT(16) ? CR4_LA57 : 0;
	bits |= f7.ecx & BIT(7) ? CR4_CET : 0;
	return bits;
}

/* Whether one of us is below. */
static void find_depth(struct vcpu *v)
{
	struct cpuid_leaf top = cpu_cpuid(CPUID_HYPERVISOR, 0);
	u32 ecx = 0;

	if (top.ebx == TALLY_CPUID_EBX && top.ecx == TALLY_CPUID_ECX && top.edx == TALLY_CPUID_EDX)
		ecx = cpu_cpuid(TALLY_CPUID_STATUS, 0).ecx;
	v->depth = TALLY_STATUS_DEPTH(ecx) + 1;
	v->lowest_backend = TALLY_STATUS_LOWEST_BACKEND(ecx);
}

static void init_limits(struct vcpu *v)
{
	v->cpuid_ext_max = cpu_cpuid(CPUID_EXT_MAX, 0).eax;
	v->guest_efer_mask = efer_bits();
	v->limits = (struct vmrun_limits){
		.phys_end = BIT(v->phys_bits),
		.map_end = v->mem.limit,
		.efer_mbz = ~v->guest_efer_mask,
		.cr4_mbz = ~cr4_bits(),
		.exceptions = VMRUN_EXCEPTIONS,
		.long_mode = true,
		.l1_paging = true,
	};
}

static void init_vmcb01(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb01->control;

	c->asid = ASID_L1;
	c->tlb_control = TLB_CONTROL_FLUSH_ALL;
	c->np_ctl = NP_ENABLE;
	c->nested_cr3 = memory_hpa(v->npt->root);
	c->int_state = 0;
}

/* What all CPUs share. */
static int init_machine(const struct handoff *h)
{
	struct image_layout image = {(u64)(uintptr_t)__text_end - CORE_VA,
				     (u64)(uintptr_t)__rodata_end - CORE_VA,
				     (u64)(uintptr_t)__image_end - CORE_VA};
	int error;

	if (h->version != HANDOFF_VERSION)
		return -E_INVAL;
	if (cpu_cpuid(CPUID_SVM, 0).ebx < ASID_COUNT)
		return -E_UNSUPP;
	error = memory_init(h, &image);
	if (!error)
		error = cpus_init(h->cpus);
	if (!error)
		error = iommu_init(h);
	if (!error && memory_check_wx())
		error = -E_INVAL;
	fill_idt();
	return error;
}

static void init_vcpu(struct cpu *cpu, const struct handoff *h)
{
	struct vcpu *v = &cpu->vcpu;

	v->special_exit = exit_special;
	v->on_entry = vmrun_enter;
	v->smp = h->cpus > 1;
	v->vmcb01 = &cpu->vmcb01;
	v->vmcb02 = &cpu->vmcb02;
	v->vmcb01_hpa = memory_hpa(v->vmcb01);
	v->vmcb02_hpa = memory_hpa(v->vmcb02);
	v->vmcb = v->vmcb01;
	v->vmcb_hpa = v->vmcb01_hpa;
	v->npt = &cpu->npt;
	v->sink_page = cpu->sink_page;
	v->shadow_memory = &cpu->shadow;
	memory_fill_ff(v->sink_page);
	v->cpu_features = cpu_cpuid(CPUID_SVM, 0).edx;
	v->features = tally_features(v->cpu_features, h->config.hidden_features);
	v->phys_bits = h->phys_bits < L1_MAX_PHYS_BITS ? h->phys_bits : L1_MAX_PHYS_BITS;
	v->gif = true;
	v->svme = cpu_rdmsr(MSR_EFER) & EFER_SVME;
	v->mem = (struct guest_memory){
		.base = NULL,
		.limit =
			BIT(v->phys_bits < CORE_MAX_PHYS_BITS ? v->phys_bits : CORE_MAX_PHYS_BITS)};
	v->memory_end = v->phys_bits < 40 ? v->mem.limit : HYPERTRANSPORT_START;
	v->holes = memory_holes();
	v->hole = v->holes->all;
	v->vm_cr = cpu_rdmsr(MSR_VM_CR) & VM_CR_VALID;
}

static void capture_gprs(struct vcpu *v, const struct entry_frame *frame)
{
	v->gpr[GPR_RBX] = frame->rbx;
	v->gpr[GPR_RBP] = frame->rbp;
	v->gpr[12] = frame->r12;
	v->gpr[13] = frame->r13;
	v->gpr[14] = frame->r14;
	v->gpr[15] = frame->r15;
}

static void enter_core(const struct cpu *cpu)
{
	struct descriptor_table gdtr = {sizeof(gdt) - 1, (u64)(uintptr_t)gdt};
	struct descriptor_table idtr = {sizeof(idt) - 1, (u64)(uintptr_t)idt};

	cpu_wrmsr(MSR_EFER, cpu_rdmsr(MSR_EFER) | EFER_SVME | EFER_NXE);
	cpu_clgi(); /* before our IDT is there: an NMI finds its vcpu by a stack that is not in use yet */
	load_tables(memory_core_cr3(), &gdtr, &idtr);
	cpu_write_cr0((cpu_read_cr0() | CR0_WP) & ~(CR0_TS | CR0_EM));
	cpu_write_cr4(CR4_PAE | (cpu_read_cr4() & CR4_MCE));
	cpu_wrmsr(MSR_VM_HSAVE_PA, memory_hpa(cpu->hsave));
}

/* On this CPU's own stack. */
NORETURN void core_run(struct vcpu *v);

static struct handoff handoff;

/*
 * On the boot stack, which is one CPU's at a time, and on the loader's page tables with ours at CORE_VA. All that may fail
 * does so on the first CPU, before its state is changed.
 */
s64 core_main(struct handoff *loader_handoff, const struct entry_frame *frame)
{
	struct cpu *cpu;
	struct vcpu *v;

	if (!cpus_count()) {
		int error;

		handoff = *loader_handoff;
		log_init(handoff.config.log);
		error = init_machine(&handoff);
		if (error) {
			log_warn("event=refused error=%d", error);
			return error;
		}
	}
	cpu = cpus_take();
	if (!cpu)
		return -E_NOMEM;
	v = &cpu->vcpu;
	init_vcpu(cpu, &handoff);
	find_depth(v);
	log_set_depth(v->depth);
	capture_loader(&v->vmcb01->save, loader_handoff->loader_cr3, frame);
	capture_gprs(v, frame);
	enter_core(cpu);
	core_leave_boot_stack(v, &loader_handoff->entered);
}

/*
 * The last CPU that comes finds out about the PMU, for all, while the others sleep: nothing of theirs is in what it
 * measures. Then all go on as L1.
 */
void core_run(struct vcpu *v)
{
	bool last = v == &cpus_at(0)->vcpu;

	init_limits(v);
	init_vmcb01(v);
	nested_init(v);
	io_init(v, &handoff.sleep);
	apic_init(v);
	if (last) {
		iommu_start();
		cpus_gather(v);
		backend_init(v, &handoff.config);
		cpus_go(v);
	} else {
		cpus_wait(v);
		backend_join(v, &handoff.config);
	}
	if (v->depth == 1)
		v->lowest_backend = v->backend;
	vcpu_choose_exit(v);
	vcpu_set_special(v, SPECIAL_ENTRY); /* TLB_CONTROL of the first VMRUN */
	if (last)
		log_info("event=sleep ports=%x,%x allowed=%x,%x", v->sleep.ports[0],
			 v->sleep.ports[1], v->sleep.allowed[0], v->sleep.allowed[1]);
	log_info("event=start version=%s region=%lx+%lx phys_bits=%u features=%x of %x",
		 TALLY_VERSION, handoff.region_hpa, handoff.region_bytes, handoff.phys_bits,
		 v->features, v->cpu_features);
	vcpu_enter(v);
}

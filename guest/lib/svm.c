/* SPDX-License-Identifier: MIT */
#include "guest/lib/svm.h"

#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* svm.asm */
extern const u8 l2_event_stubs[];
#define L2_EVENT_STUB_BYTES 4

struct l2 l2;
u8 hsave[PAGE_SIZE] ALIGNED(4096);

/* Attributes as in the VMCB: descriptor bits 55:52 and 47:40. */
#define ATTR_CODE64 0xa9b
#define ATTR_DATA 0xc93

void svm_enable(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (u64)hsave);
}

void svm_disable(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
}

bool svm_start(void)
{
	if (!platform.svm) {
		tap_skip_all("no SVM in CPUID 8000_0001 ECX[2]");
		return false;
	}
	if (rdmsr(MSR_VM_CR) & VM_CR_SVMDIS) {
		tap_skip_all("SVM is switched off by the firmware (VM_CR.SVMDIS)");
		return false;
	}
	svm_enable();
	return true;
}

static struct vmcb_seg data_segment(void)
{
	return (struct vmcb_seg){.selector = GDT_DATA, .attrib = ATTR_DATA, .limit = ~0u};
}

void l2_reset(const void *entry)
{
	struct vmcb_control *c = &l2.vmcb.control;
	struct vmcb_save *s = &l2.vmcb.save;
	struct table_register gdtr, idtr;

	l2.vmcb = (struct vmcb){0};
	l2.regs = (struct l2_regs){0};
	for (unsigned int i = 0; i < sizeof(l2.iopm); i++)
		l2.iopm[i] = 0;
	for (unsigned int i = 0; i < sizeof(l2.msrpm); i++)
		l2.msrpm[i] = 0;
	asm volatile("sgdt %0" : "=m"(gdtr));
	asm volatile("sidt %0" : "=m"(idtr));

	c->asid = 1;
	c->iopm_base_pa = (u64)l2.iopm;
	c->msrpm_base_pa = (u64)l2.msrpm;
	l2_intercept(INTERCEPT(VMRUN));
	l2_intercept(INTERCEPT(VMMCALL));
	l2_intercept(INTERCEPT(SHUTDOWN));

	s->cs = (struct vmcb_seg){.selector = GDT_CODE, .attrib = ATTR_CODE64, .limit = ~0u};
	s->ds = s->es = s->ss = data_segment();
	s->gdtr = (struct vmcb_seg){.limit = gdtr.limit, .base = gdtr.base};
	s->idtr = (struct vmcb_seg){.limit = idtr.limit, .base = idtr.base};
	s->efer = rdmsr(MSR_EFER);
	s->cr0 = read_cr0();
	s->cr3 = read_cr3();
	s->cr4 = read_cr4();
	s->dr6 = DR6_RESET;
	s->dr7 = DR7_RESET;
	s->g_pat = PAT_RESET;
	s->rflags = RFLAGS_FIXED;
	s->rip = (u64)entry;
	s->rsp = (u64)(l2.stack + sizeof(l2.stack) - 8); /* as after a CALL */
}

void l2_user(void)
{
	struct vmcb_save *s = &l2.vmcb.save;

	s->cs.selector = GDT_USER_CODE;
	s->cs.attrib |= 3 << 5;
	s->ss.selector = GDT_USER_DATA;
	s->ss.attrib |= 3 << 5;
	s->cpl = 3;
}

void l2_use_npt(void)
{
	paging_identity(&l2.npt, PTE_ALL & ~(PTE_A | PTE_D));
	l2.vmcb.control.np_ctl = NP_ENABLE;
	l2.vmcb.control.nested_cr3 = paging_root(&l2.npt);
	l2_flush();
}

void l2_flush(void)
{
	l2.vmcb.control.tlb_control = platform.svm_edx & SVM_FLUSH_BY_ASID ? TLB_CONTROL_FLUSH_ASID
									   : TLB_CONTROL_FLUSH_ALL;
}

void l2_intercept(unsigned int bit)
{
	vmcb_set_intercept(&l2.vmcb.control, bit);
}

void l2_catch_events(void)
{
	for (size_t v = 0; v < ARRAY_SIZE(l2.idt); v++)
		idt_gate_set(&l2.idt[v], l2_event_stubs + v * L2_EVENT_STUB_BYTES, 3);
	l2.vmcb.save.idtr.base = (u64)l2.idt;
	l2.vmcb.save.idtr.limit = sizeof(l2.idt) - 1;
}

u64 l2_caught(void)
{
	u64 offset = l2.vmcb.save.rip - (u64)l2_event_stubs;

	if (l2.vmcb.control.exit_code != VMEXIT_VMMCALL ||
	    offset >= ARRAY_SIZE(l2.idt) * L2_EVENT_STUB_BYTES)
		return VEC_NONE;
	return offset / L2_EVENT_STUB_BYTES;
}

static u64 exit_code(void)
{
	if (l2.vmcb.control.exit_code == (u32)VMEXIT_INVALID && departs(DEPARTURE_INVALID_32))
		return VMEXIT_INVALID;
	return l2.vmcb.control.exit_code;
}

u64 l2_run(void)
{
	clgi();
	svm_vmrun(&l2.vmcb, &l2.regs);
	stgi();
	l2.vmcb.control.tlb_control = TLB_CONTROL_NONE;
	return exit_code();
}

/* With IF=1, so that the timer ends L2; it stays pending until L1 has GIF and IF. */
u64 l2_run_for(u32 vector, u32 deadline)
{
	clgi();
	apic_timer(vector, deadline);
	sti();
	svm_vmrun(&l2.vmcb, &l2.regs);
	cli();
	apic_timer_stop();
	stgi();
	interrupt_window();
	return exit_code();
}

void msrpm_set(u32 msr, bool read, bool write)
{
	/* 2 KiB for each of the three ranges, two bits for each MSR (APM2 §15.11). */
	u32 block = msr >= 0xc0010000u ? 2 : msr >= 0xc0000000u ? 1 : 0;
	u32 bit = block * 2048 * 8 + (msr & 0x1fff) * 2;

	if (read)
		l2.msrpm[bit / 8] |= (u8)(1u << bit % 8);
	if (write)
		l2.msrpm[bit / 8] |= (u8)(2u << bit % 8);
}

void iopm_set(u32 port)
{
	l2.iopm[port / 8] |= (u8)(1u << port % 8);
}

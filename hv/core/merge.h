/* SPDX-License-Identifier: MIT */
/*
 * vmcb12 into vmcb02 and back: which fields L1 decides, which L0. In the path of every nested VMRUN, hence inline.
 * docs/nested-svm.md has the table; APM2 rev. 3.44 §15.5, appendix B.
 */
#ifndef TALLY_CORE_MERGE_H
#define TALLY_CORE_MERGE_H

#include "types.h"
#include "x86/cr.h"
#include "x86/svm.h"

#define MERGE_CONTROL_AT(field) offsetof(struct vmcb_control, field)
#define MERGE_SAVE_AT(field) offsetof(struct vmcb_save, field)

/* Ranges of the save area that VMRUN loads and #VMEXIT stores as they are: [first, end), in bytes. */
#define MERGE_SAVE_RANGES(X)                                                                       \
	X(MERGE_SAVE_AT(es), MERGE_SAVE_AT(fs))                                                    \
	X(MERGE_SAVE_AT(gdtr), MERGE_SAVE_AT(ldtr))                                                \
	X(MERGE_SAVE_AT(idtr), MERGE_SAVE_AT(tr))                                                  \
	X(MERGE_SAVE_AT(cr4), MERGE_SAVE_AT(reserved_180))                                         \
	X(MERGE_SAVE_AT(rsp), MERGE_SAVE_AT(star))

/* int_ctl that L1 decides and the CPU does; virtual GIF is nested.c's, virtual NMI and AVIC are not offered. */
#define MERGE_INT_CTL ((u32)(V_TPR_MASK | V_IRQ | V_INTR_PRIO | V_IGN_TPR | V_INTR_MASKING))
/* and that the CPU changes while L2 runs */
#define MERGE_INT_CTL_BACK ((u32)(V_TPR_MASK | V_IRQ))

/* Unrolled: a loop costs three times the instructions. */
/* clang-format off */
#define MERGE_COPY(to, from, first, end)                                                           \
	_Pragma("GCC unroll 8")                                                                    \
	for (size_t i_ = (first) / 8; i_ < (end) / 8; i_++)                                        \
		((u64 *)(to))[i_] = ((const volatile u64 *)(from))[i_];
/* clang-format on */

/*
 * The one time that vmcb12 is read: L1 may change it at any time, and what is checked must be what is used.
 * ctl: L0's copy of what it uses of the control area; save: vmcb02's, which is L1's to fill.
 */
static ALWAYS_INLINE void merge_read_vmcb12(struct vmcb_control *ctl, struct vmcb_save *save,
					    const volatile struct vmcb *vmcb12)
{
	MERGE_COPY(ctl, &vmcb12->control, MERGE_CONTROL_AT(intercepts),
		   MERGE_CONTROL_AT(reserved_018))
	MERGE_COPY(ctl, &vmcb12->control, MERGE_CONTROL_AT(iopm_base_pa),
		   MERGE_CONTROL_AT(exit_code))
	MERGE_COPY(ctl, &vmcb12->control, MERGE_CONTROL_AT(np_ctl), MERGE_CONTROL_AT(avic_apic_bar))
	MERGE_COPY(ctl, &vmcb12->control, MERGE_CONTROL_AT(event_inj), MERGE_CONTROL_AT(clean))
	ctl->next_rip = vmcb12->control.next_rip;
#define X(first, end) MERGE_COPY(save, &vmcb12->save, first, end)
	MERGE_SAVE_RANGES(X)
#undef X
	save->cpl = vmcb12->save.cpl;
	save->efer = vmcb12->save.efer;
	save->cr2 = vmcb12->save.cr2;
	save->g_pat = vmcb12->save.g_pat;
}

/* CR reads that some CPUs (QEMU 10's TCG) take for reads of CR0: MERGE_CR_READS are checked against CR0's intercept. */
#define MERGE_CR_READS                                                                             \
	(1u << INTERCEPT_CR_READ(2) | 1u << INTERCEPT_CR_READ(3) | 1u << INTERCEPT_CR_READ(4) |    \
	 1u << INTERCEPT_CR_READ(8))

/*
 * What L0 intercepts because of how a CPU is, in addition; docs/platforms.md. Writes of CR8 while V_IRQ is set: TCG has
 * them abort QEMU, elsewhere the exit does no harm. cr_quirk: reads of CR0 for those of the others, on CPUs that have it.
 */
static ALWAYS_INLINE void merge_intercept_quirks(struct vmcb_control *c02, bool cr_quirk)
{
	u32 words = c02->intercepts[0];

	words |= c02->int_ctl & V_IRQ ? 1u << INTERCEPT_CR_WRITE(8) : 0;
	if (cr_quirk && (words & MERGE_CR_READS))
		words |= 1u << INTERCEPT_CR_READ(0);
	c02->intercepts[0] = words;
}

/* vmcb02's control area, but for permission maps and translation. l0: the intercepts that L0 wants of any guest. */
static ALWAYS_INLINE void merge_control(struct vmcb_control *c02, const struct vmcb_control *ctl,
					const u32 l0[6], bool cr_quirk)
{
#pragma GCC unroll 6
	for (unsigned int i = 0; i < ARRAY_SIZE(c02->intercepts); i++)
		c02->intercepts[i] = ctl->intercepts[i] | l0[i];
	c02->tsc_offset = ctl->tsc_offset;
	c02->int_ctl = ctl->int_ctl & MERGE_INT_CTL;
	c02->int_vector = ctl->int_vector & 0xff;
	c02->int_state = ctl->int_state & INTERRUPT_SHADOW;
	c02->event_inj = ctl->event_inj & ~BITS(30, 12);
	c02->next_rip = ctl->next_rip; /* where an injected software interrupt returns to */
	c02->exit_int_info = 0;
	merge_intercept_quirks(c02, cr_quirk);
}

/* What VMRUN makes of the save area itself. */
static ALWAYS_INLINE void merge_save(struct vmcb_save *s02)
{
	s02->rflags |= RFLAGS_FIXED;
	/* LMA follows from LME and PG, whatever vmcb12 says (APM2 §15.5.1) */
	s02->efer = (s02->efer & ~EFER_LMA) |
		    ((s02->efer & EFER_LME) && (s02->cr0 & CR0_PG) ? EFER_LMA : 0);
}

/* EXITINTINFO as silicon gives it. TCG calls interrupts and NMIs that it delivers itself exceptions, and type 3 with
 * such a vector exists nowhere else. 0 if there is no event. */
static ALWAYS_INLINE u64 merge_exit_int_info(u64 event)
{
	u64 vector = event & EVENT_VECTOR;

	if (likely(!(event & EVENT_V)))
		return 0;
	if ((event & EVENT_TYPE) != EVENT_TYPE_EXCEPTION || (vector != VEC_NMI && vector < 32))
		return event;
	return (event & ~EVENT_TYPE) | (vector == VEC_NMI ? EVENT_TYPE_NMI : EVENT_TYPE_INTR);
}

/* V_GIF=0 where virtual GIF is in use holds V_IRQ: it stays in vmcb12's int_ctl (APM2 §15.33.2). */
static ALWAYS_INLINE bool merge_vgif_holds(u32 int_ctl)
{
	return (int_ctl & (V_GIF_ENABLE | V_GIF)) == V_GIF_ENABLE;
}

/* DebugCtl and what the CPU records, which LBR virtualization loads and stores. */
static ALWAYS_INLINE void merge_lbr(struct vmcb_save *to, const struct vmcb_save *from)
{
	MERGE_COPY(to, from, MERGE_SAVE_AT(dbgctl), MERGE_SAVE_AT(dbgextnctl))
}

/*
 * int_ctl with the V_IRQ that is left after an exit. The CPU clears it before it touches the IDT (APM2 §15.21.4), QEMU's
 * TCG when the delivery is complete: then the event is in EXITINTINFO and would come twice. It is known by its type, see
 * above.
 */
static ALWAYS_INLINE u32 merge_int_ctl_left(const struct vmcb_control *c)
{
	u64 event = c->exit_int_info;

	if (unlikely(event & EVENT_V) && (event & EVENT_TYPE) == EVENT_TYPE_EXCEPTION &&
	    (event & EVENT_VECTOR) >= 32 && c->int_vector == (event & EVENT_VECTOR))
		return c->int_ctl & ~(u32)V_IRQ;
	return c->int_ctl;
}

/*
 * #VMEXIT's stores into vmcb12, but for exit code and infos. int_ctl12: L0's copy, in which V_GIF is current;
 * int_ctl_back: the bits that are taken from vmcb02. own_pat: L2 has a PAT of its own.
 */
static ALWAYS_INLINE void merge_write_back(struct vmcb *vmcb12, const struct vmcb *vmcb02,
					   u32 int_ctl12, u32 int_ctl_back, bool own_pat)
{
	const struct vmcb_control *c02 = &vmcb02->control;

	vmcb12->control.exit_int_info = merge_exit_int_info(c02->exit_int_info);
	vmcb12->control.event_inj = 0;
	vmcb12->control.int_ctl =
		(int_ctl12 & ~int_ctl_back) | (merge_int_ctl_left(c02) & int_ctl_back);
	vmcb12->control.int_state = c02->int_state & INTERRUPT_SHADOW;
#define X(first, end) MERGE_COPY(&vmcb12->save, &vmcb02->save, first, end)
	MERGE_SAVE_RANGES(X)
#undef X
	vmcb12->save.cpl = vmcb02->save.cpl;
	vmcb12->save.efer = vmcb02->save.efer;
	vmcb12->save.cr2 = vmcb02->save.cr2;
	if (own_pat)
		vmcb12->save.g_pat = vmcb02->save.g_pat;
}

#endif

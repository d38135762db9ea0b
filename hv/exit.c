/* SPDX-License-Identifier: MIT */
/*
 * The exit path. One table says who handles an exit and how long its instruction is; one place applies the verdict: the
 * only code that moves RIP or injects an event for L0.
 */
#include "hv/core/insn.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/panic.h"
#include "hv/vcpu.h"
#include "x86/cr.h"

struct exit_entry {
	u32 (*handle)(struct vcpu *v);
	u32 opcode, mask; /* the instruction without prefixes, little endian */
	u32 length;
};

/* exits that are not an instruction's, or of one that is always decoded */
#define NO_LENGTH .opcode = ~0u, .mask = 0, .length = 0
#define ONE(byte) .opcode = (byte), .mask = 0xff, .length = 1
#define TWO(byte) .opcode = 0x0f | (byte) << 8, .mask = 0xffff, .length = 2
#define SVM(byte) .opcode = 0x010f | (byte) << 16, .mask = 0xffffff, .length = 3

/* Indexed by exit code; NPF is apart. Without NRIPS the opcode is compared with memory, see insn_length_fast(). */
static const struct exit_entry exits[] = {
	[VMEXIT_CR_WRITE(8)] = {exit_cr8_write, NO_LENGTH},
	[VMEXIT_EXCEPTION(VEC_DB)] = {exit_db, NO_LENGTH},
	[VMEXIT_INTR] = {exit_intr, NO_LENGTH},
	[VMEXIT_NMI] = {exit_nmi, NO_LENGTH},
	[VMEXIT_RDPMC] = {exit_rdpmc, TWO(0x33)},
	[VMEXIT_CPUID] = {exit_cpuid, TWO(0xa2)},
	[VMEXIT_HLT] = {exit_halt, ONE(0xf4)},
	[VMEXIT_INVLPGA] = {exit_invlpga, SVM(0xdf)},
	/* RDMSR is 0F 32, WRMSR 0F 30 */
	[VMEXIT_MSR] = {exit_msr, .opcode = 0x300f, .mask = 0xfdff, .length = 2},
	[VMEXIT_SHUTDOWN] = {exit_shutdown, NO_LENGTH},
	[VMEXIT_VMRUN] = {exit_vmrun, SVM(0xd8)},
	[VMEXIT_VMMCALL] = {exit_vmmcall, SVM(0xd9)},
	[VMEXIT_VMLOAD] = {exit_vmload, SVM(0xda)},
	[VMEXIT_VMSAVE] = {exit_vmsave, SVM(0xdb)},
	[VMEXIT_STGI] = {exit_stgi, SVM(0xdc)},
	[VMEXIT_CLGI] = {exit_clgi, SVM(0xdd)},
	[VMEXIT_SKINIT] = {exit_skinit, SVM(0xde)},
	[VMEXIT_MWAIT] = {exit_halt, SVM(0xc9)},
};

static const struct exit_entry npf_entry = {exit_npf, NO_LENGTH};
static const struct exit_entry no_entry = {NULL, NO_LENGTH};

const char *exit_name(u64 code)
{
	switch (code) {
#define X(number, name)                                                                            \
	case number:                                                                               \
		return #name;
		SVM_EXIT_LIST(X)
#undef X
	case VMEXIT_INVALID:
		return "INVALID";
	default:
		return code < 0x20   ? "CR" :
		       code < 0x40   ? "DR" :
		       code < 0x60   ? "EXCEPTION" :
		       code >= 0x90 && code < 0xa0 ? "CR_WRITE_TRAP" :
						     "?";
	}
}

static ALWAYS_INLINE const struct exit_entry *entry_of(u64 code)
{
	if (likely(code < ARRAY_SIZE(exits)))
		return &exits[code];
	return code == VMEXIT_NPF ? &npf_entry : &no_entry;
}

static ALWAYS_INLINE bool is_64bit(const struct vmcb_save *s)
{
	return (s->cs.attrib & SEG_ATTR_L) && (s->efer & EFER_LMA);
}

static enum insn_mode insn_mode_of(const struct vmcb_save *s)
{
	if (is_64bit(s))
		return INSN_64;
	return s->cs.attrib & SEG_ATTR_DB ? INSN_32 : INSN_16;
}

/* Instruction bytes at the running guest's CS:RIP. Returns how many could be read. */
unsigned int insn_bytes(struct vcpu *v, u8 *buf, unsigned int n)
{
	const struct vmcb_save *s = &v->vmcb->save;
	struct walk_state state = {s->cr0, s->cr3, s->cr4, s->efer};
	u64 linear = is_64bit(s) ? s->rip : (u32)(s->cs.base + s->rip);
	bool nested_paging = v->in_l2 && v->nested.space;

	return walk_fetch(&v->mem, &state, nested_paging ? &v->nested.npt_mode : NULL, v->nested.ctl.nested_cr3,
			  linear, buf, n);
}

/* Decodes the instruction that exited. */
static int insn_decode(struct vcpu *v, struct insn *insn)
{
	u8 bytes[INSN_MAX_BYTES];
	unsigned int n = insn_bytes(v, bytes, sizeof(bytes));

	return insn_length(bytes, n, insn_mode_of(&v->vmcb->save), insn);
}

static NOINLINE unsigned int insn_length_slow(struct vcpu *v, const struct exit_entry *e)
{
	struct insn insn;

	if (!insn_decode(v, &insn)) {
		v->insn_prefixes = insn.prefixes;
		return insn.length;
	}
	/* L1 changed the code or its mapping after the CPU fetched it */
	log_guest("event=undecodable rip=%lx exit=%s", v->vmcb->save.rip,
		  exit_name(v->vmcb->control.exit_code));
	return e->length;
}

/* The ordinary case, on every exit of a CPU without NRIPS: 64-bit L1 and no prefixes. */
static ALWAYS_INLINE unsigned int insn_length_fast(struct vcpu *v, const struct exit_entry *e)
{
	const struct vmcb_save *s = &v->vmcb->save;
	u64 gpa;

	if (likely(!v->in_l2 && is_64bit(s) && !(s->cr4 & CR4_LA57) && s->rip % PAGE_SIZE <= PAGE_SIZE - 4 &&
		   walk_long_fast(&v->mem, s->cr3, s->rip, &gpa))) {
		u32 bytes;

		__builtin_memcpy(&bytes, guest_at(&v->mem, gpa), sizeof(bytes));
		if (likely((bytes & e->mask) == e->opcode))
			return e->length;
	}
	return insn_length_slow(v, e);
}

/* Length of the instruction that exited; also sets insn_prefixes for svm_operand(). Looked up once per exit. */
static ALWAYS_INLINE unsigned int current_length(struct vcpu *v, const struct exit_entry *e)
{
	if (!v->insn_length) {
		if (v->has_nrips && v->vmcb->control.next_rip) {
			v->insn_length = (u32)(v->vmcb->control.next_rip - v->vmcb->save.rip);
			if (unlikely(v->insn_length != e->length))
				insn_length_slow(v, e); /* for the prefixes */
		} else {
			v->insn_length = insn_length_fast(v, e);
		}
	}
	return v->insn_length;
}

u64 svm_operand(struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb->save;

	v->insn_prefixes = 0;
	current_length(v, entry_of(v->vmcb->control.exit_code));
	if (unlikely(!is_64bit(s) || (v->insn_prefixes & INSN_PREFIX_67)))
		return s->cs.attrib & SEG_ATTR_DB || is_64bit(s) || (v->insn_prefixes & INSN_PREFIX_67) ?
			       (u32)s->rax :
			       (u16)s->rax;
	return s->rax;
}

/* An exception that L0 raises for the running guest: L1 may intercept those of L2. */
static void inject(struct vcpu *v, unsigned int vector, bool has_error)
{
	u64 event = vector | EVENT_TYPE_EXCEPTION | EVENT_V | (has_error ? EVENT_EV : 0);

	if (v->in_l2 && vmcb_intercepts(&v->nested.ctl, INTERCEPT_EXCEPTION(vector)))
		nested_vmexit(v, VMEXIT_EXCEPTION(vector), 0, 0);
	else
		set_eventinj(v->vmcb, event);
}

/* The single-step trap after an instruction that L0 emulated (APM2 §13.1.4); RF ends with the instruction. */
static NOINLINE void after_flags(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb->save;

	s->rflags &= ~RFLAGS_RF;
	if (!(s->rflags & RFLAGS_TF))
		return;
	s->dr6 |= DR6_BS;
	inject(v, VEC_DB, false);
}

static ALWAYS_INLINE void skip_instruction(struct vcpu *v, const struct exit_entry *e)
{
	struct vmcb *vmcb = v->vmcb;
	u64 rip = vmcb->save.rip + current_length(v, e);

	vmcb->save.rip = is_64bit(&vmcb->save) ? rip : (u32)rip;
	vmcb->control.int_state &= ~INTERRUPT_SHADOW;
}

void vcpu_skip(struct vcpu *v)
{
	skip_instruction(v, entry_of(v->vmcb->control.exit_code));
	v->vmcb->save.rflags &= ~RFLAGS_RF;
}

void vcpu_inject_db(struct vcpu *v)
{
	after_flags(v);
}

void vcpu_shutdown(struct vcpu *v, const char *why)
{
	static const struct descriptor_table none;

	log_warn("event=shutdown level=%s why=%s exit=%lx(%s) info1=%lx info2=%lx rip=%lx cr0=%lx cr3=%lx",
		 v->in_l2 ? "L2" : "L1", why, v->vmcb->control.exit_code, exit_name(v->vmcb->control.exit_code),
		 v->vmcb->control.exit_info_1, v->vmcb->control.exit_info_2, v->vmcb->save.rip, v->vmcb->save.cr0,
		 v->vmcb->save.cr3);
	/* the machine goes the way it would without us: a triple fault of this CPU */
	cpu_lidt(&none);
	cpu_stgi();
	for (;;)
		asm volatile("int3");
}

u32 exit_shutdown(struct vcpu *v)
{
	vcpu_shutdown(v, "triple-fault");
}

/* QEMU's TCG gives VMEXIT_INVALID for a running guest's MOV to CR3 or CR4 with reserved bits; silicon gives #GP. */
static u32 exit_invalid(struct vcpu *v)
{
	struct insn insn;

	if (!insn_decode(v, &insn) && insn.map == INSN_MAP_0F && insn.opcode == 0x22)
		return INJECT_GP;
	if (v->in_l2)
		return REFLECT_L1;
	panic("VMRUN of L1 refused rip=%lx", v->vmcb->save.rip);
}

static NOINLINE u32 exit_unknown(struct vcpu *v)
{
	u64 code = v->vmcb->control.exit_code;

	if (code == VMEXIT_INVALID || code == (u32)VMEXIT_INVALID)
		return exit_invalid(v);
	vcpu_shutdown(v, "unexpected-exit");
}

/* An NMI that L0 took while L1 had GIF=0 goes to whoever runs now with GIF=1. */
static NOINLINE void deliver_nmi(struct vcpu *v)
{
	if (!v->gif || (v->vmcb->control.event_inj & EVENT_V))
		return;
	if (v->in_l2 && vmcb_intercepts(&v->nested.ctl, INTERCEPT(NMI))) {
		nested_vmexit(v, VMEXIT_NMI, 0, 0); /* and it stays pending */
		return;
	}
	v->nmi_pending = false;
	set_eventinj(v->vmcb, VEC_NMI | EVENT_TYPE_NMI | EVENT_V);
}

void vcpu_exit(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb;
	u64 code = vmcb->control.exit_code;
	struct exit_record *record = &v->history[v->exits++ % EXIT_HISTORY];
	const struct exit_entry *e;
	u32 verdict;

	record->code = code;
	record->rip = vmcb->save.rip;
	v->insn_length = 0;
	vmcb->control.tlb_control = TLB_CONTROL_NONE;
	vmcb->control.event_inj = 0;

	if (unlikely(v->one_shot) && vcpu_end_one_shot(v)) {
		/* the exit was L0's own */
	} else if (unlikely(v->in_l2) && nested_wants(v, code)) {
		nested_vmexit(v, code, vmcb->control.exit_info_1, vmcb->control.exit_info_2);
	} else {
		e = entry_of(code);
		verdict = likely(e->handle != NULL) ? e->handle(v) : exit_unknown(v);
		if (likely(verdict == ADVANCE)) {
			skip_instruction(v, e);
			vcpu_retire(v);
			if (unlikely(v->vmcb->save.rflags & (RFLAGS_TF | RFLAGS_RF)))
				after_flags(v);
		} else if (verdict & INJECT) {
			inject(v, verdict & 0x1f, verdict & INJECT_ERROR);
		} else if (verdict == REFLECT_L1) {
			nested_vmexit(v, code, vmcb->control.exit_info_1, vmcb->control.exit_info_2);
		}
	}
	if (unlikely(v->nmi_pending))
		deliver_nmi(v);
	if (unlikely(v->backend == TALLY_BACKEND_GUEST_ONLY))
		pmu_guest_only_entry(&v->guest_only, v->vmcb->save.cpl);
}

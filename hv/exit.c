/* SPDX-License-Identifier: MIT */
/*
 * The exit path. One table says who handles an exit and how long its instruction is; one place applies the verdict: the
 * only code that moves RIP or injects an event for L0.
 */
#include "hv/apic.h"
#include "hv/core/event.h"
#include "hv/core/insn.h"
#include "hv/core/merge.h"
#include "hv/cpu.h"
#include "hv/ipi.h"
#include "hv/known.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"
#include "x86/cr.h"

struct exit_entry {
	u32 (*handle)(struct vcpu *v);
	u32 opcode, mask; /* the instruction without prefixes, little endian */
	u32 length;	  /* of that; 0 for an exit that is not an instruction's */
};

/* exits that are not an instruction's, or of one that is always decoded */
#define NO_LENGTH .opcode = ~0u, .mask = 0, .length = 0
#define ONE(byte) .opcode = (byte), .mask = 0xff, .length = 1
#define TWO(byte) .opcode = 0x0f | (byte) << 8, .mask = 0xffff, .length = 2
#define SVM(byte) .opcode = 0x010f | (byte) << 16, .mask = 0xffffff, .length = SVM_INSN_BYTES

/* Indexed by exit code; NPF is apart. Without NRIPS the opcode is compared with memory. */
static const struct exit_entry exits[] = {
	[VMEXIT_CR_READ(0)... VMEXIT_CR_READ(15)] = {exit_cr_read, NO_LENGTH},
	[VMEXIT_CR_WRITE(8)] = {exit_cr8_write, NO_LENGTH},
	[VMEXIT_EXCEPTION(0)... VMEXIT_EXCEPTION(31)] = {exit_exception, NO_LENGTH},
	[VMEXIT_INTR] = {exit_intr, NO_LENGTH},
	[VMEXIT_NMI] = {exit_nmi, NO_LENGTH},
	[VMEXIT_SMI] = {exit_smi, NO_LENGTH},
	[VMEXIT_INIT] = {exit_init, NO_LENGTH},
	[VMEXIT_VINTR] = {exit_intr, NO_LENGTH},
	[VMEXIT_IRET] = {exit_iret, NO_LENGTH},
	[VMEXIT_SWINT] = {exit_let_in, NO_LENGTH},
	[VMEXIT_ICEBP] = {exit_let_in, NO_LENGTH},
	[VMEXIT_RDPMC] = {exit_rdpmc, TWO(0x33)},
	[VMEXIT_CPUID] = {exit_cpuid, TWO(0xa2)},
	[VMEXIT_HLT] = {exit_halt, ONE(0xf4)},
	[VMEXIT_IOIO] = {exit_ioio, NO_LENGTH},
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

static_assert(VMEXIT_NPF < EXIT_SLOTS, "this one, too");
static_assert(ARRAY_SIZE(exits) <= EXIT_SLOTS, "these codes are their own slots");

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
		return code < 0x20		     ? "CR"
		       : code < 0x40		     ? "DR"
		       : code < 0x60		     ? "EXCEPTION"
		       : code >= 0x90 && code < 0xa0 ? "CR_WRITE_TRAP"
						     : "?";
	}
}

void exit_log_history(const struct vcpu *v, enum log_level level, u64 most)
{
	for (u64 i = v->exits > most ? v->exits - most : 0; i < v->exits; i++)
		log_line(level, "exit %lu: %lx(%s) rip=%lx", i, v->history_code[i % EXIT_HISTORY],
			 exit_name(v->history_code[i % EXIT_HISTORY]),
			 v->history_rip[i % EXIT_HISTORY]);
}

enum insn_mode vcpu_insn_mode(const struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb->save;

	if (is_64bit(s))
		return INSN_64;
	return s->cs.attrib & SEG_ATTR_DB ? INSN_32 : INSN_16;
}

unsigned int vcpu_fetch(struct vcpu *v, u64 linear, u8 *buf, unsigned int n)
{
	const struct vmcb_save *s = &v->vmcb->save;
	struct walk_state state = {s->cr0, s->cr3, s->cr4, s->efer};
	bool nested_paging = vcpu_in_l2(v) && v->nested.space;

	return walk_fetch(&v->mem, &state, nested_paging ? &v->nested.npt_mode : NULL,
			  v->nested.ctl.nested_cr3, linear, buf, n);
}

unsigned int insn_bytes(struct vcpu *v, u8 *buf, unsigned int n)
{
	const struct vmcb_save *s = &v->vmcb->save;

	return vcpu_fetch(v, is_64bit(s) ? s->rip : (u32)(s->cs.base + s->rip), buf, n);
}

static void set_next_rip(struct vcpu *v, unsigned int length)
{
	const struct vmcb_save *s = &v->vmcb->save;

	v->next_rip = s->rip + length;
	if (!is_64bit(s))
		v->next_rip = (u32)v->next_rip;
}

int insn_decode(struct vcpu *v, struct insn *insn)
{
	u8 bytes[INSN_MAX_BYTES];
	unsigned int n = insn_bytes(v, bytes, sizeof(bytes));
	int error = insn_length(bytes, n, vcpu_insn_mode(v), insn);

	if (!error)
		set_next_rip(v, insn->length);
	return error;
}

/* Whether it is one that `e` is for, whatever its prefixes. */
static bool insn_matches(const struct exit_entry *e, const struct insn *insn)
{
	u32 bytes = insn->map == INSN_MAP_ONE
			    ? insn->opcode
			    : 0x0fu | (u32)insn->opcode << 8 | (u32)insn->modrm << 16;

	return insn->map <= INSN_MAP_0F && (bytes & e->mask) == e->opcode;
}

bool exit_insn_matches(u64 code, const struct insn *insn)
{
	return code >= ARRAY_SIZE(exits) || !exits[code].length || insn_matches(&exits[code], insn);
}

static NOINLINE void locate_decode(struct vcpu *v, const struct exit_entry *e)
{
	struct insn insn;

	v->insn_prefixes = 0;
	if (!insn_decode(v, &insn) && insn_matches(e, &insn)) {
		v->insn_prefixes = insn.prefixes;
		return;
	}
	/* Another CPU of L1's changed the code or its mapping after this one fetched it. What is there now may be of any
	 * length, and half of what will be there next. */
	log_guest("event=changed-insn rip=%lx exit=%s", v->vmcb->save.rip,
		  exit_name(v->vmcb->control.exit_code));
	set_next_rip(v, e->length);
}

/* Sets next_rip, and makes an unprefixed instruction of 64-bit L1 known. */
static ALWAYS_INLINE void locate_walk(struct vcpu *v, const struct exit_entry *e, u64 code)
{
	const struct vmcb_save *s = &v->vmcb->save;
	struct known_exit *known = known_at(v, s->rip);

	known->rip = ~0ull;
	if (likely(!vcpu_in_l2(v) && known_mode(s) && s->rip % PAGE_SIZE <= PAGE_SIZE - 4 &&
		   known_walk(v, known))) {
		known->bytes = *known->insn;
		if (likely((known->bytes & e->mask) == e->opcode)) {
			known->next_rip = v->next_rip = s->rip + e->length;
			known->handle = e->handle;
			known_note(known, s, code);
			return;
		}
	}
	locate_decode(v, e);
}

/* Sets next_rip for the instruction that exited, and insn_prefixes if it is longer than `e` says. */
static ALWAYS_INLINE void locate(struct vcpu *v, const struct exit_entry *e, u64 code)
{
	const struct vmcb *vmcb = v->vmcb;

	if ((v->cpu_features & SVM_NRIPS) && vmcb->control.next_rip) {
		v->next_rip = vmcb->control.next_rip;
		if (unlikely(v->next_rip - vmcb->save.rip != e->length)) {
			locate_decode(v, e); /* for the prefixes; the length is the CPU's */
			v->next_rip = vmcb->control.next_rip;
		}
	} else {
		locate_walk(v, e, code);
	}
}

u64 svm_operand_toggled(const struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb->save;
	bool toggled =
		v->next_rip - s->rip != SVM_INSN_BYTES && (v->insn_prefixes & INSN_PREFIX_67);

	if (is_64bit(s))
		return toggled ? (u32)s->rax : s->rax;
	return !(s->cs.attrib & SEG_ATTR_DB) == toggled ? (u32)s->rax : (u16)s->rax;
}

void vcpu_raise(struct vcpu *v, u64 event)
{
	unsigned int vector = (unsigned int)(event & EVENT_VECTOR);

	if (vcpu_in_l2(v) && vmcb_intercepts(&v->nested.ctl, INTERCEPT_EXCEPTION(vector)))
		nested_vmexit_made(v, VMEXIT_EXCEPTION(vector), event >> EVENT_ERROR_SHIFT, 0);
	else
		vcpu_set_eventinj(v, event);
}

static void shut_down(struct vcpu *v)
{
	if (vcpu_in_l2(v) && vmcb_intercepts(&v->nested.ctl, INTERCEPT(SHUTDOWN)))
		nested_vmexit_made(v, VMEXIT_SHUTDOWN, 0, 0);
	else
		vcpu_shutdown(v, "triple-fault");
}

/*
 * An exception that only L0 intercepts goes where it was going. Two are another instruction's than the CPU believes: while
 * L1's SVME is 0 the CPU's own is 1, so it checks CPL and RAX of SVM instructions, which for L1 do not exist: #UD goes
 * first (APM2 §15.4); and what track.c makes fault.
 */
u32 exit_exception(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb->control;
	unsigned int vector = (unsigned int)(c->exit_code - VMEXIT_EXCEPTION(0));
	u64 first = merge_exit_int_info(c->exit_int_info), event;

	if (vector == VEC_BP || vector == VEC_OF)
		return exit_let_in(v);
	if (!first && vector == VEC_GP && !v->svme && is_svm_instruction(v))
		return INJECT_UD;
	if (!first && (v->special & SPECIAL_TRACK) && track_fault(v, vector))
		return RESUME;
	event = event_combine(
		first, event_exception(vector, EVENT_HAS_ERROR >> vector & 1, (u32)c->exit_info_1));
	if (!event) {
		shut_down(v);
		return RESUME;
	}
	if (vector == VEC_PF)
		v->vmcb->save.cr2 = c->exit_info_2; /* not written by an exit (APM2 §15.12.15) */
	c->int_state &= ~INTERRUPT_SHADOW;
	vcpu_set_eventinj(v, event);
	return RESUME;
}

/* The single-step trap after an instruction that L0 emulated (APM2 §13.1.4). */
void vcpu_trap(struct vcpu *v)
{
	v->vmcb->save.dr6 |= DR6_BS;
	vcpu_raise(v, event_exception(VEC_DB, false, 0));
}

static NOINLINE void after_flags(struct vcpu *v)
{
	v->vmcb->save.rflags &= ~RFLAGS_RF; /* ends with the instruction */
	if (v->vmcb->save.rflags & RFLAGS_TF)
		vcpu_trap(v);
}

void vcpu_shutdown(struct vcpu *v, const char *why)
{
	static const struct descriptor_table none;

	log_warn("event=shutdown level=%s why=%s exit=%lx(%s) info1=%lx info2=%lx rip=%lx cr0=%lx "
		 "cr3=%lx",
		 vcpu_in_l2(v) ? "L2" : "L1", why, v->vmcb->control.exit_code,
		 exit_name(v->vmcb->control.exit_code), v->vmcb->control.exit_info_1,
		 v->vmcb->control.exit_info_2, v->vmcb->save.rip, v->vmcb->save.cr0,
		 v->vmcb->save.cr3);
	exit_log_history(v, LOG_WARN, 8);
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
	if (vcpu_in_l2(v)) {
		nested_refused(v);
		return RESUME;
	}
	/* L1 got itself into a state that VMRUN does not take: TCG lets MOV CR0 set NW without CD. Its registers are lost */
	vcpu_shutdown(v, "vmrun-of-L1-refused");
}

static u32 exit_unknown(struct vcpu *v)
{
	u64 code = v->vmcb->control.exit_code;

	if (code == VMEXIT_INVALID || code == (u32)VMEXIT_INVALID)
		return exit_invalid(v);
	vcpu_shutdown(v, "unexpected-exit");
}

static ALWAYS_INLINE void apply(struct vcpu *v, u32 verdict, bool may_settle)
{
	if (likely(verdict == ADVANCE)) {
		struct vmcb *vmcb = v->vmcb;

		vmcb->save.rip = v->next_rip;
		vmcb->control.int_state &= ~INTERRUPT_SHADOW;
		if (may_settle)
			vcpu_retire(v);
		else
			pmu_clock_retire(&v->clock);
		if (unlikely(vmcb->save.rflags & (RFLAGS_TF | RFLAGS_RF)))
			after_flags(v);
	} else if (verdict & INJECT) {
		vcpu_raise(v, event_exception(verdict & 0x1f, verdict & INJECT_ERROR, 0));
	}
}

/* Before VMRUN: the hardware's own VMRUN tick against the instructions that L0 emulated. */
static ALWAYS_INLINE void settle_ticks(struct vcpu *v)
{
	if (unlikely(v->backend != TALLY_BACKEND_GUEST_ONLY))
		return;
	pmu_guest_only_entry(&v->guest_only, v->vmcb->save.cpl);
	if (unlikely(v->counters_hidden != (v->guest_only.ahead != 0)))
		backend_hide_counters(v, v->guest_only.ahead);
	if (unlikely(v->guest_only.interrupt))
		pmi_due(v);
}

/* `slot` is exit_slot() of the code, which of a code in exits[] is the code itself. */
static ALWAYS_INLINE void record(struct vcpu *v, u64 code, u64 slot, u64 rip)
{
	u64 n = v->exits++ % EXIT_HISTORY;

	v->history_code[n] = code;
	v->history_rip[n] = rip;
	v->exit_counts[slot]++;
}

/* L2's exit becomes L1's. */
static ALWAYS_INLINE void reflect(struct vcpu *v, u64 code)
{
	const struct vmcb_control *c = &v->vmcb->control;

	exit_assist(v, code);
	nested_vmexit(v, c->exit_code, c->exit_info_1, c->exit_info_2);
}

static u32 handle(struct vcpu *v, u64 code)
{
	const struct exit_entry *e;

	if (code == VMEXIT_NPF)
		return exit_npf(v);
	if (code >= ARRAY_SIZE(exits) || !exits[code].handle)
		return exit_unknown(v);
	e = &exits[code];
	if (e->length)
		locate(v, e, code);
	return e->handle(v);
}

/* First at an exit: what the VMCB had for this one VMRUN. */
static NOINLINE void undo(struct vcpu *v)
{
	if (v->special & SPECIAL_PMI)
		apic_timer_exit(v);
	if (v->special & SPECIAL_TRACK)
		track_exit(v);
	if (v->special & SPECIAL_SOFT_EVENT)
		nested_inject_end(v);
	if (v->special & SPECIAL_VIRQ)
		interrupts_passed_on(v);
}

void vcpu_enter(struct vcpu *v)
{
	v->was_reset = false;
	if (v->backend == TALLY_BACKEND_SWITCHED)
		vmrun_loop_switched(v);
	vmrun_loop(v);
}

/* Last at an exit, when it is known who goes on and where. */
static NOINLINE void prepare(struct vcpu *v)
{
	if ((v->special & SPECIAL_FLAW) && vcpu_in_l2(v) &&
	    v->history_code[(v->exits - 1) % EXIT_HISTORY] == VMEXIT_VMRUN)
		v->clock.now -= v->clock.insn_ticks; /* nobody has looked since it retired */
	if (v->special & SPECIAL_MAIL)
		ipi_serve(v);
	events_deliver(v);
	if (unlikely(v->waits_for_sipi))
		ipi_wait_for_sipi(v);
	if (v->special & SPECIAL_TRACK)
		track_entry(v);
	if (v->special & SPECIAL_PMI)
		apic_timer_entry(v);
	if (unlikely(v->was_reset) && !(v->special & SPECIAL_WATCH)) {
		if (v->settles)
			settle_ticks(v);
		vcpu_enter(v);
	}
}

/* Exits that L0 has made itself, and has dealt with. */
static NOINLINE bool own_exit(struct vcpu *v)
{
	if ((v->special & SPECIAL_PMI) && apic_timer_own_exit(v))
		return true;
	return (v->special & SPECIAL_STEP) && step_exit(v);
}

/* Any exit at all. */
void vcpu_exit_special(struct vcpu *v)
{
	u64 code = v->vmcb->control.exit_code;
	bool settled = v->settles; /* and once more if this exit is the end of it */

	record(v, code, exit_slot(code), v->vmcb->save.rip);
	if (unlikely(v->special &
		     (SPECIAL_TRACK | SPECIAL_SOFT_EVENT | SPECIAL_VIRQ | SPECIAL_PMI)))
		undo(v);
	if (unlikely(v->special & SPECIAL_ENTRY)) {
		v->vmcb->control.tlb_control = TLB_CONTROL_NONE;
		v->vmcb->control.event_inj = 0;
		vcpu_clr_special(v, SPECIAL_ENTRY);
	}
	if (v->special & SPECIAL_HALT)
		halt_end(v);
	if (unlikely(code == VMEXIT_CR_READ(0) && v->cr_read_quirk))
		code = exit_which_cr_read(v);
	if (unlikely(v->special & (SPECIAL_STEP | SPECIAL_PMI)) && own_exit(v))
		;
	else if (vcpu_in_l2(v) && nested_wants(v, code))
		reflect(v, code);
	else
		apply(v, handle(v, code), true);
	if (unlikely(v->special & (SPECIAL_INIT | SPECIAL_NMI | SPECIAL_TRACK | SPECIAL_FLAW |
				   SPECIAL_PMI | SPECIAL_MAIL)))
		prepare(v);
	if (unlikely(settled | v->settles))
		settle_ticks(v);
}

/* The same without known_exit: nRIP is all that is needed, or the place is new. */
static NOINLINE void ordinary_unknown(struct vcpu *v)
{
	u64 code = v->vmcb->control.exit_code;
	bool settled = v->settles; /* and once more if this exit is the end of it */

	if (unlikely(code >= ARRAY_SIZE(exits) || !exits[code].length)) {
		u64 rip = v->vmcb->save.rip;

		if (code != VMEXIT_NPF || !apic_exit_known(v)) {
			exit_special(v);
			return;
		}
		record(v, code, code, rip);
		apply(v, ADVANCE, true);
	} else {
		record(v, code, code, v->vmcb->save.rip);
		locate(v, &exits[code], code);
		apply(v, exits[code].handle(v), true);
	}
	if (unlikely(settled | v->settles))
		settle_ticks(v);
}

/* An instruction of L1's with nothing else going on, that exited before: the path whose length counts. */
static void ordinary_known(struct vcpu *v)
{
	const struct vmcb *vmcb = v->vmcb;
	u64 code = vmcb->control.exit_code, rip = vmcb->save.rip;
	const struct known_exit *known = known_at(v, rip);

	if (unlikely(!known_is(known, &vmcb->save, code, rip))) {
		ordinary_unknown(v);
		return;
	}
	record(v, code, code, rip);
	v->next_rip = known->next_rip;
	apply(v, known->handle(v), false);
}

void vcpu_choose_exit(struct vcpu *v)
{
	for (unsigned int i = 0; i < KNOWN_EXITS; i++)
		v->known[i].rip = ~0ull; /* no instruction is there */
	for (unsigned int i = 0; i < KNOWN_L2_EXITS; i++)
		v->known_l2[i].rip = ~0ull;
	for (unsigned int i = 0; i < KNOWN_APIC_WRITES; i++)
		v->known_apic[i].rip = ~0ull;
	/* with nRIP, or ticks to settle, there is nothing to know */
	v->ordinary_exit = v->cpu_features & SVM_NRIPS || v->backend == TALLY_BACKEND_GUEST_ONLY ||
					   v->backend == TALLY_BACKEND_SWITCHED
				   ? ordinary_unknown
				   : ordinary_known;
	v->on_exit = v->ordinary_exit;
}

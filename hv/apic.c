/* SPDX-License-Identifier: MIT */
#include "hv/apic.h"
#include "hv/core/insn.h"
#include "hv/cpu.h"
#include "hv/cpus.h"
#include "hv/ipi.h"
#include "hv/known.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* Tries, then lets go: an IPI that the other CPU cannot take must not stop this one. */
#define PENDING_TRIES 1000

void apic_send(const struct vcpu *v, u64 base, u32 id, u32 command)
{
	u32 high;

	if (base & APIC_BASE_X2) {
		cpu_wrmsr(APIC_X2_MSR(APIC_ICR), (u64)id << 32 | command);
		return;
	}
	/* half a command of the guest's may be there */
	high = apic_read(v, base, APIC_ICR_HIGH);
	apic_write(v, base, APIC_ICR_HIGH, id << APIC_XAPIC_ID_SHIFT);
	apic_write(v, base, APIC_ICR, command);
	for (unsigned int i = 0;
	     i < PENDING_TRIES && (apic_read(v, base, APIC_ICR) & APIC_ICR_PENDING); i++)
		cpu_pause();
	apic_write(v, base, APIC_ICR_HIGH, high);
}

static u32 read_id(const struct vcpu *v, u64 base)
{
	u32 id = apic_read(v, base, APIC_ID);

	return base & APIC_BASE_X2 ? id : id >> APIC_XAPIC_ID_SHIFT;
}

/* Not by the shorthand, which is for fixed interrupts only (§16.5). */
void apic_send_to_self(struct vcpu *v, u64 base, u32 command)
{
	if (v->smp && (command & APIC_DELIVERY) == APIC_DELIVERY_NMI)
		ipi_nmi_to_self(v); /* or it could be one with an NMI of L0's, and lost */
	else
		apic_send(v, base, read_id(v, base), command);
}

/* What others need to know of this CPU's APIC to address it, and what exits. */
void apic_moved(struct vcpu *v)
{
	struct apic_trap *apic = &v->apic;
	u64 base = cpu_rdmsr(MSR_APIC_BASE), page = apic->page;

	if (!v->smp)
		return;
	apic->own.x2 = base & APIC_BASE_X2;
	if (base & APIC_BASE_ENABLED) {
		apic->own.id = read_id(v, base);
		apic->own.ldr = apic_read(v, base, APIC_LDR);
		apic->own.dfr = apic->own.x2 ? ~0u : apic_read(v, base, APIC_DFR);
	}
	ipi_reachable(v, base & APIC_BASE_ENABLED);
	if (page == apic->trapped)
		return;
	apic->leaf = memory_own_entry(v->npt, page);
	*apic->leaf &= ~PTE_W;
	apic->trapped = page;
	v->shadow.trapped = page;
	shadow_flush_all(&v->shadow);
	v->vmcb01->control.tlb_control = vcpu_flush_asid(v);
	vcpu_set_special(v, SPECIAL_ENTRY);
}

/* What is written to its TPR is CR8's, whatever else may be at the page. */
static bool is_at(const struct vcpu *v, u64 page)
{
	volatile u32 *tpr = apic_register(v, page, APIC_TPR);
	u64 cr8 = cpu_read_cr8(), other = cr8 ^ 0xf;
	u32 was = *tpr;
	bool is;

	*tpr = (u32)other << 4;
	is = cpu_read_cr8() == other;
	*tpr = was;
	return is;
}

/* On some machines the address can be written, and the APIC stays (QEMU's TCG). It would be out of sight there. */
bool apic_write_base(struct vcpu *v, u64 value)
{
	u64 was = cpu_rdmsr(MSR_APIC_BASE), page = value & APIC_BASE_ADDRESS;

	if (!cpu_wrmsr_safe(MSR_APIC_BASE, value))
		return false;
	if (page != v->apic.page && (value & APIC_BASE_ENABLED) && !(value & APIC_BASE_X2)) {
		if (!is_at(v, page)) {
			cpu_wrmsr(MSR_APIC_BASE, was);
			log_guest("event=apic_base value=%lx note=\"the APIC has not moved\"",
				  value);
			return false;
		}
		v->apic.page = page;
	}
	apic_moved(v);
	return true;
}

void apic_init(struct vcpu *v)
{
	v->apic.page = cpu_rdmsr(MSR_APIC_BASE) & APIC_BASE_ADDRESS;
	v->apic.trapped = APIC_NO_PAGE;
	v->apic.leaf = memory_own_entry(v->npt, APIC_DEFAULT_PAGE);
	if (!v->smp)
		return;
	nested_intercept_msr_write(v, APIC_X2_MSR(APIC_ICR));
	apic_moved(v);
}

static u32 any_of(const struct vcpu *v, u64 base, u32 bank)
{
	u32 any = 0;

	for (u32 word = 0; word < 8; word++)
		any |= apic_read(v, base, bank + word * 0x10);
	return any;
}

/* All that is in service or requested is gone afterwards. An NMI may come first, so it is tried until there is nothing left;
 * but not for ever, for others may go on sending. */
static void drain(struct vcpu *v, u64 base)
{
	for (unsigned int i = 0; i < 512; i++) {
		if (any_of(v, base, APIC_IRR))
			events_take(v, true);
		else if (!any_of(v, base, APIC_ISR))
			return;
		apic_write(v, base, APIC_EOI, 0);
	}
}

void apic_reset(struct vcpu *v)
{
	static const u32 lvts[] = {APIC_LVT_TIMER, APIC_LVT_THERMAL, APIC_LVTPC,
				   APIC_LVT_LINT0, APIC_LVT_LINT1,   APIC_LVT_ERROR};
	u64 base = cpu_rdmsr(MSR_APIC_BASE);

	if (!(base & APIC_BASE_ENABLED))
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(lvts); i++)
		apic_write(v, base, lvts[i], (u32)APIC_LVT_MASKED);
	apic_write(v, base, APIC_TPR, 0);
	apic_write(v, base, APIC_TIMER_COUNT, 0);
	apic_write(v, base, APIC_TIMER_DIVIDE, 0);
	drain(v, base);
	if (!(base & APIC_BASE_X2)) {
		apic_write(v, base, APIC_DFR, ~0u);
		apic_write(v, base, APIC_LDR, 0);
	}
	apic_write(v, base, APIC_SVR, APIC_VECTOR); /* software-disabled */
	apic_moved(v);
}

/* A write of L1's or L2's to the page. */
static void write_register(struct vcpu *v, u32 reg, u32 value)
{
	u64 page = v->apic.trapped;

	/* no register: QEMU takes what is not at a multiple of 16 for the one below, and the first 16 bytes for an MSI */
	if (unlikely(reg < APIC_ID || reg & 0xf))
		return;
	if (unlikely(reg == APIC_ICR) && v->apic.own.enabled && !v->apic.own.x2) {
		u64 destination = *apic_register(v, page, APIC_ICR_HIGH) >> APIC_XAPIC_ID_SHIFT;

		if (ipi_command(v, destination << 32 | value))
			return;
	}
	*apic_register(v, page, reg) = value;
	if (unlikely(reg == APIC_ID || reg == APIC_LDR || reg == APIC_DFR))
		apic_moved(v);
}

u32 apic_write_x2_icr(struct vcpu *v, u64 value)
{
	if (ipi_command(v, value))
		return ADVANCE;
	return cpu_wrmsr_safe(APIC_X2_MSR(APIC_ICR), value) ? ADVANCE : INJECT_GP;
}

/* MOV of 4 bytes to memory: what it writes. */
static bool mov_value(struct vcpu *v, const struct insn *insn, u32 *value)
{
	if (insn->operand_bytes != 4 || insn->map != INSN_MAP_ONE ||
	    (insn->prefixes & INSN_PREFIX_LOCK))
		return false;
	switch (insn->opcode) {
	case 0x89: /* MOV r/m32, r32 */
		*value = (u32)*vcpu_gpr(v, insn->reg);
		return true;
	case 0xa3: /* MOV moffs32, EAX */
		*value = (u32)v->vmcb->save.rax;
		return true;
	case 0xc7: /* MOV r/m32, imm32 */
		*value = (u32)insn->imm;
		return !(insn->modrm >> 3 & 7);
	default:
		return false;
	}
}

/* The exit is a write of an instruction's own to a register of the page. */
static ALWAYS_INLINE bool is_plain(const struct vmcb_control *c)
{
	return !((c->exit_int_info & EVENT_V) | (c->exit_info_1 & NPF_TABLE) |
		 (c->exit_info_2 & 0xf));
}

static ALWAYS_INLINE struct known_exit *known_write_at(struct vcpu *v, u64 rip)
{
	return &v->known_apic[rip / 4 % KNOWN_APIC_WRITES];
}

/* RAX, RCX, RDX, RBX, RSI, RDI, R8 to R11: RAX is in the VMCB, and vmrun_loop saves the others at each exit. */
#define SAVED_GPRS 0x0fcfu

/* Another CPU may have written to the instruction since it was decoded. */
static bool is_still(const struct insn *insn, u32 first_bytes)
{
	u8 bytes[INSN_MAX_BYTES] = {0};
	struct insn now;

	__builtin_memcpy(bytes, &first_bytes, sizeof(first_bytes));
	return !insn_length(bytes, sizeof(bytes), INSN_64, &now) && now.length == insn->length &&
	       now.prefixes == insn->prefixes && now.map == insn->map &&
	       now.opcode == insn->opcode && now.modrm == insn->modrm && now.reg == insn->reg &&
	       now.operand_bytes == insn->operand_bytes;
}

/* All that counts is in the first four bytes; an immediate is read each time. */
static void make_known(struct vcpu *v, const struct insn *insn)
{
	const struct vmcb_save *s = &v->vmcb->save;
	struct known_exit *known = known_write_at(v, s->rip);
	u8 source = insn->opcode == 0xc7 ? KNOWN_IMMEDIATE : insn->reg;

	if (vcpu_in_l2(v) || !known_mode(s) || insn->prefixes || insn->opcode == 0xa3 ||
	    s->rip % PAGE_SIZE > PAGE_SIZE - INSN_MAX_BYTES ||
	    (source != KNOWN_IMMEDIATE && !(SAVED_GPRS >> source & 1)))
		return;
	known->rip = ~0ull;
	if (!known_walk(v, known))
		return;
	known->bytes = __atomic_load_n(known->insn, __ATOMIC_RELAXED);
	if (!is_still(insn, known->bytes))
		return;
	known->next_rip = v->next_rip;
	known->source = source;
	known_note(known, s, VMEXIT_NPF);
}

bool apic_exit_known(struct vcpu *v)
{
	const struct vmcb *vmcb = v->vmcb;
	const struct vmcb_control *c = &vmcb->control;
	const struct known_exit *known = known_write_at(v, vmcb->save.rip);
	u32 value;

	if (unlikely(!apic_traps(v, c->exit_info_2) || !is_plain(c) ||
		     !known_is(known, &vmcb->save, VMEXIT_NPF, vmcb->save.rip)))
		return false;
	v->next_rip = known->next_rip;
	if (known->source == KNOWN_IMMEDIATE)
		__builtin_memcpy(&value,
				 (const u8 *)known->insn + (known->next_rip - known->rip) - 4, 4);
	else
		value = (u32)*vcpu_gpr(v, known->source);
	write_register(v, (u32)(c->exit_info_2 & 0xfff), value);
	return true;
}

/*
 * Registers are 4 bytes at multiples of 16 (APM2 §16.3.2). Any other instruction than MOV executes on a page of L0's with
 * the register's value on it, and what it leaves there is written.
 */
u32 apic_exit_write(struct vcpu *v, u64 gpa, u64 *leaf)
{
	const struct vmcb_control *c = &v->vmcb->control;
	u32 reg = gpa & 0xffc, value;
	struct insn insn;

	if (is_plain(c) && !insn_decode(v, &insn) && mov_value(v, &insn, &value)) {
		make_known(v, &insn);
		write_register(v, reg, value);
		return ADVANCE;
	}
	v->apic.stepped = reg;
	v->apic.step = true;
	*(u32 *)(uintptr_t)(v->sink_page + reg) = *apic_register(v, v->apic.trapped, reg);
	hole_write(v, leaf);
	return RESUME;
}

void apic_stepped(struct vcpu *v, bool completed)
{
	v->apic.step = false;
	if (completed)
		write_register(v, v->apic.stepped,
			       *(u32 *)(uintptr_t)(v->sink_page + v->apic.stepped));
}

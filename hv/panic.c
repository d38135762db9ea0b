/* SPDX-License-Identifier: MIT */
#include "hv/panic.h"
#include "hv/core/format.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/cpus.h"
#include "hv/ipi.h"
#include "x86/cr.h"

#define DEBUG_EXIT_PORT 0xf4
#define DEBUG_EXIT_PANIC 0x7f

/* The stages of the panic page; a fault inside one goes on with the next. */
static unsigned int stage;

static void page_registers(void)
{
	const struct vcpu *v = &cpus_this()->vcpu;

	log_line(LOG_PANIC, "exits=%lu level=%s gif=%u svme=%u backend=%u", v->exits,
		 vcpu_in_l2(v) ? "L2" : "L1", v->gif, v->svme, v->backend);
	for (unsigned int i = 0; i < GPR_COUNT; i += 4)
		log_line(LOG_PANIC, "gpr%u=%016lx %016lx %016lx %016lx", i, v->gpr[i],
			 v->gpr[i + 1], v->gpr[i + 2], v->gpr[i + 3]);
}

static void page_vmcb(const char *name, const struct vmcb *vmcb)
{
	const struct vmcb_control *c = &vmcb->control;
	const struct vmcb_save *s = &vmcb->save;

	log_line(LOG_PANIC,
		 "%s exit=%lx(%s) info1=%lx info2=%lx intinfo=%lx inj=%lx int_ctl=%x asid=%u", name,
		 c->exit_code, exit_name(c->exit_code), c->exit_info_1, c->exit_info_2,
		 c->exit_int_info, c->event_inj, c->int_ctl, c->asid);
	log_line(LOG_PANIC,
		 "%s rip=%lx rsp=%lx rax=%lx rflags=%lx cr0=%lx cr3=%lx cr4=%lx efer=%lx cs=%x/%x",
		 name, s->rip, s->rsp, s->rax, s->rflags, s->cr0, s->cr3, s->cr4, s->efer,
		 s->cs.selector, s->cs.attrib);
}

static void page_vmcbs(void)
{
	page_vmcb("vmcb01", cpus_this()->vcpu.vmcb01);
	page_vmcb("vmcb02", cpus_this()->vcpu.vmcb02);
}

static void page_pmu(void)
{
	const struct pmu *pmu = &cpus_this()->vcpu.pmu;

	log_line(LOG_PANIC,
		 "reprogram_pmc_on_nested_transition=%lx pending=%lx enabled_hw=%lx counting=%lx",
		 pmu->reprogram_pmc_on_nested_transition, pmu->reprogram_pending, pmu->enabled_hw,
		 cpus_this()->vcpu.clock.counting);
}

static void page_history(void)
{
	exit_log_history(&cpus_this()->vcpu, LOG_PANIC, EXIT_HISTORY);
}

NORETURN static void panic_page(void)
{
	static void (*const stages[])(void) = {page_registers, page_vmcbs, page_pmu, page_history};

	while (stage < ARRAY_SIZE(stages))
		stages[stage++]();
	/* QEMU's isa-debug-exit; elsewhere nobody listens */
	cpu_outl(DEBUG_EXIT_PORT, DEBUG_EXIT_PANIC);
	for (;;)
		cpu_hlt();
}

void panic_at(const char *file, int line, const char *fmt, ...)
{
	static u32 panicked; /* number of the first CPU, and 1 */
	u32 self = cpus_this_index() + 1, first = 0;
	char text[160];
	va_list args;

	if (__atomic_compare_exchange_n(&panicked, &first, self, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE)) {
		ipi_stop_others(&cpus_this()->vcpu);
		log_take_over();
		va_start(args, fmt);
		format_v(text, sizeof(text), fmt, args);
		va_end(args);
		log_line(LOG_PANIC, "%s:%d: %s (version %s)", file, line, text, TALLY_VERSION);
	} else if (first != self) {
		for (;;)
			cpu_hlt(); /* the first one is the one to look at */
	}
	panic_page();
}

struct extable_entry {
	s32 from, to; /* relative to the field itself */
};

extern const struct extable_entry __extable_start[], __extable_end[];

void fault(struct fault_frame *frame)
{
	if (frame->vector == VEC_GP) {
		for (const struct extable_entry *e = __extable_start; e < __extable_end; e++) {
			if ((u64)((s64)(uintptr_t)&e->from + e->from) == frame->rip) {
				frame->rip = (u64)((s64)(uintptr_t)&e->to + e->to);
				return;
			}
		}
	}
	panic("exception vector=%lu error=%lx rip=%lx cr2=%lx rsp=%lx", frame->vector,
	      frame->error_code, frame->rip, cpu_read_cr2(), frame->rsp);
}

/* SPDX-License-Identifier: MIT */
#include "hv/ipi.h"
#include "hv/apic.h"
#include "hv/core/apic_match.h"
#include "hv/cpu.h"
#include "hv/cpus.h"
#include "hv/log.h"
#include "x86/msr.h"

bool ipi_is_reachable(const struct vcpu *to)
{
	return __atomic_load_n(&to->apic.own.enabled, __ATOMIC_ACQUIRE);
}

/* One NMI at a time: the CPU would make one of two, and the second of ours would look like L1's. */
void ipi_wake(struct vcpu *v, struct vcpu *to)
{
	if (ipi_is_reachable(to) && !__atomic_exchange_n(&to->kicked, true, __ATOMIC_ACQ_REL))
		apic_send(v, cpu_rdmsr(MSR_APIC_BASE), to->apic.own.id, APIC_DELIVERY_NMI);
}

/* INIT makes a SIPI that came before it void; a second SIPI does not replace the first (APM2 §16.5). */
static void post(struct vcpu *to, u32 request)
{
	u32 was = __atomic_load_n(&to->mail, __ATOMIC_RELAXED), now;

	do {
		now = was | request;
		if (request & IPI_INIT)
			now = (was & ~(u32)IPI_SIPI & 0xffffff) | request;
		else if ((request & IPI_SIPI) && (was & IPI_SIPI))
			now = was;
	} while (!__atomic_compare_exchange_n(&to->mail, &was, now, true, __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
}

static u32 take_mail(struct vcpu *v, u32 requests)
{
	return __atomic_fetch_and(&v->mail, ~requests, __ATOMIC_ACQ_REL) & requests;
}

void ipi_forget_sipi(struct vcpu *v)
{
	take_mail(v, (u32)IPI_SIPI);
}

NORETURN static void stop(void)
{
	for (;;)
		cpu_hlt();
}

/* SIPI stays: it is for ipi_wait_for_sipi(). */
void ipi_serve(struct vcpu *v)
{
	u32 mail = take_mail(v, (u32)(IPI_INIT | IPI_NMI | IPI_FILTER | IPI_STOP));

	if (mail & IPI_STOP)
		stop();
	if (mail & IPI_INIT)
		vcpu_set_special(v, SPECIAL_INIT);
	if (mail & IPI_NMI)
		vcpu_set_special(v, SPECIAL_NMI);
	if (mail & IPI_FILTER)
		backend_take_filter(v);
}

static void ask(struct vcpu *v, struct vcpu *to, u32 request)
{
	post(to, request);
	ipi_wake(v, to); /* oneself, too: the exit that asks may not be one that delivers */
}

void ipi_nmi_to_self(struct vcpu *v)
{
	ask(v, v, (u32)IPI_NMI);
}

bool ipi_command(struct vcpu *v, u64 icr)
{
	u32 request, found = 0;

	switch (icr & APIC_DELIVERY) {
	case APIC_DELIVERY_INIT:
		if ((icr & (APIC_ICR_LEVEL | APIC_ICR_ASSERT)) == APIC_ICR_LEVEL)
			return true; /* level de-assert: nothing happens */
		request = IPI_INIT;
		break;
	case APIC_DELIVERY_SIPI:
		request = (u32)(IPI_SIPI | (icr & APIC_VECTOR) << IPI_VECTOR_SHIFT);
		break;
	case APIC_DELIVERY_NMI:
		request = IPI_NMI;
		break;
	default:
		return false;
	}
	for (u32 i = 0; i < cpus_count(); i++) {
		struct vcpu *to = &cpus_at(i)->vcpu;

		if (!apic_match(icr, &v->apic.own, &to->apic.own))
			continue;
		found++;
		ask(v, to, request);
	}
	if (!found)
		log_guest("event=ipi icr=%lx note=\"no such CPU of ours: dropped\"", icr);
	return true;
}

bool ipi_receive(struct vcpu *v)
{
	bool kicked = __atomic_exchange_n(&v->kicked, false, __ATOMIC_ACQ_REL);

	ipi_serve(v);
	return kicked;
}

/* Others may be waiting for this CPU at the same time: their requests go on being served. */
void ipi_ask_all(struct vcpu *v, u32 request)
{
	for (u32 i = 0; i < cpus_count(); i++)
		if (&cpus_at(i)->vcpu != v)
			ask(v, &cpus_at(i)->vcpu, request);
	for (u32 i = 0; i < cpus_count(); i++) {
		const struct vcpu *to = &cpus_at(i)->vcpu;

		while (to != v && ipi_is_reachable(to) &&
		       (__atomic_load_n(&to->mail, __ATOMIC_ACQUIRE) & request)) {
			ipi_serve(v);
			cpu_pause();
		}
	}
}

void ipi_wait_for_sipi(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb01->save;
	u32 mail;

	v->waits_for_sipi = false;
	while (!((mail = __atomic_load_n(&v->mail, __ATOMIC_ACQUIRE)) & IPI_SIPI)) {
		nmi_wait();
		nmi_unblock();
		ipi_receive(v);
		vcpu_clr_special(v,
				 SPECIAL_INIT | SPECIAL_NMI); /* it is in INIT, and hears no NMI */
	}
	take_mail(v, (u32)IPI_SIPI);
	s->cs.selector = (u16)(mail >> IPI_VECTOR_SHIFT << 8);
	s->cs.base = (u64)s->cs.selector << 4;
	s->rip = 0;
}

void ipi_stop_others(struct vcpu *v)
{
	for (u32 i = 0; i < cpus_count(); i++)
		if (&cpus_at(i)->vcpu != v && v->apic.own.enabled)
			ask(v, &cpus_at(i)->vcpu, (u32)IPI_STOP);
}

void ipi_reachable(struct vcpu *v, bool reachable)
{
	if (v->apic.own.enabled == reachable)
		return;
	if (reachable)
		__atomic_store_n(&v->kicked, false, __ATOMIC_RELEASE); /* that NMI is lost */
	/* from here on others send NMIs */
	__atomic_store_n(&v->apic.own.enabled, reachable, __ATOMIC_RELEASE);
	if (reachable)
		vcpu_clr_special(v, SPECIAL_MAIL);
	else
		vcpu_set_special(v, SPECIAL_MAIL);
	ipi_serve(v);
}

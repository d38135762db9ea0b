/* SPDX-License-Identifier: MIT */
/* The only ports that L0 intercepts: those that put the machine to sleep. */
#include "hv/core/sleep.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/vcpu.h"

static u8 iopm[IOPM_BYTES] ALIGNED(4096);

void io_init(struct vcpu *v, const struct sleep_control *sleep)
{
	v->sleep = *sleep;
	v->iopm_hpa = memory_hpa(iopm);
	v->vmcb01->control.iopm_base_pa = v->iopm_hpa;
	if (!sleep_is_guarded(sleep))
		return;
	sleep_add_to_map(sleep, iopm); /* the same for each CPU */
	vcpu_set_l0_intercept(v, INTERCEPT(IOIO), true);
}

static u32 access_bytes(const struct vcpu *v)
{
	return (u32)(v->vmcb->control.exit_info_1 >> 4) & 7; /* IOIO_SZ8, 16, 32 are 1, 2, 4 */
}

static u32 access_port(const struct vcpu *v)
{
	return (u32)v->vmcb->control.exit_info_1 >> IOIO_PORT_SHIFT;
}

bool io_exit_is_l1s(const struct vcpu *v)
{
	const struct vmcb_control *ctl = &v->nested.ctl;
	u32 port = access_port(v), bytes = access_bytes(v);

	return vmcb_intercepts(ctl, INTERCEPT(IOIO)) &&
	       (sleep_register(&v->sleep, port, bytes) < 0 ||
		iopm_intercepts(guest_at(&v->mem, ctl->iopm_base_pa & ~0xfffull), port, bytes));
}

u32 exit_ioio(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb;
	u32 port = access_port(v), bytes = access_bytes(v);
	u64 mask = bytes == 4 ? ~0ull : BIT(8 * bytes) - 1; /* 32 bits clear the upper half */

	v->next_rip = vmcb->control.exit_info_2;
	/* nobody has memory written there in a string */
	if (vmcb->control.exit_info_1 & IOIO_STR) {
		log_guest("event=sleep access=string port=%x rip=%lx", port, vmcb->save.rip);
		return INJECT_GP;
	}
	if (vmcb->control.exit_info_1 & IOIO_IN)
		vmcb->save.rax = (vmcb->save.rax & ~mask) | cpu_in((u16)port, bytes);
	else if (!sleep_is_refused(&v->sleep, port, bytes, (u32)vmcb->save.rax))
		cpu_out((u16)port, bytes, (u32)vmcb->save.rax);
	else
		log_guest("event=sleep refused=1 port=%x value=%x rip=%lx", port,
			  (u32)(vmcb->save.rax & mask), vmcb->save.rip);
	return ADVANCE;
}

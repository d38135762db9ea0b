/* SPDX-License-Identifier: MIT */
/*
 * 2,000,000 exits of three L2s in turns: two under nested paging, with an ASID each, and one without. L1 changes nothing
 * and asks for no flush, so after the first rounds L0's tables must not grow, nothing is filled again, and nothing is flushed.
 */
#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/msr.h"

#define EXITS 2000000u
#define PARTS 4
#define WARM_UP 2000u
#define TURN 16u /* exits of one L2 before the next one's */

/* Touches one of 64 pages, all in different 2 MByte, and exits in all ways that L1 wants. R10: rounds. */
L2_CODE(l2_busy,
	"1:\n\tmov %r8, %r9\n\tand $0x7e00000, %r9\n\tmov (%rdi,%r9), %rax\n\tadd $0x200000, "
	"%r8\n\t"
	"inc %r10\n\tvmmcall\n\tcpuid\n\tmov $0x277, %ecx\n\trdmsr\n\tmov $0x80, %edx\n\tout %al, "
	"%dx\n\tjmp 1b");

#define AREA 0x40000000ull
#define AREA_TABLES 64u

static struct machine {
	struct vmcb *vmcb;
	struct l2_regs regs;
	u64 exits;
} machines[3];

static struct vmcb vmcbs[2];
static struct paging npts[2], l2_tables;
static u8 page[PAGE_SIZE] ALIGNED(4096);
static struct tally_status status ALIGNED(512), warm ALIGNED(512);

/* All of AREA is one page, by a page table in each 2 MByte. */
static void area_to_page(struct paging *p)
{
	paging_split(p, AREA);
	for (u32 i = 0; i < 512; i++)
		p->pt[i] = (u64)page | PTE_ALL;
	for (u32 i = 0; i < AREA_TABLES; i++)
		*paging_entry(p, AREA + i * PAGE_2M, 2) = (u64)p->pt | PTE_ALL;
}

static void machines_init(void)
{
	l2_reset(l2_busy);
	l2_intercept(INTERCEPT(CPUID));
	l2_intercept(INTERCEPT(MSR));
	l2_intercept(INTERCEPT(IOIO));
	msrpm_set(MSR_PAT, true, false);
	iopm_set(0x80);
	paging_identity(&l2_tables, PTE_ALL);
	for (u32 i = 0; i < 2; i++) {
		vmcbs[i] = l2.vmcb;
		paging_identity(&npts[i], PTE_ALL & ~(PTE_A | PTE_D));
		area_to_page(&npts[i]);
		vmcbs[i].control.np_ctl = NP_ENABLE;
		vmcbs[i].control.nested_cr3 = paging_root(&npts[i]);
		vmcbs[i].control.asid = 2 + i;
		machines[i].vmcb = &vmcbs[i];
		machines[i].regs.rdi = AREA;
	}
	area_to_page(&l2_tables);
	l2.vmcb.save.cr3 = paging_root(&l2_tables);
	l2.vmcb.control.asid = 1;
	machines[2].vmcb = &l2.vmcb;
	machines[2].regs.rdi = AREA;
}

/* One exit of a machine; false if it is none that L1 asked for. */
static bool run(struct machine *m)
{
	struct vmcb *v = m->vmcb;

	svm_vmrun(v, &m->regs);
	m->exits++;
	switch (v->control.exit_code) {
	case VMEXIT_VMMCALL:
		v->save.rip += 3;
		return true;
	case VMEXIT_CPUID:
	case VMEXIT_MSR:
		v->save.rip += 2;
		return true;
	case VMEXIT_IOIO:
		v->save.rip = v->control.exit_info_2;
		return true;
	default:
		return false;
	}
}

static void run_exits(u32 exits)
{
	clgi();
	for (u32 i = 0; i < exits; i++) {
		struct machine *m = &machines[i / TURN % ARRAY_SIZE(machines)];

		if (!run(m)) {
			CHECK_EQ(m->vmcb->control.exit_code, VMEXIT_VMMCALL);
			note("at offset %lu", m->vmcb->save.rip - (u64)l2_busy);
			break;
		}
	}
	stgi();
}

static void read_status(struct tally_status *s)
{
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)s, 0, 0), 0);
}

static void check_warm_up(const void *arg)
{
	(void)arg;
	run_exits(WARM_UP);
	read_status(&warm);
	note("after %u exits: %lu shadow pages, %lu fills, %lu shadow flushes, %lu TLB flushes",
	     WARM_UP, warm.shadow_pages, warm.shadow_fills, warm.shadow_flushes, warm.tlb_flushes);
	CHECK(warm.shadow_pages > 2ul * AREA_TABLES && warm.shadow_fills >= 2ul * AREA_TABLES);
}

static void check_part(const void *arg)
{
	(void)arg;
	run_exits(EXITS / PARTS);
	read_status(&status);
	CHECK(status.exits - warm.exits >= 2ul * EXITS / PARTS); /* each VMRUN, too */
	CHECK_EQ(status.shadow_pages, warm.shadow_pages);
	CHECK_EQ(status.shadow_fills, warm.shadow_fills);
	CHECK_EQ(status.shadow_flushes, warm.shadow_flushes);
	CHECK_EQ(status.tlb_flushes, warm.tlb_flushes);
}

/* All of them got on, and a flush that L1 does ask for is counted: the zeroes above say something. */
static void check_end(const void *arg)
{
	u64 exits = 0;

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(machines); i++) {
		exits += machines[i].exits;
		note("machine %u: %lu exits, %lu rounds", i, machines[i].exits,
		     machines[i].regs.r10);
		CHECK(machines[i].regs.r10 + 1 >= machines[i].exits / 4);
	}
	CHECK_EQ(exits, EXITS + WARM_UP);
	vmcbs[0].control.tlb_control = TLB_CONTROL_FLUSH_ASID;
	clgi();
	CHECK(run(&machines[0]));
	stgi();
	vmcbs[0].control.tlb_control = TLB_CONTROL_NONE;
	read_status(&status);
	CHECK_EQ(status.shadow_flushes, warm.shadow_flushes + 1);
	CHECK(status.tlb_flushes > warm.tlb_flushes);
	CHECK(status.shadow_fills > warm.shadow_fills);
}

void guest_main(void)
{
	tap_plan(PARTS + 2);
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return;
	}
	if (!svm_start())
		return;
	machines_init();
	tap_run("the first exits", check_warm_up, NULL);
	for (u32 i = 0; i < PARTS; i++)
		tap_run("500,000 exits without a fill or a flush", check_part, NULL);
	tap_run("2,000,000 exits, and a flush that is asked for", check_end, NULL);
}

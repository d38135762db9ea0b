/* SPDX-License-Identifier: MIT */
/*
 * VMRUN of L1 and #VMEXIT to L1. vmcb12 is read once, into nested.ctl and vmcb02.save, and everything is checked and
 * used from there. vmcb02 = vmcb12 as far as L1 may decide, and L0's part on top. L1's own state stays in vmcb01.
 * docs/nested-svm.md has the table of fields.
 */
#include "hv/core/event.h"
#include "hv/core/merge.h"
#include "hv/core/msrpm.h"
#include "hv/core/sleep.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/memory.h"
#include "hv/panic.h"
#include "hv/vcpu.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/*
 * Groups of 32 MSRs (8 bytes of the map) that L2 may reach without an exit, where L1's map and ours both allow it. All
 * other MSRs exit, and L0 does the access for L2. Few, because merging costs at each VMRUN: TSC, SYSENTER, EFER
 * and SYSCALL, FS/GS base and TSC_AUX.
 */
#define MERGED_MSRS(X) X(MSR_TSC) X(MSR_SYSENTER_CS) X(MSR_EFER) X(MSR_FS_BASE)

static void init_msrpms(struct vcpu *v)
{
	/* PAT only because TCG has one for all levels and does not look at G_PAT */
	static const u32 ours[] = {MSR_EFER,
				   MSR_VM_CR,
				   MSR_VM_HSAVE_PA,
				   MSR_SVM_KEY,
				   MSR_PAT,
				   MSR_IRPERF,
				   MSR_PERF_GLOBAL_STATUS,
				   MSR_PERF_GLOBAL_CTL,
				   MSR_PERF_GLOBAL_STATUS_CLR,
				   MSR_PERF_GLOBAL_STATUS_SET};

	for (unsigned int i = 0; i < ARRAY_SIZE(ours); i++)
		msrpm_set((u8 *)v->msrpm01, ours[i], true, true);
	msrpm_set((u8 *)v->msrpm01, MSR_APIC_BASE, false, true);
	if (v->cpu_features & SVM_TSC_RATE)
		msrpm_set((u8 *)v->msrpm01, MSR_TSC_RATIO, true, true);
	msrpm_set((u8 *)v->msrpm01, MSR_DEBUGCTL, false, true);
	msrpm_set((u8 *)v->msrpm01, MSR_PATCH_LOADER, false, true);
	for (u64 i = 0; i < MSRPM_BYTES / 8; i++)
		v->msrpm02[i] = ~0ull;
}

void nested_intercept_msr(struct vcpu *v, u32 msr)
{
	msrpm_set((u8 *)v->msrpm01, msr, true, true);
}

/* The PMU's MSRs belong to the backend: intercepted, or left to the hardware's counters. */
void nested_intercept_pmu(struct vcpu *v, bool counters)
{
	for (unsigned int n = 0; n < PMU_COUNTERS; n++) {
		msrpm_set((u8 *)v->msrpm01, MSR_PERFEVTSEL(n), true, true);
		msrpm_set((u8 *)v->msrpm01, MSR_PERFCTR(n), counters, counters);
	}
	for (unsigned int n = 0; n < PMU_LEGACY_COUNTERS; n++) {
		msrpm_set((u8 *)v->msrpm01, MSR_LEGACY_PERFEVTSEL(n), true, true);
		msrpm_set((u8 *)v->msrpm01, MSR_LEGACY_PERFCTR(n), counters, counters);
	}
}

void nested_intercept_msr_write(struct vcpu *v, u32 msr)
{
	msrpm_set((u8 *)v->msrpm01, msr, false, true);
}

/* Both maps: L2 may be running. Its own is made anew at the next VMRUN. */
void nested_intercept_sysenter(struct vcpu *v, bool on)
{
	msrpm_set((u8 *)v->msrpm01, MSR_SYSENTER_CS, on, on);
	if (on)
		msrpm_set((u8 *)v->msrpm02, MSR_SYSENTER_CS, true, true);
}

void nested_init(struct vcpu *v)
{
	/* INIT: on QEMU's TCG, which does not hold it, the CPU is reset all the same */
	static const u32 always[] = {
		INTERCEPT(INIT),  INTERCEPT(CPUID),   INTERCEPT(MSR),	 INTERCEPT(SHUTDOWN),
		INTERCEPT(VMRUN), INTERCEPT(VMMCALL), INTERCEPT(VMLOAD), INTERCEPT(VMSAVE),
		INTERCEPT(STGI),  INTERCEPT(CLGI),    INTERCEPT(SKINIT), INTERCEPT(INVLPGA),
	};
	struct vmcb_control *c = &v->vmcb02->control;

	ASSERT(!shadow_init(&v->shadow, &v->mem, v->shadow_memory->pages[0],
			    memory_hpa(v->shadow_memory->pages), v->shadow_memory->links,
			    CORE_SHADOW_PAGES, v->holes, memory_hole_page_hpa()));
	init_msrpms(v);
	for (unsigned int i = 0; i < ARRAY_SIZE(always); i++)
		vcpu_set_l0_intercept(v, always[i], true);
	/*
	 * SMM is the machine's business. But QEMU's TCG leaves the intercepts of the guest in force in SMM, so that the
	 * handler's first WRMSR would exit: there, and under any hypervisor, L0 lets the SMI in itself.
	 */
	if (cpu_cpuid(CPUID_FEATURES, 0).ecx & CPUID_1_ECX_HYPERVISOR)
		vcpu_set_l0_intercept(v, INTERCEPT(SMI), true);
	vcpu_set_l0_intercept(v, INTERCEPT(NMI), v->smp);
	v->vmcb01->control.msrpm_base_pa = memory_hpa(v->msrpm01);
	c->msrpm_base_pa = memory_hpa(v->msrpm02);
	v->tsc_ratio = TSC_RATIO_RESET;
	c->np_ctl = NP_ENABLE;
	vcpu_reset_intercepts(v);
}

static ALWAYS_INLINE struct vmcb *vmcb12(const struct vcpu *v)
{
	return guest_at(&v->mem, v->nested.vmcb12_gpa);
}

/*
 * What the CPU must not read itself: a permission map that lies in our memory, which is read the way L1 would read it, our
 * pages as FFh; and one that lacks L0's own ports.
 */
static NOINLINE u64 iopm_copy(struct vcpu *v, u64 gpa)
{
	for (u64 i = 0; i < IOPM_BYTES / 8; i++)
		v->nested.iopm[i] = *(u64 *)guest_at(&v->mem, gpa + i * 8);
	sleep_add_to_map(&v->sleep, (u8 *)v->nested.iopm);
	return memory_hpa(v->nested.iopm);
}

static ALWAYS_INLINE void merge_permissions(struct vcpu *v)
{
	const struct vmcb_control *ctl = &v->nested.ctl;
	struct vmcb_control *c = &v->vmcb02->control;
	u64 iopm = ctl->iopm_base_pa & ~0xfffull, msrpm = ctl->msrpm_base_pa & ~0xfffull;
	const volatile u64 *from;

	c->iopm_base_pa = v->iopm_hpa;
	if (vmcb_intercepts(ctl, INTERCEPT(IOIO))) {
		/* hypervisors intercept all ports, or nearly: then the CPU may read L1's map itself */
		c->iopm_base_pa = iopm;
		if (unlikely(vcpu_touches_hole(v, iopm, IOPM_BYTES))) {
			vcpu_names_hole(v, iopm, IOPM_BYTES, "IOPM");
			c->iopm_base_pa = iopm_copy(v, iopm);
		} else if (unlikely(!sleep_is_in_map(&v->sleep, guest_at(&v->mem, iopm)))) {
			c->iopm_base_pa = iopm_copy(v, iopm);
		}
	}
	if (vmcb_intercepts(ctl, INTERCEPT(MSR))) {
		if (vcpu_touches_hole(v, msrpm, MSRPM_BYTES))
			vcpu_names_hole(v, msrpm, MSRPM_BYTES, "MSRPM");
		from = guest_at(&v->mem, msrpm);
#define X(msr) v->msrpm02[MSRPM_WORD(msr)] = v->msrpm01[MSRPM_WORD(msr)] | from[MSRPM_WORD(msr)];
		MERGED_MSRS(X)
#undef X
	} else {
#define X(msr) v->msrpm02[MSRPM_WORD(msr)] = v->msrpm01[MSRPM_WORD(msr)];
		MERGED_MSRS(X)
#undef X
	}
}

/* The shadow space of this VMRUN: most often that of the last one. */
static ALWAYS_INLINE struct shadow_space *choose_space(struct vcpu *v)
{
	const struct vmcb_control *ctl = &v->nested.ctl;
	const struct vmcb_save *l1 = &v->vmcb01->save;
	struct shadow_space *space = v->nested.last_space;

	if (unlikely(!space || !space->in_use || space->ncr3 != ctl->nested_cr3 ||
		     space->vasid != ctl->asid || l1->cr4 != v->nested.l1_cr4 ||
		     l1->efer != v->nested.l1_efer)) {
		if (vcpu_touches_hole(v, ctl->nested_cr3, 1))
			vcpu_names_hole(v, ctl->nested_cr3, 1, "nCR3");
		if (space)
			space->lru = ++v->shadow.clock;
		v->nested.l1_cr4 = l1->cr4;
		v->nested.l1_efer = l1->efer;
		v->nested.npt_mode = npt_mode_of(l1->cr4, l1->efer, v->phys_bits, true);
		space = shadow_get(&v->shadow, ctl->asid, ctl->nested_cr3, &v->nested.npt_mode);
		v->nested.last_space = space;
	}
	v->nested.space = space;
	return space;
}

/* ASID, nested tables, and what of the TLB must go. L1's ASIDs are names of its own. */
static ALWAYS_INLINE void choose_translation(struct vcpu *v)
{
	const struct vmcb_control *ctl = &v->nested.ctl;
	struct vmcb_control *c = &v->vmcb02->control;
	u8 flush_asid = vcpu_flush_asid(v), requested = ctl->tlb_control;

	c->tlb_control = TLB_CONTROL_NONE;
	if (unlikely(requested)) {
		c->tlb_control =
			requested == TLB_CONTROL_FLUSH_ALL ? TLB_CONTROL_FLUSH_ALL : flush_asid;
		if (requested == TLB_CONTROL_FLUSH_ALL)
			shadow_flush_all(&v->shadow);
		else
			shadow_flush_vasid(&v->shadow, ctl->asid);
	}
	if (likely(ctl->np_ctl & NP_ENABLE)) {
		struct shadow_space *space = choose_space(v);

		c->nested_cr3 = space->root_hpa;
		c->asid = ASID_SHADOW(shadow_space_idx(&v->shadow, space));
		if (unlikely(space->tlb_flush)) {
			space->tlb_flush = false;
			if (!c->tlb_control)
				c->tlb_control = flush_asid;
		}
	} else {
		v->nested.space = NULL;
		c->nested_cr3 = v->vmcb01->control.nested_cr3;
		c->asid = ASID_L2_NO_NPT;
		if (v->nested.no_npt_vasid != ctl->asid && !c->tlb_control)
			c->tlb_control = flush_asid;
		v->nested.no_npt_vasid = ctl->asid;
		v->vmcb02->save.g_pat = v->vmcb01->save.g_pat; /* one PAT for both then */
	}
	if (unlikely(c->tlb_control)) {
		v->tlb_flushes++;
		vcpu_set_special(v, SPECIAL_ENTRY);
	}
}

/* What #VMEXIT does to the host, for L1 (APM2 §15.6). */
static ALWAYS_INLINE void l1_after_vmexit(struct vcpu *v)
{
	struct vmcb_save *s = &v->vmcb01->save;

	vcpu_hold_l1(v);
	s->cr0 |= CR0_PE;
	s->dr7 = DR7_RESET;
	s->rflags &= ~RFLAGS_VM;
	if (unlikely(s->rflags & RFLAGS_TF))
		vcpu_trap(v); /* VMRUN is one instruction for the host's single step */
}

/* VMEXIT_INVALID leaves all of vmcb12 but these as it was. */
static void write_invalid(const struct vcpu *v)
{
	struct vmcb_control *c = &vmcb12(v)->control;

	c->exit_code = VMEXIT_INVALID;
	c->exit_info_1 = 0;
	c->exit_info_2 = 0;
	c->event_inj = 0;
}

static NOINLINE u32 vmrun_refused(struct vcpu *v, enum vmrun_rule rule)
{
	static u32 lines[VMRUN_RULE_COUNT];

	log_limited(lines[rule], 4, "event=vmexit_invalid vmcb12=%lx rule=%s", v->nested.vmcb12_gpa,
		    vmrun_rule_name(rule));
	write_invalid(v);
	vcpu_retire(v);
	l1_after_vmexit(v);
	return RESUME;
}

static bool lbr_in_use(const struct vcpu *v)
{
	return unlikely((v->nested.ctl.virt_ext | v->vmcb01->control.virt_ext) & LBR_VIRT_ENABLE);
}

/* DebugCtl and LBRs: L2's own if vmcb12 has LBR virtualization, else L1's and L2's are the same (APM2 §15.23). */
static NOINLINE void load_lbr(struct vcpu *v)
{
	v->nested.own_lbr =
		(v->nested.ctl.virt_ext & LBR_VIRT_ENABLE) && (v->features & SVM_LBR_VIRT);
	if (!v->nested.own_lbr && !(v->vmcb01->control.virt_ext & LBR_VIRT_ENABLE))
		return;
	v->vmcb02->control.virt_ext = LBR_VIRT_ENABLE;
	merge_lbr(&v->vmcb02->save, v->nested.own_lbr ? &vmcb12(v)->save : &v->vmcb01->save);
	v->vmcb02->save.dbgctl &= DEBUGCTL_LBR | DEBUGCTL_BTF;
}

static NOINLINE void store_lbr(struct vcpu *v)
{
	if (v->vmcb02->control.virt_ext & LBR_VIRT_ENABLE)
		merge_lbr(v->nested.own_lbr ? &vmcb12(v)->save : &v->vmcb01->save,
			  &v->vmcb02->save);
}

/* What is virtual in L2 beside its VMCB: GIF, LBRs, the TSC's rate. */
static ALWAYS_INLINE void load_virtual(struct vcpu *v)
{
	u32 int_ctl = v->nested.ctl.int_ctl;

	v->nested.virq_held = false;
	v->nested.vgif = (int_ctl & V_GIF_ENABLE) && (v->features & SVM_VGIF);
	if (unlikely(v->nested.vgif && merge_vgif_holds(int_ctl)))
		nested_hold_virq(v, true);
	v->vmcb02->control.virt_ext = 0;
	v->nested.own_lbr = false;
	if (lbr_in_use(v))
		load_lbr(v);
	if (unlikely(v->tsc_ratio != TSC_RATIO_RESET))
		cpu_wrmsr(MSR_TSC_RATIO, v->tsc_ratio);
}

void nested_inject(struct vcpu *v, u64 event)
{
	struct vmcb *vmcb = v->vmcb02;

	v->nested.injected_exit = v->exits;
	v->nested.injected = event;
	vmcb->control.event_inj = event;
	vmcb->control.next_rip = v->nested.ctl.next_rip;
	vcpu_set_special(v, SPECIAL_ENTRY);
	/* where L1 sees NRIPS and the CPU has none, RIP itself is what the CPU pushes */
	if (event_is_soft(event) && (v->features & ~v->cpu_features & SVM_NRIPS)) {
		v->nested.soft_rip = vmcb->save.rip;
		vmcb->save.rip = v->nested.ctl.next_rip;
		vcpu_set_special(v, SPECIAL_SOFT_EVENT);
	}
}

void nested_inject_end(struct vcpu *v)
{
	vcpu_clr_special(v, SPECIAL_SOFT_EVENT);
	if (nested_event_is_injected(v))
		v->vmcb02->save.rip = v->nested.soft_rip; /* its delivery did not happen */
}

static ALWAYS_INLINE void write_counters(const struct pmu_guest_only_write *write)
{
	cpu_wrmsr_halves(write->msr, write->low, write->high);
}

/* For L2 or for L1, as the bitmap says. */
static ALWAYS_INLINE void switch_counters(struct vcpu *v, bool in_l2)
{
	pmu_guest_only_transition(&v->guest_only, &v->pmu, in_l2, write_counters);
}

u32 exit_vmrun(struct vcpu *v)
{
	enum vmrun_rule rule;
	u64 gpa;

	if (!v->svme)
		return INJECT_UD;
	gpa = svm_operand(v);
	if (svm_bad_vmcb(v, gpa, "VMCB"))
		return INJECT_GP;
	v->nested.vmcb12_gpa = gpa;
	v->limits.l1_paging = v->vmcb01->save.cr0 & CR0_PG;
	merge_read_vmcb12(&v->nested.ctl, &v->vmcb02->save, vmcb12(v));
	if (unlikely(!(v->features & SVM_NP)))
		v->nested.ctl.np_ctl = 0;
	vcpu_skip(v);
	rule = vmrun_check(&v->nested.ctl, &v->vmcb02->save, &v->limits);
	if (unlikely(!rule && vmrun_uses_pdptes(&v->nested.ctl, &v->vmcb02->save)))
		rule = vmrun_check_pdptes(&v->mem, &v->nested.ctl, &v->vmcb02->save);
	if (unlikely(rule))
		return vmrun_refused(v, rule);

	merge_control(&v->vmcb02->control, &v->nested.ctl, v->l0_intercepts, v->cr_read_quirk);
	merge_save(&v->vmcb02->save);
	merge_permissions(v);
	choose_translation(v);
	load_virtual(v);
	if (unlikely(v->nested.ctl.event_inj & EVENT_V))
		nested_inject(v, v->vmcb02->control.event_inj);
	v->gif = true; /* vmcb01 stays as it is: see vcpu_hold_l1() */
	vcpu_set_host_if(v, v->vmcb01->save.rflags & RFLAGS_IF);
	vcpu_set_special(v, SPECIAL_L2);
	v->vmcb = v->vmcb02;
	v->vmcb_hpa = v->vmcb02_hpa;
	v->transitions++;
	switch_counters(v, true);
	if (unlikely(v->special & SPECIAL_TRACK)) {
		pmu_cpl_change(&v->pmu, v->vmcb->save.cpl);
		pmu_commit(&v->pmu);
	}
	vcpu_retire(v); /* in L2: what a GuestOnly counter sees and a HostOnly one does not */
	return RESUME;
}

bool nested_event_is_injected(const struct vcpu *v)
{
	return vcpu_in_l2(v) && v->exits == v->nested.injected_exit + 1 &&
	       !((v->vmcb->control.exit_int_info ^ v->nested.injected) & (EVENT_VECTOR | EVENT_V));
}

/* A flush that L0 has asked for since L2 ran last: that VMRUN does not come, and the next may be of another ASID. */
static NOINLINE void keep_flush(struct vcpu *v)
{
	v->vmcb02->control.tlb_control = TLB_CONTROL_NONE;
	if (v->nested.space)
		v->nested.space->tlb_flush = true;
	else
		v->nested.no_npt_vasid = 0; /* nobody's */
}

static ALWAYS_INLINE void leave_l2(struct vcpu *v)
{
	if (unlikely(v->vmcb02->control.tlb_control))
		keep_flush(v);
	vcpu_clr_special(v, SPECIAL_L2);
	v->vmcb = v->vmcb01;
	v->vmcb_hpa = v->vmcb01_hpa;
	v->vmcb01->control.int_state = 0;
	if (unlikely(v->tsc_ratio != TSC_RATIO_RESET))
		cpu_wrmsr(MSR_TSC_RATIO, TSC_RATIO_RESET);
	v->transitions++;
	switch_counters(v, false);
}

/* What L0 has emulated for L2 since it ran last is L2's, also if it does not run any more. */
static void settle_l2(struct vcpu *v)
{
	if (v->guest_only.owed)
		pmu_guest_only_settle(&v->guest_only);
}

void nested_leave(struct vcpu *v)
{
	settle_l2(v);
	if (v->special & SPECIAL_STEP)
		step_end(v);
	leave_l2(v);
}

/* Back to L1, behind its VMRUN. */
static ALWAYS_INLINE void enter_l1(struct vcpu *v)
{
	leave_l2(v);
	l1_after_vmexit(v);
}

void nested_vmexit(struct vcpu *v, u64 code, u64 info1, u64 info2)
{
	struct vmcb *to = vmcb12(v);
	u32 back = MERGE_INT_CTL_BACK;

	if (unlikely(v->special & SPECIAL_STEP))
		step_end(v);
	to->control.exit_code = code;
	to->control.exit_info_1 = info1;
	to->control.exit_info_2 = info2;
	if (likely(v->features & SVM_NRIPS))
		to->control.next_rip = v->vmcb02->control.next_rip;
	if (likely(v->features & SVM_DECODE_ASSISTS)) {
		/* behind a length of 0 are bytes of an older exit, perhaps of another L2 */
		to->control.insn_len = v->vmcb02->control.insn_len;
		if (unlikely(to->control.insn_len))
			__builtin_memcpy(to->control.insn_bytes, v->vmcb02->control.insn_bytes,
					 sizeof(to->control.insn_bytes));
	}
	if (unlikely(v->nested.virq_held))
		back &= ~(u32)(nested_holds_tpr(v) ? V_IRQ | V_TPR_MASK : V_IRQ);
	merge_write_back(to, v->vmcb02, v->nested.ctl.int_ctl, back, v->nested.space);
	if (lbr_in_use(v))
		store_lbr(v);
	/* CR2 is not among what #VMEXIT restores: L1 finds L2's */
	v->vmcb01->save.cr2 = v->vmcb02->save.cr2;
	enter_l1(v);
}

void nested_vmexit_made(struct vcpu *v, u64 code, u64 info1, u64 info2)
{
	v->vmcb02->control.next_rip = 0;
	v->vmcb02->control.insn_len = 0;
	settle_l2(v);
	nested_vmexit(v, code, info1, info2);
}

void nested_refused(struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb02->save;

	log_guest("event=vmexit_invalid vmcb12=%lx rule=the-CPU's efer=%lx cr0=%lx cr4=%lx inj=%lx",
		  v->nested.vmcb12_gpa, s->efer, s->cr0, s->cr4, v->nested.ctl.event_inj);
	/* TCG has put L0's own state into vmcb02's save area by now: nothing of that may go to L1 */
	write_invalid(v);
	enter_l1(v);
}

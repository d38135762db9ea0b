/* SPDX-License-Identifier: MIT */
/*
 * What VMRUN refuses: the order of its permission checks, every consistency rule of APM2 §15.5.1
 * broken alone, illegal events, and a VMCB of random bytes. And what it must not refuse.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

L2_CODE(l2_exit, "");

/* ---- consistency rules: one field of a good VMCB changed ---- */

#define BEYOND_PHYS (~0ull) /* as `set`: the first page that is not physical memory any more */
#define CONTROL(f) (offsetof(struct vmcb, control) + offsetof(struct vmcb_control, f))
#define SAVE(f) (offsetof(struct vmcb, save) + offsetof(struct vmcb_save, f))
#define SIZE(area, f) sizeof(((struct vmcb_##area *)0)->f)
#define C(f) CONTROL(f), SIZE(control, f)
#define S(f) SAVE(f), SIZE(save, f)

enum outcome {
	REFUSED, /* VMEXIT_INVALID */
	RUNS,	 /* reaches its VMMCALL */
	FAULTS,	 /* enters, and takes #GP at once */
};

static const struct rule {
	const char *name;
	u64 offset, bytes;
	u64 clear, set;
	enum outcome want;
	bool npt;
} rules[] = {
	{"VMRUN intercept clear", CONTROL(intercepts[4]), 4, BIT(0), 0, REFUSED, false},
	{"ASID 0", C(asid), ~0ull, 0, REFUSED, false},
	{"EFER.SVME=0", S(efer), EFER_SVME, 0, REFUSED, false},
	{"EFER bit 1", S(efer), 0, BIT(1), REFUSED, false},
	{"EFER bit 9", S(efer), 0, BIT(9), REFUSED, false},
	{"EFER bit 22", S(efer), 0, BIT(22), REFUSED, false},
	{"EFER bit 63", S(efer), 0, BIT(63), REFUSED, false},
	{"CR0.NW=1 with CD=0", S(cr0), CR0_CD, CR0_NW, REFUSED, false},
	{"CR0 bit 32", S(cr0), 0, BIT(32), REFUSED, false},
	{"CR0 bit 63", S(cr0), 0, BIT(63), REFUSED, false},
	{"CR3 beyond the physical address size", S(cr3), 0, BEYOND_PHYS, REFUSED, false},
	{"CR3 bit 63", S(cr3), 0, BIT(63), REFUSED, false},
	{"CR4 bit 15", S(cr4), 0, BIT(15), REFUSED, false},
	{"CR4 bit 31", S(cr4), 0, BIT(31), REFUSED, false},
	{"CR4 bit 32", S(cr4), 0, BIT(32), REFUSED, false},
	{"CR4 bit 63", S(cr4), 0, BIT(63), REFUSED, false},
	{"DR6 bit 32", S(dr6), 0, BIT(32), REFUSED, false},
	{"DR6 bit 63", S(dr6), 0, BIT(63), REFUSED, false},
	{"DR7 bit 32", S(dr7), 0, BIT(32), REFUSED, false},
	{"DR7 bit 63", S(dr7), 0, BIT(63), REFUSED, false},
	{"LME and PG without PAE", S(cr4), CR4_PAE, 0, REFUSED, false},
	{"LME and PG without PE", S(cr0), CR0_PE, 0, REFUSED, false},
	{"CS.L with CS.D in long mode", SAVE(cs.attrib), 2, 0, SEG_ATTR_DB, REFUSED, false},
	{"MSRPM beyond the physical address size", C(msrpm_base_pa), 0, BEYOND_PHYS, REFUSED,
	 false},
	{"IOPM beyond the physical address size", C(iopm_base_pa), 0, BEYOND_PHYS, REFUSED, false},

	{"the VMCB as it is", 0, 8, 0, 0, RUNS, false},
	{"the VMCB as it is, with NPT", 0, 8, 0, 0, RUNS, true},
	{"MSRPM address bits 11:0", C(msrpm_base_pa), 0, 0xfff, RUNS, false},
	{"IOPM address bits 11:0", C(iopm_base_pa), 0, 0xfff, RUNS, false},
	{"CR0.CD and NW both set", S(cr0), 0, CR0_CD | CR0_NW, RUNS, false},
	{"RFLAGS bit 1 clear", S(rflags), RFLAGS_FIXED, 0, RUNS, false},
	{"all clean bits, at a first VMRUN", C(clean), 0, 0x1fff, RUNS, false},
	{"reserved control bytes 018h", CONTROL(reserved_018), 8, 0, ~0ull, RUNS, false},
	{"reserved control bytes 0E0h", CONTROL(reserved_0e0), 8, 0, BITS(51, 12), RUNS, false},
	{"segment base not canonical", SAVE(ds.base), 8, 0, BIT(60), RUNS, false},
	{"ASID 2", C(asid), ~0ull, 2, RUNS, false},
	{"EVENTINJ without V", C(event_inj), 0, 0xffffffff7fffffffull, RUNS, false},
	{"RIP not canonical", S(rip), 0, BIT(60), FAULTS, false},
};

static void poke(u64 offset, u64 bytes, u64 clear, u64 set)
{
	u8 *p = (u8 *)&l2.vmcb + offset;
	u64 v = 0;

	for (u64 i = 0; i < bytes; i++)
		v |= (u64)p[i] << i * 8;
	v = (v & ~clear) | set;
	for (u64 i = 0; i < bytes; i++)
		p[i] = (u8)(v >> i * 8);
}

static void check_rule(const void *arg)
{
	const struct rule *r = arg;
	u64 set = r->set == BEYOND_PHYS && r->bytes == 8 && r->offset >= CONTROL(iopm_base_pa)
			  ? BIT(platform.phys_bits)
			  : r->set;
	u64 rip;

	l2_reset(l2_exit);
	if (r->npt)
		l2_use_npt();
	l2_intercept(INTERCEPT_EXCEPTION(VEC_GP));
	poke(r->offset, r->bytes, r->clear, set);
	rip = l2.vmcb.save.rip;
	l2.vmcb.control.exit_info_1 = ~0ull;
	switch (r->want) {
	case RUNS:
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rip, rip);
		return;
	case FAULTS:
		CHECK_EQ(l2_run(), VMEXIT_EXCEPTION(VEC_GP));
		CHECK_EQ(l2.vmcb.save.rip, rip);
		return;
	case REFUSED:
		CHECK_EQ(l2_run(), VMEXIT_INVALID);
		if (!departs(DEPARTURE_INVALID_SAVES))
			CHECK_EQ(l2.vmcb.save.rip, rip);
	}
	/* The machine is as before: the same L2, repaired, runs. */
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
}

/* ---- EVENTINJ ---- */

static bool valid_exception(u32 vector)
{
	/* Bit n: vector n is an exception (APM2 table 8-1). */
	const u64 exceptions = BITS(1, 0) | BITS(8, 3) | BITS(14, 10) | BITS(19, 16) | BIT(VEC_CP) |
			       BITS(VEC_SX, VEC_HV);

	return vector < 32 && exceptions >> vector & 1;
}

static void check_event_types(const void *arg)
{
	(void)arg;
	for (u64 type = 0; type < 8; type++) {
		u64 code;
		bool legal = type == 0 || type == 2 || type == 3 || type == 4;

		l2_reset(l2_exit);
		l2_catch_events();
		l2.vmcb.control.event_inj = EVENT_V | type << 8 | VEC_UD;
		code = l2_run();
		if (!legal)
			CHECK_EQ(code, VMEXIT_INVALID);
		else
			CHECK_EQ(l2_caught(), type == 2 ? VEC_NMI : VEC_UD);
	}
}

static void check_event_vectors(const void *arg)
{
	(void)arg;
	for (u32 vector = 0; vector < 256; vector++) {
		u64 code;

		/* Machines differ in whether they know that these cannot arise. */
		if (vector == VEC_OF || vector == VEC_BR)
			continue;
		/* #CP, #HV, #VC belong to features that L2's CPU need not have. */
		if (vector == VEC_CP || vector == VEC_HV || vector == VEC_VC)
			continue;
		if (!valid_exception(vector) && vector != VEC_NMI && vector < 31 &&
		    departs(DEPARTURE_EVENTINJ_VECTORS))
			continue;
		l2_reset(l2_exit);
		l2_catch_events();
		l2.vmcb.control.event_inj = EVENT_V | EVENT_TYPE_EXCEPTION | vector;
		code = l2_run();
		if (valid_exception(vector) ? l2_caught() != vector : code != VMEXIT_INVALID) {
			note("exception vector %u: exit 0x%lx, caught %lu", vector, code,
			     l2_caught());
			tap_check(false, "the wrong answer");
		}
	}
	for (u32 vector = 0; vector < 256; vector++) {
		l2_reset(l2_exit);
		l2_catch_events();
		l2.vmcb.control.event_inj = EVENT_V | EVENT_TYPE_INTR | vector;
		l2_run();
		if (l2_caught() != vector)
			CHECK_EQ(l2_caught(), vector);
	}
}

/* ---- permission order ---- */

static u64 rax; /* of the SVM instruction under test */

#define SVM_INSTRUCTION(name, text)                                                                \
	static void name(const void *arg)                                                          \
	{                                                                                          \
		(void)arg;                                                                         \
		asm volatile(text : : "a"(rax), "c"(0) : "memory", "cc");                          \
	}
SVM_INSTRUCTION(do_vmrun, "vmrun %%rax")
SVM_INSTRUCTION(do_vmload, "vmload %%rax")
SVM_INSTRUCTION(do_vmsave, "vmsave %%rax")
SVM_INSTRUCTION(do_clgi, "clgi")
SVM_INSTRUCTION(do_vmmcall, "vmmcall")
SVM_INSTRUCTION(do_invlpga, "invlpga %%rax, %%ecx")
SVM_INSTRUCTION(do_stgi, "stgi")
SVM_INSTRUCTION(do_skinit, "skinit %%eax")

static const struct svm_instruction {
	const char *name;
	void (*run)(const void *);
	u64 svme0;		  /* #UD while SVME=0 */
	u64 user;		  /* at CPL 3 with SVME=1 */
	const char *address_name; /* RAX is a page: the name of that test */
} instructions[] = {
	{"VMRUN: #UD without SVME, #GP at CPL 3", do_vmrun, VEC_UD, VEC_GP,
	 "VMRUN: #GP for RAX that is no page"},
	{"VMLOAD: #UD without SVME, #GP at CPL 3", do_vmload, VEC_UD, VEC_GP,
	 "VMLOAD: #GP for RAX that is no page"},
	{"VMSAVE: #UD without SVME, #GP at CPL 3", do_vmsave, VEC_UD, VEC_GP,
	 "VMSAVE: #GP for RAX that is no page"},
	{"CLGI: #UD without SVME, #GP at CPL 3", do_clgi, VEC_UD, VEC_GP, NULL},
	{"INVLPGA: #UD without SVME, #GP at CPL 3", do_invlpga, VEC_UD, VEC_GP, NULL},
	/* A hypercall with an unknown number is #UD as well, so VMMCALL is #UD with SVME=1 too. */
	{"VMMCALL: #UD without SVME and at CPL 3", do_vmmcall, VEC_UD, VEC_UD, NULL},
	/* Legal without SVME only where SKINIT is (APM2 §15.31). */
	{"STGI: #UD without SVME, #GP at CPL 3", do_stgi, VEC_UD, VEC_GP, NULL},
	{"SKINIT: #UD without SVME, #GP at CPL 3", do_skinit, VEC_UD, VEC_GP, NULL},
};

static void check_permissions(const void *arg)
{
	const struct svm_instruction *i = arg;
	bool skinit = cpuid(CPUID_EXT_FEATURES).ecx & CPUID_EXT1_ECX_SKINIT;

	if (skinit && (i->run == do_stgi || i->run == do_skinit)) {
		tap_skip("CPUID has SKINIT, so it is legal without SVME");
		return;
	}
	rax = (u64)&l2.vmcb;
	svm_disable();
	CHECK_EQ(try_call(i->run, NULL), i->svme0);
	/* #UD goes before #GP. */
	CHECK_EQ(try_user(i->run, NULL), i->svme0);
	if (i->address_name) {
		rax = 1;
		CHECK_EQ(try_call(i->run, NULL), i->svme0);
	}
	svm_enable();
	rax = (u64)&l2.vmcb;
	CHECK_EQ(try_user(i->run, NULL), i->run == do_skinit ? VEC_UD : i->user);
}

static void check_address(const void *arg)
{
	const struct svm_instruction *i = arg;
	const u64 page = (u64)&l2.vmcb;
	const u64 bad[] = {1, page + 8, page + 0x800, BIT(platform.phys_bits), BIT(52), BIT(63)};

	for (u32 n = 0; n < ARRAY_SIZE(bad); n++) {
		rax = bad[n];
		if (!CHECK_EQ(try_call(i->run, NULL), VEC_GP))
			note("RAX was 0x%lx", rax);
		else
			CHECK_EQ(trap_info.error, 0);
	}
}

static void write_hsave(const void *arg)
{
	wrmsr(MSR_VM_HSAVE_PA, *(const u64 *)arg);
}

static void check_hsave(const void *arg)
{
	const u64 bad[] = {1, (u64)hsave + 8, BIT(platform.phys_bits), BIT(63)};

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		CHECK_EQ(try_call(write_hsave, &bad[i]), VEC_GP);
		CHECK_EQ(rdmsr(MSR_VM_HSAVE_PA), (u64)hsave);
	}
}

static void write_vm_cr(const void *arg)
{
	wrmsr(MSR_VM_CR, *(const u64 *)arg);
}

static void check_vm_cr(const void *arg)
{
	(void)arg;
	/* SVME=1: SVMDIS cannot be set (APM2 §15.30.1). Never written without, for LOCK would keep
	 * it. */
	if (departs(DEPARTURE_VM_CR)) {
		tap_skip("no VM_CR");
		return;
	}
	CHECK_EQ(rdmsr(MSR_VM_CR) & VM_CR_SVMDIS, 0);
	CHECK_EQ(try_call(write_vm_cr, &(u64){rdmsr(MSR_VM_CR) | VM_CR_SVMDIS}), VEC_GP);
	CHECK_EQ(try_call(write_vm_cr, &(u64){BIT(5)}), VEC_GP);
	CHECK_EQ(try_call(write_vm_cr, &(u64){BIT(63)}), VEC_GP);
}

/* ---- garbage ---- */

static void check_random(const void *arg)
{
	u64 seed = 0x7461 + (u64)arg;

	l2_reset(l2_exit);
	for (u64 *p = (u64 *)&l2.vmcb; p < (u64 *)(&l2.vmcb + 1); p++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		*p = seed ^ seed >> 29;
	}
	CHECK_EQ(l2_run(), VMEXIT_INVALID);
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
}

#define SEEDS 16

void guest_main(void)
{
	unsigned int with_address = 0;

	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
		with_address += !!instructions[i].address_name;
	tap_plan(ARRAY_SIZE(rules) + ARRAY_SIZE(instructions) + with_address + SEEDS + 4);
	if (!svm_start())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
		tap_run(instructions[i].name, check_permissions, &instructions[i]);
	for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
		if (instructions[i].address_name)
			tap_run(instructions[i].address_name, check_address, &instructions[i]);
	tap_run("VM_HSAVE_PA that is no page", check_hsave, NULL);
	tap_run("VM_CR", check_vm_cr, NULL);
	for (u32 i = 0; i < ARRAY_SIZE(rules); i++)
		tap_run(rules[i].name, check_rule, &rules[i]);
	tap_run("EVENTINJ: types", check_event_types, NULL);
	tap_run("EVENTINJ: vectors", check_event_vectors, NULL);
	for (u64 i = 0; i < SEEDS; i++)
		tap_run("a VMCB of random bytes", check_random, (const void *)i);
}

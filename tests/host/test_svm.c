/* SPDX-License-Identifier: MIT */
/* Exit codes and VMCB offsets of include/x86/svm.h against APM2 appendix B and C, copied by hand once more. */
#include <string.h>

#include "test.h"
#include "x86/svm.h"

/* In the order of the codes; NULL: a CR, DR or exception, or no exit. */
static const char *const words_3_to_5[] = {
	/* 60h */ "INTR",
	"NMI",
	"SMI",
	"INIT",
	"VINTR",
	"CR0_SEL_WRITE",
	"IDTR_READ",
	"GDTR_READ",
	/* 68h */ "LDTR_READ",
	"TR_READ",
	"IDTR_WRITE",
	"GDTR_WRITE",
	"LDTR_WRITE",
	"TR_WRITE",
	"RDTSC",
	"RDPMC",
	/* 70h */ "PUSHF",
	"POPF",
	"CPUID",
	"RSM",
	"IRET",
	"SWINT",
	"INVD",
	"PAUSE",
	/* 78h */ "HLT",
	"INVLPG",
	"INVLPGA",
	"IOIO",
	"MSR",
	"TASK_SWITCH",
	"FERR_FREEZE",
	"SHUTDOWN",
	/* 80h */ "VMRUN",
	"VMMCALL",
	"VMLOAD",
	"VMSAVE",
	"STGI",
	"CLGI",
	"SKINIT",
	"RDTSCP",
	/* 88h */ "ICEBP",
	"WBINVD",
	"MONITOR",
	"MWAIT",
	"MWAIT_CONDITIONAL",
	"XSETBV",
	"RDPRU",
	"EFER_WRITE_TRAP",
	/* 90h to 9Fh: CR write traps */
	[0xa0 - 0x60] = "INVLPGB",
	"INVLPGB_ILLEGAL",
	"INVPCID",
	"MCOMMIT",
	"TLBSYNC",
	"BUSLOCK",
	"IDLE_HLT",
};

static const struct {
	u64 code;
	const char *name;
} listed[] = {
#define X(code, name) {code, #name},
	SVM_EXIT_LIST(X)
#undef X
};

TEST(svm_exit_codes_are_the_manuals)
{
	size_t found = 0;

	for (size_t i = 0; i < ARRAY_SIZE(words_3_to_5); i++)
		for (size_t n = 0; words_3_to_5[i] && n < ARRAY_SIZE(listed); n++)
			if (!strcmp(listed[n].name, words_3_to_5[i])) {
				CHECK_EQ(listed[n].code, 0x60 + i);
				found++;
			}
	/* NPF, AVIC_INCOMPLETE_IPI, AVIC_NOACCEL, VMGEXIT are the rest */
	CHECK_EQ(found + 4, ARRAY_SIZE(listed));
	CHECK_EQ(VMEXIT_NPF, 0x400);
	CHECK_EQ(VMEXIT_VMGEXIT, 0x403);
	/* all 64 bits */
	CHECK_EQ(VMEXIT_INVALID, -1ll);
	CHECK_EQ(VMEXIT_BUSY, -2ll);
	CHECK_EQ(VMEXIT_IDLE_REQUIRED, -3ll);
	CHECK_EQ(VMEXIT_INVALID_PMC, -4ll);
}

TEST(svm_intercept_bits_are_the_manuals)
{
	struct vmcb_control c;

	for (unsigned int n = 0; n < 16; n++) {
		memset(&c, 0, sizeof(c));
		vmcb_set_intercept(&c, INTERCEPT_CR_READ(n));
		CHECK_EQ(c.intercepts[0], 1u << n);
		vmcb_set_intercept(&c, INTERCEPT_CR_WRITE(n));
		CHECK_EQ(c.intercepts[0], 1u << n | 1u << (n + 16));
		vmcb_set_intercept(&c, INTERCEPT_DR_READ(n));
		vmcb_set_intercept(&c, INTERCEPT_DR_WRITE(n));
		CHECK_EQ(c.intercepts[1], 1u << n | 1u << (n + 16));
		CHECK_EQ(VMEXIT_CR_READ(n), n);
		CHECK_EQ(VMEXIT_CR_WRITE(n), 0x10 + n);
		CHECK_EQ(VMEXIT_DR_READ(n), 0x20 + n);
		CHECK_EQ(VMEXIT_DR_WRITE(n), 0x30 + n);
		CHECK_EQ(VMEXIT_CR_WRITE_TRAP(n), 0x90 + n);
	}
	for (unsigned int n = 0; n < 32; n++) {
		memset(&c, 0, sizeof(c));
		vmcb_set_intercept(&c, INTERCEPT_EXCEPTION(n));
		CHECK_EQ(c.intercepts[2], 1u << n);
		CHECK_EQ(VMEXIT_EXCEPTION(n), 0x40 + n);
	}
	for (unsigned int code = 0x60; code < 0xc0; code++) {
		memset(&c, 0, sizeof(c));
		vmcb_set_intercept(&c, code);
		CHECK_EQ(c.intercepts[code / 32], 1u << code % 32);
	}
}

TEST(svm_field_offsets_are_the_manuals)
{
#define CONTROL(field, offset) CHECK_EQ(offsetof(struct vmcb, control.field), offset)
#define SAVE(field, offset) CHECK_EQ(offsetof(struct vmcb, save.field), 0x400 + (offset))
	CONTROL(intercepts, 0);
	CONTROL(pause_filter_threshold, 0x3c);
	CONTROL(pause_filter_count, 0x3e);
	CONTROL(iopm_base_pa, 0x40);
	CONTROL(msrpm_base_pa, 0x48);
	CONTROL(tsc_offset, 0x50);
	CONTROL(asid, 0x58);
	CONTROL(tlb_control, 0x5c);
	CONTROL(erap_control, 0x5d);
	CONTROL(int_ctl, 0x60);
	CONTROL(int_vector, 0x64);
	CONTROL(int_state, 0x68);
	CONTROL(exit_code, 0x70);
	CONTROL(exit_info_1, 0x78);
	CONTROL(exit_info_2, 0x80);
	CONTROL(exit_int_info, 0x88);
	CONTROL(np_ctl, 0x90);
	CONTROL(avic_apic_bar, 0x98);
	CONTROL(ghcb_gpa, 0xa0);
	CONTROL(event_inj, 0xa8);
	CONTROL(nested_cr3, 0xb0);
	CONTROL(virt_ext, 0xb8);
	CONTROL(clean, 0xc0);
	CONTROL(next_rip, 0xc8);
	CONTROL(insn_len, 0xd0);
	CONTROL(insn_bytes, 0xd1);
	CONTROL(host_sw, 0x3e0);
	SAVE(es, 0x00);
	SAVE(cs, 0x10);
	SAVE(ss, 0x20);
	SAVE(ds, 0x30);
	SAVE(fs, 0x40);
	SAVE(gs, 0x50);
	SAVE(gdtr, 0x60);
	SAVE(ldtr, 0x70);
	SAVE(idtr, 0x80);
	SAVE(tr, 0x90);
	SAVE(cpl, 0xcb);
	SAVE(efer, 0xd0);
	SAVE(perf_virt, 0xe0);
	SAVE(cr4, 0x148);
	SAVE(cr3, 0x150);
	SAVE(cr0, 0x158);
	SAVE(dr7, 0x160);
	SAVE(dr6, 0x168);
	SAVE(rflags, 0x170);
	SAVE(rip, 0x178);
	SAVE(instr_retired_ctr, 0x1c0);
	SAVE(perf_global_sts, 0x1c8);
	SAVE(perf_global_ctl, 0x1d0);
	SAVE(rsp, 0x1d8);
	SAVE(s_cet, 0x1e0);
	SAVE(ssp, 0x1e8);
	SAVE(isst_addr, 0x1f0);
	SAVE(rax, 0x1f8);
	SAVE(star, 0x200);
	SAVE(lstar, 0x208);
	SAVE(cstar, 0x210);
	SAVE(sfmask, 0x218);
	SAVE(kernel_gs_base, 0x220);
	SAVE(sysenter_cs, 0x228);
	SAVE(sysenter_esp, 0x230);
	SAVE(sysenter_eip, 0x238);
	SAVE(cr2, 0x240);
	SAVE(g_pat, 0x268);
	SAVE(dbgctl, 0x270);
	SAVE(br_from, 0x278);
	SAVE(br_to, 0x280);
	SAVE(last_excp_from, 0x288);
	SAVE(last_excp_to, 0x290);
	SAVE(dbgextnctl, 0x298);
#undef CONTROL
#undef SAVE
}

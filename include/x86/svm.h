/* SPDX-License-Identifier: MIT */
/* VMCB layout, intercepts and exit codes. AMD64 APM vol. 2, rev. 3.44, ch. 15, appendix B and C. */
#ifndef TALLY_X86_SVM_H
#define TALLY_X86_SVM_H

#include <assert.h>

#include "types.h"

/* One intercept = one bit number in the 192 bits at VMCB 000h..017h (APM2 table B-1), and that is the number of its exit
 * code: CR reads and writes, DR reads and writes, exceptions, words 3 to 5. */
#define INTERCEPT_CR_READ(n) (0 + (n))
#define INTERCEPT_CR_WRITE(n) (16 + (n))
#define INTERCEPT_DR_READ(n) (32 + (n))
#define INTERCEPT_DR_WRITE(n) (48 + (n))
#define INTERCEPT_EXCEPTION(n) (64 + (n))
#define INTERCEPT_BITS 192

/* Exit codes and their names, once (APM2 appendix C). CR, DR and exception exits are ranges. */
#define SVM_EXIT_LIST(X)                                                                           \
	X(0x60, INTR)                                                                              \
	X(0x61, NMI)                                                                               \
	X(0x62, SMI)                                                                               \
	X(0x63, INIT)                                                                              \
	X(0x64, VINTR)                                                                             \
	X(0x65, CR0_SEL_WRITE)                                                                     \
	X(0x66, IDTR_READ)                                                                         \
	X(0x67, GDTR_READ)                                                                         \
	X(0x68, LDTR_READ)                                                                         \
	X(0x69, TR_READ)                                                                           \
	X(0x6a, IDTR_WRITE)                                                                        \
	X(0x6b, GDTR_WRITE)                                                                        \
	X(0x6c, LDTR_WRITE)                                                                        \
	X(0x6d, TR_WRITE)                                                                          \
	X(0x6e, RDTSC)                                                                             \
	X(0x6f, RDPMC)                                                                             \
	X(0x70, PUSHF)                                                                             \
	X(0x71, POPF)                                                                              \
	X(0x72, CPUID)                                                                             \
	X(0x73, RSM)                                                                               \
	X(0x74, IRET)                                                                              \
	X(0x75, SWINT)                                                                             \
	X(0x76, INVD)                                                                              \
	X(0x77, PAUSE)                                                                             \
	X(0x78, HLT)                                                                               \
	X(0x79, INVLPG)                                                                            \
	X(0x7a, INVLPGA)                                                                           \
	X(0x7b, IOIO)                                                                              \
	X(0x7c, MSR)                                                                               \
	X(0x7d, TASK_SWITCH)                                                                       \
	X(0x7e, FERR_FREEZE)                                                                       \
	X(0x7f, SHUTDOWN)                                                                          \
	X(0x80, VMRUN)                                                                             \
	X(0x81, VMMCALL)                                                                           \
	X(0x82, VMLOAD)                                                                            \
	X(0x83, VMSAVE)                                                                            \
	X(0x84, STGI)                                                                              \
	X(0x85, CLGI)                                                                              \
	X(0x86, SKINIT)                                                                            \
	X(0x87, RDTSCP)                                                                            \
	X(0x88, ICEBP)                                                                             \
	X(0x89, WBINVD)                                                                            \
	X(0x8a, MONITOR)                                                                           \
	X(0x8b, MWAIT)                                                                             \
	X(0x8c, MWAIT_CONDITIONAL)                                                                 \
	X(0x8d, XSETBV)                                                                            \
	X(0x8e, RDPRU)                                                                             \
	X(0x8f, EFER_WRITE_TRAP)                                                                   \
	X(0xa0, INVLPGB)                                                                           \
	X(0xa1, INVLPGB_ILLEGAL)                                                                   \
	X(0xa2, INVPCID)                                                                           \
	X(0xa3, MCOMMIT)                                                                           \
	X(0xa4, TLBSYNC)                                                                           \
	X(0xa5, BUSLOCK)                                                                           \
	X(0xa6, IDLE_HLT)                                                                          \
	X(0x400, NPF)                                                                              \
	X(0x401, AVIC_INCOMPLETE_IPI)                                                              \
	X(0x402, AVIC_NOACCEL)                                                                     \
	X(0x403, VMGEXIT)

enum svm_exit {
#define X(code, name) VMEXIT_##name = (code),
	SVM_EXIT_LIST(X)
#undef X
};

#define VMEXIT_CR_READ(n) (0x00u + (n))
#define VMEXIT_CR_WRITE(n) (0x10u + (n))
#define VMEXIT_DR_READ(n) (0x20u + (n))
#define VMEXIT_DR_WRITE(n) (0x30u + (n))
#define VMEXIT_EXCEPTION(n) (0x40u + (n))
#define VMEXIT_CR_WRITE_TRAP(n) (0x90u + (n))
#define VMEXIT_INVALID (~0ull) /* all 64 bits; QEMU before 10 wrote only 32 */
#define VMEXIT_BUSY (-2ull)
#define VMEXIT_IDLE_REQUIRED (-3ull)
#define VMEXIT_INVALID_PMC (-4ull)

/* Intercept bit of an exit in words 3 to 5. */
#define INTERCEPT(name) VMEXIT_##name

/* int_ctl, VMCB 060h */
#define V_TPR_MASK BITS(7, 0)
#define V_IRQ BIT(8)
#define V_GIF BIT(9)
#define V_INTR_PRIO_SHIFT 16
#define V_INTR_PRIO BITS(19, 16)
#define V_IGN_TPR BIT(20)
#define V_INTR_MASKING BIT(24)
#define V_GIF_ENABLE BIT(25)
#define V_NMI_ENABLE BIT(26)

#define INTERRUPT_SHADOW BIT(0)
#define NP_ENABLE BIT(0)
#define LBR_VIRT_ENABLE BIT(0)
#define VMSAVE_VIRT_ENABLE BIT(1)

enum tlb_control {
	TLB_CONTROL_NONE = 0,
	TLB_CONTROL_FLUSH_ALL = 1,
	TLB_CONTROL_FLUSH_ASID = 3,
	TLB_CONTROL_FLUSH_ASID_NON_GLOBAL = 7,
};

/* EVENTINJ and EXITINTINFO, APM2 §15.7.2 and §15.20 */
#define EVENT_VECTOR BITS(7, 0)
#define EVENT_TYPE BITS(10, 8)
#define EVENT_TYPE_INTR (0ull << 8)
#define EVENT_TYPE_NMI (2ull << 8)
#define EVENT_TYPE_EXCEPTION (3ull << 8)
#define EVENT_TYPE_SWINT (4ull << 8)
#define EVENT_EV BIT(11)
#define EVENT_V BIT(31)
#define EVENT_ERROR_SHIFT 32

/* EXITINFO1 of IOIO, APM2 §15.10.2 */
#define IOIO_IN BIT(0)
#define IOIO_STR BIT(2)
#define IOIO_REP BIT(3)
#define IOIO_SZ8 BIT(4)
#define IOIO_SZ16 BIT(5)
#define IOIO_SZ32 BIT(6)
#define IOIO_PORT_SHIFT 16

#define MSRPM_BYTES (2 * PAGE_SIZE)
#define IOPM_BYTES (3 * PAGE_SIZE)

/* VMCB clean bits, APM2 §15.15 */
#define CLEAN_INTERCEPTS BIT(0)
#define CLEAN_IOPM BIT(1)
#define CLEAN_ASID BIT(2)
#define CLEAN_TPR BIT(3)
#define CLEAN_NP BIT(4)
#define CLEAN_CR BIT(5)
#define CLEAN_DR BIT(6)
#define CLEAN_DT BIT(7)
#define CLEAN_SEG BIT(8)
#define CLEAN_CR2 BIT(9)
#define CLEAN_LBR BIT(10)
#define CLEAN_AVIC BIT(11)

struct vmcb_seg {
	u16 selector;
	u16 attrib; /* descriptor bits 55:52 and 47:40; P=0 is a null segment */
	u32 limit;
	u64 base;
} PACKED;

#define SEG_ATTR_S BIT(4)
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P BIT(7)
#define SEG_ATTR_L BIT(9)
#define SEG_ATTR_DB BIT(10)
#define SEG_ATTR_G BIT(11)

/* Table B-1. Offsets are those of the VMCB. */
struct vmcb_control {
	u32 intercepts[6]; /* 000h; written only through vmcb_set/clr_intercept() */
	u8 reserved_018[0x03c - 0x018];
	u16 pause_filter_threshold;
	u16 pause_filter_count;
	u64 iopm_base_pa;
	u64 msrpm_base_pa;
	u64 tsc_offset;
	u32 asid; /* 058h */
	u8 tlb_control;
	u8 erap_control;
	u8 reserved_05e[2];
	u32 int_ctl; /* 060h */
	u32 int_vector;
	u64 int_state; /* 068h */
	u64 exit_code; /* 070h */
	u64 exit_info_1;
	u64 exit_info_2;
	u64 exit_int_info;
	u64 np_ctl; /* 090h */
	u64 avic_apic_bar;
	u64 ghcb_gpa;
	u64 event_inj; /* 0a8h */
	u64 nested_cr3;
	u64 virt_ext; /* 0b8h */
	u32 clean;
	u32 reserved_0c4;
	u64 next_rip; /* 0c8h */
	u8 insn_len;
	u8 insn_bytes[15];
	u8 reserved_0e0[0x3e0 - 0x0e0];
	u8 host_sw[0x20];
} PACKED;

/* Table B-2. Offsets are those of the save area, which starts at VMCB 400h. */
struct vmcb_save {
	struct vmcb_seg es, cs, ss, ds, fs, gs;
	struct vmcb_seg gdtr, ldtr, idtr, tr;
	u8 reserved_0a0[0x0cb - 0x0a0];
	u8 cpl;
	u8 reserved_0cc[4];
	u64 efer;
	u8 reserved_0d8[8];
	u8 perf_virt[0x140 - 0x0e0];
	u8 reserved_140[8];
	u64 cr4;
	u64 cr3;
	u64 cr0;
	u64 dr7;
	u64 dr6;
	u64 rflags;
	u64 rip;
	u8 reserved_180[0x1c0 - 0x180];
	u64 instr_retired_ctr;
	u64 perf_global_sts;
	u64 perf_global_ctl;
	u64 rsp;
	u64 s_cet;
	u64 ssp;
	u64 isst_addr;
	u64 rax;
	u64 star;
	u64 lstar;
	u64 cstar;
	u64 sfmask;
	u64 kernel_gs_base;
	u64 sysenter_cs;
	u64 sysenter_esp;
	u64 sysenter_eip;
	u64 cr2;
	u8 reserved_248[0x268 - 0x248];
	u64 g_pat;
	u64 dbgctl;
	u64 br_from;
	u64 br_to;
	u64 last_excp_from;
	u64 last_excp_to;
	u64 dbgextnctl;
	u8 reserved_2a0[0xc00 - 0x2a0];
} PACKED;

struct vmcb {
	struct vmcb_control control;
	struct vmcb_save save;
} PACKED ALIGNED(4096);

#define AT(type, field, offset)                                                                    \
	static_assert(offsetof(struct type, field) == (offset), #type "." #field)
AT(vmcb_control, reserved_018, 0x018);
AT(vmcb_control, pause_filter_threshold, 0x03c);
AT(vmcb_control, iopm_base_pa, 0x040);
AT(vmcb_control, tsc_offset, 0x050);
AT(vmcb_control, asid, 0x058);
AT(vmcb_control, tlb_control, 0x05c);
AT(vmcb_control, reserved_05e, 0x05e);
AT(vmcb_control, int_ctl, 0x060);
AT(vmcb_control, int_vector, 0x064);
AT(vmcb_control, int_state, 0x068);
AT(vmcb_control, exit_code, 0x070);
AT(vmcb_control, exit_int_info, 0x088);
AT(vmcb_control, np_ctl, 0x090);
AT(vmcb_control, event_inj, 0x0a8);
AT(vmcb_control, nested_cr3, 0x0b0);
AT(vmcb_control, virt_ext, 0x0b8);
AT(vmcb_control, clean, 0x0c0);
AT(vmcb_control, reserved_0c4, 0x0c4);
AT(vmcb_control, next_rip, 0x0c8);
AT(vmcb_control, insn_len, 0x0d0);
AT(vmcb_control, reserved_0e0, 0x0e0);
AT(vmcb_control, host_sw, 0x3e0);
static_assert(sizeof(struct vmcb_control) == 0x400, "control area");
AT(vmcb_save, cs, 0x010);
AT(vmcb_save, fs, 0x040);
AT(vmcb_save, gdtr, 0x060);
AT(vmcb_save, ldtr, 0x070);
AT(vmcb_save, idtr, 0x080);
AT(vmcb_save, tr, 0x090);
AT(vmcb_save, reserved_0a0, 0x0a0);
AT(vmcb_save, cpl, 0x0cb);
AT(vmcb_save, reserved_0cc, 0x0cc);
AT(vmcb_save, efer, 0x0d0);
AT(vmcb_save, reserved_0d8, 0x0d8);
AT(vmcb_save, perf_virt, 0x0e0);
AT(vmcb_save, reserved_140, 0x140);
AT(vmcb_save, cr4, 0x148);
AT(vmcb_save, cr3, 0x150);
AT(vmcb_save, cr0, 0x158);
AT(vmcb_save, dr7, 0x160);
AT(vmcb_save, dr6, 0x168);
AT(vmcb_save, rflags, 0x170);
AT(vmcb_save, rip, 0x178);
AT(vmcb_save, reserved_180, 0x180);
AT(vmcb_save, instr_retired_ctr, 0x1c0);
AT(vmcb_save, rsp, 0x1d8);
AT(vmcb_save, s_cet, 0x1e0);
AT(vmcb_save, rax, 0x1f8);
AT(vmcb_save, star, 0x200);
AT(vmcb_save, sysenter_eip, 0x238);
AT(vmcb_save, cr2, 0x240);
AT(vmcb_save, reserved_248, 0x248);
AT(vmcb_save, g_pat, 0x268);
AT(vmcb_save, dbgctl, 0x270);
AT(vmcb_save, dbgextnctl, 0x298);
AT(vmcb_save, reserved_2a0, 0x2a0);
static_assert(sizeof(struct vmcb) == 0x1000, "VMCB");
#undef AT

static inline bool vmcb_intercepts(const struct vmcb_control *c, unsigned int bit)
{
	return (c->intercepts[bit / 32] >> (bit % 32)) & 1;
}

static inline void vmcb_set_intercept(struct vmcb_control *c, unsigned int bit)
{
	c->intercepts[bit / 32] |= 1u << (bit % 32);
	c->clean &= ~(u32)CLEAN_INTERCEPTS;
}

static inline void vmcb_clr_intercept(struct vmcb_control *c, unsigned int bit)
{
	c->intercepts[bit / 32] &= ~(1u << (bit % 32));
	c->clean &= ~(u32)CLEAN_INTERCEPTS;
}

#endif

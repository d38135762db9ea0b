/* SPDX-License-Identifier: MIT */
/* One CPU as the core sees it: L1's and L2's registers and VMCBs, and what the exit path needs at hand. */
#ifndef TALLY_HV_VCPU_H
#define TALLY_HV_VCPU_H

#include "abi/handoff.h"
#include "abi/hypercall.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/core/apic_match.h"
#include "hv/core/insn.h"
#include "hv/core/route.h"
#include "hv/core/shadow.h"
#include "hv/core/tables.h"
#include "hv/core/vmrun_check.h"
#include "hv/core/walk.h"
#include "hv/trace.h"
#include "pmu/clock.h"
#include "pmu/guest_only.h"
#include "pmu/pmu.h"
#include "pmu/switched.h"
#include "types.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/svm.h"

/* Encoding order; RAX and RSP of a guest live in its VMCB. */
enum gpr {
	GPR_RAX,
	GPR_RCX,
	GPR_RDX,
	GPR_RBX,
	GPR_RSP,
	GPR_RBP,
	GPR_RSI,
	GPR_RDI,
	GPR_R8,
	GPR_R11 = 11,
	GPR_COUNT = 16,
};

#define EXIT_HISTORY 32

/* Why an exit is not an ordinary one of L1's: see vcpu_exit_special(). */
#define SPECIAL_L2 BIT(0)     /* L2 runs */
#define SPECIAL_HALT BIT(1)   /* the guest is in HLT: the time until the exit is not counted */
#define SPECIAL_STEP BIT(2)   /* one instruction runs by itself: step_begin() */
#define SPECIAL_NMI BIT(3)    /* an NMI that L0 took while L1 had GIF=0 is owed to L1 or L2 */
#define SPECIAL_INIT BIT(6)   /* the same for an INIT */
#define SPECIAL_TRACK BIT(7)  /* a counter asks for the CPL: hv/track.c */
#define SPECIAL_VIRQ BIT(8)   /* an interrupt that L0 took is L1's V_IRQ */
#define SPECIAL_PMI BIT(10)   /* a counter has INT: hv/apic_timer.c */
#define SPECIAL_MAIL BIT(11)  /* no NMI comes here: each exit looks for mail */
#define SPECIAL_ENTRY BIT(4)  /* EVENTINJ or TLB_CONTROL were set for one VMRUN */
#define SPECIAL_FLAW BIT(9)   /* for tests: VMRUN is not counted, PMU_FLAW_NO_VMRUN_TICK */
#define SPECIAL_WATCH BIT(15) /* exits are recorded: trace_watch() */
#define SPECIAL_SOFT_EVENT                                                                         \
	BIT(5)	      /* an INTn, INT3 or INTO of L1's is injected on a CPU without NRIPS */
#define HOLE_LEAVES 4 /* pages that one instruction can write to */

/* Hardware ASIDs: L1's, then one per shadow space (L2 under nested paging), then one for L2 without it. */
#define ASID_L1 1u
#define ASID_SHADOW(n) (2u + (n))
#define ASID_L2_NO_NPT (ASID_SHADOW(SHADOW_SPACES))
#define ASID_COUNT (ASID_L2_NO_NPT + 1)

struct vcpu;

static ALWAYS_INLINE bool is_64bit(const struct vmcb_save *s)
{
	return (s->cs.attrib & SEG_ATTR_L) && (s->efer & EFER_LMA);
}

/*
 * An instruction that exited before: in 64-bit mode, unprefixed. If the CPU is in the same mode, no page-table entry on the
 * way to it and no byte of it has changed, it is the same again: four loads and compares instead of a walk.
 */
struct known_exit {
	u64 rip, next_rip, cr3;
	u64 code;
	u64 generation; /* of L2 under nested paging: the shadow space's, through which `entry` was found */
	u32 (*handle)(struct vcpu *v);
	u64 *entry[4]; /* in guest memory; with large pages the last one is repeated */
	u64 value[4];
	const u32 *insn;
	u32 bytes;
	bool plain; /* of L2: there is nothing to say but nRIP */
	u8 source;  /* of a MOV to the APIC's page: its register, or KNOWN_IMMEDIATE */
} ALIGNED(128);

static_assert(sizeof(struct known_exit) == 128, "known_exit: found by a shift");

#define KNOWN_EXITS 0x100 /* of L1; found by the low bits of RIP; a power of two */
#define KNOWN_L2_EXITS 0x40
#define KNOWN_APIC_WRITES 0x20 /* of L1 */
#define KNOWN_IMMEDIATE 0xff

/* Exits are counted by the low bits of their code, which are enough to tell all codes apart. */
#define EXIT_SLOTS 0x800u

static ALWAYS_INLINE u64 exit_slot(u64 code)
{
	return code % EXIT_SLOTS;
}

struct exit_cost {
	u64 timed, ticks, ticks_max;
};

/* The hypercalls by MSR: see abi/hypercall.h. */
struct call_window {
	u64 rdx, result;
	unsigned int position; /* in buffer[] */
	u64 buffer[PAGE_SIZE / 8];
};

struct nested {
	/* L0's copy of vmcb12's control area: read once, checked, used. While L2 runs V_GIF in it is current, and V_IRQ
	 * where V_GIF=0 holds it. */
	struct vmcb_control ctl;
	u64 vmcb12_gpa;
	struct shadow_space *space;	 /* NULL: L2 runs without nested paging */
	struct shadow_space *last_space; /* of the last VMRUN with nested paging */
	u64 l1_cr4, l1_efer;	  /* L1's paging mode at the last VMRUN with nested paging, */
	struct npt_mode npt_mode; /* and what it makes of the nested tables */
	u32 no_npt_vasid;	  /* L1's ASID whose translations ASID_L2_NO_NPT holds */
	u64 injected_exit; /* EVENTINJ of vmcb12 was injected after this exit (a value of vcpu.exits) */
	u64 injected;	   /* that event */
	u64 soft_rip; /* SPECIAL_SOFT_EVENT: where L2's RIP is if the event's delivery is cut off */
	bool vgif;    /* L2 has a virtual GIF, ctl.int_ctl's V_GIF */
	bool virq_held; /* L2's V_IRQ is in ctl.int_ctl, not in vmcb02 */
	bool own_lbr;	/* L2 has LBRs of its own */
	/* an IOPM that overlaps our memory, or lacks our ports: iopm_copy() */
	u64 iopm[IOPM_BYTES / 8] ALIGNED(4096);
};

struct shadow_memory {
	u8 pages[CORE_SHADOW_PAGES][PAGE_SIZE];
	u32 links[CORE_SHADOW_PAGES];
};

#define APIC_NO_PAGE (~0ull)

/* The guest's APIC; with more than one CPU as others address it, and its page, which L1 can only read. */
struct apic_trap {
	struct apic_identity own;
	u64 page;    /* where it is, or was when it was last in xAPIC mode */
	u64 trapped; /* the same, or APIC_NO_PAGE */
	u64 *leaf;   /* L1's nested tables' entry of the page, or of the default one */
	u32 stepped; /* the register that an instruction writes on the sink page, */
	bool step;   /* if so */
};

struct vcpu {
	u64 gpr[GPR_COUNT];  /* of the running level */
	u64 vmcb_hpa;	     /* of `vmcb` */
	struct vmcb *vmcb;   /* vmcb01 or vmcb02: what VMRUN runs next */
	struct vmcb *vmcb01; /* L1 */
	struct vmcb *vmcb02; /* L2 */
	u64 vmcb01_hpa;
	u64 vmcb02_hpa;

	/* backend clock: see hv/vmrun.asm */
	u64 clock_overhead; /* TSC ticks of L0's own part between the two readings */
	u64 probe_rsp;	    /* stack of vmrun_probe()'s caller */
	void (*ordinary_exit)(struct vcpu *v);
	void (*special_exit)(struct vcpu *v);
	void (*on_exit)(struct vcpu *v); /* called at #VMEXIT; chosen by vcpu_set_special() */
	void (*on_entry)(void);		 /* jumped to after that: vmrun_enter[_armed] */
	u64 halt_now;			 /* clock.now when the guest was let into HLT */
	u64 halt_rip;
	struct pmu_clock clock;

	bool gif;	    /* L1's; while L2 runs it is 1, until L2 clears it */
	bool svme;	    /* L1's EFER.SVME */
	bool cr_read_quirk; /* the CPU takes reads of other CRs for reads of CR0: MERGE_CR_READS */
	bool halt_intercepted;
	bool counters_hidden; /* guest-only: reads and writes of counters exit for now */
	struct irperf {
		u64 count;    /* on the clock while it is on: less clock.now in instructions */
		u64 overhead; /* L0's own part between the two readings */
		bool offered, on;
	} irperf;
	bool settles; /* the counters are the machine's, and one is enabled: what retires is settled */
	bool pmu_odd;	   /* not all writes to it do what they should: pmu=off, pmu.flaw= */
	u32 pmu_flaw;	   /* enum pmu_flaw */
	u32 pmu_uneven;	   /* PMU_FLAW_UNEVEN: a random number */
	u8 phys_bits;	   /* that L1 sees */
	bool host_if;	   /* RFLAGS.IF of L0 at VMRUN: matters where V_INTR_MASKING=1 */
	u32 cpu_features;  /* CPUID 8000_000A EDX of the CPU */
	u32 features;	   /* and what L1 is offered */
	u32 special;	   /* SPECIAL_*: why exits do not take the ordinary path */
	u32 insn_prefixes; /* INSN_PREFIX_* of an instruction that is longer than unprefixed */
	u64 next_rip; /* behind the instruction that exited, where it has a length in the exit table */
	u32 backend;		    /* enum tally_backend */
	u32 depth;		    /* 1 on the machine itself, 2 under one of us, ... */
	u32 lowest_backend;	    /* of the one with depth 1 */
	u32 cpuid_ext_max;	    /* the CPU's last extended leaf */
	u64 guest_efer_mask;	    /* EFER bits that exist here */
	u64 vm_cr;		    /* L1's */
	u64 hsave_pa;		    /* L1's */
	u64 tsc_ratio;		    /* L1's, which is for its guests; L1 itself runs with 1.0 */
	u32 l0_intercepts[6];	    /* what L0 wants from any guest */
	struct sleep_control sleep; /* the ports that L0 intercepts, */
	u64 iopm_hpa;		    /* and the map with these */
	struct vmrun_limits limits;
	struct guest_memory mem;
	u64 memory_end;	   /* vcpu_no_memory(): below is memory, or what L1 takes for it */
	struct range hole; /* hpa = gpa of our own memory, and all between it and the other holes */
	const struct holes *holes;
	struct npt *npt; /* L1's nested tables */
	struct shadow_memory *shadow_memory;
	u8 *sink_page; /* for one write to nowhere; FFh in between */
	struct nested nested;
	struct shadow shadow;
	struct pmu pmu;
	struct pmu_guest_only guest_only;
	u64 interrupts_taken; /* by L0: interrupts_choose(); a bool, in a word that is ORed */
	struct pmu_switched switched;
	bool switched_exact; /* L0's part in a count is always the same */
	u64 unsupported_logged; /* counters whose unsupported selector was looked at, and named in the log */

	/* SPECIAL_STEP: the entries that are writable now, what they go back to, and the guest's own TF */
	u64 *hole_leaf[HOLE_LEAVES];
	u64 hole_leaf_was[HOLE_LEAVES];
	unsigned int hole_leaves;
	bool step_tf;
	bool step_iret; /* the instruction loads TF itself */

	struct apic_timer {
		/* what vmrun_enter_armed looks at, in ticks */
		u64 lead;  /* from the write of TMICT to the guest, less 1 */
		u64 limit; /* of the guest's time, when the timer is wanted for something else */
		volatile u32 *count_at;
		u64 until; /* clock.now when it fires */

		bool usable;   /* probed: it ends VMRUN at the instruction that it is set for */
		bool trapped;  /* accesses of the guest to the APIC exit */
		bool borrowed; /* LVTT, TMICT and TDCR are ours; the guest's are these: */
		u32 lvt, count, divide;
		u64 due;	 /* when its timer is, by the TSC; 0: it does not run */
		u32 given;	 /* the count that the guest was given back last */
		bool armed;	 /* for the next VMRUN */
		bool fired;	 /* since */
		bool l2_reaches; /* a shadow table has had the APIC's page: L2 may go unseen */
	} apic_timer;

	struct track {
		bool armed;	 /* the VMCB that runs has what follows changed */
		u8 next;	 /* enum track_next, for the next VMRUN */
		u64 sce;	 /* EFER.SCE that it should have */
		u64 sysenter_cs; /* SYSENTER_CS that the CPU should have; 0: untouched */
		u64 swint_ticks; /* of the clock, that an intercepted INTn takes: probed */
	} track;

	u8 nmi_seen, init_seen, irq_seen; /* by event_window(); irq_seen: the vector */
	bool smp;			  /* there are others: NMIs exit, and the APIC is watched */
	bool nmi_masked;     /* with smp: the guest is in its NMI handler, until IRET, */
	bool nmi_unmask;     /* which is being stepped over */
	bool waits_for_sipi; /* after INIT, before the next VMRUN */
	bool init_held;	     /* SPECIAL_INIT waits for GIF=1 */
	bool was_reset; /* by INIT: gpr[] is new, and the way back to vmrun_loop keeps RBP and R12-R15 */
	struct apic_trap apic;

	/* written by other CPUs: hv/ipi.h */
	u32 mail ALIGNED(64); /* IPI_* */
	bool kicked;	      /* an NMI is on its way because of it */
	u8 own_again[0] ALIGNED(64);

	u64 exits;
	u64 pmu_accesses; /* exits for the PMU's MSRs and RDPMC */
	u64 transitions;
	u64 svme_toggles;
	u64 tlb_flushes; /* asked of the CPU at VMRUN, by TLB_CONTROL */
	u64 hole_accesses;
	u64 inits; /* L1's CPU was reset by */
	u64 history_code[EXIT_HISTORY];
	u64 history_rip[EXIT_HISTORY];
	u64 exit_counts[EXIT_SLOTS];
	struct exit_cost exit_costs[EXIT_SLOTS]; /* with TALLY_WATCH_COST */
	u32 watching;				 /* TALLY_WATCH_* */
	struct call_window window;
	struct trace trace;
	struct known_exit known[KNOWN_EXITS];
	struct known_exit known_l2[KNOWN_L2_EXITS];
	struct known_exit known_apic[KNOWN_APIC_WRITES];
	u64 msrpm01[MSRPM_BYTES / 8] ALIGNED(4096); /* for L1 */
	/* for L2: msrpm01 ORed with L1's, but only for MERGED_MSRS */
	u64 msrpm02[MSRPM_BYTES / 8] ALIGNED(4096);
};

/* What an exit handler wants done; applied in one place, apply() in exit.c. */
enum verdict {
	RESUME,		/* as is */
	ADVANCE,	/* past the instruction, which retires */
	INJECT = 0x100, /* | vector, and | INJECT_ERROR for an error code of 0 */
	INJECT_ERROR = 0x200,
	INJECT_GP = INJECT | INJECT_ERROR | 13,
	INJECT_UD = INJECT | 6,
	INJECT_DB = INJECT | 1,
};

/* vmrun.asm */
NORETURN void vmrun_loop(struct vcpu *v);
void vmrun_enter(void); /* parts of vmrun_loop, for on_entry */
void vmrun_enter_armed(void);
void vmrun_enter_irperf(void);
NORETURN void vmrun_loop_switched(struct vcpu *v); /* the same for the backend `switched` */
void vmrun_probe(struct vcpu *v, void (*loop)(struct vcpu *));
void event_window(void);
void nmi_wait(void);
void nmi_unblock(void);

/* exit.c */
void exit_special(struct vcpu *v); /* vmrun.asm */
void exit_watched(struct vcpu *v); /* vmrun.asm */
void exit_probed(struct vcpu *v);  /* vmrun.asm */
void vcpu_exit_special(struct vcpu *v);
/* To the guest, with all of gpr[], from any depth of calls. */
NORETURN void vcpu_enter(struct vcpu *v);
/* The value of on_exit for ordinary exits, once the backend is known. */
void vcpu_choose_exit(struct vcpu *v);
const char *exit_name(u64 code);
/* The last exits, at most so many (and EXIT_HISTORY), the oldest first. */
void exit_log_history(const struct vcpu *v, enum log_level level, u64 most);
/* Bytes at a linear address of the running guest's; and those at CS:RIP. Returns how many could be read. */
unsigned int vcpu_fetch(struct vcpu *v, u64 linear, u8 *buf, unsigned int n);
unsigned int insn_bytes(struct vcpu *v, u8 *buf, unsigned int n);
/* Decodes the instruction that exited, and sets next_rip: 0, or insn_length()'s error. */
int insn_decode(struct vcpu *v, struct insn *insn);

/* False: it cannot have exited with this code. L1 changed it after the CPU had fetched it. */
bool exit_insn_matches(u64 code, const struct insn *insn);
enum insn_mode vcpu_insn_mode(const struct vcpu *v);
/* An exception (event_exception()) that L0 raises for the running guest: to L1, if it is L2's and intercepted. */
void vcpu_raise(struct vcpu *v, u64 event);
/* The single-step trap. */
void vcpu_trap(struct vcpu *v);
NORETURN void vcpu_shutdown(struct vcpu *v, const char *why);

static ALWAYS_INLINE bool vcpu_touches_hole(const struct vcpu *v, u64 gpa, u64 bytes)
{
	return unlikely(range_overlaps(&v->hole, gpa, bytes)) &&
	       holes_overlap(v->holes, gpa, bytes);
}

/* True if [gpa, gpa + bytes) touches our memory; then it is counted and logged with `what`. */
bool vcpu_names_hole(struct vcpu *v, u64 gpa, u64 bytes, const char *what);

/* What GIF=0 has L0 intercept: NMIs, and what CR8 would change apart from the APIC's TPR. */
static ALWAYS_INLINE void intercept_for_gif0(struct vmcb_control *c)
{
	vmcb_set_intercept(c, INTERCEPT(NMI));
	vmcb_set_intercept(c, INTERCEPT_CR_WRITE(8));
}

/* Exceptions as a bitmap of vectors; NMI has an intercept of its own. */
static inline void intercept_exceptions(struct vmcb_control *c, u32 vectors)
{
	c->intercepts[INTERCEPT_EXCEPTION(0) / 32] |= vectors & ~(u32)BIT(VEC_NMI);
	c->clean &= ~(u32)CLEAN_INTERCEPTS;
}

/* TLB_CONTROL for one ASID, or what comes nearest. */
static ALWAYS_INLINE u8 vcpu_flush_asid(const struct vcpu *v)
{
	return v->cpu_features & SVM_FLUSH_BY_ASID ? TLB_CONTROL_FLUSH_ASID : TLB_CONTROL_FLUSH_ALL;
}

/* Asks for a flush of the running guest's translations at the next VMRUN. */
void vcpu_flush_tlb(struct vcpu *v);

/* exit_msr.c: after a change of EFER.SVME */
void vcpu_set_svme(struct vcpu *v, bool svme);

/* interrupt.c */
void pmi_due(struct vcpu *v); /* vmrun.asm */
/* Physical interrupts exit, and L0 takes them for the guest that runs: as long as a counter has INT. */
void interrupts_passed_on(struct vcpu *v); /* at the exit of SPECIAL_VIRQ */
void interrupts_choose(struct vcpu *v, bool take);

/* apic_timer.c */
/* First and last of an exit with SPECIAL_PMI. */
void apic_timer_exit(struct vcpu *v);
void apic_timer_entry(struct vcpu *v);
/* Whether it is the timer that has ended this VMRUN: then nobody else is to hear of it. */
bool apic_timer_own_exit(const struct vcpu *v);
/* No counter has INT any more. */
void apic_timer_end(struct vcpu *v);
/* The guest must find its own timer in the APIC: before L0 accesses that for it. */
void apic_timer_give_back(struct vcpu *v);
/* A nested page fault at the APIC's page that is there because of SPECIAL_PMI: true if it is dealt with. */
bool apic_timer_fault(struct vcpu *v, u64 gpa);
/* L2 gets this range of L1's memory by shadow tables. */
void apic_timer_shadowed(struct vcpu *v, u64 gpa, u64 bytes);
/* At boot, after calibrate_clock(): apic_timer.usable. `run` runs a guest of 1000 NOPs, with physical interrupts
 * intercepted and let in: how many it was let execute. */
void apic_timer_probe(struct vcpu *v, unsigned int shift, u64 (*run)(struct vcpu *));

/* irperf.c: IRPERF and HWCR as L1 sees them, if config says so; each an exit's verdict */
u32 irperf_read(struct vcpu *v, u64 *value);
u32 irperf_write(struct vcpu *v, u64 value);
u32 irperf_read_hwcr(struct vcpu *v, u64 *value);
u32 irperf_write_hwcr(struct vcpu *v, u64 value);
/* At boot: NULL, and irperf.overhead is right, or why not. `run` runs a guest of so many instructions. */
const char *irperf_probe(struct vcpu *v, void (*run)(struct vcpu *, unsigned int));

/* events.c */
void halt_end(struct vcpu *v);
void events_nmi_mask(struct vcpu *v, bool mask);
unsigned int events_take(struct vcpu *v, bool interrupt);
/* With SPECIAL_HALT: clock.now without the time asleep, and whether the HLT is behind the guest. */
static inline u64 halt_time(const struct vcpu *v)
{
	return v->halt_now + (v->vmcb->save.rip != v->halt_rip ? v->clock.insn_ticks : 0);
}
/* NMI and INIT that L0 took and owes, as soon as they may come. */
void events_deliver(struct vcpu *v);
/* L2's STGI and CLGI: of its virtual GIF, if L1 has given it one (APM2 §15.33.2). */
void nested_set_gif(struct vcpu *v, bool gif);
void nested_hold_virq(struct vcpu *v, bool hold);
/* The running VMCB's intercepts: L0's, and for L2 those of vmcb12. */
void vcpu_reset_intercepts(struct vcpu *v);

/* assist.c */
/* Before L2's exit goes to L1: nRIP and decode assists, into vmcb02, where L1 sees them and the CPU has none. */
void exit_assist(struct vcpu *v, u64 code);
/* On a CPU with cr_read_quirk: the exit code that the read of a control register should have. */
u64 exit_which_cr_read(struct vcpu *v);

/* track.c */
enum track_next {
	TRACK_BY_CPL, /* as the VMCB says, or 0 if an event is injected */
	TRACK_KERNEL,
	TRACK_USER,
};
/* First and last of an exit with SPECIAL_TRACK. */
void track_exit(struct vcpu *v);
void track_entry(struct vcpu *v);
/* After a change of what is enabled and a commit: SPECIAL_TRACK on, if a counter asks for the CPL now. */
void track_begin(struct vcpu *v);

/* A fault that is none of the guest's, but there because of SPECIAL_TRACK: true if it is dealt with. */
bool track_fault(struct vcpu *v, unsigned int vector);

/* hole.c */
/* Runs one instruction of the guest by itself, to its #DB or another exit; then the VMCB's intercepts are reset. */
void step_begin(struct vcpu *v);
void step_intercept(struct vcpu *v);
void hole_write(struct vcpu *v, u64 *leaf);
void step_end(struct vcpu *v);
/* At the exit of SPECIAL_STEP; true if that exit is dealt with. */
bool step_exit(struct vcpu *v);

/* hypercall.c */
/* RDMSR and WRMSR of L1's in the range of TALLY_MSR_*. */
bool hypercall_is_msr(u32 msr);
u32 hypercall_rdmsr(struct vcpu *v, u32 msr, u64 *value);
u32 hypercall_wrmsr(struct vcpu *v, u32 msr, u64 value);

/* trace.c */
void vcpu_exit_watched(struct vcpu *v);

/* exit families */
u32 exit_cpuid(struct vcpu *v);
u32 exit_msr(struct vcpu *v);
u32 exit_rdpmc(struct vcpu *v);
u32 exit_halt(struct vcpu *v);
u32 exit_ioio(struct vcpu *v);
u32 exit_vmmcall(struct vcpu *v);
u32 exit_vmload(struct vcpu *v);
u32 exit_vmsave(struct vcpu *v);
u32 exit_stgi(struct vcpu *v);
u32 exit_clgi(struct vcpu *v);
u32 exit_skinit(struct vcpu *v);
u32 exit_invlpga(struct vcpu *v);
u32 exit_vmrun(struct vcpu *v);
u32 exit_npf(struct vcpu *v);
u32 exit_exception(struct vcpu *v);
u32 exit_let_in(struct vcpu *v);
u32 exit_iret(struct vcpu *v);
u32 exit_nmi(struct vcpu *v);
u32 exit_init(struct vcpu *v);
u32 exit_smi(struct vcpu *v);
u32 exit_intr(struct vcpu *v);
u32 exit_cr_read(struct vcpu *v);
u32 exit_cr8_write(struct vcpu *v);
u32 exit_shutdown(struct vcpu *v);

#define SVM_INSN_BYTES 3

/* rAX of an SVM instruction with prefixes, or outside 64-bit mode. */
u64 svm_operand_toggled(const struct vcpu *v);

/* rAX of an SVM instruction as an address: RAX cut to the address size (APM2 §15.5.1). */
static ALWAYS_INLINE u64 svm_operand(const struct vcpu *v)
{
	const struct vmcb_save *s = &v->vmcb->save;

	if (likely(v->next_rip - s->rip == SVM_INSN_BYTES && is_64bit(s)))
		return s->rax;
	return svm_operand_toggled(v);
}

/* Where L1 can have no memory: beyond the CPU's address size, or HyperTransport's. */
static ALWAYS_INLINE bool vcpu_no_memory(const struct vcpu *v, u64 gpa)
{
	return unlikely(gpa >= v->memory_end) &&
	       (gpa >= v->mem.limit || tables_is_hypertransport(gpa, v->phys_bits));
}

/* Where rAX may not name a VMCB: unaligned, where no memory is, or in our memory. */
static ALWAYS_INLINE bool svm_bad_vmcb(struct vcpu *v, u64 gpa, const char *what)
{
	return gpa % PAGE_SIZE || vcpu_no_memory(v, gpa) ||
	       (vcpu_touches_hole(v, gpa, PAGE_SIZE) && vcpu_names_hole(v, gpa, PAGE_SIZE, what));
}

/* exit_svm.c: 0F 01 D8..DF but for VMMCALL, at the running guest's RIP. */
bool is_svm_instruction(struct vcpu *v);

/* nested.c */
void nested_init(struct vcpu *v);
/* #VMEXIT to L1, which goes on behind its VMRUN. nRIP and the instruction's bytes are those in vmcb02. */
void nested_vmexit(struct vcpu *v, u64 code, u64 info1, u64 info2);
/* The same for an exit that is not the CPU's, but L0's decision: nothing is known of an instruction. */
void nested_vmexit_made(struct vcpu *v, u64 code, u64 info1, u64 info2);
/* EVENTINJ of vmcb12, or the same event again after an exit that cut its delivery off. */
void nested_inject(struct vcpu *v, u64 event);
/* Out of L2 without a #VMEXIT: L1's CPU gets another state anyway. */
void nested_leave(struct vcpu *v);
/* At the exit of SPECIAL_SOFT_EVENT. */
void nested_inject_end(struct vcpu *v);
/* #VMEXIT to L1 because the CPU refused vmcb02, though vmrun_check() had passed it. */
void nested_refused(struct vcpu *v);
/* Whether the event in EXITINTINFO is the one that L1 injected, as opposed to one that L2 raised. */
bool nested_event_is_injected(const struct vcpu *v);

/* backend.c */
void backend_init(struct vcpu *v, const struct config *config);
/* On another CPU afterwards. */
void backend_join(struct vcpu *v, const struct config *config);
/* After a selector write: commits it, and notes in the log, once per counter, what this backend cannot count. */
void backend_selector_written(struct vcpu *v);
void nested_intercept_pmu(struct vcpu *v, bool counters);
void nested_intercept_msr(struct vcpu *v, u32 msr);
void nested_intercept_msr_write(struct vcpu *v, u32 msr);
void nested_intercept_sysenter(struct vcpu *v, bool on);
/* The event filter of all CPUs; of this one, as soon as that has changed. */
void backend_set_filter(struct vcpu *v, const struct tally_filter *filter);
void backend_take_filter(struct vcpu *v);
/* Backend guest-only: whether RDPMC and the counters' MSRs exit, which they otherwise do not. */
void backend_hide_counters(struct vcpu *v, bool hide);

static ALWAYS_INLINE void retire_guest_only(struct vcpu *v)
{
	pmu_guest_only_retire(&v->guest_only, v->vmcb->save.cpl);
	v->irperf.count += v->irperf.on;
}

/* An instruction that L0 emulated retires, at the CPL and in the state that the current VMCB shows. */
static ALWAYS_INLINE void vcpu_retire(struct vcpu *v)
{
	if (likely(!v->settles))
		pmu_clock_retire(&v->clock);
	else if (likely(v->backend == TALLY_BACKEND_GUEST_ONLY))
		retire_guest_only(v);
	else
		pmu_switched_retire(&v->switched, v->vmcb->save.cpl);
}

/* Whether retired instructions are counted to the last one. */
static inline bool vcpu_counts_exactly(const struct vcpu *v)
{
	switch (v->backend) {
	case TALLY_BACKEND_GUEST_ONLY:
		return true;
	case TALLY_BACKEND_SWITCHED:
		return v->switched_exact;
	default:
		return v->clock.exact;
	}
}

/* Whether an overflow interrupts at the instruction that overflows. */
static inline bool vcpu_interrupts_exactly(const struct vcpu *v)
{
	return v->backend == TALLY_BACKEND_CLOCK && v->apic_timer.usable;
}

/* Counters that run now. */
static inline u64 vcpu_counting(const struct vcpu *v)
{
	return v->pmu.enabled_hw & (v->backend == TALLY_BACKEND_CLOCK ? v->clock.countable : ~0ull);
}

/* An intercept that L0 wants or not from now on, of all guests. The caller ends with vcpu_reset_intercepts(). */
static inline void vcpu_set_l0_intercept(struct vcpu *v, unsigned int bit, bool on)
{
	u32 mask = 1u << (bit % 32);

	if (on)
		v->l0_intercepts[bit / 32] |= mask;
	else
		v->l0_intercepts[bit / 32] &= ~mask;
}

static ALWAYS_INLINE bool vcpu_in_l2(const struct vcpu *v)
{
	return v->special & SPECIAL_L2;
}

/* Whether vmcb02's V_TPR is CR8, because L2 has GIF=0 and no V_INTR_MASKING of its own, and nested.ctl has V_TPR. */
static ALWAYS_INLINE bool nested_holds_tpr(const struct vcpu *v)
{
	return !v->gif && vcpu_in_l2(v) && !(v->nested.ctl.int_ctl & V_INTR_MASKING);
}

/* exit_io.c: the ports that L0 intercepts; and whether an I/O exit of L2 is L1's */
void io_init(struct vcpu *v, const struct sleep_control *sleep);
bool io_exit_is_l1s(const struct vcpu *v);

/* Whether L1 wants this exit of L2. */
static ALWAYS_INLINE bool nested_wants(const struct vcpu *v, u64 code)
{
	const struct vmcb_control *ctl = &v->nested.ctl;

	if (unlikely(code == VMEXIT_NMI) && (v->smp || !v->gif))
		return false; /* L2 has cleared the real GIF */
	if (unlikely(code == VMEXIT_IOIO))
		return io_exit_is_l1s(v);
	return route_to_l1(ctl, code, guest_at(&v->mem, ctl->msrpm_base_pa & ~0xfffull),
			   (u32)v->gpr[GPR_RCX], v->vmcb->control.exit_info_1 & 1);
}

static ALWAYS_INLINE void vcpu_set_special(struct vcpu *v, u64 reasons)
{
	v->special |= (u32)reasons;
	v->on_exit = v->special_exit;
}

static ALWAYS_INLINE void vcpu_clr_special(struct vcpu *v, u64 reasons)
{
	v->special &= ~(u32)reasons;
	if (!v->special)
		v->on_exit = v->ordinary_exit;
}

/* Moves RIP past the instruction that exited; it has not retired yet. For handlers whose instruction ends in another
 * state than it began; they return RESUME, after vcpu_trap() if RFLAGS.TF is set. */
static ALWAYS_INLINE void vcpu_skip(struct vcpu *v)
{
	struct vmcb *vmcb = v->vmcb;

	vmcb->save.rip = v->next_rip;
	vmcb->save.rflags &= ~RFLAGS_RF;
	vmcb->control.int_state &= ~INTERRUPT_SHADOW;
}

/* The 8-byte field at an offset of the save area; the VMCB is packed, but these are aligned. */
static inline u64 *vmcb_save_at(struct vmcb_save *s, size_t offset)
{
	return (u64 *)((uintptr_t)s + offset);
}

/* By the number in an instruction; RAX and RSP are in the VMCB. */
static inline u64 *vcpu_gpr(struct vcpu *v, unsigned int n)
{
	if (n == GPR_RAX)
		return vmcb_save_at(&v->vmcb->save, offsetof(struct vmcb_save, rax));
	if (n == GPR_RSP)
		return vmcb_save_at(&v->vmcb->save, offsetof(struct vmcb_save, rsp));
	return &v->gpr[n];
}

static ALWAYS_INLINE u64 gpr_pair(const struct vcpu *v)
{
	return (u32)v->vmcb->save.rax | v->gpr[GPR_RDX] << 32;
}

static ALWAYS_INLINE void set_gpr_pair(struct vcpu *v, u64 value)
{
	v->vmcb->save.rax = (u32)value;
	v->gpr[GPR_RDX] = value >> 32;
}

/* RFLAGS.IF of L0 at VMRUN; harmless in L0 because GIF is 0. Set well before VMRUN: its STI shadow must not reach the
 * guest. */
static ALWAYS_INLINE void vcpu_set_host_if(struct vcpu *v, bool host_if)
{
	if (v->host_if == host_if)
		return;
	v->host_if = host_if;
	if (host_if)
		cpu_sti();
	else
		cpu_cli();
}

/*
 * L1 has GIF=0: interrupts stay in the APIC, by V_INTR_MASKING and L0's IF=0, and NMIs exit. V_INTR_MASKING makes CR8
 * V_TPR; exit_cr8_write() keeps it and the APIC's TPR the same. While L2 runs after a VMRUN with GIF=0, vmcb01 stays so.
 */
static ALWAYS_INLINE void vcpu_hold_l1(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb01->control;
	u32 was = c->int_ctl;

	v->gif = false;
	c->int_ctl = (was & ~(u32)V_TPR_MASK) | (u32)cpu_read_cr8() | (u32)V_INTR_MASKING;
	if (!(was & V_INTR_MASKING))
		intercept_for_gif0(c);
	vcpu_set_host_if(v, false);
}

static ALWAYS_INLINE void vcpu_release_l1(struct vcpu *v)
{
	struct vmcb_control *c = &v->vmcb01->control;

	v->gif = true;
	c->int_ctl &= ~(u32)V_INTR_MASKING;
	if (likely(!v->smp))
		vmcb_clr_intercept(c, INTERCEPT(NMI));
	vmcb_clr_intercept(c, INTERCEPT_CR_WRITE(8));
}

static ALWAYS_INLINE void vcpu_set_eventinj(struct vcpu *v, u64 event)
{
	v->vmcb->control.event_inj = event;
	vcpu_set_special(v, SPECIAL_ENTRY);
}

#endif

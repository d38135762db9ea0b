/* SPDX-License-Identifier: MIT */
/*
 * Nested SVM against the CPU itself. From a seed this L1 builds random VMCBs and small L2 programs, runs them and prints
 * one line for each VMRUN: what the exit left behind, as a digest. tests/fuzz/vmrun runs the same seed bare and under
 * Tallyvisor and compares the lines. Whatever legitimately differs is a named departure (guest/lib/platform.h), which
 * either keeps an input from being made or a field from being compared. What the CPU below does not give, and Tallyvisor
 * does (nRIP, decode assists), is compared with what the program knows of its own instructions.
 *
 * The configuration is the file opt/tallyvisor/fuzz of QEMU's -fw_cfg, lines of KEY=VALUE:
 *	seed=N			default 1
 *	first=N count=N		the case to begin with, and how many VMRUNs (default 5000) to do at least
 *	case=INDEX[:KEEP]	one case only; again for more. KEEP, hexadecimal: the items to apply
 *	detail=1		print everything that is in the digest, and what was done
 * A line: INDEX.RUN EXITCODE DIGEST, where INDEX of a `case` counts these.
 */
#include "guest/fuzz/fuzz.h"
#include "guest/lib/apic.h"
#include "guest/lib/fwcfg.h"
#include "guest/lib/start.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

const struct fixed_memory guest_fixed_memory = {ARENA_ADDRESS, sizeof(struct arena)};

static_assert(sizeof(struct arena) <= 2 * PAGE_2M, "arena");

/* ---- configuration ---- */

#define MAX_CASES 300
#define CONFIG_NAME "opt/tallyvisor/fuzz"

static struct {
	u64 seed, first, count;
	bool detail;
	u32 cases;
	struct {
		u64 index;
		bool all;
		u64 keep[KEEP_WORDS];
	} one[MAX_CASES];
} cfg = {.seed = 1, .count = 5000};

static char config[64 * 1024];

static bool take(const char **at, const char *key)
{
	const char *s = *at;

	while (*key)
		if (*s++ != *key++)
			return false;
	*at = s;
	return true;
}

static u64 take_number(const char **at)
{
	u64 v = 0;

	for (; **at >= '0' && **at <= '9'; (*at)++)
		v = v * 10 + (u64)(**at - '0');
	return v;
}

static void take_keep(const char **at, u64 *keep)
{
	for (;; (*at)++) {
		const char c = **at;
		u64 digit;

		if (c >= '0' && c <= '9')
			digit = (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			digit = (u64)(c - 'a') + 10;
		else
			return;
		for (u32 i = KEEP_WORDS; i--;)
			keep[i] = keep[i] << 4 | (i ? keep[i - 1] >> 60 : digit);
	}
}

static void take_case(const char **at)
{
	u32 n = cfg.cases;

	if (n == MAX_CASES)
		return;
	cfg.cases++;
	cfg.one[n].index = take_number(at);
	cfg.one[n].all = !take(at, ":");
	if (!cfg.one[n].all)
		take_keep(at, cfg.one[n].keep);
}

static void configure(void)
{
	const char *at = config,
		   *end = config + fwcfg_read(CONFIG_NAME, config, sizeof(config) - 1);

	while (at < end) {
		if (take(&at, "seed="))
			cfg.seed = take_number(&at);
		else if (take(&at, "first="))
			cfg.first = take_number(&at);
		else if (take(&at, "count="))
			cfg.count = take_number(&at);
		else if (take(&at, "case="))
			take_case(&at);
		else if (take(&at, "detail="))
			cfg.detail = take_number(&at);
		else if (*at != '\n')
			tap_check(false, "the configuration has an unknown key");
		while (at < end && *at++ != '\n')
			;
	}
}

/* ---- choices ---- */

struct choices choices;

static u64 mix(u64 x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

u64 rnd(void)
{
	choices.random += 0x9e3779b97f4a7c15ull;
	return mix(choices.random);
}

u64 below(u64 n)
{
	return n ? (rnd() >> 8) % n : 0;
}

u64 rnd_sparse(unsigned int n)
{
	u64 x = rnd();

	while (--n)
		x &= rnd();
	return x;
}

void choices_restart(u64 salt)
{
	choices.random = mix(choices.seed + (salt << 32));
}

bool item(void)
{
	u32 n = choices.next_item++;

	choices_restart(n + 1000);
	return n < 64 * KEEP_WORDS && choices.keep[n / 64] >> n % 64 & 1;
}

void tell(const char *format, ...)
{
	__builtin_va_list args;

	if (!choices.detail)
		return;
	print("#   item %u: ", choices.next_item - 1);
	__builtin_va_start(args, format);
	vprint(format, args);
	__builtin_va_end(args);
	print("\n");
}

bool avoid(enum departure d)
{
	return departs_below(d);
}

/* ---- the case that is being made ---- */

static struct {
	u64 label, index;
	u32 run, runs;
	struct vmcb *vmcb;
	struct vmcb asked, was; /* as at VMRUN; as the previous exit left it */
	struct l2_regs regs;
	enum final final;
	bool valid;	   /* `was` is of this VMCB, which VMRUN took */
	bool maps_changed; /* the contents of a permission map */
	u32 stale;	   /* bit n: ASID n must be flushed before translations are right */
	u64 code;	   /* of the last exit */
	bool elsewhere;	   /* RIP may not lead to the program's bytes */
	bool resumed;
} now;

static struct vmcb_control *ctl(void)
{
	return &now.vmcb->control;
}

static struct vmcb_save *save(void)
{
	return &now.vmcb->save;
}

static struct vmcb_seg segment(u32 selector, u32 attributes, u32 limit)
{
	return (struct vmcb_seg){(u16)selector, (u16)attributes, limit, 0};
}

#define USER_ATTR (3u << 5)

static void reset_segments(struct vmcb_save *s)
{
	const u32 user = shape.user ? USER_ATTR : 0;
	struct vmcb_seg data = segment(shape.user ? SEL_USER_DATA : SEL_DATA, 0xc93 | user, ~0u);

	switch (shape.mode) {
	case LONG64:
		s->cs = segment(shape.user ? SEL_USER_CODE64 : SEL_CODE64, 0xa9b | user, ~0u);
		break;
	case PROT16:
		s->cs = segment(SEL_CODE16, 0x09b, 0xffff);
		data = segment(SEL_DATA16, 0x093, 0xffff);
		break;
	case REAL16:
		s->cs = segment(0, 0x09b, 0xffff);
		data = segment(0, 0x093, 0xffff);
		break;
	default:
		s->cs = segment(shape.user ? SEL_USER_CODE32 : SEL_CODE32, 0xc9b | user, ~0u);
	}
	s->ss = s->ds = s->es = data;
	s->cpl = shape.user ? 3 : 0;
	s->gdtr = (struct vmcb_seg){.limit = GDT_LIMIT, .base = L2_AT(gdt)};
	s->idtr = mode_is_long()	 ? (struct vmcb_seg){.limit = 0xfff, .base = L2_AT(idt)}
		  : shape.mode == REAL16 ? (struct vmcb_seg){.limit = 0x3ff, .base = L2_AT(ivt)}
					 : (struct vmcb_seg){.limit = 0x7ff, .base = L2_AT(idt32)};
}

static void reset_save(void)
{
	struct vmcb_save *s = save();

	reset_segments(s);
	s->efer = EFER_SVME | EFER_NXE | EFER_SCE;
	s->cr0 = CR0_ET | CR0_NE;
	s->cr4 = CR4_DE;
	if (mode_is_long()) {
		s->efer |= EFER_LME | EFER_LMA;
		s->cr4 |= CR4_PAE;
	}
	if (shape.mode == PAE32)
		s->cr4 |= CR4_PAE;
	if (shape.mode == LEGACY32)
		s->cr4 |= CR4_PSE;
	if (shape.mode != REAL16)
		s->cr0 |= CR0_PE;
	if (shape.mode <= LEGACY32)
		s->cr0 |= CR0_PG | CR0_WP;
	s->cr3 = memory_cr3();
	s->dr6 = DR6_RESET;
	s->dr7 = DR7_RESET;
	s->g_pat = PAT_RESET;
	s->rflags = RFLAGS_FIXED;
	s->rip = program_start();
	s->rsp = L2_STACK_TOP;
	now.regs = (struct l2_regs){.rsi = L2_AT(data), .rdi = L2_AT(data) + 64};
}

static void reset_control(void)
{
	struct vmcb_control *c = ctl();

	c->asid = 1;
	c->iopm_base_pa = (u64)ARENA->iopm[MAP_CLEAR];
	c->msrpm_base_pa = (u64)ARENA->msrpm[MAP_CLEAR];
	if (shape.space != NO_NPT)
		c->np_ctl = NP_ENABLE;
	c->nested_cr3 = (u64)ARENA->npml4;
}

/* ---- what is changed: each function one item's worth ---- */

static void c_intercept(void)
{
	unsigned int bit = (unsigned int)below(INTERCEPT_BITS);

	if (once_in(3))
		bit = INTERCEPT_EXCEPTION((unsigned int)below(32));
	else if (once_in(3))
		bit = (unsigned int)below(64);
	tell("intercept 0x%x", bit);
	vmcb_set_intercept(ctl(), bit);
}

static void c_intercepts(void)
{
	const u64 word = below(6);
	const u32 bits = (u32)rnd_sparse(1 + (u32)below(3));

	tell("intercepts, word %lu: 0x%x", word, bits);
	for (u32 i = 0; i < 32; i++)
		if (bits >> i & 1)
			vmcb_set_intercept(ctl(), (u32)word * 32 + i);
}

static void c_not_vmrun(void)
{
	if (!once_in(8))
		return;
	tell("no intercept of VMRUN");
	vmcb_clr_intercept(ctl(), VMEXIT_VMRUN);
}

/* Bits that VMRUN ignores. */
static u64 low_bits(void)
{
	const u64 bits = once_in(4) ? below(PAGE_SIZE) : 0;

	return avoid(DEPARTURE_MAP_LOW_BITS) ? 0 : bits;
}

static void c_iopm(void)
{
	const enum map map = (enum map)below(MAPS);

	vmcb_set_intercept(ctl(), VMEXIT_IOIO);
	ctl()->iopm_base_pa = (u64)ARENA->iopm[map] | low_bits();
	tell("I/O map %u", map);
	if (map != MAP_FEW)
		return;
	now.maps_changed = true;
	for (u64 n = 1 + below(3); n; n--)
		ARENA->iopm[map][0x10] ^= (u8)BIT(below(8));
}

static void msrpm_few(u32 msr, bool write)
{
	const u32 block = msr >= 0xc0010000u ? 2 : msr >= 0xc0000000u ? 1 : 0;
	const u32 bit = block * 2048 * 8 + (msr & 0x1fff) * 2 + write;

	ARENA->msrpm[MAP_FEW][bit / 8] ^= (u8)(1u << bit % 8);
}

static void c_msrpm(void)
{
	static const u32 msrs[] = {
		MSR_EFER,    MSR_STAR,	  MSR_LSTAR,	      MSR_CSTAR,       MSR_SFMASK,
		MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_EIP,
	};
	const enum map map = (enum map)below(MAPS);

	vmcb_set_intercept(ctl(), VMEXIT_MSR);
	ctl()->msrpm_base_pa = (u64)ARENA->msrpm[map] | low_bits();
	tell("MSR map %u", map);
	if (map != MAP_FEW)
		return;
	now.maps_changed = true;
	for (u64 n = 1 + below(3); n; n--)
		msrpm_few(PICK(msrs), once_in(2));
}

static void c_bad_map(void)
{
	const u64 bad = (rnd() | BIT(platform.phys_bits + below(64 - platform.phys_bits)));

	if (!once_in(3))
		return;
	tell("a map at 0x%lx", bad);
	if (once_in(2))
		ctl()->iopm_base_pa = bad;
	else
		ctl()->msrpm_base_pa = bad;
}

static void c_tsc_offset(void)
{
	ctl()->tsc_offset = rnd();
	tell("TSC_OFFSET");
}

static void c_asid(void)
{
	ctl()->asid = once_in(16) ? 0 : once_in(8) ? (u32)rnd() : 1 + (u32)below(8);
	tell("ASID 0x%x", ctl()->asid);
}

static void c_tlb_control(void)
{
	static const u8 values[] = {TLB_CONTROL_FLUSH_ALL, TLB_CONTROL_FLUSH_ASID,
				    TLB_CONTROL_FLUSH_ASID_NON_GLOBAL};

	ctl()->tlb_control = PICK(values);
	tell("TLB_CONTROL %u", ctl()->tlb_control);
}

static void c_virtual_interrupt(void)
{
	struct vmcb_control *c = ctl();

	c->int_ctl |= (u32)V_IRQ;
	c->int_ctl |= (u32)(below(16) << V_INTR_PRIO_SHIFT);
	c->int_ctl |= (u32)below(16);
	if (once_in(2))
		c->int_ctl |= (u32)V_IGN_TPR;
	if (once_in(2))
		c->int_ctl |= (u32)V_INTR_MASKING;
	c->int_vector = (u32)(once_in(4) ? below(256) : 0x40 + below(0x80));
	/* below 32, nothing can tell such an interrupt from an exception */
	if (avoid(DEPARTURE_EXITINTINFO_TYPE))
		c->int_vector |= 32;
	if (!once_in(3))
		save()->rflags |= RFLAGS_IF;
	if (once_in(3))
		vmcb_set_intercept(c, VMEXIT_VINTR);
	tell("int_ctl 0x%x vector 0x%x", c->int_ctl, c->int_vector);
}

static void c_int_ctl(void)
{
	struct vmcb_control *c = ctl();

	c->int_ctl ^= (u32)(rnd() & (V_INTR_MASKING | V_IGN_TPR | V_INTR_PRIO | BITS(3, 0)));
	if (once_in(4))
		c->int_ctl ^= (u32)(rnd() & (BITS(7, 4) | BITS(15, 13) | BITS(23, 21)));
	tell("int_ctl 0x%x", c->int_ctl);
}

static void c_virtual_gif(void)
{
	struct vmcb_control *c = ctl();

	if (!(platform.svm_edx & SVM_VGIF))
		return;
	c->int_ctl |= (u32)V_GIF_ENABLE;
	c->int_ctl ^= (u32)(rnd() & V_GIF);
	if (once_in(8))
		c->int_ctl &= ~(u32)V_GIF_ENABLE;
	tell("int_ctl 0x%x", c->int_ctl);
}

static void c_shadow(void)
{
	ctl()->int_state = once_in(4) ? rnd() | INTERRUPT_SHADOW : INTERRUPT_SHADOW;
	tell("int_state 0x%lx", ctl()->int_state);
}

static bool exception_exists(u64 vector)
{
	static const u32 exist =
		(u32)(BIT(VEC_DE) | BIT(VEC_DB) | BIT(VEC_BP) | BIT(VEC_UD) | BIT(VEC_NM) |
		      BIT(VEC_DF) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) | BIT(VEC_GP) |
		      BIT(VEC_PF) | BIT(VEC_MF) | BIT(VEC_AC) | BIT(VEC_MC) | BIT(VEC_XF));

	return vector < 32 && exist >> vector & 1;
}

static void c_event(void)
{
	static const u64 types[] = {EVENT_TYPE_INTR, EVENT_TYPE_NMI, EVENT_TYPE_EXCEPTION,
				    EVENT_TYPE_EXCEPTION, EVENT_TYPE_SWINT};
	u64 type = once_in(12) ? below(8) << 8 : PICK(types), vector = below(256), event;

	if (type == EVENT_TYPE_EXCEPTION) {
		vector = below(once_in(8) ? 256 : 32);
		if (!exception_exists(vector) && vector < 31 && vector != VEC_NMI &&
		    avoid(DEPARTURE_EVENTINJ_VECTORS))
			vector = VEC_GP;
	} else if (type == EVENT_TYPE_SWINT || !once_in(4)) {
		vector = 0x30 + below(0x80);
	}
	event = EVENT_V | type | vector | (once_in(8) ? rnd() & BITS(30, 12) : 0);
	if (type == EVENT_TYPE_EXCEPTION && vector >= VEC_DF && vector <= VEC_AC &&
	    (vector != VEC_MF) && vector != 9)
		event |= EVENT_EV | (rnd() & 0xffff) << EVENT_ERROR_SHIFT;
	ctl()->event_inj = event;
	tell("EVENTINJ 0x%lx", event);
}

static void c_virt_ext(void)
{
	ctl()->virt_ext = rnd() & (LBR_VIRT_ENABLE | VMSAVE_VIRT_ENABLE);
	tell("VIRT_EXT 0x%lx", ctl()->virt_ext);
}

/* Fields that are not read, and those that only an exit writes. */
static void c_unused(void)
{
	static const struct {
		u16 first, end;
	} ranges[] = {
		{0x018, 0x040}, {0x070, 0x090}, {0x0a0, 0x0a8}, {0x0c4, 0x0e0}, {0x0e0, 0x3e0},
		{0x3e0, 0x400}, {0x440, 0x460}, {0x470, 0x480}, {0x490, 0x4cb}, {0x4cc, 0x4d0},
		{0x540, 0x548}, {0x580, 0x5c0}, {0x648, 0x668}, {0x6a0, 0x700},
	};
	const u64 which = below(ARRAY_SIZE(ranges));
	u8 *bytes = (u8 *)now.vmcb;

	for (u32 i = ranges[which].first; i < ranges[which].end; i++)
		bytes[i] = (u8)rnd();
	tell("noise from 0x%x on", ranges[which].first);
}

static void c_flags(void)
{
	static const u32 flags[] = {RFLAGS_IF, RFLAGS_IF, RFLAGS_TF, RFLAGS_RF, RFLAGS_DF, BIT(12),
				    BIT(13),   BIT(14),	  BIT(18),   RFLAGS_CF, BIT(21)};

	save()->rflags ^= PICK(flags);
	if (once_in(8))
		save()->rflags ^= rnd() & (BITS(63, 22) | RFLAGS_FIXED | BIT(3) | BIT(5) | BIT(15));
	if (avoid(DEPARTURE_RF_STAYS))
		save()->rflags &= ~RFLAGS_RF;
	tell("RFLAGS 0x%lx", save()->rflags);
}

static void c_cr0(void)
{
	static const u8 bits[] = {1, 2, 3, 4, 5, 16, 18, 30};

	save()->cr0 ^= BIT(PICK(bits));
	if (once_in(8))
		save()->cr0 ^= BIT(32 + below(32));
	if (once_in(12))
		save()->cr0 ^= CR0_NW;
	tell("CR0 0x%lx", save()->cr0);
}

static void c_cr4(void)
{
	static const u8 bits[] = {0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 16, 18};

	save()->cr4 ^= BIT(PICK(bits));
	if (once_in(8))
		/* QEMU's `max` has bits of Intel's, from 24 on */
		save()->cr4 ^= BIT(33 + below(31));
	tell("CR4 0x%lx", save()->cr4);
}

static void c_efer(void)
{
	save()->efer ^= once_in(2) ? EFER_SCE : EFER_NXE;
	if (once_in(4) && (cpuid(CPUID_EXT_FEATURES).edx & CPUID_EXT1_EDX_FFXSR))
		save()->efer ^= EFER_FFXSR;
	if (once_in(8))
		save()->efer ^= BIT(22 + below(42));
	if (once_in(16))
		save()->efer ^= EFER_SVME;
	tell("EFER 0x%lx", save()->efer);
}

static void c_cr3(void)
{
	save()->cr3 |= once_in(2) ? PTE_PWT | PTE_PCD
				  : BIT(platform.phys_bits + below(64 - platform.phys_bits));
	tell("CR3 0x%lx", save()->cr3);
}

static void c_cr2(void)
{
	save()->cr2 = rnd();
	tell("CR2 0x%lx", save()->cr2);
}

static void c_debug(void)
{
	if (once_in(2)) {
		save()->dr6 ^= BIT(below(once_in(4) ? 64 : 16));
	} else if (once_in(2)) {
		save()->dr7 ^= BIT(13); /* GD */
	} else if (once_in(4)) {
		save()->dr7 ^= BIT(32 + below(32));
	} else { /* a breakpoint of any kind at somewhere that L2 comes to */
		static const u32 where[] = {0, 1, 2};

		save()->dr7 |= BIT(1 + 2 * PICK(where));
	}
	tell("DR6 0x%lx DR7 0x%lx", save()->dr6, save()->dr7);
}

static void c_g_pat(void)
{
	static const u64 values[] = {0x0007040600070406ull, 0x0606060606060606ull, 0,
				     0x0106050401060504ull};

	save()->g_pat = PICK(values);
	tell("G_PAT 0x%lx", save()->g_pat);
}

static void c_rip(void)
{
	/* not into the middle of one: a MOV to CR0 must have its register ready */
	save()->rip = program_step(below(16));
	tell("RIP 0x%lx", save()->rip);
}

static void c_rsp(void)
{
	static const u32 where[] = {
		L2_AT(stack), L2_NOT_MAPPED, L2_AT(data) + PAGE_SIZE + 4, L2_STACK_TOP - 3, 8,
	};

	save()->rsp = PICK(where);
	tell("RSP 0x%lx", save()->rsp);
}

static void c_table_register(void)
{
	struct vmcb_seg *t = once_in(3) ? &save()->gdtr : &save()->idtr;

	/* a random vector table of real mode is a random place to go on at */
	if (once_in(2) || shape.mode == REAL16)
		t->limit = (u32)below(t->limit);
	else
		t->base = once_in(2) ? L2_NOT_MAPPED : L2_AT(data) + below(PAGE_SIZE);
	tell("table register at 0x%lx limit 0x%x", t->base, t->limit);
}

static struct vmcb_seg *any_segment(void)
{
	struct vmcb_save *s = save();

	switch (below(4)) {
	case 0:
		return &s->es;
	case 1:
		return &s->ss;
	case 2:
		return &s->ds;
	default:
		return &s->cs;
	}
}

static void c_segment(void)
{
	struct vmcb_seg *g = any_segment();

	switch (below(4)) {
	case 0:
		g->limit = (u32)below(0x10000);
		break;
	case 1:
		g->selector ^= (u16)BIT(below(16));
		break;
	case 2:
		if (g != &save()->cs)
			g->base = below(0x100);
		break;
	default:
		if (is_caged())
			g->attrib ^= (u16)BIT(below(16));
	}
	tell("segment 0x%x attributes 0x%x limit 0x%x base 0x%lx", g->selector, g->attrib, g->limit,
	     g->base);
}

/* Anything in the save area: only where nested paging keeps L2 in its memory whatever it does. */
static void c_wild(void)
{
#define AT(field) offsetof(struct vmcb_save, field)
	static const u16 fields[] = {AT(rip),	    AT(rsp),	   AT(cr0),	AT(cr3),
				     AT(cr4),	    AT(rflags),	   AT(cs.base), AT(ss.base),
				     AT(idtr.base), AT(gdtr.base), AT(rax)};
#undef AT
	u64 *field = (u64 *)((u8 *)now.vmcb + offsetof(struct vmcb, save) + PICK(fields));

	if (!is_caged())
		return;
	now.elsewhere = true;
	if (once_in(3))
		*field = rnd();
	else
		*field ^= BIT(below(64));
	tell("field 0x%lx of the VMCB: 0x%lx", (u64)field - (u64)now.vmcb, *field);
}

static void c_register(void)
{
	u64 *const r[] = {&now.regs.rbx, &now.regs.rcx, &now.regs.rdx, &now.regs.rsi,
			  &now.regs.rdi, &now.regs.rbp, &now.regs.r8,  &now.regs.r15};
	u64 *reg = PICK(r);

	*reg = rnd();
	/* not between the two instructions of a step that changes a control register by RAX */
	if (!now.resumed)
		save()->rax = rnd();
	/* QEMU looks all 64 bits up in the MSR map */
	if (avoid(DEPARTURE_MSR_RCX))
		now.regs.rcx = (u32)now.regs.rcx;
	tell("registers");
}

static const u32 pages_of_interest[] = {
	L2_AT(ivt),
	L2_AT(gdt),
	L2_AT(idt),
	L2_AT(code),
	L2_AT(code) + PAGE_SIZE,
	L2_AT(stubs),
	L2_AT(stack),
	L2_AT(stack) + PAGE_SIZE,
	L2_AT(data),
	L2_AT(data) + PAGE_SIZE,
	L2_AT(idt32),
	L2_AT(tss64),
	L2_AT(pml4),
	L2_AT(pdpt),
	L2_AT(pd),
	L2_AT(pt),
	L2_AT(pd32),
	L2_AT(pt32),
	L2_AT(pdpt_pae),
};

static u32 page_of_interest(void)
{
	return PICK(pages_of_interest) / (u32)PAGE_SIZE;
}

/* Another page of L2's: two addresses for one page. */
static u64 other_page(u64 entry, u64 base)
{
	return (entry & ~PTE_ADDR) | (base + below(2) * PAGE_SIZE + L2_AT(data));
}

static u64 spoil_entry(u64 entry, u64 base, bool leaf)
{
	static const u64 flags[] = {PTE_P, PTE_P,  PTE_W,  PTE_W,   PTE_U,   PTE_A,
				    PTE_D, PTE_NX, PTE_NX, PTE_PWT, PTE_PCD, PTE_G};

	switch (below(8)) {
	case 0:
		return entry ^ BIT(platform.phys_bits + below(52 - platform.phys_bits));
	case 1:
		return leaf ? other_page(entry, base) : entry ^ PTE_U;
	case 2:
		return 0;
	default:
		return entry ^ PICK(flags);
	}
}

static void c_nested_entry(void)
{
	struct arena *a = ARENA;
	u64 *entry;

	if (shape.space == NO_NPT)
		return;
	if (shape.space == NPT_4K && !once_in(4))
		entry = &a->npt[page_of_interest()];
	else if (shape.space != NPT_1G && !once_in(3))
		entry = &a->npd[0];
	else
		entry = once_in(2) ? &a->npdpt[0] : &a->npml4[0];
	*entry = spoil_entry(*entry, ARENA_ADDRESS, entry >= a->npt);
	if (entry == &a->npml4[0] && avoid(DEPARTURE_PML4E_G))
		*entry &= ~PTE_G;
	now.stale = ~0u;
	now.elsewhere |= (*entry & PTE_P) && entry >= a->npt;
	tell("nested entry 0x%lx: 0x%lx", (u64)entry - (u64)a->npml4, *entry);
}

static void c_l2_entry(void)
{
	const u32 page = page_of_interest();
	bool narrow;
	void *entry = memory_pte(page, once_in(4) ? 2 + (u32)below(3) : 1, &narrow);
	u64 old, value;

	if (!entry)
		return;
	old = narrow ? *(u32 *)entry : *(u64 *)entry;
	value = spoil_entry(old, shape.base, page && old != 0);
	if (entry == ARENA->l2.pml4 && avoid(DEPARTURE_PML4E_G))
		value &= ~PTE_G;
	if (entry == ARENA->l2.pdpt_pae && avoid(DEPARTURE_PDPTE_RESERVED))
		value &= (PTE_ADDR & BITS(platform.phys_bits - 1, 0)) | PTE_P | PTE_PWT | PTE_PCD;
	if (narrow)
		*(u32 *)entry = (u32)value;
	else
		*(u64 *)entry = value;
	now.stale = ~0u;
	now.elsewhere = true;
	tell("page-table entry 0x%lx of L2's: 0x%lx", (u64)entry - (u64)&ARENA->l2, value);
}

static void c_nested_root(void)
{
	ctl()->nested_cr3 |= below(PAGE_SIZE);
	tell("nCR3 0x%lx", ctl()->nested_cr3);
}

static const struct {
	void (*change)(void);
	u32 weight;
} changes[] = {
	{c_intercept, 6},   {c_intercepts, 3},
	{c_not_vmrun, 1},   {c_iopm, 2},
	{c_msrpm, 3},	    {c_bad_map, 1},
	{c_tsc_offset, 1},  {c_asid, 2},
	{c_tlb_control, 1}, {c_virtual_interrupt, 4},
	{c_int_ctl, 2},	    {c_shadow, 2},
	{c_event, 5},	    {c_virt_ext, 1},
	{c_unused, 2},	    {c_flags, 5},
	{c_cr0, 2},	    {c_cr4, 2},
	{c_efer, 1},	    {c_cr3, 1},
	{c_cr2, 1},	    {c_debug, 2},
	{c_g_pat, 1},	    {c_rip, 1},
	{c_rsp, 1},	    {c_table_register, 1},
	{c_segment, 2},	    {c_wild, 2},
	{c_register, 2},    {c_nested_entry, 6},
	{c_l2_entry, 4},    {c_nested_root, 1},
	{c_virtual_gif, 3},
};

static void change_something(void)
{
	u32 total = 0;
	u64 n;

	for (u32 i = 0; i < ARRAY_SIZE(changes); i++)
		total += changes[i].weight;
	n = below(total);
	for (u32 i = 0; i < ARRAY_SIZE(changes); i++) {
		if (n < changes[i].weight) {
			changes[i].change();
			return;
		}
		n -= changes[i].weight;
	}
}

/* ---- what no VMCB may be without ---- */

static void make_safe(void)
{
	struct vmcb_control *c = ctl();
	struct vmcb_save *s = save();

	for (u32 i = 0; i < ARRAY_SIZE(c->intercepts); i++)
		c->intercepts[i] |= program_needs[i];
	vmcb_set_intercept(c, VMEXIT_SHUTDOWN); /* else the machine goes with L2 */
	vmcb_set_intercept(c, VMEXIT_NMI);	/* the guard against an L2 that does not end */
	vmcb_set_intercept(c, VMEXIT_RDTSC);	/* time is not the same everywhere */
	vmcb_set_intercept(c, VMEXIT_RDTSCP);
	vmcb_set_intercept(c, VMEXIT_RDPMC); /* nor are counters */
	vmcb_set_intercept(c, VMEXIT_SKINIT);
	if (program_needs_msrpm && !(c->msrpm_base_pa >> platform.phys_bits))
		c->msrpm_base_pa = (u64)ARENA->msrpm[MAP_SET];
	if (program_needs_iopm && !(c->iopm_base_pa >> platform.phys_bits))
		c->iopm_base_pa = (u64)ARENA->iopm[MAP_SET];
	if (avoid(DEPARTURE_CR8_ABORT) && (c->int_ctl & V_IRQ))
		vmcb_set_intercept(c, INTERCEPT_CR_WRITE(8));
	if (avoid(DEPARTURE_CR_READ)) { /* all or none, then the code can be told */
		bool any = c->intercepts[0] & 0x11d;

		for (unsigned int cr = 0; cr < 16; cr++)
			if (any)
				vmcb_set_intercept(c, INTERCEPT_CR_READ(cr));
	}
	if (avoid(DEPARTURE_VMEXIT_WITHOUT_PAE) && (s->efer & EFER_LME) && !(s->cr0 & CR0_PG))
		s->cr4 |= CR4_PAE;
	/* Every page is a user page: with SMEP each handler's first fetch faults, and on QEMU an L2 that executes nothing
	 * has no time either, so that no guard ends it. */
	s->cr4 &= ~CR4_SMEP;
	if (avoid(DEPARTURE_PCIDE_TAKEN))
		s->cr4 &= ~CR4_PCIDE;
	if (avoid(DEPARTURE_PKS_TAKEN))
		s->cr4 &= ~BIT(24);
	if (avoid(DEPARTURE_BASE_64) &&
	    !((s->efer & EFER_LME) && (s->cr0 & CR0_PG) && (s->cs.attrib & SEG_ATTR_L)))
		s->rip = (u32)s->rip;
	if (avoid(DEPARTURE_BASE_64) && !((s->efer & EFER_LME) && (s->cr0 & CR0_PG))) {
		s->cs.base = (u32)s->cs.base;
		s->ss.base = (u32)s->ss.base;
		s->idtr.base = (u32)s->idtr.base;
		s->gdtr.base = (u32)s->gdtr.base;
	}
	if (avoid(DEPARTURE_LMA_AS_IS))
		s->efer = (s->efer & ~EFER_LMA) |
			  ((s->efer & EFER_LME) && (s->cr0 & CR0_PG) ? EFER_LMA : 0);
	if (avoid(DEPARTURE_EVENTINJ_NEXT_RIP))
		c->next_rip = s->rip;
	if (avoid(DEPARTURE_NCR3_UNCHECKED))
		c->nested_cr3 &= BITS(platform.phys_bits - 1, 0);
	if (avoid(DEPARTURE_PDPTE_A) && (ARENA->l2.pdpt_pae[0] & PTE_A)) {
		ARENA->l2.pdpt_pae[0] &= ~PTE_A;
		now.stale = ~0u;
	}
	c->np_ctl = 0;
	if (shape.space != NO_NPT)
		c->np_ctl = NP_ENABLE;
}

/* A group of fields that a clean bit speaks for. */
static const struct {
	u32 bit;
	u16 first, end;
} clean_groups[] = {
	{CLEAN_INTERCEPTS, 0x000, 0x018}, {CLEAN_INTERCEPTS, 0x03c, 0x040},
	{CLEAN_INTERCEPTS, 0x050, 0x058}, {CLEAN_IOPM, 0x040, 0x050},
	{CLEAN_ASID, 0x058, 0x05c},	  {CLEAN_TPR, 0x060, 0x068},
	{CLEAN_NP, 0x090, 0x098},	  {CLEAN_NP, 0x0b0, 0x0b8},
	{CLEAN_NP, 0x668, 0x670},	  {CLEAN_CR, 0x548, 0x560},
	{CLEAN_CR, 0x4d0, 0x4d8},	  {CLEAN_DR, 0x560, 0x570},
	{CLEAN_DT, 0x460, 0x470},	  {CLEAN_DT, 0x480, 0x490},
	{CLEAN_SEG, 0x400, 0x440},	  {CLEAN_SEG, 0x4cb, 0x4cc},
	{CLEAN_CR2, 0x640, 0x648},	  {CLEAN_LBR, 0x670, 0x6a0},
	{CLEAN_LBR, 0x0b8, 0x0c0},
};

static bool same_bytes(const struct vmcb *a, const struct vmcb *b, u32 first, u32 end)
{
	for (u32 i = first; i < end; i++)
		if (((const u8 *)a)[i] != ((const u8 *)b)[i])
			return false;
	return true;
}

/* A bit may be set where L1 has changed nothing since the last exit, and only with the same VMCB. */
static void set_clean_bits(void)
{
	u32 clean = (u32)CLEAN_AVIC;

	ctl()->clean = 0;
	if (!now.valid)
		return;
	for (u32 i = 0; i < ARRAY_SIZE(clean_groups); i++)
		clean |= clean_groups[i].bit;
	for (u32 i = 0; i < ARRAY_SIZE(clean_groups); i++)
		if (!same_bytes(now.vmcb, &now.was, clean_groups[i].first, clean_groups[i].end))
			clean &= ~clean_groups[i].bit;
	if (now.maps_changed)
		clean &= ~(u32)CLEAN_IOPM;
	ctl()->clean = clean & (u32)rnd();
}

/* Translations that L1 has changed are flushed, as any L1 must. */
static void set_flush(void)
{
	const u32 asid = ctl()->asid;

	if (asid < 32 && !(now.stale >> asid & 1))
		return;
	if (!ctl()->tlb_control || ctl()->tlb_control == TLB_CONTROL_FLUSH_ASID_NON_GLOBAL)
		ctl()->tlb_control = platform.svm_edx & SVM_FLUSH_BY_ASID && !once_in(3)
					     ? TLB_CONTROL_FLUSH_ASID
					     : TLB_CONTROL_FLUSH_ALL;
}

static void flushed(void)
{
	if (ctl()->tlb_control == TLB_CONTROL_FLUSH_ALL)
		now.stale = 0;
	else if (ctl()->tlb_control && ctl()->asid < 32)
		now.stale &= ~(1u << ctl()->asid);
}

/* ---- one VMRUN ---- */

/* Instructions, under -icount's shift 6: far more than any program has, with the hypervisor's. In the timer's unit. */
#define GUARD (4000000u << 6)
#define NMI_FROM_TIMER (4u << 8)

static volatile u64 guards;

static void guard_hook(struct trap_frame *frame)
{
	(void)frame;
	guards++;
}

struct machine {
	u64 cr0, cr2, cr4, cr8, dr[4], dr6, dr7, efer, flags, tsc_aux;
	struct table_register gdtr, idtr;
};

#define READ_DR(n)                                                                                 \
	({                                                                                         \
		u64 v_;                                                                            \
		asm volatile("mov %%dr" #n ", %0" : "=r"(v_));                                     \
		v_;                                                                                \
	})
#define WRITE_DR(n, v) asm volatile("mov %0, %%dr" #n : : "r"((u64)(v)))

static void machine_get(struct machine *m)
{
	m->cr0 = read_cr0();
	m->cr2 = read_cr2();
	m->cr4 = read_cr4();
	m->cr8 = read_cr8();
	m->dr[0] = READ_DR(0);
	m->dr[1] = READ_DR(1);
	m->dr[2] = READ_DR(2);
	m->dr[3] = READ_DR(3);
	m->dr6 = READ_DR(6);
	m->dr7 = READ_DR(7);
	m->efer = rdmsr(MSR_EFER);
	m->flags = read_flags();
	asm volatile("sgdt %0" : "=m"(m->gdtr));
	asm volatile("sidt %0" : "=m"(m->idtr));
}

static struct machine before, after;

static void machine_reset(void)
{
	/* where a breakpoint of DR7 is met: the program's start, a handler, data, the stack */
	WRITE_DR(0, L2_AT(code) + 0x20);
	WRITE_DR(1, L2_AT(stubs[VEC_GP]));
	WRITE_DR(2, L2_AT(data) + 64);
	WRITE_DR(3, L2_STACK_TOP - 8);
	WRITE_DR(6, DR6_RESET);
	WRITE_DR(7, DR7_RESET);
	write_cr2(0);
	write_cr8(0);
}

static void xcr0_reset(void)
{
	const u64 cr4 = read_cr4();

	if (!(cpuid(CPUID_FEATURES).ecx & BIT(26)))
		return;
	write_cr4(cr4 | CR4_OSXSAVE);
	asm volatile("xsetbv" : : "a"(3), "d"(0), "c"(0));
	write_cr4(cr4);
}

static bool run(void)
{
	const u64 guards_before = guards;

	now.asked = *now.vmcb;
	machine_reset();
	machine_get(&before);
	clgi();
	apic_write(APIC_TIMER_COUNT, GUARD);
	vmload((u64)&ARENA->loaded[mode_is_long() ? 0 : 1]);
	svm_vmrun(now.vmcb, &now.regs);
	vmsave((u64)&ARENA->stored);
	vmload((u64)&ARENA->l1);
	stgi();
	machine_get(&after);
	machine_reset();
	now.code = ctl()->exit_code;
	if (now.code == (u32)VMEXIT_INVALID && departs(DEPARTURE_INVALID_32))
		now.code = VMEXIT_INVALID;
	return guards == guards_before;
}

/* ---- the digest ---- */

static u64 digest;
static const char *broken; /* what should have been the same */

static void digest_add(u64 v)
{
	digest = (digest ^ v) * 0x100000001b3ull;
	digest ^= digest >> 29;
}

static void field(const char *name, u64 v)
{
	digest_add(v);
	if (choices.detail)
		print("%s=%lx\n", name, v);
}

/* What must hold on every platform. */
static void must(bool ok, const char *what)
{
	if (ok)
		return;
	if (!broken)
		broken = what;
	digest_add(1);
	if (choices.detail)
		print("broken: %s\n", what);
}

static bool control_same(u32 first, u32 end)
{
	return same_bytes(now.vmcb, &now.asked, first, end);
}

static void digest_segment(const char *name, const struct vmcb_seg *s)
{
	digest_add((u64)s->selector << 48 | (u64)s->attrib << 32 | s->limit);
	digest_add(s->base);
	if (choices.detail)
		print("%s=%x attributes %x limit %x base %lx\n", name, s->selector, s->attrib,
		      s->limit, s->base);
}

/* The same event under the type that silicon gives it. */
static u64 event_of(u64 event)
{
	const u64 vector = event & EVENT_VECTOR;

	if (!(event & EVENT_V))
		return 0;
	if ((event & EVENT_TYPE) == EVENT_TYPE_EXCEPTION && (vector == VEC_NMI || vector >= 32) &&
	    departs(DEPARTURE_EXITINTINFO_TYPE))
		event = (event & ~EVENT_TYPE) |
			(vector == VEC_NMI ? EVENT_TYPE_NMI : EVENT_TYPE_INTR);
	if (departs(DEPARTURE_EXITINTINFO_RESERVED))
		event &= ~BITS(30, 12);
	/* without EV there is no error code */
	return event & EVENT_EV ? event : (u32)event;
}

static u64 linear_rip(void)
{
	const struct vmcb_save *s = save();

	if ((s->efer & EFER_LMA) && (s->cs.attrib & SEG_ATTR_L))
		return s->rip;
	return (u32)(s->cs.base + s->rip);
}

/* The instruction at RIP, if it is one of the program's. */
static const struct known_insn *insn_here(void)
{
	return program_insn(linear_rip());
}

static bool code_in(u64 first, u64 last)
{
	return now.code >= first && now.code <= last;
}

/* The exit's code, and its infos as far as the CPU below gives them. */
static void digest_exit(void)
{
	const struct vmcb_control *c = ctl();
	u64 code = now.code, info1 = 0, info2 = 0;

	if (code_in(VMEXIT_EXCEPTION(0), VMEXIT_EXCEPTION(31))) {
		info1 = c->exit_info_1;
		if (code == VMEXIT_EXCEPTION(VEC_PF))
			info2 = c->exit_info_2;
	} else if (code == VMEXIT_NPF) {
		info1 = c->exit_info_1;
		info2 = c->exit_info_2;
		if ((info1 & PFERR_RSV) && departs(DEPARTURE_NPF_RESERVED_P))
			info1 |= PFERR_P;
	} else if (code == VMEXIT_IOIO) {
		info1 = c->exit_info_1 & ~BITS(12, 7); /* IOIO_SIZES */
		info2 = c->exit_info_2;
	} else if (code == VMEXIT_MSR) {
		info1 = c->exit_info_1;
	}
	field("code", code);
	field("info1", info1);
	field("info2", info2);
}

/* The linear address of DS:[rDI]. */
static u64 address_at_rdi(void)
{
	const struct vmcb_save *s = save();

	if ((s->efer & EFER_LMA) && (s->cs.attrib & SEG_ATTR_L))
		return now.regs.rdi;
	return (u32)(s->ds.base + (u32)now.regs.rdi);
}

/* nRIP and decode assists, where they are offered: against what the program knows of its instruction. */
static void check_assists(const struct known_insn *insn)
{
	const struct vmcb_control *c = ctl();
	const bool of_insn = code_in(0, 0x3f) ||
			     code_in(VMEXIT_CR0_SEL_WRITE, VMEXIT_TASK_SWITCH - 1) ||
			     code_in(VMEXIT_VMRUN, VMEXIT_XSETBV);

	if (!insn || now.elsewhere)
		return;
	if (platform.svm_edx & SVM_NRIPS) {
		if (of_insn)
			must(c->next_rip == save()->rip + insn->length, "nRIP");
		else if (now.code == VMEXIT_NPF || now.code == VMEXIT_EXCEPTION(VEC_PF))
			must(!c->next_rip, "nRIP of a fault is 0");
	}
	if (!(platform.svm_edx & SVM_DECODE_ASSISTS))
		return;
	if (code_in(0, 0x1f) && (insn->kind == INSN_MOV_CR || insn->kind == INSN_MOV_TO_CR))
		must(c->exit_info_1 == (BIT(63) | insn->gpr), "EXITINFO1 of MOV CR");
	if (code_in(0, 0x1f) && insn->kind == INSN_CR_OTHER)
		must(!(c->exit_info_1 & BIT(63)), "EXITINFO1 of CLTS, LMSW, SMSW");
	if (code_in(0x20, 0x3f) && insn->kind == INSN_MOV_DR)
		must((c->exit_info_1 & 0xf) == insn->gpr, "EXITINFO1 of MOV DR");
	if (now.code == VMEXIT_SWINT && insn->kind == INSN_INT && insn->length >= 2)
		must(c->exit_info_1 == insn->value, "EXITINFO1 of INTn");
	if (now.code == VMEXIT_INVLPG && insn->kind == INSN_INVLPG)
		must(c->exit_info_1 == address_at_rdi(), "EXITINFO1 of INVLPG");
	if ((now.code == VMEXIT_NPF || now.code == VMEXIT_EXCEPTION(VEC_PF))) {
		bool same = c->insn_len <= sizeof(c->insn_bytes);

		for (u32 i = 0; i < c->insn_len && i < sizeof(c->insn_bytes); i++)
			same &= c->insn_bytes[i] == *((const u8 *)&ARENA->l2 + insn->at + i);
		must(same, "instruction bytes");
		if (!(c->exit_info_1 & (PFERR_ID | NPF_TABLE)) && !(c->exit_int_info & EVENT_V))
			must(c->insn_len >= insn->length, "enough instruction bytes");
	}
}

/*
 * The delivery of V_IRQ has come to an exit or to an exception's handler. Or it may have, where what is at RIP is not the
 * program's: an exception that no handler ends goes on anywhere.
 */
static bool virtual_interrupt_faulted(void)
{
	static const u32 faults = (u32)(BIT(VEC_DB) | BIT(VEC_DF) | BIT(VEC_TS) | BIT(VEC_NP) |
					BIT(VEC_SS) | BIT(VEC_GP) | BIT(VEC_PF));
	const struct vmcb_control *c = ctl();
	const u64 stub = (linear_rip() - L2_AT(stubs)) / sizeof(ARENA->l2.stubs[0]);

	if (!(now.asked.control.int_ctl & V_IRQ) || vmcb_intercepts(c, VMEXIT_VINTR) ||
	    !avoid(DEPARTURE_VIRQ_FAULT))
		return false;
	return ((c->exit_int_info & EVENT_V) &&
		(c->exit_int_info & EVENT_VECTOR) == (c->int_vector & EVENT_VECTOR)) ||
	       (stub < 32 && faults >> stub & 1) || !insn_here();
}

static void digest_control(void)
{
	const struct vmcb_control *c = ctl();

	field("exitintinfo", event_of(c->exit_int_info));
	field("int_ctl", c->int_ctl & ~(u32)(virtual_interrupt_faulted() ? V_IRQ : 0));
	field("int_state",
	      c->int_state & ~(departs(DEPARTURE_INT_STATE_RESERVED) ? BITS(63, 32) : 0));
	must(!(c->event_inj & EVENT_V), "EVENTINJ is not valid after an exit");
	must(control_same(0x000, 0x060) && control_same(0x064, 0x068) &&
		     control_same(0x090, 0x0a8) && control_same(0x0b0, 0x0c8) &&
		     control_same(0x0e0, 0x400),
	     "an exit writes only its fields of the control area");
}

static void digest_save(void)
{
	const struct vmcb_save *s = save();

	digest_segment("es", &s->es);
	digest_segment("cs", &s->cs);
	digest_segment("ss", &s->ss);
	digest_segment("ds", &s->ds);
	field("gdtr", s->gdtr.base);
	field("gdtr-limit", s->gdtr.limit);
	field("idtr", s->idtr.base);
	field("idtr-limit", s->idtr.limit);
	field("cpl", s->cpl);
	field("efer", s->efer);
	field("cr0", s->cr0);
	field("cr2", s->cr2);
	field("cr3", s->cr3);
	field("cr4", s->cr4);
	field("dr6", s->dr6 & ~(avoid(DEPARTURE_DR6_STEP) ? BITS(3, 0) : 0));
	field("dr7", s->dr7);
	field("rflags", s->rflags & ~(avoid(DEPARTURE_RF_STAYS) ? RFLAGS_RF : 0));
	field("rip", s->rip);
	field("rsp", s->rsp);
	field("rax", s->rax);
	must(control_same(0x440, 0x460) && control_same(0x470, 0x480) &&
		     control_same(0x490, 0x4cb) && control_same(0x4cc, 0x4d0) &&
		     control_same(0x4d8, 0x548) && control_same(0x580, 0x5d8) &&
		     control_same(0x600, 0x640) && control_same(0x648, 0x1000),
	     "an exit writes only its fields of the save area");
}

static void digest_registers(void)
{
	static const char *const names[] = {"rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
					    "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
	u64 r[ARRAY_SIZE(names)];

	static_assert(sizeof(r) == sizeof(now.regs), "a name for each register");
	__builtin_memcpy(r, &now.regs, sizeof(r));
	for (u32 i = 0; i < ARRAY_SIZE(names); i++)
		field(names[i], r[i]);
}

/* What L2 leaves in the CPU. */
static void digest_machine(void)
{
	const struct vmcb_save *s = &ARENA->stored.save;

	digest_segment("fs", &s->fs);
	digest_segment("gs", &s->gs);
	digest_segment("ldtr", &s->ldtr);
	digest_segment("tr", &s->tr);
	field("star", s->star);
	field("lstar", s->lstar);
	field("cstar", s->cstar);
	field("sfmask", s->sfmask);
	field("kernel_gs_base", s->kernel_gs_base);
	field("sysenter_cs", s->sysenter_cs);
	field("sysenter_esp", s->sysenter_esp);
	field("sysenter_eip", s->sysenter_eip);
	for (u32 i = 0; i < 4; i++)
		field("dr0-3", after.dr[i]);
	field("cr8", after.cr8);
}

static void check_l1(void)
{
	must(after.cr0 == before.cr0 && after.cr4 == before.cr4 && after.efer == before.efer,
	     "L1's control registers are as before");
	must(after.dr7 == DR7_RESET, "L1's DR7 is disabled");
	must(!(after.flags & (RFLAGS_IF | RFLAGS_TF | RFLAGS_VM | RFLAGS_DF)),
	     "L1's RFLAGS are as before");
	must(after.gdtr.base == before.gdtr.base && after.gdtr.limit == before.gdtr.limit &&
		     after.idtr.base == before.idtr.base && after.idtr.limit == before.idtr.limit,
	     "L1's GDTR and IDTR are as before");
}

static void digest_memory(void)
{
	for (u32 i = 0; i < l2_extent_count; i++) {
		const struct extent *e = &l2_extents[i];
		const u64 *words = (const u64 *)((const u8 *)&ARENA->l2 + e->at);
		/* RF in the flags that events have pushed */
		const u64 ignored = e->at == L2_AT(stack) && avoid(DEPARTURE_RF_STAYS)
					    ? RFLAGS_RF | RFLAGS_RF << 32
					    : 0;

		for (u32 w = 0; w < e->bytes / 8; w++) {
			digest_add(words[w] & ~ignored);
			if (choices.detail && words[w] != memory_pristine(e->at + w * 8))
				print("%s[%x]=%lx\n", e->name, w * 8, words[w]);
		}
	}
	for (u32 i = 0; i < L2_PAGES; i++) {
		digest_add(ARENA->npt[i]);
		if (choices.detail && shape.space == NPT_4K)
			print("npt[%x]=%lx\n", i, ARENA->npt[i]);
	}
	field("npd", ARENA->npd[0]);
	/* its A bit, see NPT_1G_A */
	field("npdpt", ARENA->npdpt[0] & ~(now.code == VMEXIT_NPF && (ARENA->npdpt[0] & PTE_PS) &&
							   avoid(DEPARTURE_NPT_1G_A)
						   ? PTE_A
						   : 0));
	field("npml4", ARENA->npml4[0]);
}

static struct {
	u64 vmruns, guards, broken, codes[0x100], npf, invalid;
} statistics;

static void report(bool in_time)
{
	const struct known_insn *insn = insn_here();

	if (now.code == VMEXIT_CR_READ(0) && insn && insn->kind == INSN_MOV_CR &&
	    departs(DEPARTURE_CR_READ))
		now.code = insn->value;
	statistics.vmruns++;
	digest = 0xcbf29ce484222325ull;
	broken = NULL;
	if (!in_time) {
		statistics.guards++;
		print("%lu.%u guard\n", now.label, now.run);
		return;
	}
	if (now.code == VMEXIT_INVALID) {
		statistics.invalid++;
		must(!(ctl()->event_inj & EVENT_V), "EVENTINJ is not valid after an exit");
		must(departs(DEPARTURE_INVALID_SAVES) || control_same(0x400, 0x1000),
		     "a refused VMRUN leaves the save area alone");
	} else if (now.code == VMEXIT_SHUTDOWN) { /* the state is not defined (APM2 §15.14.3) */
		statistics.codes[VMEXIT_SHUTDOWN]++;
	} else {
		digest_exit();
		check_assists(insn);
		digest_control();
		digest_save();
		digest_registers();
		digest_machine();
		digest_memory();
		if (now.code < ARRAY_SIZE(statistics.codes))
			statistics.codes[now.code]++;
		else
			statistics.npf += now.code == VMEXIT_NPF;
	}
	check_l1();
	print("%lu.%u %lx %lx\n", now.label, now.run, now.code, digest);
	if (broken) {
		statistics.broken++;
		if (!choices.detail)
			note("case %lu, run %u: broken: %s", now.index, now.run, broken);
	}
}

/* ---- cases ---- */

static void choose_shape(void)
{
	static const u8 modes[] = {LONG64, LONG64,   LONG64, LONG64, COMPAT32,
				   PAE32,  LEGACY32, FLAT32, PROT16, REAL16};
	static const u8 spaces[] = {NPT_4K, NPT_4K, NPT_4K, NPT_2M, NPT_1G, NO_NPT};

	choices_restart(0);
	shape.mode = (enum l2_mode)PICK(modes);
	shape.space = (enum space)PICK(spaces);
	if (shape.mode >= FLAT32 && !is_caged())
		shape.space = once_in(2) ? NPT_4K : NPT_2M;
	if (shape.space == NPT_1G && !platform.long_1g)
		shape.space = NPT_2M;
	shape.user = shape.mode <= LEGACY32 && once_in(5);
	now.runs = 1 + (u32)below(MAX_RUNS);
	now.final = (enum final)below(FINALS);
	now.vmcb = &ARENA->vmcb[below(2)];
	if (choices.detail)
		note("case %lu: %s, %s, CPL %u", now.index, l2_mode_names[shape.mode],
		     space_names[shape.space], shape.user ? 3 : 0);
}

/* A new program in what the last run left, or all new. */
static void start_anew(void)
{
	u32 steps;

	now.resumed = false;
	choices_restart(10 + now.run);
	steps = (u32)below(10);
	if (!now.run || now.code == VMEXIT_INVALID || now.code == VMEXIT_SHUTDOWN || once_in(2)) {
		*now.vmcb = (struct vmcb){0};
		reset_control();
		now.valid = false;
	}
	ctl()->event_inj = 0;
	ctl()->int_ctl &= ~(u32)V_IRQ;
	vmcb_set_intercept(ctl(), VMEXIT_VMRUN);
	memory_reset();
	now.stale = ~0u;
	now.elsewhere = false;
	reset_segments(save());
	program_make(ctl(), steps, now.final);
	reset_save();
}

/* What a hypervisor does: it emulates the instruction (here: skips it), or repairs its tables, and goes on. */
static void resume(void)
{
	const struct known_insn *insn = insn_here();
	const u64 event = event_of(ctl()->exit_int_info);

	now.resumed = true;
	if (choices.detail)
		note("resumed");
	if (now.code == VMEXIT_NPF) {
		memory_reset_nested();
		now.stale = ~0u;
	} else if (code_in(VMEXIT_EXCEPTION(0), VMEXIT_EXCEPTION(31))) {
		vmcb_clr_intercept(ctl(), (unsigned int)now.code);
	} else if (insn && !(event & EVENT_V)) {
		save()->rip += insn->length;
		/* what follows may change a bit of it and write it back */
		if (insn->kind == INSN_MOV_CR && insn->gpr == 0)
			save()->rax = insn->value == 0	 ? save()->cr0
				      : insn->value == 3 ? save()->cr3
				      : insn->value == 4 ? save()->cr4
							 : 0;
	}
	ctl()->event_inj = event;
	choices.next_item = now.run * RUN_ITEMS + 20;
}

static void one_run(void)
{
	u32 changes_count;

	choices.next_item = now.run * RUN_ITEMS;
	choices_restart(20 + now.run);
	if (now.run && now.code != VMEXIT_INVALID && now.code != VMEXIT_SHUTDOWN && once_in(2))
		resume();
	else
		start_anew();
	choices.next_item = now.run * RUN_ITEMS + 30;
	choices_restart(30 + now.run);
	changes_count = (u32)(once_in(4) ? below(12) : below(4));
	for (u32 i = 0; i < changes_count; i++)
		if (item())
			change_something();
	choices_restart(40 + now.run);
	make_safe();
	set_flush();
	set_clean_bits();
	report(run());
	now.valid = now.code != VMEXIT_INVALID;
	if (now.valid)
		flushed();
	ctl()->tlb_control = 0;
	if (virtual_interrupt_faulted())
		ctl()->int_ctl &= ~(u32)V_IRQ;
	now.maps_changed = false;
	now.was = *now.vmcb;
}

static void one_case(u64 label, u64 index)
{
	now.label = label;
	now.index = index;
	choices.seed = mix(mix(cfg.seed) + index);
	choose_shape();
	xcr0_reset();
	for (now.run = 0; now.run < now.runs; now.run++)
		one_run();
}

static void run_cases(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < KEEP_WORDS; i++)
		choices.keep[i] = ~0ull;
	for (u64 index = cfg.first; !cfg.cases && statistics.vmruns < cfg.count; index++)
		one_case(index, index);
	for (u32 n = 0; n < cfg.cases; n++) {
		for (u32 i = 0; i < KEEP_WORDS; i++)
			choices.keep[i] = cfg.one[n].all ? ~0ull : cfg.one[n].keep[i];
		one_case(n, cfg.one[n].index);
	}
}

static void check_broken(const void *arg)
{
	(void)arg;
	CHECK_EQ(statistics.broken, 0);
}

/* What is compared must be of all kinds, or the comparison says little. */
static void check_kinds(const void *arg)
{
	u32 kinds = 0;

	(void)arg;
	for (u32 i = 0; i < ARRAY_SIZE(statistics.codes); i++)
		kinds += statistics.codes[i] != 0;
	note("%lu VMRUNs, %lu INVALID, %lu NPF, %lu SHUTDOWN, %lu not ended, %u kinds of exits",
	     statistics.vmruns, statistics.invalid, statistics.npf,
	     statistics.codes[VMEXIT_SHUTDOWN], statistics.guards, kinds);
	if (cfg.cases || cfg.count < 2000) {
		tap_skip("too few VMRUNs to say");
		return;
	}
	CHECK(kinds >= 50);
	CHECK(statistics.npf > statistics.vmruns / 50);
	CHECK(statistics.invalid > statistics.vmruns / 100);
	CHECK(statistics.invalid < statistics.vmruns / 4);
	CHECK(statistics.guards <= statistics.vmruns / 1000);
}

void guest_main(void)
{
	tap_plan(3);
	if (!svm_start())
		return;
	if (!have_fixed_memory()) {
		tap_skip_all("the firmware uses the memory that L2 would be in");
		return;
	}
	configure();
	choices.detail = cfg.detail;
	memory_init(cfg.seed);
	wrmsr(MSR_VM_HSAVE_PA, (u64)ARENA->hsave);
	trap_hook(VEC_NMI, guard_hook);
	apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	apic_write(APIC_LVT_TIMER, NMI_FROM_TIMER);
	note("seed %lu, CPUID 8000_000A EDX 0x%x", cfg.seed, platform.svm_edx);
	tap_run("random VMCBs and programs", run_cases, NULL);
	apic_timer_stop();
	tap_run("what must hold everywhere", check_broken, NULL);
	tap_run("exits of many kinds", check_kinds, NULL);
}

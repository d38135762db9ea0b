/* SPDX-License-Identifier: MIT */
/*
 * L1 outside of long mode: VMRUN in 32-bit and 16-bit protected mode, with nested tables in the format of L1's own paging
 * (APM2 §15.25.3): PAE with and without NX, two-level with 4-MByte pages and with 4-KByte pages only; and without paging.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/legacy.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

/* L2-physical, where L2 sees what a test maps there. */
#define ALIAS 0xc0000000u
#define PAGE_4M (1u << 22)
#define PTE_RW (PTE_P | PTE_W | PTE_U)

static const struct format {
	const char *name;
	u32 cr4, efer;
	unsigned int levels; /* of tables with rights: a PDPTE has none */
	bool large;	     /* pages of level 2 */
} formats[] = {
	{"PAE with NX", CR4_PAE, EFER_NXE, 3, true},
	{"PAE", CR4_PAE, 0, 3, true},
	{"two levels with PSE", CR4_PSE, 0, 2, true},
	{"two levels", 0, 0, 2, false},
};

#define LOW_TABLES                                                                                 \
	256 /* 1 GByte in 4-KByte pages: more than a test machine's memory below 4 GByte need be */

/* One set of tables, in one format at a time. */
static struct tables {
	u64 pdpt[512]; /* PAE: four entries, 32-byte aligned */
	union {
		u64 pae[4][512];
		u32 two[1024];
	} pd;
	union {
		u64 pae[512];
		u32 two[1024];
	} alias ALIGNED(4096); /* the 2 or 4 MByte from ALIAS on */
} own ALIGNED(4096), nested ALIGNED(4096), l2s ALIGNED(4096);

static u32 low[LOW_TABLES][1024] ALIGNED(4096);

static struct {
	u64 value;
	u8 code[PAGE_SIZE - 8];
} page_a ALIGNED(4096), page_b ALIGNED(4096);

static struct legacy legacy;

asm(".pushsection .text\n.code32\n"
    "legacy_read:\n\tmov (%edi), %eax\n\tvmmcall\n"
    "legacy_write:\n\tmov %esi, (%edi)\n\tvmmcall\n"
    "legacy_fetch:\n\tjmp *%edi\n"
    ".code64\n.popsection");
extern const u8 legacy_read[], legacy_write[], legacy_fetch[];
L2_CODE(l2_exit_long, "");

enum access { READ, WRITE, FETCH };
static const u8 *const code[] = {legacy_read, legacy_write, legacy_fetch};

static u32 pa(const void *p)
{
	return (u32)(u64)p;
}

/* ---- tables ---- */

/* The identity; two levels without PSE reach 1 GByte. */
static void identity(struct tables *t, const struct format *f, u64 flags)
{
	*t = (struct tables){0};
	if (f->levels == 3) {
		for (u32 g = 0; g < 4; g++) {
			t->pdpt[g] = pa(t->pd.pae[g]) | PTE_P;
			for (u32 i = 0; i < 512; i++)
				t->pd.pae[g][i] = (g * PAGE_1G + i * PAGE_2M) | flags | PTE_PS;
		}
		return;
	}
	for (u32 i = 0; i < 1024 && f->large; i++)
		t->pd.two[i] = i * PAGE_4M | (u32)(flags | PTE_PS);
	for (u32 i = 0; i < LOW_TABLES && !f->large; i++)
		t->pd.two[i] = pa(low[i]) | (u32)flags;
}

static void low_identity(void)
{
	for (u32 t = 0; t < LOW_TABLES; t++)
		for (u32 i = 0; i < 1024; i++)
			low[t][i] = t * PAGE_4M | i * (u32)PAGE_SIZE | (u32)PTE_RW;
}

static u32 root(const struct tables *t, const struct format *f)
{
	return f->levels == 3 ? pa(t->pdpt) : pa(t->pd.two);
}

/* The entry for ALIAS in a table of level 1 or 2. */
static u64 entry_get(const struct tables *t, const struct format *f, unsigned int level)
{
	if (f->levels == 3)
		return level == 1 ? t->alias.pae[0] : t->pd.pae[3][0];
	return level == 1 ? t->alias.two[0] : t->pd.two[ALIAS / PAGE_4M];
}

static void entry_set(struct tables *t, const struct format *f, unsigned int level, u64 entry)
{
	if (f->levels == 3)
		*(level == 1 ? &t->alias.pae[0] : &t->pd.pae[3][0]) = entry;
	else
		*(level == 1 ? &t->alias.two[0] : &t->pd.two[ALIAS / PAGE_4M]) = (u32)entry;
}

/* Maps page at ALIAS by a leaf of that level; returns its L2-physical address. */
static u32 alias_map(struct tables *t, const struct format *f, const void *page, unsigned int level)
{
	u32 large = f->levels == 3 ? (u32)PAGE_2M : PAGE_4M;

	if (level == 1) {
		entry_set(t, f, 2, pa(&t->alias) | PTE_RW);
		entry_set(t, f, 1, pa(page) | PTE_RW);
		return ALIAS;
	}
	entry_set(t, f, 2, (pa(page) & ~(large - 1)) | PTE_RW | PTE_PS);
	return ALIAS + (pa(page) & (large - 1));
}

/* ---- L1 and L2 ---- */

/* L2 in protected mode without paging, its nested tables in L1's format. */
static u32 ready(const struct format *f, enum access access, unsigned int leaf)
{
	struct vmcb_save *s = &l2.vmcb.save;
	u32 gpa;

	page_a.value = 0xaaaa;
	page_b.value = 0xbbbb;
	page_a.code[0] = 0x0f; /* VMMCALL */
	page_a.code[1] = 0x01;
	page_a.code[2] = 0xd9;
	l2_reset(code[access]);
	s->cr0 &= ~CR0_PG;
	s->cr3 = 0;
	s->cr4 = 0;
	s->efer = EFER_SVME;
	s->cs.selector = GDT_CODE32;
	s->cs.attrib = (u16)((s->cs.attrib & ~SEG_ATTR_L) | SEG_ATTR_DB);
	identity(&own, f, PTE_RW);
	identity(&nested, f, PTE_RW);
	gpa = alias_map(&nested, f, &page_a, leaf);
	if (access == FETCH)
		gpa += (u32)offsetof(typeof(page_a), code);
	l2.vmcb.control.np_ctl = NP_ENABLE;
	l2.vmcb.control.nested_cr3 = root(&nested, f);
	l2_flush();
	legacy = (struct legacy){
		.cr0 = (u32)read_cr0(),
		.cr3 = root(&own, f),
		.cr4 = f->cr4,
		.efer = f->efer | EFER_SVME,
		.code = pa(legacy_vmrun),
		.eax = pa(&l2.vmcb),
		.esi = 0x1234,
		.edi = gpa,
	};
	return gpa;
}

/* Runs L2 from L1's mode; returns the exit code. L1 is the same behind its VMRUN. */
static u64 run(void)
{
	const struct legacy before = legacy;
	u64 code_of_exit;

	if (!CHECK_EQ(legacy_run(&legacy), VEC_NONE)) {
		note("error 0x%x eip 0x%x cr2 0x%x", legacy.error, legacy.eip, legacy.cr2);
		return VMEXIT_INVALID - 1;
	}
	stgi();
	CHECK_EQ(legacy.cr0, before.cr0);
	CHECK_EQ(legacy.cr3, before.cr3);
	CHECK_EQ(legacy.cr4, before.cr4);
	CHECK_EQ(legacy.efer, before.efer);
	CHECK_EQ(legacy.eax, before.eax);
	l2.vmcb.control.tlb_control = TLB_CONTROL_NONE;
	code_of_exit = l2.vmcb.control.exit_code;
	legacy.edi = before.edi;
	legacy.esi = before.esi;
	if (code_of_exit == (u32)VMEXIT_INVALID && departs(DEPARTURE_INVALID_32))
		return VMEXIT_INVALID;
	return code_of_exit;
}

static unsigned int largest_leaf(const struct format *f)
{
	return f->large ? 2 : 1;
}

/* ---- the tests, each for one format ---- */

static void check_access(const void *arg)
{
	const struct format *f = arg;

	for (unsigned int leaf = 1; leaf <= largest_leaf(f); leaf++) {
		ready(f, READ, leaf);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
		ready(f, WRITE, leaf);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(page_a.value, 0x1234);
		ready(f, FETCH, leaf);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
	}
}

#define RESERVED BIT(51) /* PAE: an address bit that no CPU of ours has */

static const struct fault {
	enum access access;
	u64 clear, set, code;
} faults[] = {
	{READ, PTE_P, 0, PFERR_U},
	{WRITE, PTE_P, 0, PFERR_U | PFERR_W},
	{FETCH, PTE_P, 0, PFERR_U | PFERR_ID},
	{READ, PTE_W, 0, 0},
	{WRITE, PTE_W, 0, PFERR_U | PFERR_W | PFERR_P},
	{READ, PTE_U, 0, PFERR_U | PFERR_P},
	{FETCH, PTE_U, 0, PFERR_U | PFERR_ID | PFERR_P},
	{READ, 0, PTE_NX, 0},
	{FETCH, 0, PTE_NX, PFERR_U | PFERR_ID | PFERR_P},
	{READ, 0, RESERVED, PFERR_U | PFERR_RSV | PFERR_P},
};

/* What the fault's code is in a format; ~0: this fault does not exist there. */
static u64 fault_code(const struct format *f, const struct fault *w)
{
	u64 c = w->code;

	if (f->levels == 2 && (w->set & (PTE_NX | RESERVED)))
		return ~0ull;
	if (w->set == RESERVED && platform.phys_bits == 52)
		return ~0ull;
	if (w->set == PTE_NX && !(f->efer & EFER_NXE))
		c = PFERR_U | PFERR_RSV | PFERR_P;
	if (!(f->efer & EFER_NXE)) /* tells fetches only with NX (APM2 §8.4.2) */
		c &= ~PFERR_ID;
	if (c & PFERR_RSV && departs(DEPARTURE_NPF_RESERVED_P))
		c &= ~PFERR_P;
	return c;
}

static void check_faults(const void *arg)
{
	const struct format *f = arg;

	for (u32 i = 0; i < ARRAY_SIZE(faults); i++)
		for (unsigned int leaf = 1; leaf <= largest_leaf(f); leaf++)
			for (unsigned int level = leaf; level <= 2; level++) {
				const struct fault *w = &faults[i];
				u64 want = fault_code(f, w), entry;
				u32 gpa;

				if (want == ~0ull)
					continue;
				gpa = ready(f, w->access, leaf);
				entry = entry_get(&nested, f, level);
				entry_set(&nested, f, level, (entry & ~w->clear) | w->set);
				if (!want) {
					CHECK_EQ(run(), VMEXIT_VMMCALL);
					continue;
				}
				if (!CHECK_EQ(run(), VMEXIT_NPF) ||
				    !CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | want) ||
				    !CHECK_EQ(l2.vmcb.control.exit_info_2, gpa))
					note("fault %u, leaf of level %u, entry of level %u", i,
					     leaf, level);
				entry_set(&nested, f, level, entry);
				l2_flush();
				CHECK_EQ(run(), VMEXIT_VMMCALL);
			}
}

static void check_accessed_dirty(const void *arg)
{
	const struct format *f = arg;

	for (unsigned int leaf = 1; leaf <= largest_leaf(f); leaf++) {
		ready(f, READ, leaf);
		CHECK_EQ(entry_get(&nested, f, leaf) & (PTE_A | PTE_D), 0);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(entry_get(&nested, f, leaf) & (PTE_A | PTE_D), PTE_A);
		CHECK_EQ(entry_get(&nested, f, 2) & PTE_A, PTE_A);
		/* a write, with everything warm */
		l2.vmcb.save.rip = (u64)legacy_write;
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(entry_get(&nested, f, leaf) & (PTE_A | PTE_D), PTE_A | PTE_D);
		CHECK_EQ(page_a.value, 0x1234);
		/* a PDPTE has neither */
		if (f->levels == 3 && !departs(DEPARTURE_NPT_PDPTE))
			CHECK_EQ(nested.pdpt[3], pa(nested.pd.pae[3]) | PTE_P);
	}
}

static void check_remap(const void *arg)
{
	const struct format *f = arg;

	ready(f, READ, 1);
	for (u32 i = 0; i < 8; i++) {
		const void *page = i % 2 ? (void *)&page_a : (void *)&page_b;

		legacy.edi = alias_map(&nested, f, page, f->large ? 1 + i / 2 % 2 : 1);
		l2_flush();
		l2.vmcb.save.rip = (u64)legacy_read;
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, i % 2 ? 0xaaaa : 0xbbbb);
	}
}

/* The root is where nCR3 says, and what else is in nCR3 means nothing. */
static void check_root(const void *arg)
{
	const struct format *f = arg;

	ready(f, READ, 1);
	l2.vmcb.control.nested_cr3 |= PTE_PWT | PTE_PCD | (f->levels == 2 ? 0xfe7 : 7);
	CHECK_EQ(run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
	if (f->levels != 3)
		return;
	for (u32 at = 4; at < 512; at += 124) { /* any multiple of 32 bytes */
		ready(f, READ, 1);
		for (u32 g = 0; g < 4; g++) {
			nested.pdpt[at + g] = nested.pdpt[g];
			nested.pdpt[g] = 0;
		}
		l2.vmcb.control.nested_cr3 = pa(&nested.pdpt[at]);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
	}
	/* A PDPTE with a bit that is reserved in it, and one that is not there. */
	ready(f, READ, 1);
	nested.pdpt[3] |= PTE_W;
	if (departs(DEPARTURE_NPT_PDPTE)) {
		CHECK_EQ(run(), VMEXIT_VMMCALL);
	} else {
		CHECK_EQ(run(), VMEXIT_NPF);
		CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U | PFERR_RSV | PFERR_P);
	}
	ready(f, READ, 1);
	nested.pdpt[3] = 0;
	CHECK_EQ(run(), VMEXIT_NPF);
	CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U);
}

/* L2 with PAE tables of its own: a fault of theirs, and what they can name and 32-bit nested tables cannot reach. */
static void check_l2_paging(const void *arg)
{
	static const struct format pae = {"", CR4_PAE, 0, 3, true};
	const struct format *f = arg;
	struct vmcb_save *s = &l2.vmcb.save;

	for (u32 step = 0; step < 4; step++) {
		u32 gpa = ready(f, READ, 1);

		identity(&l2s, &pae, PTE_ALL);
		s->cr0 |= CR0_PG;
		s->cr4 = CR4_PAE;
		s->cr3 = root(&l2s, &pae);
		l2_intercept(INTERCEPT_EXCEPTION(VEC_PF));
		switch (step) {
		case 0:
			CHECK_EQ(run(), VMEXIT_VMMCALL);
			CHECK_EQ(s->rax, 0xaaaa);
			break;
		case 1: /* its own #PF comes first */
			l2s.pd.pae[3][0] = 0;
			entry_set(&nested, f, 2, 0);
			CHECK_EQ(run(), VMEXIT_EXCEPTION(VEC_PF));
			CHECK_EQ(l2.vmcb.control.exit_info_1, 0);
			CHECK_EQ(l2.vmcb.control.exit_info_2, gpa);
			break;
		case 2: /* its table is at ALIAS, which is read-only */
			l2s.pdpt[3] = ALIAS | PTE_P;
			*(u64 *)&page_a = ALIAS | PTE_ALL | PTE_PS;
			entry_set(&nested, f, 1, pa(&page_a) | PTE_P | PTE_U);
			CHECK_EQ(run(), VMEXIT_NPF);
			CHECK_EQ(l2.vmcb.control.exit_info_1,
				 NPF_TABLE | PFERR_U | PFERR_W | PFERR_P);
			CHECK_EQ(l2.vmcb.control.exit_info_2, ALIAS);
			break;
		default: /* a page above 4 GByte */
			l2s.pd.pae[3][0] = (BIT(32) + ALIAS) | PTE_ALL | PTE_PS;
			if (departs(DEPARTURE_NPT_WRAPS)) {
				CHECK_EQ(run(), VMEXIT_VMMCALL);
				break;
			}
			CHECK_EQ(run(), VMEXIT_NPF);
			CHECK_EQ(l2.vmcb.control.exit_info_1, NPF_FINAL | PFERR_U);
			CHECK_EQ(l2.vmcb.control.exit_info_2, BIT(32) + gpa);
		}
	}
}

/* VMRUN in a 16-bit segment: rAX is EAX with an address-size prefix, else AX. */
static void check_16_bit(const void *arg)
{
	const struct format *f = arg;

	ready(f, READ, 1);
	legacy.code = pa(legacy_vmrun_16);
	CHECK_EQ(run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
	/* AX is not page-aligned: #GP, whatever is above it */
	ready(f, READ, 1);
	legacy.code = pa(legacy_vmrun_ax);
	legacy.eax |= 8;
	CHECK_EQ(legacy_run(&legacy), VEC_GP);
	CHECK_EQ(legacy.error, 0);
	stgi();
}

/* Two formats in turns, with one ASID and one nCR3 and no flush: the mode is part of what a translation belongs to. */
static void check_two_formats(const void *arg)
{
	const bool one = departs(DEPARTURE_NPT_TWO_LEVEL);

	(void)arg;
	for (u32 i = 0; i < 8; i++) {
		const struct format *f = &formats[i % 2 || one ? 0 : 2];

		ready(f, READ, 1 + i / 2 % 2);
		CHECK_EQ(run(), VMEXIT_VMMCALL);
		CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
		/* and from long mode in between */
		l2_reset(l2_exit_long);
		l2_use_npt();
		CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	}
}

/* L1 without paging: no nested paging (APM2 §15.25.3), but L2 runs without. */
static void check_no_paging(const void *arg)
{
	(void)arg;
	ready(&formats[2], READ, 1);
	legacy.cr0 &= ~(u32)CR0_PG;
	legacy.edi = pa(&page_a);
	l2.vmcb.control.np_ctl = 0;
	CHECK_EQ(run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, 0xaaaa);
	l2.vmcb.control.np_ctl = NP_ENABLE;
	l2.vmcb.save.rip = (u64)legacy_read;
	if (!departs(DEPARTURE_NP_HOST_PAGING))
		CHECK_EQ(run(), VMEXIT_INVALID);
}

/* Bad addresses of a VMCB, and VMRUN with SVME=0. */
static void check_refused(const void *arg)
{
	(void)arg;
	ready(&formats[0], READ, 1);
	legacy.eax |= 0x10;
	CHECK_EQ(legacy_run(&legacy), VEC_GP);
	stgi();
	ready(&formats[0], READ, 1);
	legacy.efer &= ~(u32)EFER_SVME;
	CHECK_EQ(legacy_run(&legacy), VEC_UD);
	svm_enable();
	ready(&formats[0], READ, 1);
	CHECK_EQ(run(), VMEXIT_VMMCALL);
}

static const struct each {
	const char *name;
	void (*run)(const void *);
} each[] = {
	{"read, write and fetch", check_access},
	{"nested page faults", check_faults},
	{"accessed and dirty bits", check_accessed_dirty},
	{"remapping with a flush", check_remap},
	{"nCR3 and PDPTEs", check_root},
	{"L2 with PAE tables of its own", check_l2_paging},
	{"VMRUN in a 16-bit segment", check_16_bit},
};

static const struct {
	const char *name;
	void (*run)(const void *);
} others[] = {
	{"PAE, two levels and long mode in turns", check_two_formats},
	{"L1 without paging", check_no_paging},
	{"VMRUN of a bad address, and with SVME=0", check_refused},
};

static void skip_two_level(const void *arg)
{
	(void)arg;
	tap_skip("nested tables of two levels are not looked at here");
}

void guest_main(void)
{
	char name[80];

	tap_plan(ARRAY_SIZE(formats) * ARRAY_SIZE(each) + ARRAY_SIZE(others));
	if (!svm_start())
		return;
	if (!(platform.svm_edx & SVM_NP)) {
		tap_skip_all("no nested paging (CPUID 8000_000A EDX[0])");
		return;
	}
	low_identity();
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++)
		for (u32 j = 0; j < ARRAY_SIZE(each); j++) {
			u64 at = 0;

			for (const char *s = formats[i].name; *s; s++)
				name[at++] = *s;
			name[at++] = ':';
			name[at++] = ' ';
			for (const char *s = each[j].name; *s; s++)
				name[at++] = *s;
			name[at] = 0;
			tap_run(name,
				formats[i].levels == 2 && departs(DEPARTURE_NPT_TWO_LEVEL)
					? skip_two_level
					: each[j].run,
				&formats[i]);
		}
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		tap_run(others[i].name, others[i].run, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * Everything that an L1 can hand to a hypervisor, at random: VMCBs, MSRs, hypercalls, operands of
 * SVM instructions, accesses to the hypervisor's memory. After each step the machine must be as
 * before, a good L2 must run, and an exit must be one that L1 asked for. A second pass from the same
 * seed must come to the same digest.
 *
 * A random L2 must not harm L1, so there are two kinds. `caged`: its save area and code are random,
 * and nested paging gives it nothing but one cage of memory, in which its own tables are, too. `open`:
 * it runs harmless code in L1's address space, and its control area is random. Either exits for
 * certain: physical interrupts are intercepted whatever L2's RFLAGS.IF is, and the APIC's timer runs.
 */
#include "abi/hypercall.h"
#include "guest/lib/apic.h"
#include "guest/lib/cage.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/pmu.h"
#include "guest/lib/random.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define SEED 0x7461ull
#define STEPS 3000 /* of each pass; each has one random VMRUN, a good one, and one other thing */

#define TIMER_VECTOR 0x90
/* Long against any piece of code below that ends by itself, so that which exit ends it does not depend
 * on how long a hypervisor takes. In QEMU, nanoseconds. */
#define DEADLINE 2000000

static u64 digest;

static void digest_add(u64 v)
{
	digest = (digest ^ v) * 0x100000001b3ull; /* FNV-1a, by words */
}

static u32 step;

static bool expect(bool ok, const char *what)
{
	if (!tap_check(ok, what))
		note("in step %u", step);
	return ok;
}

/* ---- where random addresses point ---- */

static u64 region, region_bytes; /* the hypervisor's; 0 bytes when bare */
static u8 room_for_buffer[2 * PAGE_SIZE] ALIGNED(4096);

/* Far above memory, and below the physical address size of every CPU with SVM: nothing is there. */
#define NOTHING_THERE (BIT(39) - PAGE_1G)

/* A page that may not be written to, or read from, by anything that is named it. */
static u64 bad_page(void)
{
	switch (below(region_bytes ? 4 : 2)) {
	case 0:
		return (rnd() | BIT(platform.phys_bits + below(64 - platform.phys_bits))) &
		       ~(PAGE_SIZE - 1);
	case 1:
		return BIT(platform.phys_bits);
	default:
		return region + below(region_bytes / PAGE_SIZE) * PAGE_SIZE;
	}
}

/* ---- the caged L2 ---- */

static struct cage cages[2];
static struct vmcb original; /* L1's FS, GS, TR, LDTR and MSRs, by VMSAVE */

/* Instructions that harm nobody: all that the open L2 executes. */
static const struct snippet {
	u8 bytes;
	u8 code[14];
} snippets[] = {
	{2, {0x0f, 0xa2}},					     /* CPUID */
	{2, {0x0f, 0x31}},					     /* RDTSC */
	{3, {0x0f, 0x01, 0xf9}},				     /* RDTSCP */
	{4, {0x31, 0xc9, 0x0f, 0x33}},				     /* XOR ECX, ECX; RDPMC */
	{7, {0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32}},	     /* RDMSR EFER */
	{7, {0xb9, 0x77, 0x02, 0x00, 0x00, 0x0f, 0x32}},	     /* RDMSR PAT */
	{7, {0xb9, 0x00, 0x02, 0x01, 0xc0, 0x0f, 0x32}},	     /* RDMSR PerfEvtSel0 */
	{7, {0xb9, 0x01, 0x02, 0x01, 0xc0, 0x0f, 0x32}},	     /* RDMSR PerfCtr0 */
	{7, {0xb9, 0x17, 0x01, 0x01, 0xc0, 0x0f, 0x32}},	     /* RDMSR VM_HSAVE_PA */
	{7, {0xb9, 0x00, 0x00, 0x00, 0x40, 0x0f, 0x32}},	     /* RDMSR 4000_0000 */
	{7, {0xb9, 0x04, 0x02, 0x01, 0xc0, 0x0f, 0x30}},	     /* WRMSR PerfEvtSel2 */
	{7, {0xb9, 0x05, 0x02, 0x01, 0xc0, 0x0f, 0x30}},	     /* WRMSR PerfCtr2 */
	{2, {0xe4, 0x80}},					     /* IN AL, 80h */
	{2, {0xe6, 0x80}},					     /* OUT 80h, AL */
	{1, {0xf4}},						     /* HLT */
	{2, {0xf3, 0x90}},					     /* PAUSE */
	{4, {0xf3, 0x90, 0xeb, 0xfc}},				     /* PAUSE, for ever */
	{2, {0xeb, 0xfe}},					     /* JMP to itself */
	{1, {0xcc}},						     /* INT3 */
	{2, {0xcd, 0x40}},					     /* INT 40h */
	{1, {0xf1}},						     /* ICEBP */
	{2, {0x0f, 0x0b}},					     /* UD2 */
	{4, {0x31, 0xc9, 0xf7, 0xf1}},				     /* XOR ECX, ECX; DIV ECX */
	{3, {0x48, 0xf7, 0xd0}},				     /* NOT RAX */
	{3, {0x0f, 0x20, 0xc0}},				     /* MOV RAX, CR0 */
	{6, {0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0}},		     /* and back */
	{6, {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}},		     /* CR3 */
	{6, {0x0f, 0x20, 0xe0, 0x0f, 0x22, 0xe0}},		     /* CR4 */
	{8, {0x44, 0x0f, 0x20, 0xc0, 0x44, 0x0f, 0x22, 0xc0}},	     /* CR8 */
	{7, {0x31, 0xc0, 0xf0, 0x0f, 0x22, 0xc0, 0x90}},	     /* LOCK MOV CR0: CR8 */
	{3, {0x0f, 0x22, 0xd0}},				     /* MOV CR2, RAX */
	{2, {0x0f, 0x06}},					     /* CLTS */
	{6, {0x0f, 0x01, 0xe0, 0x0f, 0x01, 0xf0}},		     /* SMSW EAX; LMSW AX */
	{6, {0x0f, 0x21, 0xc0, 0x0f, 0x23, 0xc0}},		     /* DR0 */
	{6, {0x0f, 0x21, 0xf8, 0x0f, 0x23, 0xf8}},		     /* DR7 */
	{3, {0x0f, 0x01, 0x38}},				     /* INVLPG (RAX) */
	{2, {0x9c, 0x9d}},					     /* PUSHF; POPF */
	{9, {0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d}}, /* RFLAGS.TF */
	{1, {0xfb}},						     /* STI */
	{1, {0xfa}},						     /* CLI */
	{1, {0x90}},						     /* NOP */
	{3, {0x66, 0x66, 0x90}},				     /* NOP with prefixes */
	{4, {0x66, 0x67, 0x0f, 0xa2}},				     /* CPUID with prefixes */
	{3, {0x48, 0x0f, 0xa2}},				     /* CPUID with REX */
	{3, {0x0f, 0x01, 0xd8}},				     /* VMRUN */
	{3, {0x0f, 0x01, 0xda}},				     /* VMLOAD */
	{3, {0x0f, 0x01, 0xdb}},				     /* VMSAVE */
	{3, {0x0f, 0x01, 0xdc}},				     /* STGI */
	{3, {0x0f, 0x01, 0xdd}},				     /* CLGI */
	{3, {0x0f, 0x01, 0xde}},				     /* SKINIT */
	{3, {0x0f, 0x01, 0xdf}},				     /* INVLPGA */
	{3, {0x0f, 0x01, 0xc8}},				     /* MONITOR */
	{3, {0x0f, 0x01, 0xc9}},				     /* MWAIT */
	{3, {0x0f, 0x01, 0xd1}},				     /* XSETBV */
	{2, {0x0f, 0x09}},					     /* WBINVD */
	{2, {0x0f, 0xaa}},					     /* RSM */
	{3, {0x0f, 0x00, 0xc8}},				     /* STR EAX */
	{3, {0x0f, 0x00, 0xc0}},				     /* SLDT EAX */
	{8, {0x0f, 0x01, 0x04, 0x24, 0x48, 0x31, 0xc0, 0x90}},	     /* SGDT on the stack */
};

/* With prefixes of any kind before them, and bits flipped. Not random bytes altogether: QEMU's translator
 * crashes on some. */
static u64 write_mutated(u64 at, const struct snippet *s)
{
	static const u8 prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36,
				      0x3e, 0x64, 0x65, 0x40, 0x41, 0x44, 0x48, 0x4f};

	for (u64 n = below(4); n; n--)
		cage->code[at++] = PICK(prefixes);
	cage_write(at, s->code, s->bytes);
	if (once_in(3))
		cage->code[at + below(s->bytes)] ^= (u8)BIT(below(8));
	return at + s->bytes;
}

static void write_code(bool mutated)
{
	u64 at = 0;

	cage_clear_code();
	for (u64 n = 1 + below(8); n; n--) {
		const struct snippet *s = &PICK(snippets);

		if (mutated) {
			at = write_mutated(at, s);
		} else {
			cage_write(at, s->code, s->bytes);
			at += s->bytes;
		}
	}
	cage_write_end(at);
}

/* Never lets an entry name L1's memory: not by PS in an upper level, not by an address at random. */
static void npt_spoil(void)
{
	const u64 flags =
		PTE_P | PTE_W | PTE_U | PTE_PWT | PTE_PCD | PTE_A | PTE_D | PTE_G | PTE_NX;
	u64 base = (u64)cage;
	u32 first = (u32)(base / PAGE_SIZE % 512), pages = sizeof(*cage) / PAGE_SIZE;
	u64 *leaf = &l2.npt.pt[first + below(pages)];

	switch (below(7)) {
	case 0:
		*leaf ^= rnd() & flags;
		break;
	case 1:
		*leaf ^= BIT(platform.phys_bits + below(52 - platform.phys_bits));
		break;
	case 2:
		*leaf = (*leaf & ~PTE_ADDR) | (base + below(pages) * PAGE_SIZE);
		break;
	case 3:
		*leaf = (*leaf & ~PTE_ADDR) |
			(region_bytes && once_in(2) ? region + below(region_bytes) : NOTHING_THERE);
		*leaf = (*leaf & (PTE_ADDR | PTE_NX)) | PTE_ALL;
		break;
	case 4: /* a large page of what is not L1's */
		*paging_entry(&l2.npt, base, 2) =
			(region_bytes ? region : NOTHING_THERE) | PTE_ALL | PTE_PS;
		break;
	case 5:
		*paging_entry(&l2.npt, base, 2 + (u32)below(3)) ^= rnd() & flags;
		break;
	default:
		*paging_entry(&l2.npt, base, 3 + (u32)below(2)) ^=
			BIT(platform.phys_bits + below(52 - platform.phys_bits));
	}
}

/* ---- one random VMRUN ---- */

/* What an exit does not write. */
static struct vmcb asked;

static void spoil(void *area, u64 first, u64 end)
{
	u8 *p = (u8 *)area + first + below((end - first) / 8) * 8;
	u64 *word = (u64 *)p;

	switch (below(4)) {
	case 0:
		*word = rnd();
		break;
	case 1:
		*word ^= BIT(below(64));
		break;
	case 2:
		*word ^= BIT(below(16));
		break;
	default:
		*word = once_in(2) ? 0 : rnd_sparse(3);
	}
}

static void random_bits(u8 *map, u64 bytes, bool all)
{
	for (u64 i = 0; i < bytes / 8; i++)
		((u64 *)map)[i] = all ? ~0ull : rnd();
}

static void random_event(struct vmcb_control *c)
{
	u64 event = EVENT_V | below(once_in(2) ? 32 : 256) | below(8) << 8;

	/* Mostly of a type that exists. */
	if (!once_in(4))
		event = (event & ~EVENT_TYPE) |
			(once_in(3) ? EVENT_TYPE_INTR : EVENT_TYPE_EXCEPTION);
	if (once_in(2))
		event |= EVENT_EV | (u64)(u32)rnd() << EVENT_ERROR_SHIFT;
	if (once_in(8))
		event = rnd();
	c->event_inj = event;
}

static void random_control(struct vmcb_control *c)
{
	static const u8 tlb[] = {0, 1, 3, 7, 2, 4, 0xff};

	for (u32 i = 0; i < ARRAY_SIZE(c->intercepts); i++)
		c->intercepts[i] |= (u32)rnd_sparse(once_in(3) ? 1 : 3);
	c->tlb_control = tlb[below(once_in(4) ? ARRAY_SIZE(tlb) : 4)];
	c->asid = once_in(8) ? (u32)rnd() : 1 + (u32)below(8);
	if (once_in(2))
		c->int_ctl = (u32)rnd();
	if (once_in(2))
		c->int_vector = (u32)rnd();
	if (once_in(3))
		c->int_state = rnd();
	if (once_in(3))
		c->tsc_offset = rnd();
	if (once_in(3))
		random_event(c);
	c->clean = (u32)rnd();
	for (u64 n = below(4); n; n--)
		spoil(c, 0, sizeof(*c));
}

/* A map at a good address, mostly. */
static u64 map_address(const void *map)
{
	return once_in(32) ? bad_page() : (u64)map | (once_in(4) ? below(PAGE_SIZE) : 0);
}

/* What a random control area must have for L1 to live on. */
static void make_safe(struct vmcb_control *c, bool caged)
{
	cage_intercept(c);
	if (!once_in(32))
		vmcb_set_intercept(c, INTERCEPT(VMRUN));
	if (caged) {
		vmcb_set_intercept(c, INTERCEPT(IOIO));
		vmcb_set_intercept(c, INTERCEPT(MSR));
		vmcb_set_intercept(c, INTERCEPT_CR_WRITE(4));
		/* Time must not become an address: the digest would tell. */
		vmcb_set_intercept(c, INTERCEPT(RDTSC));
		vmcb_set_intercept(c, INTERCEPT(RDTSCP));
		vmcb_set_intercept(c, INTERCEPT(RDPMC));
		/* QEMU aborts if the delivery of HLT's single-step trap exits */
		vmcb_set_intercept(c, INTERCEPT(HLT));
		vmcb_set_intercept(c, INTERCEPT(MWAIT));
	}
	/* QEMU aborts on it (CR8_ABORT) */
	if (!platform.under_us)
		vmcb_set_intercept(c, INTERCEPT_CR_WRITE(8));
	c->int_ctl |= (u32)V_INTR_MASKING;
	c->iopm_base_pa = map_address(l2.iopm);
	c->msrpm_base_pa = map_address(l2.msrpm);
	c->np_ctl = caged ? c->np_ctl | NP_ENABLE : c->np_ctl & ~NP_ENABLE;
	c->nested_cr3 = once_in(24) ? bad_page()
				    : paging_root(&l2.npt) | (once_in(4) ? below(PAGE_SIZE) : 0);
	c->clean = (u32)rnd();
}

static void random_save(struct vmcb_save *s)
{
	if (once_in(4)) { /* 32-bit or 16-bit code, of any privilege */
		s->cs.attrib = (u16)(s->cs.attrib & ~(SEG_ATTR_L | SEG_ATTR_DB));
		s->cs.attrib |= (u16)(once_in(2) ? SEG_ATTR_DB : 0);
	}
	if (once_in(6)) { /* without paging, and with luck in real mode */
		s->cr0 &= ~(CR0_PG | (once_in(2) ? CR0_PE : 0));
		s->efer &= ~EFER_LMA;
	}
	if (once_in(8)) {
		s->cs.attrib |= 3 << 5;
		s->ss.attrib |= 3 << 5;
		s->cpl = 3;
	}
	if (once_in(6))
		s->rflags ^= rnd() & BITS(21, 0);
	for (u64 n = below(4); n; n--)
		spoil(s, 0, 0x2a0);
	/* QEMU's #VMEXIT from LME=1, PG=0, PAE=0 leaves its host without paging. make_safe() has L2 keep PAE. */
	if ((s->efer & EFER_LME) && !(s->cr0 & CR0_PG))
		s->cr4 |= CR4_PAE;
}

static void random_l2(bool caged)
{
	struct vmcb_control *c = &l2.vmcb.control;
	struct vmcb_save *s = &l2.vmcb.save;

	l2_reset(cage->code);
	write_code(caged && once_in(2));
	random_control(c);
	/* All exits for the caged: its code may be anything. */
	random_bits(l2.iopm, sizeof(l2.iopm), caged);
	random_bits(l2.msrpm, sizeof(l2.msrpm), caged);
	if (caged) {
		cage_fill();
		cage_npt();
		random_save(s);
		if (once_in(3))
			for (u64 n = 1 + below(3); n; n--)
				npt_spoil();
		if (once_in(8))
			for (u64 i = 0; i < 256; i++)
				cage->stack[below(sizeof(cage->stack))] = (u8)rnd();
	} else {
		l2_catch_events();
		s->rsp -= 256;
		s->cr2 = rnd();
		s->ds.base = rnd();
		s->es.limit = (u32)rnd();
		s->rflags ^=
			rnd() & (RFLAGS_CF | RFLAGS_ZF | RFLAGS_IF | (once_in(4) ? RFLAGS_TF : 0));
		s->g_pat = once_in(4) ? rnd() : s->g_pat;
		if (once_in(4))
			spoil(s, offsetof(struct vmcb_save, reserved_0d8),
			      offsetof(struct vmcb_save, cr4));
		if (once_in(32)) /* refused, or harmless */
			s->cr0 |= BITS(63, 32) & rnd();
		if (once_in(32))
			s->cr4 |= BITS(63, 32) & rnd();
		if (once_in(16))
			s->efer ^= BIT(12 + below(52));
	}
	/* RCX keeps 32 bits: QEMU takes all 64 to look in the MSR map. */
	l2.regs.rcx = (u32)rnd();
	l2.regs.rdx = rnd();
	l2.regs.rbx = rnd();
	l2.regs.rsi = caged ? (u64)cage + below(sizeof(*cage)) : rnd();
	l2.regs.rdi = caged ? (u64)cage + below(sizeof(*cage)) : rnd();
	s->rax = once_in(2) ? rnd() : (u64)cage->stack;
	make_safe(c, caged);
}

static struct {
	u64 invalid, npf, intr, shutdown, exception, cr_dr, msr, io, svm, other;
} classes;

static void count(u64 code)
{
	u64 *class = code == VMEXIT_INVALID			     ? &classes.invalid
		     : code == VMEXIT_NPF			     ? &classes.npf
		     : code == VMEXIT_INTR			     ? &classes.intr
		     : code == VMEXIT_SHUTDOWN			     ? &classes.shutdown
		     : code < 0x40				     ? &classes.cr_dr
		     : code < 0x60				     ? &classes.exception
		     : code == VMEXIT_MSR			     ? &classes.msr
		     : code == VMEXIT_IOIO			     ? &classes.io
		     : code >= VMEXIT_VMRUN && code <= VMEXIT_SKINIT ? &classes.svm
								     : &classes.other;

	(*class)++;
}

/* Only what L1 asked for, and what needs no asking. */
static bool exit_allowed(u64 code)
{
	const struct vmcb_control *c = &asked.control;

	if (code == VMEXIT_INVALID)
		return true;
	if (code == VMEXIT_NPF)
		return c->np_ctl & NP_ENABLE;
	return code < INTERCEPT_BITS && vmcb_intercepts(c, (unsigned int)code);
}

static bool same_bytes(u64 first, u64 end)
{
	for (u64 i = first; i < end; i++)
		if (((const u8 *)&l2.vmcb)[i] != ((const u8 *)&asked)[i])
			return false;
	return true;
}

static void check_exit(u64 code)
{
	const struct vmcb_control *c = &l2.vmcb.control;
	bool ok = expect(exit_allowed(code), "an exit that L1 did not ask for");

	ok &= expect(same_bytes(0, offsetof(struct vmcb_control, int_ctl)),
		     "an exit wrote the intercepts, maps, TSC_OFFSET, ASID or TLB_CONTROL");
	ok &= expect(same_bytes(offsetof(struct vmcb_control, np_ctl),
				offsetof(struct vmcb_control, event_inj)) &&
			     same_bytes(offsetof(struct vmcb_control, nested_cr3),
					offsetof(struct vmcb_control, next_rip)),
		     "an exit wrote NP_CTL, nCR3, VIRT_EXT or the clean bits");
	/* Bare, a MOV to CR3 or CR4 with reserved bits of a running L2 comes as INVALID, too. */
	if (code == VMEXIT_INVALID && platform.under_us)
		ok &= expect(same_bytes(sizeof(*c), sizeof(asked)),
			     "a refused VMRUN wrote the save area");
	if (code == VMEXIT_INVALID)
		ok &= expect(!(c->event_inj & EVENT_V), "an exit left EVENTINJ valid");
	if (!ok)
		note("exit 0x%lx info1 0x%lx info2 0x%lx rip 0x%lx", code, c->exit_info_1,
		     c->exit_info_2, l2.vmcb.save.rip);
}

static void digest_exit(u64 code)
{
	const struct vmcb_control *c = &l2.vmcb.control;

	digest_add(code);
	count(code);
	/* When the timer fires depends on how long the way into L2 took. */
	if (code == VMEXIT_INTR || code == VMEXIT_INVALID)
		return;
	digest_add(c->exit_info_1);
	digest_add(c->exit_info_2);
	digest_add(c->exit_int_info);
	digest_add(l2.vmcb.save.rip);
	digest_add(l2.vmcb.save.rsp);
	digest_add(l2.vmcb.save.cr0);
	digest_add(l2.vmcb.save.cr3);
}

static void check_l1(void)
{
	expect(read_cr8() == 0, "L1's CR8 changed");
	expect(!(read_flags() & (RFLAGS_IF | RFLAGS_TF)), "L1's RFLAGS changed");
	expect(rdmsr(MSR_EFER) & EFER_SVME, "L1's SVME changed");
}

static void vmrun_random(void)
{
	u64 code;

	random_l2(once_in(2));
	asked = l2.vmcb;
	code = l2_run_for(TIMER_VECTOR, DEADLINE);
	vmload((u64)&original);
	check_exit(code);
	digest_exit(code);
	check_l1();
}

/* With a flush of all ASIDs: translations of the random L2 must not reach the next one. */
static void vmrun_good(void)
{
	static const u64 magic = 0x600d600d600d600dull;

	l2_reset(cage->code);
	cage_write_end(0);
	if (once_in(2))
		l2_use_npt();
	l2.vmcb.control.tlb_control = TLB_CONTROL_FLUSH_ALL;
	l2.vmcb.save.rax = magic;
	l2.regs.r15 = magic;
	expect(l2_run() == VMEXIT_VMMCALL, "a good L2 did not run");
	expect(l2.vmcb.save.rax == magic && l2.regs.r15 == magic, "a good L2 lost its registers");
}

/* ---- the other things ---- */

static struct {
	u64 address, rcx, rdx, rax;
	u32 msr;
	u64 value;
} op;

static void do_rdmsr(const void *arg)
{
	(void)arg;
	op.value = rdmsr(op.msr);
}

static void do_wrmsr(const void *arg)
{
	(void)arg;
	wrmsr(op.msr, op.value);
}

static void do_rdpmc(const void *arg)
{
	(void)arg;
	rdpmc(op.msr);
}

static void do_hypercall(const void *arg)
{
	(void)arg;
	op.rax = (u64)hypercall(op.rax, op.address, op.rcx, op.rdx);
}

#define SVM_INSTRUCTION(name, text)                                                                \
	static void name(const void *arg)                                                          \
	{                                                                                          \
		(void)arg;                                                                         \
		asm volatile(text : : "a"(op.address), "c"(op.rcx) : "memory", "cc");              \
	}
SVM_INSTRUCTION(do_vmrun, "vmrun %%rax")
SVM_INSTRUCTION(do_vmload, "vmload %%rax")
SVM_INSTRUCTION(do_vmsave, "vmsave %%rax")
SVM_INSTRUCTION(do_invlpga, "invlpga %%rax, %%ecx")
SVM_INSTRUCTION(do_clgi, "clgi")
SVM_INSTRUCTION(do_stgi, "stgi")
SVM_INSTRUCTION(do_skinit, "skinit %%eax")

static bool is_counter(u32 msr)
{
	return (msr >= MSR_PERFEVTSEL(0) && msr < MSR_PERFEVTSEL(PMU_COUNTERS) && msr % 2) ||
	       (msr >= MSR_LEGACY_PERFCTR(0) && msr < MSR_LEGACY_PERFCTR(PMU_LEGACY_COUNTERS)) ||
	       msr == MSR_PERF_GLOBAL_STATUS;
}

static bool is_pmu(u32 msr)
{
	return msr - MSR_PERFEVTSEL(0) < 2 * PMU_COUNTERS ||
	       msr - MSR_LEGACY_PERFEVTSEL(0) < 2 * PMU_LEGACY_COUNTERS ||
	       msr - MSR_PERF_GLOBAL_STATUS < 4;
}

static void msr_read(void)
{
	static const struct {
		u32 first, count;
	} ranges[] = {
		{0x40000000, 0x110}, {0xc0000300, 4}, {0xc0010000, 0x400},
		{0xc0000080, 5},     {0xc0010114, 5}, {0xc0010200, 12},
	};
	u64 which = below(ARRAY_SIZE(ranges)), vector;

	op.msr = ranges[which].first + (u32)below(ranges[which].count);
	if (once_in(16))
		op.msr = (u32)rnd();
	op.value = 0;
	vector = try_call(do_rdmsr, NULL);
	expect(vector == VEC_NONE || vector == VEC_GP, "RDMSR raised neither #GP nor nothing");
	digest_add(vector);
	/* Time tells in the PMU's: L2 may have written a selector with what RDTSC gave. */
	if (op.msr >= 0x40000000 && !is_pmu(op.msr))
		digest_add(op.value);
	op.msr = (u32)(once_in(4) ? rnd() : below(8));
	digest_add(try_call(do_rdpmc, NULL));
}

/* VM_CR.LOCK and SVMDIS together would end SVM for good; EFER must keep what L1 runs on. */
static void msr_write(void)
{
	const u64 efer = rdmsr(MSR_EFER), keep = EFER_LME | EFER_LMA | EFER_NXE;
	u64 vector;

	op.value = once_in(2) ? rnd() : rnd_sparse(4);
	switch (below(8)) {
	case 0:
		op.msr = 0x40000000 + (u32)below(0x110);
		break;
	case 1:
		op.msr = MSR_PERF_GLOBAL_STATUS + (u32)below(4);
		break;
	case 2:
		op.msr = MSR_EFER;
		op.value = (op.value & ~keep) | (efer & keep);
		if (once_in(2)) /* one that is not refused */
			op.value &= keep | EFER_SVME | EFER_SCE;
		break;
	case 3:
		op.msr = MSR_VM_CR;
		op.value &= ~(u64)VM_CR_LOCK & (once_in(2) ? VM_CR_VALID : ~0ull);
		if (once_in(2))
			svm_disable();
		break;
	case 4:
		op.msr = MSR_VM_HSAVE_PA;
		if (once_in(2))
			op.value = bad_page();
		break;
	case 5:
		op.msr = MSR_LEGACY_PERFEVTSEL(0) + (u32)below(8);
		break;
	case 6:
		op.msr = MSR_SVM_KEY;
		break;
	default:
		op.msr = MSR_PERFEVTSEL(0) + (u32)below(2ull * PMU_COUNTERS);
		if (once_in(2)) /* one that counts */
			op.value = SEL_INSTRUCTIONS | (op.value & EVTSEL_HOST_GUEST);
	}
	vector = try_call(do_wrmsr, NULL);
	expect(vector == VEC_NONE || vector == VEC_GP, "WRMSR raised neither #GP nor nothing");
	if (op.msr == MSR_VM_HSAVE_PA &&
	    (op.value & (PAGE_SIZE - 1) || op.value >> platform.phys_bits))
		expect(vector == VEC_GP, "VM_HSAVE_PA took what is no page");
	digest_add(op.msr);
	digest_add(vector);
	if (!is_counter(op.msr))
		digest_add(try_call(do_rdmsr, NULL) == VEC_NONE ? op.value : 1);
	op.msr = MSR_VM_CR;
	op.value = 0;
	try_call(do_wrmsr, NULL);
	wrmsr(MSR_EFER, efer);
	wrmsr(MSR_VM_HSAVE_PA, (u64)hsave);
}

static void hypercall_random(void)
{
	static const u64 calls[] = {TALLY_CALL_STATUS, TALLY_CALL_LOG_READ, TALLY_CALL_LOG_READ};
	const u64 call = once_in(6) ? rnd() : PICK(calls);
	bool known = call == TALLY_CALL_STATUS || call == TALLY_CALL_LOG_READ, svme0 = once_in(4);
	u64 vector, buffer = (u64)room_for_buffer;

	op.rax = call;
	switch (below(4)) {
	case 0:
		op.address = bad_page() + below(PAGE_SIZE);
		break;
	case 1:
		op.address = buffer + below(PAGE_SIZE) / 8 * 8;
		break;
	default:
		op.address = buffer + below(PAGE_SIZE);
	}
	op.rcx = once_in(8) ? rnd() : below(PAGE_SIZE + 100);
	op.rdx = once_in(2) ? rnd() : below(1000);
	if (svme0)
		svm_disable();
	vector = try_call(do_hypercall, NULL);
	svm_enable();
	expect(vector == (known && platform.under_us ? VEC_NONE : VEC_UD),
	       "a hypercall was not #UD, or a real one was");
	digest_add(vector);
	/* How long the log is, is not the digest's. */
	digest_add(vector == VEC_NONE && (s64)op.rax < 0);
}

static void svm_instruction(void)
{
	static const struct {
		void (*run)(const void *);
		bool address;
	} instructions[] = {
		{do_vmload, true}, {do_vmsave, true}, {do_invlpga, false}, {do_clgi, false},
		{do_stgi, false},  {do_vmrun, true},  {do_skinit, false},
	};
	const u64 which = below(ARRAY_SIZE(instructions));
	const bool address = instructions[which].address, svme0 = once_in(6);
	bool bad = true;
	u64 vector;

	op.address = rnd();
	op.rcx = once_in(2) ? below(8) : rnd();
	if (address) {
		op.address = bad_page();
		if (instructions[which].run != do_vmrun && once_in(2)) {
			op.address = (u64)room_for_buffer;
			bad = false;
		}
		if (once_in(4)) {
			op.address |= 1 + below(PAGE_SIZE - 1);
			bad = true;
		}
		for (u64 i = 0; i < PAGE_SIZE; i++)
			room_for_buffer[i] = (u8)rnd();
	}
	if (svme0)
		svm_disable();
	vector = try_call(instructions[which].run, NULL);
	svm_enable();
	stgi();
	vmload((u64)&original);
	if (address && !svme0)
		expect(vector == (bad ? VEC_GP : VEC_NONE),
		       "a bad address was not #GP, or a good one was");
	/* STGI and SKINIT are legal where there is SKINIT. */
	if (svme0 && instructions[which].run != do_stgi && instructions[which].run != do_skinit)
		expect(vector == VEC_UD, "no #UD with SVME=0");
	digest_add(which);
	digest_add(vector);
}

/* The CPU's own accesses to the hypervisor's memory. */
static void touch_region(void)
{
	u64 at;

	if (!region_bytes)
		return;
	at = region + below(region_bytes - 64);
	switch (below(5)) {
	case 0:
		*(volatile u64 *)at = rnd();
		break;
	case 1:
		*(volatile u8 *)at = (u8)rnd();
		break;
	case 2:
		asm volatile("lock xaddq %0, (%1)" : : "r"(rnd()), "r"(at) : "memory");
		break;
	case 3: {
		u64 to = at, bytes = 1 + below(60);

		asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
		break;
	}
	default:
		break;
	}
	expect(*(volatile u64 *)at == ~0ull,
	       "the hypervisor's memory reads something else than FFh");
}

static void one_other(void)
{
	static void (*const others[])(void) = {
		msr_read,	 msr_write,	  msr_write,	hypercall_random,
		svm_instruction, svm_instruction, touch_region,
	};

	PICK(others)();
}

/* ---- the passes ---- */

static u64 digests[2];

static void run_pass(const void *arg)
{
	const u64 pass = (u64)arg;

	random_state = SEED;
	digest = 0xcbf29ce484222325ull;
	pmu_stop_all();
	/* Not there without PerfMonV2, else what a pass leaves in it would be seen by the next. */
	op.msr = MSR_PERF_GLOBAL_CTL;
	op.value = 0;
	try_call(do_wrmsr, NULL);
	for (step = 0; step < STEPS; step++) {
		vmrun_random();
		vmrun_good();
		one_other();
		check_l1();
	}
	pmu_stop_all();
	digests[pass] = digest;
	note("pass %lu: digest 0x%016lx", pass + 1, digest);
}

static void check_digests(const void *arg)
{
	(void)arg;
	if (region_bytes) {
		tap_skip("how far L2 gets before its deadline depends on the hypervisor's path");
		return;
	}
	CHECK_EQ(digests[1], digests[0]);
}

static void check_region(const void *arg)
{
	(void)arg;
	if (!region_bytes) {
		tap_skip("not under Tallyvisor");
		return;
	}
	for (u64 p = region; p < region + region_bytes; p += 8)
		if (*(volatile u64 *)p != ~0ull) {
			note("at 0x%lx", p);
			CHECK_EQ(*(volatile u64 *)p, ~0ull);
			break;
		}
}

/* Not a hang: interrupts arrive, exceptions are taken, L2 runs, the timer ends it. */
static void check_alive(const void *arg)
{
	const u64 strays = trap_strays;

	(void)arg;
	apic_self_ipi(TIMER_VECTOR);
	interrupt_window();
	CHECK_EQ(trap_strays, strays + 1);
	op.address = 1;
	CHECK_EQ(try_call(do_vmload, NULL), VEC_GP);
	vmrun_good();
	cage_write(0, "\xeb\xfe", 2);
	l2_reset(cage->code);
	l2_intercept(INTERCEPT(INTR));
	l2.vmcb.control.int_ctl = (u32)V_INTR_MASKING;
	CHECK_EQ(l2_run_for(TIMER_VECTOR, DEADLINE), VMEXIT_INTR);
}

static void find_region(void)
{
	static struct tally_status status ALIGNED(512);

	if (!platform.under_us)
		return;
	CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0), 0);
	region = status.region_gpa;
	region_bytes = status.region_bytes;
}

static const struct {
	const char *name;
	void (*run)(const void *);
	const void *arg;
} cases[] = {
	{"a pass of random VMCBs, MSRs, hypercalls and operands", run_pass, (const void *)0},
	{"the same again", run_pass, (const void *)1},
	{"the same seed, the same digest", check_digests, NULL},
	{"the hypervisor's memory still reads FFh", check_region, NULL},
	{"the machine is alive", check_alive, NULL},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(cases));
	if (!svm_start())
		return;
	if (!platform.under_us && !platform.tcg) {
		tap_skip_all("bare silicon: random clean bits and SEV bits are not defined");
		return;
	}
	find_region();
	cage_choose(cages);
	vmsave((u64)&original);
	note("seed 0x%lx, %u steps", (u64)SEED, STEPS);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
		tap_run(cases[i].name, cases[i].run, cases[i].arg);
	note("exits of both passes: INVALID %lu, NPF %lu, INTR %lu, SHUTDOWN %lu, exceptions %lu, "
	     "CR and DR %lu, MSR %lu, IOIO %lu, SVM instructions %lu, others %lu",
	     classes.invalid, classes.npf, classes.intr, classes.shutdown, classes.exception,
	     classes.cr_dr, classes.msr, classes.io, classes.svm, classes.other);
}

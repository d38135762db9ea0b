/* SPDX-License-Identifier: MIT */
#include "guest/fuzz/fuzz.h"
#include "x86/cr.h"
#include "x86/msr.h"

const char *const l2_mode_names[L2_MODES] = {
	"64-bit",    "32-bit under long mode", "32-bit with PAE",
	"32-bit",    "32-bit without paging",  "16-bit, no paging",
	"real mode",
};
const char *const space_names[SPACES] = {"nested 4K", "nested 2M", "nested 1G", "no nested paging"};
struct shape shape;

static struct l2_memory pristine;

const struct extent l2_extents[] = {
	{"ivt", L2_AT(ivt), 1024},
	{"gdt", L2_AT(gdt), GDT_LIMIT + 1},
	{"stack", L2_AT(stack), 2 * PAGE_SIZE},
	{"data", L2_AT(data), 2 * PAGE_SIZE},
	{"tss", L2_AT(tss64), 0x80},
	{"tss32", L2_AT(tss32), 0x80},
	{"vmcb", L2_AT(vmcb) + 0x440, 0x200},
	{"pml4", L2_AT(pml4), 16},
	{"pdpt", L2_AT(pdpt), 16},
	{"pd", L2_AT(pd), 16},
	{"pt", L2_AT(pt), 8 * 0x20},
	{"pd32", L2_AT(pd32), 16},
	{"pt32", L2_AT(pt32), 4 * 0x20},
	{"pdpt-pae", L2_AT(pdpt_pae), 32},
};
const u32 l2_extent_count = ARRAY_SIZE(l2_extents);

u64 memory_pristine(u32 at)
{
	return *(const u64 *)((const u8 *)&pristine + at);
}

static void copy(void *to, const void *from, u64 bytes)
{
	u64 words = bytes / 8;

	asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

static void fill(void *to, u64 value, u64 bytes)
{
	u64 words = bytes / 8;

	asm volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(value) : "memory");
}

static u64 descriptor(u32 base, u32 limit, u32 attributes)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attributes & 0xff) << 40 |
	       (u64)(limit >> 16 & 0xf) << 48 | (u64)(attributes >> 8 & 0xf) << 52 |
	       (u64)(base >> 24) << 56;
}

static void make_gdt(void)
{
	u64 *gdt = pristine.gdt;

	gdt[SEL_CODE64 / 8] = descriptor(0, 0xfffff, 0xa9b);
	gdt[SEL_DATA / 8] = descriptor(0, 0xfffff, 0xc93);
	gdt[SEL_USER_DATA / 8] = descriptor(0, 0xfffff, 0xcf3);
	gdt[SEL_USER_CODE64 / 8] = descriptor(0, 0xfffff, 0xafb);
	gdt[SEL_CODE32 / 8] = descriptor(0, 0xfffff, 0xc9b);
	gdt[SEL_USER_CODE32 / 8] = descriptor(0, 0xfffff, 0xcfb);
	gdt[SEL_CODE16 / 8] = descriptor(0, 0xffff, 0x09b);
	gdt[SEL_DATA16 / 8] = descriptor(0, 0xffff, 0x093);
	gdt[SEL_TSS / 8] = descriptor(L2_AT(tss64), 0x87, 0x08b);
	gdt[SEL_LDT / 8] = descriptor(L2_AT(gdt), GDT_LIMIT, 0x082);
	gdt[SEL_ABSENT / 8] = descriptor(0, 0xfffff, 0xc13);
	gdt[SEL_CONFORMING / 8] = descriptor(0, 0xfffff, 0xc9e); /* and not yet accessed */
	gdt[SEL_FREE_TSS / 8] = descriptor(L2_AT(tss64), 0x87, 0x089);
}

static void make_idts(void)
{
	for (u32 v = 0; v < 256; v++) {
		u64 stub = L2_AT(stubs) + v * sizeof(pristine.stubs[0]);

		idt_gate_set(&pristine.idt[v], (const void *)stub, 3);
		pristine.idt[v].selector = SEL_CODE64;
		pristine.idt32[v] = stub | SEL_CODE32 << 16 | 0xeeull << 40;
		pristine.ivt[v] = (u32)stub;
	}
}

static void make_tss(void)
{
	*(u64 *)&pristine.tss64[4] = L2_KERNEL_STACK_TOP;
	*(u16 *)&pristine.tss64[0x66] = 0x68;
	*(u32 *)&pristine.tss32[4] = L2_KERNEL_STACK_TOP;
	*(u32 *)&pristine.tss32[8] = SEL_DATA;
	*(u16 *)&pristine.tss32[0x66] = 0x68;
	/* I/O permissions: some ports from 80h on are free at CPL 3, others not */
	*(u64 *)&pristine.tss64[0x68 + 0x10] = 0xff00ff00ff00f0f0ull;
	*(u64 *)&pristine.tss32[0x68 + 0x10] = 0xff00ff00ff00f0f0ull;
}

/* What VMLOAD gives L2. */
static void make_loaded(struct vmcb_save *s)
{
	s->fs = s->gs = (struct vmcb_seg){SEL_DATA, 0xc93, ~0u, 0};
	s->fs.base = L2_AT(data) + 0x100;
	s->gs.base = L2_AT(data) + 0x200;
	s->ldtr = (struct vmcb_seg){SEL_LDT, 0x082, GDT_LIMIT, L2_AT(gdt)};
	s->tr = (struct vmcb_seg){SEL_TSS, 0x08b, 0x87, L2_AT(tss64)};
	s->kernel_gs_base = L2_AT(data) + 0x300;
	s->star = (u64)SEL_DATA << 48 | (u64)SEL_CODE64 << 32 | L2_AT(stubs[0xf0]);
	s->lstar = L2_AT(stubs[0xf1]);
	s->cstar = L2_AT(stubs[0xf2]);
	s->sfmask = RFLAGS_TF | RFLAGS_IF;
	s->sysenter_cs = SEL_CODE64;
	s->sysenter_esp = L2_STACK_TOP;
	s->sysenter_eip = L2_AT(stubs[0xf3]);
}

void memory_init(u64 seed)
{
	fill(ARENA, 0, sizeof(*ARENA));
	choices.random = seed;
	make_gdt();
	make_idts();
	make_tss();
	for (u64 i = 0; i < sizeof(pristine.data) / 8; i++)
		((u64 *)pristine.data)[i] = rnd();
	fill(pristine.code, 0xf4f4f4f4f4f4f4f4ull, sizeof(pristine.code)); /* HLT always exits */
	fill(pristine.stubs, 0xf4f4f4f4f4f4f4f4ull, sizeof(pristine.stubs));
	make_loaded(&ARENA->loaded[0].save);
	if (avoid(DEPARTURE_BUSY_TSS))
		ARENA->loaded[0].save.tr.attrib = 0x089;
	ARENA->loaded[1] = ARENA->loaded[0];
	ARENA->loaded[1].save.tr.base = L2_AT(tss32);
	copy(pristine.vmcb, &ARENA->loaded[0], sizeof(pristine.vmcb));
	fill(ARENA->iopm[MAP_SET], ~0ull, IOPM_BYTES);
	fill(ARENA->msrpm[MAP_SET], ~0ull, MSRPM_BYTES);
	for (u64 i = 0; i < IOPM_BYTES / 8; i++)
		((u64 *)ARENA->iopm[MAP_RANDOM])[i] = rnd();
	for (u64 i = 0; i < MSRPM_BYTES / 8; i++)
		((u64 *)ARENA->msrpm[MAP_RANDOM])[i] = rnd();
	vmsave((u64)&ARENA->l1);
}

#define TABLE (PTE_P | PTE_W | PTE_U)

static u64 l2_pa(u32 at)
{
	return shape.base + at;
}

static void make_l2_tables(struct l2_memory *m)
{
	m->pml4[0] = l2_pa(L2_AT(pdpt)) | TABLE;
	m->pdpt[0] = l2_pa(L2_AT(pd)) | TABLE;
	m->pd[0] = l2_pa(L2_AT(pt)) | TABLE;
	m->pdpt_pae[0] = l2_pa(L2_AT(pd)) | PTE_P;
	m->pd32[0] = (u32)(l2_pa(L2_AT(pt32)) | TABLE);
	for (u32 i = 0; i < L2_PAGES; i++) {
		m->pt[i] = l2_pa(i * (u32)PAGE_SIZE) | TABLE;
		m->pt32[i] = (u32)(l2_pa(i * (u32)PAGE_SIZE) | TABLE);
	}
}

void memory_reset_nested(void)
{
	struct arena *a = ARENA;

	fill(a->npml4, 0, 4 * PAGE_SIZE);
	a->npml4[0] = (u64)a->npdpt | TABLE;
	if (shape.space == NPT_1G) {
		a->npdpt[0] = TABLE | PTE_PS;
		return;
	}
	a->npdpt[0] = (u64)a->npd | TABLE;
	if (shape.space == NPT_2M) {
		a->npd[0] = ARENA_ADDRESS | TABLE | PTE_PS;
		return;
	}
	a->npd[0] = (u64)a->npt | TABLE;
	for (u32 i = 0; i < L2_PAGES; i++)
		a->npt[i] = (ARENA_ADDRESS + i * PAGE_SIZE) | TABLE;
}

void memory_reset(void)
{
	struct l2_memory *m = &ARENA->l2;

	shape.base = is_caged() ? 0 : ARENA_ADDRESS;
	copy(m, &pristine, sizeof(*m));
	make_l2_tables(m);
	memory_reset_nested();
	fill(ARENA->iopm[MAP_FEW], 0, IOPM_BYTES);
	fill(ARENA->msrpm[MAP_FEW], 0, MSRPM_BYTES);
}

static bool may_return(u32 vector)
{
	return vector == VEC_DB || vector == VEC_BP || vector == VEC_OF || vector >= 32;
}

void memory_stubs(const u8 *end, u32 bytes, bool irets)
{
	for (u32 v = 0; v < 256; v++) {
		u8 *stub = ARENA->l2.stubs[v];

		if (irets && may_return(v) && v < 0xf0) {
			if (mode_is_long())
				*stub++ = 0x48;
			*stub++ = 0xcf; /* IRET */
		} else {
			for (u32 i = 0; i < bytes; i++)
				*stub++ = end[i];
		}
	}
}

u64 memory_cr3(void)
{
	switch (shape.mode) {
	case LONG64:
	case COMPAT32:
		return l2_pa(L2_AT(pml4));
	case PAE32:
		return l2_pa(L2_AT(pdpt_pae));
	case LEGACY32:
		return l2_pa(L2_AT(pd32));
	default:
		return 0;
	}
}

void *memory_pte(u32 page, unsigned int level, bool *narrow)
{
	struct l2_memory *m = &ARENA->l2;

	*narrow = shape.mode == LEGACY32;
	switch (shape.mode) {
	case LONG64:
	case COMPAT32:
		return level == 1   ? &m->pt[page]
		       : level == 2 ? &m->pd[0]
		       : level == 3 ? &m->pdpt[0]
				    : &m->pml4[0];
	case PAE32:
		return level == 1 ? &m->pt[page] : level == 2 ? &m->pd[0] : &m->pdpt_pae[0];
	case LEGACY32:
		return level == 1 ? &m->pt32[page] : &m->pd32[0];
	default:
		return NULL;
	}
}

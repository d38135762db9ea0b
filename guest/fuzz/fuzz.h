/* SPDX-License-Identifier: MIT */
/*
 * What the parts of guest/fuzz_vmrun.c share: random choices that can be left out one by one, the memory that L2 and its
 * VMCB live in, and L2's programs.
 */
#ifndef GUEST_FUZZ_H
#define GUEST_FUZZ_H

#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"

/* ---- random choices ---- */

/*
 * A case is made of items: an instruction of L2's program, a changed field, a changed table entry. Each draws from a
 * generator of its own (seed, index of the case, number of the item), so that leaving one out changes no other, and a
 * failure can be reduced to the items that it needs.
 */
#define MAX_RUNS 3
#define RUN_ITEMS 80 /* the items of one VMRUN are numbered from a multiple of this */
#define KEEP_WORDS ((MAX_RUNS * RUN_ITEMS + 63) / 64)

struct choices {
	u64 random, seed; /* of the case */
	u32 next_item;
	u64 keep[KEEP_WORDS]; /* bit n: item n is to be applied */
	bool detail;	      /* print what is done */
};
extern struct choices choices;

u64 rnd(void);
/* 0 to n - 1 */
u64 below(u64 n);
static inline bool once_in(u64 n)
{
	return !below(n);
}
u64 rnd_sparse(unsigned int n); /* a bit is set once in 2^n */
/* What random things of the case itself are drawn from. */
void choices_restart(u64 salt);
/* The next item: false if it is to be left out. */
bool item(void);
/* Tells what an item does; only with detail. */
void tell(const char *format, ...) PRINTF(1, 2);

#define PICK(array) ((array)[below(ARRAY_SIZE(array))])

/*
 * True where both runs, bare and under Tallyvisor, must be spared an input on which the platform below departs from the
 * manual. On silicon there is nothing to be spared.
 */
bool avoid(enum departure d);

/* ---- memory ---- */

/* What L2 sees from linear address 0, in each of its modes. Real mode reaches it all but for the tables. */
struct l2_memory {
	u32 ivt[1024];
	u64 gdt[512];
	struct idt_gate idt[256];
	u8 code[2 * PAGE_SIZE];
	u8 stubs[256][16]; /* the handler of each vector */
	u8 stack[2 * PAGE_SIZE];
	u8 data[2 * PAGE_SIZE];
	u8 vmcb[PAGE_SIZE]; /* for VMLOAD and VMSAVE by L2; what crosses the end of data does no harm here */
	u64 idt32[512];
	u8 tss64[PAGE_SIZE / 2], tss32[PAGE_SIZE / 2];
	u64 pml4[512], pdpt[512], pd[512], pt[512];
	u32 pd32[1024], pt32[1024];
	u64 pdpt_pae[512];
} ALIGNED(4096);

#define L2_AT(field) ((u32)offsetof(struct l2_memory, field))
#define L2_PAGES (sizeof(struct l2_memory) / PAGE_SIZE)
#define L2_NOT_MAPPED 0x1f000u
#define L2_STACK_TOP (L2_AT(stack) + 2 * (u32)PAGE_SIZE - 0x100)
#define L2_KERNEL_STACK_TOP (L2_AT(stack) + (u32)PAGE_SIZE)

/* What stands in a map of permissions. */
enum map { MAP_CLEAR, MAP_SET, MAP_RANDOM, MAP_FEW, MAPS };

/* At a fixed address, because addresses are in what is compared. */
struct arena {
	struct l2_memory l2;
	u8 l2_rest[PAGE_2M -
		   sizeof(struct l2_memory)]; /* L2's, if a nested page of 2 MByte maps it */
	struct vmcb vmcb[2];
	u8 hsave[PAGE_SIZE];
	/* FS to SYSENTER_EIP: L2's before, under long mode and without, L2's after, and L1's */
	struct vmcb loaded[2], stored, l1;
	u8 iopm[MAPS][IOPM_BYTES];
	u8 msrpm[MAPS][MSRPM_BYTES];
	u64 npml4[512], npdpt[512], npd[512], npt[512];
} ALIGNED(4096);

#define ARENA_ADDRESS 0x10000000ull /* 2-MByte aligned, and below the CPU's 4 GByte */
#define ARENA ((struct arena *)ARENA_ADDRESS)

#define SEL_CODE64 0x08u
#define SEL_DATA 0x10u
#define SEL_USER_DATA 0x1bu
#define SEL_USER_CODE64 0x23u
#define SEL_CODE32 0x28u
#define SEL_USER_CODE32 0x33u
#define SEL_CODE16 0x38u
#define SEL_DATA16 0x40u
#define SEL_TSS 0x48u
#define SEL_LDT 0x58u
#define SEL_ABSENT 0x68u
#define SEL_CONFORMING 0x70u
#define SEL_FREE_TSS 0x78u
#define GDT_LIMIT 0x87u

enum l2_mode { LONG64, COMPAT32, PAE32, LEGACY32, FLAT32, PROT16, REAL16, L2_MODES };
extern const char *const l2_mode_names[L2_MODES];

/* How L2-physical addresses become L1's. With the last two, L2's own tables alone keep it in its memory. */
enum space { NPT_4K, NPT_2M, NPT_1G, NO_NPT, SPACES };
extern const char *const space_names[SPACES];

/* What a case is, before its items. */
struct shape {
	enum l2_mode mode;
	enum space space;
	bool user; /* CPL 3 */
	u64 base;  /* L2-physical address of struct l2_memory */
};
extern struct shape shape;

static inline bool mode_is_long(void)
{
	return shape.mode == LONG64 || shape.mode == COMPAT32;
}

static inline bool is_caged(void)
{
	return shape.space == NPT_4K || shape.space == NPT_2M;
}

/* Once, before the first case. */
void memory_init(u64 seed);
/* All of the arena's memory as new, for `shape`. */
void memory_reset(void);
/* L1's nested tables as new. */
void memory_reset_nested(void);
/* How a stub ends, for those that do not return. */
void memory_stubs(const u8 *end, u32 bytes, bool irets);
/* The value for CR3. */
u64 memory_cr3(void);
/* How much of L2's memory can differ after a run; for digests. */
struct extent {
	const char *name;
	u32 at, bytes;
};
extern const struct extent l2_extents[];
extern const u32 l2_extent_count;
/* As memory_reset() left it. */
u64 memory_pristine(u32 at);
/* L2's page-table entry of a linear page, in the mode of `shape`; 4 bytes wide if so. NULL without paging. */
void *memory_pte(u32 page, unsigned int level, bool *narrow);

/* ---- programs ---- */

enum kind {
	INSN_OTHER,
	INSN_MOV_CR,	/* gpr, value: number of the CR */
	INSN_CR_OTHER,	/* CLTS, LMSW, SMSW */
	INSN_MOV_DR,	/* gpr, value: number of the DR */
	INSN_INT,	/* value: vector */
	INSN_INVLPG,	/* of the memory at rDI */
	INSN_MOV_TO_CR, /* as INSN_MOV_CR */
};

/* What the program knows of an instruction that it has made. */
struct known_insn {
	u32 at;
	u8 length, gpr;
	bool write; /* of INSN_MOV_DR */
	enum kind kind;
	u64 value;
};

/* Instructions that end every program and handler. */
enum final { FINAL_CPUID, FINAL_VMMCALL, FINAL_HLT, FINALS };

/* A new program of at most so many steps. Adds the intercepts without which it would not be the same everywhere. */
void program_make(struct vmcb_control *c, u32 count, enum final final);
/* The one at this linear address, or NULL. */
const struct known_insn *program_insn(u64 at);
u32 program_start(void);
/* Where one of its steps begins. */
u32 program_step(u64 n);
/* Intercepts that the last program needs. */
extern u32 program_needs[6];
extern bool program_needs_iopm, program_needs_msrpm; /* the map that intercepts all */

#endif

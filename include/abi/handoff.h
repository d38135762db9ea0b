/* SPDX-License-Identifier: MIT */
/*
 * What the loader (boot/) tells the resident core (hv/), and the header of the core's image.
 * Both are built from this tree together: the version is a check against mixing builds, not a promise.
 */
#ifndef TALLY_ABI_HANDOFF_H
#define TALLY_ABI_HANDOFF_H

#include "abi/filter.h"
#include "types.h"

#define HANDOFF_VERSION 1u
#define IMAGE_MAGIC 0x726f73697679616cull /* "layvisor" */

/* Where the core's own page tables map its region; the low half there is guest-physical memory. */
#define CORE_VA 0xffffff8000000000ull

/* Guest-physical bits that the core can address, the low half of its address space; and that L1 has, four levels' worth. */
#define CORE_MAX_PHYS_BITS 47
#define L1_MAX_PHYS_BITS 48

#define CORE_SHADOW_PAGES 512u /* for each CPU */
/* Tables that map 512 GByte each, for so many address bits, of which no more than `most` are mapped. */
#define CORE_PDPTS(bits, most)                                                                     \
	((bits) > 39 ? 1ull << (((bits) < (most) ? (bits) : (most)) - 39) : 1)
/* Page tables: those of NPT and of the core's own, and a little for each CPU. */
#define CORE_TABLE_BYTES(phys_bits, cpus)                                                          \
	((64 + 2ull * (cpus) + CORE_PDPTS(phys_bits, L1_MAX_PHYS_BITS) +                           \
	  CORE_PDPTS(phys_bits, CORE_MAX_PHYS_BITS))                                               \
	 << PAGE_SHIFT)

/* At offset 0 of the image, filled in by linker.ld. Offsets are bytes from the image start, page-aligned. */
struct image_header {
	u64 magic;
	u64 text_end;	/* [0, text_end): RX */
	u64 rodata_end; /* [text_end, rodata_end): R */
	u64 file_end;	/* bytes in the file; the rest of [.., image_end) is zeroed */
	u64 image_end;	/* [rodata_end, image_end): RW, NX */
	u64 rela_start; /* ELF64 RELA records, all R_X86_64_RELATIVE */
	u64 rela_end;
	u64 entry;     /* core_entry_fn, System V ABI */
	u64 cpu_bytes; /* of the region, for each CPU */
};

enum log_sink {
	LOG_RING = 0, /* always kept; the others are in addition */
	LOG_COM1 = 1,
	LOG_COM2 = 2,
	LOG_DEBUGCON = 3,
};

enum svme0_rule {
	/* APM2 table 13-4: with SVME=0 a counter with either bit set does not count */
	SVME0_STOP = 0,
	/* the v4 patch series: with SVME=0 the two bits are ignored */
	SVME0_COUNT = 1,
};

enum pmu_choice {
	PMU_AUTO = 0,
	PMU_GUEST_ONLY = 1,
	PMU_CLOCK = 2,
	PMU_OFF = 3,
	PMU_SWITCHED = 4,
};

/* For tests: what is wrong with the PMU that L1 gets, for a hypervisor in L1 to find out. */
enum pmu_flaw {
	PMU_FLAW_NONE = 0,
	PMU_FLAW_NO_HOST_GUEST = 1,  /* the selectors lose HostOnly and GuestOnly */
	PMU_FLAW_LOSE_BITS = 2,	     /* and all but event, USR, OS and EN */
	PMU_FLAW_DROP_WRITES = 3,    /* and everything, as do the counters */
	PMU_FLAW_FOUR_COUNTERS = 4,  /* those of counters 4 and 5 drop writes */
	PMU_FLAW_FIXED_COUNTERS = 5, /* a write to a counter has no effect */
	PMU_FLAW_FIXED_CONTROL = 6,  /* a write to PerfCntGlobalCtl has no effect */
	PMU_FLAW_UNEVEN = 7,	     /* some writes count twice; and as NO_HOST_GUEST */
	PMU_FLAW_NO_VMRUN_TICK = 8,  /* a VMRUN is not counted */
};

/* What of a PMU the guests see, at most. */
enum pmu_version {
	PMU_VERSION_AUTO = 0,	/* all that the backend has */
	PMU_VERSION_LEGACY = 1, /* four counters, at the legacy addresses only */
	PMU_VERSION_CORE = 2,	/* six, PerfCtrExtCore */
	PMU_VERSION_V2 = 3,	/* and PerfMonV2 */
};

/* Whether devices are kept out of the core's memory. */
enum dma_choice {
	DMA_OFF = 0,
	DMA_PROTECT = 1, /* by the machine's IOMMUs, which L1 then does not have */
};

struct config {
	u32 log;	     /* enum log_sink */
	u32 svme0;	     /* enum svme0_rule */
	u32 pmu;	     /* enum pmu_choice */
	u32 pmu_flaw;	     /* enum pmu_flaw */
	u32 hidden_features; /* bits of CPUID 8000_000A EDX, see abi/features.h */
	u32 pmu_version;     /* enum pmu_version */
	u32 irperf;	     /* 1: offered, where it is possible */
	u32 dma;	     /* enum dma_choice */
	struct tally_filter filter;
};

/* ACPI's PM1a_CNT and PM1b_CNT, and which values of SLP_TYP may be entered by them. */
struct sleep_control {
	u16 ports[2];  /* 0: there is none */
	u8 allowed[2]; /* a bit for each value */
};

#define IOMMU_MAX 32
/* Of the core's memory, for dma=protect: the device table of 2 MByte; page tables; the command buffer of each
 * IOMMU; and what it takes to keep each one's registers from L1 and from the core's own low half. */
#define CORE_DMA_BYTES(phys_bits, cpus, iommus)                                                    \
	(PAGE_2M +                                                                                 \
	 ((16 + CORE_PDPTS(phys_bits, L1_MAX_PHYS_BITS) + (7 + 3ull * (cpus)) * (iommus))          \
	  << PAGE_SHIFT))

/* An AMD IOMMU, as the firmware's IVRS describes it. */
struct iommu_unit {
	u64 mmio_hpa;
	u32 mmio_bytes;
	u16 segment, device; /* device: bus, device and function, as in a device table */
	u16 capability;	     /* offset of the capability block in its configuration space */
	u8 type, flags;	     /* of the IVHD block */
	u32 reserved;
};

struct handoff {
	u32 version;
	u8 phys_bits; /* physical address bits of the CPU */
	u8 reserved[3];
	u32 cpus;    /* that will be taken over */
	u32 entered; /* of these, in the core; the core counts it up */
	/* The core's memory: 2-MByte aligned, whole 2-MByte units, below 4 GByte; the image, relocated to CORE_VA,
	 * at its start and zeroes behind. */
	u64 region_hpa;
	u64 region_bytes;
	u64 loader_cr3; /* page tables that L1 goes on with; of the CPU that calls */
	struct config config;
	struct sleep_control sleep;
	u32 iommus; /* that the core is to have; they are L1's no more */
	struct iommu_unit iommu[IOMMU_MAX];
};

/*
 * Called with interrupts off, on page tables that map CORE_VA. 0: the caller is L1 now. Negative: nothing changed.
 * On each CPU, but only when the one before is counted in `entered`: all but the last one return when that is in, too.
 */
typedef s64 core_entry_fn(struct handoff *handoff);

#endif

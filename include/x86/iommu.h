/* SPDX-License-Identifier: MIT */
/*
 * AMD's IOMMU, as far as we use it. AMD I/O Virtualization Technology (IOMMU) Specification, 48882 rev. 3.08.
 */
#ifndef TALLY_X86_IOMMU_H
#define TALLY_X86_IOMMU_H

#include <assert.h>

#include "types.h"

/* ---- registers, §3.4: offsets from the base address ---- */
#define IOMMU_DEVICE_TABLE 0x0000 /* and its size: 4-KByte pages less 1 */
#define IOMMU_COMMAND_BASE 0x0008
#define IOMMU_CONTROL 0x0018
#define IOMMU_EXCLUSION_BASE 0x0020
#define IOMMU_FEATURES 0x0030
#define IOMMU_COMMAND_HEAD 0x2000
#define IOMMU_COMMAND_TAIL 0x2008
/* that is all which we touch; the event counters of the large ones are behind it */
#define IOMMU_MMIO_BYTES 0x4000
#define IOMMU_MMIO_BYTES_COUNTERS 0x80000

#define IOMMU_LENGTH_256 (8ull << 56) /* of the command buffer: 256 entries of 16 bytes */
#define IOMMU_QUEUE_BYTES 0x1000u
#define IOMMU_QUEUE_ENTRY 16u

#define IOMMU_CONTROL_ENABLE BIT(0)
#define IOMMU_CONTROL_HT_TUNNEL BIT(1)
#define IOMMU_CONTROL_PASS_PW BIT(8)
#define IOMMU_CONTROL_RES_PASS_PW BIT(9)
#define IOMMU_CONTROL_COHERENT BIT(10)
#define IOMMU_CONTROL_ISOCHRONOUS BIT(11)
#define IOMMU_CONTROL_COMMANDS BIT(12)

#define IOMMU_FEATURE_INVALIDATE_ALL BIT(6)
#define IOMMU_FEATURE_COUNTERS BIT(9)

/* ---- commands, §2.4: quadword 0 has the code in bits 63:60 ---- */
#define IOMMU_COMMAND(code) ((u64)(code) << 60)
#define IOMMU_COMPLETION_WAIT IOMMU_COMMAND(1) /* with an address to store quadword 1 to */
#define IOMMU_COMPLETION_WAIT_STORE BIT(0)
#define IOMMU_INVALIDATE_DEVICE IOMMU_COMMAND(2)
#define IOMMU_INVALIDATE_PAGES IOMMU_COMMAND(3)
#define IOMMU_INVALIDATE_PAGES_DOMAIN(id) ((u64)(id) << 32)
/* quadword 1: S and PDE, and all ones in the address: everything of the domain */
#define IOMMU_INVALIDATE_PAGES_ALL 0x7ffffffffffff003ull
#define IOMMU_INVALIDATE_ALL IOMMU_COMMAND(8)

/* ---- device table, §2.2.2 ---- */
#define IOMMU_DEVICES 65536u

struct iommu_device_entry {
	u64 translation; /* and the root of the page tables */
	u64 domain;
	u64 interrupts;
	u64 other;
};
static_assert(sizeof(struct iommu_device_entry) == 32, "device table entry");

#define IOMMU_DTE_V BIT(0)
#define IOMMU_DTE_TV BIT(1)
#define IOMMU_DTE_LEVELS(n) ((u64)(n) << 9)
#define IOMMU_DTE_IR BIT(61)
#define IOMMU_DTE_IW BIT(62)
/* bits 105:104: system management messages pass, as without an IOMMU */
#define IOMMU_DTE_SYSMGT_PASS (1ull << 40)

/* ---- page tables, §2.2.3: the level of the table that an entry points to, 0 for a page ---- */
#define IOMMU_PTE_PR BIT(0)
#define IOMMU_PTE_NEXT_LEVEL(n) ((u64)(n) << 9)
#define IOMMU_PTE_ADDR BITS(51, 12)
#define IOMMU_PTE_IR BIT(61)
#define IOMMU_PTE_IW BIT(62)

/* ---- capability block in configuration space, §3.3 ---- */
#define IOMMU_CAPABILITY_ID 0x0f
#define IOMMU_CAPABILITY_BASE_LOW 4
#define IOMMU_CAPABILITY_BASE_HIGH 8
#define IOMMU_CAPABILITY_BASE_ENABLE BIT(0) /* from then on the base address cannot be changed */

#endif

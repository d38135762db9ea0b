/* SPDX-License-Identifier: MIT */
/*
 * What the IOMMUs are given under dma=protect: every device has the same page tables, the identity without the holes.
 * 48882 rev. 3.08 §2.2.
 */
#ifndef TALLY_CORE_DMA_TABLES_H
#define TALLY_CORE_DMA_TABLES_H

#include "hv/core/holes.h"
#include "hv/core/tables.h"
#include "x86/iommu.h"

#define DMA_TABLES_LEVELS 4
#define DMA_TABLES_DOMAIN 1

/* The identity for [0, 2^bits) without the holes, in pages of the pool: the root, or NULL if that is used up. bits: 32..48 */
u64 *dma_tables_build(struct page_pool *pool, unsigned int bits, const struct holes *holes);

/* A device table whose IOMMU_DEVICES entries all have these page tables; of interrupts all pass. */
void dma_tables_devices(struct iommu_device_entry *devices, u64 root_hpa);

#endif

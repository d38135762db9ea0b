/* SPDX-License-Identifier: MIT */
/*
 * dma=protect: the machine's AMD IOMMUs keep all devices out of the holes, by tables that never change. Their registers are
 * holes themselves, so L1 has no IOMMU.
 */
#ifndef TALLY_HV_IOMMU_H
#define TALLY_HV_IOMMU_H

#include "abi/handoff.h"

/* Tables, and queues and a view of the registers of each that the loader names. 0, or -E_NOMEM. */
int iommu_init(const struct handoff *handoff);

/* Switches all on; on L0's own tables. What fails is logged, and then none is on. */
void iommu_start(void);

/* Whether devices are kept out. */
bool iommu_protects(void);

#endif

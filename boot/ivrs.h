/* SPDX-License-Identifier: MIT */
/* The ACPI table IVRS, by which firmware describes AMD's IOMMUs: 48882 rev. 3.08 §5.2. Pure, as config.c. */
#ifndef TALLY_BOOT_IVRS_H
#define TALLY_BOOT_IVRS_H

#include "abi/handoff.h"

#define IVRS_MAX_BYTES 65536

/*
 * The IOMMUs of a table of which `bytes` may be read, in `units`, IOMMU_MAX of them, and their number in *count. An IOMMU
 * is described by up to three blocks (IVHD of type 10h, 11h and 40h); what they say must agree. What a block says about
 * devices is not looked at: all devices are to be treated alike.
 * NULL, or the reason why the table is no good; then *count is 0.
 */
const char *ivrs_parse(const void *table, size_t bytes, unsigned int phys_bits,
		       struct iommu_unit *units, u32 *count);

/* Makes the table one that no driver looks for, with a right checksum. `bytes` as above, of a table that was parsed. */
void ivrs_hide(void *table);

#endif

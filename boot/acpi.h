/* SPDX-License-Identifier: MIT */
/* The firmware's ACPI tables. ACPI specification 6.5, §5.2. */
#ifndef TALLY_BOOT_ACPI_H
#define TALLY_BOOT_ACPI_H

#include "types.h"

/* §5.2.6 */
struct acpi_table {
	u32 signature;
	u32 length;
	u8 revision;
	u8 checksum;
	u8 other[26];
} PACKED;

#define ACPI_SIGNATURE(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* So many bytes, at most 8, at an offset that need not be aligned. */
u64 acpi_read(const void *table, u32 offset, u32 bytes);

/* Table *n or the next one that the root table names, and *n is behind it then; NULL behind the last one. Begin with 0. */
struct acpi_table *acpi_next(u32 *n);

/* Calls it with the tables writable, which firmware may have made read-only. No boot services inside. */
void acpi_edit(void (*edit)(void));

/* After a change, or for ever. */
void acpi_update_checksum(struct acpi_table *table);

#endif

/* SPDX-License-Identifier: MIT */
/* The firmware's ACPI tables, as an operating system finds them. */
#ifndef GUEST_ACPI_H
#define GUEST_ACPI_H

#include "types.h"

struct acpi_table {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	u8 rest[26];
} PACKED;

/* Table number i of the XSDT; NULL: there are fewer, or there is no XSDT. */
const struct acpi_table *acpi_table(u32 i);

#endif

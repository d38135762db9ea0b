/* SPDX-License-Identifier: MIT */
/* ACPI specification 6.5, §5.2. */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>

#include "guest/lib/acpi.h"

void acpi_find_root(EFI_SYSTEM_TABLE *table);

#define RSDP_XSDT 24 /* offset */

#define ADDRESS_BYTES 8ull

static const struct acpi_table *xsdt;

static const struct acpi_table *read_address(const u8 *at)
{
	u64 address;

	__builtin_memcpy(&address, at, ADDRESS_BYTES);
	return (const struct acpi_table *)address;
}

void acpi_find_root(EFI_SYSTEM_TABLE *table)
{
	/* 8868E871-E4F1-11D3-BC22-0080C73C8881: ACPI 2.0 and later */
	static const u64 acpi_20[] = {0x11d3e4f18868e871, 0x81883cc7800022bc};
	u64 guid[2];

	for (UINTN i = 0; i < table->NumberOfTableEntries; i++) {
		const EFI_CONFIGURATION_TABLE *t = &table->ConfigurationTable[i];

		__builtin_memcpy(guid, &t->VendorGuid, sizeof(guid));
		if (guid[0] == acpi_20[0] && guid[1] == acpi_20[1])
			xsdt = read_address((const u8 *)t->VendorTable + RSDP_XSDT);
	}
}

const struct acpi_table *acpi_table(u32 i)
{
	if (!xsdt || sizeof(*xsdt) + (i + 1) * ADDRESS_BYTES > xsdt->length)
		return NULL;
	return read_address((const u8 *)(xsdt + 1) + i * ADDRESS_BYTES);
}

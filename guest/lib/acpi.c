/* SPDX-License-Identifier: MIT */
/* ACPI specification 6.5, §5.2. */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>

#include "guest/lib/acpi.h"

void acpi_find_root(EFI_SYSTEM_TABLE *table);

#define RSDP_XSDT 24 /* offset */

static const struct acpi_table *xsdt;

void acpi_find_root(EFI_SYSTEM_TABLE *table)
{
	/* 8868E871-E4F1-11D3-BC22-0080C73C8881: ACPI 2.0 and later */
	static const u64 acpi_20[] = {0x11d3e4f18868e871, 0x81883cc7800022bc};
	u64 guid[2];

	for (UINTN i = 0; i < table->NumberOfTableEntries; i++) {
		const EFI_CONFIGURATION_TABLE *t = &table->ConfigurationTable[i];

		__builtin_memcpy(guid, &t->VendorGuid, sizeof(guid));
		if (guid[0] == acpi_20[0] && guid[1] == acpi_20[1])
			__builtin_memcpy(&xsdt, (const u8 *)t->VendorTable + RSDP_XSDT,
					 sizeof(xsdt));
	}
}

const struct acpi_table *acpi_table(u32 i)
{
	const struct acpi_table *found;

	if (!xsdt || sizeof(*xsdt) + (i + 1) * sizeof(found) > xsdt->length)
		return NULL;
	__builtin_memcpy(&found, (const u8 *)(xsdt + 1) + i * sizeof(found), sizeof(found));
	return found;
}

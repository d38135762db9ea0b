/* SPDX-License-Identifier: MIT */
#include "boot/acpi.h"

#include "boot/boot.h"
#include "x86/cr.h"

/* §5.2.5.3 */
#define RSDP_REVISION 15
#define RSDP_RSDT 16
#define RSDP_XSDT 24

#define ROOT_MAX_BYTES 0x10000

u64 acpi_read(const void *table, u32 offset, u32 bytes)
{
	u64 value = 0;

	CopyMem(&value, (u8 *)(uintptr_t)table + offset, bytes);
	return value;
}

/* The XSDT, or without it the RSDT, which has entries of 4 bytes. */
static const struct acpi_table *find_root(u32 *entry_bytes)
{
	EFI_GUID acpi_2 = ACPI_20_TABLE_GUID, acpi_1 = ACPI_TABLE_GUID;
	void *rsdp;
	u64 xsdt;

	if ((EFI_ERROR(LibGetSystemConfigurationTable(&acpi_2, &rsdp)) &&
	     EFI_ERROR(LibGetSystemConfigurationTable(&acpi_1, &rsdp))) ||
	    CompareMem(rsdp, "RSD PTR ", 8) != 0)
		return NULL;
	xsdt = acpi_read(rsdp, RSDP_REVISION, 1) >= 2 ? acpi_read(rsdp, RSDP_XSDT, 8) : 0;
	*entry_bytes = xsdt ? 8 : 4;
	return (const struct acpi_table *)(uintptr_t)(xsdt ? xsdt : acpi_read(rsdp, RSDP_RSDT, 4));
}

struct acpi_table *acpi_next(u32 *n)
{
	u32 entry_bytes = 0;
	const struct acpi_table *root = find_root(&entry_bytes);

	while (root && root->length <= ROOT_MAX_BYTES &&
	       sizeof(*root) + (*n + 1ull) * entry_bytes <= root->length) {
		u64 address =
			acpi_read(root, (u32)sizeof(*root) + (*n)++ * entry_bytes, entry_bytes);

		if (address)
			return (struct acpi_table *)(uintptr_t)address;
	}
	return NULL;
}

void acpi_edit(void (*edit)(void))
{
	u64 cr0;

	asm volatile("cli; mov %%cr0, %0" : "=r"(cr0) : : "memory");
	asm volatile("mov %0, %%cr0" : : "r"(cr0 & ~CR0_WP) : "memory");
	edit();
	asm volatile("mov %0, %%cr0; sti" : : "r"(cr0) : "memory");
}

void acpi_update_checksum(struct acpi_table *table)
{
	u8 sum = 0;

	table->checksum = 0;
	for (u32 i = 0; i < table->length; i++)
		sum = (u8)(sum + ((u8 *)table)[i]);
	table->checksum = (u8)-sum;
}

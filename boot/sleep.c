/* SPDX-License-Identifier: MIT */
/*
 * ACPI's sleep states. S2 and S3 keep memory, but the CPUs come back through the firmware and go on where the OS has told
 * it, without L0. So they are taken out of the tables, and L0 is told what else may be written to the registers.
 */
#include "boot/aml.h"
#include "boot/boot.h"

/* ACPI specification 6.5, §5.2.6. */
struct acpi_table {
	u32 signature;
	u32 length;
	u8 revision;
	u8 checksum;
	u8 other[26];
} PACKED;

#define SIGNATURE(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* Offsets, §5.2.5.3 and §5.2.9. */
#define RSDP_REVISION 15
#define RSDP_RSDT 16
#define RSDP_XSDT 24
#define FADT_DSDT 40
#define FADT_PM1_CNT(n) (64u + 4 * (n))
#define FADT_X_DSDT 140
#define FADT_X_PM1_CNT(n)                                                                          \
	(172u + 12 * (n)) /* a generic address: space, width, offset, size, address */
#define GAS_ADDRESS 4
#define GAS_SYSTEM_IO 1

static u64 read_at(const void *table, u32 offset, u32 bytes)
{
	u64 value = 0;

	BS->CopyMem(&value, (u8 *)(uintptr_t)table + offset, bytes);
	return value;
}

/* The n-th table that the root table names; NULL behind the last one. */
static struct acpi_table *table_at(const struct acpi_table *root, u32 n, u32 entry_bytes)
{
	u32 at = (u32)sizeof(*root) + n * entry_bytes;

	return at + entry_bytes <= root->length
		       ? (struct acpi_table *)(uintptr_t)read_at(root, at, entry_bytes)
		       : NULL;
}

static const struct acpi_table *find_root(u32 *entry_bytes)
{
	EFI_GUID acpi_2 = ACPI_20_TABLE_GUID, acpi_1 = ACPI_TABLE_GUID;
	void *rsdp;
	u64 xsdt;

	if (EFI_ERROR(LibGetSystemConfigurationTable(&acpi_2, &rsdp)) &&
	    EFI_ERROR(LibGetSystemConfigurationTable(&acpi_1, &rsdp)))
		return NULL;
	xsdt = read_at(rsdp, RSDP_REVISION, 1) >= 2 ? read_at(rsdp, RSDP_XSDT, 8) : 0;
	*entry_bytes = xsdt ? 8 : 4;
	return (const struct acpi_table *)(uintptr_t)(xsdt ? xsdt : read_at(rsdp, RSDP_RSDT, 4));
}

/* PM1a_CNT or PM1b_CNT; 0 if it is not there, or no port. */
static u16 find_port(const struct acpi_table *fadt, u32 n)
{
	u64 port = read_at(fadt, FADT_PM1_CNT(n), 4);
	u32 wide = FADT_X_PM1_CNT(n);

	if (fadt->length >= wide + GAS_ADDRESS + 8 && read_at(fadt, wide + GAS_ADDRESS, 8))
		port = read_at(fadt, wide, 1) == GAS_SYSTEM_IO
			       ? read_at(fadt, wide + GAS_ADDRESS, 8)
			       : 0;
	return port < 0xffff ? (u16)port : 0;
}

static struct sleep_control sleep;
static bool has_s5;

/* What of one DSDT's or SSDT's states may be entered: S1 loses no state, S4 and S5 are off. */
static void note_states(struct acpi_table *table)
{
	static const char harmless[] = "145";
	u8 types[2];

	for (const char *state = harmless; *state; state++) {
		if (!aml_sleep_types((u8 *)(table + 1), table->length - sizeof(*table), *state,
				     types))
			continue;
		has_s5 |= *state == '5';
		for (unsigned int i = 0; i < 2; i++)
			sleep.allowed[i] = (u8)(sleep.allowed[i] | 1u << (types[i] & 7));
	}
}

static void hide_states(struct acpi_table *table)
{
	u8 *aml = (u8 *)(table + 1), sum = 0;
	size_t bytes = table->length - sizeof(*table);

	if (!(aml_hide_sleep_state(aml, bytes, '2') + aml_hide_sleep_state(aml, bytes, '3')))
		return;
	table->checksum = 0;
	for (u32 i = 0; i < table->length; i++)
		sum = (u8)(sum + ((u8 *)table)[i]);
	table->checksum = (u8)-sum;
}

/* The DSDT and all SSDTs; the FADT, on the way. */
static const struct acpi_table *for_each_code(void (*visit)(struct acpi_table *table))
{
	u32 entry_bytes = 0;
	const struct acpi_table *root = find_root(&entry_bytes), *fadt = NULL;
	struct acpi_table *table;

	for (u32 n = 0; root && (table = table_at(root, n, entry_bytes)); n++) {
		if (table->signature == SIGNATURE('S', 'S', 'D', 'T')) {
			visit(table);
		} else if (table->signature == SIGNATURE('F', 'A', 'C', 'P')) {
			u64 dsdt = table->length >= FADT_X_DSDT + 8 ? read_at(table, FADT_X_DSDT, 8)
								    : 0;

			if (!dsdt)
				dsdt = read_at(table, FADT_DSDT, 4);
			if (dsdt)
				visit((struct acpi_table *)(uintptr_t)dsdt);
			fadt = table;
		}
	}
	return fadt;
}

struct sleep_control sleep_find(void)
{
	const struct acpi_table *fadt = for_each_code(note_states);

	/* without a state S5, a machine that could not even be switched off would be worse */
	for (u32 n = 0; fadt && has_s5 && n < 2; n++)
		sleep.ports[n] = find_port(fadt, n);
	return sleep;
}

void sleep_hide(void)
{
	for_each_code(hide_states);
}

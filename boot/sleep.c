/* SPDX-License-Identifier: MIT */
/*
 * ACPI's sleep states. S2 and S3 keep memory, but the CPUs come back through the firmware and go on where the OS has told
 * it, without L0. So they are taken out of the tables, and L0 is told what else may be written to the registers.
 */
#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/boot.h"

/* Offsets, ACPI specification 6.5, §5.2.9. */
#define FADT_DSDT 40
#define FADT_PM1_CNT(n) (64u + 4 * (n))
#define FADT_X_DSDT 140
#define FADT_X_PM1_CNT(n)                                                                          \
	(172u + 12 * (n)) /* a generic address: space, width, offset, size, address */
#define GAS_ADDRESS 4
#define GAS_SYSTEM_IO 1

/* PM1a_CNT or PM1b_CNT; 0 if it is not there, or no port. */
static u16 find_port(const struct acpi_table *fadt, u32 n)
{
	u64 port = acpi_read(fadt, FADT_PM1_CNT(n), 4);
	u32 wide = FADT_X_PM1_CNT(n);

	if (fadt->length >= wide + GAS_ADDRESS + 8 && acpi_read(fadt, wide + GAS_ADDRESS, 8))
		port = acpi_read(fadt, wide, 1) == GAS_SYSTEM_IO
			       ? acpi_read(fadt, wide + GAS_ADDRESS, 8)
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
	u8 *aml = (u8 *)(table + 1);
	size_t bytes = table->length - sizeof(*table);

	if (aml_hide_sleep_state(aml, bytes, '2') + aml_hide_sleep_state(aml, bytes, '3'))
		acpi_update_checksum(table);
}

/* The DSDT and all SSDTs; the FADT, on the way. */
static const struct acpi_table *for_each_code(void (*visit)(struct acpi_table *table))
{
	const struct acpi_table *fadt = NULL;
	struct acpi_table *table;
	u32 n = 0;

	while ((table = acpi_next(&n))) {
		if (table->signature == ACPI_SIGNATURE('S', 'S', 'D', 'T')) {
			visit(table);
		} else if (table->signature == ACPI_SIGNATURE('F', 'A', 'C', 'P')) {
			u64 dsdt = table->length >= FADT_X_DSDT + 8
					   ? acpi_read(table, FADT_X_DSDT, 8)
					   : 0;

			if (!dsdt)
				dsdt = acpi_read(table, FADT_DSDT, 4);
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

static void hide(void)
{
	for_each_code(hide_states);
}

void sleep_hide(void)
{
	acpi_edit(hide);
}

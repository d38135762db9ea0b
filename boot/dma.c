/* SPDX-License-Identifier: MIT */
/* dma=protect: finds the IOMMUs, by the ACPI table that describes them, and hides that table from what comes later. */
#include "boot/acpi.h"
#include "boot/boot.h"
#include "boot/ivrs.h"
#include "x86/iommu.h"

#define NOT_PROTECTED L"dma=protect: our memory is not protected from devices: "

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc

static void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static u32 inl(u16 port)
{
	u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static u32 config_read(u32 device, u32 offset)
{
	outl(CONFIG_ADDRESS, 0x80000000u | device << 8 | offset);
	return inl(CONFIG_DATA);
}

static void config_write(u32 device, u32 offset, u32 value)
{
	outl(CONFIG_ADDRESS, 0x80000000u | device << 8 | offset);
	outl(CONFIG_DATA, value);
}

static struct acpi_table *find_ivrs(void)
{
	struct acpi_table *table;
	u32 n = 0;

	do
		table = acpi_next(&n);
	while (table && table->signature != ACPI_SIGNATURE('I', 'V', 'R', 'S'));
	return table;
}

/*
 * What the machine says itself: its registers are where the table has them, and stay there; they are registers; and nobody
 * uses it. NULL, or the reason.
 */
static const char *look_at(const struct iommu_unit *unit)
{
	volatile const u64 *registers = (volatile const u64 *)(uintptr_t)unit->mmio_hpa;
	u32 low = unit->capability + IOMMU_CAPABILITY_BASE_LOW;

	/* the way to other segments' configuration space is memory-mapped; there the firmware has to have locked it */
	if (!unit->segment && unit->capability <= 0xf0 && !(unit->capability % 4) &&
	    (config_read(unit->device, unit->capability) & 0xff) == IOMMU_CAPABILITY_ID) {
		u32 high = unit->capability + IOMMU_CAPABILITY_BASE_HIGH;
		u64 base = config_read(unit->device, low) | (u64)config_read(unit->device, high)
								    << 32;

		if (!(base & (u64)IOMMU_CAPABILITY_BASE_ENABLE)) {
			config_write(unit->device, high, (u32)(unit->mmio_hpa >> 32));
			config_write(unit->device, low,
				     (u32)unit->mmio_hpa | (u32)IOMMU_CAPABILITY_BASE_ENABLE);
		} else if (ALIGN_DOWN(base, IOMMU_MMIO_BYTES) != unit->mmio_hpa) {
			return "an IOMMU is not where the firmware's table IVRS has it";
		}
	}
	if (registers[IOMMU_CONTROL / 8] == ~0ull)
		return "an IOMMU does not answer";
	if (registers[IOMMU_CONTROL / 8] & IOMMU_CONTROL_ENABLE)
		return "the firmware uses the IOMMU itself: disable its \"DMA protection\"";
	return NULL;
}

static struct acpi_table *ivrs;

u32 dma_find(u8 phys_bits, struct iommu_unit *units)
{
	const char *problem;
	u32 count;

	ivrs = find_ivrs();
	if (!ivrs) {
		SAY(NOT_PROTECTED L"there is no AMD IOMMU, or the firmware has disabled it");
		return 0;
	}
	problem = ivrs_parse(ivrs, IVRS_MAX_BYTES,
			     phys_bits < CORE_MAX_PHYS_BITS ? phys_bits : CORE_MAX_PHYS_BITS, units,
			     &count);
	if (problem)
		SAY(NOT_PROTECTED L"the firmware's table IVRS is no good: %a", problem);
	for (u32 i = 0; !problem && i < count; i++) {
		problem = look_at(&units[i]);
		if (problem)
			SAY(NOT_PROTECTED L"%a", problem);
	}
	return problem ? 0 : count;
}

static void hide(void)
{
	ivrs_hide(ivrs);
}

void dma_hide(void)
{
	acpi_edit(hide);
}

/* SPDX-License-Identifier: MIT */
#include "boot/ivrs.h"
#include "x86/iommu.h"

#define ACPI_HEADER_BYTES 36
#define ACPI_LENGTH 4
#define ACPI_CHECKSUM 9
#define IVRS_HEADER_BYTES 48

#define BLOCK_HEADER_BYTES 4
#define BLOCK_LENGTH 2
#define IVHD_10 0x10
#define IVHD_11 0x11
#define IVHD_40 0x40
#define IVHD_10_BYTES 24
#define IVHD_11_BYTES 40
#define IVHD_FLAGS 1
#define IVHD_DEVICE 4
#define IVHD_CAPABILITY 6
#define IVHD_BASE 8
#define IVHD_SEGMENT 16
#define IVHD_10_FEATURES 20 /* IOMMU feature information */
#define IVHD_11_FEATURES 24 /* as the register */

/* of type 10h, numbers of counters and of banks of them: both not 0 if there are any */
#define FEATURES_10_COUNTERS BITS(16, 13)
#define FEATURES_10_BANKS BITS(22, 17)

static const u8 ivrs[4] = {'I', 'V', 'R', 'S'};
static const u8 hidden[4] = {'T', 'A', 'L', 'Y'};

/* Nothing in the table is aligned. */
static u64 field(const u8 *at, unsigned int bytes)
{
	u64 value = 0;

	while (bytes--)
		value = value << 8 | at[bytes];
	return value;
}

static u8 sum(const u8 *at, size_t bytes)
{
	u8 total = 0;

	while (bytes--)
		total = (u8)(total + *at++);
	return total;
}

static bool has_counters(const u8 *block)
{
	u64 features;

	if (block[0] != IVHD_10)
		return field(block + IVHD_11_FEATURES, 8) & IOMMU_FEATURE_COUNTERS;
	features = field(block + IVHD_10_FEATURES, 4);
	return (features & FEATURES_10_COUNTERS) && (features & FEATURES_10_BANKS);
}

static struct iommu_unit unit_of(const u8 *block)
{
	return (struct iommu_unit){
		.mmio_hpa = field(block + IVHD_BASE, 8),
		.mmio_bytes = has_counters(block) ? IOMMU_MMIO_BYTES_COUNTERS : IOMMU_MMIO_BYTES,
		.segment = (u16)field(block + IVHD_SEGMENT, 2),
		.device = (u16)field(block + IVHD_DEVICE, 2),
		.capability = (u16)field(block + IVHD_CAPABILITY, 2),
		.type = block[0],
		.flags = block[IVHD_FLAGS],
	};
}

/* The block of the highest type tells most; NULL or the reason. */
static const char *add(struct iommu_unit *units, u32 *count, struct iommu_unit unit, u64 limit)
{
	if (unit.mmio_hpa % unit.mmio_bytes || !unit.mmio_hpa || unit.mmio_hpa >= limit)
		return "the address of an IOMMU's registers in it is not possible";
	for (u32 i = 0; i < *count; i++) {
		if (units[i].segment == unit.segment && units[i].device == unit.device) {
			if (units[i].mmio_hpa != unit.mmio_hpa)
				return "it gives one IOMMU two addresses";
			if (units[i].mmio_bytes > unit.mmio_bytes)
				unit.mmio_bytes = units[i].mmio_bytes;
			if (unit.type < units[i].type) {
				units[i].mmio_bytes = unit.mmio_bytes;
				return NULL;
			}
			units[i] = unit;
			return NULL;
		}
	}
	if (*count == IOMMU_MAX)
		return "it has more IOMMUs than can be used";
	units[(*count)++] = unit;
	return NULL;
}

static const char *overlap(const struct iommu_unit *units, u32 count)
{
	for (u32 i = 0; i < count; i++)
		for (u32 j = 0; j < i; j++)
			if (units[i].mmio_hpa < units[j].mmio_hpa + units[j].mmio_bytes &&
			    units[j].mmio_hpa < units[i].mmio_hpa + units[i].mmio_bytes)
				return "it gives two IOMMUs the same registers";
	return NULL;
}

static const char *parse(const u8 *table, size_t bytes, u64 limit, struct iommu_unit *units,
			 u32 *count)
{
	u64 length;

	if (bytes < IVRS_HEADER_BYTES || field(table, sizeof(ivrs)) != field(ivrs, sizeof(ivrs)))
		return "it has no header";
	length = field(table + ACPI_LENGTH, 4);
	if (length < IVRS_HEADER_BYTES || length > bytes || length > IVRS_MAX_BYTES)
		return "its length is wrong";
	if (sum(table, length))
		return "its checksum is wrong";
	for (u64 at = IVRS_HEADER_BYTES, next; at < length; at = next) {
		const u8 *block = table + at;
		const char *problem;
		u64 least;

		if (length - at < BLOCK_HEADER_BYTES)
			return "it ends within a block";
		next = at + field(block + BLOCK_LENGTH, 2);
		least = block[0] == IVHD_10			     ? IVHD_10_BYTES
			: block[0] == IVHD_11 || block[0] == IVHD_40 ? IVHD_11_BYTES
								     : BLOCK_HEADER_BYTES;
		if (next - at < least || next > length)
			return "the length of a block in it is wrong";
		if (least == BLOCK_HEADER_BYTES)
			continue; /* memory that devices need, which they have; or of a later specification */
		problem = add(units, count, unit_of(block), limit);
		if (problem)
			return problem;
	}
	return *count ? overlap(units, *count) : "it has no IOMMU";
}

const char *ivrs_parse(const void *table, size_t bytes, unsigned int phys_bits,
		       struct iommu_unit *units, u32 *count)
{
	const char *problem;

	*count = 0;
	problem = parse(table, bytes, BIT(phys_bits), units, count);
	if (problem)
		*count = 0;
	return problem;
}

void ivrs_hide(void *table)
{
	u8 *bytes = table;

	for (unsigned int i = 0; i < sizeof(hidden); i++) {
		bytes[ACPI_CHECKSUM] = (u8)(bytes[ACPI_CHECKSUM] + bytes[i] - hidden[i]);
		bytes[i] = hidden[i];
	}
}

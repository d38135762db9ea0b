/* SPDX-License-Identifier: MIT */
/* Tables IVRS, right and wrong ones, and what they say, found out block by block, in several passes. */
#ifndef TALLY_IVRS_NAIVE_H
#define TALLY_IVRS_NAIVE_H

#include <stdlib.h>
#include <string.h>

#include "boot/ivrs.h"
#include "test.h"

#define IVRS_TEST_MAX 4096

static inline u64 le(const u8 *at, unsigned int bytes)
{
	u64 value = 0;

	memcpy(&value, at, bytes);
	return value;
}

static inline void put_le(u8 *at, u64 value, unsigned int bytes)
{
	memcpy(at, &value, bytes);
}

static inline void fix_checksum(u8 *table, size_t length)
{
	u8 total = 0;

	table[9] = 0;
	for (size_t i = 0; i < length; i++)
		total = (u8)(total + table[i]);
	table[9] = (u8)-total;
}

/* ---- what a table says ---- */

static inline bool naive_is_ivhd(const u8 *block)
{
	return block[0] == 0x10 || block[0] == 0x11 || block[0] == 0x40;
}

static inline u32 naive_mmio_bytes(const u8 *block)
{
	bool counters = block[0] == 0x10
				? (le(block + 20, 4) >> 13 & 15) && (le(block + 20, 4) >> 17 & 63)
				: (le(block + 24, 8) >> 9 & 1);

	return counters ? 512 * 1024 : 16 * 1024;
}

static inline bool naive_same(const u8 *a, const u8 *b)
{
	return le(a + 4, 2) == le(b + 4, 2) && le(a + 16, 2) == le(b + 16, 2);
}

/* The number of IOMMUs, or -1: the table is no good. */
static inline int naive_ivrs(const u8 *table, size_t bytes, unsigned int phys_bits,
			     struct iommu_unit *units)
{
	const u8 *ivhd[IVRS_TEST_MAX / 4];
	unsigned int ivhds = 0;
	size_t length, at;
	int count = 0;
	u8 total = 0;

	if (bytes < 48 || strncmp((const char *)table, "IVRS", 4) != 0)
		return -1;
	length = le(table + 4, 4);
	if (length < 48 || length > bytes)
		return -1;
	for (size_t i = 0; i < length; i++)
		total = (u8)(total + table[i]);
	if (total)
		return -1;
	for (at = 48; at + 4 <= length; at += le(table + at + 2, 2)) {
		size_t block = le(table + at + 2, 2);

		if (block < 4 || at + block > length)
			return -1;
		if (!naive_is_ivhd(table + at))
			continue;
		if (block < (table[at] == 0x10 ? 24u : 40u))
			return -1;
		ivhd[ivhds++] = table + at;
	}
	if (at != length)
		return -1;
	for (unsigned int i = 0; i < ivhds; i++) {
		struct iommu_unit unit = {0};
		const u8 *best = ivhd[i];
		bool first = true;

		for (unsigned int k = 0; k < ivhds; k++) {
			if (!naive_same(ivhd[i], ivhd[k]))
				continue;
			first = first && k >= i;
			if (le(ivhd[k] + 8, 8) != le(ivhd[i] + 8, 8))
				return -1;
			best = ivhd[k][0] > best[0] || (ivhd[k][0] == best[0] && k > i) ? ivhd[k]
											: best;
			if (naive_mmio_bytes(ivhd[k]) > unit.mmio_bytes)
				unit.mmio_bytes = naive_mmio_bytes(ivhd[k]);
		}
		if (!first)
			continue;
		unit.mmio_hpa = le(best + 8, 8);
		unit.segment = (u16)le(best + 16, 2);
		unit.device = (u16)le(best + 4, 2);
		unit.capability = (u16)le(best + 6, 2);
		unit.type = best[0];
		unit.flags = best[1];
		if (!unit.mmio_hpa || unit.mmio_hpa % unit.mmio_bytes ||
		    unit.mmio_hpa + unit.mmio_bytes < unit.mmio_hpa ||
		    unit.mmio_hpa + unit.mmio_bytes > 1ull << phys_bits || count == IOMMU_MAX)
			return -1;
		units[count++] = unit;
	}
	for (int i = 0; i < count; i++)
		for (int k = 0; k < count; k++)
			if (k != i && units[k].mmio_hpa >= units[i].mmio_hpa &&
			    units[k].mmio_hpa < units[i].mmio_hpa + units[i].mmio_bytes)
				return -1;
	return count ? count : -1;
}

/* ---- tables ---- */

static inline size_t random_block(u8 *at)
{
	static const u8 types[] = {0x10, 0x11, 0x40, 0x10, 0x11, 0x20, 0x22, 0x77};
	u8 type = types[test_below(ARRAY_SIZE(types))];
	size_t length = (type == 0x10			? 24
			 : type == 0x11 || type == 0x40 ? 40
							: 4) +
			test_below(9) * 4;

	for (size_t i = 0; i < length; i++)
		at[i] = (u8)test_random();
	at[0] = type;
	put_le(at + 2, length, 2);
	if (length < 24)
		return length;
	put_le(at + 4, 2 + 8 * test_below(3), 2);
	put_le(at + 16, test_below(8) ? 0 : test_below(3), 2);
	put_le(at + 8, 0xfd000000 + le(at + 4, 2) * 0x100000 + le(at + 16, 2) * 0x80000, 8);
	if (test_below(24) == 0)
		put_le(at + 8, test_random() >> test_below(64) & ~(test_below(2) ? 0x3fffull : 0),
		       8);
	put_le(at + 20, test_below(4) ? 0 : test_random(), 4);
	if (length >= 40)
		put_le(at + 24, test_below(4) ? 0x1ff : test_random(), 8);
	return length;
}

static inline size_t random_ivrs(u8 *table)
{
	size_t length = 48;

	memset(table, 0, IVRS_TEST_MAX);
	memcpy(table, "IVRS", 4);
	for (u64 n = test_below(test_below(8) ? 8 : 60); n; n--)
		length += random_block(table + length);
	put_le(table + 4, length, 4);
	if (test_below(4) == 0)
		table[test_below(length)] ^= (u8)(1 << test_below(8));
	if (test_below(8))
		fix_checksum(table, length);
	return length;
}

/* The parser may read no byte behind the first `bytes`; nothing of it may be left of a table that is no good. */
static inline int check_ivrs(const u8 *table, size_t bytes, unsigned int phys_bits)
{
	struct iommu_unit got[IOMMU_MAX] = {0}, want[IOMMU_MAX] = {0};
	u8 *copy = malloc(bytes ? bytes : 1);
	const char *problem;
	u32 count = 77;
	int wanted;

	memcpy(copy, table, bytes);
	problem = ivrs_parse(copy, bytes, phys_bits, got, &count);
	wanted = naive_ivrs(copy, bytes, phys_bits, want);
	CHECK_EQ(!problem, wanted > 0);
	CHECK_EQ(count, wanted > 0 ? wanted : 0);
	CHECK(wanted < 0 || !memcmp(got, want, (size_t)wanted * sizeof(*got)));
	free(copy);
	return wanted;
}

#endif

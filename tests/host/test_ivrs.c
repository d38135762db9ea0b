/* SPDX-License-Identifier: MIT */
/* The firmware's description of the IOMMUs: each thing that can be wrong in it, and random ones against a second parser. */
#include "ivrs_naive.h"

/* Two IOMMUs: the first in all three forms, the second in the oldest, with counters; and a block about memory. */
static size_t good_table(u8 *table)
{
	static const struct {
		u8 type;
		u16 device;
		u64 base;
	} blocks[] = {{0x10, 2, 0xfeb80000},
		      {0x10, 0x4002, 0xfec80000},
		      {0x11, 2, 0xfeb80000},
		      {0x20, 2, 0},
		      {0x40, 2, 0xfeb80000}};
	size_t at = 48;

	memset(table, 0, IVRS_TEST_MAX);
	memcpy(table, "IVRS", 4);
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		u8 *block = table + at;
		size_t length = blocks[i].type == 0x10	 ? 24 + 4
				: blocks[i].type == 0x20 ? 32
							 : 40 + 8;

		block[0] = blocks[i].type;
		block[1] = (u8)(0x80 + i);
		put_le(block + 2, length, 2);
		put_le(block + 4, blocks[i].device, 2);
		if (block[0] != 0x20) {
			put_le(block + 6, 0x40, 2);
			put_le(block + 8, blocks[i].base, 8);
		}
		at += length;
	}
	put_le(table + 48 + 28 + 20, 2 << 17 | 4 << 13, 4);
	put_le(table + 4, at, 4);
	fix_checksum(table, at);
	return at;
}

TEST(ivrs_good)
{
	struct iommu_unit units[IOMMU_MAX];
	u8 table[IVRS_TEST_MAX];
	size_t length = good_table(table);
	u32 count;

	CHECK(!ivrs_parse(table, length, 40, units, &count));
	CHECK_EQ(count, 2);
	CHECK_EQ(units[0].mmio_hpa, 0xfeb80000);
	CHECK_EQ(units[0].mmio_bytes, 0x4000);
	CHECK_EQ(units[0].type, 0x40);
	CHECK_EQ(units[0].flags, 0x84);
	CHECK_EQ(units[0].capability, 0x40);
	CHECK_EQ(units[1].mmio_hpa, 0xfec80000);
	CHECK_EQ(units[1].mmio_bytes, 0x80000);
	CHECK_EQ(units[1].device, 0x4002);
	CHECK_EQ(check_ivrs(table, length, 40), 2);
	CHECK_EQ(check_ivrs(table, length + 7, 40), 2);
	/* hidden: another table, which is right */
	ivrs_hide(table);
	CHECK(!memcmp(table, "TALY", 4));
	CHECK(ivrs_parse(table, length, 40, units, &count));
	CHECK_EQ(count, 0);
	memcpy(table, "IVRS", 4);
	table[9] = (u8)(table[9] - ('I' + 'V' + 'R' + 'S') + ('T' + 'A' + 'L' + 'Y'));
	CHECK_EQ(check_ivrs(table, length, 40), 2);
}

static void bad(u8 *table, size_t length, const char *why)
{
	struct iommu_unit units[IOMMU_MAX];
	const char *problem;
	u32 count;

	fix_checksum(table, length);
	problem = ivrs_parse(table, length, 40, units, &count);
	CHECK(problem && !strcmp(problem, why));
	CHECK_EQ(check_ivrs(table, length, 40), -1);
}

TEST(ivrs_bad)
{
	u8 table[IVRS_TEST_MAX];
	size_t length = good_table(table), two = 48 + 28;

#define BAD(offset, value, bytes, why)                                                             \
	do {                                                                                       \
		good_table(table);                                                                 \
		put_le(table + (offset), value, bytes);                                            \
		bad(table, length, why);                                                           \
	} while (0)
	BAD(3, 'X', 1, "it has no header");
	BAD(4, 47, 4, "its length is wrong");
	BAD(4, length + 1, 4, "its length is wrong");
	BAD(4, 0xffffffff, 4, "its length is wrong");
	BAD(50, 0, 2, "the length of a block in it is wrong");
	BAD(50, 3, 2, "the length of a block in it is wrong");
	BAD(50, 23, 2, "the length of a block in it is wrong");
	BAD(50, length, 2, "the length of a block in it is wrong");
	BAD(two + 28 + 2, 39, 2, "the length of a block in it is wrong");
	BAD(48 + 8, 0, 8, "the address of an IOMMU's registers in it is not possible");
	BAD(48 + 8, 0xfeb81000, 8, "the address of an IOMMU's registers in it is not possible");
	BAD(48 + 8, BIT(40), 8, "the address of an IOMMU's registers in it is not possible");
	BAD(48 + 8, ~0x3fffull, 8, "the address of an IOMMU's registers in it is not possible");
	BAD(two + 8, BIT(40) - 0x4000, 8,
	    "the address of an IOMMU's registers in it is not possible");
	BAD(48 + 8, 0xfeb90000, 8, "it gives one IOMMU two addresses");
	BAD(two + 8, 0xfeb80000, 8, "it gives two IOMMUs the same registers");
#undef BAD
}

TEST(ivrs_ends_anywhere)
{
	u8 table[IVRS_TEST_MAX];
	size_t length = good_table(table);

	for (size_t bytes = 0; bytes < length; bytes++) {
		/* fewer bytes than it says that it has; and as many */
		CHECK_EQ(check_ivrs(table, bytes, 40), -1);
		good_table(table);
		put_le(table + 4, bytes, 4);
		if (bytes >= 10)
			fix_checksum(table, bytes);
		check_ivrs(table, bytes, 40);
		good_table(table);
	}
}

TEST(ivrs_more_than_can_be_used)
{
	for (unsigned int n = IOMMU_MAX - 1; n <= IOMMU_MAX + 1; n++) {
		u8 table[IVRS_TEST_MAX] = "IVRS";

		for (unsigned int i = 0; i < n; i++) {
			u8 *block = table + 48 + 24 * (size_t)i;

			block[0] = 0x10;
			put_le(block + 2, 24, 2);
			put_le(block + 4, 8 * i, 2);
			put_le(block + 8, 0xfd000000 + 0x4000 * i, 8);
		}
		put_le(table + 4, 48 + 24 * n, 4);
		fix_checksum(table, 48 + 24 * n);
		CHECK_EQ(check_ivrs(table, sizeof(table), 40), n > IOMMU_MAX ? -1 : (int)n);
	}
}

TEST(ivrs_random)
{
	u8 table[IVRS_TEST_MAX];
	unsigned int good = 0;

	for (unsigned int i = 0; i < 60000; i++) {
		size_t length = random_ivrs(table);

		length -= test_below(16) ? 0 : test_below(length + 1);
		good += check_ivrs(table, length, 32 + (unsigned int)test_below(16)) > 0;
	}
	CHECK(good > 5000 && good < 55000);
}

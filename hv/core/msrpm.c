/* SPDX-License-Identifier: MIT */
#include "hv/core/msrpm.h"

#define BLOCK_MSRS 0x2000u

int msrpm_bit(u32 msr)
{
	/* The three vectors of APM2 §15.11, in the order in which they lie in the map. */
	static const u32 first[] = {0, 0xc0000000, 0xc0010000};

	for (unsigned int i = 0; i < ARRAY_SIZE(first); i++)
		if (msr - first[i] < BLOCK_MSRS)
			return (int)(2 * (i * BLOCK_MSRS + (msr - first[i])));
	return -E_RANGE;
}

static void set_bit_to(u8 *map, unsigned int bit, bool value)
{
	u8 mask = (u8)(1u << (bit % 8));

	map[bit / 8] = (u8)(value ? map[bit / 8] | mask : map[bit / 8] & ~mask);
}

static bool test_bit(const u8 *map, unsigned int bit)
{
	return (map[bit / 8] >> (bit % 8)) & 1;
}

int msrpm_set(u8 *map, u32 msr, bool read, bool write)
{
	int bit = msrpm_bit(msr);

	if (bit < 0)
		return bit;
	set_bit_to(map, (unsigned int)bit, read);
	set_bit_to(map, (unsigned int)bit + 1, write);
	return 0;
}

bool msrpm_intercepts(const u8 *map, u32 msr, bool write)
{
	int bit = msrpm_bit(msr);

	return bit < 0 || test_bit(map, (unsigned int)bit + write);
}

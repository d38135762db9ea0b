/* SPDX-License-Identifier: MIT */
/* Sleep states: in ACPI's byte code, and in a write to a port. */
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"
#include "hv/core/sleep.h"
#include "test.h"

/* clang-format off */
static const u8 code[] = {
	/* a reference, which is no definition */
	0xa4, '_', 'S', '3', '_',
	/* Name (_S1_, Package () { One, Zero, 0, 0 }) */
	0x08, '_', 'S', '1', '_', 0x12, 0x06, 0x04, 0x01, 0x00, 0x00, 0x00,
	/* Name (\_S3_, Package () { 5, 0x16 }), with a length of two bytes, and a word */
	0x08, '\\', '_', 'S', '3', '_', 0x12, 0x48, 0x00, 0x02, 0x0a, 0x05, 0x0b, 0x16, 0x00,
	/* Name (_S4_, Package () { a call, ... }) */
	0x08, '_', 'S', '4', '_', 0x12, 0x06, 0x04, 'M', 'T', 'H', 'D',
	/* a device's _S3D, which is something else */
	0x08, '_', 'S', '3', 'D', 0x01,
	/* Name (_S5_, Package () { 7 ... and the end */
	0x08, '_', 'S', '5', '_', 0x12, 0x06, 0x04, 0x0a, 0x07,
};
/* clang-format on */

TEST(aml_sleep_states)
{
	u8 types[2];

	CHECK(aml_sleep_types(code, sizeof(code), '1', types));
	CHECK_EQ(types[0], 1);
	CHECK_EQ(types[1], 0);
	CHECK(aml_sleep_types(code, sizeof(code), '3', types));
	CHECK_EQ(types[0], 5);
	CHECK_EQ(types[1], 0x16);
	CHECK(!aml_sleep_types(code, sizeof(code), '2', types));
	CHECK(!aml_sleep_types(code, sizeof(code), '4', types));
	CHECK(!aml_sleep_types(code, sizeof(code), '5', types));
}

/* Each beginning of it is in memory of its own: not a byte more may be read. */
TEST(aml_cut_off)
{
	u8 types[2];

	for (size_t n = 0; n <= sizeof(code); n++) {
		u8 *part = malloc(n ? n : 1);

		memcpy(part, code, n);

		for (char state = '1'; state <= '5'; state++)
			aml_sleep_types(part, n, state, types);
		aml_hide_sleep_state(part, n, '3');
		free(part);
	}
}

TEST(aml_hidden)
{
	u8 copy[sizeof(code)], types[2];
	unsigned int changed = 0;

	memcpy(copy, code, sizeof(code));
	CHECK_EQ(aml_hide_sleep_state(copy, sizeof(copy), '2'), 0);
	CHECK_EQ(aml_hide_sleep_state(copy, sizeof(copy), '3'), 2);
	CHECK(!aml_sleep_types(copy, sizeof(copy), '3', types));
	CHECK(aml_sleep_types(copy, sizeof(copy), '1', types));
	for (size_t i = 0; i < sizeof(copy); i++)
		changed += copy[i] != code[i];
	CHECK_EQ(changed, 2);
	CHECK_EQ(aml_hide_sleep_state(copy, sizeof(copy), '3'), 0);
}

/* Every access near both registers and every value of their fields, against the registers written out byte by byte. */
TEST(sleep_writes)
{
	const struct sleep_control s = {{0x604, 0x800}, {1u << 0 | 1u << 2, 1u << 7}};
	static const u32 sizes[] = {1, 2, 4};
	static u8 map[IOPM_BYTES];

	sleep_add_to_map(&s, map);
	CHECK(sleep_is_in_map(&s, map));
	for (u32 port = 0x5fc; port < 0x810; port++) {
		for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
			for (u32 fields = 0; fields < 0x40; fields++) {
				u32 value = 0;
				bool hit = false, refused = false;

				for (u32 b = 0; b < sizes[i]; b++)
					value |= (port + b == 0x605 || port + b == 0x801 ? fields
											 : 0xdb)
						 << 8 * b;
				for (u32 b = 0; b < sizes[i]; b++) {
					u32 type = (fields >> 2) & 7;

					if (port + b == 0x605)
						refused = type != 0 && type != 2, hit = true;
					if (port + b == 0x801)
						refused = type != 7, hit = true;
				}
				CHECK_EQ(sleep_is_refused(&s, port, sizes[i], value),
					 refused && fields & 0x20);
				CHECK_EQ(iopm_intercepts(map, port, sizes[i]), hit);
				CHECK_EQ(sleep_register(&s, port, sizes[i]) >= 0, hit);
			}
		}
	}
}

TEST(sleep_without_ports)
{
	const struct sleep_control none = {0}, one = {.ports = {0x604}};
	static u8 map[IOPM_BYTES];

	CHECK(!sleep_is_guarded(&none));
	CHECK(sleep_is_guarded(&one));
	CHECK(sleep_is_in_map(&none, map));
	CHECK(!sleep_is_in_map(&one, map));
	CHECK(!sleep_is_refused(&none, 0, 2, ~0u));
	CHECK(!sleep_is_refused(&one, 0, 2, ~0u));
}

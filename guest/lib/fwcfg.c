/* SPDX-License-Identifier: MIT */
#include "guest/lib/fwcfg.h"

#include "guest/lib/cpu.h"

/* QEMU's docs/specs/fw_cfg.rst: a 16-bit selector, then the item's bytes one by one. */
#define PORT_SELECTOR 0x510
#define PORT_DATA 0x511
#define KEY_SIGNATURE 0x0000
#define KEY_DIRECTORY 0x0019
#define NAME_BYTES 56

static void select_item(u16 key)
{
	asm volatile("outw %0, %1" : : "a"(key), "Nd"((u16)PORT_SELECTOR));
}

static u32 read_big_endian(unsigned int bytes)
{
	u32 v = 0;

	while (bytes--)
		v = v << 8 | inb(PORT_DATA);
	return v;
}

static bool is_there(void)
{
	static const char signature[4] = {'Q', 'E', 'M', 'U'};
	bool same = true;

	select_item(KEY_SIGNATURE);
	for (u32 i = 0; i < sizeof(signature); i++)
		same &= inb(PORT_DATA) == (u8)signature[i];
	return same;
}

/* The whole field is read in any case: the next entry follows it. */
static bool read_name(const char *want)
{
	bool same = true, ended = false;

	for (u32 i = 0; i < NAME_BYTES; i++) {
		u8 c = inb(PORT_DATA);

		if (ended)
			continue;
		same &= c == (u8)want[i];
		ended = !c || !want[i];
	}
	return same;
}

u64 fwcfg_read(const char *name, char *to, u64 bytes)
{
	u32 files, size = 0;
	u16 key = 0;

	if (!is_there())
		return 0;
	select_item(KEY_DIRECTORY);
	files = read_big_endian(4);
	while (files-- && !key) {
		u16 its_key;

		size = read_big_endian(4);
		its_key = (u16)read_big_endian(2);
		read_big_endian(2);
		if (read_name(name))
			key = its_key;
	}
	if (!key)
		return 0;
	if (size < bytes)
		bytes = size;
	select_item(key);
	for (u64 i = 0; i < bytes; i++)
		to[i] = (char)inb(PORT_DATA);
	return bytes;
}

/* SPDX-License-Identifier: MIT */
/* What a freestanding compiler may call for assignments of structs (C11 §4). */
#include "types.h"

void *memset(void *to, int value, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);

void *memset(void *to, int value, size_t bytes)
{
	u64 pattern = (u8)value * 0x0101010101010101ull, words = bytes / 8, rest = bytes % 8;
	void *at = to;

	asm volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(pattern) : "memory");
	asm volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(pattern) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
	u64 words = bytes / 8, rest = bytes % 8;
	void *at = to;

	asm volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words) : : "memory");
	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(rest) : : "memory");
	return to;
}

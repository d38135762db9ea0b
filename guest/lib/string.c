/* SPDX-License-Identifier: MIT */
/* What a compiler may call on its own. Weak: newer versions of gnu-efi bring them along. */
#include "types.h"

void *memset(void *to, int value, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);

__attribute__((weak)) void *memset(void *to, int value, size_t bytes)
{
	void *at = to;

	asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
	return to;
}

__attribute__((weak)) void *memcpy(void *to, const void *from, size_t bytes)
{
	void *at = to;

	asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
	return to;
}

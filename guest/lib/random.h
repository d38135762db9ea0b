/* SPDX-License-Identifier: MIT */
/* Random numbers that can be had again: from the same random_state come the same. For guests of one file. */
#ifndef GUEST_RANDOM_H
#define GUEST_RANDOM_H

#include "types.h"

static u64 random_state;

static inline u64 rnd(void)
{
	u64 x = random_state += 0x9e3779b97f4a7c15ull; /* SplitMix64 */

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* 0 to n - 1 */
static inline u64 below(u64 n)
{
	return n ? (rnd() >> 8) % n : 0;
}

/* True once in n. */
static inline bool once_in(u64 n)
{
	return !below(n);
}

/* A bit is set once in 2^n. */
static inline u64 rnd_sparse(unsigned int n)
{
	u64 x = rnd();

	while (--n)
		x &= rnd();
	return x;
}

#define PICK(array) ((array)[below(ARRAY_SIZE(array))])

#endif

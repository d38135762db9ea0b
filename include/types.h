/* SPDX-License-Identifier: MIT */
/* The vocabulary every part shares: fixed-width types, layout assertions, bit helpers, error names. */
#ifndef TALLY_TYPES_H
#define TALLY_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define BIT(n) (1ull << (n))
#define BITS(hi, lo) ((~0ull >> (63 - (hi))) & (~0ull << (lo)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define ALIGN_DOWN(x, a) ((x) & ~((u64)(a)-1))
#define ALIGN_UP(x, a) ALIGN_DOWN((x) + (a)-1, a)

#define PACKED __attribute__((packed))
#define ALIGNED(n) __attribute__((aligned(n)))
#define NORETURN __attribute__((noreturn))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define FALLTHROUGH __attribute__((fallthrough))
#define NOINLINE __attribute__((noinline))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define PAGE_SHIFT 12
#define PAGE_SIZE (1ull << PAGE_SHIFT)
#define PAGE_2M (1ull << 21)
#define PAGE_1G (1ull << 30)

/* Negated on return, so that 0 stays "done". */
enum error {
	E_RANGE = 1,  /* a number or address out of range */
	E_NOMEM = 2,  /* a fixed table is full */
	E_FAULT = 3,  /* a guest access that must fault */
	E_INVAL = 4,  /* input that is malformed */
	E_UNSUPP = 5, /* architecturally legal, but not supported here */
	E_NOENT = 6,  /* not there */
	E_BUSY = 7,   /* already in use */
};

#endif

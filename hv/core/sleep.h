/* SPDX-License-Identifier: MIT */
/* ACPI's PM1a_CNT and PM1b_CNT, ports of 16 bits: which write puts the machine to sleep. ACPI specification 6.5, §4.8.3.2.1. */
#ifndef TALLY_CORE_SLEEP_H
#define TALLY_CORE_SLEEP_H

#include "abi/handoff.h"
#include "x86/svm.h"

/* Both fields are in the register's upper byte, so that is the one whose port is intercepted. */
#define SLEEP_BYTE(port) ((port) + 1u)
#define PM1_CNT_SLP_TYP BITS(4, 2)
#define PM1_CNT_SLP_EN BIT(5)

static inline bool sleep_is_guarded(const struct sleep_control *s)
{
	return s->ports[0] || s->ports[1];
}

/* Which of both registers an access of `bytes` at `port` is to, at least its upper byte: 0, 1, or -1 for none. */
static inline int sleep_register(const struct sleep_control *s, u32 port, u32 bytes)
{
	for (int i = 0; i < 2; i++)
		if (s->ports[i] && SLEEP_BYTE(s->ports[i]) - port < bytes)
			return i;
	return -1;
}

/* Whether that write begins a sleep from which the CPUs would come back without L0. */
static inline bool sleep_is_refused(const struct sleep_control *s, u32 port, u32 bytes, u32 value)
{
	int n = sleep_register(s, port, bytes);
	u32 upper = n < 0 ? 0 : value >> 8 * (SLEEP_BYTE(s->ports[n]) - port);

	return (upper & PM1_CNT_SLP_EN) && !(s->allowed[n] >> ((upper & PM1_CNT_SLP_TYP) >> 2) & 1);
}

/* Whether a permission map (APM2 §15.10.1: a bit for each port) has any of these ports. */
static inline bool iopm_intercepts(const u8 *map, u32 port, u32 bytes)
{
	for (u32 i = port; i < port + bytes; i++)
		if (map[i / 8] >> i % 8 & 1)
			return true;
	return false;
}

/* Whether it has all that L0 wants. */
static ALWAYS_INLINE bool sleep_is_in_map(const struct sleep_control *s, const u8 *map)
{
	for (int i = 0; i < 2; i++)
		if (s->ports[i] && !iopm_intercepts(map, SLEEP_BYTE(s->ports[i]), 1))
			return false;
	return true;
}

static inline void sleep_add_to_map(const struct sleep_control *s, u8 *map)
{
	for (int i = 0; i < 2; i++)
		if (s->ports[i])
			map[SLEEP_BYTE(s->ports[i]) / 8] |= (u8)(1u << SLEEP_BYTE(s->ports[i]) % 8);
}

#endif

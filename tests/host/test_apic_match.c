/* SPDX-License-Identifier: MIT */
/* Whom a command of the ICR reaches, against the manual's words written out (APM2 §16.5, §16.6, §16.14). */
#include "hv/core/apic_match.h"
#include "test.h"

#define CPUS 6

enum shorthand { NONE, SELF, ALL_AND_SELF, ALL_BUT_SELF }; /* ICR bits 19:18 */

/* A message as its sender meant it. */
struct message {
	enum shorthand shorthand;
	bool logical;
	u32 destination;
};

static u64 as_icr(const struct message *m)
{
	u64 icr = (u64)m->destination << 32 | (u64)m->shorthand << 18 | (u64)m->logical << 11;

	/* vector, delivery mode, level and trigger say nothing about whom it is for */
	return icr | (test_random() & 0xc7ff);
}

/* Flat: eight CPUs, a bit for each. */
static bool naive_flat(u32 destination, u32 logical_id)
{
	for (unsigned int bit = 0; bit < 8; bit++)
		if ((destination >> bit) % 2 == 1 && (logical_id >> bit) % 2 == 1)
			return true;
	return false;
}

/* Clusters, by number, of `members` CPUs with a bit for each. */
static bool naive_cluster(u32 destination, u32 logical_id, unsigned int members)
{
	if (destination >> members != logical_id >> members)
		return false;
	for (unsigned int bit = 0; bit < members; bit++)
		if ((destination >> bit) % 2 == 1 && (logical_id >> bit) % 2 == 1)
			return true;
	return false;
}

static bool naive_match(const struct message *m, const struct apic_identity *cpus, u32 from, u32 to)
{
	const struct apic_identity *cpu = &cpus[to];

	if (!cpu->enabled)
		return false;
	if (m->shorthand == SELF)
		return to == from;
	if (m->shorthand == ALL_AND_SELF)
		return true;
	if (m->shorthand == ALL_BUT_SELF)
		return to != from;
	if (m->destination == (cpus[from].x2 ? 0xffffffff : 0xff))
		return true;
	if (!m->logical)
		return m->destination == cpu->id;
	if (cpu->x2)
		return naive_cluster(m->destination, cpu->ldr, 16);
	switch (cpu->dfr >> 28) {
	case 0xf:
		return naive_flat(m->destination, cpu->ldr >> 24);
	default:
		return naive_cluster(m->destination, cpu->ldr >> 24, 4);
	}
}

enum mode { FLAT, CLUSTER, X2 };

/* A machine's CPUs are all in one mode; some may be disabled. */
static void random_machine(struct apic_identity *cpus, enum mode mode)
{
	for (u32 i = 0; i < CPUS; i++) {
		struct apic_identity *cpu = &cpus[i];

		cpu->x2 = mode == X2;
		cpu->enabled = test_below(8);
		if (mode == X2) {
			cpu->id = test_below(2) ? i : i << 4 | (u32)test_below(2) << 20;
			/* read-only there: made of the ID (§16.14) */
			cpu->ldr = (cpu->id >> 4) << 16 | 1u << (cpu->id & 0xf);
			cpu->dfr = ~0u;
		} else {
			cpu->id = (u32)test_below(2) ? i : (u32)test_below(255);
			/* CPUs of one cluster, of several, and some that software has given no name */
			cpu->ldr = test_below(4)
					   ? (u32)(test_below(3) << 4 | 1u << test_below(4)) << 24
					   : (u32)test_below(256) << 24;
			cpu->dfr = mode == FLAT ? ~0u : 0x0fffffff;
		}
	}
}

static struct message random_message(const struct apic_identity *cpus, enum mode mode)
{
	const struct apic_identity *cpu = &cpus[test_below(CPUS)];
	struct message m = {.shorthand = test_below(3) ? NONE : (enum shorthand)test_below(4),
			    .logical = test_below(2)};

	switch (test_below(4)) {
	case 0:
		m.destination = mode == X2 ? ~0u : 0xff;
		break;
	case 1:
		m.destination = mode == X2 ? (u32)test_below(1 << 20) : (u32)test_below(256);
		break;
	default: /* somebody, and in logical mode perhaps several of a cluster */
		m.destination = !m.logical ? cpu->id : mode == X2 ? cpu->ldr : cpu->ldr >> 24;
		if (m.logical && test_below(2))
			m.destination |= (u32)test_below(mode == X2 ? 1 << 16 : 16);
	}
	return m;
}

static u32 random_round(enum mode mode, u32 *reached)
{
	struct apic_identity cpus[CPUS] = {0};
	struct message m;
	u32 from = (u32)test_below(CPUS);
	u64 icr;

	random_machine(cpus, mode);
	m = random_message(cpus, mode);
	icr = as_icr(&m);
	for (u32 to = 0; to < CPUS; to++) {
		bool want = naive_match(&m, cpus, from, to);

		CHECK_EQ(apic_match(icr, &cpus[from], &cpus[to]), want);
		*reached += want;
	}
	return CPUS;
}

TEST(apic_match_random)
{
	for (enum mode mode = FLAT; mode <= X2; mode++) {
		u32 asked = 0, reached = 0;

		for (unsigned int i = 0; i < 200000; i++)
			asked += random_round(mode, &reached);
		/* a model that never meets a match would prove nothing */
		CHECK(reached > asked / 5 && reached < asked - asked / 5);
	}
}

/* Each of the 256 destinations for each of the 256 logical IDs, flat and in clusters; each ID. */
TEST(apic_match_xapic_all)
{
	struct apic_identity from = {.id = 1, .enabled = true}, to = from;

	for (u32 destination = 0; destination < 256; destination++) {
		struct message physical = {.destination = destination};
		struct message logical = {.destination = destination, .logical = true};

		for (u32 name = 0; name < 256; name++) {
			to.id = name;
			CHECK_EQ(apic_match(as_icr(&physical), &from, &to),
				 destination == 255 || destination == name);
			to.ldr = name << 24;
			to.dfr = ~0u;
			CHECK_EQ(apic_match(as_icr(&logical), &from, &to),
				 destination == 255 || naive_flat(destination, name));
			to.dfr = 0x0fffffff;
			CHECK_EQ(apic_match(as_icr(&logical), &from, &to),
				 destination == 255 || naive_cluster(destination, name, 4));
		}
	}
}

/* A shorthand does not look at the destination, and a disabled APIC hears nothing. */
TEST(apic_match_shorthands)
{
	for (unsigned int i = 0; i < 10000; i++) {
		struct apic_identity cpus[2] = {{.id = 0, .enabled = true},
						{.id = 1, .enabled = true}};
		struct message m = {.destination = (u32)test_random(), .logical = test_below(2)};

		cpus[0].x2 = cpus[1].x2 = test_below(2);
		m.shorthand = SELF;
		CHECK(apic_match(as_icr(&m), &cpus[0], &cpus[0]));
		CHECK(!apic_match(as_icr(&m), &cpus[0], &cpus[1]));
		m.shorthand = ALL_AND_SELF;
		CHECK(apic_match(as_icr(&m), &cpus[0], &cpus[0]));
		CHECK(apic_match(as_icr(&m), &cpus[0], &cpus[1]));
		m.shorthand = ALL_BUT_SELF;
		CHECK(!apic_match(as_icr(&m), &cpus[0], &cpus[0]));
		CHECK(apic_match(as_icr(&m), &cpus[0], &cpus[1]));
		cpus[1].enabled = false;
		CHECK(!apic_match(as_icr(&m), &cpus[0], &cpus[1]));
	}
}

/* FFh is a CPU's number in x2APIC mode, and FFFF_FFFFh everybody. */
TEST(apic_match_x2_broadcast)
{
	struct apic_identity from = {.id = 0, .enabled = true, .x2 = true};
	struct apic_identity to = {.id = 3, .ldr = 1u << 3, .enabled = true, .x2 = true};

	CHECK(apic_match(0xffffffffull << 32, &from, &to));
	CHECK(apic_match(0xffffffffull << 32 | APIC_ICR_LOGICAL, &from, &to));
	CHECK(!apic_match(0xffull << 32, &from, &to));
	CHECK(apic_match(0xffull << 32 | APIC_ICR_LOGICAL, &from, &to)); /* cluster 0, bits 7:0 */
	to.id = 0xff;
	CHECK(apic_match(0xffull << 32, &from, &to));
}

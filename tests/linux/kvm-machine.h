/* SPDX-License-Identifier: MIT */
#ifndef TALLY_TESTS_LINUX_KVM_MACHINE_H
#define TALLY_TESTS_LINUX_KVM_MACHINE_H

/* A virtual machine of /dev/kvm for each test, and what a test says. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "kvm-guest.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define EFER_SCE (1ul << 0)
#define EFER_LME (1ul << 8)
#define EFER_LMA (1ul << 10)
#define EFER_NXE (1ul << 11)
#define EFER_SVME (1ul << 12)

#define VECTOR_DE 0
#define VECTOR_DB 1
#define VECTOR_NMI 2
#define VECTOR_BP 3
#define VECTOR_UD 6
#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13
#define VECTOR_PF 14
/* #PF's error code. */
#define PF_P 1u
#define PF_W 2u
#define PF_RSVD 8u
#define PF_I 16u

/* What is between these runs in the guest (kvm-guest.S); the programs are labels in it. */
extern const u8 guest_image[], guest_image_end[];

struct trap {
	u64 vector, error, rip, cr2;
};

struct machine {
	int vm, vcpu; /* vm: -1 for all but the first CPU of a machine */
	struct kvm_run *run;
	u8 *memory;
	size_t run_bytes;
};

/* Before it is opened: machine_close() of it does nothing. */
#define NO_MACHINE ((struct machine){.vm = -1, .vcpu = -1, .run = MAP_FAILED})

struct test {
	const char *name;
	void (*run)(struct machine *);
};

/* In kvm-pmu.c: the guest has a PMU. */
extern const struct test pmu_tests[];
extern const u32 pmu_tests_count;

/* In kvm-two.c: several guests at once. */
extern const struct test two_tests[];
extern const u32 two_tests_count;

/* /dev/kvm */
extern int kvm;

/* fail: says why; the first reason of a test is enough, of whatever thread. Returns false, as a check that fails does. */
__attribute__((format(printf, 1, 2))) bool fail(const char *format, ...);
bool check_eq(const char *what, u64 value, u64 expected);
#define CHECK(condition, ...) ((condition) ? true : fail(__VA_ARGS__))
#define CHECK_EQ(what, value, expected) check_eq(what, (u64)(value), (u64)(expected))

/* test_has_failed: since test_begin(). */
void test_begin(void);
bool test_has_failed(void);

/* Seconds. */
double now(void);

/* machine_open: the guest is at this program, in 64-bit mode; chips: KVM's own PIC, IOAPIC and APIC. */
bool machine_open(struct machine *m, const u8 *label, bool chips);
/* machine_add_vcpu: one more for the machine of `first`, with a stack of its own and its number in rcx. */
bool machine_add_vcpu(struct machine *m, const struct machine *first, const u8 *label);
/* machine_close: the first CPU's last. */
void machine_close(struct machine *m);
/* set_gate: interrupts of this vector go to that label instead of the log. */
void set_gate(struct machine *m, u32 vector, const u8 *label);
/* start: the guest goes on at this label, with nothing in its log, and rcx as given. */
bool start(struct machine *m, const u8 *label, u64 rcx);
/* run: until this reason to exit. */
bool run(struct machine *m, u32 reason);
/* run_out: the guest writes to that port; size and data are the caller's to check. */
bool run_out(struct machine *m, u16 port);
u8 *io_data(struct machine *m);
u64 rip_of(struct machine *m);
u64 address(const u8 *label);
void write64(struct machine *m, u64 gpa, u64 value);
u64 read64(struct machine *m, u64 gpa);
/* host_msr: one of the guest's, by KVM_SET_MSRS or KVM_GET_MSRS. */
bool host_msr(struct machine *m, unsigned long request, u32 index, u64 *value);
/* put_msr: for guest_msr, what it shall read, change and read. */
void put_msr(struct machine *m, u32 slot, u32 index, u64 flip);
/* check_traps: what the guest's handlers have logged; cr2 is looked at for #PF. */
bool check_traps(struct machine *m, const struct trap *expected, u64 count);
/* exits_of: how often the vCPU has left the guest, from KVM's binary statistics. */
u64 exits_of(struct machine *m);

#endif

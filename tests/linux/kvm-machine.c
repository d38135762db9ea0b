/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvm-machine.h"

#define CPUID_ENTRIES 128

#define CR0_PE (1ul << 0)
#define CR0_ET (1ul << 4)
#define CR0_WP (1ul << 16)
#define CR0_PG (1ul << 31)
#define CR4_PAE (1ul << 5)
#define PTE_P (1ul << 0)
#define PTE_W (1ul << 1)
#define PTE_LARGE (1ul << 7)
#define PTE_LARGE_RESERVED (1ul << 13)
#define PTE_NX (1ul << 63)
#define RFLAGS_ONE 0x2ul

extern const u8 guest_stubs[];

int kvm;

/* --- TAP --------------------------------------------------------------------------------------- */

static bool test_failed;

void test_begin(void)
{
	test_failed = false;
}

bool test_has_failed(void)
{
	return test_failed;
}

bool fail(const char *format, ...)
{
	va_list args;

	if (__atomic_exchange_n(&test_failed, true, __ATOMIC_SEQ_CST))
		return false;
	printf("#   ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	return false;
}

bool check_eq(const char *what, u64 value, u64 expected)
{
	return CHECK(value == expected, "%s is %#lx, expected %#lx", what, value, expected);
}

double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* --- the machine ------------------------------------------------------------------------------- */

u64 address(const u8 *label)
{
	return GUEST_CODE + (u64)(label - guest_image);
}

void write64(struct machine *m, u64 gpa, u64 value)
{
	memcpy(m->memory + gpa, &value, sizeof(value));
}

u64 read64(struct machine *m, u64 gpa)
{
	u64 value;

	memcpy(&value, m->memory + gpa, sizeof(value));
	return value;
}

static void write_gate(struct machine *m, u32 vector, u64 handler)
{
	write64(m, GUEST_IDT + vector * 16ul,
		(handler & 0xffff) | SELECTOR_CODE << 16 | 0x8e00ul << 32 | handler >> 16 << 48);
	write64(m, GUEST_IDT + vector * 16ul + 8, handler >> 32);
}

void set_gate(struct machine *m, u32 vector, const u8 *label)
{
	write_gate(m, vector, address(label));
}

static void write_tables(struct machine *m)
{
	write64(m, GUEST_PML4, GUEST_PDPT | PTE_P | PTE_W);
	write64(m, GUEST_PDPT, GUEST_PD0 | PTE_P | PTE_W);
	write64(m, GUEST_PDPT + 3 * 8, GUEST_PD3 | PTE_P | PTE_W);
	write64(m, GUEST_PD0, GUEST_PT | PTE_P | PTE_W);
	write64(m, GUEST_PD0 + (GUEST_MMIO >> 21) * 8, GUEST_MMIO | PTE_P | PTE_W | PTE_LARGE);
	write64(m, GUEST_PD0 + (GUEST_RESERVED >> 21) * 8,
		PTE_P | PTE_W | PTE_LARGE | PTE_LARGE_RESERVED);
	write64(m, GUEST_PD3 + (0xfec00000 >> 21 & 511) * 8,
		0xfec00000 | PTE_P | PTE_W | PTE_LARGE);
	write64(m, GUEST_PD3 + (0xfee00000 >> 21 & 511) * 8,
		0xfee00000 | PTE_P | PTE_W | PTE_LARGE);
	for (u64 gpa = 0; gpa < GUEST_BYTES; gpa += 4096)
		write64(m, GUEST_PT + gpa / 4096 * 8,
			gpa | PTE_P | (gpa == GUEST_READONLY ? 0 : PTE_W) |
				(gpa == GUEST_NOEXEC ? PTE_NX : 0));

	write64(m, GUEST_GDT + SELECTOR_CODE, 0x00af9b000000ffff);
	write64(m, GUEST_GDT + SELECTOR_DATA, 0x00cf93000000ffff);
	write64(m, GUEST_GDT + SELECTOR_ABSENT, 0x00cf13000000ffff);
	for (u32 vector = 0; vector < 256; vector++)
		write_gate(m, vector, address(guest_stubs) + vector * 16ul);
}

static bool set_cpuid(struct machine *m)
{
	/* Not in any processor, so that only KVM can have them. */
	static const struct kvm_cpuid_entry2 ours[] = {
		{.function = 0x40002000, .eax = 0x11111111, .ebx = 0x22222222, .ecx = 3, .edx = 4},
		{.function = 0x40002001, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 5},
		{.function = 0x40002001,
		 .index = 1,
		 .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		 .eax = 6},
	};
	static u64
		room[(sizeof(struct kvm_cpuid2) + sizeof(struct kvm_cpuid_entry2[CPUID_ENTRIES])) /
		     8];
	struct kvm_cpuid2 *list = (struct kvm_cpuid2 *)room;
	u32 n;

	list->nent = CPUID_ENTRIES - sizeof(ours) / sizeof(ours[0]);
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) < 0)
		return fail("KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	n = list->nent;
	memcpy(&list->entries[n], ours, sizeof(ours));
	list->nent = n + (u32)(sizeof(ours) / sizeof(ours[0]));
	for (struct kvm_cpuid_entry2 *e = list->entries; e < &list->entries[n]; e++) {
		if (e->function == 0) {
			memcpy(&e->ebx, "Auth", 4);
			memcpy(&e->edx, "enti", 4);
			memcpy(&e->ecx, "cAMD", 4);
		}
	}
	if (ioctl(m->vcpu, KVM_SET_CPUID2, list) < 0)
		return fail("KVM_SET_CPUID2: %s", strerror(errno));
	return true;
}

static bool set_long_mode(struct machine *m)
{
	const struct kvm_segment code = {.limit = 0xffffffff,
					 .selector = SELECTOR_CODE,
					 .type = 11,
					 .present = 1,
					 .s = 1,
					 .l = 1,
					 .g = 1};
	const struct kvm_segment data = {.limit = 0xffffffff,
					 .selector = SELECTOR_DATA,
					 .type = 3,
					 .present = 1,
					 .db = 1,
					 .s = 1,
					 .g = 1};
	struct kvm_sregs s;

	if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
		return fail("KVM_GET_SREGS: %s", strerror(errno));
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.gdt.base = GUEST_GDT;
	s.gdt.limit = 4 * 8 - 1;
	s.idt.base = GUEST_IDT;
	s.idt.limit = 256 * 16 - 1;
	s.cr0 = CR0_PE | CR0_ET | CR0_WP | CR0_PG;
	s.cr3 = GUEST_PML4;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA | EFER_NXE;
	if (ioctl(m->vcpu, KVM_SET_SREGS, &s) < 0)
		return fail("KVM_SET_SREGS: %s", strerror(errno));
	return true;
}

static bool set_regs(struct machine *m, const u8 *label, u64 rcx, u64 rsp)
{
	const struct kvm_regs r = {
		.rip = address(label), .rsp = rsp, .rcx = rcx, .rflags = RFLAGS_ONE};

	if (ioctl(m->vcpu, KVM_SET_REGS, &r) < 0)
		return fail("KVM_SET_REGS: %s", strerror(errno));
	return true;
}

bool start(struct machine *m, const u8 *label, u64 rcx)
{
	write64(m, GUEST_LOG, 0);
	return set_regs(m, label, rcx, GUEST_STACK);
}

/* add_vcpu: the one of this number, in 64-bit mode. */
static bool add_vcpu(struct machine *m, int vm, u32 number)
{
	m->vcpu = ioctl(vm, KVM_CREATE_VCPU, number);
	if (m->vcpu < 0)
		return fail("KVM_CREATE_VCPU: %s", strerror(errno));
	m->run_bytes = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	m->run = mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
	if (m->run == MAP_FAILED)
		return fail("no struct kvm_run");
	return set_cpuid(m) && set_long_mode(m);
}

bool machine_open(struct machine *m, const u8 *label, bool chips)
{
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};

	*m = NO_MACHINE;
	m->memory =
		mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->memory == MAP_FAILED)
		return fail("no memory");
	region.userspace_addr = (u64)m->memory;
	m->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (m->vm < 0)
		return fail("KVM_CREATE_VM: %s", strerror(errno));
	if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	if (chips && ioctl(m->vm, KVM_CREATE_IRQCHIP, 0) < 0)
		return fail("KVM_CREATE_IRQCHIP: %s", strerror(errno));
	memcpy(m->memory + GUEST_CODE, guest_image, (size_t)(guest_image_end - guest_image));
	write_tables(m);
	return add_vcpu(m, m->vm, 0) && start(m, label, 0);
}

bool machine_add_vcpu(struct machine *m, const struct machine *first, const u8 *label)
{
	const struct kvm_mp_state runs = {KVM_MP_STATE_RUNNABLE};

	*m = NO_MACHINE;
	m->memory = first->memory;
	if (!add_vcpu(m, first->vm, 1) || !set_regs(m, label, 1, GUEST_STACK_1))
		return false;
	if (ioctl(m->vcpu, KVM_SET_MP_STATE, &runs) < 0)
		return fail("KVM_SET_MP_STATE: %s", strerror(errno));
	return true;
}

void machine_close(struct machine *m)
{
	if (m->run != MAP_FAILED)
		munmap(m->run, m->run_bytes);
	if (m->vcpu >= 0)
		close(m->vcpu);
	if (m->vm < 0)
		return;
	close(m->vm);
	munmap(m->memory, GUEST_BYTES);
}

u64 rip_of(struct machine *m)
{
	struct kvm_regs r = {0};

	ioctl(m->vcpu, KVM_GET_REGS, &r);
	return r.rip;
}

bool run(struct machine *m, u32 reason)
{
	struct kvm_run *k = m->run;

	k->exit_reason = KVM_EXIT_UNKNOWN;
	if (ioctl(m->vcpu, KVM_RUN, 0) < 0)
		return fail("KVM_RUN: %s, RIP %#lx",
			    errno == EINTR ? "the time is up" : strerror(errno), rip_of(m));
	if (k->exit_reason == reason)
		return true;
	if (k->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return fail("internal error %u of KVM, RIP %#lx", k->internal.suberror, rip_of(m));
	if (k->exit_reason == KVM_EXIT_FAIL_ENTRY)
		return fail("VMRUN failed, exit code %#llx",
			    (unsigned long long)k->fail_entry.hardware_entry_failure_reason);
	return fail("exit reason %u, expected %u, RIP %#lx, %lu traps, the first %lu",
		    k->exit_reason, reason, rip_of(m), read64(m, GUEST_LOG),
		    read64(m, GUEST_LOG + 8));
}

bool run_out(struct machine *m, u16 port)
{
	return run(m, KVM_EXIT_IO) &&
	       CHECK_EQ("direction", m->run->io.direction, KVM_EXIT_IO_OUT) &&
	       CHECK_EQ("port", m->run->io.port, port);
}

u8 *io_data(struct machine *m)
{
	return (u8 *)m->run + m->run->io.data_offset;
}

/* Where QEMU's TCG departs from the manual, and no hypervisor can hide it (docs/testing.md). */
static void apply_departures(struct trap *seen, const struct trap *expected)
{
	if (seen->vector == VECTOR_PF && seen->error == PF_RSVD &&
	    expected->error == (PF_P | PF_RSVD)) {
		printf("# departure PF_RESERVED_P: a #PF by a reserved bit lacks P in its error "
		       "code\n");
		seen->error |= PF_P;
	}
	if (seen->vector == VECTOR_GP && seen->error == 0 && expected->vector == VECTOR_SS &&
	    expected->error == 0) {
		printf("# departure STACK_GP: an address that is not canonical is #GP in SS, "
		       "too\n");
		seen->vector = VECTOR_SS;
	}
}

bool check_traps(struct machine *m, const struct trap *expected, u64 count)
{
	struct trap seen;

	for (u64 i = 0; i < count && i < read64(m, GUEST_LOG); i++) {
		memcpy(&seen, m->memory + GUEST_LOG + 8 + i * sizeof(seen), sizeof(seen));
		apply_departures(&seen, &expected[i]);
		if (!CHECK(seen.vector == expected[i].vector && seen.error == expected[i].error &&
				   seen.rip == expected[i].rip &&
				   (seen.vector != VECTOR_PF || seen.cr2 == expected[i].cr2),
			   "trap %lu is vector %lu error %#lx rip %#lx cr2 %#lx,"
			   " expected vector %lu error %#lx rip %#lx cr2 %#lx",
			   i, seen.vector, seen.error, seen.rip, seen.cr2, expected[i].vector,
			   expected[i].error, expected[i].rip, expected[i].cr2))
			return false;
	}
	return CHECK_EQ("number of traps", read64(m, GUEST_LOG), count);
}

u64 exits_of(struct machine *m)
{
	struct kvm_stats_header head;
	char raw[sizeof(struct kvm_stats_desc) + 256];
	struct kvm_stats_desc *desc = (struct kvm_stats_desc *)raw;
	size_t bytes;
	u64 value = 0;
	int fd = ioctl(m->vcpu, KVM_GET_STATS_FD, NULL);

	if (fd < 0 || pread(fd, &head, sizeof(head), 0) != sizeof(head)) {
		fail("KVM_GET_STATS_FD: %s", strerror(errno));
		return 0;
	}
	bytes = sizeof(*desc) + head.name_size;
	for (u32 i = 0; i < head.num_desc && bytes <= sizeof(raw); i++) {
		if (pread(fd, raw, bytes, (off_t)(head.desc_offset + i * bytes)) != (ssize_t)bytes)
			break;
		if (strcmp(desc->name, "exits") == 0 &&
		    pread(fd, &value, sizeof(value), (off_t)(head.data_offset + desc->offset)) < 0)
			value = 0;
	}
	close(fd);
	return value;
}

bool host_msr(struct machine *m, unsigned long request, u32 index, u64 *value)
{
	u64 room[(sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)) / 8] = {0};
	struct kvm_msrs *list = (struct kvm_msrs *)room;

	list->nmsrs = 1;
	list->entries[0].index = index;
	list->entries[0].data = *value;
	if (ioctl(m->vcpu, request, list) != 1)
		return fail("%s %#x", request == KVM_SET_MSRS ? "KVM_SET_MSRS" : "KVM_GET_MSRS",
			    index);
	*value = list->entries[0].data;
	return true;
}

void put_msr(struct machine *m, u32 slot, u32 index, u64 flip)
{
	write64(m, GUEST_IN + slot * 16ul, index);
	write64(m, GUEST_IN + slot * 16ul + 8, flip);
}

/* SPDX-License-Identifier: MIT */
/*
 * A small client of /dev/kvm: one virtual machine for each test, in 64-bit mode, with the programs of
 * kvm-guest.S. Every value that arrives is checked, and every exit that is not expected fails.
 *
 *   kvm-client            the tests, in TAP
 *   kvm-client quick      without the million exits
 *   kvm-client perf       the tests of HostOnly and GuestOnly counters instead
 *   kvm-client pmu        those of kvm-pmu.c: the guest has a PMU
 *   kvm-client two        those of kvm-two.c: several guests at once
 *   kvm-client plan | quick-plan | perf-plan | pmu-plan | two-plan    how many those are
 *   kvm-client hold       has a machine that does not run, until it is killed
 *
 * Documentation/virt/kvm/api.rst in Linux describes the interface.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm-machine.h"

/* For one test, so that an event that never comes is a failure with a reason. */
#define SECONDS_MAX 600

#define DR6_BS (1ul << 14)

extern const u8 guest_cpuid[], guest_msr[], guest_msr_read[], guest_msr_write[], guest_msr_again[];
extern const u8 guest_mmio[], guest_pio[], guest_hlt[], guest_hlt_1[], guest_hlt_2[], guest_hlt_3[];
extern const u8 guest_irq[], guest_irq_window[], guest_irq_halted[], guest_irq_woken[];
extern const u8 guest_chips[], guest_chips_pic[], guest_chips_ioapic[], guest_chips_self[];
extern const u8 guest_nmi[], guest_nmi_here[], guest_step[], guest_step_end[];
extern const u8 guest_watch[], guest_watch_code[], guest_watch_data[], guest_exceptions[];
extern const u8 guest_fault_ud[], guest_fault_de[], guest_fault_pf_read[], guest_fault_pf_write[];
extern const u8 guest_fault_pf_readonly[], guest_fault_pf_reserved[], guest_fault_np[];
extern const u8 guest_fault_gp[], guest_fault_ss[], guest_trap_bp[], guest_trap_int[];
extern const u8 guest_trap_db[], guest_exits[], guest_count[];
extern const u32 guest_steps[], guest_steps_end[];

/* --- the tests --------------------------------------------------------------------------------- */

static void test_cpuid(struct machine *m)
{
	static const u32 expected[] = {
		0x11111111, 0x22222222, 3, 4, /* 4000_2000 */
		5,	    0,		0, 0, /* 4000_2001, index 0 */
		6,	    0,		0, 0, /* and 1 */
		0,	    0,		0, 0, /* absent */
	};

	if (!machine_open(m, guest_cpuid, false) || !run(m, KVM_EXIT_HLT))
		return;
	CHECK(memcmp(m->memory + GUEST_OUT + 4, "AuthcAMDenti", 12) == 0,
	      "leaf 0 is not AuthenticAMD");
	for (u32 i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		u32 seen;

		memcpy(&seen, m->memory + GUEST_OUT + 16 + i * 4, 4);
		CHECK(seen == expected[i], "word %u of our leaves is %#x, expected %#x", i, seen,
		      expected[i]);
	}
	check_traps(m, NULL, 0);
}

static const struct {
	u32 index;
	u64 start, flip;
} msrs[] = {
	{0x277, 0x0007040600070406, 0x0000000000000101},      /* PAT: in the VMCB */
	{0xc0000081, 0x0010000800000000, 0x0001000100000000}, /* STAR: not intercepted */
	{0xc0000100, 0x0000111122223333, 0x0000000f0000000f}, /* FS base */
	{0xc0000102, 0x0000444455556666, 0x0000000f0000000f}, /* kernel's GS base */
	{0x176, 0x12345678, 0x0f0f},			      /* SYSENTER_EIP */
	{0x2ff, 0x0000000000000c06, 0x0000000000000400},      /* MTRR default: KVM only */
	{0xc0000080, EFER_LME | EFER_LMA | EFER_NXE, EFER_SCE},
	{0x17a, 0, 0}, /* MCG_STATUS: KVM only */
};
#define MSRS (sizeof(msrs) / sizeof(msrs[0]))
#define MSR_UNKNOWN 0x12345678u

static void test_msr(struct machine *m)
{
	if (!machine_open(m, guest_msr, false))
		return;
	for (u32 i = 0; i < MSRS; i++) {
		u64 value = msrs[i].start;

		if (!host_msr(m, KVM_SET_MSRS, msrs[i].index, &value))
			return;
		put_msr(m, i, msrs[i].index, msrs[i].flip);
	}
	if (!run(m, KVM_EXIT_HLT))
		return;
	for (u32 i = 0; i < MSRS; i++) {
		u64 before = read64(m, GUEST_OUT + i * 16),
		    after = read64(m, GUEST_OUT + i * 16 + 8);
		u64 flipped = msrs[i].start ^ msrs[i].flip, host = 0;

		if (!host_msr(m, KVM_GET_MSRS, msrs[i].index, &host))
			return;
		CHECK(before == msrs[i].start && after == flipped && host == flipped,
		      "MSR %#x: guest read %#lx, then %#lx, KVM has %#lx; expected %#lx, then "
		      "%#lx",
		      msrs[i].index, before, after, host, msrs[i].start, flipped);
	}
	check_traps(m, NULL, 0);
}

static void test_msr_unknown(struct machine *m)
{
	const struct trap expected[] = {
		{.vector = VECTOR_GP, .rip = address(guest_msr_read)},
		{.vector = VECTOR_GP, .rip = address(guest_msr_write)},
		{.vector = VECTOR_GP, .rip = address(guest_msr_again)},
	};

	if (!machine_open(m, guest_msr, false))
		return;
	put_msr(m, 0, MSR_UNKNOWN, 0);
	if (!run(m, KVM_EXIT_HLT))
		return;
	CHECK_EQ("registers after a refused RDMSR", read64(m, GUEST_OUT), 0x666600005555);
	CHECK_EQ("registers after another", read64(m, GUEST_OUT + 8), 0x888800007777);
	check_traps(m, expected, 3);
}

static void test_msr_user(struct machine *m)
{
	const struct trap expected[] = {{.vector = VECTOR_GP, .rip = address(guest_msr_again)}};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args[0] = KVM_MSR_EXIT_REASON_UNKNOWN};

	if (!machine_open(m, guest_msr, false))
		return;
	if (!CHECK(ioctl(m->vm, KVM_ENABLE_CAP, &cap) == 0, "KVM_CAP_X86_USER_SPACE_MSR"))
		return;
	put_msr(m, 0, MSR_UNKNOWN, 0xff);
	if (!run(m, KVM_EXIT_X86_RDMSR) || !CHECK_EQ("MSR", m->run->msr.index, MSR_UNKNOWN))
		return;
	m->run->msr.data = 0x1122334455667788;
	if (!run(m, KVM_EXIT_X86_WRMSR) || !CHECK_EQ("MSR", m->run->msr.index, MSR_UNKNOWN))
		return;
	CHECK_EQ("what is written", m->run->msr.data, 0x1122334455667788 ^ 0xff);
	if (!run(m, KVM_EXIT_X86_RDMSR))
		return;
	m->run->msr.error = 1;
	if (!run(m, KVM_EXIT_HLT))
		return;
	CHECK_EQ("what the guest has read", read64(m, GUEST_OUT), 0x1122334455667788);
	CHECK_EQ("registers after a refused RDMSR", read64(m, GUEST_OUT + 8), 0x888800007777);
	check_traps(m, expected, 1);
}

/* What guest_mmio does, access by access; offsets from GUEST_MMIO. */
static const struct {
	bool write;
	u32 offset, bytes;
	u64 data;
} mmio_script[] = {
	{true, 0, 1, 0x11},	      {true, 2, 2, 0x2222},
	{true, 4, 4, 0x44444444},     {true, 8, 8, 0x8888888877777777},
	{false, 0x10, 1, 0xa1},	      {false, 0x12, 2, 0xb2b3},
	{false, 0x14, 4, 0xc4c5c6c7}, {false, 0x18, 8, 0xd8d9dadbdcdddedf},
	{false, 0x20, 1, 0x80},	      {false, 0x24, 4, 0x1000},
	{true, 0x24, 4, 0x1005},      {true, 0x100, 8, 0x1111},
	{true, 0x108, 8, 0x2222},     {true, 0x110, 8, 0x3333},
	{true, 0x118, 8, 0x4444},     {false, 0x200, 1, 0x01},
	{false, 0x201, 1, 0x23},      {false, 0x202, 1, 0x45},
	{false, 0x203, 1, 0x67},      {false, 0x204, 1, 0x89},
	{false, 0x205, 1, 0xab},      {false, 0x206, 1, 0xcd},
	{false, 0x207, 1, 0xef},
};

static void test_mmio(struct machine *m)
{
	static const u64 expected[] = {0xa1,
				       0xb2b3,
				       0xc4c5c6c7,
				       0xd8d9dadbdcdddedf,
				       0xffffffffffffff80,
				       0xefcdab8967452301};

	if (!machine_open(m, guest_mmio, false))
		return;
	for (u64 i = 0; i < 4; i++)
		write64(m, GUEST_IN + i * 8, 0x1111 * (i + 1));
	for (u32 i = 0; i < sizeof(mmio_script) / sizeof(mmio_script[0]); i++) {
		u64 data = 0;

		if (!run(m, KVM_EXIT_MMIO))
			return;
		memcpy(&data, m->run->mmio.data, sizeof(data));
		if (!CHECK(m->run->mmio.is_write == mmio_script[i].write &&
				   m->run->mmio.phys_addr == GUEST_MMIO + mmio_script[i].offset &&
				   m->run->mmio.len == mmio_script[i].bytes,
			   "access %u: %s %#llx, %u bytes", i,
			   m->run->mmio.is_write ? "write" : "read",
			   (unsigned long long)m->run->mmio.phys_addr, m->run->mmio.len))
			return;
		if (mmio_script[i].bytes < 8)
			data &= (1ul << mmio_script[i].bytes * 8) - 1;
		if (mmio_script[i].write)
			CHECK(data == mmio_script[i].data, "access %u writes %#lx, expected %#lx",
			      i, data, mmio_script[i].data);
		else
			memcpy(m->run->mmio.data, &mmio_script[i].data, sizeof(data));
	}
	if (!run(m, KVM_EXIT_HLT))
		return;
	for (u32 i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
		CHECK(read64(m, GUEST_OUT + i * 8) == expected[i], "read %u is %#lx, expected %#lx",
		      i, read64(m, GUEST_OUT + i * 8), expected[i]);
	check_traps(m, NULL, 0);
}

/* collect: takes bytes from, or gives bytes to, as many exits as KVM makes of a string instruction. */
static bool collect(struct machine *m, u8 direction, u32 size, u8 *data, u32 bytes)
{
	while (bytes > 0) {
		u32 now_bytes;

		if (!run(m, KVM_EXIT_IO) ||
		    !CHECK_EQ("direction", m->run->io.direction, direction) ||
		    !CHECK_EQ("port", m->run->io.port, PORT_DATA) ||
		    !CHECK_EQ("size", m->run->io.size, size))
			return false;
		now_bytes = m->run->io.count * size;
		if (!CHECK(now_bytes > 0 && now_bytes <= bytes, "%u bytes, %u are left", now_bytes,
			   bytes))
			return false;
		if (direction == KVM_EXIT_IO_OUT)
			memcpy(data, io_data(m), now_bytes);
		else
			memcpy(io_data(m), data, now_bytes);
		data += now_bytes;
		bytes -= now_bytes;
	}
	return true;
}

static void test_pio(struct machine *m)
{
	u32 value = 0;
	u8 in[16], out[16] = {0};

	if (!machine_open(m, guest_pio, false))
		return;
	for (u8 i = 0; i < 16; i++) {
		in[i] = (u8)(0xf0 ^ i * 7);
		m->memory[GUEST_IN + i] = (u8)(i * 11 + 1);
	}
	if (!collect(m, KVM_EXIT_IO_OUT, 1, (u8 *)&value, 1) || !CHECK_EQ("OUT AL", value, 0x44) ||
	    !collect(m, KVM_EXIT_IO_OUT, 2, (u8 *)&value, 2) ||
	    !CHECK_EQ("OUT AX", value, 0x3344) ||
	    !collect(m, KVM_EXIT_IO_OUT, 4, (u8 *)&value, 4) ||
	    !CHECK_EQ("OUT EAX", value, 0x11223344))
		return;
	value = 0x99aabbcc;
	if (!collect(m, KVM_EXIT_IO_IN, 1, (u8 *)&value, 1) ||
	    !collect(m, KVM_EXIT_IO_IN, 2, (u8 *)&value, 2) ||
	    !collect(m, KVM_EXIT_IO_IN, 4, (u8 *)&value, 4) ||
	    !collect(m, KVM_EXIT_IO_OUT, 1, out, 16) || !collect(m, KVM_EXIT_IO_IN, 2, in, 16) ||
	    !run(m, KVM_EXIT_HLT))
		return;
	CHECK_EQ("IN AL", read64(m, GUEST_OUT), 0xcc);
	CHECK_EQ("IN AX", read64(m, GUEST_OUT + 8), 0xbbcc);
	CHECK_EQ("IN EAX", read64(m, GUEST_OUT + 16), 0x99aabbcc);
	CHECK(memcmp(out, m->memory + GUEST_IN, 16) == 0, "REP OUTSB sent something else");
	CHECK(memcmp(in, m->memory + GUEST_OUT + 24, 16) == 0, "REP INSW stored something else");
	check_traps(m, NULL, 0);
}

static void test_hlt(struct machine *m)
{
	const u8 *const after[] = {guest_hlt_1, guest_hlt_2, guest_hlt_3};

	if (!machine_open(m, guest_hlt, false))
		return;
	for (int i = 0; i < 3; i++)
		if (!run(m, KVM_EXIT_HLT) ||
		    !CHECK_EQ("RIP after HLT", rip_of(m), address(after[i])))
			return;
}

static bool interrupt(struct machine *m, u32 vector)
{
	struct kvm_interrupt irq = {.irq = vector};

	return CHECK(ioctl(m->vcpu, KVM_INTERRUPT, &irq) == 0, "KVM_INTERRUPT: %s",
		     strerror(errno));
}

/* Every vector, as soon as the guest can take it and not earlier. */
static void test_irq(struct machine *m)
{
	if (!machine_open(m, guest_irq, false))
		return;
	for (u32 vector = 32; vector < 256; vector++) {
		const struct trap expected = {.vector = vector, .rip = address(guest_irq_window)};

		if (!start(m, guest_irq, 0) || !run_out(m, PORT_READY))
			return;
		m->run->request_interrupt_window = 1;
		if (!run(m, KVM_EXIT_IRQ_WINDOW_OPEN) ||
		    !CHECK_EQ("RIP at the window", rip_of(m), address(guest_irq_window)) ||
		    !CHECK_EQ("RFLAGS.IF", m->run->if_flag, 1) ||
		    !CHECK_EQ("ready", m->run->ready_for_interrupt_injection, 1))
			return;
		m->run->request_interrupt_window = 0;
		if (!interrupt(m, vector) || !run_out(m, PORT_DONE) ||
		    !check_traps(m, &expected, 1))
			return;
	}
}

static void test_irq_halted(struct machine *m)
{
	if (!machine_open(m, guest_irq_halted, false))
		return;
	for (u32 vector = 32; vector < 256; vector++) {
		const struct trap expected = {.vector = vector, .rip = address(guest_irq_woken)};

		if (!start(m, guest_irq_halted, 0) || !run(m, KVM_EXIT_HLT) ||
		    !interrupt(m, vector) || !run_out(m, PORT_DONE) ||
		    !check_traps(m, &expected, 1))
			return;
	}
}

static bool pulse(struct machine *m, u32 pin)
{
	struct kvm_irq_level level = {.irq = pin, .level = 1};

	if (!CHECK(ioctl(m->vm, KVM_IRQ_LINE, &level) == 0, "KVM_IRQ_LINE: %s", strerror(errno)))
		return false;
	level.level = 0;
	return CHECK(ioctl(m->vm, KVM_IRQ_LINE, &level) == 0, "KVM_IRQ_LINE: %s", strerror(errno));
}

/* Everything between the pins and the CPU is KVM's. */
static void test_chips(struct machine *m)
{
	struct trap expected[] = {
		{.vector = VECTOR_PIC + PIC_PIN, .rip = address(guest_chips_pic)},
		{.vector = VECTOR_IOAPIC, .rip = address(guest_chips_ioapic)},
		{.vector = VECTOR_SELF, .rip = address(guest_chips_self)},
	};
	const u64 first = sizeof(expected) / sizeof(expected[0]);
	const u64 least = first + ONESHOT_ROUNDS + PERIODIC_ROUNDS;
	struct trap *log;
	u64 seen;

	if (!machine_open(m, guest_chips, true) || !run_out(m, PORT_READY) || !pulse(m, PIC_PIN) ||
	    !run_out(m, PORT_READY) || !pulse(m, IOAPIC_PIN) || !run_out(m, PORT_DONE))
		return;
	/* There is no upper limit: where interrupts cost much, more periods end before the guest stops. */
	seen = read64(m, GUEST_LOG);
	CHECK(seen >= least, "%lu traps, expected %lu at least", seen, least);
	log = (struct trap *)(m->memory + GUEST_LOG + 8);
	for (u64 i = first; i < least; i++)
		CHECK(log[i].vector == VECTOR_TIMER, "trap %lu is vector %lu", i, log[i].vector);
	write64(m, GUEST_LOG, first);
	check_traps(m, expected, first);
}

/* A second and a third NMI while the handler of the first runs: they become one, after its IRET. */
static void test_nmi(struct machine *m)
{
	const struct trap expected[] = {
		{.vector = VECTOR_NMI, .rip = address(guest_nmi_here)},
		{.vector = VECTOR_NMI, .rip = address(guest_nmi_here)},
	};

	if (!machine_open(m, guest_nmi, false) || !run_out(m, PORT_READY))
		return;
	if (!CHECK(ioctl(m->vcpu, KVM_NMI, 0) == 0, "KVM_NMI: %s", strerror(errno)) ||
	    !run_out(m, PORT_IN_NMI))
		return;
	CHECK(ioctl(m->vcpu, KVM_NMI, 0) == 0 && ioctl(m->vcpu, KVM_NMI, 0) == 0, "KVM_NMI: %s",
	      strerror(errno));
	if (!CHECK_EQ("NMIs before IRET", read64(m, GUEST_LOG), 1) || !run_out(m, PORT_IN_NMI) ||
	    !CHECK_EQ("NMIs after IRET", read64(m, GUEST_LOG), 2) || !run_out(m, PORT_DONE))
		return;
	check_traps(m, expected, 2);
}

static bool debug(struct machine *m, struct kvm_guest_debug *how)
{
	return CHECK(ioctl(m->vcpu, KVM_SET_GUEST_DEBUG, how) == 0, "KVM_SET_GUEST_DEBUG: %s",
		     strerror(errno));
}

static void test_step(struct machine *m)
{
	struct kvm_guest_debug how = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};

	if (!machine_open(m, guest_step, false) || !debug(m, &how))
		return;
	for (const u32 *step = guest_steps + 1; step < guest_steps_end; step++) {
		if (!run(m, KVM_EXIT_DEBUG) ||
		    !CHECK(m->run->debug.arch.pc == GUEST_CODE + *step &&
				   rip_of(m) == GUEST_CODE + *step,
			   "step %ld ends at %#llx, expected %#x", step - guest_steps,
			   (unsigned long long)m->run->debug.arch.pc, GUEST_CODE + *step) ||
		    !CHECK_EQ("exception", m->run->debug.arch.exception, VECTOR_DB) ||
		    !CHECK_EQ("DR6.BS", m->run->debug.arch.dr6 & DR6_BS, DR6_BS))
			return;
	}
	CHECK_EQ("last step", rip_of(m), address(guest_step_end));
	CHECK_EQ("what the guest has written", read64(m, GUEST_OUT), 7);
	how.control = 0;
	if (!debug(m, &how) || !run(m, KVM_EXIT_HLT))
		return;
	check_traps(m, NULL, 0);
}

/* DR0 on an instruction, DR1 on writes of 8 bytes. */
static void test_watch(struct machine *m)
{
	struct kvm_guest_debug how = {
		.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
		.arch.debugreg =
			{[0] = address(guest_watch_code), [1] = GUEST_OUT + 8, [7] = 0x0090060a},
	};

	if (!machine_open(m, guest_watch, false) || !debug(m, &how) || !run(m, KVM_EXIT_DEBUG) ||
	    !CHECK_EQ("RIP", m->run->debug.arch.pc, address(guest_watch_code)) ||
	    !CHECK_EQ("DR6", m->run->debug.arch.dr6 & 15, 1))
		return;
	/* It would stop there again. */
	how.arch.debugreg[7] = 0x00900608;
	if (!debug(m, &how) || !run(m, KVM_EXIT_DEBUG) ||
	    !CHECK_EQ("RIP", m->run->debug.arch.pc, address(guest_watch_data)) ||
	    !CHECK_EQ("DR6", m->run->debug.arch.dr6 & 15, 2) || !run(m, KVM_EXIT_HLT))
		return;
	check_traps(m, NULL, 0);
}

static void test_exceptions(struct machine *m)
{
	const struct trap expected[] = {
		{VECTOR_UD, 0, address(guest_fault_ud), 0},
		{VECTOR_DE, 0, address(guest_fault_de), 0},
		{VECTOR_PF, 0, address(guest_fault_pf_read), GUEST_ABSENT},
		{VECTOR_PF, PF_W, address(guest_fault_pf_write), GUEST_ABSENT},
		{VECTOR_PF, PF_P | PF_W, address(guest_fault_pf_readonly), GUEST_READONLY},
		{VECTOR_PF, PF_P | PF_RSVD, address(guest_fault_pf_reserved), GUEST_RESERVED},
		{VECTOR_NP, SELECTOR_ABSENT, address(guest_fault_np), 0},
		{VECTOR_GP, 0, address(guest_fault_gp), 0},
		{VECTOR_SS, 0, address(guest_fault_ss), 0},
		{VECTOR_PF, PF_P | PF_I, GUEST_NOEXEC, GUEST_NOEXEC},
		{VECTOR_BP, 0, address(guest_trap_bp), 0},
		{0x80, 0, address(guest_trap_int), 0},
		{VECTOR_DB, 0, address(guest_trap_db), 0},
	};

	if (!machine_open(m, guest_exceptions, false) || !run(m, KVM_EXIT_HLT))
		return;
	check_traps(m, expected, sizeof(expected) / sizeof(expected[0]));
}

static void test_exits(struct machine *m)
{
	const u32 per_round = (EXITS_PER_ROUND - 1) * 0x22222222u;
	const u64 total = (u64)EXITS_PER_ROUND * EXITS_ROUNDS;
	double begin, seconds;
	u64 exits;

	if (!machine_open(m, guest_exits, false))
		return;
	begin = now();
	for (u32 round = 1; round <= EXITS_ROUNDS; round++) {
		u32 value;

		if (!run_out(m, PORT_DATA))
			return;
		memcpy(&value, io_data(m), sizeof(value));
		if (!CHECK(value == round * (per_round + 1), "round %u: %#x, expected %#x", round,
			   value, round * (per_round + 1)))
			return;
	}
	seconds = now() - begin;
	exits = exits_of(m);
	CHECK(exits >= total, "KVM has counted %lu exits, expected at least %lu", exits, total);
	if (run(m, KVM_EXIT_HLT))
		printf("# %lu exits, %.1f us each\n", exits, seconds * 1e6 / (double)exits);
	check_traps(m, NULL, 0);
}

/* --- HostOnly and GuestOnly --------------------------------------------------------------------- */

/* One group of retired instructions: in guests and hosts, in hosts, in guests. */
enum { TOTAL, HOST, GUEST, EVENTS };

static int open_event(int leader, bool exclude_host, bool exclude_guest)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED |
			       PERF_FORMAT_TOTAL_TIME_RUNNING,
		.disabled = leader < 0,
		.pinned = leader < 0,
		.exclude_host = exclude_host,
		.exclude_guest = exclude_guest,
	};

	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, leader, PERF_FLAG_FD_CLOEXEC);
}

struct group {
	int fd[EVENTS];
	u64 count[EVENTS];
};

static bool group_open(struct group *g)
{
	for (int i = 0; i < EVENTS; i++)
		g->fd[i] = -1;
	for (int i = 0; i < EVENTS; i++) {
		g->fd[i] = open_event(i == 0 ? -1 : g->fd[0], i == GUEST, i == HOST);
		if (g->fd[i] < 0)
			return fail("perf_event_open, event %d: %s", i, strerror(errno));
	}
	return CHECK(ioctl(g->fd[0], PERF_EVENT_IOC_ENABLE, PERF_IOC_FLAG_GROUP) == 0, "enable: %s",
		     strerror(errno));
}

/* group_read: stops the group, reads and shows it, and closes it. */
static bool group_read(struct group *g, const char *name)
{
	struct {
		u64 events, enabled, running, count[EVENTS];
	} data = {0};
	bool good = !test_has_failed();

	if (good)
		good = CHECK(ioctl(g->fd[0], PERF_EVENT_IOC_DISABLE, PERF_IOC_FLAG_GROUP) == 0 &&
				     read(g->fd[0], &data, sizeof(data)) == sizeof(data),
			     "read: %s", strerror(errno));
	for (int i = 0; i < EVENTS; i++)
		if (g->fd[i] >= 0)
			close(g->fd[i]);
	memcpy(g->count, data.count, sizeof(g->count));
	if (!good)
		return false;
	printf("# %s: total %lu, H %lu, G %lu, H+G-total %ld\n", name, g->count[TOTAL],
	       g->count[HOST], g->count[GUEST],
	       (long)(g->count[HOST] + g->count[GUEST] - g->count[TOTAL]));
	return CHECK(data.enabled == data.running && data.running > 0,
		     "the group did not count all the time: enabled %lu ns, running %lu ns",
		     data.enabled, data.running);
}

/* group_close: the same, and H and G make up all. */
static bool group_close(struct group *g, const char *name)
{
	return group_read(g, name) &&
	       CHECK_EQ("H+G", g->count[HOST] + g->count[GUEST], g->count[TOTAL]);
}

static volatile u64 sink;

static void test_perf_no_vm(struct machine *m)
{
	struct group g;

	(void)m;
	if (group_open(&g))
		for (u64 i = 0; i < 1000000; i++)
			sink += i;
	if (!group_close(&g, "a program without a guest"))
		return;
	CHECK_EQ("G", g.count[GUEST], 0);
	CHECK(g.count[HOST] >= 1000000, "H is %lu", g.count[HOST]);
}

/* A machine exists, and so EFER.SVME is 1, but it does not run. */
static void test_perf_idle_vm(struct machine *m)
{
	struct group g;

	if (!machine_open(m, guest_count, false))
		return;
	if (group_open(&g))
		for (u64 i = 0; i < 1000000; i++)
			sink += i;
	if (!group_close(&g, "a guest that does not run"))
		return;
	CHECK_EQ("G", g.count[GUEST], 0);
	CHECK(g.count[HOST] >= 1000000, "H is %lu", g.count[HOST]);
}

/* The guest retires exactly as many as it should, and one for each VMRUN (docs/pmu.md). */
static void run_counted(struct machine *m, u64 instructions, const char *name)
{
	struct group g;
	u64 exits;

	if (!machine_open(m, guest_count, false) || !start(m, guest_count, instructions))
		return;
	exits = exits_of(m);
	if (group_open(&g))
		run(m, KVM_EXIT_HLT);
	if (!group_close(&g, name))
		return;
	exits = exits_of(m) - exits;
	printf("# %s: %lu exits, G - instructions - exits %ld\n", name, exits,
	       (long)(g.count[GUEST] - 2 * instructions - 1 - exits));
	CHECK_EQ("G less the guest's own instructions and its VMRUNs",
		 g.count[GUEST] - 2 * instructions - 1, exits);
	CHECK(g.count[HOST] > 0, "H is 0");
}

static void test_perf_short(struct machine *m)
{
	run_counted(m, 1000, "2,001 instructions");
}

static void test_perf_long(struct machine *m)
{
	run_counted(m, 50000000, "100,000,001 instructions");
}

/* How often Linux clears EFER.SVME when `lives` machines are made and destroyed one after the other:
 * each time, or, where KVM keeps it set as long as it is loaded, never. */
static u64 svme_clears(u64 lives)
{
	char set = 'N';
	int fd = open("/sys/module/kvm/parameters/enable_virt_at_load", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &set, 1) != 1)
			set = 'N';
		close(fd);
	}
	return set == 'Y' ? 0 : lives;
}

/* lost_in_lives: what H and G miss of all, for so many machines made, run and destroyed. */
static bool lost_in_lives(u64 lives, u64 *lost)
{
	struct group g;
	struct machine m;
	bool good = true;

	if (group_open(&g)) {
		for (u64 i = 0; i < lives && good; i++) {
			good = machine_open(&m, guest_count, false) &&
			       start(&m, guest_count, 1000000) && run(&m, KVM_EXIT_HLT);
			machine_close(&m);
		}
	}
	if (!group_read(&g, "lives of machines"))
		return false;
	CHECK(g.count[GUEST] >= lives * 2000001, "G is %lu", g.count[GUEST]);
	*lost = g.count[TOTAL] - g.count[HOST] - g.count[GUEST];
	return true;
}

/*
 * Linux clears EFER.SVME first and HostOnly in the selectors then. In between a counter with HostOnly
 * does not count, as the manual says of SVME=0 (APM2 table 13-4): a few instructions, always as many.
 */
static void test_perf_life(struct machine *m)
{
	u64 once, thrice;

	(void)m;
	if (!lost_in_lives(1, &once) || !lost_in_lives(3, &thrice))
		return;
	if (svme_clears(1) == 0)
		CHECK_EQ("what H and G miss", once, 0);
	else
		CHECK(once > 0 && once < 64, "H and G miss %ld instructions for one machine",
		      (long)once);
	CHECK_EQ("what H and G miss for three machines", thrice, 3 * once);
}

/* CPUID and OUT exit, and so do not retire in the guest: 20 others before OUT, 2 after it. */
static void test_perf_exits(struct machine *m)
{
	const u64 rounds = 1000, instructions = 2 + rounds * 20 + (rounds - 1) * 2;
	struct group g;
	u64 exits, round = 0;

	if (!machine_open(m, guest_exits, false))
		return;
	exits = exits_of(m);
	if (group_open(&g))
		while (round < rounds && run_out(m, PORT_DATA))
			round++;
	if (!group_close(&g, "10,000 exits"))
		return;
	exits = exits_of(m) - exits;
	CHECK_EQ("G less the guest's own instructions and its VMRUNs",
		 g.count[GUEST] - instructions, exits);
	CHECK(g.count[HOST] > g.count[GUEST], "H is %lu, less than G", g.count[HOST]);
}

/* ----------------------------------------------------------------------------------------------- */

static const struct test tests[] = {
	{"CPUID: what KVM_SET_CPUID2 says arrives", test_cpuid},
	{"MSRs: KVM's, the VMCB's, and those not intercepted", test_msr},
	{"an unknown MSR is #GP", test_msr_unknown},
	{"an unknown MSR goes to user space", test_msr_user},
	{"MMIO: all sizes, read, write, both, and REP MOVS", test_mmio},
	{"ports: all sizes, REP OUTSB, REP INSW", test_pio},
	{"HLT exits, RIP behind it", test_hlt},
	{"all vectors by KVM_INTERRUPT, each when the window opens", test_irq},
	{"all vectors by KVM_INTERRUPT, into HLT", test_irq_halted},
	{"KVM's PIC, IOAPIC, IPI, and APIC timer with HLT", test_chips},
	{"NMI, and another one held until IRET", test_nmi},
	{"single steps", test_step},
	{"breakpoints in DR0 and DR1", test_watch},
	{"#UD, #DE, #PF, #NP, #GP, #SS, #BP, INT, #DB in the guest", test_exceptions},
	{"1,000,000 exits", test_exits}, /* the last: see quick */
};

static const struct test perf_tests[] = {
	{"a program without a guest: G is 0, H is all", test_perf_no_vm},
	{"a guest that does not run: G is 0, H is all", test_perf_idle_vm},
	{"2,001 instructions of a guest: G has them and each VMRUN, H+G is all", test_perf_short},
	{"100,000,001 instructions of a guest: the same", test_perf_long},
	{"10,000 exits: H+G is all", test_perf_exits},
	{"machines made, run and destroyed: H+G misses what SVME=0 misses", test_perf_life},
};

static void time_is_up(int sig)
{
	(void)sig;
}

#define COUNT_OF(list) ((u32)(sizeof(list) / sizeof((list)[0])))

static const u32 tests_count = COUNT_OF(tests), quick_count = COUNT_OF(tests) - 1,
		 perf_tests_count = COUNT_OF(perf_tests);

/* What an argument begins with, which may have -plan behind it; the last is for all others. */
static const struct list {
	const char *what;
	const struct test *tests;
	const u32 *count;
} lists[] = {
	{"perf", perf_tests, &perf_tests_count},
	{"pmu", pmu_tests, &pmu_tests_count},
	{"two", two_tests, &two_tests_count},
	{"quick", tests, &quick_count},
	{"", tests, &tests_count},
};

static const struct list *list_of(const char *what)
{
	const struct list *list = lists;

	while (strncmp(what, list->what, strlen(list->what)) != 0)
		list++;
	return list;
}

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = time_is_up}; /* no SA_RESTART */
	const char *what = argc > 1 ? argv[1] : "";
	const struct list *list = list_of(what);
	u32 count = *list->count, number = 0, failures = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strstr(what, "plan")) {
		printf("%u\n", count);
		return 0;
	}
	if (strcmp(what, "hold") != 0)
		printf("1..%u\n", count);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0 || ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		printf("Bail out! /dev/kvm: %s\n", strerror(errno));
		return 1;
	}
	if (strcmp(what, "hold") == 0) {
		struct machine m;

		while (machine_open(&m, guest_hlt, false))
			pause();
		return 1;
	}
	sigaction(SIGALRM, &action, NULL);
	for (const struct test *test = list->tests; test < list->tests + count; test++) {
		struct machine m = NO_MACHINE;
		double begin = now();
		bool failed;

		test_begin();
		alarm(SECONDS_MAX);
		test->run(&m);
		alarm(0);
		machine_close(&m);
		failed = test_has_failed();
		number++;
		failures += failed;
		printf("%sok %u - %s\n", failed ? "not " : "", number, test->name);
		printf("# time: %.3f s, %s\n", now() - begin, test->name);
	}
	return failures > 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * The probe on Linux: MSRs by /dev/cpu/N/msr, the guest by /dev/kvm. Counters are written from user mode, with thousands of
 * the kernel's instructions before and behind, so only user mode is counted (USR), and the guest runs at CPL 3. It is
 * alone on its CPU, but for interrupts, each of which counts the IRET that comes back from it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/linux.h"
#include "client/os.h"
#include "client/probe.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define ROUNDS 1000u /* of these; of IRET and VMRUN, one each */
#define NOPS 1000u
#define JUMPS 1000u
#define COST_ROUNDS 9u
#define CPUID_ENTRIES 256

/* The guest's memory. */
#define GUEST_BYTES 0x10000u
#define GUEST_PML4 0x1000u
#define GUEST_PDPT 0x2000u
#define GUEST_PD 0x3000u
#define GUEST_CODE 0x8000u
#define GUEST_STACK 0xf000u
#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_LARGE BIT(7)
#define RFLAGS_IOPL_3 BITS(13, 12)

static struct {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	size_t run_bytes;
	u8 *memory;
	const char *why; /* that it could not be opened */
} guest = {.kvm = -1, .vm = -1, .vcpu = -1};

/* ESI is how often; at the end comes OUT. 1000 instructions a round, or, apart from the one that exits, two. */
#define GUEST_LOOP(name, code)                                                                     \
#name ":\n\ttest %esi, %esi\n\tjz 2f\n1:\t" code                                           \
	      "\n\tdec %esi\n\tjnz 1b\n2:\tout %al, $0x80\n\tjmp " #name "\n"
asm(".pushsection .rodata\n.balign 16\nprobe_guest:\n" GUEST_LOOP(guest_nops,
								  ".rept 998\n\tnop\n\t.endr")
	    GUEST_LOOP(guest_cpuid, "cpuid")
		    GUEST_LOOP(guest_vmmcall, "mov $0x7fffffff, %eax\n\tvmmcall")
			    GUEST_LOOP(guest_rdmsr, "mov $0xc0000080, %ecx\n\trdmsr")
    /* the microcode's revision, which a guest cannot change, and may try to */
    GUEST_LOOP(guest_wrmsr, "mov $0x8b, %ecx\n\txor %eax, %eax\n\txor %edx, %edx\n\twrmsr")
	    GUEST_LOOP(guest_hlt, "hlt")
		    GUEST_LOOP(guest_out, "out %al, $0x81") "probe_guest_end:\n.popsection");
extern const u8 probe_guest[], probe_guest_end[], guest_nops[], guest_cpuid[], guest_vmmcall[],
	guest_rdmsr[], guest_wrmsr[], guest_hlt[], guest_out[];

static void cpuid(u32 leaf, u32 r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

static u64 rdtsc(void)
{
	u32 lo, hi;

	asm volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

/* ---- code of our own ---- */

static void run_nops(void)
{
	u32 rounds = ROUNDS;

	asm volatile("1:\n\t.rept 998\n\tnop\n\t.endr\n\tdec %0\n\tjnz 1b" : "+r"(rounds));
}

static void run_jumps(void)
{
	u32 rounds = ROUNDS;

	asm volatile("1:\n\t.rept 999\n\tjmp .+2\n\t.endr\n\tdec %0\n\tjnz 1b" : "+r"(rounds));
}

static void run_irets(void)
{
	u64 rounds = ROUNDS, sp;

	/* clear of the red zone */
	asm volatile("mov %%rsp, %1\n\tsub $128, %%rsp\n"
		     "1:\tmov %%ss, %%eax\n\tpush %%rax\n\tlea -128(%1), %%rax\n\tpush %%rax\n\t"
		     "pushfq\n\tmov %%cs, %%eax\n\tpush %%rax\n\tlea 2f(%%rip), %%rax\n\t"
		     "push %%rax\n\tiretq\n2:\tdec %0\n\tjnz 1b\n\tmov %1, %%rsp"
		     : "+r"(rounds), "=&r"(sp)
		     :
		     : "rax", "memory", "cc");
}

/* ---- the guest ---- */

static const char *guest_cpuids(void)
{
	static u64
		room[(sizeof(struct kvm_cpuid2) + sizeof(struct kvm_cpuid_entry2[CPUID_ENTRIES])) /
		     8];
	struct kvm_cpuid2 *list = (struct kvm_cpuid2 *)room;

	list->nent = CPUID_ENTRIES;
	if (ioctl(guest.kvm, KVM_GET_SUPPORTED_CPUID, list) < 0 ||
	    ioctl(guest.vcpu, KVM_SET_CPUID2, list) < 0)
		return "KVM takes no CPUID";
	return NULL;
}

static void put(u64 gpa, u64 value)
{
	memcpy(guest.memory + gpa, &value, sizeof(value));
}

static const char *guest_privilege(u8 cpl)
{
	const struct kvm_segment code = {.limit = ~0u,
					 .selector = (u16)(0x20 | cpl),
					 .type = 11,
					 .present = 1,
					 .dpl = cpl,
					 .s = 1,
					 .l = 1,
					 .g = 1};
	const struct kvm_segment data = {.limit = ~0u,
					 .selector = (u16)(0x28 | cpl),
					 .type = 3,
					 .present = 1,
					 .dpl = cpl,
					 .db = 1,
					 .s = 1,
					 .g = 1};
	struct kvm_sregs s;

	if (ioctl(guest.vcpu, KVM_GET_SREGS, &s) < 0)
		return "KVM gives no registers";
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s.cr3 = GUEST_PML4;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	return ioctl(guest.vcpu, KVM_SET_SREGS, &s) < 0 ? "KVM takes no registers" : NULL;
}

static void *map(int fd, size_t bytes)
{
	const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

static const char *guest_memory(void)
{
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};

	guest.memory = map(-1, GUEST_BYTES);
	region.userspace_addr = (u64)guest.memory;
	if (!guest.memory || ioctl(guest.vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return "KVM takes no memory";
	put(GUEST_PML4, GUEST_PDPT | PTE_P | PTE_W | PTE_U);
	put(GUEST_PDPT, GUEST_PD | PTE_P | PTE_W | PTE_U);
	put(GUEST_PD, PTE_LARGE | PTE_P | PTE_W | PTE_U);
	memcpy(guest.memory + GUEST_CODE, probe_guest, (size_t)(probe_guest_end - probe_guest));
	return NULL;
}

static const char *guest_make(void)
{
	struct kvm_enable_cap no_pmu = {.cap = KVM_CAP_PMU_CAPABILITY,
					.args = {KVM_PMU_CAP_DISABLE}};
	const char *why;

	guest.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (guest.kvm < 0)
		return errno == ENOENT || errno == ENODEV
			       ? "there is no /dev/kvm (modprobe kvm_amd)"
			       : "/dev/kvm cannot be opened";
	guest.vm = ioctl(guest.kvm, KVM_CREATE_VM, 0);
	if (guest.vm < 0)
		return "KVM makes no virtual machine";
	/* With a mediated PMU the guest would get our counters. A KVM without this has none. */
	ioctl(guest.vm, KVM_ENABLE_CAP, &no_pmu);
	guest.vcpu = ioctl(guest.vm, KVM_CREATE_VCPU, 0);
	if (guest.vcpu < 0)
		return "KVM makes no virtual CPU";
	guest.run_bytes = (size_t)ioctl(guest.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	guest.run = map(guest.vcpu, guest.run_bytes);
	if (!guest.run)
		return "KVM gives no struct kvm_run";
	why = guest_memory();
	return why ? why : guest_cpuids();
}

/* At first use, since it sets EFER.SVME. */
static const char *guest_open(void)
{
	if (!guest.why && guest.vm < 0)
		guest.why = guest_make();
	return guest.why;
}

static const char *guest_at(const u8 *label, u32 esi)
{
	const struct kvm_regs r = {.rip = GUEST_CODE + (u64)(label - probe_guest),
				   .rsp = GUEST_STACK,
				   .rsi = esi,
				   .rflags = RFLAGS_FIXED | RFLAGS_IOPL_3};

	return ioctl(guest.vcpu, KVM_SET_REGS, &r) < 0 ? "KVM takes no registers" : NULL;
}

/* So many times through KVM_RUN, the last of which is the OUT at the code's end. */
static const char *guest_run(u32 times)
{
	while (times--) {
		if (ioctl(guest.vcpu, KVM_RUN, 0) < 0)
			return "KVM_RUN fails";
		if (guest.run->exit_reason != KVM_EXIT_IO && guest.run->exit_reason != KVM_EXIT_HLT)
			return "the guest exits otherwise";
	}
	if (guest.run->exit_reason != KVM_EXIT_IO || guest.run->io.port != 0x80)
		return "the guest does not come to its end";
	return NULL;
}

/* ---- what is asked for ---- */

static bool svme(void)
{
	u64 efer;

	return linux_rdmsr(MSR_EFER, &efer) && efer & EFER_SVME;
}

static const char *in_guest(const struct probe_run *run)
{
	const u8 *label = run->code == PROBE_NOPS ? guest_nops : guest_cpuid;
	const char *why = guest_open();

	if (run->code != PROBE_NOPS && run->code != PROBE_VMRUNS)
		return "the guest has no such code";
	if (!why)
		why = guest_privilege(3);
	if (!why)
		why = guest_at(label, run->any ? ROUNDS : 0);
	if (why)
		return why;
	linux_wrmsr(run->selector_msr, run->eventsel);
	why = guest_run(1);
	linux_wrmsr(run->selector_msr, 0);
	return why;
}

static void in_host(const struct probe_run *run)
{
	linux_wrmsr(run->selector_msr, run->eventsel);
	if (run->any && run->code == PROBE_NOPS)
		run_nops();
	else if (run->any && run->code == PROBE_JUMPS)
		run_jumps();
	else if (run->any && run->code == PROBE_IRETS)
		run_irets();
	linux_wrmsr(run->selector_msr, 0);
}

static const char *run(const struct probe_run *run)
{
	const char *why;

	if (run->mode == PROBE_GUEST)
		return in_guest(run);
	if (run->mode == PROBE_SVME0 && svme())
		return "KVM has set EFER.SVME (modprobe -r kvm_amd)";
	if (run->mode == PROBE_HOST && !svme()) {
		why = guest_open();
		if (why)
			return why;
		if (!svme())
			return "EFER.SVME stays 0 with a virtual machine";
	}
	in_host(run);
	return NULL;
}

static const char *overflow(const struct probe_overflow_run *run, struct probe_interrupts *i)
{
	const struct probe_run nops = {PROBE_HOST, PROBE_NOPS, true, run->selector_msr,
				       run->eventsel};

	i->why = "LVTPC is Linux's";
	if (run->signal != PROBE_SILENT)
		return i->why;
	in_host(&nops);
	return NULL;
}

/* Of one round, as the difference that `rounds` of them make. */
static const char *exit_ticks(const u8 *label, u32 rounds, bool to_user, u64 *ticks)
{
	u64 begin, took[2];

	for (u32 any = 0; any < 2; any++) {
		const char *why = guest_at(label, any ? rounds : 0);

		begin = rdtsc();
		if (!why)
			why = guest_run(any && to_user ? rounds + 1 : 1);
		took[any] = rdtsc() - begin;
		if (why)
			return why;
	}
	*ticks = took[1] > took[0] ? (took[1] - took[0]) / rounds : 0;
	return NULL;
}

static const char *cost(enum probe_cost what, u64 *ticks)
{
	static const struct {
		const u8 *label;
		bool to_user;
	} exits[] = {
		[PROBE_COST_EXIT_VMMCALL] = {guest_vmmcall, false},
		[PROBE_COST_EXIT_CPUID] = {guest_cpuid, false},
		[PROBE_COST_EXIT_RDMSR] = {guest_rdmsr, false},
		[PROBE_COST_EXIT_WRMSR] = {guest_wrmsr, false},
		[PROBE_COST_EXIT_HLT] = {guest_hlt, true},
		[PROBE_COST_EXIT_OUT] = {guest_out, true},
	};
	const char *why;
	u32 r[4];

	if (what == PROBE_COST_CPUID) {
		u64 begin = rdtsc();

		cpuid(0, r);
		*ticks = rdtsc() - begin;
		return NULL;
	}
	if (what >= ARRAY_SIZE(exits))
		return "Linux has CPL 0";
	why = guest_open();
	if (!why)
		why = guest_privilege(0);
	return why ? why : exit_ticks(exits[what].label, ROUNDS, exits[what].to_user, ticks);
}

static const char *begin(void)
{
	u64 value;

	if (linux_rdmsr(MSR_LEGACY_PERFEVTSEL(0), &value) &&
	    !linux_wrmsr(MSR_LEGACY_PERFEVTSEL(0), value))
		return "Linux does not let MSRs be written: it is locked down "
		       "(/sys/kernel/security/lockdown), or see "
		       "/sys/module/msr/parameters/allow_writes";
	return NULL;
}

static void end(void)
{
	if (guest.run)
		munmap(guest.run, guest.run_bytes);
	if (guest.vcpu >= 0)
		close(guest.vcpu);
	if (guest.vm >= 0)
		close(guest.vm);
	if (guest.kvm >= 0)
		close(guest.kvm);
}

const struct probe_machine *os_probe_machine(unsigned int cpu)
{
	static const struct probe_machine m = {
		.system = "Linux",
		.cpl = EVTSEL_USR,
		.repeats = {[PROBE_NOPS] = (u64)ROUNDS * NOPS,
			    [PROBE_JUMPS] = (u64)ROUNDS * JUMPS,
			    [PROBE_IRETS] = ROUNDS,
			    [PROBE_VMRUNS] = ROUNDS},
		.guest_adds = {[PROBE_INSTRUCTIONS] = 2, [PROBE_BRANCHES] = 1},
		.exact = false,
		.cost_rounds = COST_ROUNDS,
		.costs = "of the TSC; KVM's exits, of HLT and OUT up to its user",
		.cpuid = cpuid,
		.rdmsr = linux_rdmsr,
		.wrmsr = linux_wrmsr,
		.begin = begin,
		.end = end,
		.run = run,
		.overflow = overflow,
		.cost = cost,
	};
	const struct sched_param first = {.sched_priority = 1};
	cpu_set_t only;

	if (!os_connect(cpu))
		return NULL;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (sched_setaffinity(0, sizeof(only), &only)) {
		os_error("CPU %u: %s", cpu, strerror(errno));
		return NULL;
	}
	/* better, and not needed */
	sched_setscheduler(0, SCHED_FIFO, &first);
	return &m;
}

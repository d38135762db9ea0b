/* SPDX-License-Identifier: MIT */
/* All inline assembly of the core. */
#ifndef TALLY_HV_CPU_H
#define TALLY_HV_CPU_H

#include "hv/core/cpuid.h"
#include "types.h"

static ALWAYS_INLINE struct cpuid_leaf cpu_cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid_leaf l;

	asm volatile("cpuid"
		     : "=a"(l.eax), "=b"(l.ebx), "=c"(l.ecx), "=d"(l.edx)
		     : "a"(leaf), "c"(subleaf));
	return l;
}

/* The same for the exit path: the CPU clears bits 63:32 of all four, and the compiler need not do it again. */
static ALWAYS_INLINE void cpu_cpuid64(u64 *rax, u64 *rbx, u64 *rcx, u64 *rdx)
{
	asm volatile("cpuid" : "+a"(*rax), "=b"(*rbx), "+c"(*rcx), "=d"(*rdx));
}

static ALWAYS_INLINE u64 cpu_rdmsr(u32 msr)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return lo | (u64)hi << 32;
}

static ALWAYS_INLINE void cpu_wrmsr_halves(u32 msr, u32 low, u32 high)
{
	asm volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high) : "memory");
}

static ALWAYS_INLINE void cpu_wrmsr(u32 msr, u64 value)
{
	cpu_wrmsr_halves(msr, (u32)value, (u32)(value >> 32));
}

static ALWAYS_INLINE u64 cpu_rdtsc(void)
{
	u32 lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return lo | (u64)hi << 32;
}

/* A #GP on the instruction at the label continues at the other label (see fault_fixup() in hv/panic.c). */
#define EXTABLE(from, to)                                                                          \
	".pushsection .extable,\"a\"\n.long " from " - ., " to " - .\n.popsection\n"

/* For MSRs that a guest named. False: the CPU raised #GP. */
static inline bool cpu_rdmsr_safe(u32 msr, u64 *value)
{
	u32 lo = 0, hi = 0;
	u8 ok = 0;

	asm volatile("1: rdmsr\n mov $1, %2\n2:\n" EXTABLE("1b", "2b")
		     : "+a"(lo), "+d"(hi), "+r"(ok)
		     : "c"(msr));
	*value = lo | (u64)hi << 32;
	return ok;
}

static inline bool cpu_wrmsr_safe(u32 msr, u64 value)
{
	u8 ok = 0;

	asm volatile("1: wrmsr\n mov $1, %0\n2:\n" EXTABLE("1b", "2b")
		     : "+r"(ok)
		     : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32))
		     : "memory");
	return ok;
}

#define CPU_CR(n)                                                                                  \
	static ALWAYS_INLINE u64 cpu_read_cr##n(void)                                              \
	{                                                                                          \
		u64 value;                                                                         \
                                                                                                   \
		asm volatile("mov %%cr" #n ", %0" : "=r"(value));                                  \
		return value;                                                                      \
	}                                                                                          \
	static ALWAYS_INLINE void cpu_write_cr##n(u64 value)                                       \
	{                                                                                          \
		asm volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                         \
	}
CPU_CR(0)
CPU_CR(3)
CPU_CR(4)
CPU_CR(8)
#undef CPU_CR

static ALWAYS_INLINE u64 cpu_read_cr2(void)
{
	u64 value;

	asm volatile("mov %%cr2, %0" : "=r"(value));
	return value;
}

static ALWAYS_INLINE u64 cpu_read_dr6(void)
{
	u64 value;

	asm volatile("mov %%dr6, %0" : "=r"(value));
	return value;
}

static ALWAYS_INLINE u64 cpu_read_dr7(void)
{
	u64 value;

	asm volatile("mov %%dr7, %0" : "=r"(value));
	return value;
}

static ALWAYS_INLINE void cpu_cli(void)
{
	asm volatile("cli" : : : "memory");
}

static ALWAYS_INLINE void cpu_sti(void)
{
	asm volatile("sti" : : : "memory");
}

static ALWAYS_INLINE void cpu_clgi(void)
{
	asm volatile("clgi" : : : "memory");
}

static ALWAYS_INLINE void cpu_stgi(void)
{
	asm volatile("stgi" : : : "memory");
}

static ALWAYS_INLINE void cpu_vmload(u64 vmcb_hpa)
{
	asm volatile("vmload %0" : : "a"(vmcb_hpa) : "memory");
}

static ALWAYS_INLINE void cpu_vmsave(u64 vmcb_hpa)
{
	asm volatile("vmsave %0" : : "a"(vmcb_hpa) : "memory");
}

static ALWAYS_INLINE void cpu_invlpga(u64 address, u32 asid)
{
	asm volatile("invlpga %0, %1" : : "a"(address), "c"(asid) : "memory");
}

static ALWAYS_INLINE void cpu_outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static ALWAYS_INLINE u8 cpu_inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static ALWAYS_INLINE void cpu_outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static ALWAYS_INLINE u32 cpu_in(u16 port, u32 bytes)
{
	u32 value = 0;

	if (bytes == 1)
		asm volatile("inb %1, %b0" : "+a"(value) : "Nd"(port));
	else if (bytes == 2)
		asm volatile("inw %1, %w0" : "+a"(value) : "Nd"(port));
	else
		asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static ALWAYS_INLINE void cpu_out(u16 port, u32 bytes, u32 value)
{
	if (bytes == 1)
		asm volatile("outb %b0, %1" : : "a"(value), "Nd"(port));
	else if (bytes == 2)
		asm volatile("outw %w0, %1" : : "a"(value), "Nd"(port));
	else
		asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static ALWAYS_INLINE void cpu_pause(void)
{
	asm volatile("pause");
}

static ALWAYS_INLINE void cpu_hlt(void)
{
	asm volatile("hlt");
}

struct descriptor_table {
	u16 limit;
	u64 base;
} PACKED;

static ALWAYS_INLINE void cpu_lidt(const struct descriptor_table *dt)
{
	asm volatile("lidt %0" : : "m"(*dt));
}

static ALWAYS_INLINE void cpu_sgdt(struct descriptor_table *dt)
{
	asm volatile("sgdt %0" : "=m"(*dt));
}

static ALWAYS_INLINE void cpu_sidt(struct descriptor_table *dt)
{
	asm volatile("sidt %0" : "=m"(*dt));
}

#define CPU_SELECTOR(reg)                                                                          \
	static ALWAYS_INLINE u16 cpu_read_##reg(void)                                              \
	{                                                                                          \
		u16 value;                                                                         \
                                                                                                   \
		asm volatile("mov %%" #reg ", %0" : "=r"(value));                                  \
		return value;                                                                      \
	}
CPU_SELECTOR(cs)
CPU_SELECTOR(ds)
CPU_SELECTOR(es)
CPU_SELECTOR(ss)
#undef CPU_SELECTOR

#endif

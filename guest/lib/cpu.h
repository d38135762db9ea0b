/* SPDX-License-Identifier: MIT */
/* One inline function per instruction that C cannot say. No state, no policy. */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include "types.h"

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

struct PACKED table_register {
	u16 limit;
	u64 base;
};

static inline struct cpuid cpuid(u32 leaf)
{
	struct cpuid r;

	asm volatile("cpuid"
		     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
		     : "a"(leaf), "c"(0));
	return r;
}

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdpmc(u32 index)
{
	u32 lo, hi;

	asm volatile("rdpmc" : "=a"(lo), "=d"(hi) : "c"(index) : "memory");
	return (u64)hi << 32 | lo;
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

#define CONTROL_REGISTER(cr)                                                                       \
	static inline u64 read_##cr(void)                                                          \
	{                                                                                          \
		u64 v;                                                                             \
		asm volatile("mov %%" #cr ", %0" : "=r"(v) : : "memory");                          \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##cr(u64 v)                                                       \
	{                                                                                          \
		asm volatile("mov %0, %%" #cr : : "r"(v) : "memory");                              \
	}
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(cr8)
#undef CONTROL_REGISTER

static inline u64 read_flags(void)
{
	u64 v;

	asm volatile("pushfq; pop %0" : "=r"(v) : : "memory");
	return v;
}

static inline u8 inb(u16 port)
{
	u8 v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u32 inl(u16 port)
{
	u32 v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline void cli(void)
{
	asm volatile("cli" : : : "memory");
}

static inline void sti(void)
{
	asm volatile("sti" : : : "memory");
}

/* A window of a few instructions in which a pending interrupt is taken; the first NOP is STI's
 * shadow. */
static inline void interrupt_window(void)
{
	asm volatile("sti; nop; nop; nop; cli" : : : "memory");
}

/* An NMI that L2 took and never returned from still masks NMIs: IRET ends that. */
static inline void nmi_unmask(void)
{
	asm volatile(
		"mov %%rsp, %%rax\n\tmov %%ss, %%ecx\n\tpush %%rcx\n\tpush %%rax\n\tpushfq\n\t"
		"mov %%cs, %%ecx\n\tpush %%rcx\n\tlea 1f(%%rip), %%rcx\n\tpush %%rcx\n\tiretq\n1:"
		:
		:
		: "rax", "rcx", "memory");
}

static inline void clgi(void)
{
	asm volatile("clgi" : : : "memory");
}

static inline void stgi(void)
{
	asm volatile("stgi" : : : "memory");
}

static inline void vmmcall(void)
{
	asm volatile("vmmcall" : : : "memory");
}

static inline void vmload(u64 pa)
{
	asm volatile("vmload %%rax" : : "a"(pa) : "memory");
}

static inline void vmsave(u64 pa)
{
	asm volatile("vmsave %%rax" : : "a"(pa) : "memory");
}

static inline void invlpg(const volatile void *p)
{
	asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}

/* VMMCALL with a function number: include/abi/hypercall.h. */
static inline s64 hypercall(u64 call, u64 rbx, u64 rcx, u64 rdx)
{
	s64 ret;

	asm volatile("vmmcall" : "=a"(ret), "+d"(rdx) : "a"(call), "b"(rbx), "c"(rcx) : "memory");
	return ret;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * SYSCALL, SYSRET, SYSENTER and SYSEXIT on a save area, for a CPU that is kept from executing them itself. The caller has
 * checked what makes them fault. GPRs but RSP are the caller's, too. APM3 rev. 3.36, pseudocode of each.
 */
#ifndef TALLY_CORE_SYSCALL_H
#define TALLY_CORE_SYSCALL_H

#include "types.h"
#include "x86/cr.h"
#include "x86/svm.h"

#define SYSCALL_SEG_CODE ((u16)(SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | 0xb))
#define SYSCALL_SEG_DATA ((u16)(SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | SEG_ATTR_DB | 0x3))
#define SYSCALL_SEG_DPL3 ((u16)0x60)

/* RFLAGS that SYSRET takes from R11: all that exist but RF and VM. */
#define SYSRET_RFLAGS 0x3c7fd5ull

static inline struct vmcb_seg syscall_seg(u16 selector, u16 attrib)
{
	return (struct vmcb_seg){.selector = selector, .attrib = attrib, .limit = 0xffffffff};
}

/* To CPL 0, CS from a selector, and SS the next one. */
static inline void syscall_to_kernel(struct vmcb_save *s, u16 cs, bool long_mode)
{
	cs &= 0xfffc;
	s->cs = syscall_seg(cs, SYSCALL_SEG_CODE | (long_mode ? SEG_ATTR_L : SEG_ATTR_DB));
	s->ss = syscall_seg((u16)(cs + 8), SYSCALL_SEG_DATA);
	s->cpl = 0;
	s->rflags &= ~(RFLAGS_RF | RFLAGS_VM);
}

static inline void syscall_to_user(struct vmcb_save *s, u16 cs, bool code_64)
{
	s->cs = syscall_seg(cs | 3, SYSCALL_SEG_CODE | SYSCALL_SEG_DPL3 |
					    (code_64 ? SEG_ATTR_L : SEG_ATTR_DB));
	s->cpl = 3;
}

/* `target`: LSTAR or CSTAR as the mode wants in long mode, else STAR's EIP. *rcx and *r11 are set. */
static inline void syscall_enter(struct vmcb_save *s, u64 next_rip, u64 star, u64 target,
				 u64 sfmask, u64 *rcx, u64 *r11)
{
	bool long_mode = s->efer & EFER_LMA;

	*rcx = next_rip;
	if (long_mode)
		*r11 = s->rflags & ~RFLAGS_RF;
	s->rflags &= long_mode ? ~sfmask : ~RFLAGS_IF;
	s->rflags |= RFLAGS_FIXED;
	syscall_to_kernel(s, (u16)(star >> 32), long_mode);
	s->rip = target;
}

/* In 64-bit mode flags come from R11, and REX.W (to_64) decides where it goes. SS keeps all but its selector and DPL. */
static inline void syscall_return(struct vmcb_save *s, bool from_64, bool to_64, u64 star, u64 rcx,
				  u64 r11)
{
	u16 cs = (u16)(star >> 48);

	if (from_64)
		s->rflags = (r11 & SYSRET_RFLAGS) | RFLAGS_FIXED;
	else
		s->rflags |= RFLAGS_IF;
	s->ss.selector = (u16)(cs + 8) | 3;
	s->ss.attrib |= SYSCALL_SEG_DPL3;
	syscall_to_user(s, to_64 ? (u16)(cs + 16) : cs, to_64);
	s->rip = to_64 ? rcx : (u32)rcx;
}

/* Outside long mode only: AMD CPUs have neither under it. */
static inline void sysenter_enter(struct vmcb_save *s, u64 cs, u64 eip, u64 esp)
{
	syscall_to_kernel(s, (u16)cs, false);
	s->rflags &= ~RFLAGS_IF;
	s->rip = (u32)eip;
	s->rsp = (u32)esp;
}

static inline void sysenter_return(struct vmcb_save *s, u64 cs, u64 edx, u64 ecx)
{
	syscall_to_user(s, (u16)(cs + 16), false);
	s->ss = syscall_seg((u16)(cs + 24) | 3, SYSCALL_SEG_DATA | SYSCALL_SEG_DPL3);
	s->rip = (u32)edx;
	s->rsp = (u32)ecx;
}

#endif

; SPDX-License-Identifier: MIT
;
; The way into and out of the guest, and the entry points of the core.
;
; RSP points at struct vcpu at VMRUN, and #VMEXIT restores it: that is how the CPU finds its data. The stack grows down
; from there. GIF is 0 throughout L0. FS, GS, TR, LDTR, SYSCALL and SYSENTER MSRs and the FPU stay the guest's: L0 uses
; none of them. APM2 §15.5, §15.6.

%include "asm-offsets.inc"

bits 64
default rel

%define GPR(n) [rsp + VCPU_GPR + 8 * (n)]

; C keeps RBP and R12-R15 as they are and no handler changes the guest's, so on the ordinary path they are neither saved
; nor loaded. SAVE_ALL is for exits that may want to read them. RAX and RSP are in the VMCB.
%macro LOAD_GUEST 0
	mov	rcx, GPR(1)
	mov	rdx, GPR(2)
	mov	rbx, GPR(3)
	mov	rsi, GPR(6)
	mov	rdi, GPR(7)
	mov	r8, GPR(8)
	mov	r9, GPR(9)
	mov	r10, GPR(10)
	mov	r11, GPR(11)
%endmacro

%macro SAVE_GUEST 0
	mov	GPR(1), rcx
	mov	GPR(2), rdx
	mov	GPR(3), rbx
	mov	GPR(6), rsi
	mov	GPR(7), rdi
	mov	GPR(8), r8
	mov	GPR(9), r9
	mov	GPR(10), r10
	mov	GPR(11), r11
%endmacro

%macro VMRUN_GUEST 0
	LOAD_GUEST
	mov	rax, [rsp + VCPU_VMCB_HPA]
	vmrun
	SAVE_GUEST
%endmacro

%macro READ_TSC 0
	rdtsc
	shl	rdx, 32
	or	rax, rdx
%endmacro

section .text

extern vcpu_exit_special, vcpu_exit_watched, core_main, core_run, fault, pmi_due

; NORETURN void vmrun_loop(struct vcpu *): from the registers in vcpu.gpr on.
;
; While a counter of the backend `clock` runs, the TSC is read at a fixed number of instructions before and after the
; guest; clock_overhead is that number, measured at boot by vmrun_probe() on this very path. So clock.now advances by
; what the guest executed, and by nothing of L0's.
global vmrun_loop
vmrun_loop:
	mov	rsp, rdi
	mov	rbp, GPR(5)
	mov	r12, GPR(12)
	mov	r13, GPR(13)
	mov	r14, GPR(14)
	mov	r15, GPR(15)
	jmp	[rsp + VCPU_ON_ENTRY]

; One of the values of vcpu.on_entry: the ordinary one.
global vmrun_enter
vmrun_enter:
	cmp	qword [rsp + VCPU_CLOCK_COUNTING], 0
	jne	.clock
	VMRUN_GUEST
	mov	rdi, rsp
	call	[rsp + VCPU_ON_EXIT]
	jmp	[rsp + VCPU_ON_ENTRY]

.clock:
	READ_TSC
	sub	[rsp + VCPU_CLOCK_NOW], rax
	VMRUN_GUEST
	READ_TSC
	sub	rax, [rsp + VCPU_CLOCK_OVERHEAD]
	add	rax, [rsp + VCPU_CLOCK_NOW]
	mov	[rsp + VCPU_CLOCK_NOW], rax
	mov	rdi, rsp
	cmp	rax, [rsp + VCPU_CLOCK_DEADLINE]
	jae	.due
.handle:
	call	[rsp + VCPU_ON_EXIT]
	jmp	[rsp + VCPU_ON_ENTRY]

.due:
	call	pmi_due
	mov	rdi, rsp
	jmp	.handle

; The other: starts the APIC's timer first, for clock.deadline or for apic_timer.limit, whichever comes first
; (hv/apic_timer.c). What is executed from the write to VMRUN is apic_timer.lead: nothing there may depend on anything.
global vmrun_enter_armed
vmrun_enter_armed:
	xor	edx, edx
	mov	rax, [rsp + VCPU_CLOCK_DEADLINE]
	sub	rax, [rsp + VCPU_CLOCK_NOW]
	cmovb	rax, rdx
	cmp	rax, [rsp + VCPU_TIMER_LIMIT]
	cmova	rax, [rsp + VCPU_TIMER_LIMIT]
	add	rax, [rsp + VCPU_TIMER_LEAD]
	mov	rcx, [rsp + VCPU_TIMER_COUNT_AT]
	mov	[rcx], eax
	jmp	vmrun_enter.clock

; And while IRPERF is on with `guest-only`: as .clock above, with that register for the TSC (hv/irperf.c).
%macro READ_IRPERF 0
	mov	ecx, 0xc00000e9
	rdmsr
	shl	rdx, 32
	or	rax, rdx
%endmacro
global vmrun_enter_irperf
vmrun_enter_irperf:
	READ_IRPERF
	sub	[rsp + VCPU_IRPERF_COUNT], rax
	VMRUN_GUEST
	READ_IRPERF
	sub	rax, [rsp + VCPU_IRPERF_OVERHEAD]
	add	[rsp + VCPU_IRPERF_COUNT], rax
	mov	rdi, rsp
	call	[rsp + VCPU_ON_EXIT]
	jmp	[rsp + VCPU_ON_ENTRY]

; Starts or stops the counters of the backend `switched`, as its list says; the same number of instructions for the same
; number of writes. Leaves no register.
%macro SWITCH_COUNTERS 1
	mov	rsi, [rsp + VCPU_SWITCHED_WRITES]
	lea	rdi, [rsp + VCPU_SWITCHED_WRITE]
%%next:
	mov	ecx, [rdi + WRITE_MSR]
	mov	eax, [rdi + %1]
	mov	edx, [rdi + WRITE_HIGH]
	wrmsr
	add	rdi, WRITE_SIZE
	dec	rsi
	jnz	%%next
%endmacro

; NORETURN void vmrun_loop_switched(struct vcpu *): the loop with the backend `switched`.
;
; What is executed between the last write that starts counters and the first that stops them is counted, and taken off
; by number of entries: nothing there may depend on anything but the number of writes.
global vmrun_loop_switched
vmrun_loop_switched:
	mov	rsp, rdi
	mov	rbp, GPR(5)
	mov	r12, GPR(12)
	mov	r13, GPR(13)
	mov	r14, GPR(14)
	mov	r15, GPR(15)
.enter:
	cmp	qword [rsp + VCPU_SWITCHED_WRITES], 0
	jne	.enter_counting
	VMRUN_GUEST
.exit:
	mov	rdi, rsp
	cmp	qword [rsp + VCPU_SWITCHED_INTERRUPTING], 0
	jne	.interrupting
.handle:
	call	[rsp + VCPU_ON_EXIT]
	jmp	.enter

.enter_counting:
	mov	rax, [rsp + VCPU_VMCB]
	movzx	eax, byte [rax + VMCB_CPL]
	and	eax, 3
	inc	qword [rsp + VCPU_SWITCHED_ENTRIES + 8 * rax]
	SWITCH_COUNTERS WRITE_START
	VMRUN_GUEST
	SWITCH_COUNTERS WRITE_STOP
	jmp	.exit

.interrupting:
	call	pmi_due
	mov	rdi, rsp
	jmp	.handle

; One of the values of vcpu.on_exit: what is not ordinary wants all registers.
%macro SAVE_ALL 0
	mov	[rdi + VCPU_GPR + 8 * 5], rbp
	mov	[rdi + VCPU_GPR + 8 * 12], r12
	mov	[rdi + VCPU_GPR + 8 * 13], r13
	mov	[rdi + VCPU_GPR + 8 * 14], r14
	mov	[rdi + VCPU_GPR + 8 * 15], r15
%endmacro
global exit_special
exit_special:
	SAVE_ALL
	jmp	vcpu_exit_special

; The same while somebody watches: hv/trace.h.
global exit_watched
exit_watched:
	SAVE_ALL
	jmp	vcpu_exit_watched

; Another: back to the caller of vmrun_probe().
global exit_probed
exit_probed:
	mov	rsp, [rdi + VCPU_PROBE_RSP]
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

; void vmrun_probe(struct vcpu *, loop): one round of one of the loops above, and back.
global vmrun_probe
vmrun_probe:
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rdi + VCPU_PROBE_RSP], rsp
	jmp	rsi

; s64 core_entry(const struct handoff *): on the loader's stack and on page tables that map both sides.
; Where the core takes over, nothing returns from here: the caller goes on as L1, with RAX = 0.
global core_entry
core_entry:
	pushfq
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	rsi, rsp		; struct entry_frame
	mov	rbx, rsp
	lea	rsp, [boot_stack_end]
	call	core_main		; returns only if it refuses
	mov	rsp, rbx
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	popfq
	ret

; NORETURN void core_leave_boot_stack(struct vcpu *, u32 *entered): from here on the next CPU may come.
global core_leave_boot_stack
core_leave_boot_stack:
	lea	rsp, [rdi - STACK_BYTES / 2]	; the run loop, which the trials go through, uses the other half
	inc	dword [rsi]
	call	core_run

; void load_tables(u64 cr3, struct descriptor_table *gdt, struct descriptor_table *idt): the core's own world.
global load_tables
load_tables:
	mov	cr3, rdi
	lgdt	[rsi]
	lidt	[rdx]
	mov	eax, 0x10
	mov	ds, eax
	mov	es, eax
	mov	ss, eax
	lea	rax, [.reload]
	push	0x08
	push	rax
	retfq
.reload:
	ret

; void event_window(void): lets a pending NMI in, with VM_CR.R_INIT an INIT, as #SX, and with IF=1 one interrupt. Only here is
; GIF=1 in L0.
global event_window
event_window:
	stgi
	nop
	nop
	clgi
	ret

; The vcpu of the CPU that is on its own stack: struct cpu in hv/cpus.h.
%macro THIS_VCPU 1
	mov	%1, rsp
	or	%1, STACK_BYTES - 1
	inc	%1
%endmacro

; Back to RIP on the stack that an event came on, without IRET; all but RFLAGS as it was, because the event may have come
; within one of the entries below. Its frame is 16-aligned, so what is below the old RSP is SS's place, or nobody's.
; LEAVE_EVENT RIP's offset: with RBX and RAX pushed, and RIP in RAX.
%macro LEAVE_EVENT 1
	mov	rbx, [rsp + %1 + 24]
	sub	rbx, 8
	mov	[rbx], rax
	mov	[rsp + %1 + 24], rbx
	pop	rbx
	pop	rax
	mov	rsp, [rsp + %1 + 8]
	ret
%endmacro

; The NMI goes to the guest, by EVENTINJ. It is left without IRET, so that the CPU keeps further NMIs blocked
; until the guest's own handler does its IRET: EVENTINJ alone would not block them (APM2 §15.20).
nmi_entry:
	push	rax
	push	rbx
	THIS_VCPU rax
	mov	byte [rax + VCPU_NMI_SEEN], 1
	mov	rax, [rsp + 16]
	lea	rbx, [nmi_wait.sleep]
	cmp	rax, rbx
	jne	.leave
	lea	rax, [nmi_wait.awake]	; between STGI and HLT: it would sleep on
.leave:
	LEAVE_EVENT 16

; void nmi_wait(void): until an NMI comes; with IF=0. As event_window() otherwise.
global nmi_wait
nmi_wait:
	stgi
.sleep:
	hlt
.awake:
	clgi
	ret

; void nmi_unblock(void): after an NMI that no guest's handler will end; GIF is 0.
global nmi_unblock
nmi_unblock:
	mov	rax, rsp
	push	0x10
	push	rax
	pushfq
	push	0x08
	lea	rcx, [.out]
	push	rcx
	iretq
.out:
	ret

; An interrupt of the guest's, which goes on to it by EVENTINJ.
%assign vector 32
%rep 224
irq_entry_ %+ vector:
	THIS_VCPU rax
	mov	byte [rax + VCPU_IRQ_SEEN], vector
	jmp	irq_out
%assign vector vector + 1
%endrep
irq_out:
	mov	rax, [rsp]
	mov	rsp, [rsp + 24]
	jmp	rax

; #SX in place of INIT; the same, on top of an error code.
sx_entry:
	push	rax
	push	rbx
	THIS_VCPU rax
	mov	byte [rax + VCPU_INIT_SEEN], 1
	mov	rax, [rsp + 24]
	LEAVE_EVENT 24

; Exceptions in L0. Frame: the pushed GPRs, vector, error code, RIP, CS, RFLAGS, RSP, SS (struct fault_frame).
%macro FAULT 1
fault_entry_%1:
%if !(%1 == 8 || (%1 >= 10 && %1 <= 14) || %1 == 17 || %1 == 21 || %1 == 29 || %1 == 30)
	push	0
%endif
	push	%1
	jmp	fault_common
%endmacro

%assign vector 0
%rep 32
	FAULT vector
%assign vector vector + 1
%endrep

fault_common:
	push	rax
	push	rcx
	push	rdx
	push	rbx
	push	rbp
	push	rsi
	push	rdi
	push	r8
	push	r9
	push	r10
	push	r11
	push	r12
	push	r13
	push	r14
	push	r15
	cld
	mov	rdi, rsp
	call	fault			; returns if RIP was moved to a fixup
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	r11
	pop	r10
	pop	r9
	pop	r8
	pop	rdi
	pop	rsi
	pop	rbp
	pop	rbx
	pop	rdx
	pop	rcx
	pop	rax
	add	rsp, 16
	iretq

; What the probe's guest runs: a count of instructions known to the last, then an intercepted one. n NOPs after a jump.
%macro STUB 1
global stub_%1
stub_%1:
	times %1 nop
	vmmcall
%endmacro
; Reads CR3, for a probe whether that is intercepted as what it is.
global stub_read_cr3
stub_read_cr3:
	mov	rax, cr3
	vmmcall

; For a probe whether an INTn that exits takes a tick.
global stub_int
stub_int:
	int	0x80

	STUB 0
	STUB 1
	STUB 100
	STUB 1000

; extern const u64 idt_entries[256]: relocated like all pointers.
section .data.rel.ro
global idt_entries
idt_entries:
%assign vector 0
%rep 256
%if vector >= 32
	dq	irq_entry_ %+ vector
%elif vector == 2
	dq	nmi_entry
%elif vector == 30
	dq	sx_entry
%else
	dq	fault_entry_ %+ vector
%endif
%assign vector vector + 1
%endrep

; For the image's header: see linker.ld.
global cpu_bytes
cpu_bytes equ CPU_BYTES

section .bss
alignb 16
boot_stack:
	resb	16384
boot_stack_end:

section .note.GNU-stack noalloc noexec nowrite progbits

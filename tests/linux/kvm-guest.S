/* SPDX-License-Identifier: MIT */
#include "kvm-guest.h"
/*
 * The programs that kvm-client.c runs in its guest: 64-bit mode, CPL 0. What is between guest_image
 * and guest_image_end is copied to GUEST_CODE, and is position-independent.
 *
 * What a trap does is up to the program that it interrupts:
 *   r15    length of the instruction that may fault: the handler skips it
 *   r12    or else, if not 0, where to go on after a fault
 *   r14    not 0: an NMI says PORT_IN_NMI
 *   r13    not 0: interrupts send an EOI
 */
	.section .rodata
	.globl guest_image, guest_image_end
	.balign 16
guest_image:

	.macro program name
	.globl \name
\name:
	.endm

/* CPUID ---------------------------------------------------------------------------------------- */
	.macro leaf function, index
	mov	$\function, %eax
	mov	$\index, %ecx
	cpuid
	mov	%eax, (%rdi)
	mov	%ebx, 4(%rdi)
	mov	%ecx, 8(%rdi)
	mov	%edx, 12(%rdi)
	add	$16, %edi
	.endm

program guest_cpuid
	mov	$GUEST_OUT, %edi
	leaf	0, 0
	leaf	0x40002000, 0
	leaf	0x40002001, 0
	leaf	0x40002001, 1
	leaf	0x40003000, 0
	hlt

/* MSRs: for each { number, bits to flip } at GUEST_IN { what was read, what was read after } -------- */
program guest_msr
	mov	$GUEST_IN, %esi
	mov	$GUEST_OUT, %edi
	mov	$2, %r15d
1:	mov	(%rsi), %ecx
	test	%ecx, %ecx
	jz	2f
	mov	$0x5555, %eax
	mov	$0x6666, %edx
program guest_msr_read
	rdmsr
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, (%rdi)
	xor	8(%rsi), %rax
	mov	%rax, %rdx
	shr	$32, %rdx
program guest_msr_write
	wrmsr
	mov	$0x7777, %eax
	mov	$0x8888, %edx
program guest_msr_again
	rdmsr
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, 8(%rdi)
	add	$16, %esi
	add	$16, %edi
	jmp	1b
2:	hlt

/* MMIO: what mmio_script[] in kvm-client.c expects ------------------------------------------------- */
program guest_mmio
	mov	$GUEST_MMIO, %esi
	mov	$GUEST_OUT, %edi
	movb	$0x11, (%rsi)
	movw	$0x2222, 2(%rsi)
	movl	$0x44444444, 4(%rsi)
	movabs	$0x8888888877777777, %rax
	mov	%rax, 8(%rsi)
	xor	%eax, %eax
	movb	0x10(%rsi), %al
	mov	%rax, (%rdi)
	movzwl	0x12(%rsi), %eax
	mov	%rax, 8(%rdi)
	mov	0x14(%rsi), %eax
	mov	%rax, 16(%rdi)
	mov	0x18(%rsi), %rax
	mov	%rax, 24(%rdi)
	movsbq	0x20(%rsi), %rax
	mov	%rax, 32(%rdi)
	addl	$5, 0x24(%rsi)
	mov	$GUEST_IN, %esi
	mov	$GUEST_MMIO + 0x100, %edi
	mov	$4, %ecx
	rep movsq
	mov	$GUEST_MMIO + 0x200, %esi
	mov	$GUEST_OUT + 40, %edi
	mov	$8, %ecx
	rep movsb
	hlt

/* Ports ---------------------------------------------------------------------------------------- */
program guest_pio
	mov	$PORT_DATA, %edx
	mov	$0x11223344, %eax
	out	%al, $PORT_DATA
	out	%ax, %dx
	out	%eax, %dx
	xor	%eax, %eax
	in	%dx, %al
	mov	%rax, GUEST_OUT
	in	%dx, %ax
	mov	%rax, GUEST_OUT + 8
	in	$PORT_DATA, %eax
	mov	%rax, GUEST_OUT + 16
	mov	$GUEST_IN, %esi
	mov	$16, %ecx
	rep outsb
	mov	$GUEST_OUT + 24, %edi
	mov	$8, %ecx
	rep insw
	hlt

/* HLT ------------------------------------------------------------------------------------------ */
program guest_hlt
	hlt
program guest_hlt_1
	nop
	hlt
program guest_hlt_2
	.byte	0xf3			/* a prefix, so that its length matters */
	hlt
program guest_hlt_3

/* Interrupts without interrupt controllers ------------------------------------------------------- */
program guest_irq
	cli
	out	%al, $PORT_READY
	mov	$1000, %ecx
1:	dec	%ecx
	jnz	1b
	sti
	nop
program guest_irq_window
	nop
	cli
	out	%al, $PORT_DONE
program guest_irq_halted
	sti
	hlt
program guest_irq_woken
	cli
	out	%al, $PORT_DONE

/* Interrupts with them --------------------------------------------------------------------------- */
	.macro apic register, value
	movl	$\value, \register(%rbx)
	.endm
	.macro ioapic index, value
	movl	$\index, (%r8)
	movl	$\value, 0x10(%r8)
	.endm
	.macro pic value, port
	mov	$\value, %al
	out	%al, $\port
	.endm

program guest_chips
	mov	$0xfee00000, %ebx
	mov	$0xfec00000, %r8d
	mov	$1, %r13d
	pic	0x11, 0x20		/* ICW1: edge, ICW4 follows */
	pic	VECTOR_PIC, 0x21
	pic	4, 0x21
	pic	1, 0x21
	pic	0, 0x21			/* nothing masked */
	apic	0xf0, 0x1ff		/* on */
	sti
	out	%al, $PORT_READY	/* the client pulses PIC_PIN */
program guest_chips_pic
	nop
	ioapic	(0x11+2*IOAPIC_PIN), 0
	ioapic	(0x10+2*IOAPIC_PIN), VECTOR_IOAPIC
	out	%al, $PORT_READY	/* the client pulses IOAPIC_PIN */
program guest_chips_ioapic
	nop
	apic	0x310, 0
	apic	0x300, (0x44000+VECTOR_SELF)
program guest_chips_self
	nop
	apic	0x3e0, 0xb		/* one count is one tick of the bus */
	apic	0x320, VECTOR_TIMER
	mov	$ONESHOT_ROUNDS, %ebp
1:	cli
	apic	0x380, 200000
	sti
	hlt
program guest_chips_woken
	dec	%ebp
	jnz	1b
	cli
	mov	GUEST_LOG, %rbp
	add	$PERIODIC_ROUNDS, %rbp
	apic	0x320, (0x20000+VECTOR_TIMER)
	apic	0x380, 20000000
	sti
2:	cmp	GUEST_LOG, %rbp
	ja	2b
	cli
	out	%al, $PORT_DONE

/* NMI ------------------------------------------------------------------------------------------ */
program guest_nmi
	mov	$1, %r14d
	out	%al, $PORT_READY
program guest_nmi_here
	nop
	nop
	out	%al, $PORT_DONE

/* One step at a time: each instruction begins at one of guest_steps -------------------------------- */
	.macro step
9:
	.pushsection .rodata.steps, "a"
	.long	9b - guest_image
	.popsection
	.endm

	.pushsection .rodata.steps, "a"
	.globl	guest_steps
guest_steps:
	.popsection

program guest_step
step
	nop
step
	mov	$1, %eax
step
	cpuid
step
	mov	$0xc0000080, %ecx
step
	rdmsr
step
	jmp	1f
	ud2
1:
step
	mov	%cr3, %rax
step
	mov	%rax, %cr3
step
	pushf
step
	popf
step
	movl	$7, GUEST_OUT
step
	sti
step
	cli
step
	nop
program guest_step_end
step
	nop
	hlt
	.pushsection .rodata.steps, "a"
	.globl	guest_steps_end
guest_steps_end:
	.popsection

program guest_watch
	nop
	nop
program guest_watch_code
	nop
	mov	%rax, GUEST_OUT + 8
program guest_watch_data
	nop
	hlt

/* Exceptions ----------------------------------------------------------------------------------- */
program guest_exceptions
	mov	$GUEST_ABSENT, %esi
	movabs	$0x8000000000000000, %rdx
	mov	%rdx, %rbp
	xor	%ecx, %ecx
	mov	$2, %r15d
program guest_fault_ud
	ud2
program guest_fault_de
	div	%cl
program guest_fault_pf_read
	mov	(%rsi), %al
program guest_fault_pf_write
	mov	%al, (%rsi)
	mov	$GUEST_READONLY, %esi
program guest_fault_pf_readonly
	mov	%al, (%rsi)
	mov	$GUEST_RESERVED, %esi
program guest_fault_pf_reserved
	mov	(%rsi), %al
	mov	$SELECTOR_ABSENT, %eax
program guest_fault_np
	mov	%eax, %ds
program guest_fault_gp
	mov	(%rdx), %al
	mov	$3, %r15d
program guest_fault_ss
	movb	(%rbp), %al
	xor	%r15d, %r15d
	lea	guest_fault_fetched(%rip), %r12
	mov	$GUEST_NOEXEC, %eax
	jmp	*%rax
program guest_fault_fetched
	xor	%r12d, %r12d
	int3
program guest_trap_bp
	int	$0x80
program guest_trap_int
	pushf
	orq	$0x100, (%rsp)
	popf
	nop
program guest_trap_db
	hlt

/* Many exits: the sum of CPUID's EBX and the number of the round go out each time --------------------- */
program guest_exits
	xor	%esi, %esi
	xor	%edi, %edi
1:
	.rept	EXITS_PER_ROUND - 1
	mov	$0x40002000, %eax
	cpuid
	add	%ebx, %esi
	.endr
	inc	%edi
	lea	(%rsi, %rdi), %eax
	out	%eax, $PORT_DATA
	cmp	$EXITS_ROUNDS, %edi
	jb	1b
	hlt

/*
 * On two CPUs, each with its number in rcx: in turn they tell each other their round, with an interrupt, and sleep until the
 * other one has. In each round also CPUID and a word that both add to; what came of it goes out every TWO_REPORT rounds.
 */
program guest_two
	mov	$0xfee00000, %r8d
	mov	%ecx, %r9d
	mov	%ecx, %r10d
	xor	$1, %r10d
	shl	$24, %r10d		/* to the other one */
	lea	TWO_TAKEN(, %rcx, 8), %r11d
	movl	$0x1ff, 0xf0(%r8)
	lock incq TWO_READY
1:	pause				/* an APIC that is off takes no interrupt */
	cmpq	$2, TWO_READY
	jb	1b
	xor	%esi, %esi
	xor	%edi, %edi
	mov	$TWO_REPORT, %ebp
1:	inc	%rdi
	test	%r9d, %r9d
	jnz	2f
	call	two_send
2:	mov	%r9d, %ecx
	xor	$1, %ecx
	cli
	cmp	%rdi, TWO_ROUND(, %rcx, 8)
	jae	3f
	sti
	hlt
	jmp	2b
3:	sti
	test	%r9d, %r9d
	jz	4f
	call	two_send
4:	mov	$0x40002000, %eax
	cpuid
	add	%ebx, %esi
	lock incq TWO_SUM
	dec	%ebp
	jnz	1b
	mov	$TWO_REPORT, %ebp
	lea	(%rsi, %rdi), %eax
	out	%eax, $PORT_DATA
	cmp	$TWO_ROUNDS, %rdi
	jb	1b
	cli
	out	%al, $PORT_DONE
two_send:
	mov	%rdi, TWO_ROUND(, %r9, 8)
	mov	%r10d, 0x310(%r8)
	movl	$(0x4000 + VECTOR_IPI), 0x300(%r8)
	ret

program guest_two_ipi
	incq	(%r11)
	movl	$0, 0xb0(%r8)
	iretq

/* Exactly rcx + 1 instructions before HLT, rcx even -------------------------------------------------- */
program guest_count
	dec	%rcx
	jnz	guest_count
	nop
	hlt

/* A PMU of the guest's own: see kvm-pmu.c for what each program has to count -------------------------- */
#define MSR_PERFEVTSEL0 0xc0010200
#define MSR_PERFCTR0 0xc0010201
#define MSR_GLOBAL_STATUS 0xc0000300
#define MSR_GLOBAL_CTL 0xc0000301
#define MSR_GLOBAL_STATUS_CLR 0xc0000302

	.macro write_msr index, value
	mov	$\index, %ecx
	mov	$\value, %eax
	xor	%edx, %edx
	wrmsr
	.endm
	.macro pair_to address
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, \address
	.endm

/* What the guest touches for the first time exits, so it does that before it counts. */
	.macro touch_all
	lock orq $0, GUEST_OUT
	lock orq $0, -8(%rsp)
	lea	guest_image(%rip), %rax
	lea	guest_image_end(%rip), %rbx
1:	lock orq $0, (%rax)
	add	$4096, %rax
	cmp	%rbx, %rax
	jb	1b
	.endm

/* For each { number, value } what it reads after it was written, and RDPMC's fault for a counter that is not there. */
program guest_pmu_registers
	mov	$GUEST_IN, %esi
	mov	$GUEST_OUT, %edi
	mov	$2, %r15d
1:	mov	(%rsi), %ecx
	jecxz	2f
	mov	8(%rsi), %eax
	mov	12(%rsi), %edx
	wrmsr
	rdmsr
	pair_to	(%rdi)
	add	$16, %esi
	add	$8, %edi
	jmp	1b
2:	mov	$PMU_COUNTERS, %ecx
program guest_pmu_rdpmc
	rdpmc
	out	%al, $PORT_DONE

/* By its selector: { selector, rounds of the loop }; RDPMC, RDMSR, RDMSR of the alias. */
program guest_pmu_selector
	touch_all
	mov	GUEST_IN, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	mov	GUEST_IN + 8, %rbx
	mov	%eax, %esi
	and	$~(1 << 22), %esi
	mov	$MSR_PERFEVTSEL0, %ecx
	out	%al, $PORT_READY
	wrmsr				/* starts */
1:	dec	%rbx
	jnz	1b
	mov	%esi, %eax
	wrmsr				/* stops, and is counted */
	xor	%ecx, %ecx
	rdpmc
	pair_to	GUEST_OUT
	mov	$MSR_PERFCTR0, %ecx
	rdmsr
	pair_to	GUEST_OUT + 8
	mov	$0xc0010004, %ecx
	rdmsr
	pair_to	GUEST_OUT + 16
	out	%al, $PORT_DONE

/* By PerfCntGlobalCtl: { bitmap, rounds of the loop }; all counters by RDPMC, PerfCntGlobalStatus. */
program guest_pmu_global
	touch_all
	mov	GUEST_IN, %rax
	mov	GUEST_IN + 8, %rbx
	xor	%edx, %edx
	mov	$MSR_GLOBAL_CTL, %ecx
	out	%al, $PORT_READY
	wrmsr				/* starts */
1:	dec	%rbx
	jnz	1b
	xor	%eax, %eax
	wrmsr				/* stops, and is counted */
	mov	$GUEST_OUT, %edi
	xor	%ecx, %ecx
2:	rdpmc
	pair_to	(%rdi)
	add	$8, %edi
	inc	%ecx
	cmp	$PMU_COUNTERS, %ecx
	jb	2b
	mov	$MSR_GLOBAL_STATUS, %ecx
	rdmsr
	pair_to	(%rdi)
	out	%al, $PORT_DONE

/* Counts all the time: rounds of a loop, then of CPUID. */
program guest_pmu_run
	mov	GUEST_IN, %rsi
	mov	GUEST_IN + 8, %rdi
	out	%al, $PORT_READY
1:	dec	%rsi
	jnz	1b
2:	xor	%eax, %eax
	cpuid
	dec	%rdi
	jnz	2b
	out	%al, $PORT_DONE

/* Counts all the time, HLT included: its timer wakes it. guest_pmu_timer is the handler. */
program guest_pmu_halt
	mov	GUEST_IN, %rbp
	mov	$0xfee00000, %ebx
	apic	0xf0, 0x1ff
	apic	0x3e0, 0xb
	apic	0x320, VECTOR_TIMER
	out	%al, $PORT_READY
1:	cli
	apic	0x380, 1000000
	sti
	hlt
	dec	%rbp
	jnz	1b
	cli
	out	%al, $PORT_DONE

program guest_pmu_timer
	apic	0xb0, 0
	iretq

/* Overflows: { LVTPC, rounds, start value }; for each { the counter when it is seen, PerfCntGlobalStatus }. */
program guest_pmu_overflow
	mov	$0xfee00000, %ebx
	mov	$1, %r13d
	apic	0xf0, 0x1ff
	mov	GUEST_IN, %rax
	mov	%eax, 0x340(%rbx)
	mov	GUEST_IN + 8, %rbp
	mov	$GUEST_OUT, %edi
	out	%al, $PORT_READY
	sti
1:	mov	$MSR_PERFCTR0, %ecx
	mov	GUEST_IN + 16, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	wrmsr
	mov	GUEST_LOG, %rsi
	write_msr MSR_GLOBAL_CTL, 1
program guest_pmu_overflow_wait
2:	cmp	GUEST_LOG, %rsi
	je	2b
program guest_pmu_overflow_seen
	write_msr MSR_GLOBAL_CTL, 0
	xor	%ecx, %ecx
	rdpmc
	pair_to	(%rdi)
	mov	$MSR_GLOBAL_STATUS, %ecx
	rdmsr
	pair_to	8(%rdi)
	write_msr MSR_GLOBAL_STATUS_CLR, 0x3f
	add	$16, %edi
	dec	%rbp
	jnz	1b
	cli
	out	%al, $PORT_DONE

/* HostOnly and GuestOnly: the guest is a hypervisor itself. { EFER with SVME, EFER without }, and a VMCB for L3. */
	.macro modes_begin
	out	%al, $PORT_READY
	write_msr MSR_GLOBAL_CTL, 0xf
	.endm
	/* RDPMC, and back to 0 for the next time. */
	.macro modes_end
	write_msr MSR_GLOBAL_CTL, 0
	call	modes_read
	out	%al, $PORT_DONE
	.endm
	.macro nops
	.rept	PMU_NOPS
	nop
	.endr
	.endm
	.macro write_efer from
	mov	$0xc0000080, %ecx
	mov	GUEST_IN + \from, %eax
	xor	%edx, %edx
	wrmsr
	.endm

program guest_pmu_modes
	touch_all
	modes_begin
	nops
	modes_end
	write_efer 0
	modes_begin
	nops
	modes_end
	write_msr 0xc0010117, GUEST_HSAVE
	mov	$GUEST_VMCB, %ebp
	mov	GUEST_VMCB + 0x578, %rdi
	mov	%rbp, %rax
	vmrun				/* not counted: KVM makes page tables for L3 */
	mov	%rdi, GUEST_VMCB + 0x578
	modes_begin
	mov	%rbp, %rax
	vmrun
	modes_end
	modes_begin
	nops
	modes_end
	write_efer 8
	modes_begin
	nops
	modes_end

modes_read:
	mov	$GUEST_OUT, %edi
	xor	%ebx, %ebx
1:	mov	%ebx, %ecx
	rdpmc
	pair_to	(%rdi)
	lea	(%rbx, %rbx), %ecx
	add	$MSR_PERFCTR0, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	add	$8, %edi
	inc	%ebx
	cmp	$4, %ebx
	jb	1b
	ret

program guest_pmu_l3
	nops
	vmmcall

/* Trap handlers: one every 16 bytes --------------------------------------------------------------- */
	.balign	16
	.globl	guest_stubs
guest_stubs:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21
	push	$0
	.endif
	push	$vector
	jmp	trap
	.set	vector, vector + 1
	.endr

/* On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. */
trap:
	push	%rax
	push	%rbx
	mov	GUEST_LOG, %rbx
	incq	GUEST_LOG
	cmp	$TRAPS_MAX, %rbx
	jae	1f
	imul	$32, %ebx
	add	$GUEST_LOG + 8, %ebx
	mov	16(%rsp), %rax
	mov	%rax, (%rbx)		/* vector */
	mov	24(%rsp), %rax
	mov	%rax, 8(%rbx)		/* error code */
	mov	32(%rsp), %rax
	mov	%rax, 16(%rbx)		/* RIP */
	mov	%cr2, %rax
	mov	%rax, 24(%rbx)
1:
	mov	16(%rsp), %eax
	cmp	$1, %eax
	jne	2f
	andq	$~0x100, 48(%rsp)	/* TF */
	jmp	9f
2:	cmp	$2, %eax
	jne	3f
	test	%r14d, %r14d
	jz	9f
	out	%al, $PORT_IN_NMI
	jmp	9f
3:	cmp	$3, %eax
	je	9f
	cmp	$32, %eax
	jae	4f
	add	%r15, 32(%rsp)
	test	%r12, %r12
	jz	9f
	mov	%r12, 32(%rsp)
	jmp	9f
4:	test	%r13d, %r13d
	jz	9f
	cmp	$VECTOR_PIC + 16, %eax
	jae	5f
	mov	$0x20, %al
	out	%al, $0x20
	jmp	9f
5:	mov	$0xfee000b0, %ebx
	movl	$0, (%rbx)
9:
	pop	%rbx
	pop	%rax
	add	$16, %rsp
	iretq
guest_image_end:

	.section .note.GNU-stack, "", @progbits

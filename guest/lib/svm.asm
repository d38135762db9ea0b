; SPDX-License-Identifier: MIT
; VMRUN with the general-purpose registers exchanged; the handlers of an L2 that catches all events.

bits 64
default rel

global svm_vmrun, l2_event_stubs

section .text

; void svm_vmrun(struct vmcb *vmcb, struct l2_regs *regs)
;
; No VMLOAD, no VMSAVE: VMRUN and #VMEXIT leave FS, GS, TR, LDTR, KernelGSBase and the MSRs of
; SYSCALL and SYSENTER alone. L2 runs with L1's, and nothing in these guests changes them but by a
; VMLOAD that a test means to do.
svm_vmrun:
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
	push rsi
	mov rax, rdi
	mov rbx, [rsi + 8 * 0]
	mov rcx, [rsi + 8 * 1]
	mov rdx, [rsi + 8 * 2]
	mov rdi, [rsi + 8 * 4]
	mov rbp, [rsi + 8 * 5]
	mov r8, [rsi + 8 * 6]
	mov r9, [rsi + 8 * 7]
	mov r10, [rsi + 8 * 8]
	mov r11, [rsi + 8 * 9]
	mov r12, [rsi + 8 * 10]
	mov r13, [rsi + 8 * 11]
	mov r14, [rsi + 8 * 12]
	mov r15, [rsi + 8 * 13]
	mov rsi, [rsi + 8 * 3]
	vmrun
	xchg rsi, [rsp]
	mov [rsi + 8 * 0], rbx
	mov [rsi + 8 * 1], rcx
	mov [rsi + 8 * 2], rdx
	mov [rsi + 8 * 4], rdi
	mov [rsi + 8 * 5], rbp
	mov [rsi + 8 * 6], r8
	mov [rsi + 8 * 7], r9
	mov [rsi + 8 * 8], r10
	mov [rsi + 8 * 9], r11
	mov [rsi + 8 * 10], r12
	mov [rsi + 8 * 11], r13
	mov [rsi + 8 * 12], r14
	mov [rsi + 8 * 13], r15
	pop rax
	mov [rsi + 8 * 3], rax
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	cld
	ret

; Four bytes for each vector: the RIP of the exit is the vector.
align 16
l2_event_stubs:
%rep 256
	vmmcall
	nop
%endrep

section .note.GNU-stack noalloc noexec nowrite progbits

; SPDX-License-Identifier: MIT
; What the probe executes, and the handlers of what comes of it.

bits 64
default rel

%define NOPS 1000
%define JUMPS 1000
%define IRETS 100
%define VMRUNS 16
%define SLED 16384

global probe_rdmsr, probe_wrmsr, probe_on_gp, probe_on_pmi, probe_on_nmi
global probe_between, probe_over, probe_time
global probe_nothing, probe_nops, probe_jumps, probe_irets, probe_vmrun, probe_vmruns
global probe_do_clgi, probe_do_stgi, probe_do_vmload, probe_do_vmsave, probe_do_cpuid, probe_do_rdmsr, probe_do_wrmsr
global probe_l2_nops, probe_l2_vmmcall, probe_l2_cpuid, probe_l2_rdmsr, probe_l2_wrmsr, probe_l2_hlt, probe_l2_out
global probe_sled, probe_sled_end
global probe_firmware_gp, probe_pmis, probe_pmi_rip

section .text

; bool probe_rdmsr(u32 msr, u64 *value)
probe_rdmsr:
	mov ecx, edi
rdmsr_here:
	rdmsr
	mov [rsi], eax
	mov [rsi + 4], edx
	mov eax, 1
	ret

; bool probe_wrmsr(u32 msr, u64 value)
probe_wrmsr:
	mov ecx, edi
	mov eax, esi
	mov rdx, rsi
	shr rdx, 32
wrmsr_here:
	wrmsr
	mov eax, 1
	ret

msr_faults:
	xor eax, eax
	ret

; #GP: of the two above the answer is false; any other is the firmware's.
probe_on_gp:
	push rax
	push rcx
	mov rax, [rsp + 24]
	lea rcx, [rdmsr_here]
	cmp rax, rcx
	je .ours
	lea rcx, [wrmsr_here]
	cmp rax, rcx
	je .ours
	pop rcx
	pop rax
	jmp [probe_firmware_gp]
.ours:
	lea rax, [msr_faults]
	mov [rsp + 24], rax
	pop rcx
	pop rax
	add rsp, 8
	iretq

; The counter's interrupt, as a vector and as NMI: where the first came, and how many.
probe_on_pmi:
probe_on_nmi:
	push rax
	cmp dword [probe_pmis], 0
	jne .more
	mov rax, [rsp + 8]
	mov [probe_pmi_rip], rax
.more:
	inc dword [probe_pmis]
	pop rax
	iretq

%macro SAVE 0
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
%endmacro

%macro RESTORE 0
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
%endmacro

%macro JUMP 0
	jmp short %%next
%%next:
%endmacro

; RBP is the stack pointer.
%macro FAR_TRANSFER 0
	mov eax, ss
	push rax
	push rbp
	pushfq
	mov eax, cs
	push rax
	lea rax, [%%next]
	push rax
	iretq
%%next:
%endmacro

; void probe_between(u32 msr, u64 eventsel, code, u64 rax): counts from the first WRMSR to the second
probe_between:
	SAVE
	mov r12, rdx
	mov r13, rcx
	mov r14d, edi
	mov ecx, edi
	mov eax, esi
	mov rdx, rsi
	shr rdx, 32
	wrmsr
	mov rax, r13
	call r12
	mov ecx, r14d
	xor eax, eax
	xor edx, edx
	wrmsr
	RESTORE
	ret

; void probe_over(u32 msr, u64 eventsel, bool interrupts): the same over a sled, with IF=1 if so
probe_over:
	mov r8, rdx
	mov ecx, edi
	mov eax, esi
	mov rdx, rsi
	shr rdx, 32
	test r8d, r8d
	jz .go
	sti
	nop
.go:
	wrmsr
probe_sled:
	times SLED nop
probe_sled_end:
	cli
	xor eax, eax
	xor edx, edx
	wrmsr
	ret

; u64 probe_time(code, u64 rax): ticks
probe_time:
	SAVE
	mov r12, rdi
	mov r13, rsi
	lfence
	rdtsc
	lfence
	mov r14d, eax
	mov r15d, edx
	mov rax, r13
	call r12
	lfence
	rdtsc
	lfence
	shl rdx, 32
	or rax, rdx
	shl r15, 32
	or r14, r15
	sub rax, r14
	RESTORE
	ret

; Code for probe_between() and probe_time(). It may use all registers but RSP and R12 to R15.
probe_nothing:
	ret

probe_nops:
	times NOPS nop
	ret

probe_jumps:
%rep JUMPS
	JUMP
%endrep
	ret

probe_irets:
	mov rbp, rsp
%rep IRETS
	FAR_TRANSFER
%endrep
	ret

; RAX is the VMCB, before and after.
probe_vmruns:
%rep VMRUNS - 1
	vmrun
%endrep
probe_vmrun:
	vmrun
	ret

probe_do_clgi:
	clgi
	ret
probe_do_stgi:
	stgi
	ret
probe_do_vmload:
	vmload
	ret
probe_do_vmsave:
	vmsave
	ret
probe_do_cpuid:
	xor eax, eax
	cpuid
	ret
probe_do_rdmsr:
	mov ecx, eax
	rdmsr
	ret
probe_do_wrmsr:
	mov ecx, eax
	xor eax, eax
	xor edx, edx
	wrmsr
	ret

; The guest. Each of these exits, and would again.
probe_l2_nops:
	times NOPS nop
probe_l2_vmmcall:
	vmmcall
probe_l2_cpuid:
	cpuid
probe_l2_rdmsr:
	rdmsr
probe_l2_wrmsr:
	wrmsr
probe_l2_hlt:
	hlt
probe_l2_out:
	out 0x80, al
	jmp probe_l2_out

section .data
align 8
probe_firmware_gp:
	dq 0
probe_pmi_rip:
	dq 0
probe_pmis:
	dd 0

section .note.GNU-stack noalloc noexec nowrite progbits

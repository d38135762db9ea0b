; SPDX-License-Identifier: MIT
; Exception stubs, and the calls that survive an exception.

bits 64
default rel

%include "guest/lib/trap.inc"

extern trap_entry
global trap_stubs, trap_load, try_call, try_user, try_unwind, try_rsp

section .text

; A stub every 16 bytes; each leaves vector and error code on the stack.
align 16
trap_stubs:
%assign v 0
%rep 256
	align 16, nop
	; #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX push an error code
	%if v != 8 && !(v >= 10 && v <= 14) && v != 17 && v != 21 && v != 29 && v != 30
	push 0
	%endif
	push strict dword v
	jmp trap_common
	%assign v v+1
%endrep
	align 16, nop

trap_common:
	push rax
	push rcx
	push rdx
	push rbx
	push rbp
	push rsi
	push rdi
	push r8
	push r9
	push r10
	push r11
	push r12
	push r13
	push r14
	push r15
	cld
	mov rdi, rsp
	mov rbx, rsp
	and rsp, -16
	call trap_entry
	mov rsp, rbx
	pop r15
	pop r14
	pop r13
	pop r12
	pop r11
	pop r10
	pop r9
	pop r8
	pop rdi
	pop rsi
	pop rbp
	pop rbx
	pop rdx
	pop rcx
	pop rax
	add rsp, 16
	iretq

; void trap_load(gdtr, idtr)
trap_load:
	lgdt [rdi]
	lidt [rsi]
	mov eax, GDT_DATA
	mov ds, eax
	mov es, eax
	mov ss, eax
	mov eax, GDT_TSS
	ltr ax
	pop rax
	push GDT_CODE
	push rax
	retfq

; u64 try_call(fn, arg)
try_call:
	PUSH_CALLEE_SAVED
	mov [try_rsp], rsp
	mov rax, rdi
	mov rdi, rsi
	call rax
	mov eax, VEC_NONE
	jmp try_out

; u64 try_user(fn, arg): fn ends with INT VEC_TRY_RETURN, behind which it never returns
try_user:
	PUSH_CALLEE_SAVED
	mov [try_rsp], rsp
	mov rax, rdi
	mov rdi, rsi
	lea rcx, [user_stack_end - 8]
	lea rdx, [user_return]
	mov [rcx], rdx
	push GDT_USER_DATA
	push rcx
	push 2
	push GDT_USER_CODE
	push rax
	iretq
user_return:
	int VEC_TRY_RETURN
	ud2

; void try_unwind(vector): from inside a handler, back to the caller of try_call or try_user
try_unwind:
	mov rax, rdi
	; an interrupt from CPL 3 leaves null selectors behind
	mov ecx, GDT_DATA
	mov ds, ecx
	mov es, ecx
	mov ss, ecx
	mov rsp, [try_rsp]
try_out:
	mov qword [try_rsp], 0
	POP_CALLEE_SAVED
	ret

section .data
align 8
try_rsp:
	dq 0

section .bss
align 16
	resb 4096
user_stack_end:

section .note.GNU-stack noalloc noexec nowrite progbits

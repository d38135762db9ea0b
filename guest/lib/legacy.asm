; SPDX-License-Identifier: MIT
; Out of long mode, a call of 32-bit code, and back. EBX is the struct legacy throughout.

%include "guest/lib/legacy.inc"
%include "guest/lib/trap.inc"

%define GDT_CODE32 0x28
%define GDT_CODE16 0x48
%define CR0_PG_BIT 31
%define MSR_EFER 0xc0000080

global legacy_enter, legacy_fault, legacy_vmrun, legacy_vmrun_16, legacy_vmrun_ax

; CR0, CR3, CR4 and EFER to where %2 points; %1 is EAX, or in 64-bit code RAX.
%macro STORE_MODE 2
	mov %1, cr0
	mov [%2 + LEGACY_CR0], eax
	mov %1, cr3
	mov [%2 + LEGACY_CR3], eax
	mov %1, cr4
	mov [%2 + LEGACY_CR4], eax
	mov ecx, MSR_EFER
	rdmsr
	mov [%2 + LEGACY_EFER], eax
%endmacro

section .text
bits 64
default rel

; void legacy_enter(struct legacy *)
legacy_enter:
	PUSH_CALLEE_SAVED
	mov rbx, rdi
	mov [rbx + LEGACY_SAVED_RSP], rsp
	sidt [rbx + LEGACY_SAVED_IDTR]
	STORE_MODE rax, rbx + LEGACY_SAVED
	and dword [rbx + LEGACY_SAVED + LEGACY_EFER], ~(1 << 10) ; LMA
	lea rax, [back]
	mov [rbx + LEGACY_BACK], eax
	lea rax, [compatibility]
	push GDT_CODE32
	push rax
	retfq

bits 32
compatibility:
	mov eax, cr0
	btr eax, CR0_PG_BIT
	mov cr0, eax
	mov ecx, MSR_EFER
	mov eax, [ebx + LEGACY_EFER]
	xor edx, edx
	wrmsr
	mov eax, [ebx + LEGACY_CR4]
	mov cr4, eax
	mov eax, [ebx + LEGACY_CR3]
	mov cr3, eax
	lidt [ebx + LEGACY_IDTR]
	mov esp, [ebx + LEGACY_STACK]
	mov eax, [ebx + LEGACY_CR0]
	mov cr0, eax
	call [ebx + LEGACY_CODE]
leave:
	mov eax, cr0
	btr eax, CR0_PG_BIT
	mov cr0, eax
	mov eax, [ebx + LEGACY_SAVED + LEGACY_CR4]
	mov cr4, eax
	mov eax, [ebx + LEGACY_SAVED + LEGACY_CR3]
	mov cr3, eax
	mov ecx, MSR_EFER
	mov eax, [ebx + LEGACY_SAVED + LEGACY_EFER]
	xor edx, edx
	wrmsr
	mov eax, [ebx + LEGACY_SAVED + LEGACY_CR0]
	mov cr0, eax
	push GDT_CODE
	push dword [ebx + LEGACY_BACK]
	retf

bits 64
back:
	mov rsp, [rbx + LEGACY_SAVED_RSP]
	lidt [rbx + LEGACY_SAVED_IDTR]
	POP_CALLEE_SAVED
	ret

bits 32
; from the stubs in legacy.c: EAX = vector
legacy_fault:
	mov [ebx + LEGACY_VECTOR], eax
	mov ecx, 0x27d00 ; these vectors have an error code: 8, 10 to 14, 17
	bt ecx, eax
	jnc .no_error
	pop dword [ebx + LEGACY_ERROR]
.no_error:
	pop dword [ebx + LEGACY_EIP]
	mov eax, cr2
	mov [ebx + LEGACY_CR2], eax
	mov esp, [ebx + LEGACY_STACK]
	jmp leave

%macro LOAD_L2 0
	push ebx ; L2 may change it; ESP comes back from the host state
	mov eax, [ebx + LEGACY_EAX]
	mov ecx, [ebx + LEGACY_ECX]
	mov edx, [ebx + LEGACY_EDX]
	mov esi, [ebx + LEGACY_ESI]
	mov edi, [ebx + LEGACY_EDI]
%endmacro

; What L1 finds behind its VMRUN.
%macro STORE_L1 0
	pop ebx
	stgi
	mov [ebx + LEGACY_EAX], eax
	mov [ebx + LEGACY_ECX], ecx
	mov [ebx + LEGACY_EDX], edx
	mov [ebx + LEGACY_ESI], esi
	mov [ebx + LEGACY_EDI], edi
	STORE_MODE eax, ebx
	cld
	ret
%endmacro

legacy_vmrun:
	clgi
	LOAD_L2
	vmrun
	STORE_L1

; Into the flat 16-bit segment and back, each by a far return: there is no position-independent far jump.
%macro VMRUN_16 1
	clgi
	LOAD_L2
	push GDT_CODE32
	call %%here
%%here:
	add dword [esp], %%behind - %%here
	push GDT_CODE16
	call %%there
%%there:
	add dword [esp], %%code16 - %%there
	retf
bits 16
%%code16:
	%1
	o32 retf
bits 32
%%behind:
	STORE_L1
%endmacro

legacy_vmrun_16:
	VMRUN_16 {db 0x67, 0x0f, 0x01, 0xd8}

legacy_vmrun_ax:
	VMRUN_16 {db 0x0f, 0x01, 0xd8}

section .note.GNU-stack noalloc noexec nowrite progbits

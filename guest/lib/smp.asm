; SPDX-License-Identifier: MIT
; Where a CPU comes from a SIPI: what it finds is stored first, and then it goes to long mode and to smp_main().

%include "guest/lib/smp.inc"

%define CPUID_FEATURES 1
%define MSR_EFER 0xc0000080

extern smp_main, smp_index, smp_gdtr, smp_idtr, smp_stacks
global smp_trampoline, smp_trampoline_end, smp_enter

%define DATA(field) cs:(SMP_PAGE_DATA + field)
%define FIRST(field) DATA(SMP_FIRST + field)

section .text
bits 16

; Copied to a page below 1 MByte, and addressed by CS, whose base is that page. Several CPUs may be here at once: what they
; store is then any of theirs, and nothing else depends on it.
align 16
smp_trampoline:
	mov [FIRST(SMP_EAX)], eax
	mov [FIRST(SMP_EBX)], ebx
	mov [FIRST(SMP_ECX)], ecx
	mov [FIRST(SMP_EDX)], edx
	mov [FIRST(SMP_ESI)], esi
	mov [FIRST(SMP_EDI)], edi
	mov [FIRST(SMP_EBP)], ebp
	mov [FIRST(SMP_ESP)], esp
	mov [FIRST(SMP_CS)], cs
	mov [FIRST(SMP_DS)], ds
	mov [FIRST(SMP_ES)], es
	mov [FIRST(SMP_SS)], ss
	mov [FIRST(SMP_FS)], fs
	mov [FIRST(SMP_GS)], gs
	mov ax, cs
	mov ss, ax
	mov esp, SMP_PAGE_STACK
	pushfd
	pop dword [FIRST(SMP_FLAGS)]
	call .here
.here:
	pop ax
	sub ax, .here - smp_trampoline
	mov [FIRST(SMP_IP)], ax
	mov eax, cr0
	mov [FIRST(SMP_FIRST_CR0)], eax
	mov eax, cr2
	mov [FIRST(SMP_FIRST_CR2)], eax
	mov eax, cr3
	mov [FIRST(SMP_FIRST_CR3)], eax
	mov eax, cr4
	mov [FIRST(SMP_FIRST_CR4)], eax
	mov eax, dr6
	mov [FIRST(SMP_DR6)], eax
	mov eax, dr7
	mov [FIRST(SMP_DR7)], eax
	mov ecx, MSR_EFER
	rdmsr
	mov [FIRST(SMP_FIRST_EFER)], eax
	o32 sgdt [FIRST(SMP_FIRST_GDTR)]
	o32 sidt [FIRST(SMP_FIRST_IDTR)]

	mov eax, [DATA(SMP_CR4)]
	mov cr4, eax
	mov eax, [DATA(SMP_CR3)]
	mov cr3, eax
	mov eax, [DATA(SMP_EFER)]
	xor edx, edx
	wrmsr
	o32 lgdt [DATA(SMP_GDTR)]
	mov eax, [DATA(SMP_CR0)]
	mov cr0, eax
	jmp dword far [DATA(SMP_ENTRY)]
smp_trampoline_end:

bits 64
default rel

smp_enter:
	mov eax, CPUID_FEATURES
	cpuid
	shr ebx, 24 ; the APIC's ID, in whichever mode that is
	lea rdi, [smp_index]
	movzx edi, byte [rdi + rbx]
	lea rsp, [smp_stacks + SMP_STACK_BYTES]
	mov eax, edi
	imul rax, rax, SMP_STACK_BYTES
	add rsp, rax
	lgdt [smp_gdtr]
	lidt [smp_idtr]
	mov eax, 0x10
	mov ds, eax
	mov es, eax
	mov ss, eax
	xor ebp, ebp
	call smp_main
	ud2

section .note.GNU-stack noalloc noexec nowrite progbits

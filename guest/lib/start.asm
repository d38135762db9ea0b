; SPDX-License-Identifier: MIT
; Segment registers of the firmware: save and restore.

bits 64
default rel

global segments_save, segments_restore

section .text

; void segments_save(struct firmware_segments *)
segments_save:
	mov [rdi], cs
	mov [rdi + 2], ds
	mov [rdi + 4], es
	mov [rdi + 6], ss
	str [rdi + 8]
	ret

; void segments_restore(const struct firmware_segments *, gdtr, idtr)
segments_restore:
	lgdt [rsi]
	lidt [rdx]
	mov ds, [rdi + 2]
	mov es, [rdi + 4]
	mov ss, [rdi + 6]
	; LTR of a null selector faults: a firmware without a TSS goes on with ours and never uses it.
	movzx ecx, word [rdi + 8]
	test ecx, ecx
	jz .no_tss
	mov rax, [rsi + 2]
	and byte [rax + rcx + 5], ~2 ; LTR wants it not busy
	ltr cx
.no_tss:
	pop rax
	movzx ecx, word [rdi]
	push rcx
	push rax
	retfq

section .note.GNU-stack noalloc noexec nowrite progbits

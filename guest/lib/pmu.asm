; SPDX-License-Identifier: MIT
; A known number of instructions between two readings of four counters. The arithmetic is in pmu.h.

bits 64
default rel

%include "guest/lib/pmu.inc"

global pmu_sample_rdpmc, pmu_sample_rdmsr

section .text

%macro READ 3 ; instruction, what to put into ecx, index of the result
	mov ecx, %2
	%1
	shl rdx, 32
	or rax, rdx
	mov [rdi + 8 * (%3)], rax
%endmacro

%macro SAMPLE 3 ; instruction, first ecx, step
	%assign i 0
	%rep 4
	READ %1, %2 + i * %3, i
	%assign i i+1
	%endrep
	times PMU_SAMPLE_NOPS nop
	%assign i 0
	%rep 4
	READ %1, %2 + i * %3, i + 4
	%assign i i+1
	%endrep
	ret
%endmacro

; void pmu_sample_rdpmc(struct pmu_sample *)
pmu_sample_rdpmc:
	SAMPLE rdpmc, 0, 1

; void pmu_sample_rdmsr(struct pmu_sample *)
pmu_sample_rdmsr:
	SAMPLE rdmsr, MSR_PERFCTR_0, 2

section .note.GNU-stack noalloc noexec nowrite progbits

/* SPDX-License-Identifier: MIT */
/*
 * A process of exactly 1,000,000,000 user instructions, from the first one after execve to the
 * SYSCALL that ends it. No libc and no dynamic loader, so nothing runs before _start.
 *
 *          1          mov ecx
 *         96          nop, so that the rest is a whole number of rounds
 *  9,999,999 x 100    98 nop, dec, jnz
 *          3          mov, xor, syscall
 *
 * Built with -DROUNDS=1 it has 200 and with -DROUNDS=11 1,200, few enough to be counted one by one
 * with PTRACE_SINGLESTEP.
 */
#ifndef ROUNDS
#define ROUNDS 9999999
#endif

	.globl	_start
_start:
	mov	$ROUNDS, %ecx
	.rept	96
	nop
	.endr
1:
	.rept	98
	nop
	.endr
	dec	%ecx
	jnz	1b

	mov	$60, %eax		/* exit(0) */
	xor	%edi, %edi
	syscall

	.section .note.GNU-stack, "", @progbits

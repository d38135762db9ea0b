/* SPDX-License-Identifier: MIT */
/*
 * A process of exactly 1,000,000,000 user instructions, from the first one after execve to the
 * SYSCALL that ends it. No libc and no dynamic loader, so nothing runs before _start.
 *
 *        1  mov  ecx
 *       96  nop                            so that the rest is a whole number of rounds
 * +  9,999,999 x 100  98 nop, dec, jnz     (macro-fusion does not matter: APM2 13.2 counts retired
 *        3  mov, xor, syscall               instructions, and QEMU knows none)
 * = 1 + 96 + 999,999,900 + 3
 *
 * `gdb -batch -ex 'starti' ...` is too slow to count that; -DROUNDS=1 makes a program of 200.
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

; SPDX-License-Identifier: MIT
; What shim asks of a program before it starts it: the section .sbat, lines of component, generation, vendor, package,
; version and address. The generation is counted up when all older versions must no longer be started.

section .sbat noexec nowrite alloc progbits align=4096
	db "sbat,1,SBAT Version,sbat,1,SBAT.md of shim", 10
	db "tallyvisor,1,Tallyvisor,tallyvisor,", VERSION, ",README.md", 10

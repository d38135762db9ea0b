; SPDX-License-Identifier: MIT
; The resident core, embedded in the loader.
section .rodata
align 4096
global core_image, core_image_end
core_image:
	incbin "core.bin"
core_image_end:
section .note.GNU-stack noalloc noexec nowrite progbits

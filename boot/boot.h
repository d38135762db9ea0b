/* SPDX-License-Identifier: MIT */
/* What the loader's files share. boot/ is the one place that sees <efi.h>. */
#ifndef TALLY_BOOT_BOOT_H
#define TALLY_BOOT_BOOT_H

#define GNU_EFI_USE_MS_ABI /* UEFI functions are called directly, without a wrapper */
#include <efi.h>
#include <efilib.h>

#include "boot/config.h"

/* Prints one line "Tallyvisor: ..." on the console; format as in Print(). */
#define SAY(fmt, ...) Print(L"Tallyvisor: " fmt L"\r\n", ##__VA_ARGS__)

/* The CPU's physical address bits in *phys_bits, or the sentence that says why we cannot run here. */
const CHAR16 *probe_cpu(u8 *phys_bits);

/* Why this number of CPUs cannot be run, or NULL. */
const CHAR16 *probe_smp(const struct boot_config *config);

/*
 * Copies the resident core into reserved memory, relocates it and gives it the CPU. On return the caller runs
 * as L1 and NULL is returned; otherwise the sentence that says what is missing, and nothing has changed.
 */
const CHAR16 *core_start(const struct boot_config *config, u8 phys_bits);

#endif

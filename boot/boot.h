/* SPDX-License-Identifier: MIT */
/* What the loader's files share. boot/ is the one place that sees <efi.h>. */
#ifndef TALLY_BOOT_BOOT_H
#define TALLY_BOOT_BOOT_H

#define GNU_EFI_USE_MS_ABI /* UEFI functions are called directly, without a wrapper */
#include <efi.h>
#include <efilib.h>

#include "abi/handoff.h"
#include "boot/config.h"

/* Prints one line "Tallyvisor: ..." on the console; format as in Print(). */
#define SAY(fmt, ...) Print(L"Tallyvisor: " fmt L"\r\n", ##__VA_ARGS__)

/* The CPU's physical address bits in *phys_bits, or the sentence that says why we cannot run here. */
const CHAR16 *probe_cpu(u8 *phys_bits);

/* NULL, or the sentence: what the firmware has placed beyond the addresses that we can give to L1. */
const CHAR16 *probe_addresses(u8 phys_bits);

/* The number of CPUs beside this one that can be taken over. */
u32 smp_find(void);

/* Runs on each of them, one after the other. NULL, or the sentence that says what went wrong. No boot services inside. */
typedef void EFIAPI smp_procedure(void *argument);
const CHAR16 *smp_run(smp_procedure *procedure, void *argument);
/* The same for a procedure that counts *entered up and does not return yet; */
const CHAR16 *smp_enter(smp_procedure *procedure, void *argument, volatile u32 *entered);
/* all have returned. */
void smp_wait(void);

/* Where ACPI puts the machine to sleep, and what may be written there; and takes the other states out of the tables. */
struct sleep_control sleep_find(void);
void sleep_hide(void);
/* For dma=protect: the IOMMUs that the core is to have, and their number; a line says why there is none. */
u32 dma_find(u8 phys_bits, struct iommu_unit *units);
/* What describes them is there no more. */
void dma_hide(void);

/*
 * Copies the resident core into reserved memory, relocates it and gives it this CPU, `aps` others, and `iommus` IOMMUs. On
 * return all run as L1 and NULL is returned; otherwise the sentence that says what is missing, and nothing has changed.
 */
const CHAR16 *core_start(const struct boot_config *config, u8 phys_bits, u32 aps,
			 const struct iommu_unit *units, u32 iommus);

#endif

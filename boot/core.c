/* SPDX-License-Identifier: MIT */
/* Places the resident core in memory and gives it the CPU. */
#include "boot/boot.h"
#include "abi/handoff.h"
#include "x86/cr.h"

extern const u8 core_image[], core_image_end[];

struct rela {
	u64 offset;
	u64 info;
	s64 addend;
};

#define R_X86_64_RELATIVE 8

static u64 read_cr3(void)
{
	u64 value;

	asm volatile("mov %%cr3, %0" : "=r"(value));
	return value;
}

static void write_cr3(u64 value)
{
	asm volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

/* `bytes` of zeroed reserved memory below 4 GByte, aligned to 2 MByte. 0 if there is none. */
static u64 allocate_region(u64 bytes)
{
	UINTN pages = bytes / PAGE_SIZE, spare = PAGE_2M / PAGE_SIZE, before;
	EFI_PHYSICAL_ADDRESS base = 0xffffffff, start;

	/* reserved: stays in the OS' memory map, not remapped by SetVirtualAddressMap, never reclaimed */
	if (EFI_ERROR(BS->AllocatePages(AllocateMaxAddress, EfiReservedMemoryType, pages + spare,
					&base)))
		return 0;
	start = ALIGN_UP(base, PAGE_2M);
	before = (start - base) / PAGE_SIZE;
	if (before)
		BS->FreePages(base, before);
	if (spare - before)
		BS->FreePages(start + bytes, spare - before);
	BS->SetMem((void *)(uintptr_t)start, bytes, 0);
	return start;
}

static bool relocate(u8 *image, const struct image_header *header)
{
	const struct rela *r = (const struct rela *)(uintptr_t)(image + header->rela_start);
	const struct rela *end = (const struct rela *)(uintptr_t)(image + header->rela_end);

	for (; r < end; r++) {
		if ((u32)r->info != R_X86_64_RELATIVE || r->offset + 8 > header->file_end)
			return false;
		*(u64 *)(uintptr_t)(image + r->offset) = CORE_VA + (u64)r->addend;
	}
	return true;
}

/*
 * Page tables to enter the core with: the firmware's, plus the region at CORE_VA. Used for the few instructions
 * until the core has loaded its own, and freed afterwards.
 */
static void map_region(u64 *tables, u64 firmware_cr3, u64 region, u64 bytes)
{
	u64 *pml4 = tables, *pdpt = tables + 512, *pd = tables + 1024;

	BS->CopyMem(pml4, (void *)(uintptr_t)(firmware_cr3 & PTE_ADDR), PAGE_SIZE);
	BS->SetMem(pdpt, 2 * PAGE_SIZE, 0);
	pml4[(CORE_VA >> 39) & 511] = (u64)(uintptr_t)pdpt | PTE_P | PTE_W;
	pdpt[(CORE_VA >> 30) & 511] = (u64)(uintptr_t)pd | PTE_P | PTE_W;
	for (u64 at = 0; at < bytes; at += PAGE_2M)
		pd[at / PAGE_2M] = (region + at) | PTE_P | PTE_W | PTE_PS;
}

/* What a CPU needs to enter the core. */
struct start {
	struct handoff handoff;
	u64 tables; /* to enter with */
	core_entry_fn *entry;
	s64 status;
	const CHAR16 *problem;
};

static void EFIAPI probe_this(void *argument)
{
	struct start *start = argument;
	const CHAR16 *problem;
	u8 phys_bits;

	problem = probe_cpu(&phys_bits);
	if (problem)
		start->problem = problem;
}

/* This CPU becomes L1's, with the page tables and the interrupt flag that it has. */
static void EFIAPI enter_this(void *argument)
{
	struct start *start = argument;
	u64 cr3 = read_cr3();

	start->handoff.loader_cr3 = cr3;
	write_cr3(start->tables);
	start->status = start->entry(&start->handoff);
	/* where the core took over, this is L1 already, with the firmware's CR3 */
	if (start->status)
		write_cr3(cr3);
}

const CHAR16 *core_start(const struct boot_config *config, u8 phys_bits, u32 aps,
			 const struct iommu_unit *units, u32 iommus)
{
	const struct image_header *header = (const struct image_header *)(uintptr_t)core_image;
	u32 cpus = aps + 1;
	u64 dma_bytes = iommus ? CORE_DMA_BYTES(phys_bits, cpus, iommus) : 0;
	u64 bytes = ALIGN_UP(header->image_end + CORE_TABLE_BYTES(phys_bits, cpus) + dma_bytes +
				     cpus * header->cpu_bytes,
			     PAGE_2M);
	struct start start = {0};
	EFI_PHYSICAL_ADDRESS tables;
	const CHAR16 *problem;
	u64 region;

	if (header->magic != IMAGE_MAGIC || (u64)(core_image_end - core_image) < header->file_end)
		return L"the resident core in this file is damaged; build it again";
	if (bytes > PAGE_1G)
		return L"too many CPUs: their memory is more than 1 GByte";
	problem = smp_run(probe_this, &start);
	if (!problem)
		problem = start.problem;
	if (problem)
		return problem;
	region = allocate_region(bytes);
	if (!region ||
	    EFI_ERROR(BS->AllocatePages(AllocateAnyPages, EfiBootServicesData, 3, &tables)))
		return L"no memory: some MBytes below 4 GByte are needed for the hypervisor";
	for (u32 i = 0; i < iommus; i++)
		if (units[i].mmio_hpa < region + bytes &&
		    region < units[i].mmio_hpa + units[i].mmio_bytes)
			return L"the firmware's table IVRS has an IOMMU in the middle of memory; "
			       L"try dma=off";
	BS->CopyMem((void *)(uintptr_t)region, (void *)(uintptr_t)core_image, header->file_end);
	if (!relocate((u8 *)(uintptr_t)region, header))
		return L"the resident core in this file cannot be relocated; build it again";
	map_region((u64 *)(uintptr_t)tables, read_cr3(), region, bytes);

	start = (struct start){
		.handoff =
			{
				.version = HANDOFF_VERSION,
				.region_hpa = region,
				.region_bytes = bytes,
				.phys_bits = phys_bits,
				.cpus = cpus,
				.config = config->core,
				.sleep = sleep_find(),
				.iommus = iommus,
			},
		.tables = tables,
		.entry = (core_entry_fn *)(uintptr_t)(CORE_VA + header->entry),
	};
	BS->CopyMem(start.handoff.iommu, (void *)(uintptr_t)units, iommus * sizeof(*units));
	/* this CPU last: until then the firmware starts the others without us in between */
	problem = smp_enter(enter_this, &start, &start.handoff.entered);
	if (problem)
		return problem;
	asm volatile("cli" : : : "memory");
	enter_this(&start);
	asm volatile("sti" : : : "memory");
	smp_wait();
	BS->FreePages(tables, 3);
	if (!start.status) {
		sleep_hide();
		return NULL;
	}
	BS->FreePages(region, bytes / PAGE_SIZE);
	return L"the resident core refused to start; set log=com1 or log=debugcon and see what it "
	       L"says";
}

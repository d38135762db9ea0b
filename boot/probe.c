/* SPDX-License-Identifier: MIT */
#include "boot/boot.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"

struct leaf {
	u32 eax, ebx, ecx, edx;
};

static struct leaf cpuid(u32 leaf)
{
	struct leaf l;

	asm volatile("cpuid"
		     : "=a"(l.eax), "=b"(l.ebx), "=c"(l.ecx), "=d"(l.edx)
		     : "a"(leaf), "c"(0));
	return l;
}

static u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return lo | (u64)hi << 32;
}

static u64 read_cr4(void)
{
	u64 value;

	asm volatile("mov %%cr4, %0" : "=r"(value));
	return value;
}

const CHAR16 *probe_cpu(u8 *phys_bits)
{
	u32 max = cpuid(CPUID_EXT_MAX).eax;
	struct leaf features;

	if (max < CPUID_SVM)
		return L"this CPU has no SVM (AMD virtualization); an AMD CPU with SVM is needed";
	features = cpuid(CPUID_EXT_FEATURES);
	if (!(features.ecx & CPUID_EXT1_ECX_SVM))
		return L"this CPU has no SVM (AMD virtualization), or the machine below hides it";
	/* APM2 §15.4: the way to find out whether the firmware has locked SVM off */
	if (rdmsr(MSR_VM_CR) & VM_CR_SVMDIS)
		return L"SVM is disabled by the firmware: enable \"SVM Mode\" (also called AMD-V "
		       L"or Secure Virtual "
		       L"Machine) in the firmware setup";
	if (!(cpuid(CPUID_SVM).edx & SVM_NP))
		return L"this CPU has no nested paging (CPUID 8000_000A EDX[0])";
	if (!(features.edx & CPUID_EXT1_EDX_PAGE1GB))
		return L"this CPU has no 1-GByte pages (CPUID 8000_0001 EDX[26])";
	if (!(features.edx & CPUID_EXT1_EDX_NX))
		return L"this CPU has no no-execute pages (CPUID 8000_0001 EDX[20])";
	if (read_cr4() & CR4_LA57)
		return L"the firmware runs with 5-level paging, which is not supported";
	*phys_bits = (u8)cpuid(CPUID_ADDR_SIZES).eax;
	/* firmware that has enabled SME takes address bits for keys; a page-table entry with one faults. APM2 §7.10.1 */
	if (max >= CPUID_ENCRYPTION && (cpuid(CPUID_ENCRYPTION).eax & CPUID_1F_EAX_SME) &&
	    (rdmsr(MSR_SYSCFG) & SYSCFG_MEM_ENCRYPTION))
		*phys_bits = (u8)(*phys_bits - CPUID_1F_EBX_REDUCTION(cpuid(CPUID_ENCRYPTION).ebx));
	return NULL;
}

/* UEFI PI specification, vol. 2, §7.2 and §7.3; gnu-efi does not have it. Unlike UEFI's memory map this has the devices, too. */
struct memory_space {
	u64 base, length, capabilities, attributes;
	u32 type;
	EFI_HANDLE image, device;
};

#define MEMORY_SPACE_RESERVED 1 /* and 0: nothing there; from 2 on memory and MMIO */

struct dxe_services {
	EFI_TABLE_HEADER header;
	void *before[6];
	EFI_STATUS(EFIAPI *get_memory_space_map)(UINTN *number, struct memory_space **spaces);
};

const CHAR16 *probe_addresses(u8 phys_bits)
{
	EFI_GUID guid = {
		0x05ad34ba, 0x6f02, 0x4214, {0x95, 0x2e, 0x4d, 0xa0, 0x39, 0x8e, 0x2b, 0xb9}};
	const CHAR16 *problem = NULL;
	struct memory_space *spaces;
	struct dxe_services *dxe;
	UINTN number;

	if (phys_bits <= L1_MAX_PHYS_BITS ||
	    EFI_ERROR(LibGetSystemConfigurationTable(&guid, (void **)&dxe)) ||
	    EFI_ERROR(dxe->get_memory_space_map(&number, &spaces)))
		return NULL;
	for (UINTN i = 0; i < number; i++)
		if (spaces[i].type > MEMORY_SPACE_RESERVED &&
		    spaces[i].base + spaces[i].length > BIT(L1_MAX_PHYS_BITS))
			problem = L"there is memory, or a device, from 256 TByte (2^48) on, where "
				  L"four levels of "
				  L"nested tables do not reach: lower the limit of \"Above 4G "
				  L"Decoding\", or turn "
				  L"it off, in the firmware setup";
	FreePool(spaces);
	return problem;
}

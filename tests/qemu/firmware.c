/* SPDX-License-Identifier: MIT */
/*
 * What other firmware does and OVMF does not: makes it so, as the file opt/tallyvisor/firmware of QEMU's fw_cfg says, and
 * starts \EFI\tallyvisor\tallyvisor.efi.
 */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>
#include <efilib.h>

#include "guest/lib/cpu.h"
#include "guest/lib/fwcfg.h"
#include "types.h"
#include "x86/apic.h"
#include "x86/msr.h"

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table);

/* ---- x2apic: all CPUs are in x2APIC mode. MP Services: UEFI PI specification, vol. 2, §13.4 ---- */

typedef void EFIAPI procedure(void *argument);

struct mp_services {
	void *before[2];
	EFI_STATUS(EFIAPI *startup_all_aps)
	(struct mp_services *self, procedure *run, BOOLEAN one_by_one, EFI_EVENT event,
	 UINTN microseconds, void *argument, UINTN **failed);
};

static void EFIAPI enable_x2apic(void *argument)
{
	(void)argument;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2);
}

static bool x2apic(void)
{
	EFI_GUID guid = {
		0x3fdda605, 0xa76e, 0x4f46, {0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08}};
	struct mp_services *mp;
	EFI_STATUS status;

	if (EFI_ERROR(LibLocateProtocol(&guid, (void **)&mp)))
		return false;
	status = mp->startup_all_aps(mp, enable_x2apic, TRUE, NULL, 0, NULL, NULL);
	enable_x2apic(NULL);
	return !EFI_ERROR(status) || status == EFI_NOT_STARTED; /* there are no others */
}

/* ---- far-device: one at 256 TByte. PI, vol. 2, §7.2.4 ---- */

struct memory_space {
	u64 base, length, capabilities, attributes;
	u32 type;
	EFI_HANDLE image, device;
};

typedef EFI_STATUS EFIAPI get_map(UINTN *number, struct memory_space **spaces);

struct dxe_services {
	EFI_TABLE_HEADER header;
	void *before[6];
	get_map *get_memory_space_map;
};

static get_map *get_real_map;

static EFI_STATUS EFIAPI get_map_and_far_device(UINTN *number, struct memory_space **spaces)
{
	EFI_STATUS status = get_real_map(number, spaces);
	UINTN bytes = *number * sizeof(**spaces);
	struct memory_space *more;

	if (EFI_ERROR(status))
		return status;
	more = AllocateZeroPool(bytes + sizeof(*more));
	if (!more)
		return EFI_OUT_OF_RESOURCES;
	CopyMem(more, *spaces, bytes);
	FreePool(*spaces);
	more[*number] = (struct memory_space){.base = BIT(48), .length = PAGE_2M, .type = 3};
	++*number;
	*spaces = more;
	return status;
}

static bool far_device(void)
{
	EFI_GUID guid = {
		0x05ad34ba, 0x6f02, 0x4214, {0x95, 0x2e, 0x4d, 0xa0, 0x39, 0x8e, 0x2b, 0xb9}};
	struct dxe_services *dxe;

	if (EFI_ERROR(LibGetSystemConfigurationTable(&guid, (void **)&dxe)))
		return false;
	get_real_map = dxe->get_memory_space_map;
	dxe->get_memory_space_map = get_map_and_far_device;
	return true;
}

static const struct {
	const char *name;
	bool (*make)(void);
} habits[] = {
	{"x2apic", x2apic},
	{"far-device", far_device},
};

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table)
{
	EFI_GUID loaded_image = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	EFI_LOADED_IMAGE *self;
	char wanted[32] = {0};
	EFI_HANDLE next = NULL;
	bool made = false;

	InitializeLib(image, table);
	if (!fwcfg_read("opt/tallyvisor/firmware", wanted, sizeof(wanted) - 1)) {
		Print(L"firmware: nothing is asked for\r\n");
		return EFI_SUCCESS;
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(habits); i++)
		if (!strcmpa((const CHAR8 *)wanted, (const CHAR8 *)habits[i].name))
			made = habits[i].make();
	Print(L"firmware: %a: %s\r\n", wanted, made ? L"done" : L"NOT POSSIBLE");
	if (!made || EFI_ERROR(BS->HandleProtocol(image, &loaded_image, (void **)&self)) ||
	    EFI_ERROR(BS->LoadImage(
		    FALSE, image,
		    FileDevicePath(self->DeviceHandle, L"\\EFI\\tallyvisor\\tallyvisor.efi"), NULL,
		    0, &next)))
		return EFI_UNSUPPORTED;
	return BS->StartImage(next, NULL, NULL);
}

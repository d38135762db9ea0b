/* SPDX-License-Identifier: MIT */
/* MP Services: UEFI PI specification, vol. 2, §13.4; gnu-efi does not have it. */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>

#include "guest/lib/mp.h"

void mp_find(EFI_SYSTEM_TABLE *table, bool wanted);

#define LOW_END 0x9ffffull

struct processor {
	u64 id;
	u32 status;
	u32 location[16]; /* 3 numbers, more in later versions */
};

#define PROCESSOR_AS_BSP BIT(0)

struct mp_services {
	EFI_STATUS(EFIAPI *get_number_of_processors)
	(struct mp_services *self, UINTN *number, UINTN *enabled);
	EFI_STATUS(EFIAPI *get_processor_info)
	(struct mp_services *self, UINTN number, struct processor *processor);
};

u32 mp_count;
u32 mp_ids[MP_CPUS];
u64 mp_low;

static void find_cpus(struct mp_services *mp)
{
	UINTN number, enabled;

	if (EFI_ERROR(mp->get_number_of_processors(mp, &number, &enabled)))
		return;
	mp_count = 1;
	for (UINTN i = 0; i < number; i++) {
		struct processor processor = {0};

		if (EFI_ERROR(mp->get_processor_info(mp, i, &processor)))
			continue;
		if (processor.status & PROCESSOR_AS_BSP)
			mp_ids[0] = (u32)processor.id;
		else if (mp_count < MP_CPUS)
			mp_ids[mp_count++] = (u32)processor.id;
	}
}

void mp_find(EFI_SYSTEM_TABLE *table, bool wanted)
{
	EFI_GUID guid = {
		0x3fdda605, 0xa76e, 0x4f46, {0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08}};
	EFI_PHYSICAL_ADDRESS low = LOW_END;
	struct mp_services *mp;

	/* not asked in start.c, whose own `false` a compiler may believe though it is weak */
	if (!wanted && !guest_wants_cpus)
		return;
	if (!EFI_ERROR(table->BootServices->LocateProtocol(&guid, NULL, (void **)&mp)))
		find_cpus(mp);
	if (!EFI_ERROR(table->BootServices->AllocatePages(AllocateMaxAddress, EfiLoaderData,
							  MP_LOW_PAGES, &low)))
		mp_low = low;
}

/* SPDX-License-Identifier: MIT */
/* The other CPUs, by the firmware's MP Services. UEFI PI specification, vol. 2, §13.4; gnu-efi does not have it. */
#include "boot/boot.h"

#define PROCESSOR_AS_BSP BIT(0)
#define PROCESSOR_ENABLED BIT(1)
#define PROCESSOR_HEALTHY BIT(2)

struct processor {
	u64 id;
	u32 status;
	u32 location[16]; /* 3 numbers, more in later versions */
};

struct mp_services {
	EFI_STATUS(EFIAPI *get_number_of_processors)
	(struct mp_services *self, UINTN *number, UINTN *enabled);
	EFI_STATUS(EFIAPI *get_processor_info)
	(struct mp_services *self, UINTN number, struct processor *processor);
	void *startup_all_aps;
	EFI_STATUS(EFIAPI *startup_this_ap)
	(struct mp_services *self, smp_procedure *procedure, UINTN number, EFI_EVENT event,
	 UINTN microseconds, void *argument, BOOLEAN *finished);
};

static struct mp_services *mp;
static UINTN processors;

static bool is_usable_ap(UINTN number)
{
	struct processor processor = {0};

	return !EFI_ERROR(mp->get_processor_info(mp, number, &processor)) &&
	       (processor.status & (PROCESSOR_ENABLED | PROCESSOR_HEALTHY)) ==
		       (PROCESSOR_ENABLED | PROCESSOR_HEALTHY) &&
	       !(processor.status & PROCESSOR_AS_BSP);
}

u32 smp_find(void)
{
	EFI_GUID guid = {
		0x3fdda605, 0xa76e, 0x4f46, {0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08}};
	UINTN enabled;
	u32 aps = 0;

	/* firmware without MP Services gives no way to start another CPU before the OS does */
	if (EFI_ERROR(BS->LocateProtocol(&guid, NULL, (void **)&mp)) ||
	    EFI_ERROR(mp->get_number_of_processors(mp, &processors, &enabled)))
		processors = 0;
	for (UINTN i = 0; i < processors; i++)
		aps += is_usable_ap(i);
	return aps;
}

u32 smp_run(smp_procedure *procedure, void *argument)
{
	u32 done = 0;

	for (UINTN i = 0; i < processors; i++)
		if (is_usable_ap(i) &&
		    !EFI_ERROR(mp->startup_this_ap(mp, procedure, i, NULL, 0, argument, NULL)))
			done++;
	return done;
}

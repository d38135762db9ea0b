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

/* Machines under emulation are slow. */
#define SECONDS_TO_ENTER 60

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

static const CHAR16 *start_ap(smp_procedure *procedure, UINTN number, void *argument,
			      EFI_EVENT event)
{
	return EFI_ERROR(mp->startup_this_ap(mp, procedure, number, event, 0, argument, NULL))
		       ? L"the firmware could not start one of the CPUs; try smp=ignore"
		       : NULL;
}

const CHAR16 *smp_run(smp_procedure *procedure, void *argument)
{
	const CHAR16 *problem = NULL;

	for (UINTN i = 0; i < processors && !problem; i++)
		if (is_usable_ap(i))
			problem = start_ap(procedure, i, argument, NULL);
	return problem;
}

static EFI_EVENT *finished;
static UINTN finishing;

const CHAR16 *smp_enter(smp_procedure *procedure, void *argument, volatile u32 *entered)
{
	const CHAR16 *problem = NULL;
	u32 before;

	finished = AllocatePool(processors * sizeof(*finished));
	if (processors && !finished)
		return L"no memory";
	for (UINTN i = 0; i < processors && !problem; i++) {
		if (!is_usable_ap(i))
			continue;
		if (EFI_ERROR(BS->CreateEvent(0, 0, NULL, NULL, &finished[finishing])))
			return L"no memory for an event";
		before = *entered;
		problem = start_ap(procedure, i, argument, finished[finishing++]);
		for (unsigned int ms = 0; !problem && *entered == before; ms++) {
			BS->Stall(1000);
			if (ms == SECONDS_TO_ENTER * 1000)
				problem = L"one of the CPUs does not start; try smp=ignore";
		}
	}
	return problem;
}

void smp_wait(void)
{
	UINTN index;

	while (finishing) {
		finishing--;
		BS->WaitForEvent(1, &finished[finishing], &index);
		BS->CloseEvent(finished[finishing]);
	}
}

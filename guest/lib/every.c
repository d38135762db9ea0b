/* SPDX-License-Identifier: MIT */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>

#include "guest/lib/cpu.h"
#include "guest/lib/every.h"
#include "guest/lib/fwcfg.h"
#include "guest/lib/platform.h"
#include "guest/lib/smp.h"
#include "guest/lib/start.h"

bool every_copy(EFI_HANDLE image, EFI_SYSTEM_TABLE *table); /* start.c calls it */

#define BELOW_4G 0xffffffffull

/* ELF, System V ABI: the relocations, all of which gnu-efi's start has applied to this image. */
struct dynamic {
	u64 tag, value;
};
struct rela {
	u64 offset, info, addend;
};
#define DT_NULL 0
#define DT_RELA 7
#define DT_RELASZ 8
#define R_X86_64_RELATIVE 8
extern const struct dynamic _DYNAMIC[] __attribute__((visibility("hidden")));

/* The first one's of each; a copy knows only its own, by `arg` below. */
static struct instance {
	u32 cpu, cpus;
	u64 base; /* of its copy */
	u64 selector;
	struct print_log *log;
	volatile u32 verdict; /* 0: it still runs */
} instances[MP_CPUS];
static volatile u32 arrived;
static bool is_another;
static u64 first_base; /* image_base() of the first; 0: there is one only */
static u32 index;

bool every_wanted(void)
{
	char text[1];

	return fwcfg_read("opt/tallyvisor/every", text, sizeof(text)) && !guest_wants_cpus &&
	       !guest_fixed_memory.bytes;
}

static void relocate(u64 base)
{
	u64 at = 0, bytes = 0;

	for (const struct dynamic *d = _DYNAMIC; d->tag != DT_NULL; d++) {
		if (d->tag == DT_RELA)
			at = d->value;
		if (d->tag == DT_RELASZ)
			bytes = d->value;
	}
	for (u64 i = 0; i < bytes / sizeof(struct rela); i++) {
		const struct rela *r = (const struct rela *)(image_base() + at) + i;

		if ((u32)r->info == R_X86_64_RELATIVE)
			*(u64 *)(base + r->offset) += base - image_base();
	}
}

bool every_copy(EFI_HANDLE image, EFI_SYSTEM_TABLE *table)
{
	EFI_GUID guid = LOADED_IMAGE_PROTOCOL;
	EFI_BOOT_SERVICES *bs = table->BootServices;
	EFI_LOADED_IMAGE *self;

	if (EFI_ERROR(bs->HandleProtocol(image, &guid, (void **)&self)))
		return false;
	first_base = image_base();
	for (u32 i = 1; i < mp_count; i++) {
		EFI_PHYSICAL_ADDRESS base = BELOW_4G;

		if (EFI_ERROR(bs->AllocatePages(AllocateMaxAddress, EfiLoaderCode,
						(self->ImageSize + PAGE_SIZE - 1) / PAGE_SIZE,
						&base)))
			return false;
		bs->CopyMem((void *)base, (void *)image_base(), self->ImageSize);
		relocate(base);
		instances[i].base = base;
	}
	return true;
}

static enum verdict run(const struct instance *i)
{
	index = i->cpu;
	tap_instance(i->cpu, i->cpus);
	every_meet();
	start_selector(i->selector);
	guest_main();
	return tap_finish();
}

/* A copy's, on its CPU, which ends here. */
static void another(void *arg)
{
	struct instance *i = arg;

	is_another = true;
	i->log = &print_log;
	platform_probe();
	start_cpu();
	i->verdict = run(i);
	for (;;)
		asm volatile("cli; hlt");
}

bool every_is_another(void)
{
	return is_another;
}

u32 every_index(void)
{
	return index;
}

void *every_first(void *object)
{
	return first_base ? (u8 *)object - image_base() + first_base : object;
}

void every_meet(void)
{
	smp_meet_at(every_first((void *)(u64)&arrived), tap_instances());
}

/* What it prints, from the first byte to its end. */
static void follow(const struct instance *i)
{
	u64 shown = 0;
	bool ended;

	do {
		ended = i->verdict;
		while (i->log && shown < i->log->bytes)
			print("%c", i->log->text[shown++]);
		asm volatile("pause" : : : "memory");
	} while (!ended);
}

static enum verdict worse(enum verdict a, enum verdict b)
{
	if (a == VERDICT_FAIL || b == VERDICT_FAIL)
		return VERDICT_FAIL;
	return a == VERDICT_SKIP ? b : a;
}

enum verdict every_run(u64 selector)
{
	u32 cpus = smp_init();
	enum verdict verdict;

	note("every CPU: %u", cpus);
	if (cpus < 2 || !smp_start_all())
		return VERDICT_FAIL;
	for (u32 i = 0; i < cpus; i++) {
		struct instance *x = &instances[i];

		x->cpu = i;
		x->cpus = cpus;
		x->selector = selector;
		if (i)
			smp_call(i, (void (*)(void *))((u64)another - image_base() + x->base), x);
	}
	verdict = run(&instances[0]);
	for (u32 i = 1; i < cpus; i++) {
		follow(&instances[i]);
		verdict = worse(verdict, instances[i].verdict);
	}
	smp_end();
	tap_end();
	return verdict;
}

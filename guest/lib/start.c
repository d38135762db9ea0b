/* SPDX-License-Identifier: MIT */
/*
 * From UEFI into the guest and back. Boot services stay alive but are not called while tests run:
 * interrupts are off, and GDT, IDT and page tables are our own, so that a test knows exactly what
 * the CPU's state is.
 */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>

#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/every.h"
#include "guest/lib/fwcfg.h"
#include "guest/lib/mp.h"
#include "guest/lib/paging.h"
#include "guest/lib/platform.h"
#include "guest/lib/start.h"
#include "guest/lib/trap.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/pmu.h"

#define DEBUG_EXIT_PORT 0xf4
#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK 0xa1

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table);
void mp_find(EFI_SYSTEM_TABLE *table, bool wanted);	    /* mp.c */
void acpi_find_root(EFI_SYSTEM_TABLE *table);		    /* acpi.c */
bool every_copy(EFI_HANDLE image, EFI_SYSTEM_TABLE *table); /* every.c */

extern const u8 ImageBase[]; /* elf_x86_64_efi.lds */

/* start.asm */
struct firmware_segments {
	u16 cs, ds, es, ss, tr;
};
void segments_save(struct firmware_segments *s);
void segments_restore(const struct firmware_segments *s, const struct table_register *gdtr,
		      const struct table_register *idtr);

static EFI_HANDLE image_handle;
static EFI_SYSTEM_TABLE *system_table;
static struct paging page_tables;
static bool fixed_memory_taken;

__attribute__((weak)) const struct fixed_memory guest_fixed_memory = {0, 0};
__attribute__((weak)) const bool guest_wants_cpus = false;

static struct {
	struct table_register gdtr, idtr;
	struct firmware_segments segments;
	u64 cr3, cr4, efer;
	u32 lvt_timer;
	u8 pic_master, pic_slave;
} firmware;

u64 image_base(void)
{
	return (u64)ImageBase;
}

bool have_fixed_memory(void)
{
	return fixed_memory_taken;
}

static void fixed_memory_take(void)
{
	const struct fixed_memory *want = &guest_fixed_memory;
	EFI_PHYSICAL_ADDRESS address = want->address;

	fixed_memory_taken = want->bytes && !EFI_ERROR(system_table->BootServices->AllocatePages(
						    AllocateAddress, EfiLoaderData,
						    want->bytes / PAGE_SIZE, &address));
}

void start_cpu(void)
{
	/* The pages below are user pages, which SMEP, SMAP and protection keys would forbid us to
	 * use. */
	write_cr4(read_cr4() & ~(CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_CET | CR4_PCIDE));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	paging_identity(&page_tables, PTE_ALL);
	write_cr3(paging_root(&page_tables));
	trap_init();

	/* No interrupt but those a test raises; what already pends is taken and forgotten. */
	apic_write(APIC_LVT_TIMER, apic_read(APIC_LVT_TIMER) | (u32)APIC_LVT_MASKED);
	interrupt_window();
	trap_strays = 0;
}

static void firmware_leave(void)
{
	cli();
	asm volatile("sgdt %0" : "=m"(firmware.gdtr));
	asm volatile("sidt %0" : "=m"(firmware.idtr));
	segments_save(&firmware.segments);
	firmware.cr3 = read_cr3();
	firmware.cr4 = read_cr4();
	firmware.efer = rdmsr(MSR_EFER);
	firmware.lvt_timer = apic_read(APIC_LVT_TIMER);
	firmware.pic_master = inb(PIC_MASTER_MASK);
	firmware.pic_slave = inb(PIC_SLAVE_MASK);

	outb(PIC_MASTER_MASK, 0xff);
	outb(PIC_SLAVE_MASK, 0xff);
	start_cpu();
}

static void firmware_return(void)
{
	cli();
	outb(PIC_MASTER_MASK, firmware.pic_master);
	outb(PIC_SLAVE_MASK, firmware.pic_slave);
	apic_write(APIC_LVT_TIMER, firmware.lvt_timer);
	wrmsr(MSR_EFER, firmware.efer);
	write_cr3(firmware.cr3);
	write_cr4(firmware.cr4);
	segments_restore(&firmware.segments, &firmware.gdtr, &firmware.idtr);
	sti();
}

static void console_show(void)
{
	const char *log = print_log.text;
	CHAR16 text[3] = {0};

	for (u64 i = 0; i < print_log.bytes; i++) {
		text[0] = log[i] == '\n' ? u'\r' : (CHAR16)log[i];
		text[1] = log[i] == '\n' ? u'\n' : u'\0';
		system_table->ConOut->OutputString(system_table->ConOut, text);
	}
}

/* opt/tallyvisor/end: `off`, and the firmware powers the machine off instead; the verdict is then in the log alone. */
static bool powers_off(void)
{
	char text[3];

	return fwcfg_read("opt/tallyvisor/end", text, sizeof(text)) == 3 && text[0] == 'o' &&
	       text[1] == 'f' && text[2] == 'f';
}

NORETURN void guest_exit(enum verdict verdict)
{
	if (every_is_another()) {
		u64 bytes = print_log.bytes;

		tap_instance(0, 0);
		print("\n");
		for (u64 i = 0; i < bytes; i++)
			print("%c", print_log.text[i]);
	} else if (powers_off()) {
		firmware_return();
		system_table->RuntimeServices->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
	}
	outb(DEBUG_EXIT_PORT, (u8)verdict);
	/* QEMU ends a moment later. An absent device reads as FFh: a real machine with a person in
	 * front of it. */
	while (inb(DEBUG_EXIT_PORT) != 0xff)
		asm volatile("pause");
	firmware_return();
	console_show();
	system_table->BootServices->Exit(
		image_handle, verdict == VERDICT_CRASH ? EFI_ABORTED : EFI_SUCCESS, 0, NULL);
	for (;;)
		asm volatile("hlt");
}

/* opt/tallyvisor/selector: in hexadecimal. */
static u64 selector_wanted(void)
{
	char text[16];
	u64 value = 0, bytes = fwcfg_read("opt/tallyvisor/selector", text, sizeof(text));

	for (u64 i = 0; i < bytes; i++)
		value = value << 4 | (u64)(text[i] > '9' ? text[i] - 'a' + 10 : text[i] - '0');
	return value;
}

void start_selector(u64 value)
{
	if (!value)
		return;
	wrmsr(MSR_PERFEVTSEL(PMU_COUNTERS - 1), value);
	note("selector %u is 0x%lx", PMU_COUNTERS - 1, value);
}

static enum verdict run(u64 selector)
{
	enum verdict verdict;

	start_selector(selector);
	guest_main();
	verdict = tap_finish();
	tap_end();
	return verdict;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table)
{
	bool every = every_wanted();
	u64 selector = selector_wanted();

	image_handle = image;
	system_table = table;
	platform_probe();
	fixed_memory_take();
	acpi_find_root(table);
	mp_find(table, every);
	if (every && !every_copy(image, table))
		return EFI_OUT_OF_RESOURCES;
	firmware_leave();
	guest_exit(every ? every_run(selector) : run(selector));
}

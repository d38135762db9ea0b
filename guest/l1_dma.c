/* SPDX-License-Identifier: MIT */
/*
 * A device that copies from and to any address (QEMU's edu), used against the hypervisor's memory. With dma=protect it must
 * find nothing there and change nothing, and L1 must not be able to switch the protection off. Without, the same device on the
 * same machine reads and writes the hypervisor: that is what the banner's dma=unprotected means, and is shown here, too.
 */
#include "abi/handoff.h"
#include "abi/hypercall.h"
#include "guest/lib/acpi.h"
#include "guest/lib/apic.h"
#include "guest/lib/cpu.h"
#include "guest/lib/platform.h"
#include "guest/lib/svm.h"
#include "guest/lib/tap.h"
#include "x86/iommu.h"

/* ---- edu: docs/specs/edu.rst of QEMU ---- */
#define EDU_ID 0x11e81234u
#define EDU_RAISE 0x60
#define EDU_ACKNOWLEDGE 0x64
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_TARGET 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_RUN 1u
#define EDU_DMA_TO_MEMORY 2u
#define EDU_BUFFER 0x40000 /* in the device's own address space, 4096 bytes */
#define CHUNK 2048	   /* which all versions copy at once */

#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY 2u
#define PCI_COMMAND_MASTER 4u
#define PCI_BAR0 0x10
#define PCI_CAPABILITIES 0x34
/* A capability with its offsets, for 64-bit addresses. */
#define PCI_MSI 5u
#define PCI_MSI_ENABLE BIT(16)
#define PCI_MSI_ADDRESS 4
#define PCI_MSI_ADDRESS_HIGH 8
#define PCI_MSI_DATA 12

#define VECTOR 0x90u

/* Where QEMU has its IOMMU; a real one's address is in IVRS, which is gone. */
#define QEMU_IOMMU 0xfed80000ull

static u64 edu;
static u32 edu_device;
static bool protected;
static struct tally_status status ALIGNED(512);
static u8 pattern[CHUNK] ALIGNED(4096), buffer[CHUNK] ALIGNED(4096);
static const u64 image_magic =
	IMAGE_MAGIC; /* the first 8 bytes of the hypervisor's memory, which it never reads */

L2_CODE(l2_exit, "");
L2_CODE(l2_write, "mov %rax, (%rdi)\n\tmov (%rdi), %rax");

static u32 pci_read(u32 device, u32 offset)
{
	outl(0xcf8, 0x80000000u | device << 11 | offset);
	return inl(0xcfc);
}

static void pci_write(u32 device, u32 offset, u32 value)
{
	outl(0xcf8, 0x80000000u | device << 11 | offset);
	outl(0xcfc, value);
}

static bool edu_find(void)
{
	for (u32 device = 0; device < 32; device++) {
		if (pci_read(device, 0) != EDU_ID)
			continue;
		edu_device = device;
		edu = pci_read(device, PCI_BAR0) & ~15u;
		pci_write(device, PCI_COMMAND,
			  pci_read(device, PCI_COMMAND) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		return edu;
	}
	return false;
}

static void edu_set(u32 offset, u64 value)
{
	*(volatile u64 *)(edu + offset) = value;
}

/* Takes 100 ms of the machine's time. */
static void edu_copy(u64 source, u64 target, u64 bytes, u32 direction)
{
	edu_set(EDU_DMA_SOURCE, source);
	edu_set(EDU_DMA_TARGET, target);
	edu_set(EDU_DMA_COUNT, bytes);
	edu_set(EDU_DMA_COMMAND, EDU_DMA_RUN | direction);
	while (*(volatile u32 *)(edu + EDU_DMA_COMMAND) & EDU_DMA_RUN)
		for (volatile u32 i = 0; i < 2000; i++)
			;
}

/* The device's buffer gets what it finds at an address; an address gets what is in the device's buffer. */
static void dma_read(u64 address, u64 bytes)
{
	edu_copy(address, EDU_BUFFER, bytes, 0);
}

static void dma_write(u64 address, u64 bytes)
{
	edu_copy(EDU_BUFFER, address, bytes, EDU_DMA_TO_MEMORY);
}

static void fill(u8 *bytes, u8 value)
{
	for (u32 i = 0; i < CHUNK; i++)
		bytes[i] = value;
}

/* What the device sees at an address: in `buffer`, which was something else before. */
static void look_at(u64 address)
{
	fill(buffer, 0x5a);
	dma_read((u64)pattern, CHUNK);
	dma_read(address, CHUNK);
	dma_write((u64)buffer, CHUNK);
}

static bool same(const void *a, const void *b, u64 bytes)
{
	for (u64 i = 0; i < bytes; i++)
		if (((const u8 *)a)[i] != ((const u8 *)b)[i])
			return false;
	return true;
}

static bool buffer_is(u8 value)
{
	for (u32 i = 0; i < CHUNK; i++)
		if (buffer[i] != value)
			return false;
	return true;
}

static bool status_read(void)
{
	return CHECK_EQ((u64)hypercall(TALLY_CALL_STATUS, (u64)&status, 0, 0), 0);
}

static void alive(void)
{
	CHECK_EQ(l2_run_from(l2_exit), VMEXIT_VMMCALL);
	status_read();
}

/* ---- tests ---- */

static void ordinary_memory(const void *arg)
{
	(void)arg;
	for (u32 i = 0; i < CHUNK; i++)
		pattern[i] = (u8)(i * 7 + i / 256);
	look_at((u64)pattern);
	CHECK(same(buffer, pattern, CHUNK));
	/* up to the hypervisor's first byte, and from behind its last */
	look_at(status.region_gpa - CHUNK);
	CHECK(same(buffer, (const void *)(status.region_gpa - CHUNK), CHUNK));
	look_at(status.region_gpa + status.region_bytes);
	CHECK(same(buffer, (const void *)(status.region_gpa + status.region_bytes), CHUNK));
}

/* Its first bytes are known, and 64 more places are looked at: all that a device finds is nothing. */
static void read_region(const void *arg)
{
	u32 others = 0;

	(void)arg;
	look_at(status.region_gpa);
	tap_check(same(buffer, &image_magic, sizeof(image_magic)) == !protected,
		  protected ? "the device does not see the image" : "the device sees the image");
	for (u64 i = 0; i < 64; i++) {
		look_at(status.region_gpa + ALIGN_DOWN(status.region_bytes / 64 * i, PAGE_SIZE) +
			i % 2 * CHUNK);
		others += !buffer_is(0);
	}
	tap_check(!others == protected, "and of the rest");
	note("of 64 places in the region the device saw something in %u", others);
}

/* An MSI of the device's with this data, to this CPU. */
static void edu_message(u32 data)
{
	u32 msi = pci_read(edu_device, PCI_CAPABILITIES) & 0xff;

	while (msi && (pci_read(edu_device, msi) & 0xff) != PCI_MSI)
		msi = pci_read(edu_device, msi) >> 8 & 0xff;
	if (!tap_check(msi, "the device has MSI"))
		return;
	pci_write(edu_device, msi + PCI_MSI_ADDRESS, APIC_DEFAULT_PAGE | apic_id() << 12);
	pci_write(edu_device, msi + PCI_MSI_ADDRESS_HIGH, 0);
	pci_write(edu_device, msi + PCI_MSI_DATA, data);
	pci_write(edu_device, msi, pci_read(edu_device, msi) | PCI_MSI_ENABLE);
	*(volatile u32 *)(edu + EDU_RAISE) = 1;
	apic_settle();
	*(volatile u32 *)(edu + EDU_ACKNOWLEDGE) = 1;
	pci_write(edu_device, msi, pci_read(edu_device, msi) & ~(u32)PCI_MSI_ENABLE);
}

/* Protected or not, they pass. */
static void device_interrupts(const void *arg)
{
	(void)arg;
	apic_count(VECTOR);
	sti();
	edu_message(VECTOR);
	CHECK_EQ(interrupts, 1);
	edu_message(VECTOR);
	CHECK_EQ(interrupts, 2);
	CHECK_EQ(nmis, 0);
	edu_message(APIC_DELIVERY_NMI);
	CHECK_EQ(interrupts, 2);
	CHECK_EQ(nmis, 1);
	cli();
	apic_count_end(VECTOR);
}

/* In `region` the first bytes can be overwritten without harm. */
static void write_first(void)
{
	u64 old = image_magic, changed = ~image_magic;

	*(volatile u64 *)pattern = changed;
	dma_read((u64)pattern, sizeof(changed));
	dma_write(status.region_gpa, sizeof(changed));
	look_at(status.region_gpa);
	tap_check(same(buffer, &changed, sizeof(changed)), "the device changes the image");
	dma_read((u64)&image_magic, sizeof(old));
	dma_write(status.region_gpa, sizeof(old));
	look_at(status.region_gpa);
	CHECK(same(buffer, &old, sizeof(old)));
}

/* Everything the hypervisor needs to live: each page of its code and data, and every 64 KByte of the rest. */
static void write_everywhere(void)
{
	fill(pattern, 0xff);
	dma_read((u64)pattern, CHUNK);
	for (u64 at = 0; at < status.region_bytes; at += at < 0x40000 ? PAGE_SIZE : 0x10000) {
		dma_write(status.region_gpa + at, CHUNK);
		dma_write(status.region_gpa + at + CHUNK, CHUNK);
	}
}

static void write_region(const void *arg)
{
	u64 gpa = status.region_gpa, evtsel_writes = status.evtsel_writes;

	(void)arg;
	if (protected)
		write_everywhere();
	else
		write_first();
	alive();
	CHECK_EQ(status.region_gpa, gpa);
	CHECK_EQ(status.evtsel_writes, evtsel_writes);
}

static u64 register_at(u64 offset)
{
	return *(volatile u64 *)(QEMU_IOMMU + offset);
}

static void vmsave_registers(const void *arg)
{
	(void)arg;
	vmsave(QEMU_IOMMU);
}

/* By the CPU in L1 and L2, as an operand of SVM's instructions, and by the device: the IOMMU's registers are not there. */
static void registers(const void *arg)
{
	u64 before = status.hole_accesses;

	(void)arg;
	if (!protected) {
		tap_check(register_at(IOMMU_FEATURES) != ~0ull && register_at(IOMMU_FEATURES) != 0,
			  "L1 has the IOMMU");
		return;
	}
	for (u64 at = 0; at < IOMMU_MMIO_BYTES; at += 8) {
		if (!CHECK_EQ(register_at(at), ~0ull))
			return;
	}
	for (u64 at = 0; at < IOMMU_MMIO_BYTES; at += at < 0x40 ? 8 : 0x800) {
		*(volatile u64 *)(QEMU_IOMMU + at) = 0;
		*(volatile u32 *)(QEMU_IOMMU + at) = 0;
		*(volatile u8 *)(QEMU_IOMMU + at) = 0;
		CHECK_EQ(register_at(at), ~0ull);
	}
	l2_reset(l2_write);
	l2_use_npt();
	l2.regs.rdi = QEMU_IOMMU + IOMMU_CONTROL;
	l2.vmcb.save.rax = 0;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, ~0ull);
	l2_reset(l2_write);
	l2.regs.rdi = QEMU_IOMMU + IOMMU_CONTROL;
	l2.vmcb.save.rax = 0;
	CHECK_EQ(l2_run(), VMEXIT_VMMCALL);
	CHECK_EQ(l2.vmcb.save.rax, ~0ull);
	CHECK_EQ(try_call(vmsave_registers, NULL), VEC_GP);
	tap_check(hypercall(TALLY_CALL_STATUS, QEMU_IOMMU, 0, 0) < 0, "no buffer of a hypercall");
	fill(pattern, 0);
	dma_read((u64)pattern, CHUNK);
	dma_write(QEMU_IOMMU, CHUNK);
	alive();
	CHECK(status.hole_accesses > before);
	/* what is next to them is there: the HPET */
	CHECK(*(volatile u32 *)0xfed00000 != ~0u);
}

static void no_table(const void *arg)
{
	const struct acpi_table *table;
	bool found = false;
	u32 tables = 0;

	(void)arg;
	for (; (table = acpi_table(tables)); tables++) {
		u8 sum = 0;

		found |= same(table->signature, "IVRS", 4);
		for (u32 i = 0; i < table->length; i++)
			sum = (u8)(sum + ((const u8 *)table)[i]);
		CHECK_EQ(sum, 0);
	}
	CHECK(tables > 2);
	CHECK_EQ(found, !protected);
}

static const struct {
	const char *name;
	void (*run)(const void *arg);
} tests[] = {
	{"a device reads and writes ordinary memory", ordinary_memory},
	{"a device's interrupts", device_interrupts},
	{"a device reads the hypervisor's memory", read_region},
	{"a device writes the hypervisor's memory", write_region},
	{"the IOMMU's registers", registers},
	{"a device reads the hypervisor's memory, again", read_region},
	{"the firmware's table of IOMMUs", no_table},
	{"a device reads and writes ordinary memory, again", ordinary_memory},
};

void guest_main(void)
{
	tap_plan(ARRAY_SIZE(tests));
	if (!platform.under_us) {
		tap_skip_all("no Tallyvisor below");
		return;
	}
	if (!edu_find()) {
		tap_skip_all("no device that can be told where to copy");
		return;
	}
	if (!svm_start())
		return;
	protected = cpuid(TALLY_CPUID_STATUS).ecx & TALLY_STATUS_ECX_DMA_PROTECTED;
	note("dma=%s", protected ? "protected" : "unprotected");
	if (!status_read())
		return;
	for (u32 i = 0; i < ARRAY_SIZE(tests); i++)
		tap_run(tests[i].name, tests[i].run, NULL);
}

/* SPDX-License-Identifier: MIT */
#include "hv/iommu.h"
#include "hv/core/dma_tables.h"
#include "hv/cpu.h"
#include "hv/log.h"
#include "hv/memory.h"

/* Longer than an IOMMU ever takes for what is in its command buffer. */
#define WAIT_PAUSES 10000000u

static struct iommu {
	struct iommu_unit unit;
	volatile u8 *registers;
	u64 *commands; /* a queue */
	u32 tail;      /* of the commands: bytes */
} iommus[IOMMU_MAX];
static u32 count;

static u64 device_table_hpa;
static volatile u64 completed ALIGNED(8);
static bool protects;

static u64 read(const struct iommu *m, u32 offset)
{
	return *(volatile u64 *)(m->registers + offset);
}

static void write(const struct iommu *m, u32 offset, u64 value)
{
	*(volatile u64 *)(m->registers + offset) = value;
}

bool iommu_protects(void)
{
	return protects;
}

int iommu_init(const struct handoff *handoff)
{
	struct iommu_device_entry *devices;
	unsigned int bits =
		handoff->phys_bits < L1_MAX_PHYS_BITS ? handoff->phys_bits : L1_MAX_PHYS_BITS;
	u64 *root;

	if (!handoff->iommus)
		return 0;
	root = dma_tables_build(memory_pool(), bits, memory_holes());
	devices = memory_aligned(IOMMU_DEVICES * sizeof(*devices), PAGE_SIZE);
	if (!root || !devices)
		return -E_NOMEM;
	dma_tables_devices(devices, memory_hpa(root));
	device_table_hpa = memory_hpa(devices);
	for (; count < handoff->iommus; count++) {
		struct iommu *m = &iommus[count];

		m->unit = handoff->iommu[count];
		m->registers = memory_map_mmio(count, m->unit.mmio_hpa);
		m->commands = memory_aligned(IOMMU_QUEUE_BYTES, PAGE_SIZE);
		if (!m->registers || !m->commands)
			return -E_NOMEM;
	}
	return 0;
}

/* False: the IOMMU takes no command any more. */
static bool command(struct iommu *m, u64 q0, u64 q1)
{
	u32 next = (m->tail + IOMMU_QUEUE_ENTRY) % IOMMU_QUEUE_BYTES;

	for (u32 i = 0; (u32)read(m, IOMMU_COMMAND_HEAD) == next; i++) {
		if (i == WAIT_PAUSES)
			return false;
		cpu_pause();
	}
	m->commands[m->tail / 8] = q0;
	m->commands[m->tail / 8 + 1] = q1;
	m->tail = next;
	asm volatile("" : : : "memory");
	write(m, IOMMU_COMMAND_TAIL, next);
	return true;
}

/* Nothing of what it may have cached under the firmware is used; true: done. */
static bool invalidate(struct iommu *m)
{
	bool ok = true;

	if (read(m, IOMMU_FEATURES) & IOMMU_FEATURE_INVALIDATE_ALL) {
		ok = command(m, IOMMU_INVALIDATE_ALL, 0);
	} else {
		for (u64 device = 0; ok && device < IOMMU_DEVICES; device++)
			ok = command(m, IOMMU_INVALIDATE_DEVICE | device, 0);
		ok = ok && command(m,
				   IOMMU_INVALIDATE_PAGES |
					   IOMMU_INVALIDATE_PAGES_DOMAIN(DMA_TABLES_DOMAIN),
				   IOMMU_INVALIDATE_PAGES_ALL);
	}
	completed = 0;
	ok = ok && command(m,
			   IOMMU_COMPLETION_WAIT | memory_hpa((const void *)&completed) |
				   IOMMU_COMPLETION_WAIT_STORE,
			   1);
	for (u32 i = 0; ok && !completed && i < WAIT_PAUSES; i++)
		cpu_pause();
	return ok && completed;
}

/* What the firmware asks for by the IVHD block's flags, which have the order of the control register's bits. */
static u64 control_of(const struct iommu_unit *unit)
{
	u64 control = IOMMU_CONTROL_COHERENT | IOMMU_CONTROL_COMMANDS;

	control |= unit->flags & BIT(0) ? IOMMU_CONTROL_HT_TUNNEL : 0;
	control |= unit->flags & BIT(1) ? IOMMU_CONTROL_PASS_PW : 0;
	control |= unit->flags & BIT(2) ? IOMMU_CONTROL_RES_PASS_PW : 0;
	control |= unit->flags & BIT(3) ? IOMMU_CONTROL_ISOCHRONOUS : 0;
	return control;
}

static bool start(struct iommu *m)
{
	u64 control = control_of(&m->unit);

	write(m, IOMMU_CONTROL, 0);
	write(m, IOMMU_DEVICE_TABLE,
	      device_table_hpa |
		      (IOMMU_DEVICES * sizeof(struct iommu_device_entry) / PAGE_SIZE - 1));
	write(m, IOMMU_COMMAND_BASE, memory_hpa(m->commands) | IOMMU_LENGTH_256);
	write(m, IOMMU_EXCLUSION_BASE, 0);
	write(m, IOMMU_COMMAND_HEAD, 0);
	write(m, IOMMU_COMMAND_TAIL, 0);
	/* commands first, so that its first look at anything is after an invalidation */
	write(m, IOMMU_CONTROL, control);
	write(m, IOMMU_CONTROL, control | IOMMU_CONTROL_ENABLE);
	return invalidate(m);
}

void iommu_start(void)
{
	bool ok = count;

	for (u32 i = 0; ok && i < count; i++) {
		struct iommu *m = &iommus[i];

		ok = start(m);
		log_line(ok ? LOG_INFO : LOG_WARN,
			 "event=iommu unit=%u device=%x registers=%lx+%x features=%lx%s", i,
			 m->unit.segment << 16 | m->unit.device, m->unit.mmio_hpa,
			 m->unit.mmio_bytes, read(m, IOMMU_FEATURES),
			 ok ? "" : " why=\"it does not complete its commands\"");
	}
	for (u32 i = 0; !ok && i < count; i++)
		write(&iommus[i], IOMMU_CONTROL, 0);
	protects = ok;
}

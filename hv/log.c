/* SPDX-License-Identifier: MIT */
#include "hv/log.h"
#include "hv/core/format.h"
#include "hv/cpu.h"
#include "hv/cpus.h"

#define RING_BYTES 65536

static char ring[RING_BYTES];
static u64 written; /* bytes ever */
static enum log_sink sink;
static u32 own_depth;
static bool locked; /* GIF is 0 in L0: who holds it goes on */

/* As long as a line takes at a slow serial port, and longer. */
#define TAKE_OVER_TRIES 10000000u

static const u16 uart_ports[] = {[LOG_COM1] = 0x3f8, [LOG_COM2] = 0x2f8};

#define DEBUGCON_PORT 0xe9
#define UART_LSR 5
#define UART_LSR_THRE 0x20

static void lock(void)
{
	while (__atomic_exchange_n(&locked, true, __ATOMIC_ACQUIRE))
		cpu_pause();
}

static void unlock(void)
{
	__atomic_store_n(&locked, false, __ATOMIC_RELEASE);
}

static void uart_put(u16 port, char c)
{
	/* a machine without this UART reads FFh: ready at once; one that never gets ready loses the byte */
	for (unsigned int tries = 0; tries < 100000; tries++)
		if (cpu_inb((u16)(port + UART_LSR)) & UART_LSR_THRE)
			break;
	cpu_outb(port, (u8)c);
}

static void put(char c)
{
	ring[written++ % RING_BYTES] = c;
	if (sink == LOG_DEBUGCON) {
		cpu_outb(DEBUGCON_PORT, (u8)c);
	} else if (sink != LOG_RING) {
		if (c == '\n')
			uart_put(uart_ports[sink], '\r');
		uart_put(uart_ports[sink], c);
	}
}

void log_init(enum log_sink where)
{
	sink = where <= LOG_DEBUGCON ? where : LOG_RING;
}

void log_set_depth(u32 depth)
{
	own_depth = depth;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"info", "warn", "PANIC"};
	char line[256];
	va_list args;
	size_t n;

	n = format(line, sizeof(line), "tallyvisor: level=%s cpu=%u ", names[level],
		   cpus_this_index());
	if (own_depth > 1)
		n += format(line + n, sizeof(line) - n, "depth=%u ", own_depth);
	va_start(args, fmt);
	format_v(line + n, sizeof(line) - n, fmt, args);
	va_end(args);
	lock();
	for (const char *s = line; *s; s++)
		put(*s);
	put('\n');
	unlock();
}

/* The line of another CPU, which has not stopped yet, is let come to its end; one of this CPU's never does. */
void log_take_over(void)
{
	for (unsigned int i = 0; i < TAKE_OVER_TRIES && __atomic_load_n(&locked, __ATOMIC_RELAXED);
	     i++)
		cpu_pause();
	unlock();
}

size_t log_read(u64 *position, char *buf, size_t n)
{
	size_t copied = 0;

	lock();
	if (written > RING_BYTES && *position < written - RING_BYTES)
		*position = written - RING_BYTES;
	while (copied < n && *position < written)
		buf[copied++] = ring[(*position)++ % RING_BYTES];
	unlock();
	return copied;
}

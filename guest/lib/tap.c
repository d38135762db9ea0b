/* SPDX-License-Identifier: MIT */
#include "guest/lib/tap.h"

#include <stdarg.h>

#include "guest/lib/cpu.h"

#define COM1 0x3f8
#define COM_LINE_STATUS 5
#define COM_TX_EMPTY 0x20

struct print_log print_log;

static struct {
	u32 instance, instances; /* 0 of 0: the only one */
	unsigned int planned, done, failed, skipped;
	const char *skip_reason; /* of the running test */
	bool current_failed;
} tap;

static void put_serial(char c)
{
	/* Bounded: a board without a UART must not hang here. */
	for (unsigned int i = 0; i < 100000 && !(inb(COM1 + COM_LINE_STATUS) & COM_TX_EMPTY); i++)
		;
	outb(COM1, (u8)c);
}

static void put(char c)
{
	if (!tap.instance) {
		if (c == '\n')
			put_serial('\r');
		put_serial(c);
	}
	if (print_log.bytes < sizeof(print_log.text)) {
		print_log.text[print_log.bytes] = c;
		print_log.bytes++;
	}
}

static void put_padded(const char *text, unsigned int bytes, unsigned int width, bool left,
		       char fill)
{
	unsigned int pad = width > bytes ? width - bytes : 0;

	for (; !left && pad; pad--)
		put(fill);
	while (bytes--)
		put(*text++);
	for (; pad; pad--)
		put(' ');
}

static void put_number(u64 v, unsigned int base, bool negative, unsigned int width, bool left,
		       char fill)
{
	char digits[24], *p = digits + sizeof(digits);

	do {
		*--p = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		*--p = '-';
	put_padded(p, (unsigned int)(digits + sizeof(digits) - p), width, left, fill);
}

void vprint(const char *f, va_list args)
{
	for (; *f; f++) {
		bool left = false, is_long = false;
		unsigned int width = 0;
		char fill = ' ';
		s64 n;

		if (*f != '%') {
			put(*f);
			continue;
		}
		for (f++; *f == '-' || *f == '0'; f++) {
			left |= *f == '-';
			fill = *f == '0' ? '0' : fill;
		}
		for (; *f >= '0' && *f <= '9'; f++)
			width = width * 10 + (unsigned int)(*f - '0');
		for (; *f == 'l'; f++)
			is_long = true;
		switch (*f) {
		case 's': {
			const char *s = va_arg(args, const char *);
			unsigned int bytes = 0;

			while (s[bytes])
				bytes++;
			put_padded(s, bytes, width, left, ' ');
			break;
		}
		case 'd':
			n = is_long ? va_arg(args, s64) : va_arg(args, int);
			put_number(n < 0 ? -(u64)n : (u64)n, 10, n < 0, width, left, fill);
			break;
		case 'u':
		case 'x':
			put_number(is_long ? va_arg(args, u64) : va_arg(args, unsigned int),
				   *f == 'x' ? 16 : 10, false, width, left, fill);
			break;
		case 'c':
			put((char)va_arg(args, int));
			break;
		default:
			put(*f);
		}
	}
}

void print(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprint(format, args);
	va_end(args);
}

void note(const char *format, ...)
{
	va_list args;

	print("# ");
	va_start(args, format);
	vprint(format, args);
	va_end(args);
	print("\n");
}

u32 tap_instances(void)
{
	return tap.instances ? tap.instances : 1;
}

void tap_plan(unsigned int tests)
{
	tap.planned = tests;
	/* The firmware may have left the cursor inside a line. */
	if (!tap.instance)
		print("\n1..%u\n", tests * tap_instances());
}

void tap_instance(u32 index, u32 instances)
{
	tap.instance = index;
	tap.instances = instances;
}

bool tap_check(bool ok, const char *what)
{
	if (!ok) {
		note("failed: %s", what);
		tap.current_failed = true;
	}
	return ok;
}

bool tap_equal(u64 got, u64 want, const char *what)
{
	if (got != want) {
		note("%s: got 0x%lx (%lu) want 0x%lx (%lu)", what, got, got, want, want);
		tap.current_failed = true;
	}
	return got == want;
}

void tap_skip(const char *reason)
{
	tap.skip_reason = reason;
}

void tap_run(const char *name, void (*run)(const void *arg), const void *arg)
{
	tap.current_failed = false;
	tap.skip_reason = NULL;
	run(arg);
	tap.done++;
	print("%sok %u - ", tap.current_failed ? "not " : "",
	      tap.instance * tap.planned + tap.done);
	if (tap.instances)
		print("cpu %u: ", tap.instance);
	print("%s", name);
	if (tap.current_failed) {
		tap.failed++;
	} else if (tap.skip_reason) {
		tap.skipped++;
		print(" # SKIP %s", tap.skip_reason);
	}
	print("\n");
}

static void skip_it(const void *reason)
{
	tap_skip(reason);
}

void tap_skip_all(const char *reason)
{
	while (tap.done < tap.planned)
		tap_run("not run", skip_it, reason);
}

enum verdict tap_finish(void)
{
	if (tap.done != tap.planned)
		note("planned %u tests, ran %u", tap.planned, tap.done);
	if (tap.failed || tap.done != tap.planned || !tap.done)
		return VERDICT_FAIL;
	return tap.skipped == tap.done ? VERDICT_SKIP : VERDICT_PASS;
}

void tap_end(void)
{
	print("# end\n");
}

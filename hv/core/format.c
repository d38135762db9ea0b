/* SPDX-License-Identifier: MIT */
#include "hv/core/format.h"

struct out {
	char *buf;
	size_t size, used;
};

static void put(struct out *o, char c)
{
	if (o->used + 1 < o->size)
		o->buf[o->used++] = c;
}

static void put_number(struct out *o, u64 value, unsigned int base, bool negative,
		       unsigned int width, char pad)
{
	char digits[24];
	unsigned int n = 0;

	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	if (negative)
		digits[n++] = '-';
	while (width > n) {
		put(o, pad);
		width--;
	}
	while (n)
		put(o, digits[--n]);
}

size_t format_v(char *buf, size_t size, const char *fmt, va_list args)
{
	struct out o = {buf, size, 0};

	for (; *fmt; fmt++) {
		unsigned int width = 0;
		bool is_long = false;
		char pad = ' ';

		if (*fmt != '%') {
			put(&o, *fmt);
			continue;
		}
		fmt++;
		if (*fmt == '0')
			pad = '0';
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + (unsigned int)(*fmt - '0');
		for (; *fmt == 'l'; fmt++)
			is_long = true;
		switch (*fmt) {
		case 's': {
			const char *s = va_arg(args, const char *);

			while (*s)
				put(&o, *s++);
			break;
		}
		case 'c':
			put(&o, (char)va_arg(args, int));
			break;
		case 'd': {
			s64 value = is_long ? va_arg(args, long) : va_arg(args, int);

			put_number(&o, value < 0 ? 0 - (u64)value : (u64)value, 10, value < 0,
				   width, pad);
			break;
		}
		case 'u':
			put_number(&o,
				   is_long ? va_arg(args, unsigned long)
					   : va_arg(args, unsigned int),
				   10, false, width, pad);
			break;
		case 'x':
			put_number(&o,
				   is_long ? va_arg(args, unsigned long)
					   : va_arg(args, unsigned int),
				   16, false, width, pad);
			break;
		case 0:
			fmt--;
			break;
		default:
			put(&o, *fmt);
		}
	}
	if (size)
		buf[o.used] = 0;
	return o.used;
}

size_t format(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	size_t n;

	va_start(args, fmt);
	n = format_v(buf, size, fmt, args);
	va_end(args);
	return n;
}

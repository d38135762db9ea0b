/* SPDX-License-Identifier: MIT */
#include "client/out.h"
#include "hv/core/format.h"

static void put(struct out *o, const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	o->print(text, n);
}

static void indent(struct out *o, unsigned int columns)
{
	while (columns--)
		o->print(" ", 1);
}

/* ---- JSON ---- */

void out_json_text(struct out *o, const char *text, size_t bytes)
{
	char escaped[8];

	for (size_t i = 0; i < bytes; i++) {
		u8 c = (u8)text[i];

		if (c == '"' || c == '\\') {
			format(escaped, sizeof(escaped), "\\%c", c);
			put(o, escaped);
		} else if (c == '\n') {
			put(o, "\\n");
		} else if (c < 0x20 || c > 0x7e) {
			format(escaped, sizeof(escaped), "\\u%04x", c);
			put(o, escaped);
		} else {
			o->print(text + i, 1);
		}
	}
}

static void json_string(struct out *o, const char *text, size_t bytes)
{
	o->print("\"", 1);
	out_json_text(o, text, bytes);
	o->print("\"", 1);
}

static void json_next(struct out *o, const char *name)
{
	size_t n = 0;

	put(o, o->first ? "\n" : ",\n");
	o->first = false;
	indent(o, 2 * o->depth);
	if (!name)
		return;
	while (name[n])
		n++;
	json_string(o, name, n);
	put(o, ": ");
}

static void json_open(struct out *o, const char *bracket)
{
	put(o, bracket);
	o->depth++;
	o->first = true;
}

static void json_close(struct out *o, const char *bracket)
{
	bool empty = o->first;

	o->depth--;
	o->first = false;
	if (!empty) {
		put(o, "\n");
		indent(o, 2 * o->depth);
	}
	put(o, bracket);
}

/* ---- text ---- */

static size_t length(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

static void cell(struct out *o, const char *name, const char *text, bool number)
{
	size_t n = length(text) + 1;

	/* what has no place is not shown: no table of ours is that large */
	if (o->cells == OUT_CELLS || o->used + n > OUT_POOL_BYTES || o->column == OUT_COLUMNS)
		return;
	if (o->cells == o->column) {
		o->names[o->column] = name;
		o->number[o->column] = number;
		o->columns = o->column + 1;
	}
	__builtin_memcpy(o->pool + o->used, text, n);
	o->cell[o->cells++] = o->used;
	o->used += (u32)n;
	o->column++;
}

static void print_cell(struct out *o, unsigned int column, const char *text, size_t width)
{
	size_t pad = width - length(text);

	put(o, column ? "  " : "");
	if (o->number[column])
		indent(o, (unsigned int)pad);
	put(o, text);
	if (!o->number[column] && column + 1 < o->columns)
		indent(o, (unsigned int)pad);
}

static void print_table(struct out *o)
{
	unsigned int columns = o->columns; /* print_cell() leaves it as it is */
	size_t width[OUT_COLUMNS] = {0};

	if (!columns)
		return;
	for (unsigned int c = 0; c < columns; c++) {
		width[c] = length(o->names[c]);
		for (unsigned int i = c; i < o->cells; i += columns)
			if (length(o->pool + o->cell[i]) > width[c])
				width[c] = length(o->pool + o->cell[i]);
	}
	put(o, "\n");
	for (unsigned int c = 0; c < columns; c++)
		print_cell(o, c, o->names[c], width[c]);
	put(o, "\n");
	for (unsigned int i = 0; i < o->cells; i++) {
		unsigned int c = i % columns;

		print_cell(o, c, o->pool + o->cell[i], width[c]);
		if (c + 1 == columns)
			put(o, "\n");
	}
}

/* Fields outside of a table wait for their names' common width. */
static void print_fields(struct out *o)
{
	size_t width = 0;

	for (unsigned int i = 0; i < o->cells; i += 2)
		if (length(o->pool + o->cell[i]) > width)
			width = length(o->pool + o->cell[i]);
	for (unsigned int i = 0; i + 1 < o->cells; i += 2) {
		const char *name = o->pool + o->cell[i];

		put(o, name);
		indent(o, (unsigned int)(width - length(name) + 2));
		put(o, o->pool + o->cell[i + 1]);
		put(o, "\n");
	}
}

static void clear(struct out *o)
{
	o->cells = o->used = o->columns = o->column = 0;
}

/* ---- what callers see ---- */

void out_begin(struct out *o, bool json, void (*print)(const char *text, size_t bytes))
{
	o->json = json;
	o->print = print;
	o->depth = 0;
	o->in_table = false;
	clear(o);
	if (json)
		json_open(o, "{");
}

void out_end(struct out *o)
{
	if (o->json) {
		json_close(o, "}");
		put(o, "\n");
	} else {
		print_fields(o);
		clear(o);
	}
}

void out_table(struct out *o, const char *name)
{
	if (o->json) {
		json_next(o, name);
		json_open(o, "[");
		return;
	}
	print_fields(o);
	clear(o);
	o->in_table = true;
}

void out_row(struct out *o)
{
	o->column = 0;
	if (o->json) {
		json_next(o, NULL);
		json_open(o, "{");
	}
}

void out_row_end(struct out *o)
{
	if (o->json)
		json_close(o, "}");
}

void out_table_end(struct out *o)
{
	if (o->json) {
		json_close(o, "]");
		return;
	}
	if (o->cells)
		print_table(o);
	clear(o);
	o->in_table = false;
}

static void field(struct out *o, const char *name, const char *text, bool number)
{
	if (o->json) {
		json_next(o, name);
		put(o, text);
	} else if (o->in_table) {
		cell(o, name, text, number);
	} else {
		o->column = 0;
		cell(o, "", name, false);
		cell(o, "", text, false);
	}
}

void out_u64(struct out *o, const char *name, u64 value)
{
	char text[24];

	format(text, sizeof(text), "%lu", value);
	field(o, name, text, true);
}

void out_hex(struct out *o, const char *name, u64 value)
{
	char text[24];

	format(text, sizeof(text), o->json ? "%lu" : "0x%lx", value);
	field(o, name, text, true);
}

void out_bool(struct out *o, const char *name, bool value)
{
	field(o, name, o->json ? value ? "true" : "false" : value ? "yes" : "no", false);
}

void out_text(struct out *o, const char *name, const char *value)
{
	if (o->json) {
		json_next(o, name);
		json_string(o, value, length(value));
	} else {
		field(o, name, value[0] ? value : "-", false);
	}
}

void out_bits(struct out *o, const char *name, u64 value)
{
	char text[200];
	size_t n = 0;

	if (o->json) {
		out_u64(o, name, value);
		return;
	}
	text[0] = '\0';
	for (unsigned int bit = 0; bit < 64; bit++)
		if (value & BIT(bit))
			n += format(text + n, sizeof(text) - n, n ? " %u" : "%u", bit);
	out_text(o, name, text);
}

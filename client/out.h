/* SPDX-License-Identifier: MIT */
/*
 * One description of what is to be said, two renderings: JSON, or text for a person. In text, fields outside of a table
 * are lines "name   value", and a table has a line for each row and the fields' names on top.
 */
#ifndef CLIENT_OUT_H
#define CLIENT_OUT_H

#include "types.h"

#define OUT_POOL_BYTES 65536
#define OUT_CELLS 4096
#define OUT_COLUMNS 24

struct out {
	bool json;
	void (*print)(const char *text, size_t bytes);
	unsigned int depth; /* of JSON */
	bool first;	    /* nothing yet at this depth */

	/* text: what is not printed yet, because its width is not known */
	bool in_table;
	unsigned int columns; /* of the first row */
	unsigned int column;  /* of this row */
	unsigned int cells, used;
	const char *names[OUT_COLUMNS];
	bool number[OUT_COLUMNS];
	u32 cell[OUT_CELLS]; /* offsets into pool[] */
	char pool[OUT_POOL_BYTES];
};

void out_begin(struct out *o, bool json, void (*print)(const char *text, size_t bytes));
void out_end(struct out *o);

void out_table(struct out *o, const char *name);
void out_row(struct out *o);
void out_row_end(struct out *o);
void out_table_end(struct out *o);

void out_u64(struct out *o, const char *name, u64 value);
/* In JSON a number, in text 0x... */
void out_hex(struct out *o, const char *name, u64 value);
void out_bool(struct out *o, const char *name, bool value);
void out_text(struct out *o, const char *name, const char *value);
/* The bits of a word that are set, as their numbers: in JSON the word, in text "1 4". */
void out_bits(struct out *o, const char *name, u64 value);

/* The inside of a JSON string. Bytes above 7Eh are taken for ISO 8859-1. Needs out->print only. */
void out_json_text(struct out *o, const char *text, size_t bytes);

#endif

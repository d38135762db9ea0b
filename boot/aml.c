/* SPDX-License-Identifier: MIT */
#include "boot/aml.h"

#define AML_NAME_OP 0x08
#define AML_PACKAGE_OP 0x12
#define AML_ROOT '\\'

static bool is_sleep_name(const u8 *at, char state)
{
	return at[0] == '_' && at[1] == 'S' && at[2] == (u8)state && at[3] == '_';
}

/* An integer constant; moves *at behind it. Larger ones are no SLP_TYP, and cut. */
static bool read_integer(const u8 **at, const u8 *end, u8 *value)
{
	u8 op = **at;
	/* ByteConst, WordConst, DWordConst, QWordConst */
	size_t bytes = op == 0x0a ? 1 : op == 0x0b ? 2 : op == 0x0c ? 4 : op == 0x0e ? 8 : 0;

	if (op > 1 && !bytes)
		return false; /* not ZeroOp or OneOp: computed when it runs */
	if ((size_t)(end - *at) <= bytes)
		return false;
	*value = bytes ? (*at)[1] : op;
	*at += 1 + bytes;
	return true;
}

/* Name (\_Sn_, Package () { a, b, ... }) behind its name. */
static bool read_package(const u8 *at, const u8 *end, u8 types[2])
{
	if (end - at < 6 || *at++ != AML_PACKAGE_OP)
		return false;
	at += 1 + (*at >> 6); /* PkgLength: the two highest bits say how many bytes follow */
	at++;		      /* NumElements */
	return at < end && read_integer(&at, end, &types[0]) && at < end &&
	       read_integer(&at, end, &types[1]);
}

bool aml_sleep_types(const u8 *aml, size_t bytes, char state, u8 types[2])
{
	for (size_t i = 1; i + 4 <= bytes; i++)
		if (is_sleep_name(aml + i, state) &&
		    (aml[i - 1] == AML_NAME_OP ||
		     (i > 1 && aml[i - 1] == AML_ROOT && aml[i - 2] == AML_NAME_OP)) &&
		    read_package(aml + i + 4, aml + bytes, types))
			return true;
	return false;
}

unsigned int aml_hide_sleep_state(u8 *aml, size_t bytes, char state)
{
	unsigned int found = 0;

	for (size_t i = 0; i + 4 <= bytes; i++) {
		if (!is_sleep_name(aml + i, state))
			continue;
		aml[i] = 'X'; /* the other bytes stay: its length must not change */
		found++;
	}
	return found;
}

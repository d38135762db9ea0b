/* SPDX-License-Identifier: MIT */
/* What the client would print, as one text. */
#ifndef TALLY_TEST_SAID_H
#define TALLY_TEST_SAID_H

#include <string.h>

#include "client/out.h"
#include "test.h"

static char said[1 << 20];
static size_t said_bytes;
static struct out out;

static void say(const char *text, size_t bytes)
{
	CHECK(said_bytes + bytes < sizeof(said));
	memcpy(said + said_bytes, text, bytes);
	said_bytes += bytes;
	said[said_bytes] = '\0';
}

#endif

/* SPDX-License-Identifier: MIT */
/* Names of numbers. */
#ifndef CLIENT_NAMES_H
#define CLIENT_NAMES_H

#include "types.h"

#define NAME_BYTES 32

const char *backend_name(u32 backend);
const char *level_name(u32 level);
/* Of a VMCB's exit code, in the manual's spelling. */
void exit_code_name(char name[NAME_BYTES], u64 code);
/* What a selector counts, for a person: "C0h instructions". */
void event_name(char name[NAME_BYTES], u64 eventsel);
/* A selector's other bits: "USR OS EN GuestOnly". */
void selector_flags(char text[2 * NAME_BYTES], u64 eventsel);

#endif

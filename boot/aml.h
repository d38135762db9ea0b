/* SPDX-License-Identifier: MIT */
/* What of ACPI's byte code matters here: the packages \_S1_ to \_S5_ (ACPI specification 6.5, §7.4.2 and §20.2). */
#ifndef TALLY_BOOT_AML_H
#define TALLY_BOOT_AML_H

#include "types.h"

/* The values for SLP_TYP in PM1a_CNT and PM1b_CNT of the sleep state '1' to '5'; false if the code does not name it. */
bool aml_sleep_types(const u8 *aml, size_t bytes, char state, u8 types[2]);

/* Gives the state's package a name that no OS asks for. The number of places that had the old one. */
unsigned int aml_hide_sleep_state(u8 *aml, size_t bytes, char state);

#endif

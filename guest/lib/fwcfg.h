/* SPDX-License-Identifier: MIT */
/* A file that the person who starts QEMU hands to the guest: -fw_cfg name=opt/...,file=... */
#ifndef GUEST_FWCFG_H
#define GUEST_FWCFG_H

#include "types.h"

/* Reads at most `bytes` of the file into `to`. Returns how many, 0 if there is no such file or no QEMU. */
u64 fwcfg_read(const char *name, char *to, u64 bytes);

#endif

/* SPDX-License-Identifier: MIT */
/* The client of include/abi/hypercall.h, less the system that it runs on. */
#ifndef CLIENT_TALLY_H
#define CLIENT_TALLY_H

#include "abi/hypercall.h"
#include "types.h"

enum tally_exit_status {
	TALLY_EXIT_OK = 0,
	TALLY_EXIT_ERROR = 1,
	TALLY_EXIT_USAGE = 2,
	TALLY_EXIT_ABSENT = 3, /* not under Tallyvisor */
};

/* argv[0] is not looked at. */
int tally_main(unsigned int argc, const char *const *argv);

/* The head of a trace's file; struct tally_trace_record from header_bytes on to its end. */
struct tally_trace_file {
	char magic[8]; /* TALLY_TRACE_MAGIC, without its 0 */
	u32 version;   /* TALLY_ABI_VERSION */
	u32 header_bytes;
	u32 record_bytes;
	u32 backend; /* enum tally_backend */
	u64 reserved;
};

#define TALLY_TRACE_MAGIC "TALLYTRC"

#endif

/* SPDX-License-Identifier: MIT */
#include "client/names.h"
#include "abi/hypercall.h"
#include "hv/core/format.h"
#include "x86/pmu.h"
#include "x86/svm.h"

const char *backend_name(u32 backend)
{
	switch (backend) {
	case TALLY_BACKEND_OFF:
		return "off";
	case TALLY_BACKEND_GUEST_ONLY:
		return "guest-only";
	case TALLY_BACKEND_CLOCK:
		return "clock";
	default:
		return "unknown";
	}
}

const char *level_name(u32 level)
{
	static const char *const names[TALLY_LEVELS] = {"L1 SVME=0", "L1", "L2"};

	return level < TALLY_LEVELS ? names[level] : "unknown";
}

void exit_code_name(char name[NAME_BYTES], u64 code)
{
	static const struct {
		u64 first, end;
		const char *format;
	} ranges[] = {
		{0x00, 0x10, "CR%u_READ"},    {0x10, 0x20, "CR%u_WRITE"},
		{0x20, 0x30, "DR%u_READ"},    {0x30, 0x40, "DR%u_WRITE"},
		{0x40, 0x60, "EXCEPTION_%u"}, {0x90, 0xa0, "CR%u_WRITE_TRAP"},
	};
	static const struct {
		u64 code;
		const char *name;
	} names[] = {
#define X(number, text) {number, #text},
		SVM_EXIT_LIST(X)
#undef X
			{VMEXIT_INVALID, "INVALID"},
		{VMEXIT_BUSY, "BUSY"},
		{VMEXIT_IDLE_REQUIRED, "IDLE_REQUIRED"},
		{VMEXIT_INVALID_PMC, "INVALID_PMC"},
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		if (names[i].code == code) {
			format(name, NAME_BYTES, "%s", names[i].name);
			return;
		}
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (code >= ranges[i].first && code < ranges[i].end) {
			format(name, NAME_BYTES, ranges[i].format, (u32)(code - ranges[i].first));
			return;
		}
	}
	format(name, NAME_BYTES, "0x%lx", code);
}

void event_name(char name[NAME_BYTES], u64 eventsel)
{
	u32 event = EVTSEL_EVENT(eventsel), unit = (u32)(eventsel & EVTSEL_UMASK) >> 8;
	const char *text = event == EVENT_RETIRED_INSTRUCTIONS	  ? "instructions"
			   : event == EVENT_CYCLES_NOT_HALTED	  ? "cycles"
			   : event == EVENT_RETIRED_BRANCHES	  ? "branches"
			   : event == EVENT_RETIRED_FAR_TRANSFERS ? "far transfers"
								  : NULL;

	if (text && !unit)
		format(name, NAME_BYTES, "%s", text);
	else
		format(name, NAME_BYTES, "event %03x unit %02x", event, unit);
}

void selector_flags(char text[2 * NAME_BYTES], u64 eventsel)
{
	static const struct {
		u64 bit;
		const char *name;
	} flags[] = {
		{EVTSEL_USR, "USR"},	     {EVTSEL_OS, "OS"},		{EVTSEL_EDGE, "EDGE"},
		{EVTSEL_INT, "INT"},	     {EVTSEL_EN, "EN"},		{EVTSEL_INV, "INV"},
		{EVTSEL_GUESTONLY, "Guest"}, {EVTSEL_HOSTONLY, "Host"},
	};
	u32 mask = (u32)((eventsel & EVTSEL_CMASK) >> 24);
	size_t n = 0;

	text[0] = '\0';
	for (unsigned int i = 0; i < ARRAY_SIZE(flags); i++)
		if (eventsel & flags[i].bit)
			n += format(text + n, 2ul * NAME_BYTES - n, n ? " %s" : "%s",
				    flags[i].name);
	if (mask)
		format(text + n, 2ul * NAME_BYTES - n, n ? " CMASK=%u" : "CMASK=%u", mask);
}

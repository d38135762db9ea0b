/* SPDX-License-Identifier: MIT */
#include "boot/filter.h"

#include "x86/pmu.h"

#define UMASK_MAX 0xffu

/* The rest of a text. */
struct rest {
	const char *at, *end;
};

static bool take(struct rest *r, char c)
{
	if (r->at == r->end || *r->at != c)
		return false;
	r->at++;
	return true;
}

static bool take_word(struct rest *r, const char *word)
{
	struct rest begun = *r;

	for (; *word; word++) {
		if (!take(r, *word)) {
			*r = begun;
			return false;
		}
	}
	return true;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A hexadecimal number, at least one digit, at most `max`. */
static bool take_hex(struct rest *r, u32 max, u32 *value)
{
	const char *start = r->at;

	for (*value = 0; r->at < r->end && digit(*r->at) >= 0; r->at++) {
		*value = *value << 4 | (u32)digit(*r->at);
		if (*value > max)
			return false;
	}
	return r->at > start;
}

/* NULL, or what is wrong. */
static const char *parse_entry(struct tally_filter_entry *entry, struct rest r)
{
	static const char form[] = "is not [-]EVENT[/UMASK[:MASK]] in hexadecimal";
	bool exclude = take(&r, '-');
	u32 event, umask = 0, mask = 0;

	if (!take_hex(&r, EVTSEL_EVENT_MAX, &event))
		return form;
	if (take(&r, '/')) {
		mask = UMASK_MAX;
		if (!take_hex(&r, UMASK_MAX, &umask) ||
		    (take(&r, ':') && !take_hex(&r, UMASK_MAX, &mask)))
			return form;
	}
	if (r.at < r.end)
		return form;
	if (umask & ~mask)
		return "matches nothing: UMASK has bits that MASK has not";
	*entry = (struct tally_filter_entry){(u16)event, (u8)mask, (u8)umask,
					     exclude ? TALLY_FILTER_EXCLUDE : 0};
	return NULL;
}

bool filter_parse(struct tally_filter *filter, const char *text, size_t bytes,
		  struct filter_problem *problem)
{
	struct rest r = {text, text + bytes}, entry;
	struct tally_filter parsed = {.version = TALLY_FILTER_VERSION};

	*problem = (struct filter_problem){text, bytes, "is not off, allow:LIST or deny:LIST"};
	if (take_word(&r, "off") && r.at == r.end) {
		*filter = parsed;
		return true;
	}
	if (take_word(&r, "allow:"))
		parsed.action = TALLY_FILTER_ALLOW;
	else if (take_word(&r, "deny:"))
		parsed.action = TALLY_FILTER_DENY;
	else
		return false;
	do {
		for (entry = r; r.at < r.end && *r.at != ',';)
			r.at++;
		entry.end = r.at;
		*problem = (struct filter_problem){entry.at, (size_t)(entry.end - entry.at), NULL};
		problem->text = parsed.count == TALLY_FILTER_MAX
					? "is more than the 64 entries that there can be"
					: parse_entry(&parsed.entry[parsed.count++], entry);
		if (problem->text)
			return false;
	} while (take(&r, ','));
	*filter = parsed;
	return true;
}

/* SPDX-License-Identifier: MIT */
#include "client/words.h"
#include "types.h"

unsigned int words_split(char *line, const char **words, unsigned int max)
{
	unsigned int count = 0;
	char *to = line;
	bool quoted = false, inside = false;

	for (const char *from = line;; from++) {
		const char c = *from; /* `to` may be here */

		if (inside && (!c || (c == ' ' && !quoted))) {
			*to++ = '\0';
			inside = false;
		}
		if (!c)
			return count;
		if (c == ' ' && !quoted)
			continue;
		if (!inside) {
			if (count == max)
				return count;
			words[count++] = to;
			inside = true;
		}
		if (c == '"')
			quoted = !quoted;
		else
			*to++ = c;
	}
}

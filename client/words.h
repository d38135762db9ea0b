/* SPDX-License-Identifier: MIT */
#ifndef CLIENT_WORDS_H
#define CLIENT_WORDS_H

/* Splits a line in its place at its blanks; quotes keep blanks in a word. Returns the number of words, at most `max`; what
 * is behind them is left out. */
unsigned int words_split(char *line, const char **words, unsigned int max);

#endif

# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced. Decides from a run's logs and exit status how a guest came out:
#
#   CRASH > HANG > FAIL > SKIP > PASS
#
# Good news must be exact (whole lines, each test once, end mark, matching status); bad news counts
# wherever it stands, so noise on the line can spoil a PASS but never make one.

# run-qemu's statuses: what our guests write to the debug-exit port, and timeout's own.
STATUS_PASS=33
STATUS_FAIL=35
STATUS_SKIP=37
STATUS_TIMEOUT=124

# The firmware's exception dump (it then loops for ever) and our own panic page.
CRASH_TEXT='X64 Exception Type|PANIC'

# log_lines FILE...: the text without terminal control. What moves the cursor ends a line, because
# firmware positions its text where a guest would print a newline.
log_lines() {
	local esc=$'\e' file
	for file in "$@"; do
		[[ -e $file ]] || continue
		LC_ALL=C tr -d '\000' <"$file" | LC_ALL=C tr '\r' '\n' | LC_ALL=C sed -E \
			-e "s/$esc\\[[0-9;?=]*[ABCDEFGHJKf]/\\n/g" -e "s/$esc\\[[0-9;?=]*[a-zA-Z]//g" -e 's/[ \t]+$//'
		echo
	done
}

# verdict STATUS SERIAL DEBUGCON: prints the verdict and, after a space, its reason.
verdict() {
	local status=$1 serial=$2 debugcon=$3 text
	# Not a pipe: grep ends at its first match, and the writer's broken pipe would then count as "no".
	text=$(log_lines "$debugcon" "$serial")
	if text=$(LC_ALL=C grep -aE -m1 "$CRASH_TEXT" <<<"$text"); then
		echo "CRASH $text"
		return
	fi
	log_lines "$serial" | LC_ALL=C awk -v status="$status" -v s_pass="$STATUS_PASS" \
		-v s_fail="$STATUS_FAIL" -v s_skip="$STATUS_SKIP" -v s_timeout="$STATUS_TIMEOUT" '
		/^1\.\.[0-9]+( # SKIP.*)?$/ {
			plans++
			planned = substr($1, 4) + 0
			next
		}
		/^# end$/ { ended++; next }
		/not ok/ && !/^#/ {
			bad++
			if (bad == 1)
				first_bad = substr($0, index($0, "not ok"))
			if (!match($0, /^not ok [0-9]+/))
				next
			number = $3 + 0
		}
		/^ok [0-9]+/ {
			number = $2 + 0
			if ($0 ~ /# SKIP/)
				skipped++
		}
		/^(not )?ok [0-9]+/ {
			if (!plans)
				early++
			if (ended)
				late++
			if (seen[number]++)
				twice = twice ? twice : number
			else if (number >= 1 && number <= planned)
				done++
			else
				outside = outside ? outside : number
		}
		function out(result, reason) {
			print result (reason == "" ? "" : " " reason)
			exit
		}
		END {
			normal = status == s_pass || status == s_fail || status == s_skip
			if (!normal && status != s_timeout)
				out("CRASH", "QEMU ended by itself, status " status \
					(plans ? "" : ", before the plan line"))
			if (status == s_timeout)
				out("HANG", !plans ? "timed out before the plan line" : \
					"timed out after " (done + 0) " of " planned " tests")
			if (!plans)
				out("CRASH", "no plan line, status " status)
			if (!ended)
				out("CRASH", "no end mark after " (done + 0) " of " planned " tests, status " status)
			if (bad)
				out("FAIL", bad " of " planned ", first: " first_bad)
			if (plans > 1 || ended > 1)
				out("FAIL", "ran more than once: " plans " plan lines, " ended " end marks")
			if (early || late)
				out("FAIL", "a result outside of the plan line and the end mark")
			if (twice)
				out("FAIL", "test " twice " reported twice")
			if (outside != "")
				out("FAIL", "test " outside " is not in the plan 1.." planned)
			if (done != planned)
				out("FAIL", "only " (done + 0) " of " planned " planned tests reported")
			if (status == s_fail)
				out("FAIL", "status " status " although no test says not ok")
			all_skipped = skipped + 0 == planned
			if (all_skipped != (status == s_skip))
				out("FAIL", "status " status " with " (skipped + 0) " of " planned " tests skipped")
			if (all_skipped)
				out("SKIP", "all " planned " tests skipped")
			out("PASS", planned " tests" (skipped ? ", " skipped " of them skipped" : ""))
		}'
}

# missing_texts SERIAL DEBUGCON REGEX...: prints each regex that no line matches; fails if there is one.
missing_texts() {
	local serial=$1 debugcon=$2 regex text status=0
	shift 2
	text=$(log_lines "$serial" "$debugcon")
	for regex in "$@"; do
		LC_ALL=C grep -aqE -e "$regex" <<<"$text" && continue
		echo "/$regex/"
		status=1
	done
	return $status
}

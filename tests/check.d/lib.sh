# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the checks share. Sourced from the top of the tree; O names the build directory.
set -euo pipefail

findings=0

# finding TEXT...: one line, "file:line: what is wrong; what to do".
finding() {
	echo "$*"
	findings=$((findings + 1))
}

# report TEXT: each of its lines is a finding.
report() {
	local line
	[[ -n $1 ]] || return 0
	while IFS= read -r line; do
		finding "$line"
	done <<<"$1"
}

# finish TEXT...: ends the check; TEXT says what was looked at.
finish() {
	((findings == 0)) || exit 1
	echo "$*"
	exit 0
}

need() {
	type -P "$1" >/dev/null || { echo "$1 is missing: tools/setup check"; exit 1; }
}

# files PATTERN...: the project's files that git knows or would add, and that exist. Fails if none.
files() {
	local all file found=0
	all=$(git ls-files --cached --others --exclude-standard -- "$@")
	while IFS= read -r file; do
		[[ -f $file ]] || continue
		found=1
		echo "$file"
	done <<<"$all"
	((found)) || { echo "no file matches: $*" >&2; return 1; }
}

# scripts: the files above that are shell scripts, run or sourced.
scripts() {
	local list file first
	list=$(files .)
	while IFS= read -r file; do
		IFS= read -r first <"$file" 2>/dev/null || true
		case $file,$first in
		*.sh,* | *,'#!'*sh) echo "$file" ;;
		esac
	done <<<"$list"
}

# object_dir CC: where `build` puts what that compiler makes.
object_dir() { echo "$O/check-$1"; }

# build CC TARGET...: an ordinary make with that compiler, into its own directory. The compiler's
# warnings are errors; those of the assembler and the linker are not, and count here.
build() {
	local cc=$1 dir output
	shift
	need "$cc"
	dir=$(object_dir "$cc")
	if ! output=$(make -j"$(nproc)" CC="$cc" O="$dir" "$@" 2>&1) ||
		[[ $output == *[Ww]'arning: '* ]]; then
		# or the next run would find everything built, and no warning
		rm -rf "$dir"
		output=$(grep -vE '^  (CC|ASM|LD|EFI) |is up to date' <<<"$output" || true)
		echo "CC=$cc:"
		echo "$output"
		return 1
	fi
}

# disassemble FILE...: one line per instruction, "file:line (function) <tab> instruction", without
# its prefixes. Left out are padding, which has prefixes of its own, and what is in front of the
# first function ("function-0x40"): data that linker.ld put there.
disassemble() {
	objdump -d -l -w --no-show-raw-insn "$@" | awk -v top="$PWD/" '
		/^[0-9a-f]+ <.*>:$/ {
			name = $2
			gsub(/[<>:]/, "", name)
			place = file
		}
		/: +file format / {
			file = $1
			sub(/:$/, "", file)
			place = file
		}
		/^[^ ].*:[0-9]+( \(discriminator [0-9]+\))?$/ {
			place = $1
			if (index(place, top) == 1)
				place = substr(place, length(top) + 1)
			sub(/^\.\//, "", place)
		}
		/^ +[0-9a-f]+:\t/ {
			sub(/^ +[0-9a-f]+:\t/, "")
			while ($1 ~ /^(lock|rep|repn?z|data16|addr32|[cdefgs]s|notrack|bnd|rex.*)$/ && NF > 1)
				sub(/^[^ ]+ +/, "")
			if ($1 !~ /^nop/ && name !~ /-0x/)
				print place " (" name ")\t" $0
		}'
}

# defined FILE...: the global symbols that these define.
defined() { nm -g --defined-only "$@" | awk 'NF == 3 { print $3 }'; }

# undefined KNOWN OBJECT...: "file:line: foreign symbol NAME" for what these use and KNOWN does not list.
# The GOT is the linker's.
undefined() {
	local known=$1
	shift
	nm -u -l -A "$@" | awk -v top="$PWD/" -v known="$known _GLOBAL_OFFSET_TABLE_" '
		BEGIN {
			n = split(known, word, /[ \n]+/)
			for (i = 1; i <= n; i++)
				is_known[word[i]] = 1
		}
		NF >= 3 && !($3 in is_known) {
			place = NF > 3 ? $4 : $1
			if (index(place, top) == 1)
				place = substr(place, length(top) + 1)
			sub(/:$/, "", place)
			print place ": foreign symbol " $3
		}'
}

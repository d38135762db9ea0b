# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced. Finds the emulator and its firmware.
#
#   qemu_env      sets QEMU, OVMF_CODE and OVMF_VARS (exported), or says in one line what is
#                 missing and returns 1. The environment's QEMU= (a program) and OVMF= (a CODE fd
#                 file, or the folder that has it) win over what is installed.

#   ovmf_secure   the same for firmware with Secure Boot on: sets OVMF_CODE and OVMF_VARS
#   secure_boot_key FOLDER   writes the key that this firmware trusts: FOLDER/key.pem and cert.pem
#   sign_efi KEY CERT FROM TO   TO is the program FROM, signed; or prints why not, and returns 1

QEMU_MIN_MAJOR=10
QEMU_WHY="the SVM emulation of older versions fails basic interrupt tests"

# Debian and Ubuntu, their older 2 MB build, Fedora, Arch.
OVMF_DIRS=(/usr/share/OVMF /usr/share/edk2/ovmf /usr/share/edk2/x64)
OVMF_NAMES=(OVMF_CODE_4M.fd OVMF_CODE.4m.fd OVMF_CODE.fd)

# qemu_major PROGRAM: prints its major version; fails if it does not run or is no QEMU.
qemu_major() {
	local text
	text=$("$1" --version 2>/dev/null) || return 1
	[[ $text =~ version\ ([0-9]+)\. ]] || return 1
	echo "${BASH_REMATCH[1]}"
}

# ovmf_code_in FOLDER: prints the path of the CODE image in it.
ovmf_code_in() {
	local name
	for name in "${OVMF_NAMES[@]}"; do
		if [[ -r $1/$name ]]; then
			echo "$1/$name"
			return 0
		fi
	done
	return 1
}

# ovmf_find: prints the path of the CODE image to use.
ovmf_find() {
	local dir
	if [[ -n ${OVMF:-} ]]; then
		if [[ -d $OVMF ]]; then
			ovmf_code_in "$OVMF"
			return
		fi
		[[ -r $OVMF ]] && echo "$OVMF"
		return
	fi
	for dir in "${OVMF_DIRS[@]}"; do
		ovmf_code_in "$dir" && return 0
	done
	return 1
}

qemu_env() {
	local major
	QEMU=${QEMU:-qemu-system-x86_64}
	if ! command -v "$QEMU" >/dev/null; then
		echo "no $QEMU here: run tools/setup qemu, or set QEMU= to a QEMU >= $QEMU_MIN_MAJOR" >&2
		return 1
	fi
	if ! major=$(qemu_major "$QEMU"); then
		echo "$QEMU --version does not answer as a QEMU does: set QEMU= to a QEMU >= $QEMU_MIN_MAJOR" >&2
		return 1
	fi
	if ((major < QEMU_MIN_MAJOR)); then
		echo "$QEMU is version $major, $QEMU_MIN_MAJOR or newer is needed ($QEMU_WHY):" \
			"run tools/setup qemu, or set QEMU=" >&2
		return 1
	fi
	if ! OVMF_CODE=$(ovmf_find); then
		echo "no OVMF firmware ${OVMF:+at OVMF=$OVMF}: run tools/setup qemu, or set OVMF= to" \
			"an OVMF_CODE fd file or its folder" >&2
		return 1
	fi
	# Every packager names the pair by the same rule.
	OVMF_VARS=${OVMF_CODE%/*}/$(basename "${OVMF_CODE/CODE/VARS}")
	OVMF_VARS=${OVMF_VARS/.secboot/}
	if [[ $OVMF_VARS == "$OVMF_CODE" || ! -r $OVMF_VARS ]]; then
		echo "no variable store next to $OVMF_CODE (expected $OVMF_VARS): set OVMF= to a split build" >&2
		return 1
	fi
	export QEMU OVMF_CODE OVMF_VARS
}

# Debian's and Ubuntu's package has variables with the platform key, and all others, set to one whose private half comes
# with it, for just this use.
ovmf_secure() {
	OVMF_CODE=${OVMF_CODE%/*}/OVMF_CODE_4M.secboot.fd
	OVMF_VARS=${OVMF_CODE%/*}/OVMF_VARS_4M.snakeoil.fd
	if [[ ! -r $OVMF_CODE || ! -r $OVMF_VARS ]]; then
		echo "no firmware with Secure Boot: ${OVMF_CODE%/*} has no ${OVMF_CODE##*/} and" \
			"${OVMF_VARS##*/}, as Debian's and Ubuntu's package ovmf does" >&2
		return 1
	fi
	export OVMF_CODE OVMF_VARS
}

secure_boot_key() {
	local from=/usr/share/ovmf/PkKek-1-snakeoil
	[[ -r $from.key && -r $from.pem ]] || { echo "$from.key is not there: tools/setup qemu" >&2; return 1; }
	openssl rsa -in "$from.key" -passin pass:snakeoil -out "$1/key.pem" 2>/dev/null &&
		cp "$from.pem" "$1/cert.pem"
}

sign_efi() {
	local said
	said=$(sbsign --key "$1" --cert "$2" --output "$4" "$3" 2>&1) || { tail -n 1 <<<"$said"; return 1; }
}

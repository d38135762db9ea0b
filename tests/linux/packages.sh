# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced, with $root and $suite set. Gets packages of the distribution without installing them, and
# packs initramfs images from them. $O is the build folder, its default is $root/build.

: "${root:?}" "${suite:?}"
# modinfo is not in every user's path.
PATH=$PATH:/usr/sbin:/sbin
images=$(readlink -m "${O:-$root/build}/linux")

say() { echo "$suite: $*"; }
die() { echo "$suite: $*" >&2; exit 1; }

# Options of apt-get and apt-cache, see use_suite().
apt=()

# use_suite SUITE: from now on packages come from this suite of Debian's archive, and from no other. The
# machine's own apt does not hear of it.
use_suite() {
	local state=$images/apt-$1 codename uri
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016  # apt's variables
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | sed -n 1p)
	[[ -n $uri ]] || die "apt has no archive of $codename: run apt-get update"
	mkdir -p "$state"/{lists,cache/archives}/partial
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $1 main" >"$state/sources.list"
	apt=(-o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache")
	apt-get -qq "${apt[@]}" update 2>"$state/log" || die "no packages of $1 ($(tail -n 1 "$state/log"))"
}

# unpack PACKAGE FOLDER: fetches PACKAGE, unless it was before, and unpacks it over FOLDER.
unpack() {
	local version deb
	version=$(apt-cache "${apt[@]}" show --no-all-versions "$1" | awk '$1 == "Version:" { print $2 }')
	deb=$images/deb/${1}_${version//:/%3a}_amd64.deb
	mkdir -p "$images/deb"
	if [[ ! -s $deb ]]; then
		say "downloading $1 $version"
		rm -f "$images/deb/$1"_*.deb
		# apt-get names the file by the same rule as above, but only into the current folder.
		# It warns that root's folders are closed to its sandbox user; the download is the same.
		(cd "$images/deb" && apt-get -qq "${apt[@]}" download "$1=$version" 2>"$images/deb/log") ||
			die "cannot download $1 $version ($(tail -n 1 "$images/deb/log")): run apt-get update"
	fi
	dpkg-deb -x "$deb" "$2" || die "$deb is damaged: remove it and try again"
}

# add_program FILE NAME FOLDER: as bin/NAME, with its shared libraries and their loader, each at the
# path where it will be looked for. ldd prints `name => path (address)`, the loader as `path (address)`.
add_program() {
	local lib
	install -m 755 "$1" "$3/bin/$2"
	while read -r lib; do
		install -D -m 755 "$lib" "$3$lib"
	done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*')
}

# perf_binary: prints the path of the real program; Ubuntu's /usr/bin/perf is a script.
perf_binary() {
	local file
	for file in /usr/bin/perf $(compgen -G '/usr/lib/linux-tools*/*/perf' | sort -rV); do
		if [[ $(head -c 4 "$file" 2>/dev/null | tr -d '\0') == $'\x7fELF' ]]; then
			readlink -f "$file"
			return 0
		fi
	done
	return 1
}

# small_user_space FOLDER INIT: busybox, and INIT as the first process.
small_user_space() {
	mkdir -p "$1"/{bin,dev,proc,sys,tmp}
	install -m 755 "$2" "$1/init"
	install -m 644 "$root/tests/linux/init.sh" "$1/init.sh"
	add_program "$(type -P busybox)" busybox "$1"
}

# user_space FOLDER INIT: also perf, and something to count.
user_space() {
	local perf
	perf=$(perf_binary) || die "no perf program found: run tools/setup linux"
	small_user_space "$1" "$2"
	add_program "$perf" perf "$1"
	gcc -nostdlib -static -Wl,--build-id=none -o "$1/bin/loop" "$root/tests/linux/loop.S"
}

# add_module TREE NAME FOLDER: the module plain, so that any insmod can load it. None if built in.
add_module() {
	local file
	file=$(find "$1" -name "$2.ko*" -print -quit)
	case $file in
	*.ko) cp "$file" "$3/$2.ko" ;;
	*.xz) xz -dc "$file" >"$3/$2.ko" ;;
	*.zst) zstd -qdc "$file" >"$3/$2.ko" ;;
	*.gz) gzip -dc "$file" >"$3/$2.ko" ;;
	esac
}

# add_modules TREE FOLDER NAME...: these and what they depend on, with their order in modules/order.
add_modules() {
	local tree=$1 dir=$2 name needed
	shift 2
	mkdir -p "$dir/modules"
	for name in "$@"; do
		[[ ! -e $dir/modules/$name.ko ]] || continue
		add_module "$tree" "$name" "$dir/modules"
		[[ -e $dir/modules/$name.ko ]] || continue
		IFS=, read -r -a needed < <(modinfo -F depends "$dir/modules/$name.ko")
		((${#needed[@]} == 0)) || add_modules "$tree" "$dir" "${needed[@]}"
		echo "$name" >>"$dir/modules/order"
	done
}

# build_kvm_client FILE
build_kvm_client() {
	gcc -O2 -static -pthread -Wall -Wextra -o "$1" "$root"/tests/linux/kvm-*.[cS]
}

# pack FOLDER FILE: uncompressed, because reading it from the disk takes no longer than inflating it.
pack() {
	(cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio -0 --quiet -o -H newc -R 0:0) >"$2"
}

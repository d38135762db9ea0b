# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced, with $root and $suite set: boots of the distribution's GRUB and what it starts, bare and on
# Tallyvisor, and what they say. $O is the build folder, its default is $root/build. SMP=N gives N CPUs to each
# boot that neither fixes their number nor has the instruction clock.
#
#   $label      what is being tested, the second column of a result
#   $dir        the folder of its logs
#   $config     more lines for tallyvisor.cfg
#   $image_options, $qemu_options  more of these, of tools/mkimage and of QEMU
#   $remarks    the comments of a guest that are shown, a regex

: "${root:?}" "${suite:?}"
label='' dir='' remarks='^$' config='' image_options=() qemu_options=()
# shellcheck source=tests/qemu/verdict.sh
. "$root/tests/qemu/verdict.sh"
build=${O:-$root/build}
images=$build/linux

BOOTS=3
SLOWER_AT_MOST=1.5
MEMORY_MB=1024
# A watchdog would occupy a counter. Nothing else is tuned: kernel messages stay on.
COMMAND_LINE='console=ttyS0,115200 panic=-1 nmi_watchdog=0'

die() { echo "$suite: $*" >&2; exit 2; }

# With several CPUs a timer interrupt may come later than Linux waits for it, on a busy machine, and it panics then.
BUSY_MACHINE=no_timer_check

SMP=${SMP:-1}
[[ $SMP =~ ^[1-9][0-9]{0,2}$ ]] || die "SMP=$SMP: must be a number of CPUs"
((SMP == 1)) || COMMAND_LINE+=" $BUSY_MACHINE"

passed=0 failed=0 qemu=
tmp=$(mktemp -d)
trap '[[ -z $qemu ]] || kill "$qemu" 2>/dev/null || true; rm -rf "$tmp"' EXIT

# result ok|"not ok" LABEL TEXT: one line, counted.
result() {
	if [[ $1 == ok ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
	printf '%-7s %-22s %s\n' "$1" "$2" "$3"
}

# result_unless REASON LABEL TEXT: ok if REASON is empty.
result_unless() {
	if [[ -z $1 ]]; then result ok "$2" "$3"; else result "not ok" "$2" "$3 ($1)"; fi
}

# make_image FILE bare|hv ENTRY DEST=SRC...: a disk on which GRUB runs the lines of ENTRY.
make_image() {
	local file=$1 machine=$2 entry=$3 pairs
	shift 3
	cat >"$tmp/grub.cfg" <<-END
		serial --unit=0 --speed=115200
		terminal_input serial
		terminal_output serial
		set timeout=0
		menuentry entry {
			$entry
		}
	END
	if [[ $machine == bare ]]; then
		pairs=("EFI/BOOT/BOOTX64.EFI=$images/grubx64.efi")
	else
		printf '%s\n' log=debugcon 'next=\EFI\grub\grubx64.efi' "$config" >"$tmp/tallyvisor.cfg"
		pairs=("EFI/BOOT/BOOTX64.EFI=$build/tallyvisor.efi" "EFI/BOOT/tallyvisor.cfg=$tmp/tallyvisor.cfg"
			"EFI/grub/grubx64.efi=$images/grubx64.efi")
	fi
	"$root/tools/mkimage" "${image_options[@]}" "$file" "${pairs[@]}" boot/grub/grub.cfg="$tmp/grub.cfg" "$@"
}

# make_linux_image FILE bare|hv KERNEL INITRD WORD...: Linux, with WORDs on its command line.
make_linux_image() {
	local file=$1 machine=$2 kernel=$3 initrd=$4
	shift 4
	make_image "$file" "$machine" "linux /vmlinuz $COMMAND_LINE $*
			initrd /initrd" vmlinuz="$kernel" initrd="$initrd"
}

# cpu_options [run-qemu options]: what a boot with these gets of SMP=, one a line. The instruction clock is one for all CPUs,
# and L0 promises exact counts on one CPU only (docs/pmu.md); the boots that have it are there for those. In one thread:
# docs/platforms.md on FXRSTOR.
cpu_options() {
	[[ " $* " != *' --smp '* && " $* " != *' --icount '* ]] || return 0
	((SMP == 1)) || printf '%s\n' --smp "$SMP" --one-thread
}

# boot NAME IMAGE LIMIT [run-qemu options]: leaves $dir/NAME.{serial,debugcon,qemu}, the status in
# $status and the microseconds from QEMU's start to user space and to its end in $to_user and $to_end;
# in $cpu_user and $cpu_end what QEMU has had of the machine's CPUs until then.
boot() {
	local name=$1 image=$2 limit=$3 begin smp said
	shift 3
	mapfile -t smp < <(cpu_options "$@")
	# shellcheck disable=SC2034  # for the caller
	cpu_user=0 cpu_end=0
	rm -f "$dir/$name".*
	: >"$dir/$name.serial"
	to_user=
	begin=${EPOCHREALTIME/[.,]/}
	"$root/tools/run-qemu" --mem "$MEMORY_MB" "${smp[@]}" --snapshot --timeout "$limit" \
		--serial "$dir/$name.serial" --debugcon "$dir/$name.debugcon" "$@" "$image" "${qemu_options[@]}" >"$dir/$name.qemu" 2>&1 </dev/null &
	qemu=$!
	while kill -0 "$qemu" 2>/dev/null; do
		cpu_time
		[[ -n $to_user ]] || ! grep -aq '^# user space' "$dir/$name.serial" ||
			note_user
		sleep 0.05
	done
	status=0
	wait "$qemu" || status=$?
	qemu=
	to_end=$((${EPOCHREALTIME/[.,]/} - begin))
	# It can end before the busy machine lets us look again.
	[[ -n $to_user ]] || ! grep -aq '^# user space' "$dir/$name.serial" || to_user=$to_end
	# 2 is run-qemu's own complaint, of which there is nothing more to say.
	[[ $status != 2 ]] || die "$(tail -n 1 "$dir/$name.qemu")"
	outcome=$(verdict "$status" "$dir/$name.serial" "$dir/$name.debugcon")
	said=${outcome%%,*}
	# a reset or power off; whether it should have, the result says
	[[ $status != 0 ]] || said=${said#CRASH }
	printf '# %-30s user space after %6s s, ended after %6s s: %s\n' "$label $name" \
		"$(seconds "$to_user")" "$(seconds "$to_end")" "$said"
}

CLOCK_TICK=$((1000000 / $(getconf CLK_TCK)))

# cpu_time: of QEMU, a child of run-qemu's timeout, up to now, into $cpu_end; as it is, when there is none any more.
cpu_time() {
	local children child stat
	# the line has no end, which read takes for a failure
	read -r -a children 2>/dev/null <"/proc/$qemu/task/$qemu/children" || true
	for child in "${children[@]}"; do
		read -r -a stat 2>/dev/null <"/proc/$child/stat" || continue
		[[ ${stat[1]} != "(qemu"* ]] || cpu_end=$(((stat[13] + stat[14]) * CLOCK_TICK))
	done
}

# shellcheck disable=SC2034  # cpu_user is for who calls boot()
note_user() { to_user=$((${EPOCHREALTIME/[.,]/} - begin)) cpu_user=$cpu_end; }

# seconds MICROSECONDS: as text with two places, or - if there is none.
seconds() {
	[[ -n $1 ]] || { echo -; return; }
	awk -v us="$1" 'BEGIN { printf "%.2f", us / 1e6 }'
}

# compare_pairs TEXT MOST: a result, from $pairs, lines of "microseconds on Tallyvisor, microseconds bare" of
# boots next to each other. Those share what else the machine is doing, so they are compared in pairs;
# the median drops a pair during which that changed.
compare_pairs() {
	local text
	if ((${#pairs[@]} < BOOTS)); then
		result "not ok" "$label" "$1: only ${#pairs[@]} of $BOOTS pairs of boots got there"
		return
	fi
	text=$(printf '%s\n' "${pairs[@]}" | awk '{ printf "%.3f %.2f %.2f\n", $1 / $2, $1 / 1e6, $2 / 1e6 }' |
		sort -n | awk -v what="$1" -v most="$2" '
			{ ratio[NR] = $1; hv[NR] = $2; bare[NR] = $3; all = all " " sprintf("%.2f", $1) }
			END {
				m = int((NR + 1) / 2)
				printf "%s %s %.2f s, bare %.2f s: %.2fx (median of%s), at most %sx\n",
					ratio[m] <= most ? "ok" : "not_ok", what, hv[m], bare[m], ratio[m], all, most
			}')
	result "$(tr _ ' ' <<<"${text%% *}")" "$label" "${text#* }"
}

compare_boots() { compare_pairs 'boot to user space' "$SLOWER_AT_MOST"; }

# show_tap FILE: each test that a guest reported there is a result; its comments that match the regex
# $remarks are shown.
show_tap() {
	local line
	while IFS= read -r line; do
		case $line in
		'ok '*) result ok "$label" "${line#ok * - }" ;;
		'not ok '*) result "not ok" "$label" "${line#not ok * - }" ;;
		*) [[ ! $line =~ ^'# '($remarks) ]] || echo "$line" ;;
		esac
	done < <(log_lines "$1" | sed -n '/^1\.\./,/^# dmesg begin$/p')
}

# kernel_log FILE...: the kernel's messages, priority first, without time stamps, numbers as N.
kernel_log() {
	local file
	for file in "$@"; do
		log_lines "$file" | sed -n '/^# dmesg begin$/,/^# dmesg end$/p'
	done | sed -nE '/^<[0-9]+>/ { s/^(<[0-9]+>)\[ *[0-9.]+\] ?/\1/; h
		s/^<[0-9]+>//; s/\b(0x)?[0-9a-f]*[0-9][0-9a-f]*\b/N/g; G; s/^(.*)\n<([0-9]+)>.*/<\2>\1/; p }'
}

# warnings: of kernel_log's lines, those of level warning and above. The low three bits of the
# priority are the level, the rest is the facility (syslog(3)).
warnings() { awk -F '[<>]' '$2 % 8 <= 4' | LC_ALL=C sort -u; }

# What Linux says, on Tallyvisor and bare alike, when this machine is busy while Linux calibrates its
# clocks, tries its timers or takes an interrupt; in the boots with the instruction clock (*-icount)
# it cannot happen. The last three belong to "Unstable clock detected".
BUSY='Unable to calibrate against PIT|PIT calibration deviates|APIC calibration not consistent|Marking TSC unstable|timekeeping watchdog|clocksource: |hrtimer: interrupt took|timer not connected to IO-APIC|Lost N RTC interrupts|Unstable clock detected|If you want to keep using the local clock|"trace_clock=local"|>on the kernel command line$'

# compare_warnings: a result, from all boots named hv-* against all named bare-*.
compare_warnings() {
	local new lines file machine text='no kernel warning that is not there bare'
	for machine in bare hv; do
		for file in "$dir/$machine"-*.serial; do
			if [[ $file == *-icount.serial ]]; then
				kernel_log "$file"
			else
				kernel_log "$file" | grep -Ev "$BUSY" || true
			fi
		done >"$dir/dmesg.$machine"
	done
	# For people: all that is different, whatever its level.
	diff -U 0 <(LC_ALL=C sort -u "$dir/dmesg.bare") <(LC_ALL=C sort -u "$dir/dmesg.hv") \
		>"$dir/dmesg.diff" || true
	new=$(LC_ALL=C comm -13 <(warnings <"$dir/dmesg.bare") <(warnings <"$dir/dmesg.hv"))
	# Even a quiet boot has a few hundred lines: fewer mean that the log was not caught.
	lines=$(wc -l <"$dir/dmesg.hv")
	if ((lines < 200)); then
		result "not ok" "$label" "$text (only $lines lines of log found)"
	elif [[ -n $new ]]; then
		result "not ok" "$label" "$text (these are new:)"
		echo "#   ${new//$'\n'/$'\n'#   }"
	else
		result ok "$label" "$text"
	fi
}

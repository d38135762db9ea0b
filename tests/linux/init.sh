# SPDX-License-Identifier: MIT
# shellcheck shell=dash
#
# Sourced by the first process of the test kernels, for what each of them does.

export PATH=/bin
number=0
failed=0

ok() { number=$((number + 1)); echo "ok $number - $1"; }
not_ok() { number=$((number + 1)); failed=$((failed + 1)); echo "not ok $number - $1"; }

# is_number TEXT: perf writes `<not counted>` or `<not supported>` where it has none.
is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

# begin: mounts what programs expect, and says that there is a user space.
begin() {
	/bin/busybox --install -s /bin
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t devtmpfs dev /dev 2>/dev/null

	# Kernel messages would land inside our lines. They are all shown at the end.
	dmesg -n 1
	echo
	# boot() in tests/linux/boots.sh stops its clock at this line.
	echo "# user space: $(uname -r), up $(cut -d ' ' -f 1 /proc/uptime) s"
}

# run_client PLAN ARGUMENTS...: of kvm-client; its tests become ours.
run_client() {
	local plan=$1 seen=0 line
	shift
	rm -f /client-pipe
	mkfifo /client-pipe
	kvm-client "$@" >/client-pipe &
	while IFS= read -r line; do
		case $line in
		'ok '*) ok "${line#ok * - }" ;;
		'not ok '*) not_ok "${line#not ok * - }" ;;
		'1..'*) continue ;;
		*)
			echo "$line"
			continue
			;;
		esac
		seen=$((seen + 1))
	done </client-pipe
	wait $!
	while [ "$seen" -lt "$plan" ]; do
		not_ok 'kvm-client ended early'
		seen=$((seen + 1))
	done
}

# finish: shows the kernel's messages and ends QEMU through the debug-exit port.
finish() {
	local verdict='\020'
	echo '# dmesg begin'
	dmesg -r
	echo '# dmesg end'
	echo '# end'
	# Let the console drain: the next write ends the machine at once.
	sleep 0.1
	[ $failed = 0 ] || verdict='\021'
	printf %b "$verdict" | dd of=/dev/port bs=1 seek=$((0xf4)) count=1 2>/dev/null
	# Only where there is no such device.
	poweroff -f
}

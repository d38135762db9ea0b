/* SPDX-License-Identifier: MIT */
/* Another kernel in place of this one: `kexec-file load|crash KERNEL INITRD COMMAND-LINE`, and `kexec-file go`. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kexec.h>
#include <linux/reboot.h>

int main(int argc, char **argv)
{
	long error;

	if (argc == 2 && !strcmp(argv[1], "go")) {
		sync();
		error = syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
				LINUX_REBOOT_CMD_KEXEC, NULL);
	} else if (argc == 5) {
		int kernel = open(argv[2], O_RDONLY), initrd = open(argv[3], O_RDONLY);

		error = syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[4]) + 1, argv[4],
				strcmp(argv[1], "crash") ? 0UL : KEXEC_FILE_ON_CRASH);
	} else {
		fputs("kexec-file: see the head of its source\n", stderr);
		return 2;
	}
	if (error)
		perror(argv[1]);
	return error ? 1 : 0;
}

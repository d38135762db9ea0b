/* SPDX-License-Identifier: MIT */
/* The client on Linux: calls by the MSRs of include/abi/hypercall.h, through /dev/cpu/N/msr. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "client/linux.h"
#include "client/os.h"
#include "client/tally.h"

static char device[32];
static int msr = -1;
static bool writable;
static FILE *file;
static const char *file_path;
static bool progress_shown;

void os_error(const char *fmt, ...)
{
	va_list args;

	os_progress(NULL);
	fflush(stdout);
	fputs("tally: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

void os_print(const char *text, size_t bytes)
{
	fwrite(text, 1, bytes, stdout);
}

void os_progress(const char *line)
{
	if (!isatty(STDERR_FILENO))
		return;
	if (line)
		fprintf(stderr, "\r%s\033[K", line);
	else if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = line;
}

void os_sleep(unsigned int seconds)
{
	sleep(seconds);
}

bool os_connect(unsigned int cpu)
{
	snprintf(device, sizeof(device), "/dev/cpu/%u/msr", cpu);
	msr = open(device, O_RDWR | O_CLOEXEC);
	writable = msr >= 0;
	if (msr < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
		msr = open(device, O_RDONLY | O_CLOEXEC);
	if (msr < 0) {
		if (errno == ENOENT)
			os_error("%s is not there: as root, modprobe msr", device);
		else if (errno == ENXIO || errno == ENODEV)
			os_error("%s: there is no CPU %u", device, cpu);
		else if (errno == EACCES || errno == EPERM)
			os_error("%s: %s: run it as root (with CAP_SYS_RAWIO)", device,
				 strerror(errno));
		else
			os_error("%s: %s", device, strerror(errno));
		return false;
	}
	/* two clients would take the answers out of each other's hands */
	if (flock(msr, LOCK_EX)) {
		os_error("%s: cannot be locked: %s", device, strerror(errno));
		return false;
	}
	return true;
}

bool linux_rdmsr(u32 number, u64 *value)
{
	return pread(msr, value, sizeof(*value), number) == sizeof(*value);
}

bool linux_wrmsr(u32 number, u64 value)
{
	return writable && pwrite(msr, &value, sizeof(value), number) == sizeof(value);
}

static bool transfer_failed(const char *what, u32 number)
{
	if (errno == EIO)
		os_error("%s: MSR %08x faults: tally works in L1, not in its guests", device,
			 number);
	else if (errno == EPERM || errno == EACCES || errno == EBADF)
		os_error("%s: Linux does not let MSRs be %s: it is locked down "
			 "(/sys/kernel/security/lockdown), or see /sys/module/msr/parameters/"
			 "allow_writes",
			 device, what);
	else
		os_error("%s: MSR %08x: %s", device, number, strerror(errno));
	return false;
}

/* The driver reads one MSR again and again to fill a buffer, which makes DATA a stream. */
static bool read_msr(u32 number, void *to, size_t bytes)
{
	ssize_t got = pread(msr, to, bytes, number);

	if (got == (ssize_t)bytes)
		return true;
	if (got >= 0)
		errno = EIO;
	return transfer_failed("read", number);
}

static bool write_msrs(u32 number, const void *from, size_t bytes)
{
	if (!writable)
		errno = EBADF;
	else if (pwrite(msr, from, bytes, number) == (ssize_t)bytes)
		return true;
	return transfer_failed("written", number);
}

static bool write_msr(u32 number, u64 value)
{
	return write_msrs(number, &value, sizeof(value));
}

/* RDX for the next call. Linux frowns on writes to MSRs, so it is written only if it is not there already. */
static bool set_rdx(u64 rdx)
{
	u64 now;

	if (!rdx)
		return read_msr(TALLY_MSR_VERSION, &now, sizeof(now));
	return read_msr(TALLY_MSR_RDX, &now, sizeof(now)) &&
	       (now == rdx || write_msr(TALLY_MSR_RDX, rdx));
}

bool os_call(u32 number, void *buffer, u64 bytes, u64 *rdx, bool changes, s64 *result)
{
	u64 used, version;

	if (changes) {
		if (bytes && (!read_msr(TALLY_MSR_VERSION, &version, sizeof(version)) ||
			      !write_msrs(TALLY_MSR_DATA, buffer, bytes)))
			return false;
		if (!write_msr(TALLY_MSR_CALL(number), *rdx) ||
		    !read_msr(TALLY_MSR_RESULT, result, sizeof(*result)))
			return false;
	} else if (!set_rdx(*rdx) || !read_msr(TALLY_MSR_CALL(number), result, sizeof(*result))) {
		return false;
	}
	if (!read_msr(TALLY_MSR_RDX, rdx, sizeof(*rdx)))
		return false;
	/* STATUS does not say how long its answer is */
	used = *result > 0		? (u64)*result
	       : *result < 0 || changes ? 0
					: sizeof(struct tally_status);
	if (used > bytes)
		used = bytes;
	return !used || read_msr(TALLY_MSR_DATA, buffer, ALIGN_UP(used, 8));
}

static bool file_failed(void)
{
	os_error("%s: %s", file_path, strerror(errno));
	return false;
}

bool os_file_create(const char *path)
{
	file_path = path;
	file = fopen(path, "wbe");
	return file || file_failed();
}

bool os_file_write(const void *data, size_t bytes)
{
	return fwrite(data, 1, bytes, file) == bytes || file_failed();
}

bool os_file_close(void)
{
	return !fclose(file) || file_failed();
}

int main(int argc, char **argv)
{
	int status = tally_main((unsigned int)argc, (const char *const *)argv);

	if (fflush(stdout) || ferror(stdout)) {
		os_error("cannot write the output: %s", strerror(errno));
		return TALLY_EXIT_ERROR;
	}
	return status;
}

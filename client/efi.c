/* SPDX-License-Identifier: MIT */
/* The client as a UEFI application, for the UEFI shell: calls by VMMCALL. Files are on the volume that it came from. */
#define GNU_EFI_USE_MS_ABI
#include <efi.h>
#include <stdarg.h>

#include "client/os.h"
#include "client/tally.h"
#include "client/words.h"
#include "hv/core/format.h"

#define COMMAND_LINE_MAX 512
#define WORDS_MAX 16

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table);

static EFI_SYSTEM_TABLE *system_table;
static EFI_LOADED_IMAGE *self;
static EFI_FILE_HANDLE root, file;
static u8 buffer_page[PAGE_SIZE] ALIGNED(4096);

static void console(SIMPLE_TEXT_OUTPUT_INTERFACE *to, const char *text, size_t bytes)
{
	CHAR16 wide[65];
	size_t n = 0;

	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '\n')
			wide[n++] = u'\r';
		wide[n++] = (CHAR16)(u8)text[i];
		if (n >= ARRAY_SIZE(wide) - 2 || i + 1 == bytes) {
			wide[n] = u'\0';
			to->OutputString(to, wide);
			n = 0;
		}
	}
}

void os_print(const char *text, size_t bytes)
{
	console(system_table->ConOut, text, bytes);
}

static SIMPLE_TEXT_OUTPUT_INTERFACE *errors(void)
{
	return system_table->StdErr ? system_table->StdErr : system_table->ConOut;
}

void os_error(const char *fmt, ...)
{
	char line[400];
	va_list args;
	size_t n = format(line, sizeof(line), "tally: ");

	va_start(args, fmt);
	n += format_v(line + n, sizeof(line) - n - 1, fmt, args);
	va_end(args);
	line[n++] = '\n';
	console(errors(), line, n);
}

void os_progress(const char *line)
{
	size_t n = 0;

	if (!line)
		return;
	while (line[n])
		n++;
	console(errors(), line, n);
	console(errors(), "\r", 1);
}

void os_sleep(unsigned int seconds)
{
	while (seconds--)
		system_table->BootServices->Stall(1000000);
}

bool os_connect(unsigned int cpu)
{
	if (cpu)
		os_error("the firmware runs this program on CPU 0 only");
	return !cpu;
}

bool os_call(u32 number, void *buffer, u64 bytes, u64 *rdx, bool changes, s64 *result)
{
	if (changes)
		__builtin_memcpy(buffer_page, buffer, bytes);
	asm volatile("vmmcall"
		     : "=a"(*result), "+d"(*rdx)
		     : "a"(TALLY_CALL(number)), "b"(buffer_page), "c"(bytes)
		     : "memory");
	if (!changes && *result >= 0)
		__builtin_memcpy(buffer, buffer_page, bytes);
	return true;
}

bool os_file_create(const char *path)
{
	static EFI_GUID protocol = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
	EFI_BOOT_SERVICES *bs = system_table->BootServices;
	const UINT64 mode = EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE;
	EFI_FILE_IO_INTERFACE *volume;
	CHAR16 name[256];
	size_t n = 0;

	for (; path[n] && n < ARRAY_SIZE(name) - 1; n++)
		name[n] = path[n] == '/' ? u'\\' : (CHAR16)(u8)path[n];
	name[n] = u'\0';
	if (EFI_ERROR(bs->HandleProtocol(self->DeviceHandle, &protocol, (void **)&volume)) ||
	    EFI_ERROR(volume->OpenVolume(volume, &root))) {
		os_error("%s: the volume that tally.efi came from has no file system", path);
		return false;
	}
	/* an old one could be longer */
	if (!EFI_ERROR(root->Open(root, &file, name, mode, 0)))
		file->Delete(file);
	if (EFI_ERROR(root->Open(root, &file, name, mode | EFI_FILE_MODE_CREATE, 0))) {
		os_error("%s: cannot be created on the volume that tally.efi came from", path);
		root->Close(root);
		return false;
	}
	return true;
}

bool os_file_write(const void *data, size_t bytes)
{
	UINTN written = bytes;

	if (!EFI_ERROR(file->Write(file, &written, (void *)(uintptr_t)data)) && written == bytes)
		return true;
	os_error("cannot write the file: is the volume full?");
	return false;
}

bool os_file_close(void)
{
	bool ok = !EFI_ERROR(file->Close(file));

	root->Close(root);
	if (!ok)
		os_error("cannot write the file");
	return ok;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *table)
{
	static EFI_GUID protocol = LOADED_IMAGE_PROTOCOL;
	static char line[COMMAND_LINE_MAX];
	const char *words[WORDS_MAX];
	const CHAR16 *options;
	UINTN length;

	system_table = table;
	if (EFI_ERROR(table->BootServices->HandleProtocol(image, &protocol, (void **)&self)))
		return EFI_UNSUPPORTED;
	options = self->LoadOptions;
	length = self->LoadOptionsSize / sizeof(CHAR16);
	for (UINTN i = 0; i < length && i < sizeof(line) - 1; i++)
		line[i] = options[i] < 0x80 ? (char)options[i] : '?';
	return (EFI_STATUS)tally_main(words_split(line, words, WORDS_MAX), words);
}

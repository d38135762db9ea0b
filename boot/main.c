/* SPDX-License-Identifier: MIT */
/* The loader: configuration, probe, take-over, and what is started on top. Knows nothing of SVM beyond the probe. */
#include "boot/boot.h"
#include "abi/hypercall.h"

static struct boot_config config;
static struct iommu_unit units[IOMMU_MAX];

static void report(struct config_reporter *self, const char *text)
{
	(void)self;
	Print(L"Tallyvisor: %a\r\n", text);
}

static struct config_reporter reporter = {report};

/* The directory part of our own path as "\dir\" in `path`; false where the firmware gave none. */
static bool own_directory(EFI_LOADED_IMAGE *self, CHAR16 *path, UINTN max)
{
	CHAR16 *own = DevicePathToStr(self->FilePath);
	UINTN length = own ? StrLen(own) : 0;

	while (length && own[length - 1] != L'\\' && own[length - 1] != L'/')
		length--;
	if (!length || length >= max)
		return false;
	BS->CopyMem(path, own, length * sizeof(CHAR16));
	path[length] = 0;
	FreePool(own);
	return true;
}

static void read_config_file(EFI_LOADED_IMAGE *self)
{
	static const CHAR16 name[] = L"tallyvisor.cfg";
	CHAR16 path[256];
	EFI_FILE *root, *file;
	UINTN bytes = CONFIG_MAX_BYTES + 1; /* one more: a file that is too long is noticed */
	char *text;

	if (!own_directory(self, path, ARRAY_SIZE(path) - ARRAY_SIZE(name)))
		StrCpy(path, L"\\");
	StrCat(path, name);
	root = LibOpenRoot(self->DeviceHandle);
	if (!root || EFI_ERROR(root->Open(root, &file, path, EFI_FILE_MODE_READ, 0)))
		return; /* no configuration file: defaults and load options */
	text = AllocatePool(bytes);
	if (text && !EFI_ERROR(file->Read(file, &bytes, text)))
		config_parse(&config, "tallyvisor.cfg", text, bytes, &reporter);
	else
		SAY(L"tallyvisor.cfg cannot be read, defaults apply");
	if (text)
		FreePool(text);
	file->Close(file);
	root->Close(root);
}

/* Load options are UCS-2 words; the shell puts the program's name first. One word becomes one line. */
static void read_load_options(EFI_LOADED_IMAGE *self)
{
	const CHAR16 *options = self->LoadOptions;
	UINTN length = self->LoadOptionsSize / sizeof(CHAR16), used = 0;
	bool assignment = false;
	char *text;

	if (!options || !length)
		return;
	text = AllocatePool(length + 1);
	if (!text)
		return;
	for (UINTN i = 0; i < length && options[i]; i++) {
		CHAR16 c = options[i];

		if (c > 0x7e || (c < 0x20 && c != L'\t')) {
			used = 0; /* not text: some firmware puts its own data here */
			break;
		}
		assignment |= c == L'=';
		text[used++] = c == L' ' || c == L'\t' ? '\n' : (char)c;
		if (c == L' ' && !assignment)
			used = 0;
	}
	if (assignment)
		config_parse(&config, "load options", text, used, &reporter);
	FreePool(text);
}

static void banner(u32 iommus)
{
	static const CHAR16 *const backends[] = {L"off", L"guest-only", L"clock", L"switched"};
	u32 eax = TALLY_CPUID_STATUS, ebx, ecx = 0, edx;
	u32 name[13] = {0};

	for (size_t i = 0; i < 3; i++)
		asm volatile("cpuid"
			     : "=a"(name[4 * i]), "=b"(name[4 * i + 1]), "=c"(name[4 * i + 2]),
			       "=d"(name[4 * i + 3])
			     : "a"(0x80000002u + (u32)i), "c"(0));
	asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	Print(L"Tallyvisor %a on %a: PMU backend %s, svme0=%s, dma=%s", TALLY_VERSION, (char *)name,
	      backends[ebx < ARRAY_SIZE(backends) ? ebx : 0], ecx & 2 ? L"count" : L"stop",
	      ecx & TALLY_STATUS_ECX_DMA_PROTECTED ? L"protected" : L"unprotected");
	if (ebx == TALLY_BACKEND_CLOCK && (ecx & 1))
		Print(L", exact: %d TSC tick(s) per instruction, overflow interrupts %s", 1 << edx,
		      ecx & TALLY_STATUS_ECX_PMI_EXACT ? L"to the instruction"
						       : L"at the next exit");
	else if (ebx == TALLY_BACKEND_CLOCK)
		Print(L", not exact: this machine has no PMU, and no instruction clock that is one "
		      L"CPU's own, so TSC ticks are counted");
	Print(L"\r\n");
	if (iommus && !(ecx & TALLY_STATUS_ECX_DMA_PROTECTED))
		SAY(L"dma=protect: our memory is not protected from devices: an IOMMU does not "
		    L"work, see the log; to give the IOMMUs back to what comes now, set dma=off");
}

/*
 * Another volume that has the file, or `own`. Firmware connects only what it boots from, where it can, so everything is
 * connected first.
 */
static EFI_HANDLE find_volume(EFI_HANDLE own, CHAR16 *path)
{
	EFI_GUID file_system = SIMPLE_FILE_SYSTEM_PROTOCOL;
	EFI_HANDLE *handles, found = NULL;
	UINTN number;

	if (!EFI_ERROR(BS->LocateHandleBuffer(AllHandles, NULL, NULL, &number, &handles))) {
		for (UINTN i = 0; i < number; i++)
			BS->ConnectController(handles[i], NULL, NULL, TRUE);
		FreePool(handles);
	}
	if (EFI_ERROR(BS->LocateHandleBuffer(ByProtocol, &file_system, NULL, &number, &handles)))
		return own;
	for (UINTN i = 0; i < number && !found; i++) {
		EFI_FILE *root = handles[i] == own ? NULL : LibOpenRoot(handles[i]), *file;

		if (!root)
			continue;
		if (!EFI_ERROR(root->Open(root, &file, path, EFI_FILE_MODE_READ, 0))) {
			file->Close(file);
			found = handles[i];
		}
		root->Close(root);
	}
	FreePool(handles);
	return found ? found : own;
}

/* Starts next= as L1; returns when that program does, or an error if there is none. */
static EFI_STATUS start_next(EFI_HANDLE image, EFI_LOADED_IMAGE *self)
{
	static const CHAR16 *const where[] = {L"the volume of tallyvisor.efi", L"any volume"};
	bool anywhere = config.next[0] == '*' && config.next[1] == ':';
	EFI_HANDLE volume = self->DeviceHandle, next = NULL;
	CHAR16 buffer[CONFIG_NEXT_MAX], *path = anywhere ? buffer + 2 : buffer;
	EFI_DEVICE_PATH *device_path;
	EFI_STATUS status;
	UINTN i;

	for (i = 0; config.next[i]; i++)
		buffer[i] = (CHAR16)config.next[i];
	buffer[i] = 0;
	if (anywhere)
		volume = find_volume(volume, path);
	device_path = FileDevicePath(volume, path);
	status = device_path ? BS->LoadImage(FALSE, image, device_path, NULL, 0, &next)
			     : EFI_OUT_OF_RESOURCES;
	if (status == EFI_ACCESS_DENIED || status == EFI_SECURITY_VIOLATION) {
		SAY(L"next=%s is not trusted by this firmware (%r): with Secure Boot on it must be "
		    L"signed by a key in db, as tallyvisor.efi is; going on without it",
		    buffer, status);
		/* with the second error it is loaded, and only not to be started */
		if (next)
			BS->UnloadImage(next);
		return status;
	}
	if (EFI_ERROR(status)) {
		SAY(L"next=%s cannot be loaded (%r): a path on %s to a UEFI program is needed; "
		    L"going on without it",
		    buffer, status, where[anywhere]);
		return status;
	}
	status = BS->StartImage(next, NULL, NULL);
	if (EFI_ERROR(status))
		SAY(L"next=%s ended with %r", buffer, status);
	return status;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system_table);

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system_table)
{
	EFI_GUID loaded_image = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	EFI_LOADED_IMAGE *self;
	const CHAR16 *why;
	u8 phys_bits;
	u32 aps, iommus = 0;

	InitializeLib(image, system_table);
	config_default(&config);
	if (EFI_ERROR(BS->HandleProtocol(image, &loaded_image, (void **)&self))) {
		SAY(L"the firmware gives no LoadedImage protocol, not started");
		return EFI_UNSUPPORTED;
	}
	read_config_file(self);
	read_load_options(self);

	why = probe_cpu(&phys_bits);
	if (!why)
		why = probe_addresses(phys_bits);
	aps = smp_find();
	if (aps && config.smp_ignore) {
		SAY(L"smp=ignore: only the boot processor is taken over, leave the other %d alone",
		    aps);
		aps = 0;
	}
	if (!why && config.core.dma == DMA_PROTECT)
		iommus = dma_find(phys_bits, units);
	if (!why)
		why = core_start(&config, phys_bits, aps, units, iommus);
	if (why) {
		SAY(L"not started: %s", why);
		return EFI_UNSUPPORTED;
	}
	if (iommus)
		dma_hide();
	banner(iommus);
	/* an error makes the firmware's boot manager go on with its next option, now in L1; success would stop there */
	return config.next[0] ? start_next(image, self) : EFI_NOT_FOUND;
}

/*
 * Reading the ELF files that engine/wasm links: two segments at fixed addresses, nothing dynamic.
 * The bytes come from a compiler that was fed a stranger's program, so every number is checked.
 */
#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/vmm/private.h"

static int take_segment(const Elf64_Phdr *segment, const uint8_t *bytes, size_t length,
                        struct elf_view *view, struct error *err)
{
    if (segment->p_offset > length || segment->p_filesz > length - segment->p_offset) {
        return error_set(err, ERROR_INVALID, "the image's segment lies outside its file");
    }
    if (segment->p_filesz > segment->p_memsz || segment->p_memsz > ABI_WINDOW_BYTES) {
        return error_set(err, ERROR_INVALID, "the image's segment has impossible sizes");
    }
    if (segment->p_vaddr == ABI_TEXT_BASE && (segment->p_flags & PF_W) == 0) {
        view->text = bytes + segment->p_offset;
        view->text_bytes = segment->p_filesz;
        return segment->p_memsz == segment->p_filesz
            ? 0
            : error_set(err, ERROR_INVALID, "the image's text has a hole");
    }
    if (segment->p_vaddr == ABI_IMAGE_DATA && (segment->p_flags & PF_X) == 0) {
        uint64_t before = ABI_IMAGE_DATA - ABI_DATA_BASE;
        view->data = bytes + segment->p_offset;
        view->data_bytes = segment->p_filesz;
        view->data_end = before + segment->p_memsz;
        return view->data_end <= ABI_WINDOW_BYTES
            ? 0
            : error_set(err, ERROR_LIMIT, "the image's data is larger than 64 MiB");
    }
    return error_set(err, ERROR_INVALID, "the image has a segment at 0x%" PRIx64,
                     (uint64_t)segment->p_vaddr);
}

int elf_read(const void *bytes, size_t length, struct elf_view *ret_view, struct error *err)
{
    CHECK(bytes != NULL);

    Elf64_Ehdr head;
    if (length < sizeof(head)) {
        return error_set(err, ERROR_INVALID, "the image is no ELF file: too short");
    }
    memcpy(&head, bytes, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_ident[EI_DATA] != ELFDATA2LSB || head.e_machine != EM_X86_64 ||
        head.e_type != ET_EXEC || head.e_phentsize != sizeof(Elf64_Phdr)) {
        return error_set(err, ERROR_INVALID, "the image is no x86-64 ELF program");
    }
    if (head.e_phnum > 16 || head.e_phoff > length ||
        head.e_phnum * sizeof(Elf64_Phdr) > length - head.e_phoff) {
        return error_set(err, ERROR_INVALID, "the image's segment table lies outside its file");
    }
    struct elf_view view = {.entry = head.e_entry, .data_end = ABI_IMAGE_DATA - ABI_DATA_BASE};
    for (unsigned i = 0; i < head.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, (const uint8_t *)bytes + head.e_phoff + i * sizeof(segment),
               sizeof(segment));
        if (segment.p_type == ABI_FILES_HEADER) {
            view.files_at = segment.p_vaddr - ABI_TEXT_BASE;
        }
        if (segment.p_type != PT_LOAD || segment.p_memsz == 0) {
            continue;
        }
        int r = take_segment(&segment, bytes, length, &view, err);
        if (r < 0) {
            return r;
        }
    }
    if (view.text == NULL || view.entry < ABI_TEXT_BASE ||
        view.entry - ABI_TEXT_BASE >= view.text_bytes) {
        return error_set(err, ERROR_INVALID, "the image's entry is not in its text");
    }
    if (view.files_at > view.text_bytes) {
        return error_set(err, ERROR_INVALID, "the image's files are not in its text");
    }
    *ret_view = view;
    return 0;
}

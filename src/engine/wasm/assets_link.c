/*
 * Assets on their way from a module to its image: out of the one, behind the text of the other.
 *
 * An image is linked with an empty archive as the last thing of its text (guest/function/link.ld);
 * to give it assets is to put them in that place, which takes no compiler and no linker.
 */
#include <elf.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/text.h"

#include "engine/vmm/abi.h"
#include "engine/vmm/assets.h"
#include "engine/wasm/assets.h"
#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

/* ---- The section ---- */

int assets_find(const void *module, size_t length, struct section_view *ret_view, struct error *err)
{
    enum { HEAD_BYTES = 8 };
    static const uint8_t magic[HEAD_BYTES] = {0, 'a', 's', 'm', 1};
    struct section_view view = {0};
    if (length < HEAD_BYTES || memcmp(module, magic, HEAD_BYTES) != 0) {
        return error_set(err, ERROR_INVALID, "not a WebAssembly module");
    }
    const uint8_t *start = module;
    struct reader reader = {
        .start = start, .at = start + HEAD_BYTES, .end = start + length, .err = err};
    while (reader.failed == 0 && reader.at != reader.end) {
        const uint8_t *at = reader.at;
        uint8_t id = reader_byte(&reader);
        struct reader part = reader_part(&reader, reader_u32(&reader));
        struct text name = text_of("", 0);
        if (id == 0 && reader.failed == 0) {
            reader_name(&part, &name);
        }
        if (!text_equal(name, ASSETS_SECTION)) {
            continue;
        }
        if (view.length > 0) {
            return error_set(err, ERROR_INVALID, "the module has two sections " ASSETS_SECTION);
        }
        view = (struct section_view){.at = (size_t)(at - start),
                                     .length = (size_t)(part.end - at),
                                     .content = part.at,
                                     .content_length = (size_t)(part.end - part.at)};
    }
    if (reader.failed == 0) {
        *ret_view = view;
    }
    return reader.failed;
}

void assets_remove(const void *module, size_t length, const struct section_view *view,
                   struct buffer *ret_code)
{
    const uint8_t *bytes = module;
    size_t end = view->at + view->length;
    buffer_append(ret_code, bytes, view->at);
    buffer_append(ret_code, bytes + end, length - end);
}

/* ---- The image ---- */

static int not_ours(struct error *err)
{
    return error_set(err, ERROR_INVALID, "the image was not linked as one that can have assets");
}

struct segments {
    Elf64_Ehdr head;
    Elf64_Phdr text;
    Elf64_Phdr data; /* all zero: none */
};

static bool is_inside(const Elf64_Phdr *segment, size_t length)
{
    return segment->p_offset <= length && segment->p_filesz <= length - segment->p_offset;
}

static int read_segments(const struct buffer *elf, struct segments *segments, struct error *err)
{
    Elf64_Ehdr head;
    if (elf->used < sizeof(head)) {
        return not_ours(err);
    }
    memcpy(&head, elf->data, sizeof(head));
    segments->head = head;
    if (head.e_phnum > 16 || head.e_phoff > elf->used ||
        head.e_phnum * sizeof(Elf64_Phdr) > elf->used - head.e_phoff) {
        return not_ours(err);
    }
    for (unsigned i = 0; i < head.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, elf->data + head.e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type == PT_LOAD && !is_inside(&segment, elf->used)) {
            return not_ours(err);
        }
        if (segment.p_type == PT_LOAD && segment.p_vaddr == ABI_TEXT_BASE) {
            segments->text = segment;
        } else if (segment.p_type == PT_LOAD && segment.p_memsz > 0) {
            segments->data = segment;
        }
    }
    return 0;
}

/* Does the text end with an archive of nothing? */
static bool ends_empty(const struct buffer *elf, const Elf64_Phdr *text)
{
    struct assets_head head;
    if (text->p_filesz < sizeof(head) || text->p_filesz != text->p_memsz) {
        return false;
    }
    memcpy(&head, elf->data + text->p_offset + text->p_filesz - sizeof(head), sizeof(head));
    return head.magic == ASSETS_MAGIC && head.node_count == 0;
}

/* An ELF file of two segments, one behind the other. */
static void write_elf(const struct buffer *elf, const struct segments *segments,
                      const void *archive, size_t archive_length, struct buffer *out)
{
    enum { TEXT_AT = 4096 };
    size_t kept = segments->text.p_filesz - sizeof(struct assets_head);
    Elf64_Ehdr head = segments->head;
    Elf64_Phdr parts[3] = {segments->text, segments->data};
    parts[0].p_filesz = parts[0].p_memsz = kept + archive_length;
    parts[0].p_offset = TEXT_AT;
    parts[1].p_offset = TEXT_AT + parts[0].p_filesz;
    head.e_phoff = sizeof(head);
    head.e_phnum = segments->data.p_memsz > 0 ? 2 : 1;
    /* Where the archive begins, so that it need not be copied with the code. */
    parts[head.e_phnum++] = (Elf64_Phdr){.p_type = ABI_FILES_HEADER,
                                         .p_flags = PF_R,
                                         .p_offset = TEXT_AT + kept,
                                         .p_vaddr = ABI_TEXT_BASE + kept,
                                         .p_filesz = archive_length,
                                         .p_memsz = archive_length};
    head.e_shoff = 0;
    head.e_shnum = 0;
    head.e_shstrndx = 0;
    buffer_append(out, &head, sizeof(head));
    buffer_append(out, parts, head.e_phnum * sizeof(parts[0]));
    memset(buffer_reserve(out, TEXT_AT), 0, TEXT_AT);
    out->used = TEXT_AT;
    buffer_append(out, elf->data + segments->text.p_offset, kept);
    buffer_append(out, archive, archive_length);
    buffer_append(out, elf->data + segments->data.p_offset, segments->data.p_filesz);
}

int assets_link(const struct buffer *elf, const void *archive, size_t length,
                struct buffer *ret_elf, struct error *err)
{
    struct segments segments = {0};
    int r = read_segments(elf, &segments, err);
    if (r < 0) {
        return r;
    }
    if (!ends_empty(elf, &segments.text)) {
        return not_ours(err);
    }
    if (length > ABI_WINDOW_BYTES - segments.text.p_filesz) {
        return error_set(err, ERROR_LIMIT,
                         "code (%llu MiB) and assets (%zu MiB) together are larger than %d MiB",
                         (unsigned long long)(segments.text.p_filesz >> 20), length >> 20,
                         ABI_WINDOW_BYTES >> 20);
    }
    write_elf(elf, &segments, archive, length, ret_elf);
    return 0;
}

/* Assets: packed the same whatever the order, refused when damaged, linked without compiling. */
#include "engine/wasm/assets.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/vmm/assets.h"
#include "engine/wasm/private.h"

#include "support.h"
#include "test/lib/test.h"

static void add(struct wasm_assets *assets, const char *path, const char *content)
{
    struct error err = {0};
    EXPECT(wasm_assets_add(assets, path, content, strlen(content), &err) == 0);
}

static void expect_refused(struct wasm_assets *assets, const char *path, enum error_kind kind)
{
    struct error err = {0};
    EXPECT(wasm_assets_add(assets, path, "", 0, &err) == -(int)kind);
    EXPECT(err.text[0] != '\0');
}

static void attach(const struct wasm_assets *assets, struct buffer *ret_module)
{
    struct error err = {0};
    EXPECT(wasm_assets_attach(assets, module, MODULE_BYTES, ret_module, &err) == 0);
}

TEST(assets, are_the_same_whatever_the_order)
{
    BUFFER_OWNED struct buffer first = {0};
    BUFFER_OWNED struct buffer second = {0};
    struct wasm_assets *assets = wasm_assets_new();
    add(assets, "/www/index.html", "<p>");
    add(assets, "/a", "");
    add(assets, "/www/deep/er/x", "xyz");
    attach(assets, &first);
    EXPECT(wasm_assets_count(assets) == 3);
    wasm_assets_free(assets);

    assets = wasm_assets_new();
    add(assets, "www/deep/er/x", "xyz");
    add(assets, "a", "");
    add(assets, "www/index.html", "<p>");
    attach(assets, &second);
    wasm_assets_free(assets);
    EXPECT(first.used == second.used && memcmp(first.data, second.data, first.used) == 0);
}

TEST(assets, replace_those_a_module_had)
{
    struct error err = {0};
    struct section_view view;
    struct wasm_module_info info;
    BUFFER_OWNED struct buffer with = {0};
    BUFFER_OWNED struct buffer without = {0};
    struct wasm_assets *assets = wasm_assets_new();
    add(assets, "/a", "content");
    attach(assets, &with);
    wasm_assets_free(assets);
    EXPECT(wasm_inspect(with.data, with.used, &info, &err) == 0);
    EXPECT(assets_find(with.data, with.used, &view, &err) == 0);
    EXPECT(info.assets_bytes > 0 && info.assets_bytes == view.content_length);

    assets = wasm_assets_new();
    EXPECT(wasm_assets_attach(assets, with.data, with.used, &without, &err) == 0);
    wasm_assets_free(assets);
    EXPECT(without.used == MODULE_BYTES && memcmp(without.data, module, MODULE_BYTES) == 0);
}

TEST(assets, have_names_that_can_be)
{
    struct wasm_assets *assets = wasm_assets_new();
    char deep[100] = "";
    for (int i = 0; i < 40; i++) {
        memcpy(deep + 2 * i, "d/", 2);
    }
    deep[80] = 'f';
    add(assets, "/a/b", "");
    expect_refused(assets, "/../x", ERROR_INVALID);
    expect_refused(assets, "/./x", ERROR_INVALID);
    expect_refused(assets, "", ERROR_INVALID);
    expect_refused(assets, "//x", ERROR_INVALID);
    expect_refused(assets, "/x/", ERROR_INVALID);
    expect_refused(assets, "/\xff", ERROR_INVALID);
    expect_refused(assets, "/tmp/x", ERROR_INVALID);
    expect_refused(assets, "/tmp", ERROR_INVALID);
    expect_refused(assets, "/a/b/c", ERROR_INVALID);
    expect_refused(assets, "/a/b", ERROR_EXISTS);
    expect_refused(assets, "/a", ERROR_EXISTS);
    expect_refused(assets, deep, ERROR_LIMIT);
    add(assets, "/a/tmp", "");
    wasm_assets_free(assets);
}

/* Goal: no damage of the archive's own parts goes through.  Method: each of their bits, one by one.
 */
TEST(assets, are_refused_when_any_bit_of_their_structure_is_not_as_it_was)
{
    struct error err = {0};
    struct section_view view;
    BUFFER_OWNED struct buffer with = {0};
    struct wasm_assets *assets = wasm_assets_new();
    add(assets, "/a/x", "1");
    add(assets, "/b", "2");
    attach(assets, &with);
    wasm_assets_free(assets);
    EXPECT(assets_find(with.data, with.used, &view, &err) == 0);
    uint8_t *archive = with.data + (view.content - with.data);
    EXPECT(wasm_assets_check(archive, view.content_length, &err) == 0);
    EXPECT(wasm_assets_check(archive, view.content_length - 16, &err) == -ERROR_INVALID);
    unsigned accepted = 0;
    for (size_t bit = 0; bit < (32 + 4 * 32) * 8; bit++) {
        archive[bit / 8] ^= (uint8_t)(1 << bit % 8);
        accepted += wasm_assets_check(archive, view.content_length, &err) == 0;
        archive[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    /* Shorter files, and names that are others of the same bytes, are as good as these. */
    EXPECT(accepted < 24);
}

TEST(assets, are_only_linked_with_what_expects_them)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer none = {0};
    BUFFER_OWNED struct buffer out = {0};
    EXPECT(assets_link(&none, "", 0, &out, &err) == -ERROR_INVALID);
    memset(buffer_reserve(&none, 256), 0xff, 256);
    none.used = 256;
    EXPECT(assets_link(&none, "", 0, &out, &err) == -ERROR_INVALID);
    EXPECT(out.used == 0);
}

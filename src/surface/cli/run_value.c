/* Values of WebAssembly as text. */
#include "surface/cli/run_value.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

/* How a float is laid out. */
struct layout {
    unsigned bits;
    uint64_t infinity;
    uint64_t quiet;    /* the payload of a NaN that says nothing more */
    uint64_t fraction; /* mask of the payload */
};

static const struct layout layouts[] = {
    {32, 0x7f800000, 0x400000, 0x7fffff},
    {64, 0x7ff0000000000000, 0x8000000000000, 0xfffffffffffff},
};

static const struct layout *layout_of(char letter)
{
    return &layouts[letter == 'F'];
}

const char *run_value_type(char letter)
{
    switch (letter) {
    case 'i':
        return "i32";
    case 'I':
        return "i64";
    case 'f':
        return "f32";
    case 'F':
        return "f64";
    case 'r':
        return "funcref";
    case 'e':
        return "externref";
    default:
        CHECK_UNREACHABLE();
    }
}

/* Whole text, decimal or 0x. */
static bool parse_unsigned(const char *text, uint64_t *ret_value)
{
    char *end = NULL;
    bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = is_hex ? text + 2 : text;
    bool begins_well =
        is_hex ? isxdigit((unsigned char)*digits) != 0 : isdigit((unsigned char)*digits) != 0;
    errno = 0;
    *ret_value = strtoull(digits, &end, is_hex ? 16 : 10);
    return begins_well && *end == '\0' && errno == 0;
}

static bool parse_integer(const char *text, unsigned bits, uint64_t *ret_value)
{
    bool is_negative = text[0] == '-';
    uint64_t magnitude = 0;
    uint64_t most = bits == 64 ? UINT64_MAX : UINT32_MAX;
    if (!parse_unsigned(text + (is_negative || text[0] == '+'), &magnitude)) {
        return false;
    }
    if (magnitude > (is_negative ? most / 2 + 1 : most)) {
        return false;
    }
    *ret_value = (is_negative ? 0 - magnitude : magnitude) & most;
    return true;
}

/* "nan" and "nan:0x..." behind the sign. */
static bool parse_nan(const char *text, const struct layout *layout, uint64_t *ret_bits)
{
    uint64_t payload = layout->quiet;
    if (text[3] == ':' && !parse_unsigned(text + 4, &payload)) {
        return false;
    }
    if ((text[3] != ':' && text[3] != '\0') || payload == 0 || payload > layout->fraction) {
        return false;
    }
    *ret_bits = layout->infinity | payload;
    return true;
}

static bool parse_number(const char *text, const struct layout *layout, uint64_t *ret_bits)
{
    char *end = NULL;
    bool begins_well = isdigit((unsigned char)text[0]) || text[0] == '.';
    if (layout->bits == 64) {
        double number = strtod(text, &end);
        memcpy(ret_bits, &number, sizeof(number));
        return begins_well && *end == '\0' && isfinite(number);
    }
    float number = strtof(text, &end);
    uint32_t bits;
    memcpy(&bits, &number, sizeof(bits));
    *ret_bits = bits;
    return begins_well && *end == '\0' && isfinite(number);
}

static bool parse_float(const char *text, const struct layout *layout, uint64_t *ret_value)
{
    uint64_t bits = 0;
    if (text_starts_with(text, "bits:")) {
        return parse_unsigned(text + 5, ret_value) && (layout->bits == 64 || *ret_value >> 32 == 0);
    }
    bool is_negative = text[0] == '-';
    const char *rest = text + (is_negative || text[0] == '+');
    bool is_good;
    if (strcmp(rest, "inf") == 0) {
        bits = layout->infinity;
        is_good = true;
    } else if (text_starts_with(rest, "nan")) {
        is_good = parse_nan(rest, layout, &bits);
    } else {
        is_good = parse_number(rest, layout, &bits);
    }
    *ret_value = bits | (uint64_t)is_negative << (layout->bits - 1);
    return is_good;
}

/* null is 0; so that a module can tell 0 from it, numbers are one more. */
static bool parse_reference(char letter, const char *text, uint64_t *ret_value)
{
    if (strcmp(text, "null") == 0) {
        *ret_value = 0;
        return true;
    }
    if (letter == 'r' || !parse_unsigned(text, ret_value) || *ret_value == UINT64_MAX) {
        return false;
    }
    *ret_value += 1;
    return true;
}

/* As in WebAssembly's text: one '_' may stand between two digits.  NULL: it stands elsewhere. */
static char *without_underscores(const char *text)
{
    char *plain = memory_new(strlen(text) + 1, 1);
    size_t length = 0;
    for (size_t i = 0; text[i] != '\0'; i++) {
        bool is_between =
            i > 0 && isxdigit((unsigned char)text[i - 1]) && isxdigit((unsigned char)text[i + 1]);
        if (text[i] == '_' && !is_between) {
            free(plain);
            return NULL;
        }
        if (text[i] != '_') {
            plain[length++] = text[i];
        }
    }
    return plain;
}

static bool parse(char letter, const char *text, uint64_t *ret_value)
{
    MEMORY_OWNED char *plain = without_underscores(text);
    if (plain == NULL) {
        return false;
    }
    switch (letter) {
    case 'i':
    case 'I':
        return parse_integer(plain, letter == 'i' ? 32 : 64, ret_value);
    case 'f':
    case 'F':
        return parse_float(plain, layout_of(letter), ret_value);
    default:
        return parse_reference(letter, plain, ret_value);
    }
}

int run_value_parse(char letter, const char *text, uint64_t *ret_value, struct error *err)
{
    const char *type = run_value_type(letter);
    size_t length = strlen(type);
    const char *value =
        text_starts_with(text, type) && text[length] == ':' ? text + length + 1 : text;
    return parse(letter, value, ret_value)
        ? 0
        : error_set(err, ERROR_INVALID, "\"%.60s\" is not a value of type %s", text, type);
}

static void print_float(char letter, uint64_t value, struct buffer *text)
{
    const struct layout *layout = layout_of(letter);
    uint64_t magnitude = value & ~(UINT64_C(1) << (layout->bits - 1));
    const char *sign = magnitude != value ? "-" : "";
    if (magnitude > layout->infinity) {
        buffer_append_format(text, "%snan:0x%" PRIx64, sign, magnitude & layout->fraction);
    } else if (magnitude == layout->infinity) {
        buffer_append_format(text, "%sinf", sign);
    } else if (letter == 'f') {
        uint32_t bits = (uint32_t)value;
        float number;
        memcpy(&number, &bits, sizeof(number));
        buffer_append_format(text, "%.9g", (double)number);
    } else {
        double number;
        memcpy(&number, &value, sizeof(number));
        buffer_append_format(text, "%.17g", number);
    }
}

void run_value_print(char letter, uint64_t value, struct buffer *text)
{
    switch (letter) {
    case 'i':
        buffer_append_format(text, "%" PRId32, (int32_t)(uint32_t)value);
        break;
    case 'I':
        buffer_append_format(text, "%" PRId64, (int64_t)value);
        break;
    case 'f':
    case 'F':
        print_float(letter, value, text);
        break;
    case 'r':
        buffer_append_string(text, value != 0 ? "function" : "null");
        break;
    default:
        if (value == 0) {
            buffer_append_string(text, "null");
        } else {
            buffer_append_format(text, "%" PRIu64, value - 1);
        }
        break;
    }
}

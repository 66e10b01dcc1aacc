/*
 * DNS messages (RFC 1035, 4): a header of twelve bytes
 *
 *     0 id  2 QR opcode AA TC RD  3 RA Z AD CD rcode  4 questions  6 answers  8 authority  10 more
 *
 * then the question: labels (length, bytes), a zero, type, class.  Compressed names are only
 * written, never read: there is nothing in front of a question that it could point to.
 */
#include "engine/net/dns_message.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/net/net.h"

enum { BIT_ANSWER = 0x80, BIT_OURS = 0x04, BIT_RECURSION = 0x01, BIT_CAN_RECURSE = 0x80 };
enum { LABEL_MAX = 63, TTL_S = 5 }; /* machines come and go, and asking is cheap */

static uint16_t get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static void put_u16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* ---- Queries ---- */

/* Names are compared without regard to case (RFC 4343).  A dot or a control character inside a
 * label is no host's name: '?' is none either, so it is found nowhere, and passed on as it is. */
static char fold(uint8_t letter)
{
    return letter >= 'A' && letter <= 'Z'                 ? (char)(letter - 'A' + 'a')
        : letter <= ' ' || letter >= 127 || letter == '.' ? '?'
                                                          : (char)letter;
}

static bool read_name(const uint8_t *bytes, size_t length, size_t *at,
                      char ret_name[NET_DNS_NAME_SIZE])
{
    size_t used = 0;
    while (*at < length && bytes[*at] != 0) {
        size_t label = bytes[*at];
        if (label > LABEL_MAX || length - *at - 1 < label ||
            used + label + 1 >= NET_DNS_NAME_SIZE - 1) {
            return false;
        }
        for (size_t i = 0; i < label; i++) {
            ret_name[used++] = fold(bytes[*at + 1 + i]);
        }
        ret_name[used++] = '.';
        *at += label + 1;
    }
    if (*at >= length) {
        return false;
    }
    (*at)++;
    ret_name[used == 0 ? 0 : used - 1] = '\0';
    return true;
}

bool dns_read_query(const uint8_t *bytes, size_t length, struct dns_question *ret_question,
                    enum dns_code *ret_code)
{
    size_t at = DNS_HEADER;
    *ret_code = DNS_OK;
    if (length < DNS_HEADER || (bytes[2] & BIT_ANSWER) != 0) {
        return false;
    }
    if ((bytes[2] & 0x78) != 0) {
        *ret_code = DNS_NOT_DONE;
        return false;
    }
    *ret_code = DNS_FORMAT;
    if (get_u16(bytes + 4) != 1 || !read_name(bytes, length, &at, ret_question->name) ||
        length - at < 4) {
        return false;
    }
    ret_question->type = get_u16(bytes + at);
    ret_question->class = get_u16(bytes + at + 2);
    ret_question->length = at + 4;
    return true;
}

bool dns_is_answer(const uint8_t *query, const struct dns_question *question, const uint8_t *bytes,
                   size_t length)
{
    return length >= question->length && memcmp(bytes, query, 2) == 0 &&
        (bytes[2] & BIT_ANSWER) != 0 && get_u16(bytes + 4) == 1 &&
        memcmp(bytes + DNS_HEADER, query + DNS_HEADER, question->length - DNS_HEADER) == 0;
}

/* ---- Answers ---- */

size_t dns_empty_answer(const uint8_t *query, size_t question_length, enum dns_code code,
                        bool is_ours, uint8_t *ret_bytes)
{
    CHECK(question_length == 0 ||
          (question_length > DNS_HEADER && question_length <= DNS_ANSWER_MAX));
    memset(ret_bytes, 0, DNS_HEADER);
    memcpy(ret_bytes, query, 2);
    ret_bytes[2] =
        (uint8_t)(BIT_ANSWER | (query[2] & (0x78 | BIT_RECURSION)) | (is_ours ? BIT_OURS : 0));
    ret_bytes[3] = (uint8_t)(BIT_CAN_RECURSE | code);
    if (question_length == 0) {
        return DNS_HEADER;
    }
    put_u16(ret_bytes + 4, 1);
    memcpy(ret_bytes + DNS_HEADER, query + DNS_HEADER, question_length - DNS_HEADER);
    return question_length;
}

/* The name is that of the question: 0xc00c points to it. */
static size_t add_record(uint8_t *bytes, size_t length, uint16_t type, const void *data,
                         size_t data_length)
{
    CHECK(length + 12 + data_length <= DNS_ANSWER_MAX);
    uint8_t *at = bytes + length;
    put_u16(at, 0xc00c);
    put_u16(at + 2, type);
    put_u16(at + 4, DNS_CLASS_IN);
    put_u16(at + 6, 0);
    put_u16(at + 8, TTL_S);
    put_u16(at + 10, (unsigned)data_length);
    memcpy(at + 12, data, data_length);
    put_u16(bytes + 6, get_u16(bytes + 6) + 1U);
    return length + 12 + data_length;
}

/* As many as there is room for. */
static size_t add_addresses(uint8_t *bytes, size_t length, const uint32_t *addresses, size_t count)
{
    for (size_t i = 0; i < count && length + 16 <= DNS_ANSWER_MAX; i++) {
        const uint32_t data = htonl(addresses[i]);
        length = add_record(bytes, length, DNS_TYPE_A, &data, sizeof(data));
    }
    return length;
}

/* A name as labels; 0: it is none. */
static size_t write_name(const char *name, uint8_t *ret_bytes)
{
    size_t used = 0;
    for (const char *label = name; *label != '\0';) {
        size_t length = strcspn(label, ".");
        if (length == 0 || length > LABEL_MAX || used + length + 2 > 255) {
            return 0;
        }
        ret_bytes[used++] = (uint8_t)length;
        memcpy(ret_bytes + used, label, length);
        used += length;
        label += length + (label[length] == '.' ? 1 : 0);
    }
    ret_bytes[used++] = 0;
    return used;
}

/* "4.3.2.1.in-addr.arpa" is 1.2.3.4. */
static bool read_reverse(const char *name, uint32_t *ret_address)
{
    static const char suffix[] = ".in-addr.arpa";
    char text[NET_ADDRESS_TEXT_SIZE];
    uint32_t reversed = 0;
    size_t length = strlen(name);
    if (!text_ends_with(name, suffix) || length - strlen(suffix) >= sizeof(text)) {
        return false;
    }
    snprintf(text, sizeof(text), "%.*s", (int)(length - strlen(suffix)), name);
    if (!net_address_parse(text, &reversed)) {
        return false;
    }
    *ret_address = __builtin_bswap32(reversed);
    return true;
}

/* "web.blue.vm.internal" under "vm.internal" is "web.blue"; the domain itself is "". */
static bool is_under(const char *name, const char *domain, char ret_rest[NET_DNS_NAME_SIZE])
{
    size_t length = strlen(name);
    size_t tail = strlen(domain);
    if (length < tail || strcmp(name + length - tail, domain) != 0 ||
        (length > tail && name[length - tail - 1] != '.')) {
        return false;
    }
    size_t rest = length > tail ? length - tail - 1 : 0;
    memcpy(ret_rest, name, rest);
    ret_rest[rest] = '\0';
    return true;
}

static size_t answer_name(const struct net_dns_options *options, const uint8_t *query,
                          const struct dns_question *question, const char *name, uint8_t *bytes)
{
    uint32_t addresses[NET_DNS_ADDRESSES_MAX];
    size_t count = name[0] != '\0' ? options->find(name, addresses, options->context) : 0;
    CHECK(count <= NET_DNS_ADDRESSES_MAX);
    bool is_known = count > 0 || name[0] == '\0';
    bool wants_address = question->type == DNS_TYPE_A || question->type == DNS_TYPE_ANY;
    size_t length =
        dns_empty_answer(query, question->length, is_known ? DNS_OK : DNS_NO_NAME, true, bytes);
    return wants_address ? add_addresses(bytes, length, addresses, count) : length;
}

static size_t answer_reverse(const uint8_t *query, const struct dns_question *question,
                             const char *name, uint8_t *bytes)
{
    uint8_t labels[NET_DNS_NAME_SIZE];
    size_t length = dns_empty_answer(query, question->length, DNS_OK, true, bytes);
    size_t used = write_name(name, labels);
    bool wants_name = question->type == DNS_TYPE_PTR || question->type == DNS_TYPE_ANY;
    return wants_name && used > 0 && length + 12 + used <= DNS_ANSWER_MAX
        ? add_record(bytes, length, DNS_TYPE_PTR, labels, used)
        : length;
}

enum dns_verdict dns_answer(const struct net_dns_options *options, const uint8_t *query,
                            const struct dns_question *question, uint8_t *ret_bytes,
                            size_t *ret_length)
{
    char name[NET_DNS_NAME_SIZE];
    uint32_t address = 0;
    const char *domain = options->domain != NULL ? options->domain : NET_DNS_DOMAIN;
    if (question->class == DNS_CLASS_IN && is_under(question->name, domain, name)) {
        *ret_length = answer_name(options, query, question, name, ret_bytes);
        return DNS_ANSWERED;
    }
    if (question->class == DNS_CLASS_IN && read_reverse(question->name, &address) &&
        options->find_name(address, name, options->context)) {
        *ret_length = answer_reverse(query, question, name, ret_bytes);
        return DNS_ANSWERED;
    }
    if (options->is_closed) {
        *ret_length = dns_empty_answer(query, question->length, DNS_REFUSED, false, ret_bytes);
        return DNS_ANSWERED;
    }
    return DNS_PASS_ON;
}

/* ---- resolv.conf ---- */

size_t dns_read_resolvers(const char *text, char (*ret_addresses)[46], size_t max)
{
    size_t count = 0;
    for (const char *line = text; *line != '\0' && count < max;) {
        size_t length = strcspn(line, "\n");
        char word[16];
        char address[46];
        uint8_t bytes[16];
        MEMORY_OWNED char *copy = memory_copy_text(line, length);
        if (sscanf(copy, "%15s %45s", word, address) == 2 && strcmp(word, "nameserver") == 0 &&
            (inet_pton(AF_INET, address, bytes) == 1 || inet_pton(AF_INET6, address, bytes) == 1)) {
            memcpy(ret_addresses[count++], address, sizeof(address));
        }
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    return count;
}

/*
 * Blixard for C++17: blixard.h with strings, containers and results.  Header only, no exceptions.
 *
 *     #include "blixard.hpp"
 *
 *     blixard::response greet(blixard::request &request)
 *     {
 *         auto name = request.parameter("name").value_or("world");
 *         return blixard::response::text("Hello, " + name + "!\n");
 *     }
 *
 *     BLIXARD_SERVE(greet)
 *
 * What the host can be asked is in docs/user-guide/host-api.md.  It answers while a request is
 * answered, not while objects of static storage are made: those are made once, when the function is
 * deployed, and every request starts from the memory they left.
 */
#ifndef BLIXARD_HPP
#define BLIXARD_HPP

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "blixard.h"

namespace blixard
{

using milliseconds = std::chrono::milliseconds;

/* ---- Results ---- */

/* Why the host did not: a number of errno.h, and a sentence. */
struct failure {
    int number = 0;
    std::string text;
};

/* A value, or why there is none. */
template <class T> class result
{
  public:
    result(T value) : content_(std::move(value))
    {
    }
    result(failure why) : content_(std::move(why))
    {
    }

    bool ok() const
    {
        return content_.index() == 0;
    }
    explicit operator bool() const
    {
        return ok();
    }

    /* The value; where there is none the function ends (502), with the reason in its log. */
    T &operator*()
    {
        return value();
    }
    T *operator->()
    {
        return &value();
    }
    T &value()
    {
        if (!ok()) {
            blixard_log(BLIXARD_ERROR, error().text.c_str());
            std::abort();
        }
        return *std::get_if<0>(&content_);
    }
    T value_or(T fallback) const
    {
        return ok() ? *std::get_if<0>(&content_) : std::move(fallback);
    }

    /* Only where there is no value. */
    const failure &error() const
    {
        return *std::get_if<1>(&content_);
    }

  private:
    std::variant<T, failure> content_;
};

/* ---- Inside ---- */

namespace inside
{

inline failure failure_of(int32_t negative)
{
    return {-negative, blixard_error()};
}

/* Ask with a buffer, and read on what did not fit. */
template <class Ask> result<std::string> collect(Ask ask)
{
    std::string bytes(4096, '\0');
    int32_t length = ask(bytes.data(), bytes.size());
    if (length < 0) {
        return failure_of(length);
    }
    std::size_t there = bytes.size();
    bytes.resize(static_cast<std::size_t>(length));
    if (bytes.size() > there) {
        blixard_reply_read(static_cast<uint32_t>(there), bytes.data() + there,
                           bytes.size() - there);
    }
    return bytes;
}

inline uint64_t count(milliseconds time)
{
    return time.count() > 0 ? static_cast<uint64_t>(time.count()) : 0;
}

/* A time that is over ends at once: the host's 0 is "none". */
inline uint64_t lasting(milliseconds time)
{
    return time.count() < 0 ? 1 : count(time);
}

inline void quote(std::string_view text, std::string &out)
{
    static constexpr char digits[] = "0123456789abcdef";
    out += '"';
    for (char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < ' ') {
            out += "\\u00";
            out += digits[static_cast<unsigned char>(c) / 16];
            out += digits[static_cast<unsigned char>(c) % 16];
        } else {
            out += c;
        }
    }
    out += '"';
}

inline int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
        : c >= 'a' && c <= 'f'  ? c - 'a' + 10
        : c >= 'A' && c <= 'F'  ? c - 'A' + 10
                                : -1;
}

/* Percent-encoded and '+' for a space, as forms have it. */
inline std::string decode(std::string_view text)
{
    std::string out;
    for (std::size_t i = 0; i < text.size(); i++) {
        int high = text[i] == '%' && text.size() - i > 2 ? hex(text[i + 1]) : -1;
        int low = high >= 0 ? hex(text[i + 2]) : -1;
        if (low >= 0) {
            out += static_cast<char>(high * 16 + low);
            i += 2;
        } else {
            out += text[i] == '+' ? ' ' : text[i];
        }
    }
    return out;
}

inline std::optional<std::string> variable(const std::string &name)
{
    int32_t length = blixard_request_get(name.c_str(), nullptr, 0);
    if (length < 0) {
        return std::nullopt;
    }
    std::string value(static_cast<std::size_t>(length) + 1, '\0');
    blixard_request_get(name.c_str(), value.data(), value.size());
    value.pop_back();
    return value;
}

} // namespace inside

/* A string of JSON (RFC 8259, section 7). */
inline std::string quoted(std::string_view text)
{
    std::string out;
    inside::quote(text, out);
    return out;
}

/* ---- The request ---- */

class request
{
  public:
    std::string method() const
    {
        return inside::variable("REQUEST_METHOD").value_or("");
    }

    /* Behind the function's own: "" or what begins with '/', percent-decoded. */
    std::string path() const
    {
        return inside::variable("PATH_INFO").value_or("");
    }

    /* As it was sent, without the '?'. */
    std::string query() const
    {
        return inside::variable("QUERY_STRING").value_or("");
    }

    /* The first value of this name in the query, decoded. */
    std::optional<std::string> parameter(std::string_view name) const
    {
        std::string query = this->query();
        std::string_view rest = query;
        while (!rest.empty()) {
            std::string_view pair = rest.substr(0, rest.find('&'));
            rest.remove_prefix(pair.size() < rest.size() ? pair.size() + 1 : pair.size());
            std::size_t equals = pair.find('=');
            if (inside::decode(pair.substr(0, equals)) == name) {
                return inside::decode(equals == pair.npos ? "" : pair.substr(equals + 1));
            }
        }
        return std::nullopt;
    }

    /* A header field, by any case of its name. */
    std::optional<std::string> header(std::string_view name) const
    {
        std::string key;
        for (char c : name) {
            key += c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
        }
        bool is_plain = key == "CONTENT_TYPE" || key == "CONTENT_LENGTH";
        return inside::variable(is_plain ? key : "HTTP_" + key);
    }

    /* More of the body: how many bytes, 0 at its end, -1 when it broke off. */
    int32_t read(char *bytes, std::size_t size)
    {
        return blixard_request_read(bytes, size);
    }

    /* All of the body. */
    std::string body()
    {
        std::string all;
        char piece[4096];
        int32_t got = 0;
        while ((got = read(piece, sizeof(piece))) > 0) {
            all.append(piece, static_cast<std::size_t>(got));
        }
        if (got < 0) {
            blixard_log(BLIXARD_ERROR, "the request broke off");
            std::exit(1);
        }
        return all;
    }
};

/* ---- The answer ---- */

/* Where a body that is written in pieces goes; false: nobody takes it any more. */
class output
{
  public:
    bool write(std::string_view piece)
    {
        return blixard_response_write(piece.data(), piece.size()) == 0;
    }

    /* What was written so far goes to the client now. */
    bool flush()
    {
        return blixard_response_flush() >= 0;
    }
};

class response
{
  public:
    explicit response(int status = 200) : status_(status)
    {
    }

    static response with(std::string content_type, std::string body)
    {
        response made;
        made.body_ = std::move(body);
        made.header("Content-Type", std::move(content_type));
        return made;
    }
    static response text(std::string body)
    {
        return with("text/plain; charset=utf-8", std::move(body));
    }
    static response html(std::string body)
    {
        return with("text/html; charset=utf-8", std::move(body));
    }
    static response json(std::string body)
    {
        return with("application/json", std::move(body));
    }

    /* A body that is written piece by piece, after status and fields have been sent. */
    static response stream(std::string content_type, std::function<void(output &)> write)
    {
        response made = with(std::move(content_type), "");
        made.write_ = std::move(write);
        return made;
    }

    /* 200 to 599. */
    response &status(int status) &
    {
        status_ = status;
        return *this;
    }
    response status(int status) &&
    {
        return std::move(this->status(status));
    }

    /* One more header field. */
    response &header(std::string name, std::string value) &
    {
        fields_.emplace_back(std::move(name), std::move(value));
        return *this;
    }
    response header(std::string name, std::string value) &&
    {
        return std::move(this->header(std::move(name), std::move(value)));
    }

    /* Called by BLIXARD_SERVE.  What is no status and no header field makes it a 500. */
    void send() const
    {
        if (blixard_response_status(status_) < 0) {
            return fail(std::to_string(status_) + " is not a status from 200 to 599");
        }
        for (const auto &[name, value] : fields_) {
            if (blixard_response_header(name.c_str(), value.c_str()) < 0) {
                return fail(name + ": " + value + " is not a header field");
            }
        }
        output out;
        if (!out.write(body_)) {
            std::exit(1); /* nobody takes the answer: it is not whole */
        }
        if (write_) {
            write_(out);
        }
    }

    /* 500; why goes to the log and not to the client. */
    static void fail(const std::string &why)
    {
        blixard_log(BLIXARD_ERROR, why.c_str());
        blixard_.head_length = 0;
        blixard_response_status(500);
        blixard_response_text("the function failed; its log says why\n");
    }

  private:
    int status_;
    std::vector<std::pair<std::string, std::string>> fields_;
    std::string body_;
    std::function<void(output &)> write_;
};

/* For BLIXARD_SERVE: an answer, or a result of one. */
inline void send(const response &answer)
{
    answer.send();
}

inline void send(result<response> answer)
{
    if (answer) {
        answer->send();
    } else {
        response::fail(answer.error().text);
    }
}

/* Defines the function that answers one request by `answer`, which takes a request & and returns a
 * response or a result<response>. */
#define BLIXARD_SERVE(answer)             \
    BLIXARD_HANDLER                       \
    {                                     \
        ::blixard::request asked;         \
        ::blixard::send((answer)(asked)); \
    }

/* ---- Keys and values of the project ---- */

namespace kv
{

/* A value, and the revision it has: each write gives a new one. */
struct entry {
    std::string value;
    uint64_t revision = 0;
};

/* nullopt: there is no such key. */
inline result<std::optional<entry>> get(std::string_view key)
{
    uint64_t revision = 0;
    auto value = inside::collect([&](char *bytes, std::size_t size) {
        return blixard_v1_kv_get_(key.data(), key.size(), bytes, size, &revision);
    });
    if (value) {
        return std::optional<entry>(entry{std::move(*value), revision});
    }
    if (value.error().number == ENOENT) {
        return std::optional<entry>();
    }
    return value.error();
}

/* Write, whatever was there; the new revision.  A time to live of 0: for good. */
inline result<uint64_t> set(std::string_view key, std::string_view value,
                            milliseconds time_to_live = {})
{
    uint64_t revision = 0;
    int32_t r = blixard_v1_kv_set_(key.data(), key.size(), value.data(), value.size(),
                                   inside::lasting(time_to_live), &revision);
    if (r < 0) {
        return inside::failure_of(r);
    }
    return revision;
}

/* Write only if the key is at this revision (0: if there is no such key).  The new revision, or
 * nullopt: somebody else was faster. */
inline result<std::optional<uint64_t>> compare_and_set(std::string_view key, std::string_view value,
                                                       uint64_t expected,
                                                       milliseconds time_to_live = {})
{
    uint64_t revision = 0;
    int32_t r = blixard_v1_kv_cas_(key.data(), key.size(), value.data(), value.size(),
                                   inside::lasting(time_to_live), expected, &revision);
    if (r == -EBUSY) {
        return std::optional<uint64_t>();
    }
    if (r < 0) {
        return inside::failure_of(r);
    }
    return std::optional<uint64_t>(revision);
}

/* Write what `change` makes of the old value (nullopt: there was none), again until nobody was
 * faster; what was written. */
template <class Change> result<std::string> update(std::string_view key, Change change)
{
    for (;;) {
        auto old = get(key);
        if (!old) {
            return old.error();
        }
        std::optional<entry> &found = *old;
        std::string value = change(found ? std::optional<std::string>(found->value) : std::nullopt);
        auto written = compare_and_set(key, value, found ? found->revision : 0);
        if (!written) {
            return written.error();
        }
        if (*written) {
            return value;
        }
    }
}

/* Whether there was such a key, at this revision if one is given. */
inline result<bool> erase(std::string_view key, uint64_t expected = 0)
{
    int32_t r = blixard_v1_kv_delete_(key.data(), key.size(), expected);
    if (r == -ENOENT || (r == -EBUSY && expected != 0)) {
        return false;
    }
    if (r < 0) {
        return inside::failure_of(r);
    }
    return true;
}

/* Keys that begin with `prefix` and come after `after`, in order, at most `max` (0: 1,000). */
inline result<std::vector<std::string>> list(std::string_view prefix, std::string_view after = {},
                                             uint32_t max = 0)
{
    auto bytes = inside::collect([&](char *list, std::size_t size) {
        return blixard_v1_kv_list_(prefix.data(), prefix.size(), after.data(), after.size(), max,
                                   list, size);
    });
    if (!bytes) {
        return bytes.error();
    }
    std::vector<std::string> keys;
    std::size_t position = 0;
    std::size_t length = 0;
    while (const char *key = blixard_kv_next(bytes->data(), bytes->size(), &position, &length)) {
        keys.emplace_back(key, length);
    }
    return keys;
}

} // namespace kv

/* ---- Secrets that the function's configuration names (`secrets:` of blixard.yaml) ---- */

/* The value as it is now; failure EACCES: the configuration does not name it. */
inline result<std::string> secret(std::string_view name)
{
    return inside::collect([&](char *value, std::size_t size) {
        return blixard_v1_secret_get_(name.data(), name.size(), value, size);
    });
}

/* ---- Messages ---- */

/* A message of a queue, or a record of a stream. */
struct message {
    std::string body = {};
    std::string content_type = {};                      /* "": application/octet-stream */
    std::map<std::string, std::string> attributes = {}; /* beside the body */
    std::string key = {};                               /* of a record; a message's group */
    milliseconds delay = {};                            /* of a queue */
    uint32_t priority = 0;                              /* of a queue, 0 to 9 */

    std::string attributes_json() const
    {
        std::string out;
        for (const auto &[name, value] : attributes) {
            out += out.empty() ? '{' : ',';
            inside::quote(name, out);
            out += ':';
            inside::quote(value, out);
        }
        return out.empty() ? out : out + '}';
    }
};

namespace queue
{

/* The message's id. */
inline result<std::string> send(std::string_view queue, const message &message)
{
    std::string attributes = message.attributes_json();
    return inside::collect([&](char *id, std::size_t size) {
        return blixard_v1_queue_send_(queue.data(), queue.size(), message.body.data(),
                                      message.body.size(), message.content_type.data(),
                                      message.content_type.size(), attributes.data(),
                                      attributes.size(), message.key.data(), message.key.size(),
                                      inside::count(message.delay), message.priority, id, size);
    });
}

} // namespace queue

namespace stream
{

struct position {
    uint32_t partition = 0;
    uint64_t sequence = 0;
};

inline result<position> append(std::string_view stream, const message &record)
{
    uint64_t sequence = 0;
    std::string attributes = record.attributes_json();
    int32_t r = blixard_v1_stream_append_(stream.data(), stream.size(), record.key.data(),
                                          record.key.size(), record.body.data(), record.body.size(),
                                          record.content_type.data(), record.content_type.size(),
                                          attributes.data(), attributes.size(), &sequence);
    if (r < 0) {
        return inside::failure_of(r);
    }
    return position{static_cast<uint32_t>(r), sequence};
}

} // namespace stream

/* ---- Other functions of the project ---- */

struct answer {
    int status = 0;
    std::string fields; /* "Name: value\r\n" each */
    std::string body;
};

/* A call of "NAME", "NAME:ALIAS" or "NAME:VERSION". */
struct call {
    std::string function;
    std::string path = "/"; /* with its query */
    std::string method = "POST";
    std::string body = {};
    std::vector<std::pair<std::string, std::string>> headers = {};
    milliseconds timeout = {}; /* 0: what is left of this request's own time */

    /* Any status is an answer; a failure is a call that came to nothing. */
    result<answer> send() const
    {
        std::string fields;
        for (const auto &[name, value] : headers) {
            fields += name + ": " + value + "\r\n";
        }
        uint64_t limit = inside::lasting(timeout);
        auto bytes = inside::collect([&](char *buffer, std::size_t size) {
            return blixard_v1_invoke_(
                function.data(), function.size(), method.data(), method.size(), path.data(),
                path.size(), fields.data(), fields.size(), body.data(), body.size(),
                limit < UINT32_MAX ? static_cast<uint32_t>(limit) : UINT32_MAX, buffer, size);
        });
        if (!bytes) {
            return bytes.error();
        }
        struct blixard_response taken;
        blixard_take_response_(static_cast<int32_t>(bytes->size()), bytes->data(), bytes->size(),
                               &taken);
        return answer{taken.status, std::string(taken.fields, taken.fields_length),
                      std::string(reinterpret_cast<const char *>(taken.body), taken.length)};
    }
};

/* ---- Other servers: those of the function's list, fetch.allow in blixard.yaml ---- */

/* A request by HTTP or HTTPS. */
struct fetch {
    std::string url;
    std::string method = "GET";
    std::string body = {};
    std::vector<std::pair<std::string, std::string>> headers = {};
    milliseconds timeout = {}; /* 0: what is left of this request's own time */
    uint32_t how = 0;          /* BLIXARD_FETCH_MANUAL, BLIXARD_FETCH_NO_REDIRECT */

    /* The whole answer.  Any status is one; a failure's text begins with one word for why. */
    result<answer> send() const
    {
        std::string fields;
        for (const auto &[name, value] : headers) {
            fields += name + ": " + value + "\r\n";
        }
        uint64_t limit = inside::lasting(timeout);
        uint32_t rest = 0;
        auto bytes = inside::collect([&](char *buffer, std::size_t size) {
            return blixard_v1_fetch_(method.data(), method.size(), url.data(), url.size(),
                                     fields.data(), fields.size(), body.data(), body.size(),
                                     limit < UINT32_MAX ? static_cast<uint32_t>(limit) : UINT32_MAX,
                                     how, buffer, size, &rest);
        });
        if (!bytes) {
            return bytes.error();
        }
        struct blixard_response taken;
        blixard_take_response_(static_cast<int32_t>(bytes->size()), bytes->data(), bytes->size(),
                               &taken);
        answer whole{taken.status, std::string(taken.fields, taken.fields_length),
                     std::string(reinterpret_cast<const char *>(taken.body), taken.length)};
        static constexpr std::size_t piece = 65536;
        for (int32_t got = rest > 0 ? 1 : 0; got > 0;) {
            std::size_t there = whole.body.size();
            whole.body.resize(there + piece);
            got = blixard_fetch_read(static_cast<int32_t>(rest), whole.body.data() + there, piece);
            if (got < 0) {
                return inside::failure_of(got);
            }
            whole.body.resize(there + static_cast<std::size_t>(got));
        }
        return whole;
    }
};

/* ---- Spans, the log, facts ---- */

/* A span of the request's trace, as long as it lives. */
class span
{
  public:
    explicit span(std::string_view name) : number_(blixard_v1_span_begin_(name.data(), name.size()))
    {
    }
    span(const span &) = delete;
    span &operator=(const span &) = delete;
    ~span()
    {
        if (number_ >= 0) {
            blixard_v1_span_end_(number_, why_.data(), why_.size());
        }
    }

    void set(std::string_view name, std::string_view value)
    {
        blixard_v1_span_attribute_(number_, name.data(), name.size(), value.data(), value.size());
    }

    /* It will end as a failure. */
    void fail(std::string why)
    {
        why_ = std::move(why);
    }

  private:
    int32_t number_; /* negative: there is none, as when 16 are open */
    std::string why_;
};

/* A line of the log with fields: log(BLIXARD_INFO, "sent", {{"to", "Ada"}}). */
inline void log(blixard_level level, std::string_view text,
                const std::vector<std::pair<std::string, std::string>> &fields = {})
{
    std::string all;
    for (const auto &[name, value] : fields) {
        (all += name.c_str()) += '\0'; /* up to the first NUL, which ends a part */
        (all += value.c_str()) += '\0';
    }
    blixard_v1_log_(static_cast<int32_t>(level), text.data(), text.size(), all.data(), all.size());
}

/* How long until this request must be answered. */
inline milliseconds deadline()
{
    return milliseconds(static_cast<int64_t>(blixard_deadline_ms()));
}

inline result<std::string> metadata(blixard_fact fact)
{
    return inside::collect([&](char *text, std::size_t size) {
        return blixard_v1_metadata_(static_cast<uint32_t>(fact), text, size);
    });
}

} // namespace blixard

#endif

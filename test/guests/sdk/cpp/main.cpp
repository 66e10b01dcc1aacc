// What test/integration/sdk_test.py asks of every SDK, by path.
#include "claims.hpp"

using blixard::failure;
using blixard::request;
using blixard::response;
using blixard::result;
using namespace std::chrono_literals;

static std::string ask_early()
{
    auto found = blixard::kv::get("early");
    return found ? "there" : std::to_string(found.error().number);
}

static const std::string early = ask_early();

static result<response> facts()
{
    std::string out;
    for (int fact = BLIXARD_PROJECT; fact <= BLIXARD_REQUEST_ID; fact++) {
        auto text = blixard::metadata(static_cast<blixard_fact>(fact));
        if (!text) {
            return text.error();
        }
        out += *text + "\n";
    }
    out += std::to_string(blixard::metadata(BLIXARD_TRACEPARENT)->size()) + "\n";
    bool good = blixard::deadline() > 0ms && blixard::deadline() <= 30s;
    return response::text(out + (good ? "true\n" : "false\n"));
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static std::string joined(const std::vector<std::string> &keys)
{
    std::string out;
    for (const std::string &key : keys) {
        out += " " + key;
    }
    return out + "\n";
}

static result<response> keys()
{
    namespace kv = blixard::kv;
    std::string out = std::string("none ") + truth(!*kv::get("k/none")) + "\n";
    uint64_t first = *kv::set("k/one", "one");
    auto entry = *kv::get("k/one");
    out += std::string("get ") + truth(entry && entry->value == "one" && entry->revision == first) +
        "\n";
    out += std::string("lost ") + truth(!*kv::compare_and_set("k/one", "two", 0)) + "\n";
    out +=
        std::string("won ") + truth(kv::compare_and_set("k/one", "two", first)->has_value()) + "\n";
    for (int i = 0; i < 2; i++) {
        out += "update " + *kv::update("k/two", [](auto old) { return old.value_or("") + "x"; }) +
            "\n";
    }
    auto set = kv::set("k/three", std::string(100000, 'y'), 60s);
    if (!set) {
        return set.error();
    }
    if (auto over = kv::set("over", "", -1ms); !over) {
        return over.error();
    }
    out += "long " + std::to_string((*kv::get("k/three"))->value.size()) + "\n";
    out += "list" + joined(*kv::list("k/")) + "after" + joined(*kv::list("k/", "k/one", 1));
    out += std::string("stale ") + truth(*kv::erase("k/one", first)) + "\n";
    out += std::string("delete ") + truth(*kv::erase("k/one"));
    out += std::string(" ") + truth(*kv::erase("k/one")) + "\n";
    return response::text(out);
}

static result<response> send()
{
    blixard::message message{"{\"a\":1}", "application/json"};
    message.attributes["kind"] = "a \"b\"";
    message.priority = 3;
    std::string out =
        std::string("message ") + truth(!blixard::queue::send("jobs", message)->empty()) + "\n";
    blixard::message record{"record", "", {{"kind", "c"}}, "ada"};
    out += "record " + std::to_string(blixard::stream::append("events", record)->sequence) + "\n";
    auto nowhere = blixard::queue::send("nowhere", message);
    int number = nowhere ? 0 : nowhere.error().number;
    return response::text(out + "nowhere " + std::to_string(number) + " " +
                          truth(number == ENOENT) + "\n");
}

static result<response> call()
{
    blixard::call other{"other", "/request?name=a%20b", "PUT", "hello", {{"X-One", "1"}}};
    auto answer = other.send();
    if (!answer) {
        return answer.error();
    }
    bool is_marked = answer->fields.find("yes") != std::string::npos;
    std::string out =
        std::to_string(answer->status) + (is_marked ? " yes\n" : " no\n") + answer->body;
    auto nobody = blixard::call{"nobody"}.send();
    return response::text(out + "nobody " + std::to_string(nobody ? 0 : nobody.error().number) +
                          "\n");
}

static result<response> elsewhere(const std::string &base)
{
    auto got = blixard::fetch{base + "/plain?a=b"}.send();
    auto posted = blixard::fetch{base + "/plain", "POST", "hello", {{"X-Mine", "mine"}}}.send();
    auto large = blixard::fetch{base + "/big?n=3000000"}.send();
    if (!got || !posted || !large) {
        return !got ? got.error() : !posted ? posted.error() : large.error();
    }
    bool is_marked = got->fields.find("X-One: eins\r\n") != std::string::npos;
    auto refused = blixard::fetch{"http://example.com/"}.send();
    std::string why = refused ? "" : refused.error().text;
    return response::text(std::to_string(got->status) + (is_marked ? " eins " : " none ") +
                          got->body + "\n" + std::to_string(posted->status) + " " + posted->body +
                          "\n" + std::to_string(large->body.size()) + "\n" +
                          why.substr(0, why.find(':')) + "\n");
}

static response spans()
{
    blixard::span outer("outer");
    blixard::span inner("inner");
    inner.set("why", "a test");
    inner.fail("on purpose");
    return response::text("done\n");
}

static result<response> secrets()
{
    auto token = blixard::secret("sdk-token");
    auto other = blixard::secret("sdk-other");
    if (!token) {
        return token.error();
    }
    return response::text(*token + " " + std::to_string(other ? 0 : other.error().number) + "\n");
}

static response pieces(request &asked)
{
    return response::stream("text/plain", [&asked](blixard::output &out) {
        char piece[4096];
        size_t count = 0;
        out.write("first\n");
        out.flush();
        for (int32_t got = asked.read(piece, sizeof(piece)); got > 0;
             got = asked.read(piece, sizeof(piece))) {
            count += static_cast<size_t>(got);
        }
        out.write(std::to_string(count) + "\n");
    });
}

static result<response> answer(request &asked)
{
    static const std::map<std::string, std::function<result<response>()>> others = {
        {"/facts", facts}, {"/kv", keys},    {"/send", send},
        {"/call", call},   {"/span", spans}, {"/secret", secrets},
    };
    std::string path = asked.path();
    if (path == "/request") {
        return show(asked);
    }
    if (path == "/pieces") {
        return pieces(asked);
    }
    if (path == "/fetch") {
        return elsewhere(asked.query());
    }
    if (path == "/early") {
        return response::text(early + "\n");
    }
    if (path == "/log") {
        blixard::log(BLIXARD_WARNING, "careful", {{"who", "me"}, {"what", "a \"word\""}});
        return response(204);
    }
    if (path == "/fail") {
        return failure{EIO, "a reason"};
    }
    if (path == "/header") {
        return response::text("x").header("X-Bad", "a\nb");
    }
    auto found = others.find(path);
    return found != others.end() ? found->second() : response(404);
}

BLIXARD_SERVE(answer)

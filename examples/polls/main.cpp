// Polls: POST a choice, GET the counts.  A poll is the key poll/NAME; its value has a line per
// voter, "VOTER\tCHOICE\n".
#include <map>
#include <sstream>
#include <string>

#include "blixard.hpp"

using blixard::request;
using blixard::response;
using blixard::result;

using votes = std::map<std::string, std::string>; // who chose what

static votes parse(const std::string &text)
{
    votes found;
    std::istringstream lines(text);
    for (std::string voter, choice;
         std::getline(lines, voter, '\t') && std::getline(lines, choice);) {
        found[voter] = choice;
    }
    return found;
}

static std::string format(const votes &all)
{
    std::string text;
    for (const auto &[voter, choice] : all) {
        text += voter + "\t" + choice + "\n";
    }
    return text;
}

static response show(const votes &all)
{
    std::map<std::string, int> counts;
    for (const auto &[voter, choice] : all) {
        counts[choice]++;
    }
    std::string choices;
    for (const auto &[choice, count] : counts) {
        choices +=
            (choices.empty() ? "" : ", ") + blixard::quoted(choice) + ": " + std::to_string(count);
    }
    return response::json("{\"votes\": " + std::to_string(all.size()) + ", \"choices\": {" +
                          choices + "}}\n");
}

// What may stand in a line of a poll.
static bool is_word(const std::string &text)
{
    for (unsigned char c : text) {
        if (c < ' ') {
            return false;
        }
    }
    return !text.empty() && text.size() <= 64;
}

static result<response> vote(const std::string &key, request &asked)
{
    std::string voter = asked.parameter("voter").value_or("");
    std::string choice = asked.body();
    if (!is_word(voter) || !is_word(choice)) {
        return response::text(
                   "a vote has ?voter=NAME, and a choice as its body; both up to 64 characters\n")
            .status(400);
    }

    blixard::span span("count");
    int tries = 0;
    auto written = blixard::kv::update(key, [&](const std::optional<std::string> &old) {
        tries++;
        votes all = parse(old.value_or(""));
        all[voter] = choice;
        return format(all);
    });
    if (!written) {
        span.fail(written.error().text);
        return written.error();
    }
    span.set("tries", std::to_string(tries));
    blixard::log(BLIXARD_INFO, "voted", {{"poll", key}, {"choice", choice}});
    return show(parse(*written));
}

static result<response> answer(request &asked)
{
    std::string path = asked.path();
    if (path.size() < 2 || path.size() > 100) {
        return response::text("which poll? POST or GET /POLL\n").status(404);
    }
    std::string key = "poll" + path;
    if (asked.method() == "POST") {
        return vote(key, asked);
    }
    auto poll = blixard::kv::get(key);
    if (!poll) {
        return poll.error();
    }
    if (!*poll) {
        return response::text("nobody has voted there\n").status(404);
    }
    return show(parse((*poll)->value));
}

BLIXARD_SERVE(answer)

// @NAME@: counts the words of the body and answers in JSON.
//
// What stands outside of the handler is made once, when the function is deployed; every request
// starts from the memory it left, and nothing a request changes is seen by the next one.  Besides
// requests and answers blixard.hpp has keys and values, queues, streams, other functions and spans.
#include <map>
#include <sstream>
#include <string>

#include "blixard.hpp"

static blixard::response count(blixard::request &request)
{
    std::map<std::string, int> words;
    std::istringstream body(request.body());
    for (std::string word; body >> word;) {
        words[word]++;
    }

    std::string out;
    for (const auto &[word, times] : words) {
        out += (out.empty() ? "" : ", ") + blixard::quoted(word) + ": " + std::to_string(times);
    }

    // See it with: blixard fn logs @NAME@
    blixard::log(BLIXARD_INFO, "counted", {{"words", std::to_string(words.size())}});
    return blixard::response::json("{" + out + "}\n");
}

BLIXARD_SERVE(count)

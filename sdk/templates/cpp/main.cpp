// @NAME@: counts the words of the body and answers in JSON.
//
// A command: it is run once per request, from the same memory each time.  The body is standard
// input, what the request says besides is in the environment (CGI, RFC 3875), the answer is
// standard output: header lines, an empty line, the body.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

int main()
{
    std::map<std::string, int> words;
    std::string word;
    for (int c = 0; c != EOF;) {
        c = std::getchar();
        if (c != EOF && std::isspace(c) == 0) {
            word += static_cast<char>(c);
        } else if (!word.empty()) {
            words[word]++;
            word.clear();
        }
    }

    const char *query = std::getenv("QUERY_STRING");
    std::fprintf(stderr, "counted with query \"%s\"\n", query != nullptr ? query : ""); // blixard fn logs @NAME@

    std::printf("Content-Type: application/json\n\n{");
    const char *comma = "";
    for (const auto &[text, count] : words) {
        std::printf("%s\"", comma);
        for (char c : text) {
            std::printf(c == '"' || c == '\\' ? "\\%c" : "%c", c);
        }
        std::printf("\": %d", count);
        comma = ", ";
    }
    std::printf("}\n");
    return 0;
}

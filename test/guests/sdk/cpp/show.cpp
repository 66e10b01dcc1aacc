// In a file of its own: the state of a request is the program's, not a file's.
#include "claims.hpp"

blixard::response show(blixard::request &request)
{
    std::string out = request.method() + " " + request.path() + " " + request.query() + "\n";
    out += blixard::quoted(request.parameter("name").value_or("")) +
        (request.parameter("none") ? " false\n" : " true\n");
    out += blixard::quoted(request.header("x-one").value_or("")) +
        (request.header("X-None") ? " false\n" : " true\n");
    out += std::to_string(request.body().size()) + "\n";
    return blixard::response::text(out).status(201).header("X-Answer", "yes");
}

#include "blixard.hpp"

blixard::response show(blixard::request &request);

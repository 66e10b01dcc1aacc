#include "base/version.h"

const char blixard_version[] = BLIXARD_VERSION;
const char blixard_software[] = "blixard/" BLIXARD_VERSION;

/* Which Blixard this is: one place, so that a program of another version differs by one file. */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

extern const char blixard_version[];  /* "0.1.0" */
extern const char blixard_software[]; /* "blixard/0.1.0", for HTTP and CGI */

#endif

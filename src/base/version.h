/* version.h: the release's number, here and nowhere else: CMakeLists.txt reads this line. */
#ifndef LET_BASE_VERSION_H
#define LET_BASE_VERSION_H

#define LET_VERSION "0.1.0"

#endif

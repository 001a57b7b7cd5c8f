# Run at every build (cmake/commands.cmake): writes the commit into OUTPUT, and only when it is another one. SOURCE
# has to be the checkout itself: a copy of the source inside somebody else's repository has no commit.
if(NOT COMMIT AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND git -C ${SOURCE} rev-parse --short HEAD
    OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(text "/* Written by cmake/commit.cmake. */\n#define LET_COMMIT \"${COMMIT}\"\n")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT text STREQUAL old)
  file(WRITE ${OUTPUT} "${text}")
endif()

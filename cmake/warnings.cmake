# Curated warnings, all errors, for gcc and clang; and the sanitizers.
add_library(let_warnings INTERFACE)
target_compile_options(let_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Werror -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
  -Wmissing-prototypes -Wold-style-definition -Wvla -Wundef -Wpointer-arith -Wwrite-strings -Wformat=2
  -Wno-format-nonliteral -Wnull-dereference -Wimplicit-fallthrough -Wno-missing-field-initializers>)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # gcc follows pointers through inlining and sees NULL where an LET_ASSERT has already excluded it.
  target_compile_options(let_warnings INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-Wno-null-dereference -Wlogical-op -Wduplicated-cond>)
endif()
add_compile_options(-fno-omit-frame-pointer -fvisibility=hidden)
add_compile_definitions(_GNU_SOURCE)

if(GPULET_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
elseif(GPULET_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(GPULET_SANITIZE)
  message(FATAL_ERROR "GPULET_SANITIZE is '${GPULET_SANITIZE}': use address, thread, or nothing")
endif()

# Everything a fuzz target reaches is instrumented, so the flags are the whole build's.
if(GPULET_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()

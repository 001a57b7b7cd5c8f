# Every library outside the C library, in one place. Static archives where Debian ships them, so that one
# binary also runs on a GPU host that has none of them.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

function(let_external name)
  cmake_parse_arguments(E "" "HEADER" "LIBS;EXTRA" ${ARGN})
  add_library(let_external_${name} INTERFACE)
  find_path(${name}_INCLUDE ${E_HEADER})
  if(NOT ${name}_INCLUDE)
    message(FATAL_ERROR "${E_HEADER} is missing: run ./dev deps")
  endif()
  target_include_directories(let_external_${name} SYSTEM INTERFACE ${${name}_INCLUDE})
  foreach(lib ${E_LIBS})
    find_library(${name}_${lib}_LIB NAMES lib${lib}.a ${lib})
    if(NOT ${name}_${lib}_LIB)
      message(FATAL_ERROR "lib${lib} is missing: run ./dev deps")
    endif()
    target_link_libraries(let_external_${name} INTERFACE ${${name}_${lib}_LIB})
  endforeach()
  target_link_libraries(let_external_${name} INTERFACE ${E_EXTRA})
endfunction()

let_external(uv      HEADER uv.h        LIBS uv_a EXTRA Threads::Threads ${CMAKE_DL_LIBS} rt)
let_external(jansson HEADER jansson.h   LIBS jansson)
let_external(yaml    HEADER yaml.h      LIBS yaml)
let_external(cmocka  HEADER cmocka.h    LIBS cmocka)
# libstdc++ stays dynamic: with a static copy in the program, CUDA's libraries (which the worker loads with the torch
# plugin) resolve part of their symbols to it and crash.
let_external(clp     HEADER coin/Clp_C_Interface.h LIBS Clp CoinUtils bz2 z lapack blas EXTRA stdc++)

# The compiler's own run-time library, statically too.
add_library(let_external_static INTERFACE)
if(NOT GPULET_SANITIZE)
  target_link_options(let_external_static INTERFACE -static-libgcc)
endif()

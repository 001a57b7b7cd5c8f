# One file in src/cmd is one subcommand: import_glet.c defines let_command_import_glet. This writes the list that
# cmd.c includes: those a reader looks for first, then any other.
file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cmd/*.c)
set(present)
foreach(file ${files})
  get_filename_component(id ${file} NAME_WE)
  if(NOT id MATCHES "^(main|cmd)$" AND NOT id MATCHES "_test$")
    file(STRINGS ${file} defined REGEX "^const let_command let_command_${id} =" LIMIT_COUNT 1)
    if(defined)
      list(APPEND present ${id})
    endif()
  endif()
endforeach()
set(list "/* Written by cmake/commands.cmake. */\n")
foreach(id serve run profile plan load import_glet ${present})
  if(id IN_LIST present)
    list(REMOVE_ITEM present ${id})
    string(APPEND list "LET_COMMAND(${id})\n")
  endif()
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/cmd_list.h CONTENT "${list}" @ONLY)
target_include_directories(let_cmd PRIVATE ${CMAKE_BINARY_DIR}/generated)

# The commit that was built, for --version: looked up at every build, empty outside a checkout.
set(GPULET_COMMIT "" CACHE STRING "the commit to name in --version; empty: ask git")
add_custom_target(let_commit
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DOUTPUT=${CMAKE_BINARY_DIR}/generated/commit.h
          -DCOMMIT=${GPULET_COMMIT} -P ${CMAKE_SOURCE_DIR}/cmake/commit.cmake
  BYPRODUCTS ${CMAKE_BINARY_DIR}/generated/commit.h
  VERBATIM)
add_dependencies(let_cmd let_commit)

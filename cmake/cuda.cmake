# NVIDIA GPUs: only the header is needed, the driver is dlopened. Without it src/device/cuda answers that it was
# built without.
file(GLOB let_cuda_dirs /usr/local/cuda/include /usr/local/cuda-*/include /usr/local/cuda/targets/*/include)
find_path(CUDA_H cuda.h HINTS ${let_cuda_dirs} $ENV{CUDA_HOME}/include /usr/include)
if(CUDA_H)
  file(STRINGS ${CUDA_H}/cuda.h let_cuda_version REGEX "^#define CUDA_VERSION +[0-9]+")
  string(REGEX REPLACE "[^0-9]" "" let_cuda_version "${let_cuda_version}")
endif()
if(TARGET let_device AND CUDA_H AND let_cuda_version GREATER_EQUAL 12050)
  target_compile_definitions(let_device PRIVATE LET_HAVE_CUDA=1)
  target_include_directories(let_device SYSTEM PRIVATE ${CUDA_H})
  target_link_libraries(let_device PUBLIC Threads::Threads ${CMAKE_DL_LIBS})
  add_library(gpulet_fake_cuda SHARED src/device/cuda/fake/fake_cuda.c)
  target_include_directories(gpulet_fake_cuda SYSTEM PRIVATE ${CUDA_H})
  target_link_libraries(gpulet_fake_cuda PRIVATE let_warnings Threads::Threads)
  # In the place of the PyTorch plugin, for test/e2e/cuda_test.py.
  add_library(gpulet_fake_engine SHARED src/device/cuda/fake/fake_engine.c)
  target_include_directories(gpulet_fake_engine SYSTEM PRIVATE ${CUDA_H})
  target_link_libraries(gpulet_fake_engine PRIVATE let_engine gpulet_fake_cuda let_warnings)
  set_target_properties(gpulet_fake_engine PROPERTIES OUTPUT_NAME gpulet_torch
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fake)
  if(TARGET device_cuda_cuda_test)
    target_compile_definitions(device_cuda_cuda_test PRIVATE LET_HAVE_CUDA=1)
    add_dependencies(device_cuda_cuda_test gpulet_fake_cuda)
    set_tests_properties(device_cuda_cuda_test PROPERTIES
      ENVIRONMENT GPULET_CUDA_DRIVER=$<TARGET_FILE:gpulet_fake_cuda>)
  endif()
endif()

# Runs on a GPU host; linked here and carried there, like gpulet itself. test/gpu/run.sh uses it.
if(TARGET gpulet_fake_cuda AND NOT GPULET_SANITIZE)
  add_executable(device_check test/gpu/device_check.c)
  target_include_directories(device_check SYSTEM PRIVATE ${CUDA_H})
  target_link_libraries(device_check PRIVATE let_device let_warnings let_external_static)
  set_target_properties(device_check PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endif()

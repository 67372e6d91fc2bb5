# TensorRT::TensorRT, of the headers in TensorRT_ROOT/include and the library TensorRT_LIBRARY_NAME (nvinfer, or
# tensorrt_rtx) in TensorRT_ROOT/lib; both places can be said by themselves, TensorRT_INCLUDE_DIR and TensorRT_LIBRARY.
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATH_SUFFIXES include)
find_library(TensorRT_LIBRARY NAMES ${TensorRT_LIBRARY_NAME} lib${TensorRT_LIBRARY_NAME}.so.1 PATH_SUFFIXES lib lib64)
if(TensorRT_INCLUDE_DIR)
  set(TensorRT_HAS_RTX_INTERFACE OFF)
  file(GLOB _headers "${TensorRT_INCLUDE_DIR}/NvInferRuntime*.h")
  foreach(_header IN LISTS _headers)
    file(STRINGS "${_header}" _found REGEX "createRuntimeCache" LIMIT_COUNT 1)
    if(_found)
      set(TensorRT_HAS_RTX_INTERFACE ON)
    endif()
  endforeach()
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR)
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  # As a system's headers: their warnings are not ours.
  set_target_properties(TensorRT::TensorRT PROPERTIES IMPORTED_LOCATION "${TensorRT_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY)

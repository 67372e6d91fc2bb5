# WebPDemux::WebPDemux: libwebp's reader of whole files, which is a library of its own.
find_path(WebPDemux_INCLUDE_DIR webp/demux.h)
find_library(WebPDemux_LIBRARY webpdemux)
find_library(WebPDemux_DECODER webp)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(WebPDemux REQUIRED_VARS WebPDemux_LIBRARY WebPDemux_DECODER WebPDemux_INCLUDE_DIR)
if(WebPDemux_FOUND AND NOT TARGET WebPDemux::WebPDemux)
  add_library(WebPDemux::WebPDemux UNKNOWN IMPORTED)
  set_target_properties(WebPDemux::WebPDemux PROPERTIES IMPORTED_LOCATION "${WebPDemux_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${WebPDemux_INCLUDE_DIR}" INTERFACE_LINK_LIBRARIES "${WebPDemux_DECODER}")
endif()
mark_as_advanced(WebPDemux_INCLUDE_DIR WebPDemux_LIBRARY WebPDemux_DECODER)

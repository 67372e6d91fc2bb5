// Which TensorRT the library was built with, in the words of manifests.
#pragma once

namespace hemf {

#if defined(HEMF_TENSORRT_RTX)
inline constexpr const char* flavour = "tensorrt-rtx";
#else
inline constexpr const char* flavour = "tensorrt";
#endif

}  // namespace hemf

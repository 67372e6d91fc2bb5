// Stands for the decoders that this build has no library for.
#include "formats.hpp"

namespace hemf::formats {

namespace {

[[maybe_unused]] Refused not_built(const char* format, const char* library) {
    return {std::string(" is a ") + format + " file, which this build doesn't read.",
            std::string("Build the C++ library where ") + library + " is, or save the image as PNG.",
            ExitCode::missing_capability};
}

}  // namespace

#if !defined(HEMF_WITH_TIFF)
Decoded tiff(Bytes) { throw not_built("TIFF", "libtiff"); }
#endif

#if !defined(HEMF_WITH_WEBP)
Decoded webp(Bytes) { throw not_built("WebP", "libwebp"); }
#endif

}  // namespace hemf::formats

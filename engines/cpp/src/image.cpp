#include "hemf/image.hpp"

#include <cstring>
#include <new>

#include "file.hpp"
#include "formats.hpp"
#include "hemf/text.hpp"

namespace hemf {

namespace {

constexpr std::size_t largest_file = std::size_t{1} << 30;
constexpr const char* scale_down = "Scale it down.";

using formats::Bytes;
using Decoder = formats::Decoded (*)(Bytes);

Decoder decoder_for(Bytes file) {
    if (file.starts_with("\xff\xd8\xff", 3)) return formats::jpeg;
    if (file.starts_with("\x89PNG\r\n\x1a\n", 8)) return formats::png;
    if (file.starts_with("BM", 2)) return formats::bmp;
    const bool tiff = file.starts_with("II*\0", 4) || file.starts_with("MM\0*", 4) || file.starts_with("II+\0", 4) ||
                      file.starts_with("MM\0+", 4);
    if (tiff) return formats::tiff;
    if (file.starts_with("RIFF", 4) && file.size >= 12 && std::memcmp(file.data + 8, "WEBP", 4) == 0)
        return formats::webp;
    return nullptr;
}

}  // namespace

namespace formats {

void check_size(std::uint64_t width, std::uint64_t height) {
    if (width == 0 || height == 0) throw broken("it has no pixels");
    if (width > static_cast<std::uint64_t>(max_pixels) || height > static_cast<std::uint64_t>(max_pixels) / width) {
        throw Refused{" is too large: " + std::to_string(width) + " × " + std::to_string(height) + " pixels; at most " +
                          with_commas(max_pixels) + " are read.",
                      scale_down};
    }
}

Refused frames(std::uint64_t count) {
    return {" holds " + std::to_string(count) + " frames.", "Save the one that is meant as an image."};
}

Image blank(std::uint32_t width, std::uint32_t height) {
    Image image{static_cast<int>(width), static_cast<int>(height), {}};
    image.rgb.resize(static_cast<std::size_t>(width) * height * 3);
    return image;
}

[[maybe_unused]] static Refused not_built(const char* format, const char* library) {
    return {std::string(" is a ") + format + " file, which this build doesn't read.",
            std::string("Build the C++ library where ") + library + " is, or save the image as PNG.",
            ExitCode::missing_capability};
}

#if !defined(HEMF_WITH_TIFF)
Decoded tiff(Bytes) { throw not_built("TIFF", "libtiff"); }
#endif

#if !defined(HEMF_WITH_WEBP)
Decoded webp(Bytes) { throw not_built("WebP", "libwebp"); }
#endif

}  // namespace formats

Image decode(const std::uint8_t* data, std::size_t size, const std::string& name) {
    const Bytes file{data, size};
    try {
        const Decoder decoder = decoder_for(file);
        if (decoder == nullptr)
            throw formats::Refused{" is not an image of a known kind (JPEG, PNG, TIFF, BMP, WEBP).", {}};
        formats::Decoded decoded = decoder(file);
        return formats::upright(std::move(decoded.image), decoded.orientation);
    } catch (const formats::Refused& refused) {
        throw Error(refused.code, name + refused.reason, refused.hint);
    } catch (const std::bad_alloc&) {
        throw bad_input(name + " needs more memory than there is.", scale_down);
    }
}

Image decode(const std::string& path) {
    std::string problem;
    const std::vector<std::uint8_t> content = files::read(path, largest_file, problem);
    if (problem == files::not_regular) throw bad_input(path + " is not a regular file.");
    if (problem == files::too_large) throw bad_input(path + " is too large: at most 1 GiB is read.", scale_down);
    if (!problem.empty()) throw bad_input(path + " can't be decoded: " + problem + ".");
    return decode(content.data(), content.size(), path);
}

}  // namespace hemf

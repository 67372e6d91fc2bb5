// One decoder a format. Decoders know no paths: `decode` adds the file's name to what they refuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "hemf/error.hpp"
#include "hemf/image.hpp"

namespace hemf::formats {

// A view of a file's bytes, with numbers read from it; the reader checks first that they are there.
struct Bytes {
    const std::uint8_t* data = nullptr;
    std::size_t size = 0;

    bool has(std::size_t offset, std::size_t count) const { return offset <= size && count <= size - offset; }

    // The bytes from `offset` on; none beyond the end.
    Bytes from(std::size_t offset) const { return offset < size ? Bytes{data + offset, size - offset} : Bytes{}; }

    Bytes first(std::size_t count) const { return {data, count < size ? count : size}; }

    bool starts_with(const char* text, std::size_t length) const {
        return size >= length && std::memcmp(data, text, length) == 0;
    }

    std::uint32_t u16(std::size_t offset, bool big) const {
        const std::uint32_t a = data[offset], b = data[offset + 1];
        return big ? (a << 8 | b) : (b << 8 | a);
    }

    std::uint32_t u32(std::size_t offset, bool big) const {
        const std::uint32_t a = u16(offset, big), b = u16(offset + 2, big);
        return big ? (a << 16 | b) : (b << 16 | a);
    }
};

// Why an image is refused; `reason` follows the file's name.
struct Refused {
    std::string reason;
    std::string hint;
    ExitCode code = ExitCode::bad_input;
};

inline Refused broken(const std::string& what) { return {" can't be decoded: " + what + ".", {}}; }
inline Refused truncated() { return broken("image file is truncated"); }
Refused frames(std::uint64_t count);
constexpr const char* eight_or_sixteen = "Save it as TIFF or PNG of 8 or 16 bits a sample, black as zero.";

// Refuses images that are too large, before memory is allocated for them.
void check_size(std::uint64_t width, std::uint64_t height);

// An image with its memory; the size has been checked.
Image blank(std::uint32_t width, std::uint32_t height);

// Pixels, and the EXIF orientation (1 to 8) that turns them upright.
struct Decoded {
    Image image;
    int orientation = 1;
};

Decoded jpeg(Bytes file);
Decoded png(Bytes file);
Decoded bmp(Bytes file);
Decoded tiff(Bytes file);
Decoded webp(Bytes file);

// Orientation in an EXIF block (with or without its "Exif\0\0"), 0 where it has none.
int exif_orientation(Bytes block);
// Orientation in an XMP packet, 0 where it has none.
int xmp_orientation(Bytes packet);

// The image turned upright.
Image upright(Image image, int orientation);

// Pillow's naive conversion of one pixel: no colour management.
inline void cmyk_to_rgb(const std::uint8_t* cmyk, std::uint8_t* rgb) {
    const int white = 255 - cmyk[3];
    for (int channel = 0; channel < 3; ++channel) {
        const int product = cmyk[channel] * white + 128;
        rgb[channel] = static_cast<std::uint8_t>(white - ((product + (product >> 8)) >> 8));
    }
}

// A sample of `bits` bits, at most 16 → 8 bits, rounded. No value lies halfway.
inline std::uint8_t eight_bits(std::uint32_t value, int bits) {
    const std::uint32_t white = (1U << bits) - 1;
    return static_cast<std::uint8_t>((value * 510 + white) / (2 * white));
}

}  // namespace hemf::formats

// One decoder a format. They know pixels and nothing of paths: what they refuse, `decode` tells with the file's name.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "hemf/error.hpp"
#include "hemf/image.hpp"

namespace hemf::formats {

// Why an image is refused; `told` follows the file's name.
struct Refused {
    std::string told;
    std::string hint;
    ExitCode code = ExitCode::bad_input;
};

inline Refused broken(const std::string& reason) { return {" can't be decoded: " + reason + ".", {}}; }
inline Refused truncated() { return broken("image file is truncated"); }
Refused frames(std::uint64_t count);
constexpr const char* eight_or_sixteen = "Save it as TIFF or PNG of 8 or 16 bits a sample, black as zero.";

// Refuses images that are too large, before any memory is taken for them.
void check_size(std::uint64_t width, std::uint64_t height);

// An image with its memory; the size was checked.
Image blank(std::uint32_t width, std::uint32_t height);

// Upright pixels, and the EXIF orientation (1 to 8) that they are to be turned by.
struct Decoded {
    Image image;
    int orientation = 1;
};

Decoded jpeg(Bytes file);
Decoded png(Bytes file);
Decoded bmp(Bytes file);
Decoded tiff(Bytes file);
Decoded webp(Bytes file);

// What the text chunks, the animation chunk and the chunk of significant bits of a PNG file say; also checks the sums
// of what precedes its pixels.
struct PngMetadata {
    int orientation = 1;
    std::uint32_t frames = 1;
    std::vector<int> used;  // bits of each channel, where the file says that they are fewer than it stores; else none
};
PngMetadata png_metadata(Bytes file);

// What the segments before the pixels of a JPEG file say. Pictures behind the first (MPO) are not the picture.
struct JpegMetadata {
    int orientation = 1;
    int bits = 8;  // a sample
};
JpegMetadata jpeg_metadata(Bytes file);

// Orientation in an EXIF block (with or without its "Exif\0\0"), 0 where it has none.
int exif_orientation(Bytes block);
// Orientation in an XMP packet, 0 where it has none.
int xmp_orientation(Bytes packet);

// Turned as EXIF asks for.
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

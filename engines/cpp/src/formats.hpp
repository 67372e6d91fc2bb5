// One decoder a format. They know pixels and nothing of paths: what they refuse, `decode` tells with the file's name.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

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

// What the text chunks and the animation chunk of a PNG file say; also checks the sums of what precedes its pixels.
struct PngMetadata {
    int orientation = 1;
    std::uint32_t frames = 1;
};
PngMetadata png_metadata(Bytes file);

// The same of a JPEG file's application segments.
struct JpegMetadata {
    int orientation = 1;
    std::uint32_t frames = 1;
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

// 16-bit greyscale → 8 bits, rounded. No value lies halfway.
inline std::uint8_t eight_bits(std::uint32_t value) { return static_cast<std::uint8_t>((value + 128) / 257); }

}  // namespace hemf::formats

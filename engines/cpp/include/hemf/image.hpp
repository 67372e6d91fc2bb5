// Image files → RGB pixels, by the rules of hemf_export/images/images.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hemf {

constexpr std::int64_t max_pixels = 100'000'000;  // a larger image is refused as a decompression bomb

// Pixels in rows from the top, three bytes a pixel: red, green, blue.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;
};

// Read an image file as RGB, turned upright by its EXIF orientation. Its content decides the format, not its name.
//
// 16-bit greyscale is scaled to 8 bits, palettes are resolved, alpha is dropped, CMYK is converted as Pillow does.
// JPEG, PNG and BMP are read; TIFF and WebP where the library was built with libtiff and libwebp.
//
// Throws Error: not a regular file, not an image of a known kind, truncated, several frames, or too large (bad_input);
// a format that this build doesn't read (missing_capability).
Image decode(const std::string& path);

// Decode the bytes of a file; messages call it `name`.
Image decode(const std::uint8_t* data, std::size_t size, const std::string& name);

}  // namespace hemf

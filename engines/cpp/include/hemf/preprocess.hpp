// How an image becomes the network's input, as every manifest describes it: Preprocess in hemf_export/images/images.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hemf/image.hpp"

namespace hemf {

constexpr std::int64_t max_resized_pixels = 16'000'000;  // of a larger resized image only the crop is computed

struct Preprocess {
    enum class Mode { crop, squash };

    int size = 224;          // height and width of the input, in pixels
    Mode mode = Mode::crop;  // the centre of the resized image, or all of it squashed to size × size
    int resize = 256;        // the shorter side before the crop, in pixels; without effect on squash
    std::array<double, 3> mean{0.5, 0.5, 0.5};       // per channel (RGB), of values in 0 … 1
    std::array<double, 3> deviation{0.5, 0.5, 0.5};  // "std" in the manifest

    // Throws Error (bad_input) where a value is out of range.
    void check() const;

    // RGB image → (size, size, 3) bytes: Pillow's antialiased bilinear resize, and the crop.
    std::vector<std::uint8_t> pixels(const Image& image) const;
    void pixels(const Image& image, std::uint8_t* out) const;

    // (images, size, size, 3) bytes → (images, 3, size, size) floats: (x / 255 - mean) / deviation.
    std::vector<float> normalize(const std::uint8_t* pixels, std::size_t images) const;
    void normalize(const std::uint8_t* pixels, std::size_t images, float* out) const;

    // Normalized pixels in their own order, (images, size, size, 3) floats.
    std::vector<float> normalize_channels_last(const std::uint8_t* pixels, std::size_t images) const;

    // Bytes of the pixels of one image.
    std::size_t pixel_bytes() const { return static_cast<std::size_t>(size) * static_cast<std::size_t>(size) * 3; }

private:
    using Levels = std::array<std::array<float, 256>, 3>;  // the result for each value in each channel
    Levels levels() const;
};

}  // namespace hemf

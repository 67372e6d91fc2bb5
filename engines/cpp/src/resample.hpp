// The antialiased bilinear filter that Pillow resizes with, in its fixed-point arithmetic.
#pragma once

#include <cstdint>

#include "hemf/image.hpp"

namespace hemf {

// How one side of an image is resized. Only the outputs inside the crop are computed.
struct Side {
    float from = 0;  // the stretch of the source, in pixels; Pillow keeps a box in single precision
    float to = 0;
    int outputs = 0;  // pixels that the stretch becomes
    int first = 0;    // the first output that is computed
    int count = 0;    // how many are
};

// Resized image → across.count × down.count RGB pixels at `out`, one side after the other.
void resample(const Image& image, const Side& across, const Side& down, std::uint8_t* out);

}  // namespace hemf

// The antialiased bilinear filter that Pillow resizes with, in its fixed-point arithmetic.
#pragma once

#include <cstdint>

#include "hemf/image.hpp"

namespace hemf {

// How one side of an image is resized. Of all outputs only those of the crop are computed.
struct Side {
    float from = 0;  // of the source, in pixels; Pillow keeps a box in single precision
    float to = 0;
    int outputs = 0;  // that this stretch becomes
    int first = 0;    // of the outputs that are wanted
    int count = 0;    // of them
};

// Resized image → across.count × down.count RGB pixels at `out`, one side after the other.
void resample(const Image& image, const Side& across, const Side& down, std::uint8_t* out);

}  // namespace hemf

// What a model is fed: normalized floats, raw resized pixels, or whole raw images of one size, as in
// hemf_export/images/model_input.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hemf/image.hpp"
#include "hemf/preprocess.hpp"
#include "hemf/runner.hpp"

namespace hemf {

constexpr int max_source_side = 10'000;  // pixels

// The size in pixels of the raw images that a model resizes itself.
struct SourceSize {
    int height = 0;
    int width = 0;

    // Throws Error (usage): a side below 1 or above max_source_side, or more than max_pixels in all.
    void check() const;

    std::string text() const;  // HEIGHTxWIDTH
};

// The order of a batch's axes: images, channels, height, width, or the channels last.
enum class Layout { nchw, nhwc };

// An image's pixels are (height, width, 3) bytes: the resized crop, or the whole image for a model that resizes it
// itself. A runner is fed the pixels, or their normalized values if the model doesn't take raw pixels.
struct ModelInput {
    Preprocess preprocess;
    bool raw = false;                  // the model takes (N, H, W, 3) bytes, not normalized (N, 3, H, W) floats
    std::optional<SourceSize> source;  // set if the model resizes images itself
    std::optional<Layout> layout{};    // the order of the axes, where it is another than that

    // Height and width of each image, by path.
    using Sizes = std::map<std::string, std::pair<int, int>>;

    int height() const { return source ? source->height : preprocess.size; }  // of the pixels
    int width() const { return source ? source->width : preprocess.size; }
    bool channels_last() const { return layout ? *layout == Layout::nhwc : raw; }
    std::size_t pixel_bytes() const;          // bytes of one image's pixels
    std::size_t fed_bytes() const;            // bytes of one image as the model is fed it
    std::vector<std::int64_t> shape() const;  // shape of one image as the model is fed it

    // Throws Error (usage): an impossible source size, or one for a model that doesn't take raw pixels.
    void check() const;

    // Throws Error (bad_input) with both sizes where an image is of another size than the model takes.
    void require_sizes(const Sizes& sizes) const;

    // The pixels of an image; messages call it `name`. Throws Error (bad_input) as `require_sizes` does.
    void pixels(const Image& image, const std::string& name, std::uint8_t* out) const;
    std::vector<std::uint8_t> pixels(const Image& image, const std::string& name = "the image") const;

    // Pixels (images, height, width, 3) → logits; normalizes them and orders their axes as the runner needs.
    std::vector<float> infer(Runner& runner, const std::uint8_t* pixels, int images) const;
};

}  // namespace hemf

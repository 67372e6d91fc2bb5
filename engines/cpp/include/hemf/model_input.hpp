// How an image becomes what a file takes: normalized, raw and resized, or raw as it is, of one size: as
// hemf.model_input has it.
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

constexpr int max_source_side = 10'000;  // of raw images that a file resizes itself

// The size of the raw images that a file resizes itself, in pixels.
struct SourceSize {
    int height = 0;
    int width = 0;

    // Throws Error (usage): a side below 1 or beyond max_source_side, or more pixels than are decoded.
    void check() const;

    std::string text() const;  // HEIGHTxWIDTH
};

// Pixels, (height, width, 3) bytes, are what is kept of an image: the resized crop, or of a file that resizes itself
// the whole image. What a runner is fed is those, or for a file that doesn't take them raw, those normalized.
struct ModelInput {
    Preprocess preprocess;
    bool raw = false;                  // the file takes (N, H, W, 3) bytes, not normalized (N, 3, H, W) floats
    std::optional<SourceSize> source;  // none where images come to the file resized

    // Height and width of images by their paths.
    using Sizes = std::map<std::string, std::pair<int, int>>;

    int height() const { return source ? source->height : preprocess.size; }  // of the pixels
    int width() const { return source ? source->width : preprocess.size; }
    std::size_t pixel_bytes() const;          // of one image's pixels
    std::size_t fed_bytes() const;            // of what the file is fed of one image
    std::vector<std::int64_t> shape() const;  // of that

    // Throws Error (usage): a source size without sense, or one of a file that doesn't take raw pixels.
    void check() const;

    // Throws Error (bad_input): some are of another size than the file takes; found and expected are told.
    void require_sizes(const Sizes& sizes) const;

    // The pixels of an image; `name` stands for it in messages. Throws Error (bad_input) as `require_sizes` does.
    void pixels(const Image& image, const std::string& name, std::uint8_t* out) const;
    std::vector<std::uint8_t> pixels(const Image& image, const std::string& name = "the image") const;

    // Logits of pixels (images, height, width, 3): normalized where the runner takes them so.
    std::vector<float> infer(Runner& runner, const std::uint8_t* pixels, int images) const;
};

}  // namespace hemf

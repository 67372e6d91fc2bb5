// Anything that computes logits, or probabilities in their place.
#pragma once

#include <vector>

namespace hemf {

class Runner {
public:
    virtual ~Runner() = default;

    // Network input of `images` images, as the manifest describes it → the output, row by row.
    // Throws Error (bad_input) where no such batch is taken; the range is told.
    virtual std::vector<float> infer(const void* batch, int images) = 0;

    // Numbers of an image: its classes, or a single one; see `ModelOutput`.
    virtual int classes() const = 0;

    // The least number of images that can be run, `images` or more.
    virtual int filled(int images) const { return images; }
};

}  // namespace hemf

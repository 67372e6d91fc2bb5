// Anything that computes logits or probabilities.
#pragma once

#include <vector>

namespace hemf {

class Runner {
public:
    virtual ~Runner() = default;

    // Network input of `images` images, as the manifest describes it → the output, row by row.
    // Throws Error (bad_input) with the range where it takes no such batch.
    virtual std::vector<float> infer(const void* batch, int images) = 0;

    // Outputs per image: one for each class, or a single one; see `ModelOutput`.
    virtual int classes() const = 0;

    // The smallest number of images, at least `images`, that can be run.
    virtual int filled(int images) const { return images; }
};

}  // namespace hemf

// The batch sizes that an engine takes: one or several optimization profiles, each with a minimum, optimum and maximum.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace hemf {

struct BatchProfile {
    int minimum = 1;
    int optimum = 8;
    int maximum = 32;

    std::string text() const;  // MIN:OPT:MAX
};

class Profiles {
public:
    // Throws Error (bad_input): none, or one that is not 1 ≤ minimum ≤ optimum ≤ maximum.
    explicit Profiles(std::vector<BatchProfile> profiles);

    const std::vector<BatchProfile>& all() const { return profiles_; }
    int smallest() const;  // number of images that can be run
    int largest() const;

    // Index of the first profile that takes `count` images.
    std::optional<int> find(int count) const;

    // Divide `count` images into batches that each fit a profile: largest ones and a rest, or else even ones.
    // Throws Error (bad_input) with the range where that is impossible.
    std::vector<int> parts(int count) const;

    // The smallest number of images, at least `count`, that can be run: a batch is padded to it.
    int filled(int count) const;

private:
    std::vector<int> divided(int count) const;

    std::vector<BatchProfile> profiles_;
};

}  // namespace hemf

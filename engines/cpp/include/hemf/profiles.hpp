// The batch sizes that an engine takes: an optimization profile's minimum, optimum and maximum, and several of them.
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
    int smallest() const;  // images that can be run
    int largest() const;

    // Index of the first profile that takes `count` images.
    std::optional<int> find(int count) const;

    // Sizes that each fit a profile, together `count`: as many of the largest as fit, else even ones.
    // Throws Error (bad_input) where there are none; the message has the range.
    std::vector<int> parts(int count) const;

    // The least number of images that can be run, `count` or more: to that, a batch has to be filled up.
    int filled(int count) const;

private:
    std::vector<int> divided(int count) const;

    std::vector<BatchProfile> profiles_;
};

}  // namespace hemf

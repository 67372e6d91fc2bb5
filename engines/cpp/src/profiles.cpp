#include "hemf/profiles.hpp"

#include <algorithm>
#include <utility>

#include "hemf/error.hpp"

namespace hemf {

std::string BatchProfile::text() const {
    return std::to_string(minimum) + ":" + std::to_string(optimum) + ":" + std::to_string(maximum);
}

Profiles::Profiles(std::vector<BatchProfile> profiles) : profiles_(std::move(profiles)) {
    if (profiles_.empty()) throw bad_input("An engine needs at least one batch profile.");
    for (const BatchProfile& one : profiles_) {
        if (one.minimum < 1 || one.optimum < one.minimum || one.maximum < one.optimum)
            throw bad_input("Batch profile " + one.text() + " is not 1 ≤ MIN ≤ OPT ≤ MAX.");
    }
}

int Profiles::smallest() const {
    const auto less = [](const BatchProfile& a, const BatchProfile& b) { return a.minimum < b.minimum; };
    return std::min_element(profiles_.begin(), profiles_.end(), less)->minimum;
}

int Profiles::largest() const {
    const auto less = [](const BatchProfile& a, const BatchProfile& b) { return a.maximum < b.maximum; };
    return std::max_element(profiles_.begin(), profiles_.end(), less)->maximum;
}

std::optional<int> Profiles::find(int count) const {
    for (std::size_t index = 0; index < profiles_.size(); ++index) {
        if (profiles_[index].minimum <= count && count <= profiles_[index].maximum) return static_cast<int>(index);
    }
    return std::nullopt;
}

std::vector<int> Profiles::parts(int count) const {
    std::vector<int> sizes = divided(count);
    if (!sizes.empty()) return sizes;
    std::string ranges;
    for (const BatchProfile& one : profiles_) {
        if (!ranges.empty()) ranges += " and ";
        ranges += std::to_string(one.minimum);
        if (one.minimum < one.maximum) ranges += " to " + std::to_string(one.maximum);
    }
    throw bad_input(
        "A batch of " + std::to_string(count) + " is outside the engine's profile: it takes " + ranges + ".",
        "Fill the batch up, or build the engine with other batch sizes.");
}

int Profiles::filled(int count) const {
    int size = std::max(1, count);
    while (divided(size).empty()) ++size;  // a whole number of the largest always fits
    return size;
}

std::vector<int> Profiles::divided(int count) const {
    if (count < 1) return {};
    const int most = largest();
    std::vector<BatchProfile> widest = profiles_;
    std::stable_sort(widest.begin(), widest.end(),
                     [](const BatchProfile& a, const BatchProfile& b) { return a.maximum > b.maximum; });
    for (const bool whole_first : {true, false}) {
        std::vector<int> parts;
        if (whole_first) parts.assign(static_cast<std::size_t>(count / most), most);
        const int left = whole_first ? count % most : count;
        if (left == 0) return parts;
        for (const BatchProfile& one : widest) {
            const int number = left / one.maximum + (left % one.maximum > 0 ? 1 : 0);
            if (static_cast<long long>(number) * one.minimum > left) continue;
            for (int index = 0; index < number; ++index)
                parts.push_back(left / number + (index < left % number ? 1 : 0));
            return parts;
        }
    }
    return {};
}

}  // namespace hemf

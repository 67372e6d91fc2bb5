#include "hemf/model_output.hpp"

#include <algorithm>
#include <cmath>

namespace hemf {

std::vector<float> ModelOutput::scores(std::vector<float> rows) const {
    if (!single()) return rows;
    std::vector<float> found;
    found.reserve(2 * rows.size());
    for (const float value : rows) {
        found.push_back(of_probabilities() ? 1.0F - value : 0.0F);
        found.push_back(value);
    }
    return found;
}

std::vector<double> ModelOutput::probabilities(const float* scores, std::size_t classes) const {
    if (of_probabilities()) return {scores, scores + classes};
    return softmax(scores, classes);
}

std::vector<double> softmax(const float* logits, std::size_t classes) {
    const double most = *std::max_element(logits, logits + classes);
    std::vector<double> found(classes);
    double sum = 0;
    for (std::size_t index = 0; index < classes; ++index) {
        found[index] = std::exp(static_cast<double>(logits[index]) - most);
        sum += found[index];
    }
    for (double& value : found) value /= sum;
    return found;
}

}  // namespace hemf

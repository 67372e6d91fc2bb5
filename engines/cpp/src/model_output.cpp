#include "hemf/model_output.hpp"

#include <algorithm>
#include <cmath>

namespace hemf {

std::vector<float> ModelOutput::scores(std::vector<float> rows) const {
    if (!single()) return rows;
    std::vector<float> scores;
    scores.reserve(2 * rows.size());
    for (const float value : rows) {
        scores.push_back(of_probabilities() ? 1.0F - value : 0.0F);
        scores.push_back(value);
    }
    return scores;
}

std::vector<double> ModelOutput::probabilities(const float* scores, std::size_t classes) const {
    if (of_probabilities()) return {scores, scores + classes};
    return softmax(scores, classes);
}

std::vector<double> softmax(const float* logits, std::size_t classes) {
    const double most = *std::max_element(logits, logits + classes);
    std::vector<double> probabilities(classes);
    double sum = 0;
    for (std::size_t index = 0; index < classes; ++index) {
        probabilities[index] = std::exp(static_cast<double>(logits[index]) - most);
        sum += probabilities[index];
    }
    for (double& value : probabilities) value /= sum;
    return probabilities;
}

}  // namespace hemf

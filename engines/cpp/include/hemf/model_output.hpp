// What a model computes for an image: logits or probabilities, one for each class, or a single one for two classes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace hemf {

// A runner's output becomes scores (images, classes) with two classes or more. The largest is the class.
struct ModelOutput {
    // One number for each class; or a single one, which favours the second of two classes above 0 (logit) or 0.5.
    enum class Kind { logits, probabilities, logit, probability };

    Kind kind = Kind::logits;

    bool single() const { return kind == Kind::logit || kind == Kind::probability; }
    bool of_probabilities() const { return kind == Kind::probabilities || kind == Kind::probability; }
    const char* noun() const { return of_probabilities() ? "probability" : "logit"; }

    // Outputs per image of a model with that many classes.
    std::size_t width(std::size_t classes) const { return single() ? 1 : classes; }

    // A runner's output, row by row → scores: a logit z becomes 0 and z, a probability p becomes 1 - p and p.
    std::vector<float> scores(std::vector<float> rows) const;

    // Scores of one image → probabilities in double precision: the model's own, or the softmax of its logits.
    std::vector<double> probabilities(const float* scores, std::size_t classes) const;
};

// Logits of one image → probabilities in double precision.
std::vector<double> softmax(const float* logits, std::size_t classes);

}  // namespace hemf

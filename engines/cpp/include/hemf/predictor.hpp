// A model that is ready to classify images, and its predictions.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hemf/manifest.hpp"
#include "hemf/model_output.hpp"
#include "hemf/runner.hpp"

namespace hemf {

struct Prediction {
    std::string path;
    std::size_t top = 0;                // index of the most likely class
    std::vector<double> probabilities;  // one for each class, in the model's order
};

class Predictor {
public:
    // Called with the phase, the number of images done, and their total.
    using Progress = std::function<void(const char* phase, std::size_t done, std::size_t total)>;

    // Messages call the model `name`. Throws Error: the runner has other classes (bad_input), or the description has an
    // impossible source size (usage).
    Predictor(std::string name, Description description, std::shared_ptr<Runner> runner);

    // Load an engine after its preflight, and test it on its golden images.
    // Throws Error: anything wrong with the file or its manifest (bad_input), an engine that doesn't compute what its
    // graph does (check_failed), or that can't run here (missing_capability).
    static Predictor load(const std::string& engine);

    const std::string& name() const { return name_; }
    const Description& description() const { return description_; }
    Runner& runner() const { return *runner_; }
    // Notes for the user on how the file was loaded.
    const std::vector<std::string>& notes() const { return notes_; }

    // Classify image files, `batch` at a time (a fixed batch keeps to its own). All are decoded once before the first
    // is classified, so that every bad one is named. Throws Error: images that don't decode or are of a size that the
    // file doesn't take (bad_input), logits that are not finite (check_failed).
    std::vector<Prediction> predict(const std::vector<std::string>& paths, int batch = 8,
                                    const Progress& progress = {}) const;

    // Pixels of `images` images, made by `description().input()` → scores (images, classes): logits, or probabilities
    // if `description().output` says so.
    std::vector<float> logits(const std::uint8_t* pixels, int images) const;

private:
    std::string name_;
    Description description_;
    std::shared_ptr<Runner> runner_;
    std::vector<std::string> notes_;
};

}  // namespace hemf

#include "hemf/predictor.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "file.hpp"
#include "hemf/engine.hpp"
#include "hemf/error.hpp"
#include "hemf/golden.hpp"
#include "hemf/image.hpp"

namespace hemf {

namespace {

using Progress = Predictor::Progress;

void tell(const Progress& progress, const char* phase, std::size_t done, std::size_t total) {
    if (progress) progress(phase, done, total);
}

void require_readable(const std::vector<std::string>& paths, const ModelInput& input, const Progress& progress) {
    std::vector<std::string> bad;
    ModelInput::Sizes sizes;
    tell(progress, "reading images", 0, paths.size());
    for (std::size_t index = 0; index < paths.size(); ++index) {
        try {
            const Image image = decode(paths[index]);
            sizes[paths[index]] = {image.height, image.width};
        } catch (const Error& error) {
            if (error.code() != ExitCode::bad_input) throw;
            bad.push_back(error.message());
        }
        tell(progress, "reading images", index + 1, paths.size());
    }
    if (bad.empty()) return input.require_sizes(sizes);
    std::string listed;
    for (const std::string& message : bad) listed += (listed.empty() ? "" : "\n  ") + message;
    throw bad_input(
        std::to_string(bad.size()) + " of " + std::to_string(paths.size()) + " images can't be read:\n  " + listed,
        "Mend them or leave them out.");
}

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

Predictor::Predictor(std::string name, Description description, std::shared_ptr<Runner> runner)
    : name_(std::move(name)), description_(std::move(description)), runner_(std::move(runner)) {
    description_.input().check();
    const std::size_t classes = description_.classes.size();
    const int width = static_cast<int>(description_.output.width(classes));
    if (runner_->classes() != width) {
        throw bad_input(name_ + " gives " + std::to_string(runner_->classes()) +
                            " numbers an image, its manifest names " + std::to_string(classes) + " classes.",
                        "Build the engine again.");
    }
}

Predictor Predictor::load(const std::string& engine) {
    if (!files::is_regular(engine))
        throw bad_input("No engine at " + engine + ".", "Build one from an ONNX file.");
    if (ends_with(engine, ".onnx")) {
        throw missing_capability(
            engine + " is an ONNX file; this library runs engines.",
            "Build an engine from it, or run it with ONNX Runtime.");
    }
    if (!files::exists(Manifest::place(engine))) {
        throw bad_input(engine + " has no manifest: nothing tells its classes and preprocessing.",
                        "Take the manifest along with it, or build the engine again.");
    }
    std::shared_ptr<Engine> loaded;
    try {
        loaded = std::make_shared<Engine>(engine);
    } catch (const Error& error) {
        if (error.code() != ExitCode::missing_capability) throw;
        const std::string hint = error.hint().empty() ? "" : error.hint() + " ";
        throw missing_capability(error.message(), hint + "The ONNX file that it was built from runs on a CPU.");
    }
    Predictor predictor(loaded->name(), loaded->manifest().description(engine), loaded);
    const ModelInput input = predictor.description_.input();
    if (loaded->input_shape() != input.shape() || loaded->input_bytes() != input.fed_bytes()) {
        throw bad_input("The manifest of " + engine + " describes another input than the engine takes.",
                        "Build the engine again.");
    }
    // The engine's profiles decide how many images it takes, whatever the graph took.
    const Profiles& profiles = loaded->profiles();
    predictor.description_.batch.reset();
    if (profiles.smallest() == profiles.largest()) predictor.description_.batch = profiles.smallest();
    const bool checked = require_golden(*loaded, engine, loaded->manifest(), predictor.description_);
    if (!checked) {
        predictor.notes_.push_back(files::name(engine) +
                              " has no golden images: nothing shows that it computes what its graph does.");
    }
    for (const std::string& note : loaded->notes()) predictor.notes_.push_back(note);
    return predictor;
}

std::vector<float> Predictor::logits(const std::uint8_t* pixels, int images) const {
    const ModelInput input = description_.input();
    const std::size_t classes = description_.classes.size(), bytes = input.pixel_bytes();
    const int step = description_.batch.value_or(images);
    std::vector<float> results;
    for (int start = 0; start < images; start += step) {
        const int count = std::min(step, images - start), whole = description_.batch.value_or(runner_->filled(count));
        const std::uint8_t* first = pixels + bytes * static_cast<std::size_t>(start);
        // A short batch is padded with its last image.
        std::vector<std::uint8_t> batch(first, first + bytes * static_cast<std::size_t>(count));
        for (int missing = count; missing < whole; ++missing)
            batch.insert(batch.end(), first + bytes * static_cast<std::size_t>(count - 1),
                         first + bytes * static_cast<std::size_t>(count));
        const std::vector<float> rows = description_.output.scores(input.infer(*runner_, batch.data(), whole));
        results.insert(results.end(), rows.begin(),
                     rows.begin() + static_cast<std::ptrdiff_t>(classes * static_cast<std::size_t>(count)));
    }
    return results;
}

std::vector<Prediction> Predictor::predict(const std::vector<std::string>& paths, int batch,
                                           const Progress& progress) const {
    if (batch < 1) throw Error(ExitCode::usage, "The batch must be at least 1, not " + std::to_string(batch) + ".");
    const ModelInput input = description_.input();
    require_readable(paths, input, progress);
    const std::size_t step = static_cast<std::size_t>(description_.batch.value_or(runner_->filled(batch)));
    const std::size_t classes = description_.classes.size(), bytes = input.pixel_bytes();
    std::vector<Prediction> results;
    tell(progress, "classifying", 0, paths.size());
    for (std::size_t start = 0; start < paths.size(); start += step) {
        const std::size_t count = std::min(step, paths.size() - start);
        std::vector<std::uint8_t> pixels(bytes * count);
        for (std::size_t index = 0; index < count; ++index) {
            const std::string& path = paths[start + index];
            input.pixels(decode(path), path, pixels.data() + bytes * index);
        }
        const std::vector<float> rows = logits(pixels.data(), static_cast<int>(count));
        std::string bad;
        for (std::size_t index = 0; index < count; ++index) {
            const float* row = rows.data() + index * classes;
            if (!std::all_of(row, row + classes, [](float logit) { return std::isfinite(logit); }))
                bad += (bad.empty() ? "" : ", ") + paths[start + index];
        }
        if (!bad.empty()) {
            throw Error(ExitCode::check_failed, name_ + ": the logits of " + bad + " are not finite.",
                        "Numbers overflow on the way: take the float32 file, or an earlier checkpoint.");
        }
        for (std::size_t index = 0; index < count; ++index) {
            const float* row = rows.data() + index * classes;
            const auto top = static_cast<std::size_t>(std::max_element(row, row + classes) - row);
            results.push_back({paths[start + index], top, description_.output.probabilities(row, classes)});
        }
        tell(progress, "classifying", results.size(), paths.size());
    }
    return results;
}

}  // namespace hemf

// Golden images of an engine: raw pixels in FILE.golden beside it, and in its manifest the logits of its graph.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hemf/manifest.hpp"
#include "hemf/runner.hpp"

namespace hemf {

struct Golden {
    int images = 0, height = 0, width = 0, classes = 0;
    std::vector<std::uint8_t> pixels;  // (images, height, width, 3), RGB
    std::vector<float> logits;         // scores (images, classes), of the graph, float16 emulated
    std::string source;                // where the images are from, in words
    double max_logit_difference = 0;   // of any logit, from here to the engine's

    // Nothing where the manifest has none.
    // Throws Error (bad_input): the file is missing, or not the one of the manifest.
    static std::optional<Golden> read(const std::string& engine, const Manifest& manifest);
};

// What an engine made of its golden images.
struct SelfTest {
    int images = 0;
    double max_difference = 0;  // of a logit
    double bound = 0;           // that it was held to
    bool finite = true;         // whether every logit was

    bool passed() const { return finite && max_difference <= bound; }
};

// Run the golden images, repeated until the runner takes as many.
// Throws Error (bad_input): the runner takes other images, or has other classes.
SelfTest self_test(Runner& runner, const Golden& golden, const Description& description);

// The same for an engine that is loaded; throws Error (check_failed) where it doesn't compute what its graph does.
// False where it has no golden images.
bool require_golden(Runner& runner, const std::string& engine, const Manifest& manifest,
                    const Description& description);

}  // namespace hemf

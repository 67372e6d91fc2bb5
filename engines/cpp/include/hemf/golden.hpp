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
    std::vector<float> logits;         // scores (images, classes) of the graph, float16 emulated
    std::string source;                // a description of where the images are from
    double max_logit_difference = 0;   // tolerance of an engine's logits

    // Read the golden images of an engine; none where the manifest has none.
    // Throws Error (bad_input): the file is missing, or not the one that the manifest describes.
    static std::optional<Golden> read(const std::string& engine, const Manifest& manifest);
};

// The result of running an engine on its golden images.
struct SelfTest {
    int images = 0;
    double max_difference = 0;  // the largest of any logit
    double bound = 0;           // the tolerance
    bool finite = true;         // whether every logit is finite

    bool passed() const { return finite && max_difference <= bound; }
};

// Run the golden images, repeated to fill the smallest batch of the runner.
// Throws Error (bad_input): the runner takes other images, or has other classes.
SelfTest self_test(Runner& runner, const Golden& golden, const Description& description);

// Read and run the golden images of a loaded engine; false where it has none.
// Throws Error (check_failed): the engine doesn't compute what its graph does.
bool require_golden(Runner& runner, const std::string& engine, const Manifest& manifest,
                    const Description& description);

}  // namespace hemf

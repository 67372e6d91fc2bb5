// FILE.json, the manifest beside each engine and ONNX file: what the file is, and how images become its input.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hemf/model_input.hpp"
#include "hemf/model_output.hpp"
#include "hemf/preprocess.hpp"
#include "hemf/profiles.hpp"

namespace hemf {

namespace json {
struct Document;
}

// Normalized (N, 3, H, W), or raw RGB pixels (N, H, W, 3); another exporter's model may have the other order.
enum class InputType { float32, uint8 };

// The model, as a manifest describes it.
struct Description {
    std::string name;  // the network's configuration
    std::vector<std::string> classes;
    Preprocess preprocess;
    std::string precision;  // fp32, fp16, int8, int8-cpu
    InputType input_type = InputType::float32;
    std::optional<int> batch;  // the only batch size of the graph; none where it takes any
    std::string checkpoint_sha256;
    std::optional<SourceSize> source_size;  // set if the graph resizes raw images of that size
    ModelOutput output;
    std::optional<Layout> layout{};  // order of the input's axes, where it isn't that of its type

    ModelInput input() const { return {preprocess, input_type == InputType::uint8, source_size, layout}; }
};

class Manifest {
public:
    // The path of a file's manifest.
    static std::string place(const std::string& path);

    // Read the manifest beside `path` and check the file's SHA-256 against it; none where there is no manifest.
    // Throws Error (bad_input): it can't be read, or the file isn't the one that it describes.
    static std::optional<Manifest> read(const std::string& path);

    // Parse a manifest's text; messages call it `name`. Throws Error (bad_input).
    static Manifest parse(const std::string& text, const std::string& name);

    // A member that is a string; none where it is missing or of another type.
    std::optional<std::string> text(const std::string& key) const;
    // Whether a member is true; `fallback` where it is missing or no boolean.
    bool flag(const std::string& key, bool fallback = false) const;

    std::string sha256() const;
    // Whether the engine was built without weights, which are in its ONNX file.
    bool stripped() const;
    // The batches that the engine was built for. Throws Error (bad_input) where the manifest doesn't list them.
    Profiles profiles() const;

    // The model; messages call the file `path`. Throws Error (bad_input) where the description is missing or invalid.
    Description description(const std::string& path) const;

    // How the engine was built, for a message that says how to build it again, for `target` or else the manifest's:
    // "from m.onnx for t4 with tensorrt, batch 1:8:32".
    std::string rebuild_settings(const std::string& target = {}) const;

    // For the library's own parts.
    const json::Document& document() const { return *document_; }

private:
    explicit Manifest(std::shared_ptr<const json::Document> document) : document_(std::move(document)) {}

    std::shared_ptr<const json::Document> document_;
};

}  // namespace hemf

// FILE.json, which lies beside each engine and ONNX file: what the file is, and how images become its input.
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
struct Value;
}

enum class InputType { float32, uint8 };  // normalized (N, 3, H, W), or raw RGB pixels (N, H, W, 3)

// What a manifest says of the model.
struct Description {
    std::string name;  // of the network's configuration
    std::vector<std::string> classes;
    Preprocess preprocess;
    std::string precision;  // fp32, fp16, int8, int8-cpu
    InputType input_type = InputType::float32;
    std::optional<int> batch;  // the only one that the graph takes
    std::string checkpoint_sha256;
    std::optional<SourceSize> source_size;  // of the raw images that the graph resizes itself
    ModelOutput output;                     // what the file gives of an image

    // What the file takes of an image.
    ModelInput input() const { return {preprocess, input_type == InputType::uint8, source_size}; }
};

class Manifest {
public:
    // Where the manifest of a file lies.
    static std::string place(const std::string& path);

    // The manifest beside `path`, the file's SHA-256 checked against it; nothing where there is no manifest.
    // Throws Error (bad_input): it can't be read, or the file isn't the one that it describes.
    static std::optional<Manifest> read(const std::string& path);

    // A manifest's text; `name` stands for it in messages. Throws Error (bad_input).
    static Manifest parse(const std::string& text, const std::string& name);

    // A member that is a string; nothing where it is missing or of another kind.
    std::optional<std::string> text(const std::string& key) const;
    // A member that is true.
    bool flag(const std::string& key) const;

    std::string sha256() const;
    // A stripped engine's weights are in the ONNX file that it was built from.
    bool stripped() const;
    // Batches that the engine was built for. Throws Error (bad_input) where the manifest doesn't say.
    Profiles profiles() const;

    // `path` is for messages. Throws Error (bad_input): it says nothing of the model, or nonsense.
    Description description(const std::string& path) const;

    // The command that builds the engine again; for another target than the manifest's, if one is given.
    std::string rebuild_command(const std::string& target = {}) const;

    // For the library's own parts.
    const json::Value& root() const { return *root_; }

private:
    explicit Manifest(std::shared_ptr<const json::Value> root) : root_(std::move(root)) {}

    std::shared_ptr<const json::Value> root_;
};

}  // namespace hemf

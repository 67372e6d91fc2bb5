#include "hemf/manifest.hpp"

#include <map>

#include "file.hpp"
#include "hemf/error.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace hemf {

namespace {

using json::Value;

constexpr std::size_t max_manifest_bytes = std::size_t{64} << 20;

int whole(const Value& object, const char* key, int fallback) {
    const Value* value = json::find(object, key);
    if (value == nullptr) return fallback;
    const std::optional<int> number = json::whole(*value);
    if (!number) throw bad_input(std::string(key) + " is not a whole number.");
    return *number;
}

void channels(const Value& object, const char* key, std::array<double, 3>& out) {
    const Value* values = json::find(object, key);
    if (values == nullptr) return;
    const Error refusal = bad_input(std::string(key) + " must be three finite numbers.");
    if (!values->is_array() || values->size() != out.size()) throw refusal;
    for (std::size_t channel = 0; channel < out.size(); ++channel) {
        if (!(*values)[channel].is_number()) throw refusal;
        out[channel] = (*values)[channel].get<double>();
    }
}

Preprocess preprocess(const Value& values) {
    for (const auto& [key, value] : values.items()) {
        const bool known = key == "size" || key == "mode" || key == "resize" || key == "mean" || key == "std";
        if (!known) throw bad_input("Unknown key '" + key + "' in a preprocessing description.");
    }
    Preprocess result;
    result.size = whole(values, "size", result.size);
    result.resize = whole(values, "resize", result.resize);
    if (json::find(values, "mode") != nullptr) {
        const std::string& mode = json::string(values, "mode");
        if (mode != "crop" && mode != "squash") throw bad_input("Unknown preprocessing '" + mode + "'.");
        result.mode = mode == "crop" ? Preprocess::Mode::crop : Preprocess::Mode::squash;
    }
    channels(values, "mean", result.mean);
    channels(values, "std", result.deviation);
    result.check();
    return result;
}

// [height, width] or null; manifests from before there were source sizes have no such key.
std::optional<SourceSize> source_size(const Value& root, InputType input) {
    const Value* sides = json::find(root, "source_size");
    if (sides == nullptr || sides->is_null()) return std::nullopt;
    if (input != InputType::uint8) throw bad_input("source_size is given, and input_type is not 'uint8'.");
    const bool pair = sides->is_array() && sides->size() == 2;
    const std::optional<int> height = pair ? json::whole((*sides)[0]) : std::nullopt;
    const std::optional<int> width = pair ? json::whole((*sides)[1]) : std::nullopt;
    if (!height || !width) throw bad_input("source_size is not [height, width].");
    const SourceSize size{*height, *width};
    size.check();
    return size;
}

// Missing where the order is that of the input's type.
std::optional<Layout> layout(const Value& root) {
    const Value* value = json::find(root, "layout");
    if (value == nullptr || value->is_null()) return std::nullopt;
    const std::string& order = json::string(root, "layout");
    if (order != "NCHW" && order != "NHWC") throw bad_input("layout is '" + order + "'.");
    return order == "NHWC" ? Layout::nhwc : Layout::nchw;
}

// Files from before there were output types give logits.
ModelOutput output(const Value& root, std::size_t classes) {
    static const std::map<std::string, ModelOutput::Kind> kinds = {{"logits", ModelOutput::Kind::logits},
                                                                   {"probabilities", ModelOutput::Kind::probabilities},
                                                                   {"logit", ModelOutput::Kind::logit},
                                                                   {"probability", ModelOutput::Kind::probability}};
    if (json::find(root, "output_type") == nullptr) return {};
    const std::string& type = json::string(root, "output_type");
    const auto kind = kinds.find(type);
    if (kind == kinds.end()) throw bad_input("output_type is '" + type + "'.");
    const ModelOutput result{kind->second};
    if (result.single() && classes != 2)
        throw bad_input("output_type is '" + type + "', and there are " + std::to_string(classes) + " classes.");
    return result;
}

Description describe(const Value& root) {
    Description result;
    result.name = json::string(root, "name");
    for (const Value& name : json::member(root, "classes", &Value::is_array)) {
        if (!name.is_string()) throw bad_input("classes is not a list of names.");
        result.classes.push_back(name.get<std::string>());
    }
    if (result.classes.empty()) throw bad_input("classes is empty.");
    if (result.classes.size() == 1) throw bad_input("classes is a single name.");
    result.preprocess = preprocess(json::member(root, "preprocess", &Value::is_object));
    result.precision = json::string(root, "precision");
    const bool known = result.precision == "fp32" || result.precision == "fp16" || result.precision == "int8" ||
                       result.precision == "int8-cpu";
    if (!known) throw bad_input("precision is '" + result.precision + "'.");
    const std::string& input = json::string(root, "input_type");
    if (input != "float32" && input != "uint8") throw bad_input("input_type is '" + input + "'.");
    result.input_type = input == "uint8" ? InputType::uint8 : InputType::float32;
    const Value* batch = json::find(root, "batch");
    if (batch == nullptr) throw bad_input("'batch' is missing.");
    if (!batch->is_null()) {
        result.batch = json::whole(*batch);
        if (!result.batch || *result.batch < 1) throw bad_input("batch is not a number of images.");
    }
    result.checkpoint_sha256 = json::string(root, "checkpoint_sha256");
    result.source_size = source_size(root, result.input_type);
    result.output = output(root, result.classes.size());
    result.layout = layout(root);
    json::member(root, "versions", &Value::is_object);
    return result;
}

// MIN:OPT:MAX, or one number for all three.
BatchProfile profile(const Value& value) {
    if (!value.is_string()) throw bad_input("a batch profile is not text.");
    const std::string& text = value.get_ref<const std::string&>();
    int numbers[3] = {0, 0, 0};
    std::size_t count = 0, digits = 0;
    bool sound = true;
    for (const char sign : text) {
        if (sign == ':' && digits > 0 && count < 2) {
            ++count;
            digits = 0;
        } else if (sign >= '0' && sign <= '9' && digits < 9) {
            numbers[count] = numbers[count] * 10 + (sign - '0');
            ++digits;
        } else {
            sound = false;
        }
    }
    if (!sound || digits == 0 || count == 1) throw bad_input("a batch profile is '" + text + "'.");
    if (count == 0) return {numbers[0], numbers[0], numbers[0]};
    return {numbers[0], numbers[1], numbers[2]};
}

// A whole number that the engine was built with; none where that is the default, or isn't recorded.
std::optional<std::string> build_number(const Value* build, const char* key, std::optional<int> standard) {
    const Value* value = build == nullptr ? nullptr : json::find(*build, key);
    const std::optional<int> number = value == nullptr ? std::nullopt : json::whole(*value);
    if (!number || number == standard) return std::nullopt;
    return std::to_string(*number);
}

// A member that is on or off.
bool flag_of(const Value* object, const char* key, bool fallback) {
    const Value* value = object == nullptr ? nullptr : json::find(*object, key);
    return value != nullptr && value->is_boolean() ? value->get<bool>() : fallback;
}

}  // namespace

std::string Manifest::place(const std::string& path) { return path + ".json"; }

Manifest Manifest::parse(const std::string& text, const std::string& name) {
    try {
        auto document = std::make_shared<json::Document>(json::Document{json::parse(text)});
        json::string(document->root, "sha256");
        return Manifest(std::move(document));
    } catch (const Error& error) {
        throw bad_input(name + " is not a manifest: " + error.message(), "Make the file that it describes again.");
    }
}

std::optional<Manifest> Manifest::read(const std::string& path) {
    const std::string location = place(path);
    if (!files::exists(location)) return std::nullopt;
    std::string problem;
    const std::vector<std::uint8_t> content = files::read(location, max_manifest_bytes, problem);
    if (!problem.empty())
        throw bad_input(location + " is not a manifest: " + problem + ".", "Make " + files::name(path) + " again.");
    Manifest manifest = parse(std::string(content.begin(), content.end()), location);
    const std::string hash = sha256_of_file(path, problem);
    if (!problem.empty()) throw bad_input(path + " can't be read: " + problem + ".");
    if (hash != manifest.sha256()) {
        throw bad_input(
            path + " is not the file that " + files::name(location) + " describes: SHA-256 " + hash.substr(0, 16) +
                ", expected " + manifest.sha256().substr(0, 16) + ".",
            "It was changed or only half replaced. Make it again, or remove the manifest if the change is wanted.");
    }
    return manifest;
}

std::optional<std::string> Manifest::text(const std::string& key) const {
    const Value* value = json::find(document_->root, key.c_str());
    return value != nullptr && value->is_string() ? std::optional(value->get<std::string>()) : std::nullopt;
}

bool Manifest::flag(const std::string& key, bool fallback) const {
    return flag_of(&document_->root, key.c_str(), fallback);
}

std::string Manifest::sha256() const { return json::string(document_->root, "sha256"); }

bool Manifest::stripped() const { return flag_of(json::find(document_->root, "build"), "stripped", false); }

Profiles Manifest::profiles() const {
    const Value* build = json::find(document_->root, "build");
    const Value* listed = build == nullptr ? nullptr : json::find(*build, "profiles");
    if (listed == nullptr || !listed->is_array()) throw bad_input("The manifest doesn't tell the engine's batches.");
    std::vector<BatchProfile> profiles;
    try {
        for (const Value& one : *listed) profiles.push_back(profile(one));
    } catch (const Error& error) {
        throw bad_input("The manifest doesn't tell the engine's batches: " + error.message());
    }
    return Profiles(std::move(profiles));
}

Description Manifest::description(const std::string& path) const {
    try {
        return describe(document_->root);
    } catch (const Error& error) {
        throw bad_input("The manifest of " + path + " doesn't tell classes and preprocessing: " + error.message(),
                        "Build the engine again.");
    }
}

std::string Manifest::rebuild_settings(const std::string& target) const {
    std::string settings = "from " + text("parent").value_or("its ONNX file");
    if (text("precision") == "fp32") settings += " in fp32";
    settings += " for " + (target.empty() ? text("target").value_or("its GPU") : target);
    if (const std::optional<std::string> backend = text("backend")) settings += " with " + *backend;
    const Value* build = json::find(document_->root, "build");
    const Value* listed = build == nullptr ? nullptr : json::find(*build, "profiles");
    if (listed == nullptr || !listed->is_array()) return settings;  // an older manifest, or one changed by hand
    std::string profiles;
    for (const Value& one : *listed)
        if (one.is_string()) profiles += (profiles.empty() ? ", batch " : " and ") + one.get<std::string>();
    settings += profiles;
    if (const auto workspace = build_number(build, "workspace_mib", 2048))
        settings += ", a workspace of " + *workspace + " MiB";
    if (const auto level = build_number(build, "optimization_level", std::nullopt))
        settings += ", optimization level " + *level;
    if (flag_of(build, "hardware_compatible", false)) settings += ", for all GPUs of the compute capability";
    if (!flag_of(build, "hardware_compatible", true)) settings += ", for this model of GPU alone";
    if (flag_of(build, "version_compatible", false)) settings += ", version-compatible";
    if (stripped()) settings += ", without weights";
    if (!flag_of(build, "timing_cache", true)) settings += ", without a timing cache";
    return settings;
}

}  // namespace hemf

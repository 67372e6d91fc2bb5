#include "hemf/manifest.hpp"

#include <cmath>
#include <map>

#include "file.hpp"
#include "hemf/error.hpp"
#include "json.hpp"
#include "members.hpp"
#include "sha256.hpp"

namespace hemf {

namespace {

using json::member;
using json::Nonsense;
using Kind = json::Value::Kind;

constexpr std::size_t largest_manifest = std::size_t{64} << 20;

int whole(const json::Value& object, const std::string& key, int fallback) {
    const json::Value* found = object.find(key);
    if (found == nullptr) return fallback;
    const std::optional<int> value = found->whole();
    if (!value) throw Nonsense{key + " is not a whole number"};
    return *value;
}

void three(const json::Value& object, const std::string& key, std::array<double, 3>& out) {
    const json::Value* found = object.find(key);
    if (found == nullptr) return;
    if (!found->is(Kind::array) || found->items.size() != 3) throw Nonsense{key + " must be three finite numbers"};
    for (std::size_t channel = 0; channel < 3; ++channel) {
        if (!found->items[channel].is(Kind::number)) throw Nonsense{key + " must be three finite numbers"};
        out[channel] = found->items[channel].number;
    }
}

Preprocess preprocess(const json::Value& values) {
    for (const auto& [key, value] : values.members) {
        const bool known = key == "size" || key == "mode" || key == "resize" || key == "mean" || key == "std";
        if (!known) throw Nonsense{"Unknown key '" + key + "' in a preprocessing description"};
    }
    Preprocess found;
    found.size = whole(values, "size", found.size);
    found.resize = whole(values, "resize", found.resize);
    if (const json::Value* mode = values.find("mode")) {
        if (!mode->is(Kind::string) || (mode->string != "crop" && mode->string != "squash"))
            throw Nonsense{"Unknown preprocessing '" + mode->string + "'"};
        found.mode = mode->string == "crop" ? Preprocess::Mode::crop : Preprocess::Mode::squash;
    }
    three(values, "mean", found.mean);
    three(values, "std", found.deviation);
    found.check();
    return found;
}

// [height, width] or null; what was written before there were source sizes has none.
std::optional<SourceSize> source_size(const json::Value& root, InputType input) {
    const json::Value* found = root.find("source_size");
    if (found == nullptr || found->is(Kind::null)) return std::nullopt;
    if (input != InputType::uint8) throw Nonsense{"source_size is given, and input_type is not 'uint8'"};
    const bool pair = found->is(Kind::array) && found->items.size() == 2;
    const std::optional<int> height = pair ? found->items[0].whole() : std::nullopt;
    const std::optional<int> width = pair ? found->items[1].whole() : std::nullopt;
    if (!height || !width) throw Nonsense{"source_size is not [height, width]"};
    const SourceSize size{*height, *width};
    size.check();
    return size;
}

// What was written before there were output types gives logits.
ModelOutput output(const json::Value& root, std::size_t classes) {
    static const std::map<std::string, ModelOutput::Kind> kinds = {{"logits", ModelOutput::Kind::logits},
                                                                   {"probabilities", ModelOutput::Kind::probabilities},
                                                                   {"logit", ModelOutput::Kind::logit},
                                                                   {"probability", ModelOutput::Kind::probability}};
    if (root.find("output_type") == nullptr) return {};
    const auto found = kinds.find(member(root, "output_type", Kind::string).string);
    if (found == kinds.end()) throw Nonsense{"output_type is '" + root.find("output_type")->string + "'"};
    const ModelOutput made{found->second};
    if (made.single() && classes != 2)
        throw Nonsense{"output_type is '" + found->first + "', and there are " + std::to_string(classes) + " classes"};
    return made;
}

Description described(const json::Value& root) {
    Description found;
    found.name = member(root, "name", Kind::string).string;
    for (const json::Value& name : member(root, "classes", Kind::array).items) {
        if (!name.is(Kind::string)) throw Nonsense{"classes is not a list of names"};
        found.classes.push_back(name.string);
    }
    if (found.classes.size() < 2) throw Nonsense{found.classes.empty() ? "classes is empty" : "classes is a single name"};
    found.preprocess = preprocess(member(root, "preprocess", Kind::object));
    found.precision = member(root, "precision", Kind::string).string;
    const bool known = found.precision == "fp32" || found.precision == "fp16" || found.precision == "int8" ||
                       found.precision == "int8-cpu";
    if (!known) throw Nonsense{"precision is '" + found.precision + "'"};
    const std::string input = member(root, "input_type", Kind::string).string;
    if (input != "float32" && input != "uint8") throw Nonsense{"input_type is '" + input + "'"};
    found.input_type = input == "uint8" ? InputType::uint8 : InputType::float32;
    const json::Value* batch = root.find("batch");
    if (batch == nullptr) throw Nonsense{"'batch' is missing"};
    if (!batch->is(Kind::null)) {
        found.batch = batch->whole();
        if (!found.batch || *found.batch < 1) throw Nonsense{"batch is not a number of images"};
    }
    found.checkpoint_sha256 = member(root, "checkpoint_sha256", Kind::string).string;
    found.source_size = source_size(root, found.input_type);
    found.output = output(root, found.classes.size());
    member(root, "versions", Kind::object);
    return found;
}

BatchProfile profile(const std::string& text) {
    int numbers[3] = {0, 0, 0};
    std::size_t count = 0, digits = 0;
    for (const char sign : text) {
        if (sign == ':' && digits > 0 && count < 2) {
            ++count;
            digits = 0;
        } else if (sign >= '0' && sign <= '9' && digits < 9) {
            numbers[count] = numbers[count] * 10 + (sign - '0');
            ++digits;
        } else {
            throw Nonsense{"a batch profile is '" + text + "'"};
        }
    }
    if (digits == 0 || count == 1) throw Nonsense{"a batch profile is '" + text + "'"};
    if (count == 0) return {numbers[0], numbers[0], numbers[0]};
    return {numbers[0], numbers[1], numbers[2]};
}

// Quoted for a shell, where it needs to be.
std::string shell_word(const std::string& text) {
    static const std::string safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_";
    if (!text.empty() && text.find_first_not_of(safe) == std::string::npos) return text;
    std::string out = "'";
    for (const char sign : text) out += sign == '\'' ? std::string("'\"'\"'") : std::string(1, sign);
    return out + "'";
}

std::string option(const json::Value& build, const std::string& key, const std::string& flag, int usual) {
    const json::Value* found = build.find(key);
    if (found == nullptr || found->is(Kind::null) || found->whole() == usual) return {};
    const std::optional<int> value = found->whole();
    return value ? flag + std::to_string(*value) : std::string();
}

}  // namespace

std::string Manifest::place(const std::string& path) { return path + ".json"; }

Manifest Manifest::parse(const std::string& text, const std::string& name) {
    const auto refuse = [&name](const std::string& why) {
        return bad_input(name + " is not a manifest: " + why + ".", "Make the file that it describes again.");
    };
    try {
        auto root = std::make_shared<json::Value>(json::parse(text));
        const json::Value* hash = root->find("sha256");
        if (hash == nullptr) throw refuse("'sha256' is missing");
        if (!hash->is(Kind::string)) throw refuse("sha256 is of another kind");
        return Manifest(std::move(root));
    } catch (const json::Malformed& error) {
        throw refuse(error.what());
    }
}

std::optional<Manifest> Manifest::read(const std::string& path) {
    const std::string place_ = place(path);
    if (!files::exists(place_)) return std::nullopt;
    std::string problem;
    const std::vector<std::uint8_t> content = files::read(place_, largest_manifest, problem);
    if (!problem.empty())
        throw bad_input(place_ + " is not a manifest: " + problem + ".", "Make " + files::name(path) + " again.");
    Manifest found = parse(std::string(content.begin(), content.end()), place_);
    const std::string hash = sha256_of_file(path, problem);
    if (!problem.empty()) throw bad_input(path + " can't be read: " + problem + ".");
    if (hash != found.sha256()) {
        throw bad_input(
            path + " is not the file that " + files::name(place_) + " describes: SHA-256 " + hash.substr(0, 16) +
                ", expected " + found.sha256().substr(0, 16) + ".",
            "It was changed or only half replaced. Make it again, or remove the manifest if the change is wanted.");
    }
    return found;
}

std::optional<std::string> Manifest::text(const std::string& key) const {
    const json::Value* found = root_->find(key);
    return found != nullptr && found->is(Kind::string) ? std::optional(found->string) : std::nullopt;
}

bool Manifest::flag(const std::string& key) const {
    const json::Value* found = root_->find(key);
    return found != nullptr && found->is(Kind::boolean) && found->boolean;
}

std::string Manifest::sha256() const { return root_->find("sha256")->string; }

bool Manifest::stripped() const {
    const json::Value* build = root_->find("build");
    const json::Value* found = build == nullptr ? nullptr : build->find("stripped");
    return found != nullptr && found->boolean;
}

Profiles Manifest::profiles() const {
    const json::Value* build = root_->find("build");
    const json::Value* listed = build == nullptr ? nullptr : build->find("profiles");
    if (listed == nullptr || !listed->is(Kind::array))
        throw bad_input("The manifest doesn't tell the engine's batches.");
    std::vector<BatchProfile> found;
    try {
        for (const json::Value& one : listed->items) found.push_back(profile(one.string));
    } catch (const Nonsense& nonsense) {
        throw bad_input("The manifest doesn't tell the engine's batches: " + nonsense.what + ".");
    }
    return Profiles(std::move(found));
}

Description Manifest::description(const std::string& path) const {
    const auto refuse = [&path](const std::string& why) {
        return bad_input("The manifest of " + path + " doesn't tell classes and preprocessing: " + why,
                         "Build the engine again.");
    };
    try {
        return described(*root_);
    } catch (const Nonsense& nonsense) {
        throw refuse(nonsense.what + ".");
    } catch (const Error& error) {
        throw refuse(error.message());
    }
}

std::string Manifest::rebuild_command(const std::string& target) const {
    const std::optional<std::string> parent = text("parent"), backend = text("backend");
    std::string command = "hemf-export trt " + (parent ? shell_word(*parent) : std::string("MODEL.onnx"));
    if (text("precision") == "fp32")
        command += " --fp32";
    else if (!parent)
        command += " --fp16";
    command += " --target " + shell_word(target.empty() ? text("target").value_or("t4") : target);
    if (backend) command += " --backend " + shell_word(*backend);
    const json::Value* build = root_->find("build");
    const json::Value* listed = build == nullptr ? nullptr : build->find("profiles");
    if (listed == nullptr || !listed->is(Kind::array)) return command;  // an older manifest, or one changed by hand
    const bool usual = listed->items.size() == 1 && listed->items[0].string == BatchProfile().text();
    for (const json::Value& one : listed->items)
        if (!usual) command += " --batch " + shell_word(one.string);
    command += option(*build, "workspace_mib", " --workspace ", 2048);
    command += option(*build, "optimization_level", " --optimization-level ", -1);
    const json::Value* compatible = build->find("version_compatible");
    if (compatible != nullptr && compatible->boolean) command += " --version-compatible";
    if (stripped()) command += " --strip-weights";
    const json::Value* timing = build->find("timing_cache");
    if (timing != nullptr && timing->is(Kind::boolean) && !timing->boolean) command += " --no-timing-cache";
    return command;
}

}  // namespace hemf

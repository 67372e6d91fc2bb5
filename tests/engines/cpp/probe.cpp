// Shows what the library makes of files and texts, so that Python can compare it with its own.
#include "probe.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <utility>

#include "hemf/error.hpp"
#include "hemf/image.hpp"
#include "hemf/manifest.hpp"
#include "hemf/preflight.hpp"
#include "hemf/text.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace probe {

void put(const void* data, std::size_t size) { std::fwrite(data, 1, size, stdout); }

Words listed() {
    Words found(1);
    for (int sign = std::getchar(); sign != EOF; sign = std::getchar()) {
        if (sign == 0)
            found.emplace_back();
        else
            found.back().push_back(static_cast<char>(sign));
    }
    found.pop_back();
    return found;
}

namespace {

void put_number(std::int32_t number) { put(&number, sizeof number); }
void put_text(const std::string& text) {
    put_number(static_cast<std::int32_t>(text.size()));
    put(text.data(), text.size());
}

// Of each image its code, then width, height and pixels, or the message.
int images(const hemf::Preprocess* preprocess) {
    for (const std::string& path : listed()) {
        try {
            const hemf::Image image = hemf::decode(path);
            const std::vector<std::uint8_t> pixels = preprocess == nullptr ? image.rgb : preprocess->pixels(image);
            put_number(0);
            put_number(preprocess == nullptr ? image.width : preprocess->size);
            put_number(preprocess == nullptr ? image.height : preprocess->size);
            put(pixels.data(), pixels.size());
        } catch (const hemf::Error& error) {
            put_number(static_cast<int>(error.code()));
            put_text(error.message());
        }
    }
    return 0;
}

hemf::Preprocess described(const std::string& mode, const std::string& size, const std::string& resize) {
    hemf::Preprocess found;
    found.mode = mode == "squash" ? hemf::Preprocess::Mode::squash : hemf::Preprocess::Mode::crop;
    found.size = std::atoi(size.c_str());
    found.resize = std::atoi(resize.c_str());
    found.check();
    return found;
}

// The values of a manifest's preprocessing, of all bytes.
int normalize(const std::string& engine) {
    const hemf::Manifest manifest = *hemf::Manifest::read(engine);
    hemf::Preprocess preprocess = manifest.description(engine).preprocess;
    std::vector<std::uint8_t> pixels(preprocess.pixel_bytes());
    for (std::size_t index = 0; index < pixels.size(); ++index) pixels[index] = static_cast<std::uint8_t>(index * 7);
    const std::vector<float> values = preprocess.normalize(pixels.data(), 1);
    put(values.data(), values.size() * sizeof(float));
    return 0;
}

int manifest(const std::string& path) {
    const std::optional<hemf::Manifest> read = hemf::Manifest::read(path);
    if (!read) return 0;
    const hemf::Description found = read->description(path);
    std::printf("%s\n%d %s %d\n", hemf::json_string(found.name).c_str(), found.preprocess.size,
                found.preprocess.mode == hemf::Preprocess::Mode::crop ? "crop" : "squash", found.preprocess.resize);
    for (const std::string& name : found.classes) std::printf("%s ", hemf::json_string(name).c_str());
    std::printf("\n%s %s %d\n%s\n", found.precision.c_str(),
                found.input_type == hemf::InputType::uint8 ? "uint8" : "float32", found.batch.value_or(0),
                read->rebuild_settings().c_str());
    std::printf("%s\n", found.source_size ? found.source_size->text().c_str() : "any");
    if (read->text("kind") != "engine") return 0;
    const hemf::Profiles profiles = read->profiles();
    for (const hemf::BatchProfile& one : profiles.all()) std::printf("%s ", one.text().c_str());
    std::printf("\n");
    return 0;
}

std::optional<std::pair<int, int>> pair(const std::string& text) {
    int first = 0, second = 0;
    if (std::sscanf(text.c_str(), "%d.%d", &first, &second) != 2) return std::nullopt;
    return std::pair(first, second);
}

// A machine in words: gpu, driver, backend, its version and CUDA, platform; "-" for none.
int preflight(const Words& words) {
    hemf::Machine machine;
    machine.gpu = pair(words[1]);
    machine.driver = pair(words[2]);
    if (words[3] != "-") machine.versions[words[3]] = words[4];
    if (words[5] != "-") machine.cuda[words[3]] = std::atoi(words[5].c_str());
    machine.platform = words[6];
    if (words[7] != "-") machine.gpu_name = words[7];
    const hemf::Preflight found = hemf::look(words[0], machine);
    for (const hemf::Check& check : found.checks) {
        const char* outcome = check.outcome == hemf::Check::Outcome::fine      ? "fine"
                              : check.outcome == hemf::Check::Outcome::refused ? "refused"
                                                                               : "not checked";
        std::printf("%s\t%s\t%s\n", check.what.c_str(), outcome, check.found.c_str());
    }
    if (found.refusal() != nullptr) throw *found.refusal();
    return 0;
}

int profiles(const Words& words) {
    std::vector<hemf::BatchProfile> all;
    for (std::size_t index = 1; index < words.size(); ++index) {
        hemf::BatchProfile one;
        if (std::sscanf(words[index].c_str(), "%d:%d:%d", &one.minimum, &one.optimum, &one.maximum) == 3)
            all.push_back(one);
    }
    const hemf::Profiles found(all);
    for (int count = 1; count <= std::atoi(words[0].c_str()); ++count) {
        std::printf("%d:", found.filled(count));
        try {
            for (const int part : found.parts(count)) std::printf(" %d", part);
        } catch (const hemf::Error& error) {
            std::printf(" %s", error.what());
        }
        std::printf("\n");
    }
    return 0;
}

std::string written(const hemf::json::Value& value) {
    std::string out;
    if (value.is_string()) return hemf::json_string(value.get<std::string>());
    if (value.is_number_float()) return hemf::json_number(value.get<double>());
    if (value.is_array()) {
        for (const auto& item : value) out += (out.empty() ? "" : ", ") + written(item);
        return "[" + out + "]";
    }
    if (value.is_object()) {
        for (const auto& [key, item] : value.items())
            out += (out.empty() ? "" : ", ") + hemf::json_string(key) + ": " + written(item);
        return "{" + out + "}";
    }
    return value.dump();
}

// Each text read and written again, or what is wrong with it; one a line.
int json() {
    for (const std::string& text : listed()) {
        try {
            std::printf("%s\n", written(hemf::json::parse(text)).c_str());
        } catch (const hemf::Error& error) {
            std::printf("malformed: %s\n", error.what());
        }
    }
    return 0;
}

int printable() {
    for (const std::string& text : listed()) std::printf("%s\n", hemf::printable(text).c_str());
    return 0;
}

int hashes() {
    for (const std::string& path : listed()) {
        std::string problem;
        std::printf("%s\n", hemf::sha256_of_file(path, problem).c_str());
    }
    return 0;
}

int run(const std::string& what, const Words& words) {
    if (what == "decode") return images(nullptr);
    if (what == "pixels") {
        const hemf::Preprocess preprocess = described(words[0], words[1], words[2]);
        return images(&preprocess);
    }
    if (what == "normalize") return normalize(words[0]);
    if (what == "manifest") return manifest(words[0]);
    if (what == "preflight") return preflight(words);
    if (what == "golden") return golden(words[0], words[1], std::atoi(words[2].c_str()));
    if (what == "predict") return predict(words);
    if (what == "fed") return fed(words[0]);
    if (what == "profiles") return profiles(words);
    if (what == "json") return json();
    if (what == "printable") return printable();
    if (what == "sha256") return hashes();
    if (what == "fuzz") return fuzz(std::atoi(words[0].c_str()), std::atoi(words[1].c_str()), listed());
    return 2;
}

}  // namespace

}  // namespace probe

int main(int count, char** words) {
    if (count < 2) return 2;
    try {
        return probe::run(words[1], probe::Words(words + 2, words + count));
    } catch (const hemf::Error& error) {
        std::fprintf(stderr, "%s\n%s\n", error.what(), error.hint().c_str());
        return static_cast<int>(error.code());
    }
}

#include "hemf/golden.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "file.hpp"
#include "hemf/error.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace hemf {

namespace {

using json::member;
using json::Value;

constexpr std::size_t max_golden_bytes = std::size_t{1} << 30;

Golden without_pixels(const Value& entry) {
    Golden golden;
    const Value& shape = member(entry, "shape", &Value::is_array);
    int sizes[4] = {0, 0, 0, 0};
    for (std::size_t axis = 0; axis < 4 && axis < shape.size(); ++axis)
        sizes[axis] = json::whole(shape[axis]).value_or(0);
    if (shape.size() != 4 || std::min({sizes[0], sizes[1], sizes[2]}) < 1 || sizes[3] != 3)
        throw bad_input("their shape is not that of images.");
    golden.images = sizes[0], golden.height = sizes[1], golden.width = sizes[2];
    const Value& rows = member(entry, "logits", &Value::is_array);
    if (rows.size() != static_cast<std::size_t>(golden.images))
        throw bad_input("their logits are those of other images.");
    for (const Value& row : rows) {
        if (!row.is_array() || row.empty() || row.size() != rows[0].size())
            throw bad_input("their logits are no table.");
        for (const Value& logit : row) {
            if (!logit.is_number() || !std::isfinite(logit.get<float>()))
                throw bad_input("their logits are not finite.");
            golden.logits.push_back(logit.get<float>());
        }
        golden.classes = static_cast<int>(row.size());
    }
    golden.max_logit_difference = member(entry, "max_logit_difference", &Value::is_number).get<double>();
    if (!(golden.max_logit_difference >= 0)) throw bad_input("their bound is negative.");
    const Value* source = json::find(entry, "source");
    if (source != nullptr && source->is_string()) golden.source = source->get<std::string>();
    return golden;
}

std::string three_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

}  // namespace

std::optional<Golden> Golden::read(const std::string& engine, const Manifest& manifest) {
    const Value* entry = json::find(manifest.document().root, "golden");
    if (entry == nullptr || entry->is_null()) return std::nullopt;
    const std::string path = engine + ".golden";
    const std::string hint = "Take it along with " + files::name(engine) + ", or build again.";
    if (!files::exists(path))
        throw bad_input(path + ", the golden images of " + files::name(engine) + ", is missing.", hint);
    std::string problem, hash;
    Golden golden;
    try {
        golden = without_pixels(*entry);
        hash = json::string(*entry, "sha256");
        golden.pixels = files::read(path, max_golden_bytes, problem);
        if (!problem.empty()) throw bad_input(problem + ".");
    } catch (const Error& error) {
        throw bad_input("The golden images of " + engine + " can't be read: " + error.message(), hint);
    }
    const double size = 3.0 * golden.images * golden.height * golden.width;
    if (sha256(golden.pixels.data(), golden.pixels.size()) != hash ||
        size != static_cast<double>(golden.pixels.size()))
        throw bad_input(path + " is not what the manifest of " + files::name(engine) + " describes.", hint);
    return golden;
}

SelfTest self_test(Runner& runner, const Golden& golden, const Description& description) {
    const ModelInput input = description.input();
    const int classes = runner.classes() * (description.output.single() ? 2 : 1);
    if (golden.height != input.height() || golden.width != input.width() || golden.classes != classes) {
        throw bad_input("The golden images are of another size, or have logits of " + std::to_string(golden.classes) +
                            " classes; the engine gives " + std::to_string(classes) + ".",
                        "They are another engine's. Build again.");
    }
    const int count = runner.filled(golden.images);
    const std::size_t bytes = input.pixel_bytes();
    std::vector<std::uint8_t> pixels;
    for (int image = 0; image < count; ++image) {
        const auto begin = golden.pixels.begin() + static_cast<std::ptrdiff_t>(bytes) * (image % golden.images);
        pixels.insert(pixels.end(), begin, begin + static_cast<std::ptrdiff_t>(bytes));
    }
    const std::vector<float> logits = description.output.scores(input.infer(runner, pixels.data(), count));
    SelfTest result{count, 0, golden.max_logit_difference, true};
    for (std::size_t index = 0; index < logits.size(); ++index) {
        result.finite = result.finite && std::isfinite(logits[index]);
        const double expected = golden.logits[index % golden.logits.size()];
        const double difference = std::fabs(static_cast<double>(logits[index]) - expected);
        result.max_difference = std::max(result.max_difference, difference);
    }
    return result;
}

bool require_golden(Runner& runner, const std::string& engine, const Manifest& manifest,
                    const Description& description) {
    const std::optional<Golden> golden = Golden::read(engine, manifest);
    if (!golden) return false;
    const SelfTest result = self_test(runner, *golden, description);
    if (result.passed()) return true;
    const std::string what = result.finite ? std::string("a ") + description.output.noun() + " differs by " +
                                                 three_digits(result.max_difference) + ", bound " +
                                                 three_digits(result.bound)
                                           : "NaN";
    throw Error(ExitCode::check_failed,
                engine + " doesn't compute what its graph does: " + what + " (" + std::to_string(result.images) +
                    " golden images).",
                "Don't use it on this machine. Build it again here, and test again.");
}

}  // namespace hemf

#include "hemf/golden.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

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

constexpr std::size_t largest_golden = std::size_t{1} << 30;

Golden golden_of(const json::Value& entry) {
    Golden found;
    const json::Value& shape = member(entry, "shape", Kind::array);
    int sizes[4] = {0, 0, 0, 0};
    for (std::size_t axis = 0; axis < 4 && axis < shape.items.size(); ++axis)
        sizes[axis] = shape.items[axis].whole().value_or(0);
    if (shape.items.size() != 4 || std::min({sizes[0], sizes[1], sizes[2]}) < 1 || sizes[3] != 3)
        throw Nonsense{"their shape is not that of images"};
    found.images = sizes[0], found.height = sizes[1], found.width = sizes[2];
    const json::Value& rows = member(entry, "logits", Kind::array);
    if (rows.items.size() != static_cast<std::size_t>(found.images))
        throw Nonsense{"their logits are those of other images"};
    for (const json::Value& row : rows.items) {
        if (!row.is(Kind::array) || row.items.empty() || row.items.size() != rows.items[0].items.size())
            throw Nonsense{"their logits are no table"};
        for (const json::Value& logit : row.items) {
            if (!logit.is(Kind::number) || !std::isfinite(static_cast<float>(logit.number)))
                throw Nonsense{"their logits are not finite"};
            found.logits.push_back(static_cast<float>(logit.number));
        }
        found.classes = static_cast<int>(row.items.size());
    }
    found.max_logit_difference = member(entry, "max_logit_difference", Kind::number).number;
    if (!(found.max_logit_difference >= 0)) throw Nonsense{"their bound is negative"};
    const json::Value* source = entry.find("source");
    if (source != nullptr) found.source = source->string;
    return found;
}

std::string three_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

}  // namespace

std::optional<Golden> Golden::read(const std::string& engine, const Manifest& manifest) {
    const json::Value* entry = manifest.root().find("golden");
    if (entry == nullptr || entry->is(Kind::null)) return std::nullopt;
    const std::string path = engine + ".golden";
    const std::string hint = "Take it along with " + files::name(engine) + ", or build again.";
    if (!files::exists(path))
        throw bad_input(path + ", the golden images of " + files::name(engine) + ", is missing.", hint);
    std::string problem, expected;
    Golden found;
    try {
        found = golden_of(*entry);
        expected = member(*entry, "sha256", Kind::string).string;
        found.pixels = files::read(path, largest_golden, problem);
        if (!problem.empty()) throw Nonsense{problem};
    } catch (const Nonsense& nonsense) {
        throw bad_input("The golden images of " + engine + " can't be read: " + nonsense.what + ".", hint);
    }
    const double size = 3.0 * found.images * found.height * found.width;
    if (sha256(found.pixels.data(), found.pixels.size()) != expected ||
        size != static_cast<double>(found.pixels.size()))
        throw bad_input(path + " is not what the manifest of " + files::name(engine) + " describes.", hint);
    return found;
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
    SelfTest found{count, 0, golden.max_logit_difference, true};
    for (std::size_t index = 0; index < logits.size(); ++index) {
        found.finite = found.finite && std::isfinite(logits[index]);
        const double expected = golden.logits[index % golden.logits.size()];
        found.max_difference = std::max(found.max_difference, std::fabs(static_cast<double>(logits[index]) - expected));
    }
    return found;
}

bool require_golden(Runner& runner, const std::string& engine, const Manifest& manifest,
                    const Description& description) {
    const std::optional<Golden> known = Golden::read(engine, manifest);
    if (!known) return false;
    const SelfTest found = self_test(runner, *known, description);
    if (found.passed()) return true;
    const std::string what = found.finite ? std::string("a ") + description.output.noun() + " differs by " + three_digits(found.max_difference) + ", bound " +
                                                three_digits(found.bound)
                                          : "NaN";
    throw Error(ExitCode::check_failed,
                engine + " doesn't compute what its graph does: " + what + " (" + std::to_string(found.images) +
                    " golden images).",
                "Don't use it on this machine. Build it again here, and test again.");
}

}  // namespace hemf

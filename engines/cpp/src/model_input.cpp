#include "hemf/model_input.hpp"

#include <algorithm>

#include "hemf/error.hpp"
#include "hemf/text.hpp"

namespace hemf {

namespace {

constexpr std::size_t shown = 5;  // images in a message

// The order of paths in Python: folder by folder.
bool by_parts(const std::string& left, const std::string& right) {
    const auto before = [](char a, char b) {
        const auto rank = [](char sign) { return sign == '/' ? 0 : static_cast<unsigned char>(sign); };
        return rank(a) < rank(b);
    };
    return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end(), before);
}

// (images, area, 3) → (images, 3, area)
std::vector<std::uint8_t> channels_first(const std::uint8_t* pixels, std::size_t images, std::size_t area) {
    std::vector<std::uint8_t> planes(images * area * 3);
    std::uint8_t* out = planes.data();
    for (std::size_t image = 0; image < images; ++image, pixels += area * 3)
        for (std::size_t channel = 0; channel < 3; ++channel)
            for (std::size_t place = 0; place < area; ++place) *out++ = pixels[place * 3 + channel];
    return planes;
}

std::string text_of(int height, int width) { return std::to_string(height) + "x" + std::to_string(width); }

}  // namespace

void SourceSize::check() const {
    const bool sides = std::min(height, width) >= 1 && std::max(height, width) <= max_source_side;
    if (sides && std::int64_t{height} * width <= max_pixels) return;
    throw Error(ExitCode::usage, "A source size is 1 to " + with_commas(max_source_side) +
                                     " pixels high and wide and " + with_commas(max_pixels) + " in all, not " + text() +
                                     ".");
}

std::string SourceSize::text() const { return text_of(height, width); }

std::size_t ModelInput::pixel_bytes() const {
    return static_cast<std::size_t>(height()) * static_cast<std::size_t>(width()) * 3;
}

std::size_t ModelInput::fed_bytes() const { return pixel_bytes() * (raw ? 1 : sizeof(float)); }

std::vector<std::int64_t> ModelInput::shape() const {
    if (channels_last()) return {height(), width(), 3};
    return {3, height(), width()};
}

void ModelInput::check() const {
    if (!source) return;
    source->check();
    if (!raw) throw Error(ExitCode::usage, "A file that resizes images itself takes raw pixels.",
                    "Export it for raw pixels: uint8 input.");
}

void ModelInput::require_sizes(const Sizes& sizes) const {
    if (!source) return;
    std::vector<std::pair<std::string, std::pair<int, int>>> wrong;
    for (const auto& [path, size] : sizes)
        if (size != std::pair(source->height, source->width)) wrong.emplace_back(path, size);
    if (wrong.empty()) return;
    std::sort(wrong.begin(), wrong.end(),
              [](const auto& left, const auto& right) { return by_parts(left.first, right.first); });
    std::string listed;
    for (std::size_t index = 0; index < wrong.size() && index < shown; ++index) {
        const auto& [path, size] = wrong[index];
        listed += (index > 0 ? "; " : "") + path + " is " + text_of(size.first, size.second);
    }
    if (wrong.size() > shown) listed += "; and " + std::to_string(wrong.size() - shown) + " more";
    throw bad_input("The file takes images of " + source->text() + " (height x width) alone: " + listed + ".",
                    "Take images of " + source->text() +
                        ", or a file that was exported with their source size; one without it takes any, resized "
                        "beforehand.");
}

void ModelInput::pixels(const Image& image, const std::string& name, std::uint8_t* out) const {
    if (source) {
        require_sizes({{name, {image.height, image.width}}});
        std::copy(image.rgb.begin(), image.rgb.end(), out);
    } else {
        preprocess.pixels(image, out);
    }
}

std::vector<std::uint8_t> ModelInput::pixels(const Image& image, const std::string& name) const {
    std::vector<std::uint8_t> out(pixel_bytes());
    pixels(image, name, out.data());
    return out;
}

std::vector<float> ModelInput::infer(Runner& runner, const std::uint8_t* pixels, int images) const {
    const auto count = static_cast<std::size_t>(images);
    if (raw && channels_last()) return runner.infer(pixels, images);
    if (raw) return runner.infer(channels_first(pixels, count, pixel_bytes() / 3).data(), images);
    const std::vector<float> inputs =
        channels_last() ? preprocess.normalize_channels_last(pixels, count) : preprocess.normalize(pixels, count);
    return runner.infer(inputs.data(), images);
}

}  // namespace hemf

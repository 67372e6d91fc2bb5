#include "hemf/preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "hemf/error.hpp"
#include "resample.hpp"

namespace hemf {

namespace {

// Half of a value, rounded to even as Python rounds.
std::int64_t half_of(std::int64_t value) {
    const std::int64_t below = value / 2;  // never negative: the crop is no larger than the image
    return value % 2 == 0 || below % 2 == 0 ? below : below + 1;
}

Side whole(int source, int outputs) { return {0.0F, static_cast<float>(source), outputs, 0, outputs}; }

// The part of one side that becomes the crop of an image of an extreme shape.
Side part(int source, std::int64_t scaled, std::int64_t begin, int size) {
    const double scale = static_cast<double>(source) / static_cast<double>(scaled);
    const double from = static_cast<double>(begin) * scale;
    const double to = std::min(static_cast<double>(begin + size) * scale, static_cast<double>(source));
    return {static_cast<float>(from), std::min(static_cast<float>(to), static_cast<float>(source)), size, 0, size};
}

}  // namespace

void Preprocess::check() const {
    if (size < 1 || size > resize) {
        throw bad_input("The input's size must be 1 to " + std::to_string(resize) + " (the resize), not " +
                        std::to_string(size) + ".");
    }
    for (std::size_t channel = 0; channel < 3; ++channel) {
        if (!std::isfinite(mean[channel])) throw bad_input("mean must be three finite numbers.");
        if (!std::isfinite(deviation[channel])) throw bad_input("std must be three finite numbers.");
        if (deviation[channel] <= 0) throw bad_input("std must be positive.");
    }
}

void Preprocess::pixels(const Image& image, std::uint8_t* out) const {
    if (mode == Mode::squash) {
        resample(image, whole(image.width, size), whole(image.height, size), out);
        return;
    }
    const std::int64_t width = image.width, height = image.height, shorter = std::min(width, height);
    // Truncated, as torchvision and so the authors do.
    const auto scaled = [&](std::int64_t side) {
        return static_cast<std::int64_t>(static_cast<double>(resize * side) / static_cast<double>(shorter));
    };
    const std::int64_t across = scaled(width), down = scaled(height);
    const std::int64_t left = half_of(across - size), top = half_of(down - size);
    if (across * down <= max_resized_pixels) {
        Side columns = whole(image.width, static_cast<int>(across)), rows = whole(image.height, static_cast<int>(down));
        columns.first = static_cast<int>(left), rows.first = static_cast<int>(top);
        columns.count = rows.count = size;
        resample(image, columns, rows, out);
        return;
    }
    resample(image, part(image.width, across, left, size), part(image.height, down, top, size), out);
}

std::vector<std::uint8_t> Preprocess::pixels(const Image& image) const {
    std::vector<std::uint8_t> out(pixel_bytes());
    pixels(image, out.data());
    return out;
}

Preprocess::Levels Preprocess::levels() const {
    Levels table;
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const auto middle = static_cast<float>(mean[channel]), spread = static_cast<float>(deviation[channel]);
        for (int value = 0; value < 256; ++value) {
            const float share = static_cast<float>(value) / 255.0F;
            table[channel][static_cast<std::size_t>(value)] = (share - middle) / spread;
        }
    }
    return table;
}

void Preprocess::normalize(const std::uint8_t* pixels, std::size_t images, float* out) const {
    const Levels table = levels();
    const std::size_t area = static_cast<std::size_t>(size) * static_cast<std::size_t>(size);
    for (std::size_t image = 0; image < images; ++image) {
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const std::uint8_t* pixel = pixels + image * area * 3 + channel;
            for (std::size_t place = 0; place < area; ++place, pixel += 3) *out++ = table[channel][*pixel];
        }
    }
}

std::vector<float> Preprocess::normalize(const std::uint8_t* pixels, std::size_t images) const {
    std::vector<float> out(images * pixel_bytes());
    normalize(pixels, images, out.data());
    return out;
}

std::vector<float> Preprocess::normalize_channels_last(const std::uint8_t* pixels, std::size_t images) const {
    const Levels table = levels();
    std::vector<float> out(images * pixel_bytes());
    for (std::size_t place = 0; place < out.size(); ++place) out[place] = table[place % 3][pixels[place]];
    return out;
}

}  // namespace hemf

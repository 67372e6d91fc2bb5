#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace hemf {

namespace {

constexpr int fraction_bits = 22;  // 32, less 8 of a byte and 2 to spare
constexpr std::int32_t half = 1 << (fraction_bits - 1);

// The source pixels that one output is made from, and their weights.
struct Window {
    int begin = 0;
    std::size_t weights = 0;  // index of the first in Filter::weights
    int length = 0;
};

struct Filter {
    std::vector<Window> windows;
    std::vector<std::int32_t> weights;  // in units of 2^-22
};

// A triangle of the width of an output pixel (of a source pixel where the image grows), cut at the image's edges and
// scaled to a sum of one. Each step in double precision, in Pillow's order: the last bit decides a rounding.
Filter filter(const Side& side, int source) {
    const double step = static_cast<double>(side.to - side.from) / side.outputs;
    const double reach = std::max(step, 1.0);
    const double narrowing = 1.0 / reach;
    Filter result;
    std::vector<double> triangle;
    for (int index = side.first; index < side.first + side.count; ++index) {
        const double centre = side.from + (index + 0.5) * step;
        const int begin = std::max(0, static_cast<int>(centre - reach + 0.5));
        const int end = std::min(source, static_cast<int>(centre + reach + 0.5));
        const int length = std::max(0, end - begin);
        triangle.assign(static_cast<std::size_t>(length), 0.0);
        double sum = 0;
        for (int tap = 0; tap < length; ++tap) {
            const double distance = std::fabs((tap + begin - centre + 0.5) * narrowing);
            triangle[static_cast<std::size_t>(tap)] = distance < 1.0 ? 1.0 - distance : 0.0;
            sum += triangle[static_cast<std::size_t>(tap)];
        }
        result.windows.push_back({begin, result.weights.size(), length});
        for (const double weight : triangle) {
            const double scaled = sum != 0.0 ? weight / sum : weight;
            result.weights.push_back(static_cast<std::int32_t>(0.5 + scaled * (1 << fraction_bits)));
        }
    }
    return result;
}

std::uint8_t rounded(std::int32_t value) {
    return static_cast<std::uint8_t>(std::clamp(value >> fraction_bits, 0, 255));
}

void resize_row(const std::uint8_t* row, const Filter& across, std::uint8_t* out) {
    for (const Window& window : across.windows) {
        std::int32_t red = half, green = half, blue = half;
        const std::uint8_t* pixel = row + static_cast<std::size_t>(window.begin) * 3;
        const std::int32_t* weight = across.weights.data() + window.weights;
        for (int tap = 0; tap < window.length; ++tap, pixel += 3) {
            red += pixel[0] * weight[tap];
            green += pixel[1] * weight[tap];
            blue += pixel[2] * weight[tap];
        }
        *out++ = rounded(red);
        *out++ = rounded(green);
        *out++ = rounded(blue);
    }
}

std::size_t row_size(const Image& image) { return static_cast<std::size_t>(image.width) * 3; }

// Windows follow one another down the image: each source row is resized once, and added to those it is in.
void across_first(const Image& image, const Filter& columns, const Filter& rows, std::uint8_t* out) {
    const std::size_t row_bytes = columns.windows.size() * 3;
    std::vector<std::int32_t> sums(row_bytes * rows.windows.size(), half);
    std::vector<std::uint8_t> row(row_bytes);
    std::size_t oldest = 0;
    const int end = rows.windows.back().begin + rows.windows.back().length;
    for (int y = rows.windows.front().begin; y < end; ++y) {
        resize_row(image.rgb.data() + static_cast<std::size_t>(y) * row_size(image), columns, row.data());
        while (oldest < rows.windows.size() && rows.windows[oldest].begin + rows.windows[oldest].length <= y) ++oldest;
        for (std::size_t index = oldest; index < rows.windows.size() && rows.windows[index].begin <= y; ++index) {
            const Window& window = rows.windows[index];
            const std::int32_t weight = rows.weights[window.weights + static_cast<std::size_t>(y - window.begin)];
            std::int32_t* sum = sums.data() + index * row_bytes;
            for (std::size_t place = 0; place < row_bytes; ++place) sum[place] += row[place] * weight;
        }
    }
    std::transform(sums.begin(), sums.end(), out, rounded);
}

void down_first(const Image& image, const Filter& columns, const Filter& rows, std::uint8_t* out) {
    const std::size_t begin = static_cast<std::size_t>(columns.windows.front().begin) * 3;
    const std::size_t end = static_cast<std::size_t>(columns.windows.back().begin + columns.windows.back().length) * 3;
    std::vector<std::int32_t> sums(row_size(image));
    std::vector<std::uint8_t> row(row_size(image));
    for (const Window& window : rows.windows) {
        std::fill(sums.begin(), sums.end(), half);
        for (int tap = 0; tap < window.length; ++tap) {
            const std::uint8_t* source =
                image.rgb.data() + static_cast<std::size_t>(window.begin + tap) * row_size(image);
            const std::int32_t weight = rows.weights[window.weights + static_cast<std::size_t>(tap)];
            for (std::size_t place = begin; place < end; ++place) sums[place] += source[place] * weight;
        }
        for (std::size_t place = begin; place < end; ++place) row[place] = rounded(sums[place]);
        resize_row(row.data(), columns, out);
        out += columns.windows.size() * 3;
    }
}

}  // namespace

void resample(const Image& image, const Side& across, const Side& down, std::uint8_t* out) {
    const Filter columns = filter(across, image.width), rows = filter(down, image.height);
    // Values are rounded to bytes between the passes, so their order matters. Since version 13, Pillow begins with the
    // height where it shrinks by more than twice as much as the width.
    const std::int64_t shorter = std::int64_t{image.height} - down.outputs,
                       narrower = std::int64_t{image.width} - across.outputs;
    const bool height_first = shorter > 0 && shorter > 2 * narrower;
    height_first ? down_first(image, columns, rows, out) : across_first(image, columns, rows, out);
}

}  // namespace hemf

#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace predict {

namespace {

struct Sign {
    std::string bytes;
    std::int32_t point = -1;  // none for a byte that is no UTF-8
};

std::vector<Sign> signs(const std::string& text) {
    std::vector<Sign> found;
    for (std::size_t at = 0; at < text.size();) {
        const auto first = static_cast<unsigned char>(text[at]);
        std::size_t length = first < 0x80                    ? 1
                             : first >= 0xc2 && first < 0xe0 ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
        std::int32_t point = length <= 1 ? first : first & (0xff >> (length + 1));
        for (std::size_t index = 1; index < length; ++index) {
            const unsigned next = at + index < text.size() ? static_cast<unsigned char>(text[at + index]) : 0U;
            if ((next & 0xc0U) != 0x80U) length = 0;
            point = point << 6 | static_cast<std::int32_t>(next & 63U);
        }
        if (length == 0) {
            found.push_back({text.substr(at, 1), -1});
            ++at;
        } else {
            found.push_back({text.substr(at, length), point});
            at += length;
        }
    }
    return found;
}

bool within(std::int32_t point, const std::int32_t (*ranges)[2], std::size_t count) {
    return std::any_of(ranges, ranges + count,
                       [point](const std::int32_t(&range)[2]) { return point >= range[0] && point <= range[1]; });
}

// The main blocks of Unicode's East Asian Width W and F, and of what takes no room.
constexpr std::int32_t wide[][2] = {{0x1100, 0x115f},  {0x2e80, 0x303e},   {0x3041, 0xa4cf},   {0xa960, 0xa97c},
                                    {0xac00, 0xd7a3},  {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},
                                    {0xffe0, 0xffe6},  {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff},
                                    {0x20000, 0x3fffd}};
constexpr std::int32_t narrow[][2] = {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd}, {0x200b, 0x200f},
                                      {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}};

// What shows nothing or steers what is around it, such as the direction of text: Unicode's Cf, Co, Zl, Zp and Zs.
constexpr std::int32_t unseen[][2] = {
    {0x0600, 0x0605},   {0x061c, 0x061c},   {0x06dd, 0x06dd},   {0x070f, 0x070f},   {0x0890, 0x0891},
    {0x08e2, 0x08e2},   {0x1680, 0x1680},   {0x180e, 0x180e},   {0x2000, 0x200f},   {0x2028, 0x202f},
    {0x205f, 0x2064},   {0x2066, 0x206f},   {0x3000, 0x3000},   {0xe000, 0xf8ff},   {0xfeff, 0xfeff},
    {0xfff9, 0xfffb},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},
    {0x1d173, 0x1d17a}, {0xe0001, 0xe0001}, {0xe0020, 0xe007f}, {0xf0000, 0x10ffff}};

int cells(const Sign& sign) {
    if (within(sign.point, narrow, std::size(narrow))) return 0;
    return within(sign.point, wide, std::size(wide)) ? 2 : 1;
}

struct Measured {
    int left = 0, right = 0;  // padding
    int width = 0;
};

// Take `excess` from the widest columns that may fold, until they are as wide as the next.
void shrink(std::vector<int>& widths, const std::vector<Column>& columns, int most) {
    const auto total = [&widths] {
        int sum = 0;
        for (const int width : widths) sum += width;
        return sum;
    };
    for (int excess = total() - most; excess > 0; excess = total() - most) {
        int largest = 0, second = 0;
        for (std::size_t index = 0; index < widths.size(); ++index)
            if (columns[index].words) largest = std::max(largest, widths[index]);
        for (std::size_t index = 0; index < widths.size(); ++index)
            if (columns[index].words && widths[index] != largest) second = std::max(second, widths[index]);
        int sharing = 0;
        for (std::size_t index = 0; index < widths.size(); ++index)
            sharing += columns[index].words && widths[index] == largest ? 1 : 0;
        if (sharing == 0 || largest == second) break;
        const int limit = std::min(excess, largest - second);
        for (std::size_t index = 0; index < widths.size(); ++index) {
            if (!columns[index].words || widths[index] != largest) continue;
            const int part = std::min(limit, static_cast<int>(std::nearbyint(static_cast<double>(excess) / sharing)));
            widths[index] -= part;
            excess -= part;
            --sharing;
        }
    }
}

std::string aligned(const std::string& text, int width, bool left) {
    const int room = std::max(0, width - width_of(text));
    const std::string spaces(static_cast<std::size_t>(room), ' ');
    return left ? text + spaces : spaces + text;
}

}  // namespace

int width_of(const std::string& text) {
    int sum = 0;
    for (const Sign& sign : signs(text)) sum += cells(sign);
    return sum;
}

std::string printable(const std::string& path) {
    std::string out;
    char escape[12];
    for (const Sign& sign : signs(path)) {
        if (sign.point < 0) {
            std::snprintf(escape, sizeof escape, "\\udc%02x", static_cast<unsigned char>(sign.bytes[0]));
            out += escape;
        } else if (sign.point == '\n' || sign.point == '\r' || sign.point == '\t') {
            out += sign.point == '\n' ? "\\n" : sign.point == '\r' ? "\\r" : "\\t";
        } else if (sign.point < 0x20 || (sign.point >= 0x7f && sign.point <= 0xa0) || sign.point == 0xad) {
            std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(sign.point));
            out += escape;
        } else if (within(sign.point, unseen, std::size(unseen))) {
            std::snprintf(escape, sizeof escape, sign.point < 0x10000 ? "\\u%04x" : "\\U%08x",
                          static_cast<unsigned>(sign.point));
            out += escape;
        } else {
            out += sign.bytes;
        }
    }
    return out;
}

std::string printable_lines(const std::string& text) {
    static const std::string line_break = "\n  ";
    std::string out;
    std::size_t start = 0;
    for (std::size_t end = text.find(line_break); end != std::string::npos; end = text.find(line_break, start)) {
        out += printable(text.substr(start, end - start)) + line_break;
        start = end + line_break.size();
    }
    return out + printable(text.substr(start));
}

std::vector<std::string> wrapped(const std::string& text, int width) {
    const std::vector<Sign> all = signs(text);
    std::vector<std::string> lines(1);
    int used = 0;
    for (std::size_t at = 0; at < all.size();) {
        // A word: spaces before it, at the start alone, itself, and the spaces behind it.
        std::size_t end = at, trimmed = at;
        while (end < all.size() && all[end].point == ' ') ++end;
        while (end < all.size() && all[end].point != ' ') ++end;
        trimmed = end;
        while (end < all.size() && all[end].point == ' ') ++end;
        int bare = 0, whole = 0;
        for (std::size_t index = at; index < end; ++index) {
            whole += cells(all[index]);
            if (index < trimmed) bare += cells(all[index]);
        }
        if (bare > width - used && bare > width) {  // it fits no line: it is cut where each ends
            if (!lines.back().empty()) lines.emplace_back();
            used = 0;
            for (; at < end; ++at) {
                if (used + cells(all[at]) > width) {
                    lines.emplace_back();
                    used = 0;
                }
                lines.back() += all[at].bytes;
                used += cells(all[at]);
            }
            continue;
        }
        if (bare > width - used && used > 0) {
            lines.emplace_back();
            used = 0;
        }
        for (; at < end; ++at) lines.back() += all[at].bytes;
        used += whole;
    }
    for (std::string& line : lines) {
        int excess = width_of(line) - width;
        while (excess-- > 0 && !line.empty() && line.back() == ' ') line.pop_back();
    }
    return lines;
}

std::string table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows, int width) {
    std::vector<std::vector<std::string>> all;
    std::vector<std::string> headers;
    for (const Column& column : columns) headers.push_back(column.header);
    const bool headed =
        std::any_of(headers.begin(), headers.end(), [](const std::string& text) { return !text.empty(); });
    if (headed) all.push_back(headers);
    all.insert(all.end(), rows.begin(), rows.end());

    std::vector<Measured> measured(columns.size());
    std::vector<int> widths;
    int total = 0;
    for (std::size_t index = 0; index < columns.size(); ++index) {
        Measured& one = measured[index];
        one.left = index == 0 ? 0 : 1;
        one.right = index + 1 == columns.size() ? 0 : 1;
        for (const auto& row : all) one.width = std::max(one.width, width_of(row[index]) + one.left + one.right);
        one.width = std::min(one.width, width);
        if (columns[index].least > 0) one.width = std::max(one.width, columns[index].least + one.left + one.right);
        widths.push_back(one.width);
        total += one.width;
    }
    if (total > width) {
        shrink(widths, columns, width);
        for (std::size_t index = 0; index < columns.size(); ++index) {
            widths[index] = std::min(widths[index], measured[index].width);
            if (columns[index].least > 0)
                widths[index] =
                    std::max(widths[index], columns[index].least + measured[index].left + measured[index].right);
        }
    }
    std::string out;
    for (const auto& row : all) {
        std::vector<std::vector<std::string>> folded;
        std::size_t height = 1;
        for (std::size_t index = 0; index < columns.size(); ++index) {
            const int room = widths[index] - measured[index].left - measured[index].right;
            folded.push_back(columns[index].words ? wrapped(row[index], room) : std::vector<std::string>{row[index]});
            height = std::max(height, folded.back().size());
        }
        const bool header = headed && &row == &all.front();
        for (std::size_t line = 0; line < height; ++line) {
            for (std::size_t index = 0; index < columns.size(); ++index) {
                const int room = widths[index] - measured[index].left - measured[index].right;
                const std::size_t above = header ? height - folded[index].size() : 0;  // headers stand at the bottom
                const bool there = line >= above && line - above < folded[index].size();
                out.append(static_cast<std::size_t>(measured[index].left), ' ');
                out += aligned(there ? folded[index][line - above] : "", room, columns[index].words);
                out.append(static_cast<std::size_t>(measured[index].right), ' ');
            }
            out += '\n';
        }
    }
    return out;
}

}  // namespace predict

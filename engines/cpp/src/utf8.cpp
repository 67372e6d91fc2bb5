#include "utf8.hpp"

namespace hemf {

void append_utf8(std::string& out, std::uint32_t point) {
    const auto add = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (point < 0x80) {
        add(point);
    } else if (point < 0x800) {
        add(0xc0 | point >> 6), add(0x80 | (point & 63));
    } else if (point < 0x10000) {
        add(0xe0 | point >> 12), add(0x80 | (point >> 6 & 63)), add(0x80 | (point & 63));
    } else {
        add(0xf0 | point >> 18), add(0x80 | (point >> 12 & 63)), add(0x80 | (point >> 6 & 63)),
            add(0x80 | (point & 63));
    }
}

std::int32_t next_code_point(const std::string& text, std::size_t& at) {
    const auto byte = [&text](std::size_t place) {
        return place < text.size() ? static_cast<std::uint32_t>(static_cast<unsigned char>(text[place])) : 0U;
    };
    const std::uint32_t first = byte(at);
    const std::size_t length = first < 0x80                    ? 1
                               : first >= 0xc2 && first < 0xe0 ? 2
                               : first >= 0xe0 && first < 0xf0 ? 3
                               : first >= 0xf0 && first < 0xf5 ? 4
                                                               : 0;
    std::uint32_t point = length <= 1 ? first : first & (0xffU >> (length + 1));
    for (std::size_t index = 1; index < length; ++index) {
        if ((byte(at + index) & 0xc0) != 0x80) {
            ++at;
            return -1;
        }
        point = point << 6 | (byte(at + index) & 63);
    }
    const bool shorter_form = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
    if (length == 0 || shorter_form || (point >= 0xd800 && point < 0xe000) || point > 0x10ffff) {
        ++at;
        return -1;
    }
    at += length;
    return static_cast<std::int32_t>(point);
}

}  // namespace hemf

#include "hemf/text.hpp"

#include <charconv>
#include <cstdio>

namespace hemf {

namespace {

// The code point at `at`, which moves on behind it; -1 for a byte that begins none.
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

std::string escaped(const char* format, std::uint32_t value) {
    char text[12];
    std::snprintf(text, sizeof text, format, static_cast<unsigned>(value));
    return text;
}

// Controls, what breaks lines, and what steers the direction of the text around it.
bool is_control(std::int32_t point) {
    const auto within = [point](std::int32_t first, std::int32_t last) { return point >= first && point <= last; };
    return point < 0x20 || within(0x7f, 0x9f) || point == 0x061c || within(0x200b, 0x200f) || within(0x2028, 0x202e) ||
           within(0x2060, 0x206f) || point == 0xfeff || within(0xfff9, 0xfffb) || within(0xe0000, 0xe007f);
}

}  // namespace

std::string json_string(const std::string& text) {
    static const std::string special = "\"\\\b\f\n\r\t", letters = "\"\\bfnrt";
    std::string out = "\"";
    const auto unit = [&out](std::uint32_t value) { out += escaped("\\u%04x", value); };
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = static_cast<unsigned char>(text[at]);
        const std::int32_t code_point = next_code_point(text, at);
        const std::uint32_t point = code_point < 0 ? 0xdc00U + byte : static_cast<std::uint32_t>(code_point);
        const std::size_t place = point < 0x80 ? special.find(static_cast<char>(point)) : std::string::npos;
        if (place != std::string::npos)
            out += {'\\', letters[place]};
        else if (point >= 0x20 && point < 0x80)
            out.push_back(static_cast<char>(point));
        else if (point < 0x10000)
            unit(point);
        else
            unit(0xd800 + ((point - 0x10000) >> 10)), unit(0xdc00 + ((point - 0x10000) & 0x3ff));
    }
    return out + "\"";
}

std::string json_number(double number) {
    char buffer[40];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
    const std::string text(buffer, end);
    const std::size_t mark = text.find('e');
    if (mark == std::string::npos) return text;  // inf, nan
    const bool negative = text[0] == '-';
    std::string digits;
    for (const char sign : text.substr(0, mark))
        if (sign >= '0' && sign <= '9') digits.push_back(sign);
    int exponent = 0;
    const std::size_t sign_place = text[mark + 1] == '+' ? mark + 2 : mark + 1;
    std::from_chars(text.data() + sign_place, text.data() + text.size(), exponent);
    std::string out;
    if (exponent < -4 || exponent >= 16) {
        out =
            digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "") + "e" + (exponent < 0 ? "-" : "+");
        const std::string power = std::to_string(exponent < 0 ? -exponent : exponent);
        out += power.size() < 2 ? "0" + power : power;
    } else if (exponent < 0) {
        out = "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    } else {
        const auto before = static_cast<std::size_t>(exponent) + 1;
        if (digits.size() < before) digits.append(before - digits.size(), '0');
        out = digits.substr(0, before) + "." + (digits.size() > before ? digits.substr(before) : "0");
    }
    return negative ? "-" + out : out;
}

std::string printable(const std::string& text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        const std::int32_t point = next_code_point(text, at);
        const auto code = static_cast<std::uint32_t>(point);
        if (point < 0)
            out += escaped("\\udc%02x", static_cast<unsigned char>(text[begin]));  // as Python shows it
        else if (point == '\n' || point == '\r' || point == '\t')
            out += point == '\n' ? "\\n" : point == '\r' ? "\\r" : "\\t";
        else if (is_control(point))
            out += escaped(point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", code);
        else
            out.append(text, begin, at - begin);
    }
    return out;
}

std::string with_commas(std::int64_t number) {
    std::string text = std::to_string(number);
    for (std::size_t place = text.size(); place > 3;) text.insert(place -= 3, ",");
    return text;
}

}  // namespace hemf

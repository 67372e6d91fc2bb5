#include "hemf/text.hpp"

#include <charconv>
#include <cstdint>

#include "utf8.hpp"

namespace hemf {

std::string json_string(const std::string& text) {
    std::string out = "\"";
    const auto unit = [&out](std::uint32_t value) {
        static const char* digits = "0123456789abcdef";
        out += "\\u";
        for (int shift = 12; shift >= 0; shift -= 4) out.push_back(digits[value >> shift & 15]);
    };
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = static_cast<unsigned char>(text[at]);
        const std::int32_t found = next_code_point(text, at);
        const std::uint32_t point = found < 0 ? 0xdc00U + byte : static_cast<std::uint32_t>(found);
        static const std::string plain = "\"\\\b\f\n\r\t", letters = "\"\\bfnrt";
        const std::size_t place = point < 0x80 ? plain.find(static_cast<char>(point)) : std::string::npos;
        if (place != std::string::npos) {
            out.push_back('\\');
            out.push_back(letters[place]);
        } else if (point >= 0x20 && point < 0x7f) {
            out.push_back(static_cast<char>(point));
        } else if (point == 0x7f) {
            out.push_back('\x7f');
        } else if (point >= 0x10000) {
            unit(0xd800 + ((point - 0x10000) >> 10));
            unit(0xdc00 + ((point - 0x10000) & 0x3ff));
        } else {
            unit(point);
        }
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

}  // namespace hemf

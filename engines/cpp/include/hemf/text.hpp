// How text and numbers are written: in JSON as hemf-export writes it, and in messages.
#pragma once

#include <cstdint>
#include <string>

namespace hemf {

// In quotes, with everything but ASCII escaped. Bytes that aren't UTF-8 become U+DC80 to U+DCFF, as in Python's file
// names.
std::string json_string(const std::string& text);

// The fewest digits that read back as the same number, in the form of Python's repr.
std::string json_number(double number);

// A name that is safe to show in a terminal and in a column: control characters, characters that change the direction
// or the lines of text, and bytes that aren't UTF-8 are escaped.
std::string printable(const std::string& text);

// A number that isn't negative, with thousands set apart: 100,000,000.
std::string with_commas(std::int64_t number);

}  // namespace hemf

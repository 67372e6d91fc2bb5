// JSON as hemf-export writes it, for programs that print results.
#pragma once

#include <string>

namespace hemf {

// In quotes, all but ASCII escaped; bytes that are no UTF-8 become U+DC80 to U+DCFF, as in Python's file names.
std::string json_string(const std::string& text);

// The fewest digits that give the number back, as Python's repr writes them.
std::string json_number(double number);

}  // namespace hemf

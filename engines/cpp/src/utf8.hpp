// Code points to bytes and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hemf {

void append_utf8(std::string& out, std::uint32_t point);

// One code point at `at`, which is moved behind it; -1 for a byte that begins none, which is passed.
std::int32_t next_code_point(const std::string& text, std::size_t& at);

}  // namespace hemf

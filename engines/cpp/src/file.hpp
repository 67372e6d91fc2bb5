// Files as a whole: read, hashed, written in place of another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hemf::files {

inline constexpr const char* not_regular = "not a regular file";  // a FIFO would block, a folder would confuse
inline constexpr const char* too_large = "too large";

// A regular file's bytes; `problem` says why there are none, and is empty otherwise.
std::vector<std::uint8_t> read(const std::string& path, std::size_t largest, std::string& problem);

bool exists(const std::string& path);
bool is_regular(const std::string& path);

// The last part of a path, and what precedes it ("" or with a final slash).
std::string name(const std::string& path);
std::string folder(const std::string& path);

// Put bytes at `path`, whole or not at all; false where that can't be.
bool replace(const std::string& path, const std::string& content);

}  // namespace hemf::files

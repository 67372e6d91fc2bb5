// Paths as Python's pathlib writes them: no "./", no double or final slashes.
#pragma once

#include <string>
#include <vector>

namespace predict {

std::string plain_path(const std::string& path);

// "/" first for an absolute one; nothing for ".".
std::vector<std::string> parts(const std::string& plain);

// The last part, and what is above it ("." for a path of one part).
std::string name(const std::string& plain);
std::string parent(const std::string& plain);

// What is left of `plain` below the folder `root`.
std::string below(const std::string& plain, const std::string& root);

}  // namespace predict

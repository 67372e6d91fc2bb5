#pragma once

#include <string>
#include <vector>

namespace probe {

// Changes bytes of each file at random, `rounds` times, and reads the result: as an image, and as a manifest and its
// golden images where the file is JSON. Ends with 0 unless something crashes; prints how many were still taken.
int fuzz(int seed, int rounds, const std::vector<std::string>& paths);

}  // namespace probe

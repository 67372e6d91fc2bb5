// What this machine runs engines with: its first GPU and driver, and the TensorRT that the library was built with.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

namespace hemf {

struct Machine {
    std::optional<std::pair<int, int>> gpu;       // compute capability of the first; none where there is no GPU
    std::map<std::string, std::string> versions;  // of the linked TensorRT, "tensorrt" or "tensorrt-rtx"
    std::string platform;                         // operating system and processor, "linux-x86_64"
    std::optional<std::pair<int, int>> driver;    // the latest CUDA version that the NVIDIA driver supports
    std::map<std::string, int> cuda;              // major version of CUDA that the linked TensorRT is used with
    std::optional<std::string> gpu_name;          // product name of the first GPU, where it is known
};

Machine this_machine();

// The operating system and processor that this was compiled for.
std::string platform_here();

}  // namespace hemf

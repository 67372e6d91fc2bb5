// The layout is the one that trtexec's --getPlanVersionOnly reads: a tag, a serialization version of 0, and the four
// numbers of the version at byte 24. TensorRT-RTX has another tag.
#include <cstdio>
#include <cstring>
#include <memory>

#include "file.hpp"
#include "hemf/preflight.hpp"

namespace hemf {

PlanHeader read_plan_header(const std::string& path) {
    if (!files::is_regular(path))
        throw bad_input("No engine at " + path + ".", "Build one: hemf-export trt MODEL.onnx --fp16.");
    unsigned char start[28] = {};
    std::size_t count = 0;
    if (const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::fopen(path.c_str(), "rb"), std::fclose})
        count = std::fread(start, 1, sizeof start, file.get());
    else
        throw bad_input(path + " can't be read.");
    const bool plain = std::memcmp(start, "ftrt", 4) == 0, rtx = std::memcmp(start, "vtrt", 4) == 0;
    if (count < sizeof start || (!plain && !rtx)) {
        throw bad_input(
            path + " is not a TensorRT plan: " + (count == 0 ? "it is empty." : "it does not begin as one."),
            "Build it again: hemf-export trt.");
    }
    PlanHeader header{rtx ? "tensorrt-rtx" : "tensorrt", std::nullopt};
    if (start[4] == 0 && start[5] == 0 && start[6] == 0 && start[7] == 0) {
        header.version = std::to_string(start[24]) + "." + std::to_string(start[25]) + "." + std::to_string(start[26]) +
                         "." + std::to_string(start[27]);
    }
    return header;
}

}  // namespace hemf

// libFuzzer's target (clang, -DHEMF_FUZZ=ON): what begins with a brace is read as a manifest, the rest as an image.
#include <cstddef>
#include <cstdint>
#include <string>

#include "hemf/error.hpp"
#include "hemf/image.hpp"
#include "hemf/manifest.hpp"
#include "hemf/preprocess.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    try {
        if (data[0] == '{') {
            const std::string text(reinterpret_cast<const char*>(data), size);
            const hemf::Manifest manifest = hemf::Manifest::parse(text, "manifest");
            manifest.rebuild_settings();
            manifest.description("engine").input().shape();
            manifest.profiles().filled(3);
        } else {
            const hemf::Image image = hemf::decode(data, size, "image");
            hemf::Preprocess preprocess;
            preprocess.size = 8;
            preprocess.resize = 9;
            preprocess.pixels(image);
        }
    } catch (const hemf::Error&) {  // refused, as most are
    }
    return 0;
}

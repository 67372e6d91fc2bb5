// The C header's images and preprocessing; what failed last in each thread.
#include <new>
#include <string>

#include "c_objects.hpp"
#include "hemf/preprocess.hpp"

namespace {

thread_local std::string last_message, last_hint;

hemf::Preprocess from_c(const hemf_preprocess& values) {
    hemf::Preprocess found;
    found.size = values.size;
    found.mode = values.squash != 0 ? hemf::Preprocess::Mode::squash : hemf::Preprocess::Mode::crop;
    found.resize = values.resize;
    for (std::size_t channel = 0; channel < 3; ++channel) {
        found.mean[channel] = values.mean[channel];
        found.deviation[channel] = values.deviation[channel];
    }
    found.check();
    return found;
}

}  // namespace

namespace hemf::c {

hemf_status failed(hemf_status status, const char* message, const char* hint) noexcept {
    try {
        last_message = message;
        last_hint = hint;
    } catch (const std::bad_alloc&) {
        last_message.clear();
        last_hint.clear();
    }
    return status;
}

}  // namespace hemf::c

using hemf::c::guarded;
using hemf::c::require;

extern "C" {

const char* hemf_version(void) { return HEMF_VERSION; }
const char* hemf_engine_flavour(void) { return HEMF_ENGINE_FLAVOUR; }
const char* hemf_message(void) { return last_message.c_str(); }
const char* hemf_hint(void) { return last_hint.c_str(); }

hemf_status hemf_image_decode(const char* path, hemf_image** image) {
    return guarded([=] {
        require(path != nullptr && image != nullptr, "hemf_image_decode: a pointer is null.");
        *image = nullptr;
        *image = new hemf_image{hemf::decode(path)};
    });
}

hemf_status hemf_image_decode_bytes(const uint8_t* data, size_t size, const char* name, hemf_image** image) {
    return guarded([=] {
        require((data != nullptr || size == 0) && name != nullptr && image != nullptr,
                "hemf_image_decode_bytes: a pointer is null.");
        *image = nullptr;
        *image = new hemf_image{hemf::decode(data, size, name)};
    });
}

hemf_status hemf_image_from_rgb(const uint8_t* rgb, int width, int height, hemf_image** image) {
    return guarded([=] {
        require(rgb != nullptr && image != nullptr, "hemf_image_from_rgb: a pointer is null.");
        *image = nullptr;
        require(width > 0 && height > 0 && height <= hemf::max_pixels / width, "hemf_image_from_rgb: no such size.");
        const std::size_t bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
        *image = new hemf_image{{width, height, std::vector<std::uint8_t>(rgb, rgb + bytes)}};
    });
}

int hemf_image_width(const hemf_image* image) { return image == nullptr ? 0 : image->image.width; }
int hemf_image_height(const hemf_image* image) { return image == nullptr ? 0 : image->image.height; }
const uint8_t* hemf_image_rgb(const hemf_image* image) { return image == nullptr ? nullptr : image->image.rgb.data(); }
void hemf_image_free(hemf_image* image) { delete image; }

hemf_status hemf_preprocess_pixels(const hemf_preprocess* preprocess, const hemf_image* image, uint8_t* pixels) {
    return guarded([=] {
        require(preprocess != nullptr && image != nullptr && pixels != nullptr,
                "hemf_preprocess_pixels: a pointer is null.");
        from_c(*preprocess).pixels(image->image, pixels);
    });
}

hemf_status hemf_preprocess_normalize(const hemf_preprocess* preprocess, const uint8_t* pixels, size_t images,
                                      float* out) {
    return guarded([=] {
        require(preprocess != nullptr && pixels != nullptr && out != nullptr,
                "hemf_preprocess_normalize: a pointer is null.");
        from_c(*preprocess).normalize(pixels, images, out);
    });
}

}  // extern "C"

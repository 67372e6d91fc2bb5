// The C header: objects behind its pointers, and no exception that leaves its functions.
#include "hemf/hemf.h"

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "hemf/error.hpp"
#include "hemf/image.hpp"
#include "hemf/manifest.hpp"
#include "hemf/predictor.hpp"
#include "hemf/preflight.hpp"
#include "hemf/preprocess.hpp"

struct hemf_image {
    hemf::Image image;
};

struct hemf_manifest {
    hemf::Description description;
};

struct hemf_model {
    hemf::Predictor predictor;
    hemf_manifest manifest;
};

namespace {

using hemf::Error;
using hemf::ExitCode;

thread_local std::string last_message, last_hint;

hemf::Preprocess from_c(const hemf_preprocess& values) {
    hemf::Preprocess preprocess;
    preprocess.size = values.size;
    preprocess.mode = values.squash != 0 ? hemf::Preprocess::Mode::squash : hemf::Preprocess::Mode::crop;
    preprocess.resize = values.resize;
    for (std::size_t channel = 0; channel < 3; ++channel) {
        preprocess.mean[channel] = values.mean[channel];
        preprocess.deviation[channel] = values.deviation[channel];
    }
    preprocess.check();
    return preprocess;
}

// Keep message and hint for the calling thread, and return the status.
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

template <class Work>
hemf_status guarded(Work work) noexcept {
    try {
        work();
        return HEMF_OK;
    } catch (const Error& error) {
        return failed(static_cast<hemf_status>(error.code()), error.what(), error.hint().c_str());
    } catch (const std::bad_alloc&) {
        return failed(HEMF_MISSING_CAPABILITY, "There is not enough memory.", "");
    } catch (const std::exception& error) {
        return failed(HEMF_DEFECT, error.what(), "This is a defect of hemf.");
    } catch (...) {
        return failed(HEMF_DEFECT, "Something unknown was thrown.", "This is a defect of hemf.");
    }
}

void require(bool sound, const char* what) {
    if (!sound) throw Error(ExitCode::usage, what, "See hemf.h.");
}

}  // namespace

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

hemf_status hemf_manifest_read(const char* path, hemf_manifest** manifest) {
    return guarded([=] {
        require(path != nullptr && manifest != nullptr, "hemf_manifest_read: a pointer is null.");
        *manifest = nullptr;
        const std::optional<hemf::Manifest> read = hemf::Manifest::read(path);
        if (!read) throw hemf::bad_input(std::string(path) + " has no manifest.", "Take it along with the file.");
        *manifest = new hemf_manifest{read->description(path)};
    });
}

int hemf_manifest_classes(const hemf_manifest* manifest) {
    return manifest == nullptr ? 0 : static_cast<int>(manifest->description.classes.size());
}

const char* hemf_manifest_class(const hemf_manifest* manifest, int index) {
    if (index < 0 || index >= hemf_manifest_classes(manifest)) return nullptr;
    return manifest->description.classes[static_cast<std::size_t>(index)].c_str();
}

int hemf_manifest_takes_pixels(const hemf_manifest* manifest) {
    return manifest != nullptr && manifest->description.input_type == hemf::InputType::uint8 ? 1 : 0;
}

int hemf_manifest_channels_last(const hemf_manifest* manifest) {
    return manifest != nullptr && manifest->description.input().channels_last() ? 1 : 0;
}

int hemf_manifest_batch(const hemf_manifest* manifest) {
    return manifest == nullptr ? 0 : manifest->description.batch.value_or(0);
}

int hemf_manifest_height(const hemf_manifest* manifest) {
    return manifest == nullptr ? 0 : manifest->description.input().height();
}

int hemf_manifest_width(const hemf_manifest* manifest) {
    return manifest == nullptr ? 0 : manifest->description.input().width();
}

int hemf_manifest_resizes(const hemf_manifest* manifest) {
    return manifest != nullptr && manifest->description.source_size ? 1 : 0;
}

hemf_status hemf_manifest_pixels(const hemf_manifest* manifest, const hemf_image* image, uint8_t* pixels) {
    return guarded([=] {
        require(manifest != nullptr && image != nullptr && pixels != nullptr,
                "hemf_manifest_pixels: a pointer is null.");
        manifest->description.input().pixels(image->image, "the image", pixels);
    });
}

hemf_status hemf_manifest_preprocess(const hemf_manifest* manifest, hemf_preprocess* preprocess) {
    return guarded([=] {
        require(manifest != nullptr && preprocess != nullptr, "hemf_manifest_preprocess: a pointer is null.");
        // The file takes whole images: preprocessed pixels would be too few.
        require(!manifest->description.source_size,
                "hemf_manifest_preprocess: the file resizes images itself; take hemf_manifest_pixels.");
        const hemf::Preprocess& values = manifest->description.preprocess;
        preprocess->size = values.size;
        preprocess->squash = values.mode == hemf::Preprocess::Mode::squash ? 1 : 0;
        preprocess->resize = values.resize;
        for (std::size_t channel = 0; channel < 3; ++channel) {
            preprocess->mean[channel] = values.mean[channel];
            preprocess->deviation[channel] = values.deviation[channel];
        }
    });
}

void hemf_manifest_free(hemf_manifest* manifest) { delete manifest; }

hemf_status hemf_preflight(const char* engine) {
    return guarded([=] {
        require(engine != nullptr, "hemf_preflight: a pointer is null.");
        const hemf::Preflight looked = hemf::look(engine, hemf::this_machine());
        if (looked.refusal() != nullptr) throw *looked.refusal();
    });
}

hemf_status hemf_model_load(const char* engine, hemf_model** model) {
    return guarded([=] {
        require(engine != nullptr && model != nullptr, "hemf_model_load: a pointer is null.");
        *model = nullptr;
        hemf::Predictor loaded = hemf::Predictor::load(engine);
        hemf_manifest manifest{loaded.description()};
        *model = new hemf_model{std::move(loaded), std::move(manifest)};
    });
}

const hemf_manifest* hemf_model_manifest(const hemf_model* model) {
    return model == nullptr ? nullptr : &model->manifest;
}

hemf_status hemf_model_infer(const hemf_model* model, const void* batch, int images, float* logits) {
    return guarded([=] {
        require(model != nullptr && batch != nullptr && logits != nullptr, "hemf_model_infer: a pointer is null.");
        const hemf::ModelOutput& output = model->predictor.description().output;
        const std::vector<float> scores = output.scores(model->predictor.runner().infer(batch, images));
        std::copy(scores.begin(), scores.end(), logits);
    });
}

hemf_status hemf_model_logits(const hemf_model* model, const uint8_t* pixels, int images, float* logits) {
    return guarded([=] {
        require(model != nullptr && pixels != nullptr && logits != nullptr, "hemf_model_logits: a pointer is null.");
        require(images > 0, "hemf_model_logits: at least one image is needed.");
        const std::vector<float> scores = model->predictor.logits(pixels, images);
        std::copy(scores.begin(), scores.end(), logits);
    });
}

hemf_status hemf_model_predict(const hemf_model* model, const char* const* paths, int count, double* probabilities) {
    return guarded([=] {
        require(model != nullptr && paths != nullptr && probabilities != nullptr,
                "hemf_model_predict: a pointer is null.");
        require(count >= 0, "hemf_model_predict: the number of images is negative.");
        std::vector<std::string> named;
        for (int index = 0; index < count; ++index) {
            require(paths[index] != nullptr, "hemf_model_predict: a path is null.");
            named.emplace_back(paths[index]);
        }
        double* out = probabilities;
        for (const hemf::Prediction& one : model->predictor.predict(named))
            out = std::copy(one.probabilities.begin(), one.probabilities.end(), out);
    });
}

void hemf_model_free(hemf_model* model) { delete model; }

}  // extern "C"

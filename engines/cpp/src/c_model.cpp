// The C header's manifests, preflight and models.
#include <algorithm>
#include <string>
#include <utility>

#include "c_objects.hpp"
#include "hemf/preflight.hpp"

using hemf::c::guarded;
using hemf::c::require;

extern "C" {

hemf_status hemf_manifest_read(const char* path, hemf_manifest** manifest) {
    return guarded([=] {
        require(path != nullptr && manifest != nullptr, "hemf_manifest_read: a pointer is null.");
        *manifest = nullptr;
        const std::optional<hemf::Manifest> found = hemf::Manifest::read(path);
        if (!found) throw hemf::bad_input(std::string(path) + " has no manifest.", "Take it along with the file.");
        *manifest = new hemf_manifest{found->description(path)};
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
        // Pixels that were made by it would be too few for the file.
        require(!manifest->description.source_size,
                "hemf_manifest_preprocess: the file resizes images itself; take hemf_manifest_pixels.");
        const hemf::Preprocess& found = manifest->description.preprocess;
        preprocess->size = found.size;
        preprocess->squash = found.mode == hemf::Preprocess::Mode::squash ? 1 : 0;
        preprocess->resize = found.resize;
        for (std::size_t channel = 0; channel < 3; ++channel) {
            preprocess->mean[channel] = found.mean[channel];
            preprocess->deviation[channel] = found.deviation[channel];
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
        const std::vector<float> found = output.scores(model->predictor.runner().infer(batch, images));
        std::copy(found.begin(), found.end(), logits);
    });
}

hemf_status hemf_model_logits(const hemf_model* model, const uint8_t* pixels, int images, float* logits) {
    return guarded([=] {
        require(model != nullptr && pixels != nullptr && logits != nullptr, "hemf_model_logits: a pointer is null.");
        require(images > 0, "hemf_model_logits: at least one image is needed.");
        const std::vector<float> found = model->predictor.logits(pixels, images);
        std::copy(found.begin(), found.end(), logits);
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

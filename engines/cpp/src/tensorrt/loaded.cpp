#include "loaded.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "../file.hpp"
#include "../sha256.hpp"
#include "hemf/error.hpp"

namespace hemf {

namespace {

constexpr std::size_t kept_messages = 20;
constexpr std::size_t largest_plan = std::size_t{16} << 30;

std::size_t size_of(nvinfer1::DataType type, const std::string& path, const std::string& name) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32:
            return 4;
        case nvinfer1::DataType::kHALF:
            return 2;
        case nvinfer1::DataType::kINT8:
        case nvinfer1::DataType::kUINT8:
            return 1;
        default:
            throw bad_input(path + ": its tensor " + name + " is of a type that is not supported.");
    }
}

Tensor tensor(const nvinfer1::ICudaEngine& engine, const std::string& name, const std::string& path) {
    Tensor result{name, {}, engine.getTensorDataType(name.c_str())};
    size_of(result.type, path, name);
    const nvinfer1::Dims shape = engine.getTensorShape(name.c_str());
    for (int axis = 1; axis < shape.nbDims; ++axis) {
        if (shape.d[axis] < 1)
            throw bad_input(path + ": its tensor " + name + " has a dynamic dimension other than the batch.");
        result.shape.push_back(shape.d[axis]);
    }
    return result;
}

void read_interface(Loaded& loaded, const std::string& path) {
    const nvinfer1::ICudaEngine& engine = *loaded.engine;
    std::vector<std::string> inputs, outputs;
    for (int index = 0; index < engine.getNbIOTensors(); ++index) {
        const std::string name = engine.getIOTensorName(index);
        const bool in = engine.getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
        (in ? inputs : outputs).push_back(name);
    }
    if (inputs.size() != 1 || outputs.size() != 1) {
        throw bad_input(path + " has " + std::to_string(inputs.size()) + " inputs and " +
                        std::to_string(outputs.size()) + " outputs; one of each is expected.");
    }
    loaded.input = tensor(engine, inputs[0], path);
    loaded.output = tensor(engine, outputs[0], path);
    const bool plain =
        loaded.output.type == nvinfer1::DataType::kFLOAT || loaded.output.type == nvinfer1::DataType::kHALF;
    // One row of numbers per image: axes of size 1 may be anywhere.
    const std::vector<std::int64_t>& sizes = loaded.output.shape;
    if (!plain || std::count_if(sizes.begin(), sizes.end(), [](std::int64_t size) { return size != 1; }) > 1)
        throw bad_input(path + ": its output is not the logits of a classifier.");
    std::vector<BatchProfile> profiles;
    for (int index = 0; index < engine.getNbOptimizationProfiles(); ++index) {
        const auto batch = [&](nvinfer1::OptProfileSelector which) {
            return static_cast<int>(engine.getProfileShape(inputs[0].c_str(), index, which).d[0]);
        };
        profiles.push_back({batch(nvinfer1::OptProfileSelector::kMIN), batch(nvinfer1::OptProfileSelector::kOPT),
                            batch(nvinfer1::OptProfileSelector::kMAX)});
    }
    loaded.profiles = std::make_unique<Profiles>(std::move(profiles));
}

#if defined(HEMF_RTX_INTERFACE)
void require_valid(Loaded& loaded, const std::vector<std::uint8_t>& plan, const std::string& path,
                   const std::string& again) {
    std::uint64_t diagnostics = 0;
    const auto validity =
        loaded.runtime->getEngineValidity(plan.data(), static_cast<std::int64_t>(plan.size()), &diagnostics);
    if (validity == nvinfer1::EngineValidity::kINVALID) {
        throw missing_capability(path + ": TensorRT-RTX says that it can't run here (diagnostics " +
                                     std::to_string(diagnostics) + "). " + loaded.logger.messages(),
                                 "Build it again here " + again);
    }
    if (validity == nvinfer1::EngineValidity::kSUBOPTIMAL) {
        loaded.notes.add("TensorRT-RTX says that " + files::name(path) +
                               " is not the best for this GPU; build it again here " + again);
    }
}
#else
void require_valid(Loaded&, const std::vector<std::uint8_t>&, const std::string&, const std::string&) {}
#endif

}  // namespace

void Logger::log(Severity severity, const char* message) noexcept {
    if (severity > Severity::kWARNING) return;
    try {
        const std::lock_guard<std::mutex> hold(lock_);
        messages_.emplace_back(message);
        if (messages_.size() > kept_messages) messages_.pop_front();
    } catch (...) {  // no memory for a message
    }
}

std::string Logger::messages() const {
    const std::lock_guard<std::mutex> hold(lock_);
    std::string all;
    for (const std::string& message : messages_) all += (all.empty() ? "" : "; ") + message;
    return all.empty() ? "it gives no reason" : all;
}

void Notes::add(const std::string& text) {
    const std::lock_guard<std::mutex> hold(lock_);
    if (std::find(texts_.begin(), texts_.end(), text) == texts_.end()) texts_.push_back(text);
}

std::vector<std::string> Notes::all() const {
    const std::lock_guard<std::mutex> hold(lock_);
    return texts_;
}

std::size_t Tensor::count() const {
    std::size_t product = 1;
    for (const std::int64_t size : shape) product *= static_cast<std::size_t>(size);
    return product;
}

std::size_t Tensor::bytes() const { return count() * size_of(type, {}, name); }

std::unique_ptr<nvinfer1::IExecutionContext> Loaded::context() {
    const std::lock_guard<std::mutex> hold(lock);
    auto created = cache->context(options.cuda_graphs);
    if (!created) {
        throw missing_capability("TensorRT gives no execution context: " + logger.messages() + ".",
                                 "The GPU's memory may be full: fewer contexts at once, or smaller batches.");
    }
    return created;
}

std::shared_ptr<Loaded> load(const std::string& path, const Manifest& manifest, const EngineOptions& options) {
    const std::string again = manifest.rebuild_settings() + ".";
    // Vtables differ between major versions: the headers' version must be the linked library's.
    if (getInferLibMajorVersion() != NV_TENSORRT_MAJOR) {
        throw missing_capability("This library was compiled with headers of version " +
                                     std::to_string(NV_TENSORRT_MAJOR) + ", and runs with a " + flavour +
                                     " of version " + std::to_string(getInferLibMajorVersion()) + ".",
                                 "Build it with the headers of that version.");
    }
    if (manifest.stripped()) {
        throw missing_capability(path + " has no weights: the C++ library doesn't refit engines.",
                                 "Build it with its weights.");
    }
    // The very bytes that TensorRT gets are hashed: to deserialize them is to run code out of them.
    std::string problem;
    const std::vector<std::uint8_t> plan = files::read(path, largest_plan, problem);
    if (!problem.empty()) throw bad_input(path + " can't be read: " + problem + ".");
    if (sha256(plan.data(), plan.size()) != manifest.sha256())
        throw bad_input(path + " was changed while it was read.", "Try again.");
    auto loaded = std::make_shared<Loaded>();
    loaded->options = options;
    loaded->runtime.reset(nvinfer1::createInferRuntime(loaded->logger));
    if (!loaded->runtime)
        throw missing_capability(std::string(flavour) + " can't start: " + loaded->logger.messages() + ".");
    require_valid(*loaded, plan, path, again);
#if !defined(HEMF_TENSORRT_RTX)
    // Allows the plan to run its own code on the host: only after its hash was compared with the manifest's.
    if (manifest.flag("version_compatible")) loaded->runtime->setEngineHostCodeAllowed(true);
#endif
    loaded->engine.reset(loaded->runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!loaded->engine) {
        throw bad_input(std::string(flavour) + " can't load " + path + ": " + loaded->logger.messages() + ".",
                        "Build it again " + again);
    }
    read_interface(*loaded, path);
    loaded->cache = std::make_unique<RuntimeCache>(*loaded->engine, path, loaded->notes);
    return loaded;
}

}  // namespace hemf

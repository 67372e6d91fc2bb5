// A TensorRT that classifies by a formula. Its plans are a header and a line of text:
// "CLASSES HEIGHT WIDTH RAW HALF MIN:OPT:MAX…": logit c of an image is (c + 1) times the mean of its values.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#define NV_TENSORRT_MAJOR 10

inline std::int32_t getInferLibMajorVersion() { return std::getenv("FAKE_MAJOR") == nullptr ? 10 : 11; }
inline std::int32_t getInferLibMinorVersion() { return 16; }
inline std::int32_t getInferLibPatchVersion() { return 1; }
inline std::int32_t getInferLibBuildVersion() { return 11; }

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8 };
enum class TensorIOMode : std::int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : std::int32_t { kMIN, kOPT, kMAX };

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

struct Model {
    int classes = 0, height = 0, width = 0, raw = 0, half = 0;
    std::vector<std::vector<std::int64_t>> profiles;
    ILogger* logger = nullptr;

    // `raw`: 0 floats, 1 bytes with the channels last, 2 floats with the channels last, 3 bytes with the channels first.
    bool bytes() const { return raw == 1 || raw == 3; }
    bool channels_last() const { return raw == 1 || raw == 2; }
};

#if defined(HEMF_RTX_INTERFACE)
// TensorRT-RTX's: a context compiles kernels for each batch size, and a cache keeps them.
enum class EngineValidity : std::int32_t { kVALID, kSUBOPTIMAL, kINVALID };
enum class CudaGraphStrategy : std::int32_t { kDISABLED, kWHOLE_GRAPH_CAPTURE };
enum class DynamicShapesKernelSpecializationStrategy : std::int32_t { kLAZY, kEAGER, kNONE };

class IHostMemory {
public:
    explicit IHostMemory(std::string text) : text_(std::move(text)) {}
    void* data() { return text_.data(); }
    std::size_t size() const { return text_.size(); }

private:
    std::string text_;
};

class IRuntimeCache {
public:
    IHostMemory* serialize() const {
        std::string text;
        for (const std::int64_t size : *sizes) text += std::to_string(size) + " ";
        return new IHostMemory(text);
    }
    bool deserialize(const void* data, std::size_t size) {
        std::istringstream words(std::string(static_cast<const char*>(data), size));
        for (std::int64_t number = 0; words >> number;) sizes->insert(number);
        return true;
    }

    std::shared_ptr<std::set<std::int64_t>> sizes = std::make_shared<std::set<std::int64_t>>();
};

class IRuntimeConfig {
public:
    IRuntimeCache* createRuntimeCache() const { return new IRuntimeCache; }
    bool setRuntimeCache(const IRuntimeCache& cache) { return sizes = cache.sizes, true; }
    bool setCudaGraphStrategy(CudaGraphStrategy) { return true; }
    void setDynamicShapesKernelSpecializationStrategy(DynamicShapesKernelSpecializationStrategy wanted) {
        strategy = wanted;
    }

    std::shared_ptr<std::set<std::int64_t>> sizes = std::make_shared<std::set<std::int64_t>>();
    DynamicShapesKernelSpecializationStrategy strategy = DynamicShapesKernelSpecializationStrategy::kLAZY;
};
#endif

class IExecutionContext {
public:
    explicit IExecutionContext(Model model) : model_(std::move(model)) { ++fake::contexts; }
#if defined(HEMF_RTX_INTERFACE)
    IExecutionContext(Model model, const IRuntimeConfig& config) : IExecutionContext(std::move(model)) {
        config_ = config;
    }
#endif

    bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) {
        profile_ = static_cast<std::size_t>(profile);
        return profile_ < model_.profiles.size();
    }
    bool setInputShape(const char*, const Dims& shape) {
        batch_ = shape.d[0];
        const auto& range = model_.profiles[profile_];
        if (range[0] <= batch_ && batch_ <= range[2]) return true;
        model_.logger->log(ILogger::Severity::kERROR, "out of the profile's range");
        return false;
    }
    bool setTensorAddress(const char* name, void* memory) { return addresses_[name] = memory, true; }

    bool enqueueV3(cudaStream_t stream) {
        ++fake::enqueues;
#if defined(HEMF_RTX_INTERFACE)
        if (config_.strategy != DynamicShapesKernelSpecializationStrategy::kEAGER)
            ++fake::fallbacks;
        else if (config_.sizes->insert(batch_).second)
            ++fake::compiled;
#endif
        const void* input = addresses_.at("input");
        void* output = addresses_.at("logits");
        stream->give([model = model_, batch = batch_, input, output] { run(model, batch, input, output); });
        return true;
    }

private:
    static void run(const Model& model, std::int64_t batch, const void* input, void* output) {
        const std::int64_t area = std::int64_t{3} * model.height * model.width;
        for (std::int64_t image = 0; image < batch; ++image) {
            double sum = 0;
            for (std::int64_t place = image * area; place < (image + 1) * area; ++place)
                sum += model.bytes() ? static_cast<const std::uint8_t*>(input)[place]
                                      : static_cast<const float*>(input)[place];
            for (int label = 0; label < model.classes; ++label) {
                const auto logit = static_cast<float>(sum / static_cast<double>(area) * (label + 1));
                const std::int64_t place = image * model.classes + label;
                if (model.half != 0)
                    static_cast<std::uint16_t*>(output)[place] = half(logit);
                else
                    static_cast<float*>(output)[place] = logit;
            }
        }
    }

    // Truncated: enough for a test that looks at what comes back.
    static std::uint16_t half(float value) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &value, sizeof bits);
        const std::uint32_t sign = bits >> 16 & 0x8000U, exponent = bits >> 23 & 255U;
        if (exponent < 113) return static_cast<std::uint16_t>(sign);
        return static_cast<std::uint16_t>(sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ffU));
    }

    Model model_;
#if defined(HEMF_RTX_INTERFACE)
    IRuntimeConfig config_;
#endif
    std::size_t profile_ = 0;
    std::int64_t batch_ = 0;
    std::map<std::string, void*> addresses_;
};

class ICudaEngine {
public:
    explicit ICudaEngine(Model model) : model_(std::move(model)) {}

    std::int32_t getNbIOTensors() const { return 2; }
    const char* getIOTensorName(std::int32_t index) const { return index == 0 ? "input" : "logits"; }
    TensorIOMode getTensorIOMode(const char* name) const {
        return name[0] == 'i' ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(const char* name) const {
        if (name[0] == 'i') return model_.bytes() ? DataType::kUINT8 : DataType::kFLOAT;
        return model_.half != 0 ? DataType::kHALF : DataType::kFLOAT;
    }
    Dims getTensorShape(const char* name) const {
        if (name[0] != 'i') return {2, {-1, model_.classes}};
        return model_.channels_last() ? Dims{4, {-1, model_.height, model_.width, 3}}
                                      : Dims{4, {-1, 3, model_.height, model_.width}};
    }
    std::int32_t getNbOptimizationProfiles() const { return static_cast<std::int32_t>(model_.profiles.size()); }
    Dims getProfileShape(const char*, std::int32_t profile, OptProfileSelector which) const {
        return {1, {model_.profiles[static_cast<std::size_t>(profile)][static_cast<std::size_t>(which)]}};
    }
#if defined(HEMF_RTX_INTERFACE)
    IRuntimeConfig* createRuntimeConfig() { return new IRuntimeConfig; }
    IExecutionContext* createExecutionContext(IRuntimeConfig* config) { return new IExecutionContext(model_, *config); }
#endif
    IExecutionContext* createExecutionContext() {
        return std::getenv("FAKE_NO_CONTEXT") == nullptr ? new IExecutionContext(model_) : nullptr;
    }

private:
    Model model_;
};

class IRuntime {
public:
    explicit IRuntime(ILogger& logger) : logger_(logger) {}
    void setEngineHostCodeAllowed(bool) {}
#if defined(HEMF_RTX_INTERFACE)
    EngineValidity getEngineValidity(const void*, std::int64_t, std::uint64_t* diagnostics) {
        return *diagnostics = 0, EngineValidity::kVALID;
    }
#endif

    ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t size) {
        Model model;
        model.logger = &logger_;
        std::istringstream words(std::string(static_cast<const char*>(plan) + 28, size - 28));
        words >> model.classes >> model.height >> model.width >> model.raw >> model.half;
        for (std::string text; words >> text;) {
            int least = 0, usual = 0, most = 0;
            std::sscanf(text.c_str(), "%d:%d:%d", &least, &usual, &most);
            model.profiles.push_back({least, usual, most});
        }
        if (model.classes > 0) return new ICudaEngine(model);
        logger_.log(ILogger::Severity::kERROR, "the plan makes no sense");
        return nullptr;
    }

private:
    ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) { return new IRuntime(logger); }

}  // namespace nvinfer1

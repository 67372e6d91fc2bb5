#include "stream.hpp"

#include <cstring>

namespace hemf {

namespace {

// IEEE half precision → single.
float single(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16, exponent = half >> 10 & 31U, fraction = half & 0x3ffU;
    std::uint32_t bits = sign;
    if (exponent == 31) {
        bits |= 0x7f800000U | fraction << 13;
    } else if (exponent != 0) {
        bits |= (exponent + 112) << 23 | fraction << 13;
    } else {
        const float tiny = static_cast<float>(fraction) / 16777216.0F;  // 2^-24
        return sign != 0 ? -tiny : tiny;
    }
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace

Stream::State::State(std::shared_ptr<Loaded> engine, void* cuda_stream)
    : loaded(std::move(engine)), stream(static_cast<cudaStream_t>(cuda_stream)), own(cuda_stream == nullptr) {
    if (own) cuda::require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "A CUDA stream");
}

Stream::State::~State() {
    cudaStreamSynchronize(stream);
    slots.clear();
    contexts.clear();
    if (own) cudaStreamDestroy(stream);
}

void Stream::State::wait() { cuda::require(cudaStreamSynchronize(stream), "Waiting for the GPU"); }

nvinfer1::IExecutionContext& Stream::State::context(int images) {
    const std::optional<int> profile = loaded->profiles->find(images);
    if (!profile) {
        loaded->profiles->parts(images);  // throws with the range where nothing fits
        throw bad_input("A batch of " + std::to_string(images) + " doesn't fit one profile.",
                        "Divide it, or call Engine::infer.");
    }
    std::unique_ptr<nvinfer1::IExecutionContext>& created = contexts[*profile];
    if (!created) {
        created = loaded->context();
        if (*profile != 0 && !created->setOptimizationProfileAsync(*profile, stream)) {
            created.reset();
            throw Error(ExitCode::defect, "TensorRT refuses optimization profile " + std::to_string(*profile) + ": " +
                                              loaded->logger.messages() + ".");
        }
    }
    return *created;
}

void Stream::State::bind(nvinfer1::IExecutionContext& execution, const void* input, void* output, int images) {
    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<int>(loaded->input.shape.size()) + 1;
    shape.d[0] = images;
    for (std::size_t axis = 0; axis < loaded->input.shape.size(); ++axis)
        shape.d[axis + 1] = static_cast<std::remove_reference_t<decltype(shape.d[0])>>(loaded->input.shape[axis]);
    const bool accepted = execution.setInputShape(loaded->input.name.c_str(), shape) &&
                       execution.setTensorAddress(loaded->input.name.c_str(), const_cast<void*>(input)) &&
                       execution.setTensorAddress(loaded->output.name.c_str(), output);
    if (!accepted) {
        throw Error(ExitCode::defect,
                    "TensorRT refuses a batch of " + std::to_string(images) + ": " + loaded->logger.messages() + ".");
    }
}

void Stream::State::launch(nvinfer1::IExecutionContext& execution, int images) {
    if (!execution.enqueueV3(stream)) {
        throw Error(ExitCode::defect,
                    "TensorRT can't run a batch of " + std::to_string(images) + ": " + loaded->logger.messages() + ".");
    }
}

void Stream::State::capture(nvinfer1::IExecutionContext& execution, Slot& fresh) {
    // Other threads go on meanwhile: only this thread's calls are restricted to what a capture allows.
    cudaError_t state = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    bool done = false;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    if (state == cudaSuccess) {
        done = execution.enqueueV3(stream);
        state = cudaStreamEndCapture(stream, &graph);
    }
    if (done && state == cudaSuccess) state = cudaGraphInstantiateWithFlags(&ready, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (done && state == cudaSuccess) {
        fresh.graph.reset(ready);
        return;
    }
    cudaGetLastError();  // it runs without a graph
    const std::string reason = state == cudaSuccess ? loaded->logger.messages() : cudaGetErrorString(state);
    loaded->notes.add("A batch of " + std::to_string(fresh.images) +
                      " is run without a CUDA graph, as it can't be captured: " + reason + ".");
}

Stream::State::Slot& Stream::State::slot(int images) {
    for (auto slot_place = slots.begin(); slot_place != slots.end(); ++slot_place) {
        if (slot_place->images != images) continue;
        slots.splice(slots.begin(), slots, slot_place);
        return slots.front();
    }
    const std::size_t count = static_cast<std::size_t>(images);
    const std::size_t input = count * loaded->input.bytes(), output = count * loaded->output.bytes();
    nvinfer1::IExecutionContext& execution = context(images);
    if (slots.size() >= kept_sizes) {
        wait();
        slots.pop_back();
    }
    Slot fresh{images, cuda::device(input), cuda::device(output), cuda::pinned(input), cuda::pinned(output), nullptr};
    cuda::require(cudaMemsetAsync(fresh.input.get(), 0, input, stream), "Memory of the GPU");
    // The first run of a batch size does work that must not be captured, such as allocations.
    bind(execution, fresh.input.get(), fresh.output.get(), images);
    launch(execution, images);
    wait();
    if (loaded->options.cuda_graphs && own && !RuntimeCache::captures()) capture(execution, fresh);
    slots.push_front(std::move(fresh));
    return slots.front();
}

void Stream::State::infer(const void* batch, int images, float* logits) {
    Slot& used = slot(images);
    const std::size_t count = static_cast<std::size_t>(images);
    const std::size_t input = count * loaded->input.bytes(), output = count * loaded->output.bytes();
    std::memcpy(used.host_input.get(), batch, input);
    cuda::require(cudaMemcpyAsync(used.input.get(), used.host_input.get(), input, cudaMemcpyHostToDevice, stream),
                  "To the GPU");
    if (used.graph) {
        cuda::require(cudaGraphLaunch(used.graph.get(), stream), "A CUDA graph");
    } else {
        nvinfer1::IExecutionContext& execution = context(images);
        bind(execution, used.input.get(), used.output.get(), images);
        launch(execution, images);
    }
    cuda::require(cudaMemcpyAsync(used.host_output.get(), used.output.get(), output, cudaMemcpyDeviceToHost, stream),
                  "From the GPU");
    wait();
    const std::size_t values = count * loaded->output.count();
    if (loaded->output.type == nvinfer1::DataType::kFLOAT) {
        std::memcpy(logits, used.host_output.get(), output);
    } else {
        const auto* halves = static_cast<const std::uint16_t*>(used.host_output.get());
        for (std::size_t index = 0; index < values; ++index) logits[index] = single(halves[index]);
    }
}

void Stream::State::enqueue(const void* device_batch, int images, void* device_logits) {
    nvinfer1::IExecutionContext& execution = context(images);
    bind(execution, device_batch, device_logits, images);
    launch(execution, images);
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
void Stream::infer(const void* batch, int images, float* logits) { state_->infer(batch, images, logits); }
void Stream::enqueue(const void* device_batch, int images, void* device_logits) {
    state_->enqueue(device_batch, images, device_logits);
}
void Stream::wait() { state_->wait(); }
void* Stream::handle() const { return state_->stream; }

}  // namespace hemf

// The engine part on a TensorRT and a CUDA that are made up: engines ENGINE THREADS BATCH… reads pixels, prints logits.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "hemf/engine.hpp"
#include "hemf/error.hpp"
#include "hemf/predictor.hpp"

namespace {

std::vector<std::uint8_t> rest_of_input() {
    std::vector<std::uint8_t> content;
    for (int sign = std::getchar(); sign != EOF; sign = std::getchar())
        content.push_back(static_cast<std::uint8_t>(sign));
    return content;
}

void print(const std::vector<float>& logits, std::size_t classes) {
    for (std::size_t index = 0; index < logits.size(); ++index)
        std::printf("%.9g%c", static_cast<double>(logits[index]), (index + 1) % classes == 0 ? '\n' : ' ');
}

// The same from memory "of the GPU", on a stream of the caller's.
void on_a_stream(hemf::Engine& engine, const std::vector<std::uint8_t>& input, int images) {
    CUstream_st own;
    hemf::Stream stream = engine.stream(&own);
    std::vector<std::uint8_t> output(engine.output_bytes() * static_cast<std::size_t>(images));
    stream.enqueue(input.data(), images, output.data());
    stream.wait();
    const bool same = stream.handle() == &own;
    std::printf("stream %d", same ? 1 : 0);
    if (output.size() == static_cast<std::size_t>(images * engine.classes()) * sizeof(float)) {
        const auto* logits = reinterpret_cast<const float*>(output.data());
        for (int index = 0; index < images * engine.classes(); ++index)
            std::printf(" %.9g", static_cast<double>(logits[index]));
    }
    std::printf("\n");
}

int run(int count, char** words) {
    const std::string path = words[1];
    const int threads = std::atoi(words[2]);
    const std::vector<std::uint8_t> pixels = rest_of_input();
    if (threads == 0) {  // as a program uses it: golden images, filling, fixed batches
        const hemf::Predictor model = hemf::Predictor::load(path);
        const int images = static_cast<int>(pixels.size() / model.description().input().pixel_bytes());
        std::printf("%s\n", model.name().c_str());
        for (const std::string& note : model.notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
        print(model.logits(pixels.data(), images), model.description().classes.size());
        return 0;
    }
    hemf::EngineOptions options;
    options.cuda_graphs = std::getenv("NO_GRAPHS") == nullptr;
    options.contexts = 2;
    hemf::Engine engine(path, options);
    if (std::getenv("WARM_UP") != nullptr) {
        engine.warm_up();
        std::printf("warm: contexts %d, captures %d, enqueues %d\n", fake::contexts.load(), fake::captures.load(),
                    fake::enqueues.load());
    }
    const auto classes = static_cast<std::size_t>(engine.classes());
    for (int index = 3; index < count; ++index) {
        const int images = std::atoi(words[index]);
        const std::size_t bytes = engine.input_bytes() * static_cast<std::size_t>(images);
        const std::vector<std::uint8_t> input(pixels.begin(), pixels.begin() + static_cast<std::ptrdiff_t>(bytes));
        if (std::getenv("STREAM_ONLY") != nullptr) {
            on_a_stream(engine, input, images);
            continue;
        }
        const std::vector<float> expected = engine.infer(input.data(), images);
        print(expected, classes);
        std::vector<std::thread> others;
        for (int number = 0; number < threads; ++number) {
            others.emplace_back([&] {
                for (int round = 0; round < 20; ++round)
                    if (engine.infer(input.data(), images) != expected) std::abort();
            });
        }
        for (std::thread& other : others) other.join();
        if (engine.profiles().find(images)) on_a_stream(engine, input, images);
    }
    for (const std::string& note : engine.notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
    std::printf("streams %d, contexts %d, captures %d, launched %d, compiled %d, fallbacks %d\n", fake::streams.load(),
                fake::contexts.load(), fake::captures.load(), fake::launches.load() > 0 ? 1 : 0, fake::compiled.load(),
                fake::fallbacks.load());
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) return 2;
    try {
        return run(count, words);
    } catch (const hemf::Error& error) {
        std::fprintf(stderr, "%s\n%s\n", error.what(), error.hint().c_str());
        return static_cast<int>(error.code());
    }
}

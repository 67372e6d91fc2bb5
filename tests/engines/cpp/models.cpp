// What golden images, hemf-predict and an engine's input come to, with runners that compute nothing.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "hemf/error.hpp"
#include "hemf/golden.hpp"
#include "hemf/predictor.hpp"
#include "image_list.hpp"
#include "probe.hpp"
#include "report.hpp"

namespace probe {

namespace {

// Gives the logits of a file, in order, whatever the images; sees to it that they were asked for as they may be.
class Told : public hemf::Runner {
public:
    Told(const std::string& path, int classes, int least) : classes_(classes), least_(least) {
        std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
        float value = 0;
        while (file && std::fread(&value, sizeof value, 1, file.get()) == 1) logits_.push_back(value);
    }

    std::vector<float> infer(const void*, int images) override {
        if (images % least_ != 0)
            throw hemf::bad_input("A batch of " + std::to_string(images) + " is outside the profile.");
        std::vector<float> found;
        for (int index = 0; index < images * classes_; ++index) found.push_back(logits_[next_++ % logits_.size()]);
        return found;
    }

    int classes() const override { return classes_; }
    int filled(int count) const override { return (count + least_ - 1) / least_ * least_; }

private:
    int classes_, least_;
    std::vector<float> logits_;
    std::size_t next_ = 0;
};

// Writes what it is fed, as it is.
class Writing : public hemf::Runner {
public:
    explicit Writing(const hemf::Description& description)
        : bytes_(description.input().fed_bytes()), classes_(static_cast<int>(description.classes.size())) {}

    std::vector<float> infer(const void* batch, int images) override {
        put(batch, bytes_ * static_cast<std::size_t>(images));
        return std::vector<float>(static_cast<std::size_t>(images * classes_));
    }

    int classes() const override { return classes_; }

private:
    std::size_t bytes_;
    int classes_;
};

int width(const hemf::Description& description) {
    return static_cast<int>(description.output.width(description.classes.size()));
}

}  // namespace

int golden(const std::string& engine, const std::string& logits, int least) {
    const hemf::Manifest manifest = *hemf::Manifest::read(engine);
    const hemf::Description description = manifest.description(engine);
    Told runner(logits, width(description), least);
    std::printf("%s\n", hemf::require_golden(runner, engine, manifest, description) ? "tried" : "none");
    return 0;
}

int predict(const Words& words) {
    const std::string file = predict::plain(words[0]).string();
    const hemf::Description description = hemf::Manifest::read(file)->description(file);
    auto runner = std::make_shared<Told>(words[1], width(description), std::atoi(words[3].c_str()));
    const hemf::Predictor model("told", description, runner);
    predict::ImageList list = predict::collect({words.begin() + 4, words.end()});
    std::vector<hemf::Prediction> predictions = model.predict(list.paths());
    const predict::Report report{file, std::move(list), description.classes, std::move(predictions)};
    const std::string text = words[2] == "json" ? predict::as_json(report) : predict::as_lines(report);
    put(text.data(), text.size());
    return 0;
}

int fed(const std::string& engine) {
    const hemf::Description description = hemf::Manifest::read(engine)->description(engine);
    hemf::Predictor("writing", description, std::make_shared<Writing>(description)).predict(listed(), 2);
    return 0;
}

}  // namespace probe

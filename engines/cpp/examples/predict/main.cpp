// hemf-predict ENGINE IMAGE…: the class and probability of each image, with the exit codes of hemf-export.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "hemf/error.hpp"
#include "hemf/predictor.hpp"
#include "hemf/text.hpp"
#include "image_list.hpp"
#include "report.hpp"

namespace {

constexpr std::size_t max_names = 5;  // in a warning

constexpr const char* usage =
    "Usage: hemf-predict [OPTIONS] ENGINE IMAGE…\n\n"
    "  Print the class of each IMAGE and its probability, one tab-separated line an image.\n\n"
    "  ENGINE is what hemf-export trt built, with its manifest ENGINE.json beside it. An IMAGE may be a folder: all\n"
    "  images below it are taken.\n\n"
    "Options:\n"
    "  --batch N    Classify N images at a time.  [default: 8, or the engine's own]\n"
    "  --json       Print JSON, with the probability of every class.\n"
    "  -h, --help   Show this message and exit.\n";

struct Arguments {
    std::string file;
    std::vector<std::string> images;
    int batch = 0;  // 0: not given
    bool json = false;
    bool help = false;
};

hemf::Error wrong(const std::string& message) {
    return hemf::Error(hemf::ExitCode::usage, message, "hemf-predict --help shows how it is called.");
}

int positive(const std::string& option, const std::string& text) {
    int value = 0;
    for (const char sign : text) {
        if (sign < '0' || sign > '9' || value > 100'000'000)
            throw wrong("Invalid value for '" + option + "': '" + text + "' is not a valid integer.");
        value = value * 10 + (sign - '0');
    }
    if (value < 1) throw wrong("Invalid value for '" + option + "': " + text + " is not in the range x>=1.");
    return value;
}

Arguments parse(int count, char** words) {
    Arguments arguments;
    bool options = true;
    std::vector<std::string> plain;
    for (int index = 1; index < count; ++index) {
        const std::string word = words[index];
        const std::size_t equals = word.find('=');
        const std::string key = word.substr(0, equals);
        if (!options || word.size() < 2 || word[0] != '-') {
            plain.push_back(word);
        } else if (word == "--") {
            options = false;
        } else if (word == "--json") {
            arguments.json = true;
        } else if (word == "--help" || word == "-h") {
            arguments.help = true;
        } else if (key == "--batch") {
            if (equals == std::string::npos && index + 1 == count)
                throw wrong("Option '" + key + "' requires an argument.");
            const std::string value = equals == std::string::npos ? words[++index] : word.substr(equals + 1);
            arguments.batch = positive(key, value);
        } else {
            throw wrong("No such option '" + key + "'.");
        }
    }
    if (arguments.help) return arguments;
    if (plain.empty()) throw wrong("Missing argument 'ENGINE'.");
    if (plain.size() < 2) throw wrong("Missing argument 'IMAGE…'.");
    arguments.file = predict::plain(plain[0]).string();
    arguments.images.assign(plain.begin() + 1, plain.end());
    return arguments;
}

// A message with its own line breaks, which two blanks follow; whatever else the names in it hold is escaped.
std::string message_lines(const std::string& text) {
    static const std::string line_break = "\n  ";
    std::string out;
    std::size_t start = 0;
    for (std::size_t end = text.find(line_break); end != std::string::npos; end = text.find(line_break, start)) {
        out += hemf::printable(text.substr(start, end - start)) + line_break;
        start = end + line_break.size();
    }
    return out + hemf::printable(text.substr(start));
}

void warn(const std::string& note) { std::fprintf(stderr, "warning: %s\n", message_lines(note).c_str()); }

void warn_of(const std::vector<std::string>& passed_over) {
    if (passed_over.empty()) return;
    std::string names;
    for (std::size_t index = 0; index < passed_over.size() && index < max_names; ++index)
        names += (index > 0 ? ", " : "") + passed_over[index];
    if (passed_over.size() > max_names) names += " and " + std::to_string(passed_over.size() - max_names) + " more";
    warn("Passed over, as not images by their names: " + names + ".");
}

void run(const Arguments& arguments) {
    predict::ImageList list = predict::collect(arguments.images);
    std::fprintf(stderr, "Reading %s …\n", hemf::printable(arguments.file).c_str());
    const hemf::Predictor model = hemf::Predictor::load(arguments.file);
    const std::optional<int> fixed = model.description().batch;
    if (arguments.batch != 0 && fixed && *fixed != arguments.batch) {
        throw hemf::Error(hemf::ExitCode::usage,
                          arguments.file + " has the fixed batch " + std::to_string(*fixed) + ".",
                          "Leave out --batch.");
    }
    std::fprintf(stderr, "Predicting …\n");
    std::vector<hemf::Prediction> predictions = model.predict(list.paths(), arguments.batch == 0 ? 8 : arguments.batch);
    for (const std::string& note : model.notes()) warn(note);
    warn_of(list.passed_over);
    const predict::Report report{arguments.file, std::move(list), model.description().classes, std::move(predictions)};
    const std::string text = arguments.json ? predict::as_json(report) : predict::as_lines(report);
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw hemf::bad_input(std::string("Can't write to standard output: ") + std::strerror(errno) + ".");
}

int fail(int code, const std::string& message, const std::string& hint, bool json) {
    std::fprintf(stderr, "error: %s\n", message_lines(message).c_str());
    if (!hint.empty()) std::fprintf(stderr, "  %s\n", message_lines(hint).c_str());
    if (json) std::fputs(predict::failure(message, hint, code).c_str(), stdout);
    return code;
}

}  // namespace

int main(int count, char** words) {
    bool json = false;
    for (int index = 1; index < count; ++index) json = json || std::strcmp(words[index], "--json") == 0;
    try {
        const Arguments arguments = parse(count, words);
        if (arguments.help)
            std::fputs(usage, stdout);
        else
            run(arguments);
        return 0;
    } catch (const hemf::Error& error) {
        return fail(static_cast<int>(error.code()), error.message(), error.hint(), json);
    } catch (const std::exception& error) {
        return fail(static_cast<int>(hemf::ExitCode::defect), std::string("Internal error: ") + error.what(),
                    "This is a defect of hemf-predict.", json);
    }
}

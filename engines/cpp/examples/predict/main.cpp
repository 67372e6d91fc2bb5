// hemf-predict ENGINE IMAGE…: classes and probabilities, as hemf-export predict prints them, with the same exit codes.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "hemf/error.hpp"
#include "hemf/predictor.hpp"
#include "paths.hpp"
#include "report.hpp"
#include "table.hpp"

namespace {

constexpr int plain_width = 130;  // of a table that goes to a file or a pipe, where there is no window to fit
constexpr std::size_t shown = 5;  // names in a warning

constexpr const char* usage =
    "Usage: hemf-predict [OPTIONS] ENGINE IMAGE…\n\n"
    "  Show the class of each IMAGE, and how likely it and the next classes are.\n\n"
    "  ENGINE is what hemf-export trt built, with its manifest ENGINE.json beside it. An IMAGE may be a folder: all\n"
    "  images below it are taken.\n\n"
    "Options:\n"
    "  --top N      Classes shown for an image.  [default: 3]\n"
    "  --batch N    Images at a time.  [default: 8, or the engine's own]\n"
    "  --json       Print the result as JSON.\n"
    "  -h, --help   Show this message and exit.\n";

struct Arguments {
    std::string file;
    std::vector<std::string> images;
    int top = 3;
    int batch = 0;  // none given
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
    Arguments found;
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
            found.json = true;
        } else if (word == "--help" || word == "-h") {
            found.help = true;
        } else if (key == "--top" || key == "--batch") {
            if (equals == std::string::npos && index + 1 == count)
                throw wrong("Option '" + key + "' requires an argument.");
            const std::string value = equals == std::string::npos ? words[++index] : word.substr(equals + 1);
            (key == "--top" ? found.top : found.batch) = positive(key, value);
        } else {
            throw wrong("No such option '" + key + "'.");
        }
    }
    if (found.help) return found;
    if (plain.empty()) throw wrong("Missing argument 'ENGINE'.");
    if (plain.size() < 2) throw wrong("Missing argument 'IMAGE…'.");
    found.file = predict::plain_path(plain[0]);
    found.images.assign(plain.begin() + 1, plain.end());
    return found;
}

void warn(const std::string& note) { std::fprintf(stderr, "warning: %s\n", predict::printable_lines(note).c_str()); }

void warn_of(const std::vector<std::string>& passed_over) {
    if (passed_over.empty()) return;
    std::string names;
    for (std::size_t index = 0; index < passed_over.size() && index < shown; ++index)
        names += (index > 0 ? ", " : "") + passed_over[index];
    if (passed_over.size() > shown) names += " and " + std::to_string(passed_over.size() - shown) + " more";
    warn("Passed over, as not images by their names: " + names + ".");
}

int window() {
    winsize size{};
    if (::isatty(STDOUT_FILENO) == 0) return plain_width;
    return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void run(const Arguments& arguments) {
    predict::ImageList list = predict::collect(arguments.images);
    std::fprintf(stderr, "Reading %s …\n", predict::printable(predict::name(arguments.file)).c_str());
    const hemf::Predictor model = hemf::Predictor::load(arguments.file);
    const std::optional<int> fixed = model.description().batch;
    if (arguments.batch != 0 && fixed && *fixed != arguments.batch) {
        throw hemf::Error(hemf::ExitCode::usage,
                          arguments.file + " has the fixed batch " + std::to_string(*fixed) + ".",
                          "Leave out --batch.");
    }
    std::vector<std::string> paths;
    for (const predict::Listed& image : list.images) paths.push_back(image.path);
    std::fprintf(stderr, "Predicting …\n");
    std::vector<hemf::Prediction> predictions = model.predict(paths, arguments.batch == 0 ? 8 : arguments.batch);
    for (const std::string& note : model.notes()) warn(note);
    warn_of(list.passed_over);
    const predict::Report report{arguments.file, arguments.images, std::move(list), model.description(),
                                 std::move(predictions)};
    const std::string text =
        arguments.json ? predict::as_json(report) : predict::as_table(report, arguments.top, window());
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw hemf::bad_input(std::string("Can't write to standard output: ") + std::strerror(errno) + ".");
}

int fail(int code, const std::string& message, const std::string& hint, bool json) {
    std::fprintf(stderr, "error: %s\n", predict::printable_lines(message).c_str());
    if (!hint.empty()) std::fprintf(stderr, "  %s\n", predict::printable_lines(hint).c_str());
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

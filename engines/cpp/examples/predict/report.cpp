#include "report.hpp"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "hemf/text.hpp"
#include "paths.hpp"
#include "table.hpp"

namespace predict {

namespace {

constexpr int narrowest_words = 24;  // columns that text is not folded below

using hemf::json_number;
using hemf::json_string;

std::string share(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f%%", value * 100);
    return text;
}

// Never 0 or 100, which no softmax says.
std::string percent(double probability) {
    if (probability < 0.00005) return "<0.01%";
    return probability > 0.99995 ? ">99.99%" : share(probability);
}

std::vector<std::string> labels(const Report& report) {
    std::vector<std::string> found;
    for (const hemf::Prediction& one : report.predictions) found.push_back(report.description.classes[one.top]);
    return found;
}

std::vector<std::string> row(const Report& report, std::size_t index, int top, const std::string* root) {
    const hemf::Prediction& prediction = report.predictions[index];
    const std::vector<std::string>& classes = report.description.classes;
    std::vector<std::size_t> ranked(classes.size());
    std::iota(ranked.begin(), ranked.end(), std::size_t{0});
    std::stable_sort(ranked.begin(), ranked.end(), [&prediction](std::size_t a, std::size_t b) {
        return prediction.probabilities[a] > prediction.probabilities[b];
    });
    std::string following;
    for (std::size_t rank = 1; rank < ranked.size() && rank < static_cast<std::size_t>(top); ++rank) {
        following += (rank > 1 ? "  " : "") + printable(classes[ranked[rank]]) + " " +
                     percent(prediction.probabilities[ranked[rank]]);
    }
    const std::string path = report.list.images[index].path;
    const std::optional<std::string> folder = class_folder(report.list.images[index], classes);
    const bool wrong = folder && name(*folder) != classes[prediction.top];
    std::vector<std::string> cells = {printable(root == nullptr ? path : below(path, *root)),
                                      printable(classes[prediction.top]) + (wrong ? " ✗" : ""),
                                      percent(prediction.probabilities[prediction.top])};
    if (!following.empty()) cells.push_back(following);
    return cells;
}

std::string lines(const std::string& text, int width) {
    std::string out;
    for (const std::string& line : wrapped(text, width)) out += line + "\n";
    return out;
}

// Code points, as Python counts a string.
int length(const std::string& text) {
    return static_cast<int>(std::count_if(
        text.begin(), text.end(), [](char sign) { return (static_cast<unsigned char>(sign) & 0xc0U) != 0x80U; }));
}

}  // namespace

std::string as_json(const Report& report) {
    const std::vector<std::string>& classes = report.description.classes;
    std::string out = "{\n  \"file\": " + json_string(report.file) + ",\n  \"classes\": [";
    for (std::size_t index = 0; index < classes.size(); ++index)
        out += (index > 0 ? ",\n    " : "\n    ") + json_string(classes[index]);
    out += "\n  ],\n  \"predictions\": [";
    for (std::size_t index = 0; index < report.predictions.size(); ++index) {
        const hemf::Prediction& one = report.predictions[index];
        out += std::string(index > 0 ? "," : "") + "\n    {\n      \"image\": " + json_string(one.path);
        out += ",\n      \"class\": " + json_string(classes[one.top]);
        out += ",\n      \"probability\": " + json_number(one.probabilities[one.top]) + ",\n      \"probabilities\": {";
        for (std::size_t place = 0; place < classes.size(); ++place) {
            out += std::string(place > 0 ? "," : "") + "\n        " + json_string(classes[place]) + ": " +
                   json_number(one.probabilities[place]);
        }
        out += "\n      }\n    }";
    }
    out += "\n  ]";
    const std::vector<FolderShare> found = shares(report.list, classes, labels(report));
    if (!found.empty()) out += ",\n  \"class_folders\": [";
    for (std::size_t index = 0; index < found.size(); ++index) {
        out += std::string(index > 0 ? "," : "") + "\n    {\n      \"folder\": " + json_string(found[index].folder) +
               ",\n      \"images\": " + std::to_string(found[index].images) +
               ",\n      \"right\": " + std::to_string(found[index].right) + "\n    }";
    }
    return out + (found.empty() ? "" : "\n  ]") + "\n}\n";
}

std::string as_table(const Report& report, int top, int width) {
    // Of one folder, the names below it tell enough.
    const bool one_folder = report.named.size() == 1 && is_folder(report.named[0]);
    const std::string root = one_folder ? plain_path(report.named[0]) : std::string();
    std::vector<std::vector<std::string>> rows;
    for (std::size_t index = 0; index < report.predictions.size(); ++index)
        rows.push_back(row(report, index, top, one_folder ? &root : nullptr));
    const std::size_t count = rows.size();
    std::string title = printable(report.file) + " (" + printable(report.description.precision) + "): " + std::to_string(count) +
                        (count == 1 ? " image" : " images");
    if (one_folder) title += " of " + printable(root);
    const std::vector<std::string> headers = {"image", "class", "probability", "next likely"};
    std::vector<Column> columns;
    for (std::size_t index = 0; index < rows[0].size(); ++index) {
        const bool words = index != 2;
        int widest = 0;
        for (const auto& cells : rows) widest = std::max(widest, length(cells[index]));
        columns.push_back({headers[index], words, words ? std::min(widest, narrowest_words) : widest});
    }
    std::string out = lines(title, width) + table(columns, rows, width);
    const std::vector<FolderShare> found = shares(report.list, report.description.classes, labels(report));
    if (found.empty()) return out;
    std::vector<std::vector<std::string>> facts;
    for (const FolderShare& one : found) {
        facts.push_back(
            {printable(one.folder), std::to_string(one.right) + " of " + std::to_string(one.images) + ", " +
                                        share(static_cast<double>(one.right) / static_cast<double>(one.images))});
    }
    return out + "\n" + lines("Right by their folders' names (✗: the others)", width) +
           table({{"", false, 0}, {"", true, 0}}, facts, width);
}

std::string failure(const std::string& message, const std::string& hint, int exit_code) {
    return "{\"error\": " + json_string(message) + ", \"hint\": " + (hint.empty() ? "null" : json_string(hint)) +
           ", \"exit_code\": " + std::to_string(exit_code) + "}\n";
}

}  // namespace predict

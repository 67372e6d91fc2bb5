#include "report.hpp"

#include <cstdio>

#include "hemf/text.hpp"

namespace predict {

using hemf::json_number;
using hemf::json_string;
using hemf::printable;

std::string as_json(const Report& report) {
    const std::vector<std::string>& classes = report.classes;
    std::string out = "{\n  \"file\": " + json_string(report.file) + ",\n  \"classes\": [";
    for (std::size_t index = 0; index < classes.size(); ++index)
        out += (index > 0 ? ",\n    " : "\n    ") + json_string(classes[index]);
    out += "\n  ],\n  \"predictions\": [";
    std::vector<std::string> labels;
    for (const hemf::Prediction& one : report.predictions) {
        out += std::string(labels.empty() ? "" : ",") + "\n    {\n      \"image\": " + json_string(one.path);
        out += ",\n      \"class\": " + json_string(classes[one.top]);
        out += ",\n      \"probability\": " + json_number(one.probabilities[one.top]) + ",\n      \"probabilities\": {";
        for (std::size_t index = 0; index < classes.size(); ++index) {
            out += std::string(index > 0 ? "," : "") + "\n        " + json_string(classes[index]) + ": " +
                   json_number(one.probabilities[index]);
        }
        out += "\n      }\n    }";
        labels.push_back(classes[one.top]);
    }
    out += "\n  ]";
    const std::vector<FolderShare> folders = shares(report.list, classes, labels);
    if (!folders.empty()) out += ",\n  \"class_folders\": [";
    for (std::size_t index = 0; index < folders.size(); ++index) {
        out += std::string(index > 0 ? "," : "") + "\n    {\n      \"folder\": " + json_string(folders[index].folder) +
               ",\n      \"images\": " + std::to_string(folders[index].images) +
               ",\n      \"right\": " + std::to_string(folders[index].right) + "\n    }";
    }
    return out + (folders.empty() ? "" : "\n  ]") + "\n}\n";
}

std::string as_lines(const Report& report) {
    std::string out = "class\tprobability\timage\n";
    for (const hemf::Prediction& one : report.predictions) {
        char probability[16];
        std::snprintf(probability, sizeof probability, "%.6f", one.probabilities[one.top]);
        out += printable(report.classes[one.top]) + "\t" + probability + "\t" + printable(one.path) + "\n";
    }
    return out;
}

std::string failure(const std::string& message, const std::string& hint, int exit_code) {
    return "{\"error\": " + json_string(message) + ", \"hint\": " + (hint.empty() ? "null" : json_string(hint)) +
           ", \"exit_code\": " + std::to_string(exit_code) + "}\n";
}

}  // namespace predict

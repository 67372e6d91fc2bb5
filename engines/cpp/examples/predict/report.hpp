// What hemf-predict prints: tab-separated lines, or the JSON of hemf-export predict.
#pragma once

#include <string>
#include <vector>

#include "hemf/predictor.hpp"
#include "image_list.hpp"

namespace predict {

struct Report {
    std::string file;  // the model's
    ImageList list;
    std::vector<std::string> classes;
    std::vector<hemf::Prediction> predictions;
};

std::string as_json(const Report& report);

// A header, then a line an image: its class, the probability of that, and its path. Names are escaped where a control
// character would break the line.
std::string as_lines(const Report& report);

// A failure as one line of JSON.
std::string failure(const std::string& message, const std::string& hint, int exit_code);

}  // namespace predict

// What hemf-export predict prints of predictions: a table, or JSON.
#pragma once

#include <string>
#include <vector>

#include "hemf/predictor.hpp"
#include "image_list.hpp"

namespace predict {

struct Report {
    std::string file;                // of the model, as pathlib writes it
    std::vector<std::string> named;  // images and folders on the command line
    ImageList list;
    hemf::Description description;
    std::vector<hemf::Prediction> predictions;
};

std::string as_json(const Report& report);

// `top`: classes shown for an image; `width`: columns of the window.
std::string as_table(const Report& report, int top, int width);

// One line for a failure, in JSON.
std::string failure(const std::string& message, const std::string& hint, int exit_code);

}  // namespace predict

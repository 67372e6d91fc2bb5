#include "hemf/text.hpp"

#include "json.hpp"

namespace hemf {

std::string json_string(const std::string& text) { return json::quoted(text); }

std::string json_number(double number) { return json::shortest(number); }

}  // namespace hemf

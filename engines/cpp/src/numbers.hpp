// Numbers as messages write them.
#pragma once

#include <cstdint>
#include <string>

namespace hemf {

// Of a number that is not negative: 100,000,000.
inline std::string with_commas(std::int64_t number) {
    std::string text = std::to_string(number);
    for (std::size_t place = text.size(); place > 3;) text.insert(place -= 3, ",");
    return text;
}

}  // namespace hemf

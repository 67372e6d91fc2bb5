// A strict reader of JSON (RFC 8259): no comments, no NaN, no repeated keys, valid UTF-8, bounded depth.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace hemf::json {

// What is wrong with a text, and where.
struct Malformed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Value {
    enum class Kind { null, boolean, number, string, array, object };

    Kind kind = Kind::null;
    bool boolean = false;
    double number = 0;
    bool integral = false;  // written without point and exponent, and small enough to be exact
    std::string string;     // UTF-8; of a number, as it was written
    std::vector<Value> items;
    std::map<std::string, Value> members;

    bool is(Kind other) const { return kind == other; }
    // A member of an object; null where there is none.
    const Value* find(const std::string& key) const;
    // As an int, where it is a whole number that fits.
    std::optional<int> whole() const;
};

// Throws Malformed.
Value parse(const std::string& text);

}  // namespace hemf::json

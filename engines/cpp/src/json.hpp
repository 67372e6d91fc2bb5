// JSON by nlohmann/json, behind the limits that a manifest from elsewhere calls for.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace hemf::json {

using Value = nlohmann::json;

// What a Manifest holds; nlohmann/json stays out of the public headers.
struct Document {
    Value root;
};

// Parse UTF-8 text by RFC 8259: no comments, no NaN, no numbers beyond a double, no repeated keys, at most 64 levels.
// Throws Error (bad_input), the only exception that JSON leads to. Its message names no file: the caller knows which.
Value parse(const std::string& text);

// A member, or null where `object` has none or is no object.
const Value* find(const Value& object, const char* key);

// A member of a given type, such as &Value::is_string. Throws Error (bad_input) where it is missing or of another type.
const Value& member(const Value& object, const char* key, bool (Value::*is_type)() const noexcept);
const std::string& string(const Value& object, const char* key);

// A whole number, written as one, that fits an int.
std::optional<int> whole(const Value& value);

}  // namespace hemf::json

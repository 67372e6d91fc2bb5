// Members of a JSON object that must be there, and of a kind.
#pragma once

#include <string>

#include "json.hpp"

namespace hemf::json {

// What is wrong with an object; the caller names the file.
struct Nonsense {
    std::string what;
};

inline const Value& member(const Value& object, const std::string& key, Value::Kind kind) {
    const Value* found = object.find(key);
    if (found == nullptr) throw Nonsense{"'" + key + "' is missing"};
    if (!found->is(kind)) throw Nonsense{key + " is of another kind"};
    return *found;
}

}  // namespace hemf::json

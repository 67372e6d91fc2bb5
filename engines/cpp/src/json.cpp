#include "json.hpp"

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "hemf/error.hpp"

namespace hemf::json {

namespace {

constexpr int max_depth = 64;

// nlohmann/json quotes the text where it stopped, which may be megabytes of a hostile file; the rest is kept.
std::string reason(const std::string& what) {
    const std::size_t begin = what.find("] ");
    const std::string text = begin == std::string::npos ? what : what.substr(begin + 2);
    return text.substr(0, text.find("; last read"));
}

}  // namespace

Value parse(const std::string& text) {
    // nlohmann/json skips the mark, and takes a zero byte for the end of the text, whatever follows.
    if (text.compare(0, 3, "\xef\xbb\xbf") == 0) throw bad_input("it begins with a byte order mark.");
    if (text.find('\0') != std::string::npos) throw bad_input("it contains a zero byte.");
    std::vector<std::set<std::string>> keys;  // of each object that is open
    const auto check = [&keys](int depth, Value::parse_event_t event, const Value& value) {
        if (depth > max_depth) throw bad_input("it is nested too deeply.");
        if (event == Value::parse_event_t::object_start) keys.emplace_back();
        if (event == Value::parse_event_t::object_end) keys.pop_back();
        if (event == Value::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
            throw bad_input("the key \"" + value.get<std::string>() + "\" is there twice.");
        return true;
    };
    try {
        return Value::parse(text, check);
    } catch (const Value::parse_error& error) {
        throw bad_input(reason(error.what()) + ".");
    } catch (const Value::out_of_range&) {
        throw bad_input("a number is out of range.");
    }
}

const Value* find(const Value& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto place = object.find(key);
    return place == object.end() ? nullptr : &*place;
}

const Value& member(const Value& object, const char* key, bool (Value::*is_type)() const noexcept) {
    const Value* value = find(object, key);
    if (value == nullptr) throw bad_input("'" + std::string(key) + "' is missing.");
    if (!(value->*is_type)()) throw bad_input(std::string(key) + " is of another kind.");
    return *value;
}

const std::string& string(const Value& object, const char* key) {
    return member(object, key, &Value::is_string).get_ref<const std::string&>();
}

std::optional<int> whole(const Value& value) {
    if (!value.is_number_integer() || std::fabs(value.get<double>()) > std::numeric_limits<int>::max())
        return std::nullopt;
    return value.get<int>();
}

}  // namespace hemf::json

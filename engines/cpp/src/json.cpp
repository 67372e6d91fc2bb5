#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>

#include "utf8.hpp"

namespace hemf::json {

namespace {

constexpr int deepest = 64;

class Parser {
public:
    explicit Parser(const std::string& text) : text_(text) {}

    Value document() {
        Value value = read(0);
        space();
        if (at_ != text_.size()) fail("something follows the value");
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Malformed(what + " (byte " + std::to_string(at_) + ")");
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool take(char sign) {
        if (peek() != sign || at_ >= text_.size()) return false;
        ++at_;
        return true;
    }

    void expect(char sign) {
        if (!take(sign)) fail(std::string("'") + sign + "' is missing");
    }

    void space() {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
            ++at_;
    }

    bool word(const char* expected) {
        const std::string wanted = expected;
        if (text_.compare(at_, wanted.size(), wanted) != 0) return false;
        at_ += wanted.size();
        return true;
    }

    Value read(int depth) {
        if (depth > deepest) fail("nested too deeply");
        space();
        Value value;
        const char sign = peek();
        if (sign == '{') {
            object(value, depth);
        } else if (sign == '[') {
            array(value, depth);
        } else if (sign == '"') {
            value.kind = Value::Kind::string;
            value.string = string();
        } else if (sign == '-' || (sign >= '0' && sign <= '9')) {
            number(value);
        } else if (word("true") || word("false")) {
            value.kind = Value::Kind::boolean;
            value.boolean = sign == 't';
        } else if (!word("null")) {
            fail(at_ < text_.size() ? "no value begins here" : "the text ends");
        }
        return value;
    }

    void object(Value& value, int depth) {
        value.kind = Value::Kind::object;
        expect('{');
        space();
        if (take('}')) return;
        do {
            space();
            if (peek() != '"') fail("a key is missing");
            std::string key = string();
            space();
            expect(':');
            Value member = read(depth + 1);
            if (!value.members.emplace(key, std::move(member)).second) fail("the key \"" + key + "\" is there twice");
            space();
        } while (take(','));
        expect('}');
    }

    void array(Value& value, int depth) {
        value.kind = Value::Kind::array;
        expect('[');
        space();
        if (take(']')) return;
        do {
            value.items.push_back(read(depth + 1));
            space();
        } while (take(','));
        expect(']');
    }

    void digits() {
        if (peek() < '0' || peek() > '9') fail("a digit is missing");
        while (peek() >= '0' && peek() <= '9') ++at_;
    }

    void number(Value& value) {
        value.kind = Value::Kind::number;
        const std::size_t begin = at_;
        take('-');
        if (!take('0')) digits();
        bool whole = true;
        if (take('.')) {
            digits();
            whole = false;
        }
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            digits();
            whole = false;
        }
        value.string = text_.substr(begin, at_ - begin);
        const auto [end, error] = std::from_chars(text_.data() + begin, text_.data() + at_, value.number);
        // What underflows is no worse than zero; what overflows is nothing that a manifest says.
        if (error == std::errc::result_out_of_range) {
            const bool tiny =
                value.string.find("e-") != std::string::npos || value.string.find("E-") != std::string::npos;
            if (!tiny) fail("a number is out of range");
            value.number = 0;
        } else if (error != std::errc() || end != text_.data() + at_) {
            fail("not a number");
        }
        value.integral = whole && std::fabs(value.number) <= 9007199254740992.0;
    }

    std::uint32_t four_digits() {
        std::uint32_t unit = 0;
        for (int digit = 0; digit < 4; ++digit, ++at_) {
            const char sign = peek();
            std::uint32_t part = 0;
            if (sign >= '0' && sign <= '9')
                part = static_cast<std::uint32_t>(sign - '0');
            else if (sign >= 'a' && sign <= 'f')
                part = static_cast<std::uint32_t>(sign - 'a' + 10);
            else if (sign >= 'A' && sign <= 'F')
                part = static_cast<std::uint32_t>(sign - 'A' + 10);
            else
                fail("\\u needs four hexadecimal digits");
            unit = unit << 4 | part;
        }
        return unit;
    }

    void escape(std::string& out) {
        static const std::string signs = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            std::uint32_t unit = four_digits();
            if (unit >= 0xd800 && unit < 0xdc00) {
                if (!word("\\u")) fail("half of a pair");
                const std::uint32_t low = four_digits();
                if (low < 0xdc00 || low > 0xdfff) fail("half of a pair");
                unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            } else if (unit >= 0xdc00 && unit < 0xe000) {
                fail("half of a pair");
            }
            append_utf8(out, unit);
            return;
        }
        const std::size_t place = at_ < text_.size() ? signs.find(text_[at_]) : std::string::npos;
        if (place == std::string::npos) fail("an unknown escape");
        out.push_back(meant[place]);
        ++at_;
    }

    std::string string() {
        expect('"');
        std::string out;
        while (true) {
            if (at_ >= text_.size()) fail("a string doesn't end");
            const auto byte = static_cast<unsigned char>(text_[at_]);
            if (byte == '"') {
                ++at_;
                return out;
            }
            if (byte == '\\') {
                ++at_;
                escape(out);
            } else if (byte < 0x20) {
                fail("a control character in a string");
            } else {
                const std::size_t begin = at_;
                if (next_code_point(text_, at_) < 0) fail("not UTF-8");
                out.append(text_, begin, at_ - begin);
            }
        }
    }

    const std::string& text_;
    std::size_t at_ = 0;
};

}  // namespace

const Value* Value::find(const std::string& key) const {
    const auto found = members.find(key);
    return found == members.end() ? nullptr : &found->second;
}

std::optional<int> Value::whole() const {
    if (kind != Kind::number || !integral || std::fabs(number) > 2147483647.0) return std::nullopt;
    return static_cast<int>(number);
}

Value parse(const std::string& text) { return Parser(text).document(); }

}  // namespace hemf::json

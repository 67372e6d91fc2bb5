#include "paths.hpp"

namespace predict {

std::vector<std::string> parts(const std::string& plain) {
    std::vector<std::string> found;
    if (!plain.empty() && plain[0] == '/') found.emplace_back("/");
    std::string part;
    for (const char sign : plain + "/") {
        if (sign != '/') {
            part.push_back(sign);
            continue;
        }
        if (!part.empty() && part != ".") found.push_back(part);
        part.clear();
    }
    return found;
}

namespace {

std::string joined(const std::vector<std::string>& found, std::size_t begin, std::size_t end) {
    std::string path;
    for (std::size_t index = begin; index < end; ++index) {
        if (!path.empty() && path != "/") path += "/";
        path += found[index];
    }
    return path.empty() ? "." : path;
}

}  // namespace

std::string plain_path(const std::string& path) {
    const std::vector<std::string> found = parts(path);
    return joined(found, 0, found.size());
}

std::string name(const std::string& plain) {
    const std::vector<std::string> found = parts(plain);
    return found.empty() || found.back() == "/" ? "" : found.back();
}

std::string parent(const std::string& plain) {
    const std::vector<std::string> found = parts(plain);
    if (found.size() == 1 && found[0] == "/") return "/";
    return joined(found, 0, found.empty() ? 0 : found.size() - 1);
}

std::string below(const std::string& plain, const std::string& root) {
    const std::vector<std::string> found = parts(plain);
    return joined(found, parts(root).size(), found.size());
}

}  // namespace predict

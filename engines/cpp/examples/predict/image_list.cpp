#include "image_list.hpp"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "hemf/error.hpp"
#include "paths.hpp"

namespace predict {

namespace {

using Place = std::pair<dev_t, ino_t>;

constexpr const char* extensions[] = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"};

bool is_image(const std::string& path) {
    std::string lower = path;
    for (char& sign : lower)
        if (sign >= 'A' && sign <= 'Z') sign = static_cast<char>(sign - 'A' + 'a');
    return std::any_of(std::begin(extensions), std::end(extensions), [&lower](const std::string& end) {
        return lower.size() >= end.size() && lower.compare(lower.size() - end.size(), end.size(), end) == 0;
    });
}

std::vector<std::string> entries(const std::string& folder) {
    DIR* opened = ::opendir(folder.c_str());
    if (opened == nullptr) throw hemf::bad_input("Can't read the folder " + folder + ": " + std::strerror(errno) + ".");
    std::vector<std::string> found;
    while (const dirent* entry = ::readdir(opened))
        if (entry->d_name[0] != '.') found.emplace_back(entry->d_name);  // hidden ones don't count
    ::closedir(opened);
    std::sort(found.begin(), found.end());
    return found;
}

// Links to folders are followed, but never in a circle.
void walk(const std::string& folder, std::set<Place> above, std::vector<std::string>& files) {
    struct stat status {};
    if (::stat(folder.c_str(), &status) != 0 || !above.insert({status.st_dev, status.st_ino}).second) return;
    for (const std::string& entry : entries(folder)) {
        const std::string path = folder == "." ? entry : folder == "/" ? "/" + entry : folder + "/" + entry;
        if (is_folder(path))
            walk(path, above, files);
        else
            files.push_back(path);
    }
}

std::string known_names() {
    std::string text;
    for (const char* extension : extensions) text += (text.empty() ? "" : ", ") + std::string(extension);
    return text;
}

}  // namespace

bool is_folder(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

ImageList collect(const std::vector<std::string>& named) {
    std::string missing;
    for (const std::string& place : named) {
        struct stat status {};
        if (::stat(place.c_str(), &status) != 0)
            missing += (missing.empty() ? "" : ", ") + plain_path(place) + " (" + std::strerror(errno) + ")";
    }
    if (!missing.empty()) throw hemf::bad_input("No image or folder at " + missing + ".", "Is the path right?");
    ImageList list;
    for (const std::string& given : named) {
        const std::string place = plain_path(given);
        if (!is_folder(place)) {
            list.images.push_back({place, std::nullopt});
            continue;
        }
        std::vector<std::string> files;
        walk(place, {}, files);
        const std::size_t before = list.images.size();
        for (const std::string& path : files) {
            if (is_image(path))
                list.images.push_back({path, place});
            else
                list.passed_over.push_back(path);
        }
        if (list.images.size() == before)
            throw hemf::bad_input(place + " has no images.", "They are known by their names: " + known_names() + ".");
    }
    return list;
}

std::optional<std::string> class_folder(const Listed& image, const std::vector<std::string>& classes) {
    if (!image.folder) return std::nullopt;
    const std::size_t depth = parts(image.path).size() - parts(*image.folder).size();
    std::string folder = image.path;
    for (std::size_t level = 0; level < depth; ++level) {
        folder = parent(folder);
        if (std::find(classes.begin(), classes.end(), name(folder)) != classes.end()) return folder;
    }
    return std::nullopt;
}

std::vector<FolderShare> shares(const ImageList& list, const std::vector<std::string>& classes,
                                const std::vector<std::string>& labels) {
    std::vector<FolderShare> found;
    for (std::size_t index = 0; index < list.images.size(); ++index) {
        const std::optional<std::string> folder = class_folder(list.images[index], classes);
        if (!folder) continue;
        const std::string above = parent(*folder);
        auto share =
            std::find_if(found.begin(), found.end(), [&](const FolderShare& one) { return one.folder == above; });
        if (share == found.end()) share = found.insert(found.end(), FolderShare{above, 0, 0});
        ++share->images;
        if (labels[index] == name(*folder)) ++share->right;
    }
    return found;
}

}  // namespace predict

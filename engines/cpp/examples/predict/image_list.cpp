#include "image_list.hpp"

#include <algorithm>
#include <iterator>
#include <set>
#include <system_error>

#include "hemf/error.hpp"

namespace predict {

namespace fs = std::filesystem;

namespace {

constexpr const char* extensions[] = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"};

bool is_image(const fs::path& path) {
    std::string name = path.filename().string();
    for (char& letter : name)
        if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    return std::any_of(std::begin(extensions), std::end(extensions), [&name](const std::string& end) {
        return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    });
}

// Links to folders are followed, but never in a circle: `above` has the folders that lead here.
void walk(const fs::path& folder, std::set<fs::path> above, std::vector<fs::path>& files) {
    std::error_code error;
    const fs::path real = fs::canonical(folder, error);
    if (error || !above.insert(real).second) return;
    std::vector<fs::path> entries;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
        if (const fs::path name = entry->path().filename(); name.native()[0] != '.')  // hidden ones don't count
            entries.push_back(folder == "." ? name : folder / name);
    if (error) throw hemf::bad_input("Can't read the folder " + folder.string() + ": " + error.message() + ".");
    std::sort(entries.begin(), entries.end(),
              [](const fs::path& left, const fs::path& right) { return left.native() < right.native(); });
    for (const fs::path& path : entries) {
        if (fs::is_directory(path, error))
            walk(path, above, files);
        else
            files.push_back(path);
    }
}

std::string known_extensions() {
    std::string text;
    for (const char* extension : extensions) text += (text.empty() ? "" : ", ") + std::string(extension);
    return text;
}

// The nearest folder above an image, up to the named one, whose name is that of a class.
std::optional<fs::path> class_folder(const Listed& image, const std::vector<std::string>& classes) {
    if (!image.folder) return std::nullopt;
    const bool here = *image.folder == ".";
    const auto steps = std::distance(image.path.begin(), image.path.end()) -
                       (here ? 0 : std::distance(image.folder->begin(), image.folder->end()));
    fs::path folder = image.path;
    for (auto step = steps; step > 0 && folder.has_parent_path(); --step) {
        folder = folder.parent_path();
        if (std::find(classes.begin(), classes.end(), folder.filename().string()) != classes.end()) return folder;
    }
    return std::nullopt;
}

}  // namespace

std::vector<std::string> ImageList::paths() const {
    std::vector<std::string> all;
    for (const Listed& image : images) all.push_back(image.path.string());
    return all;
}

fs::path plain(const std::string& path) {
    fs::path result;
    for (const fs::path& part : fs::path(path))
        if (!part.empty() && part != ".") result /= part;
    return result.empty() ? fs::path(".") : result;
}

ImageList collect(const std::vector<std::string>& named) {
    std::string missing;
    for (const std::string& name : named) {
        std::error_code error;
        if (!fs::exists(name, error)) {
            if (!error) error = std::make_error_code(std::errc::no_such_file_or_directory);
            missing += (missing.empty() ? "" : ", ") + plain(name).string() + " (" + error.message() + ")";
        }
    }
    if (!missing.empty()) throw hemf::bad_input("No image or folder at " + missing + ".", "Is the path right?");
    ImageList list;
    for (const std::string& name : named) {
        const fs::path place = plain(name);
        std::error_code error;
        if (!fs::is_directory(place, error)) {
            list.images.push_back({place, std::nullopt});
            continue;
        }
        std::vector<fs::path> files;
        walk(place, {}, files);
        const std::size_t before = list.images.size();
        for (const fs::path& path : files) {
            if (is_image(path))
                list.images.push_back({path, place});
            else
                list.passed_over.push_back(path.string());
        }
        if (list.images.size() == before)
            throw hemf::bad_input(place.string() + " has no images.",
                                  "They are known by their names: " + known_extensions() + ".");
    }
    return list;
}

std::vector<FolderShare> shares(const ImageList& list, const std::vector<std::string>& classes,
                                const std::vector<std::string>& labels) {
    std::vector<FolderShare> all;
    for (std::size_t index = 0; index < list.images.size(); ++index) {
        const std::optional<fs::path> folder = class_folder(list.images[index], classes);
        if (!folder) continue;
        const std::string above = plain(folder->parent_path().string()).string();
        auto share = std::find_if(all.begin(), all.end(), [&](const FolderShare& one) { return one.folder == above; });
        if (share == all.end()) share = all.insert(all.end(), FolderShare{above, 0, 0});
        ++share->images;
        if (labels[index] == folder->filename().string()) ++share->right;
    }
    return all;
}

}  // namespace predict

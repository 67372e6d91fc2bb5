// The images that a user names, one by one or by folder, and what the names of their folders say about their classes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace predict {

struct Listed {
    std::filesystem::path path;
    std::optional<std::filesystem::path> folder;  // the named folder that holds it; none for a file named by itself
};

struct ImageList {
    std::vector<Listed> images;
    std::vector<std::string> passed_over;  // files in the folders that aren't images by their names

    std::vector<std::string> paths() const;
};

// How many images in a folder's class folders were given the class of their folder.
struct FolderShare {
    std::string folder;
    std::size_t images = 0;
    std::size_t right = 0;
};

// A path without "." and doubled slashes, as Python writes it. ".." stays: a link may stand before it.
std::filesystem::path plain(const std::string& path);

// The named files, and all image files below the named folders, in the order of their names. Nothing is decoded.
// Throws hemf::Error (bad_input): nothing at a path, a folder without images, or one that can't be read.
ImageList collect(const std::vector<std::string>& named);

// The share that is right in each folder that has class folders; `labels` has the class of each image.
std::vector<FolderShare> shares(const ImageList& list, const std::vector<std::string>& classes,
                                const std::vector<std::string>& labels);

}  // namespace predict

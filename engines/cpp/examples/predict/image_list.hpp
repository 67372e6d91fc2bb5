// The images that a user names, one by one or by folder, and what their folders' names say of their classes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace predict {

struct Listed {
    std::string path;
    std::optional<std::string> folder;  // the named one that it was found in; none for a file that was named itself
};

struct ImageList {
    std::vector<Listed> images;
    std::vector<std::string> passed_over;  // what lies in the folders and is not an image by its name
};

// How many images of a folder's class folders were given the class of their folder.
struct FolderShare {
    std::string folder;
    std::size_t images = 0;
    std::size_t right = 0;
};

bool is_folder(const std::string& path);

// The files named, and the image files at any depth below the folders named, sorted. Nothing is decoded.
// Throws hemf::Error (bad_input): nothing at a path, a folder without images, or one that can't be read.
ImageList collect(const std::vector<std::string>& named);

// The nearest folder above an image, up to the named one, that is called like a class.
std::optional<std::string> class_folder(const Listed& image, const std::vector<std::string>& classes);

// What share is right, for each folder that has class folders; `labels` has the class found for each image.
std::vector<FolderShare> shares(const ImageList& list, const std::vector<std::string>& classes,
                                const std::vector<std::string>& labels);

}  // namespace predict

#include "file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace hemf::files {

namespace {

// Closes what it opened, also when memory runs out.
class Descriptor {
public:
    explicit Descriptor(const std::string& path) : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number() const { return number_; }

private:
    int number_;
};

}  // namespace

std::vector<std::uint8_t> read(const std::string& path, std::size_t largest, std::string& problem) {
    problem.clear();
    const Descriptor file(path);
    struct stat status {};
    if (file.number() < 0 || ::fstat(file.number(), &status) != 0) {
        problem = std::strerror(errno);
        return {};
    }
    if (!S_ISREG(status.st_mode)) {
        problem = not_regular;
        return {};
    }
    if (static_cast<unsigned long long>(status.st_size) > largest) {
        problem = too_large;
        return {};
    }
    std::vector<std::uint8_t> content(static_cast<std::size_t>(status.st_size));
    std::size_t done = 0;
    while (done < content.size()) {
        const ssize_t count = ::read(file.number(), content.data() + done, content.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) {
            problem = std::strerror(errno);
            return {};
        }
        if (count == 0) break;  // it was cut while we read
        done += static_cast<std::size_t>(count);
    }
    content.resize(done);
    return content;
}

bool exists(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0;
}

bool is_regular(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::string name(const std::string& path) { return path.substr(folder(path).size()); }

std::string folder(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? std::string() : path.substr(0, slash + 1);
}

bool replace(const std::string& path, const std::string& content) {
    std::string temporary = folder(path) + "." + name(path) + ".XXXXXX";
    const int number = ::mkstemp(temporary.data());
    if (number < 0) return false;
    std::size_t done = 0;
    while (done < content.size()) {
        const ssize_t count = ::write(number, content.data() + done, content.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        done += static_cast<std::size_t>(count);
    }
    const bool whole = done == content.size() && ::fsync(number) == 0 && ::fchmod(number, 0644) == 0;
    if (::close(number) == 0 && whole && std::rename(temporary.c_str(), path.c_str()) == 0) return true;
    ::unlink(temporary.c_str());
    return false;
}

}  // namespace hemf::files

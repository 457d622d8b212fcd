#include "file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "image.hpp"

namespace dpdt {
namespace {

ImageError system_failure(const char* what) {
    const int code = errno;
    return ImageError(reason_of(code), std::string(what) + ": " + std::generic_category().message(code));
}

}  // namespace

Reason reason_of(int code) {
    switch (code) {
        case ENOENT:
        case ENOTDIR:
            return Reason::missing;
        case EACCES:
        case EPERM:
        case EISDIR:
        case ELOOP:
        case ENAMETOOLONG:
        case ENXIO:
        case EINVAL:
            return Reason::unreadable;
        default:
            return Reason::storage;
    }
}

File::File(const std::string& path) : descriptor_(-1), size_(0) {
    // O_NONBLOCK: opening a named pipe must not wait for a writer.
    descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) throw system_failure("cannot open the file");
    struct stat status{};
    const bool failed = ::fstat(descriptor_, &status) != 0;
    if (failed || !S_ISREG(status.st_mode) || status.st_size == 0) {
        const ImageError error = failed                     ? system_failure("cannot read the file's size")
                                 : !S_ISREG(status.st_mode) ? ImageError(Reason::unreadable, "not a regular file")
                                                            : ImageError(Reason::empty, "the file has 0 bytes");
        ::close(descriptor_);
        throw error;
    }
    size_ = static_cast<std::size_t>(status.st_size);
    ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_WILLNEED);  // begins to read, and does not wait
}

File::~File() { ::close(descriptor_); }

Bytes File::read(std::size_t count) const {
    Bytes bytes(std::min(count, size_));
    std::size_t done = 0;
    while (done < bytes.size()) {
        const ssize_t got = ::pread(descriptor_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw system_failure("cannot read the file");
        if (got == 0) break;  // it became shorter meanwhile; the decoder will say truncated
        done += static_cast<std::size_t>(got);
    }
    bytes.resize(done);
    return bytes;
}

}  // namespace dpdt

// Reading whole files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "image.hpp"

namespace dpdt {

using Bytes = Samples<std::uint8_t>;

// Whose fault an errno is: the file's own (missing, unreadable), or that of the storage, which may give it next time.
Reason reason_of(int code);

// An open regular file. Throws ImageError: missing, empty, not a file or not readable; storage: the disk failed.
class File {
  public:
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    std::size_t size() const { return size_; }

    // Bytes from the start, `count` or fewer if the file is shorter. Throws ImageError if reading fails.
    Bytes read(std::size_t count) const;

  private:
    int descriptor_;
    std::size_t size_;
};

}  // namespace dpdt

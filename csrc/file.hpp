// Reading whole files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "image.hpp"

namespace dpdt {

using Bytes = Samples<std::uint8_t>;

// An open regular file. Throws ImageError: missing, empty, not a file or not readable.
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

// Asks the system to read a file ahead, and does not wait for it: storage far away answers while another file is being
// decoded. A file that is not there is no error here.
void prefetch(const std::string& path) noexcept;

}  // namespace dpdt

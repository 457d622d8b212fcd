// Pictures from many memory-mapped files into one block of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace dpdt {

// A file of `rows` pictures, one after the other.
struct PictureFile {
    const std::uint8_t* data = nullptr;
    std::size_t rows = 0;
};

// Where one picture is: row `row` of file `file`.
struct PicturePlace {
    std::size_t file = 0;
    std::size_t row = 0;
};

// Copies picture i of `places` to out + i * bytes, on several threads. Pages that are not in memory are asked for
// before the first of them is needed, so that the disk reads many at once. REQUIRES: places inside of their files.
// Returns the number of a file of which something is not there, cut by somebody or on a disk that fails: the kernel
// answers a mapped page of that kind with SIGBUS, which would end the process. What was copied is then worth nothing.
std::optional<std::size_t> gather(const std::vector<PictureFile>& files, const std::vector<PicturePlace>& places,
                                  std::size_t bytes, std::uint8_t* out, std::size_t num_threads);

}  // namespace dpdt

// Many files at once: read, decode, apply the recipe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "codec.hpp"
#include "recipe.hpp"

namespace dpdt {

// The result for one file. Its pixels are in the output only if reason is none.
struct ImageResult {
    Reason reason = Reason::none;
    std::string message;
    Format format = Format::unknown;
    std::size_t height = 0;
    std::size_t width = 0;
    int bits = 0;
    std::size_t warnings = 0;
};

struct Pipeline {
    Recipe recipe;
    std::size_t max_pixels = DecodeOptions{}.max_pixels;
    std::size_t max_file_bytes = std::size_t{1} << 30;
    std::size_t num_threads = 0;  // 0: available_threads()

    // Picture i, of height * width bytes, goes to out + i * height * width; of a file that fails its content is
    // unspecified. Memory: num_threads decoded pictures, whatever the number of files; more files are open. Throws only
    // what concerns the whole job (no memory). poll gets the number of files that are settled: DICOM files are not.
    // Exceptions as in run_parallel.
    std::vector<ImageResult> process_all(const std::vector<std::string>& paths, std::uint8_t* out,
                                         const std::function<void(std::size_t)>& poll) const;
};

}  // namespace dpdt

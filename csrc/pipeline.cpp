#include "pipeline.hpp"

#include <atomic>
#include <variant>

#include "file.hpp"
#include "pool.hpp"
#include "threads.hpp"

namespace dpdt {
namespace {

Bytes read_picture(const std::string& path, std::size_t max_bytes, Format& format) {
    const File file(path);
    const Bytes head = file.read(magic_bytes);
    format = detect_format(head.data(), head.size());
    if (format == Format::dicom || format == Format::unknown) return head;  // decode() throws the right error
    if (file.size() > max_bytes) {
        throw ImageError(Reason::too_large, "the file has " + std::to_string(file.size()) +
                                                " bytes, more than the limit of " + std::to_string(max_bytes));
    }
    return file.read(file.size());
}

}  // namespace

ImageResult Pipeline::process(const std::string& path, std::uint8_t* out) const {
    ImageResult result;
    try {
        const Bytes bytes = read_picture(path, max_file_bytes, result.format);
        const Image image = decode(bytes.data(), bytes.size(), max_pixels);
        result.height = image.file_height;
        result.width = image.file_width;
        result.bits = image.bits;
        result.warnings = image.warnings;
        std::visit(
            [&](const auto& pixels) {
                using T = typename std::decay_t<decltype(pixels)>::value_type;
                try {
                    apply_recipe(image.view<T>(), recipe, false, out);
                } catch (const ImageError& error) {
                    if (error.reason() != Reason::constant || image.bits >= 8) throw;
                    // 1 to 4 bits were stretched to 8
                    const unsigned stored = pixels[pixels.size() / 2] * ((1U << image.bits) - 1U) / 255U;
                    throw ImageError(Reason::constant,
                                     "all pixels have the value " + std::to_string(stored) + " after resampling");
                }
            },
            image.pixels);
    } catch (const ImageError& error) {
        result.reason = error.reason();
        result.message = error.what();
    }
    return result;
}

std::vector<ImageResult> Pipeline::process_all(const std::vector<std::string>& paths, std::uint8_t* out,
                                               const std::function<void(std::size_t)>& poll) const {
    std::vector<ImageResult> results(paths.size());
    const std::size_t stride = recipe.height * recipe.width;
    std::atomic<std::size_t> settled{0};
    const std::size_t threads = num_threads == 0 ? available_threads() : num_threads;
    const auto task = [&](std::size_t i) {
        if (i + threads < paths.size()) prefetch(paths[i + threads]);  // about what this thread does next
        results[i] = process(paths[i], out + i * stride);
        if (results[i].reason != Reason::dicom) ++settled;
    };
    run_parallel(paths.size(), threads, task, [&] { poll(settled); });
    return results;
}

}  // namespace dpdt

#include "pipeline.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <variant>

#include "file.hpp"
#include "pool.hpp"
#include "threads.hpp"

namespace dpdt {
namespace {

// Storage far away answers each request late, but many at once. So more threads open files, which asks for their bytes,
// than decode them; what waits is open files, without their bytes.
class Openings {
  public:
    Openings(const std::vector<std::string>& paths, std::size_t decoders)
        : paths_(paths), ahead_(num_openers(decoders)), openings_(paths.size()) {}

    // As many as are worth it, and no more than a quarter of the files that the process may have open.
    static std::size_t num_openers(std::size_t decoders) {
        struct rlimit limit{};
        const bool known = ::getrlimit(RLIMIT_NOFILE, &limit) == 0;
        const std::size_t allowed = known ? std::max<std::size_t>(1, limit.rlim_cur / 4) : 1;
        return std::min({8 * decoders, decoders + 128, allowed});
    }

    // One opener's work: until no file is left.
    void open_files() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            while (next_ < paths_.size() && openings_[next_].begun) ++next_;
            if (stopped_ || next_ == paths_.size()) return;
            if (next_ >= taken_ + ahead_) {
                changed_.wait(lock);
                continue;
            }
            const std::size_t i = next_++;
            Opening& opening = openings_[i];
            opening.begun = true;
            lock.unlock();
            try {
                opening.file = std::make_unique<File>(paths_[i]);
            } catch (...) {
                opening.error = std::current_exception();
            }
            lock.lock();
            opening.done = true;
            changed_.notify_all();
        }
    }

    // The index of a file that nobody took; the number of files where none is left.
    std::size_t take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return stopped_ || taken_ == paths_.size() ? paths_.size() : taken_++;
    }

    // The file of an index, once it is open; no file if all was stopped. Throws what opening it threw.
    std::unique_ptr<File> file(std::size_t i) {
        std::unique_lock<std::mutex> lock(mutex_);
        Opening& opening = openings_[i];
        if (!opening.begun) {  // no opener came to it
            opening.begun = true;
            lock.unlock();
            return std::make_unique<File>(paths_[i]);
        }
        changed_.notify_all();  // one more may be opened
        changed_.wait(lock, [&] { return stopped_ || opening.done; });
        if (!opening.done) return nullptr;
        if (opening.error) std::rethrow_exception(opening.error);
        return std::move(opening.file);
    }

    void stop() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
    }

  private:
    struct Opening {
        bool begun = false;  // guarded by mutex_, as is done; the others belong to who opens until it is done
        bool done = false;
        std::unique_ptr<File> file;
        std::exception_ptr error;
    };

    const std::vector<std::string>& paths_;
    const std::size_t ahead_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Opening> openings_;
    std::size_t next_ = 0, taken_ = 0;  // guarded by mutex_
    bool stopped_ = false;              // guarded by mutex_
};

// Throws only what concerns the whole job (no memory).
ImageResult process(const Pipeline& pipeline, Openings& openings, std::size_t index, std::uint8_t* out) {
    ImageResult result;
    try {
        const std::unique_ptr<File> file = openings.file(index);
        if (file == nullptr) return result;  // all was stopped
        Bytes bytes = file->read(magic_bytes);
        result.format = detect_format(bytes.data(), bytes.size());
        if (result.format != Format::dicom && result.format != Format::unknown) {  // decode() throws the right error
            if (file->size() > pipeline.max_file_bytes) {
                throw ImageError(Reason::too_large, "the file has " + std::to_string(file->size()) +
                                                        " bytes, more than the limit of " +
                                                        std::to_string(pipeline.max_file_bytes));
            }
            bytes = file->read(file->size());
        }
        const Image image = decode(bytes.data(), bytes.size(), pipeline.max_pixels);
        result.height = image.file_height;
        result.width = image.file_width;
        result.bits = image.bits;
        result.warnings = image.warnings;
        std::visit(
            [&](const auto& pixels) {
                using T = typename std::decay_t<decltype(pixels)>::value_type;
                try {
                    apply_recipe(image.view<T>(), pipeline.recipe, false, out);
                } catch (const ImageError& error) {
                    const bool stretched = result.format == Format::png && image.bits < 8;
                    if (error.reason() != Reason::constant || !stretched) throw;
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

}  // namespace

std::vector<ImageResult> Pipeline::process_all(const std::vector<std::string>& paths, std::uint8_t* out,
                                               const std::function<void(std::size_t)>& poll) const {
    std::vector<ImageResult> results(paths.size());
    const std::size_t stride = recipe.height * recipe.width;
    std::atomic<std::size_t> settled{0};
    const std::size_t threads = num_threads == 0 ? available_threads() : num_threads;
    const std::size_t decoders = std::max<std::size_t>(1, std::min(threads, paths.size()));
    const std::size_t openers = std::min(Openings::num_openers(decoders), paths.size());
    Openings openings(paths, decoders);
    const auto work = [&](std::size_t worker) {
        if (worker >= decoders) return openings.open_files();
        for (std::size_t i = openings.take(); i < paths.size(); i = openings.take()) {
            results[i] = process(*this, openings, i, out + i * stride);
            if (results[i].reason != Reason::dicom) ++settled;
        }
    };
    const auto stopping = [&](const auto& step) {  // the others do not go on after an error or a signal
        try {
            step();
        } catch (...) {
            openings.stop();
            throw;
        }
    };
    const std::size_t workers = paths.empty() ? 0 : decoders + openers;
    run_parallel(
        workers, workers, [&](std::size_t worker) { stopping([&] { work(worker); }); },
        [&] { stopping([&] { poll(settled); }); });
    return results;
}

}  // namespace dpdt

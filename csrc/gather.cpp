#include "gather.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "pool.hpp"

namespace dpdt {
namespace {

// Asking for pages costs a system call: not worth it for smaller pictures, which the kernel's own read-ahead covers.
constexpr std::size_t asked_bytes = std::size_t{1} << 16;
// Below this a thread takes longer to start than to copy.
constexpr std::size_t task_bytes = std::size_t{1} << 21;

void ask_for(const std::uint8_t* data, std::size_t bytes) {
    static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t start = address / page * page;
    // only a hint: if it is refused, the copy waits for the disk instead
    ::madvise(reinterpret_cast<void*>(start), address + bytes - start, MADV_WILLNEED);
}

}  // namespace

void gather(const std::vector<PictureFile>& files, const std::vector<PicturePlace>& places, std::size_t bytes,
            std::uint8_t* out, std::size_t num_threads) {
    const auto source = [&](const PicturePlace& place) { return files[place.file].data + place.row * bytes; };
    if (bytes >= asked_bytes) {
        for (const PicturePlace& place : places) ask_for(source(place), bytes);
    }
    const std::size_t per_task = std::max<std::size_t>(1, task_bytes / std::max<std::size_t>(1, bytes));
    const std::size_t tasks = (places.size() + per_task - 1) / per_task;
    const auto copy = [&](std::size_t task) {
        const std::size_t end = std::min(places.size(), (task + 1) * per_task);
        for (std::size_t i = task * per_task; i < end; ++i) std::memcpy(out + i * bytes, source(places[i]), bytes);
    };
    if (num_threads <= 1 || tasks <= 1) {
        for (std::size_t task = 0; task < tasks; ++task) copy(task);
    } else {
        run_parallel(tasks, num_threads, copy, [] {});
    }
}

}  // namespace dpdt

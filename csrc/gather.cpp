#include "gather.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
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

// Where this thread goes on if the page that it copies is not there; null where it copies none.
thread_local sigjmp_buf* landing = nullptr;
struct sigaction other_handler;

void on_bus_error(int) {
    if (landing != nullptr) siglongjmp(*landing, 1);
    ::sigaction(SIGBUS, &other_handler, nullptr);  // not ours: the same instruction fails again, and that one is asked
}

void watch_bus_errors() {
    struct sigaction now;
    if (::sigaction(SIGBUS, nullptr, &now) == 0 && now.sa_handler == on_bus_error) return;  // others may set theirs
    struct sigaction action = {};
    action.sa_handler = on_bus_error;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &other_handler);
}

// False if the source has pages that are not there. Nothing here has a destructor: a jump leaves it.
bool copy_pages(std::uint8_t* out, const std::uint8_t* source, std::size_t bytes) {
    sigjmp_buf here;
    if (sigsetjmp(here, 1) != 0) {
        landing = nullptr;
        return false;
    }
    landing = &here;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    std::memcpy(out, source, bytes);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    landing = nullptr;
    return true;
}

}  // namespace

std::optional<std::size_t> gather(const std::vector<PictureFile>& files, const std::vector<PicturePlace>& places,
                                  std::size_t bytes, std::uint8_t* out, std::size_t num_threads) {
    watch_bus_errors();
    std::atomic<std::size_t> cut{files.size()};
    const auto source = [&](const PicturePlace& place) { return files[place.file].data + place.row * bytes; };
    if (bytes >= asked_bytes) {
        for (const PicturePlace& place : places) ask_for(source(place), bytes);
    }
    const std::size_t per_task = std::max<std::size_t>(1, task_bytes / std::max<std::size_t>(1, bytes));
    const std::size_t tasks = (places.size() + per_task - 1) / per_task;
    const auto copy = [&](std::size_t task) {
        const std::size_t end = std::min(places.size(), (task + 1) * per_task);
        for (std::size_t i = task * per_task; i < end; ++i) {
            if (!copy_pages(out + i * bytes, source(places[i]), bytes)) cut = places[i].file;
        }
    };
    if (num_threads <= 1 || tasks <= 1) {
        for (std::size_t task = 0; task < tasks; ++task) copy(task);
    } else {
        run_parallel(tasks, num_threads, copy, [] {});
    }
    return cut == files.size() ? std::nullopt : std::optional<std::size_t>(cut);
}

}  // namespace dpdt

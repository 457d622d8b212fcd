#include "image.hpp"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <limits>
#include <new>

namespace dpdt {

namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t large = 2 * huge_page;
constexpr std::size_t most_kept = std::size_t{48} << 20;

// Large places that a thread has used and will use again.
class Kept {
  public:
    ~Kept() { clear(); }

    // The smallest that is large enough and not much too large. If there is none, all are freed: what is kept and what
    // is in use are together no more than what was in use at once.
    void* take(std::size_t bytes) noexcept {
        Place* best = nullptr;
        for (Place& place : places_) {
            const bool fits = place.start != nullptr && place.bytes >= bytes && place.bytes <= 2 * bytes;
            if (fits && (best == nullptr || place.bytes < best->bytes)) best = &place;
        }
        if (best == nullptr) {
            clear();
            return nullptr;
        }
        return std::exchange(*best, Place{}).start;
    }

    bool keep(void* start, std::size_t bytes) noexcept {
        std::size_t total = bytes;
        Place* empty = nullptr;
        for (Place& place : places_) {
            total += place.bytes;
            if (place.start == nullptr) empty = &place;
        }
        if (empty == nullptr || total > most_kept) return false;
        *empty = {start, bytes};
        return true;
    }

    void clear() noexcept {
        for (Place& place : places_) std::free(std::exchange(place, Place{}).start);
    }

  private:
    struct Place {
        void* start = nullptr;
        std::size_t bytes = 0;
    };
    std::array<Place, 4> places_{};
};

thread_local Kept kept;

}  // namespace

void* take_memory(std::size_t count, std::size_t item_bytes) {
    if (count > std::numeric_limits<std::size_t>::max() / 2 / item_bytes) throw std::bad_alloc();
    const std::size_t bytes = count * item_bytes;
    if (bytes < large) {
        if (void* const place = std::malloc(bytes)) return place;
        throw std::bad_alloc();
    }
    if (void* const place = kept.take(bytes)) return place;
    void* const place = std::aligned_alloc(huge_page, (bytes + huge_page - 1) / huge_page * huge_page);
    if (place == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    ::madvise(place, bytes, MADV_HUGEPAGE);
#endif
    return place;
}

void return_memory(void* place) noexcept {
    const std::size_t bytes = place == nullptr ? 0 : ::malloc_usable_size(place);
    if (bytes < large || !kept.keep(place, bytes)) std::free(place);
}

void free_kept_memory() noexcept { kept.clear(); }

void give_back(void* place, std::size_t bytes) noexcept {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto start = reinterpret_cast<std::uintptr_t>(place);
    const std::uintptr_t first = (start + page - 1) / page * page;
    const std::uintptr_t last = (start + bytes) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

const char* reason_name(Reason reason) {
    switch (reason) {
        case Reason::none:
            return "";
        case Reason::missing:
            return "missing";
        case Reason::unreadable:
            return "unreadable";
        case Reason::empty:
            return "empty";
        case Reason::truncated:
            return "truncated";
        case Reason::unsupported:
            return "unsupported";
        case Reason::too_large:
            return "too_large";
        case Reason::constant:
            return "constant";
        case Reason::dicom:
            return "dicom";
        case Reason::storage:
            return "storage";
    }
    return "unreadable";
}

void check_size(std::size_t height, std::size_t width, std::size_t max_pixels) {
    constexpr std::size_t max_side = 65535;
    const std::string size = std::to_string(width) + "x" + std::to_string(height);
    if (height == 0 || width == 0) throw ImageError(Reason::empty, "the header says " + size + " pixels");
    if (height > max_side || width > max_side) {
        throw ImageError(Reason::too_large, "the header says " + size + " pixels, more than 65535 on a side");
    }
    if (height > max_pixels / width) {
        throw ImageError(Reason::too_large,
                         "the header says " + size + " pixels, more than the limit of " + std::to_string(max_pixels));
    }
}

bool has_end_marker(const std::uint8_t* data, std::size_t size) {
    while (size > 0 && data[size - 1] == 0) --size;
    return size >= 2 && data[size - 2] == 0xFF && data[size - 1] == 0xD9;
}

double pixel_aspect_of(std::uint32_t across, std::uint32_t down) {
    constexpr std::uint64_t most = 20;
    if (across == 0 || down == 0 || across > most * down || down > most * across) return 1.0;
    return static_cast<double>(across) / static_cast<double>(down);
}

}  // namespace dpdt

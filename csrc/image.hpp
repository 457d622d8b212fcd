// One gray picture at the file's own depth, and what can be wrong with one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace dpdt {

// Why a picture is a reject. The names are written to rejects.csv (see reason_name).
enum class Reason { none, missing, unreadable, empty, truncated, unsupported, too_large, constant, dicom, storage };

const char* reason_name(Reason reason);

// Thrown for one bad picture; everything else that is thrown stops the whole job.
class ImageError : public std::runtime_error {
  public:
    ImageError(Reason reason, const std::string& message) : std::runtime_error(message), reason_(reason) {}
    Reason reason() const { return reason_; }

  private:
    Reason reason_;
};

// Where the pixels of one axis lie in the file's picture, in units of the codec's choice: pixel i covers
// [origin + i * pixel, origin + (i + 1) * pixel) of a picture that covers [0, length). A picture decoded at a smaller
// scale need not end where its last pixel does.
struct Grid {
    std::int64_t origin = 0;
    std::int64_t pixel = 1;
    std::int64_t length = 1;

    static Grid of(std::size_t count) { return {0, 1, static_cast<std::int64_t>(count)}; }
};

// Rows of a picture that another object owns, without padding between rows.
template <class T>
struct View {
    const T* data;
    std::size_t height;
    std::size_t width;
    Grid rows;
    Grid columns;
    double pixel_aspect = 1.0;  // height of a pixel over its width
    unsigned halvings = 0;      // that the codec left out

    View(const T* pixels, std::size_t num_rows, std::size_t num_columns)
        : View(pixels, num_rows, num_columns, Grid::of(num_rows), Grid::of(num_columns)) {}
    View(const T* pixels, std::size_t num_rows, std::size_t num_columns, const Grid& of_rows, const Grid& of_columns)
        : data(pixels), height(num_rows), width(num_columns), rows(of_rows), columns(of_columns) {}

    const T* row(std::size_t y) const { return data + y * width; }
};

// Memory for `return_memory`; of whole pictures, in huge pages where the system has them: ten megapixels are 5,000
// small ones, each of which costs an interrupt. Throws std::bad_alloc.
void* take_memory(std::size_t count, std::size_t item_bytes);

// A thread keeps what whole pictures used for its next one: fresh pages have to be cleared by the system, which takes a
// quarter of the time of a large PNG.
void return_memory(void* place) noexcept;

// Frees what this thread keeps, before a library takes much by itself.
void free_kept_memory() noexcept;

// Gives the whole pages of a place back to the system before the place itself is freed; its content is lost.
void give_back(void* place, std::size_t bytes) noexcept;

// Leaves new elements as they are: every sample is written anyway, and clearing ten megapixels first costs time.
template <class T>
struct Uninitialised : std::allocator<T> {
    T* allocate(std::size_t count) { return static_cast<T*>(take_memory(count, sizeof(T))); }
    void deallocate(T* place, std::size_t) noexcept { return_memory(place); }
    template <class U>
    struct rebind {
        using other = Uninitialised<U>;
    };
    template <class U>
    void construct(U* place) noexcept {
        ::new (static_cast<void*>(place)) U;
    }
    template <class U, class... Values>
    void construct(U* place, Values&&... values) {
        ::new (static_cast<void*>(place)) U(std::forward<Values>(values)...);
    }
};

template <class T>
using Samples = std::vector<T, Uninitialised<T>>;

struct Image {
    std::size_t height = 0;  // of the pixels here
    std::size_t width = 0;
    std::size_t file_height = 0;  // of the file's picture; larger if it was decoded at a smaller scale
    std::size_t file_width = 0;
    Grid rows;
    Grid columns;
    double pixel_aspect = 1.0;  // height of a pixel over its width
    unsigned halvings = 0;      // of the file's picture, that the codec left out
    int bits = 0;               // a sample as stored in the file: 1, 2, 4, 8 or 16; 1 to 4 are stretched to 8 here
    std::size_t warnings = 0;   // oddities that do not change pixels, such as bytes after the picture's end
    std::variant<Samples<std::uint8_t>, Samples<std::uint16_t>> pixels;

    // At full scale.
    void set_size(std::size_t num_rows, std::size_t num_columns) {
        height = file_height = num_rows;
        width = file_width = num_columns;
        rows = Grid::of(num_rows);
        columns = Grid::of(num_columns);
    }

    template <class T>
    View<T> view() const {
        View<T> found{std::get<Samples<T>>(pixels).data(), height, width, rows, columns};
        found.pixel_aspect = pixel_aspect;
        found.halvings = halvings;
        return found;
    }
};

// Throws ImageError: a side is 0, a side is above 65535 (sums of one row or column must fit 32 bits), or the area is
// above max_pixels. Call it with the header's numbers, before anything of the picture's size is allocated.
void check_size(std::size_t height, std::size_t width, std::size_t max_pixels);

// Whether the last marker is that of a picture's end, which JPEG, JPEG-LS and JPEG 2000 share. DICOM pads to an even
// number of bytes, some writers with more.
bool has_end_marker(const std::uint8_t* data, std::size_t size);

// Height of a pixel over its width, from the pixels of a unit of length across and down; 1 where they make no sense.
double pixel_aspect_of(std::uint32_t across, std::uint32_t down);

// Luma of BT.601 as cv2.cvtColor rounds it: the weights sum to 2^15, so R = G = B gives exactly that value.
template <class T>
T gray(std::uint32_t red, std::uint32_t green, std::uint32_t blue) {
    return static_cast<T>((red * 9798U + green * 19235U + blue * 3735U + (1U << 14)) >> 15);
}

}  // namespace dpdt

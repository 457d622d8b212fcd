#include "views.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "pool.hpp"

namespace dpdt {
namespace {

constexpr int bits = 16;  // of the part after the point
constexpr std::int64_t one = std::int64_t{1} << bits;
// Four uniform bytes: their sum has this mean and this standard deviation (the root of 4 (256^2 - 1) / 12).
constexpr std::int64_t bytes_mean = 510;
constexpr double bytes_deviation = 147.8;
// Below so many pixels a thread takes longer to start than to work.
constexpr std::size_t task_pixels = std::size_t{1} << 16;
constexpr std::uint64_t step = 0x9e3779b97f4a7c15;  // of SplitMix64 (Steele, Lea & Flood 2014)

// The number that SplitMix64 gives for a state.
std::uint64_t mixed(std::uint64_t state) {
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
    state = (state ^ (state >> 27)) * 0x94d049bb133111eb;
    return state ^ (state >> 31);
}

// Number `index` of a seed's, in [-1, 1).
double uniform(std::uint64_t seed, std::uint64_t index) {
    return static_cast<double>(mixed(seed + (index + 1) * step) >> 11) * 0x1p-52 - 1;
}

std::int64_t fixed(double value) { return static_cast<std::int64_t>(std::floor(value * one + 0.5)); }

std::int64_t clamp(std::int64_t value, std::int64_t largest) {
    return std::min(std::max<std::int64_t>(value, 0), largest);
}

// The picture at a place, with `bits` bits after the point.
std::int64_t pixel_at(const std::uint8_t* picture, std::int64_t size, std::int64_t y, std::int64_t x) {
    const std::int64_t largest = (size - 1) * one;
    y = clamp(y, largest);
    x = clamp(x, largest);
    const std::int64_t top = y >> bits;
    const std::int64_t left = x >> bits;
    const std::int64_t below = std::min(top + 1, size - 1) * size;
    const std::int64_t right = std::min(left + 1, size - 1);
    const std::int64_t down = y & (one - 1);
    const std::int64_t along = x & (one - 1);
    const std::int64_t upper = picture[top * size + left] * (one - along) + picture[top * size + right] * along;
    const std::int64_t lower = picture[below + left] * (one - along) + picture[below + right] * along;
    return (upper * (one - down) + lower * down) >> bits;
}

void make_view(const std::uint8_t* source, std::uint8_t* out, std::int64_t size, std::uint64_t seed) {
    const Change view = change_of(seed);
    // Sine and cosine of a small angle by Taylor's series: libraries round theirs differently.
    const double squared = view.angle * view.angle;
    const double sine = view.angle * (1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42)));
    const double cosine = 1 - squared / 2 * (1 - squared / 12 * (1 - squared / 30));
    const std::int64_t along = fixed(cosine / view.scale);
    const std::int64_t across = fixed(sine / view.scale);
    const double middle = static_cast<double>(size - 1) / 2;
    const double side = static_cast<double>(size);
    const double away_x = -middle - view.shift_x * side;  // of the first pixel from the middle of what is shown
    const double away_y = -middle - view.shift_y * side;
    const std::int64_t first_x = fixed(middle + (cosine * away_x + sine * away_y) / view.scale);
    const std::int64_t first_y = fixed(middle + (cosine * away_y - sine * away_x) / view.scale);
    const std::int64_t contrast = fixed(view.contrast);
    const std::int64_t base = fixed(128 + view.brightness) + one / 2;
    const std::int64_t noise = fixed(view.noise / bytes_deviation);
    const std::uint64_t stream = mixed(seed + 8 * step);
    for (std::int64_t row = 0; row < size; ++row) {
        for (std::int64_t column = 0; column < size; ++column) {
            const std::int64_t x = first_x + column * along + row * across;
            const std::int64_t y = first_y + row * along - column * across;
            const std::int64_t seen = pixel_at(source, size, y, x) - 128 * one;
            const std::int64_t place = row * size + column;
            const std::uint64_t drawn = mixed(stream + static_cast<std::uint64_t>(place) * step);
            std::int64_t sum = -bytes_mean;
            for (int byte = 0; byte < 4; ++byte) sum += static_cast<std::int64_t>((drawn >> (8 * byte)) & 255);
            const std::int64_t value = (((seen * contrast) >> bits) + base + sum * noise) >> bits;
            out[place] = static_cast<std::uint8_t>(clamp(value, 255));
        }
    }
}

}  // namespace

Change change_of(std::uint64_t seed) {
    Change view;
    view.angle = max_angle * uniform(seed, 0);
    view.scale = 1 + max_scale * uniform(seed, 1);
    view.shift_x = max_shift * uniform(seed, 2);
    view.shift_y = max_shift * uniform(seed, 3);
    view.contrast = 1 + max_contrast * uniform(seed, 4);
    view.brightness = max_brightness * uniform(seed, 5);
    view.noise = max_noise * (1 + uniform(seed, 6)) / 2;
    return view;
}

void make_views(std::uint8_t* pictures, const std::uint64_t* seeds, std::size_t count, std::size_t size,
                std::size_t num_threads) {
    const std::size_t bytes = size * size;
    const std::size_t per_task = std::max<std::size_t>(1, task_pixels / bytes);
    const std::size_t tasks = (count + per_task - 1) / per_task;
    const auto work = [&](std::size_t task) {
        std::vector<std::uint8_t> source(bytes);
        for (std::size_t number = task * per_task; number < std::min(count, (task + 1) * per_task); ++number) {
            std::uint8_t* const out = pictures + number * bytes;
            std::copy(out, out + bytes, source.begin());
            make_view(source.data(), out, static_cast<std::int64_t>(size), seeds[number]);
        }
    };
    if (num_threads <= 1 || tasks <= 1) {
        for (std::size_t task = 0; task < tasks; ++task) work(task);
    } else {
        run_parallel(tasks, num_threads, work, [] {});
    }
}

}  // namespace dpdt

// Views of pictures: small random changes that leave what they show.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dpdt {

// One of them, around the middle of the picture. The shifts are parts of its side, the last three grey levels of 256.
struct Change {
    double angle = 0;       // radians, at most max_angle to either side
    double scale = 1;       // of what is shown: above 1 it is larger
    double shift_x = 0;     // to the right
    double shift_y = 0;     // downwards
    double contrast = 1;    // times the distance to the middle grey
    double brightness = 0;  // added
    double noise = 0;       // standard deviation of what is added to each pixel by itself
};

constexpr double max_angle = 0.12;  // 7 degrees
constexpr double max_scale = 0.08;
constexpr double max_shift = 0.05;
constexpr double max_contrast = 0.15;
constexpr double max_brightness = 20;
constexpr double max_noise = 5;

// The view of a seed: each number uniform in its range (noise from 0 to max_noise). Never a mirror: hearts are left.
Change change_of(std::uint64_t seed);

// Turns each of `count` square pictures of `size` pixels a side into the view of its seed, in place, on several
// threads. Bilinear; outside of the picture is its nearest edge. The bytes depend on picture and seed alone: whole
// numbers, and additions and multiplications of IEEE 754 in one order.
void make_views(std::uint8_t* pictures, const std::uint64_t* seeds, std::size_t count, std::size_t size,
                std::size_t num_threads);

}  // namespace dpdt

#include "normalise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "simd.hpp"

namespace dpdt {
namespace {

using Histogram = std::array<std::size_t, 256>;
using Table = std::array<std::uint8_t, 256>;

// Four partial histograms: neighbours are often equal, and adding to one place again and again waits for itself.
Histogram histogram_of(const std::uint8_t* pixels, std::size_t count) {
    std::array<std::array<std::uint32_t, 256>, 4> parts{};
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (std::size_t k = 0; k < 4; ++k) ++parts[k][pixels[i + k]];
    }
    for (; i < count; ++i) ++parts[0][pixels[i]];
    Histogram histogram{};
    for (const auto& part : parts) {
        for (std::size_t level = 0; level < 256; ++level) histogram[level] += part[level];
    }
    return histogram;
}

// What cv2.equalizeHist makes of each level: single precision and rounding half to even.
Table equalising_table(const Histogram& histogram, std::size_t count) {
    Table table{};
    std::size_t lowest = 0;
    while (lowest < 255 && histogram[lowest] == 0) ++lowest;
    if (histogram[lowest] == count) {  // one grey only
        table.fill(static_cast<std::uint8_t>(lowest));
        return table;
    }
    const float scale = 255.0F / static_cast<float>(count - histogram[lowest]);
    std::size_t sum = 0;
    for (std::size_t level = lowest + 1; level < 256; ++level) {
        sum += histogram[level];
        const float value = std::nearbyint(static_cast<float>(sum) * scale);
        table[level] = static_cast<std::uint8_t>(std::min(value, 255.0F));
    }
    return table;
}

struct Range {
    std::uint32_t low;
    std::uint32_t high;
};

template <class T>
inline Range range_loop(const T* values, std::size_t count) {
    T low = values[0];
    T high = values[0];
    for (std::size_t i = 0; i < count; ++i) {
        low = values[i] < low ? values[i] : low;  // not std::min, whose references keep the loop scalar
        high = values[i] > high ? values[i] : high;
    }
    return {low, high};
}

DPDT_WIDE Range range_of(const std::uint8_t* values, std::size_t count) { return range_loop(values, count); }
DPDT_WIDE Range range_of(const std::uint16_t* values, std::size_t count) { return range_loop(values, count); }

}  // namespace

template <class T>
void stretch(View<T> source, std::uint8_t* out, bool invert, bool equalise) {
    const std::size_t count = source.height * source.width;
    const auto [low, high] = range_of(source.data, count);
    const std::uint32_t range = high - low;
    if (range == 0) {
        throw ImageError(Reason::constant, "all pixels have the value " + std::to_string(low) + " after resampling");
    }
    std::vector<std::uint8_t> table(std::size_t{high} + 1);
    for (std::uint32_t i = 0; i <= range; ++i) {
        const std::uint32_t level = (i * 510U + range) / (2U * range);
        table[low + i] = static_cast<std::uint8_t>(invert ? 255U - level : level);
    }
    const std::uint8_t* const levels = table.data();
    for (std::size_t i = 0; i < count; ++i) out[i] = levels[source.data[i]];
    if (equalise) dpdt::equalise(out, count);
}

template void stretch(View<std::uint8_t>, std::uint8_t*, bool, bool);
template void stretch(View<std::uint16_t>, std::uint8_t*, bool, bool);

void equalise(std::uint8_t* pixels, std::size_t count) {
    const Table table = equalising_table(histogram_of(pixels, count), count);
    for (std::size_t i = 0; i < count; ++i) pixels[i] = table[pixels[i]];
}

}  // namespace dpdt

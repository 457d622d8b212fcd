#include "normalise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace dpdt {

template <class T>
void stretch(View<T> source, std::uint8_t* out, bool invert) {
    const T* const end = source.data + source.height * source.width;
    const auto [low, high] = std::minmax_element(source.data, end);
    const std::uint32_t lowest = *low;
    const std::uint32_t range = *high - lowest;
    if (range == 0) {
        throw ImageError(Reason::constant, "all pixels have the value " + std::to_string(lowest) + " after resampling");
    }
    std::vector<std::uint8_t> table(std::size_t{range} + 1);
    for (std::uint32_t i = 0; i <= range; ++i) {
        const std::uint32_t level = (i * 510U + range) / (2U * range);
        table[i] = static_cast<std::uint8_t>(invert ? 255U - level : level);
    }
    std::transform(source.data, end, out, [&](T value) { return table[value - lowest]; });
}

template void stretch(View<std::uint8_t>, std::uint8_t*, bool);
template void stretch(View<std::uint16_t>, std::uint8_t*, bool);

void equalise(std::uint8_t* pixels, std::size_t count) {
    std::array<std::size_t, 256> histogram{};
    for (std::size_t i = 0; i < count; ++i) ++histogram[pixels[i]];
    std::size_t lowest = 0;
    while (lowest < 255 && histogram[lowest] == 0) ++lowest;
    if (histogram[lowest] == count) return;  // one grey only

    // Single precision and rounding half to even, as OpenCV does it.
    const float scale = 255.0F / static_cast<float>(count - histogram[lowest]);
    std::array<std::uint8_t, 256> table{};
    std::size_t sum = 0;
    for (std::size_t level = lowest + 1; level < 256; ++level) {
        sum += histogram[level];
        const float value = std::nearbyint(static_cast<float>(sum) * scale);
        table[level] = static_cast<std::uint8_t>(std::min(value, 255.0F));
    }
    for (std::size_t i = 0; i < count; ++i) pixels[i] = table[pixels[i]];
}

}  // namespace dpdt

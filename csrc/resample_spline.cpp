#include "resample_spline.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "simd.hpp"

namespace dpdt {
namespace {

constexpr std::size_t lanes = 16;                 // columns that are filtered side by side: a strip stays in the cache
constexpr double pole = -0.17157287525380990239;  // sqrt(8) - 3
constexpr std::size_t pole_terms = 32;            // pole^32 is below 1e-24: more terms change no double

// The three spline coefficients of one output position.
struct Tap {
    std::size_t index[3];
    double weight[3];
};

std::size_t mirror(std::ptrdiff_t index, std::size_t count) {
    if (count == 1) return 0;
    const auto last = static_cast<std::ptrdiff_t>(count) - 1;
    if (index < 0) index = -index;
    return static_cast<std::size_t>(index > last ? 2 * last - index : index);
}

std::vector<Tap> make_taps(std::size_t in, std::size_t out) {
    const double step = out > 1 ? static_cast<double>(in - 1) / static_cast<double>(out - 1) : 1.0;
    std::vector<Tap> taps(out);
    for (std::size_t j = 0; j < out; ++j) {
        // scipy takes a position past the last centre, even by rounding, for outside; that is the last centre here.
        const double position = std::min(static_cast<double>(j) * step, static_cast<double>(in - 1));
        const double nearest = std::floor(position + 0.5);
        const double offset = position - nearest;
        const double first = 0.5 * (0.5 - offset) * (0.5 - offset);
        const double middle = 0.75 - offset * offset;
        const auto centre = static_cast<std::ptrdiff_t>(nearest);
        taps[j] = {{mirror(centre - 1, in), mirror(centre, in), mirror(centre + 1, in)},
                   {first, middle, 1.0 - first - middle}};
    }
    return taps;
}

// Turns a strip (rows of `lanes` values) into spline coefficients down its columns, in place.
DPDT_WIDE void filter_strip(double* strip, std::size_t rows) {
    if (rows == 1) return;
    const double gain = (1.0 - pole) * (1.0 - 1.0 / pole);
    for (std::size_t i = 0; i < rows * lanes; ++i) strip[i] *= gain;

    // Start of the causal pass: the signal mirrored at both ends, which is periodic with 2 * rows - 2.
    const double far = std::pow(pole, static_cast<double>(rows - 1));
    double* const last = strip + (rows - 1) * lanes;
    for (std::size_t x = 0; x < lanes; ++x) strip[x] += far * last[x];
    double power = pole;
    for (std::size_t i = 1; i + 1 < rows && i <= pole_terms; ++i, power *= pole) {
        const double* const near_row = strip + i * lanes;
        const double* const far_row = strip + (rows - 1 - i) * lanes;
        for (std::size_t x = 0; x < lanes; ++x) strip[x] += power * (near_row[x] + far * far_row[x]);
    }
    for (std::size_t x = 0; x < lanes; ++x) strip[x] /= 1.0 - far * far;
    for (std::size_t i = lanes; i < rows * lanes; ++i) strip[i] += pole * strip[i - lanes];

    for (std::size_t x = 0; x < lanes; ++x) last[x] = (pole * last[x - lanes] + last[x]) * pole / (pole * pole - 1.0);
    for (std::size_t y = rows - 1; y-- > 0;) {
        double* const row = strip + y * lanes;
        for (std::size_t x = 0; x < lanes; ++x) row[x] = pole * (row[x + lanes] - row[x]);
    }
}

DPDT_WIDE void mix_rows(const double* strip, const Tap& tap, double* out) {
    const double* const a = strip + tap.index[0] * lanes;
    const double* const b = strip + tap.index[1] * lanes;
    const double* const c = strip + tap.index[2] * lanes;
    for (std::size_t x = 0; x < lanes; ++x) out[x] = tap.weight[0] * a[x] + tap.weight[1] * b[x] + tap.weight[2] * c[x];
}

// Filters and samples the columns of `source` (height x width); writes the result transposed (width x taps), so that
// doing it twice handles both axes. The axes may be done one after the other because the filter of one commutes with
// the sampling of the other.
template <class In, class Write>
void resample_columns(const In* source, std::size_t height, std::size_t width, const std::vector<Tap>& taps,
                      const Write& write) {
    std::vector<double> strip(height * lanes);
    double mixed[lanes];
    for (std::size_t left = 0; left < width; left += lanes) {
        const std::size_t count = std::min(lanes, width - left);
        for (std::size_t y = 0; y < height; ++y) {
            const In* const row = source + y * width + left;
            for (std::size_t x = 0; x < count; ++x) strip[y * lanes + x] = static_cast<double>(row[x]);
        }
        filter_strip(strip.data(), height);
        for (std::size_t j = 0; j < taps.size(); ++j) {
            mix_rows(strip.data(), taps[j], mixed);
            for (std::size_t x = 0; x < count; ++x) write(left + x, j, mixed[x]);
        }
    }
}

template <class T>
T to_integer(double value) {
    constexpr double highest = std::numeric_limits<T>::max();
    return static_cast<T>(std::clamp(value + 0.5, 0.0, highest));
}

}  // namespace

template <class T>
void resample_spline(View<T> source, T* out, std::size_t out_height, std::size_t out_width) {
    std::vector<double> turned(source.width * out_height);
    resample_columns(source.data, source.height, source.width, make_taps(source.height, out_height),
                     [&](std::size_t x, std::size_t j, double value) { turned[x * out_height + j] = value; });
    resample_columns(
        turned.data(), source.width, out_height, make_taps(source.width, out_width),
        [&](std::size_t y, std::size_t j, double value) { out[y * out_width + j] = to_integer<T>(value); });
}

template void resample_spline(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
template void resample_spline(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt

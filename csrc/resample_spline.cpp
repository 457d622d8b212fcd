#include "resample_spline.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "simd.hpp"

namespace dpdt {
namespace {

constexpr double pole = -0.17157287525380990239;  // sqrt(8) - 3
constexpr std::size_t band = 8;                   // output rows that are made together, side by side in one vector
constexpr std::size_t block = 32;                 // pixels of a row that are summed in registers

// The spline's prefilter never ends, but falls sixfold a pixel: this far out, all the rest together is below 0.003 of
// T's levels.
template <class T>
constexpr std::ptrdiff_t reach = sizeof(T) == 1 ? 6 : 9;

// The source pixels that make one output pixel, the farthest (and lightest) first, so that little is lost in the sum.
template <class T>
struct Taps {
    static constexpr std::size_t count = 2 * reach<T> + 1;
    std::array<std::uint32_t, count> index;
    std::array<float, count> weight;
};

// Mirrored at the centres of the outermost pixels, which repeats after 2 * count - 2.
std::uint32_t mirror(std::ptrdiff_t index, std::size_t count) {
    if (count == 1) return 0;
    const auto last = static_cast<std::ptrdiff_t>(count) - 1;
    const std::ptrdiff_t inside = std::abs(index) % (2 * last);
    return static_cast<std::uint32_t>(inside > last ? 2 * last - inside : inside);
}

// The prefilter's impulse response: weight of the pixel at each distance in the spline's coefficient of a pixel.
template <class T>
std::array<double, reach<T> + 2> make_prefilter() {
    std::array<double, reach<T> + 2> weights;
    weights[0] = -8.0 * pole / (1.0 - pole * pole);
    for (std::size_t i = 1; i < weights.size(); ++i) weights[i] = pole * weights[i - 1];
    return weights;
}

template <class T>
Taps<T> taps_at(double position, std::size_t in) {
    static const auto response = make_prefilter<T>();
    const auto prefilter = [](std::ptrdiff_t distance) {
        return response[static_cast<std::size_t>(std::abs(distance))];
    };
    const double nearest = std::floor(position + 0.5);
    const double offset = position - nearest;
    const double before = 0.5 * (0.5 - offset) * (0.5 - offset);
    const double middle = 0.75 - offset * offset;
    const double after = 1.0 - before - middle;
    const auto weight_at = [&](std::ptrdiff_t distance) {
        return before * prefilter(distance + 1) + middle * prefilter(distance) + after * prefilter(distance - 1);
    };
    double sum = 0;
    for (std::ptrdiff_t distance = -reach<T>; distance <= reach<T>; ++distance) sum += weight_at(distance);
    Taps<T> taps;
    for (std::size_t k = 0; k < Taps<T>::count; ++k) {
        const std::ptrdiff_t away = reach<T> - static_cast<std::ptrdiff_t>(k / 2);
        const std::ptrdiff_t distance = k % 2 == 0 ? -away : away;
        taps.index[k] = mirror(static_cast<std::ptrdiff_t>(nearest) + distance, in);
        taps.weight[k] = static_cast<float>(weight_at(distance) / sum);
    }
    return taps;
}

template <class T>
std::vector<Taps<T>> make_taps(std::size_t in, std::size_t out) {
    const double step = out > 1 ? static_cast<double>(in - 1) / static_cast<double>(out - 1) : 1.0;
    std::vector<Taps<T>> taps(out);
    for (std::size_t j = 0; j < out; ++j) {
        // scipy takes a position past the last centre, even by rounding, for outside; that is the last centre here.
        taps[j] = taps_at<T>(std::min(static_cast<double>(j) * step, static_cast<double>(in - 1)), in);
    }
    return taps;
}

// Samples are held as floats around the middle of T's range, where floats are finest.
template <class T>
constexpr float middle_of = static_cast<float>(1U << (8 * sizeof(T) - 1));

template <class T>
inline void centre_loop(const T* __restrict row, float* __restrict out, std::size_t width) {
    for (std::size_t x = 0; x < width; ++x) out[x] = static_cast<float>(static_cast<int>(row[x])) - middle_of<T>;
}

DPDT_WIDE void centre(const std::uint8_t* row, float* out, std::size_t width) { centre_loop(row, out, width); }
DPDT_WIDE void centre(const std::uint16_t* row, float* out, std::size_t width) { centre_loop(row, out, width); }

struct Floats {
    float value[band];
};

// Never handed to a function by value: how that is done depends on the processor.
using Vector = float __attribute__((vector_size(band * sizeof(float)), aligned(alignof(float)), may_alias));

// Weighted sum of rows; their width is a multiple of `block`.
DPDT_WIDE void mix_rows(const float* const* rows, const float* weights, std::size_t count, float* out,
                        std::size_t width) {
    constexpr std::size_t parts = block / band;
    for (std::size_t x = 0; x < width; x += block) {
        Vector sums[parts] = {};
        for (std::size_t k = 0; k < count; ++k) {
            for (std::size_t i = 0; i < parts; ++i)
                sums[i] += weights[k] * reinterpret_cast<const Vector*>(rows[k] + x)[i];
        }
        std::memcpy(out + x, sums, sizeof(sums));
    }
}

// Puts the pixels of a band's rows that lie below each other side by side.
DPDT_WIDE void turn_band(const float* rows, std::size_t stride, Floats* out, std::size_t width) {
    for (std::size_t x = 0; x < width; ++x) {
        for (std::size_t i = 0; i < band; ++i) out[x].value[i] = rows[i * stride + x];
    }
}

DPDT_WIDE void mix_columns(const Floats* columns, const std::uint32_t* index, const float* weights, std::size_t count,
                           Floats& out) {
    Vector sum = {};
    for (std::size_t k = 0; k < count; ++k)
        sum += weights[k] * *reinterpret_cast<const Vector*>(columns[index[k]].value);
    std::memcpy(&out, &sum, sizeof(out));
}

template <class T>
T to_integer(float centred) {
    constexpr auto highest = static_cast<float>(std::numeric_limits<T>::max());
    return static_cast<T>(std::clamp(centred + (middle_of<T> + 0.5F), 0.0F, highest));
}

// Source rows as floats, converted when first asked for; as many are held as one output row needs.
template <class T>
class CentredRows {
  public:
    explicit CentredRows(View<T> source)
        : source_(source), stride_((source.width + block - 1) / block * block), floats_(Taps<T>::count * stride_) {
        held_.fill(std::numeric_limits<std::uint32_t>::max());
    }

    std::size_t stride() const { return stride_; }

    const float* row(std::uint32_t y) {
        const std::size_t slot = y % Taps<T>::count;
        float* const place = floats_.data() + slot * stride_;
        if (held_[slot] != y) centre(source_.row(y), place, source_.width);
        held_[slot] = y;
        return place;
    }

  private:
    View<T> source_;
    std::size_t stride_;
    std::vector<float> floats_;
    std::array<std::uint32_t, Taps<T>::count> held_;
};

}  // namespace

template <class T>
void resample_spline(View<T> source, T* out, std::size_t out_height, std::size_t out_width) {
    const std::vector<Taps<T>> rows = make_taps<T>(source.height, out_height);
    const std::vector<Taps<T>> columns = make_taps<T>(source.width, out_width);
    CentredRows<T> centred(source);
    std::vector<float> mixed(band * centred.stride());
    std::vector<Floats> turned(source.width);
    for (std::size_t top = 0; top < out_height; top += band) {
        const std::size_t count = std::min(band, out_height - top);
        for (std::size_t i = 0; i < count; ++i) {
            const Taps<T>& taps = rows[top + i];
            std::array<const float*, Taps<T>::count> lines;
            for (std::size_t k = 0; k < lines.size(); ++k) lines[k] = centred.row(taps.index[k]);
            mix_rows(lines.data(), taps.weight.data(), lines.size(), mixed.data() + i * centred.stride(),
                     centred.stride());
        }
        turn_band(mixed.data(), centred.stride(), turned.data(), source.width);
        for (std::size_t x = 0; x < out_width; ++x) {
            Floats sums;
            mix_columns(turned.data(), columns[x].index.data(), columns[x].weight.data(), Taps<T>::count, sums);
            for (std::size_t i = 0; i < count; ++i) {
                out[(top + i) * out_width + x] = to_integer<T>(sums.value[i]);
            }
        }
    }
}

template void resample_spline(View<std::uint8_t>, std::uint8_t*, std::size_t, std::size_t);
template void resample_spline(View<std::uint16_t>, std::uint16_t*, std::size_t, std::size_t);

}  // namespace dpdt

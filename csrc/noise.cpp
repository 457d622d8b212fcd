#include "noise.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "pool.hpp"
#include "simd.hpp"

namespace dpdt {
namespace {

constexpr std::size_t lanes = 8;          // blocks whose numbers are made at once
constexpr std::size_t group = 2 * lanes;  // numbers of them
constexpr std::size_t groups_per_task = 1024;
constexpr int rounds = 20;

// Vectors as GCC and Clang know them: split where the processor has shorter ones, the same results everywhere.
typedef std::uint32_t Words __attribute__((vector_size(4 * lanes)));
typedef std::uint32_t WideWords __attribute__((vector_size(8 * lanes)));
typedef std::uint64_t Longs __attribute__((vector_size(8 * lanes)));
typedef std::int64_t Masks __attribute__((vector_size(8 * lanes)));
typedef double Reals __attribute__((vector_size(8 * lanes)));

#define DPDT_INLINE inline __attribute__((always_inline))

template <class Words>
DPDT_INLINE void quarter(Words& a, Words& b, Words& c, Words& d) {
    a += b;
    d ^= a;
    d = (d << 16) | (d >> 16);
    c += d;
    b ^= c;
    b = (b << 12) | (b >> 20);
    a += b;
    d ^= a;
    d = (d << 8) | (d >> 24);
    c += d;
    b ^= c;
    b = (b << 7) | (b >> 25);
}

// Word w of the blocks counter, counter + 1, …, one a lane (RFC 8439, section 2.3).
template <class Words>
DPDT_INLINE void chacha(const NoiseKey& key, const NoiseNonce& nonce, std::uint32_t counter, Words* out) {
    const std::uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1],
                                     key[2],     key[3],     key[4],     key[5],     key[6], key[7],
                                     counter,    nonce[0],   nonce[1],   nonce[2]};
    Words x[16] = {};
    for (int w = 0; w < 16; ++w) x[w] += start[w];
    for (std::uint32_t lane = 0; lane < sizeof(Words) / 4; ++lane) x[12][lane] += lane;
    const Words counters = x[12];
    for (int round = 0; round < rounds; round += 2) {
        quarter(x[0], x[4], x[8], x[12]);
        quarter(x[1], x[5], x[9], x[13]);
        quarter(x[2], x[6], x[10], x[14]);
        quarter(x[3], x[7], x[11], x[15]);
        quarter(x[0], x[5], x[10], x[15]);
        quarter(x[1], x[6], x[11], x[12]);
        quarter(x[2], x[7], x[8], x[13]);
        quarter(x[3], x[4], x[9], x[14]);
    }
    for (int w = 0; w < 16; ++w) out[w] = x[w] + (w == 12 ? counters : Words{} + start[w]);
}

DPDT_INLINE Reals as_reals(Longs bits) { return (Reals)bits; }
DPDT_INLINE Longs as_longs(Reals value) { return (Longs)value; }
DPDT_INLINE Reals choose(Masks mask, Reals yes, Reals no) {
    const Longs chosen = (Longs)mask;
    return as_reals((chosen & as_longs(yes)) | (~chosen & as_longs(no)));
}

// 52 bits of two words, as a number in [1, 2).
DPDT_INLINE Reals one_to_two(Words low, Words high) {
    const Longs bits = (__builtin_convertvector(high, Longs) << 32) | __builtin_convertvector(low, Longs);
    return as_reals((bits >> 12) | 0x3ff0000000000000ULL);
}

// Natural logarithm of numbers in (0, 1]; atanh's series for a mantissa between sqrt(1/2) and sqrt(2).
DPDT_INLINE Reals logarithm(Reals value) {
    const Longs bits = as_longs(value);
    Reals mantissa = as_reals((bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL);
    const Masks large = mantissa > 1.4142135623730951;
    mantissa = choose(large, mantissa * 0.5, mantissa);
    // the exponent as a double: its bits in the mantissa of 2^52
    const Reals biased = as_reals((bits >> 52) | 0x4330000000000000ULL) - 4503599627370496.0;
    const Reals exponent = biased - choose(large, Reals{} + 1022.0, Reals{} + 1023.0);
    const Reals s = (mantissa - 1.0) / (mantissa + 1.0);
    const Reals z = s * s;
    Reals series = Reals{} + 1.0 / 21;
    for (const double odd : {19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0}) series = series * z + 1.0 / odd;
    return exponent * 0.6931471805599453 + 2.0 * s * series;
}

// Sine and cosine of 2 pi turn, for turns in [0, 1): Taylor's series within an eighth of a turn of a quarter.
DPDT_INLINE void sine_cosine(Reals turn, Reals* sine, Reals* cosine) {
    const Reals magic = Reals{} + 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
    const Reals shifted = turn * 4.0 + magic;
    const Reals quarters = shifted - magic;
    const Longs quadrant = as_longs(shifted);
    const Reals angle = (turn - quarters * 0.25) * 6.283185307179586;
    const Reals z = angle * angle;
    Reals s = Reals{} - 7.647163731819816e-13;  // 1 / 15!
    for (const double term : {1.6059043836821613e-10, -2.505210838544172e-08, 2.7557319223985893e-06,
                              -0.0001984126984126984, 0.008333333333333333, -0.16666666666666666, 1.0}) {
        s = s * z + term;
    }
    s *= angle;
    Reals c = Reals{} + 4.779477332387385e-14;  // 1 / 16!
    for (const double term : {-1.1470745597729725e-11, 2.08767569878681e-09, -2.755731922398589e-07,
                              2.48015873015873e-05, -0.001388888888888889, 0.041666666666666664, -0.5, 1.0}) {
        c = c * z + term;
    }
    const Masks odd = (quadrant & 1) != 0;
    const Reals sin_value = choose(odd, c, s);
    const Reals cos_value = choose(odd, s, c);
    *sine = as_reals(as_longs(sin_value) ^ ((quadrant & 2) << 62));
    *cosine = as_reals(as_longs(cos_value) ^ (((quadrant + 1) & 2) << 62));
}

// Numbers of `lanes` blocks, in the order of the blocks.
DPDT_INLINE void normal_numbers(const Words* words, double* out) {
    Reals even = {};
    Reals odd = {};
    for (int pair = 0; pair < 4; ++pair) {
        const Words* const w = words + 4 * pair;
        const Reals squared = logarithm(2.0 - one_to_two(w[0], w[1])) * -2.0;  // of numbers in (0, 1]
        Reals radius = {};
        for (std::size_t lane = 0; lane < lanes; ++lane) radius[lane] = __builtin_sqrt(squared[lane]);
        Reals sine;
        Reals cosine;
        sine_cosine(one_to_two(w[2], w[3]) - 1.0, &sine, &cosine);
        even += radius * cosine;
        odd += radius * sine;
    }
    even *= 0.5;
    odd *= 0.5;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        out[2 * lane] = even[lane];
        out[2 * lane + 1] = odd[lane];
    }
}

// Numbers of at least `groups` groups from `block` on, in the order of their blocks; Vector is as many blocks at once.
template <class Vector>
DPDT_INLINE void fill_with(const NoiseKey& key, const NoiseNonce& nonce, std::uint32_t block, double* out,
                           std::size_t groups) {
    constexpr std::size_t parts = sizeof(Vector) / sizeof(Words);
    for (std::size_t g = 0; g < groups; g += parts) {
        Vector wide[16] = {};
        chacha(key, nonce, block + static_cast<std::uint32_t>(g * lanes), wide);
        for (std::size_t part = 0; part < parts; ++part) {
            Words words[16] = {};
            for (int w = 0; w < 16; ++w) {
                std::memcpy(&words[w], reinterpret_cast<const char*>(&wide[w]) + part * sizeof(Words), sizeof(Words));
            }
            normal_numbers(words, out + (g + part) * group);
        }
    }
}

using Fill = void (*)(const NoiseKey&, const NoiseNonce&, std::uint32_t, double*, std::size_t);

void fill_plain(const NoiseKey& key, const NoiseNonce& nonce, std::uint32_t block, double* out, std::size_t groups) {
    fill_with<Words>(key, nonce, block, out, groups);
}

#ifdef DPDT_VECTORS  // the same loop for each kind of vectors, taken where the machine has them
__attribute__((target("avx2"))) void fill_avx2(const NoiseKey& key, const NoiseNonce& nonce, std::uint32_t block,
                                               double* out, std::size_t groups) {
    fill_with<Words>(key, nonce, block, out, groups);
}

__attribute__((target("arch=x86-64-v4"))) void fill_avx512(const NoiseKey& key, const NoiseNonce& nonce,
                                                           std::uint32_t block, double* out, std::size_t groups) {
    fill_with<WideWords>(key, nonce, block, out, groups);
}
#endif

// Fills whole groups from a block on, with room for one group more; the last is the fastest.
std::vector<std::pair<std::string, Fill>> ways_to_fill() {
    std::vector<std::pair<std::string, Fill>> ways{{"plain", fill_plain}};
#ifdef DPDT_VECTORS
    if (__builtin_cpu_supports("avx2")) ways.emplace_back("avx2", fill_avx2);
    if (__builtin_cpu_supports("x86-64-v4")) ways.emplace_back("avx512", fill_avx512);
#endif
    return ways;
}

Fill way_of(const std::string& name) {
    static const auto ways = ways_to_fill();
    if (name.empty()) return ways.back().second;
    for (const auto& [known, fill] : ways) {
        if (known == name) return fill;
    }
    throw std::invalid_argument("vectors: this processor has no " + name);
}

// Calls use(first, numbers, count) for pieces of [0, count), on several threads.
template <class Use>
void in_pieces(Fill fill, const NoiseKey& key, const NoiseNonce& nonce, std::size_t count, std::size_t num_threads,
               const Use& use) {
    constexpr std::size_t piece = groups_per_task * group;
    const auto task = [&](std::size_t number) {
        const std::size_t first = number * piece;
        const std::size_t length = std::min(piece, count - first);
        thread_local std::array<double, piece> numbers;  // an even number of groups
        fill(key, nonce, static_cast<std::uint32_t>(first / 2), numbers.data(), (length + group - 1) / group);
        use(first, numbers.data(), length);
    };
    share_out((count + piece - 1) / piece, num_threads, task);
}

}  // namespace

std::vector<std::string> noise_vectors() {
    std::vector<std::string> names;
    for (const auto& [name, fill] : ways_to_fill()) names.push_back(name);
    return names;
}

void fill_normal(const NoiseKey& key, const NoiseNonce& nonce, double* out, std::size_t count, std::size_t num_threads,
                 const std::string& vectors) {
    in_pieces(way_of(vectors), key, nonce, count, num_threads,
              [&](std::size_t first, const double* numbers, std::size_t length) {
                  std::memcpy(out + first, numbers, length * sizeof(double));
              });
}

void add_normal(const NoiseKey& key, const NoiseNonce& nonce, float* values, std::size_t count, double scale,
                double divisor, std::size_t num_threads) {
    in_pieces(way_of(""), key, nonce, count, num_threads,
              [&](std::size_t first, const double* numbers, std::size_t length) {
                  for (std::size_t i = 0; i < length; ++i) {
                      const double sum = static_cast<double>(values[first + i]) + scale * numbers[i];
                      values[first + i] = static_cast<float>(sum / divisor);
                  }
              });
}

}  // namespace dpdt

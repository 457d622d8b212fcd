// Normal numbers from a ChaCha20 keystream (RFC 8439), on several threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dpdt {

using NoiseKey = std::array<std::uint32_t, 8>;    // little-endian words of the key
using NoiseNonce = std::array<std::uint32_t, 3>;  // of the nonce

// Writes `count` standard normal numbers. Each is half the sum of four independent ones, which are Box and Muller's
// transforms of pairs of uniform numbers with 52 bits (they reach 8.5 standard deviations). Numbers 2i and 2i + 1 come
// from block i of the keystream, whose counter starts at 0: no two blocks share a bit.
//
// The numbers do not depend on the processor or on num_threads: nothing but additions, multiplications, divisions and
// square roots of IEEE 754, in one order. REQUIRES: count <= 2^32. `vectors`: one of noise_vectors(), for tests of just
// that; empty: the fastest.
void fill_normal(const NoiseKey& key, const NoiseNonce& nonce, double* out, std::size_t count, std::size_t num_threads,
                 const std::string& vectors = "");

// Names of the vector instruction sets that this processor has; each has its own machine code.
std::vector<std::string> noise_vectors();

// The same numbers n, added to a sum: values[i] = (values[i] + scale * n[i]) / divisor, in double precision and
// rounded once.
void add_normal(const NoiseKey& key, const NoiseNonce& nonce, float* values, std::size_t count, double scale,
                double divisor, std::size_t num_threads);

}  // namespace dpdt

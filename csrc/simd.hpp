// Loops that gain from wider vectors are compiled twice, and the machine picks: the bytes are the same, because they
// are integer sums or independent lanes without fused multiply-add.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define DPDT_VECTORS  // functions may be compiled for other vectors than the rest
#define DPDT_WIDE __attribute__((target_clones("avx2", "default")))
// Sums in double precision, where a vector of eight is one register.
#define DPDT_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define DPDT_WIDE
#define DPDT_WIDEST
#endif

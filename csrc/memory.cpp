#include "memory.hpp"

#include <cstdlib>  // defines __GLIBC__ where the library is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dpdt {

bool keep_memory() {
#ifdef __GLIBC__
    constexpr int never = -1;
    constexpr int extra = 64 << 20;  // taken from the system at once
    return ::mallopt(M_MMAP_MAX, 0) == 1 && ::mallopt(M_TRIM_THRESHOLD, never) == 1 && ::mallopt(M_TOP_PAD, extra) == 1;
#else
    return false;
#endif
}

}  // namespace dpdt

// How this process's memory allocator behaves.
#pragma once

namespace dpdt {

// Keeps freed memory for the next allocation instead of giving it back to the system, for processes that allocate the
// same large blocks again and again: a training step then has no page faults. Memory for glibc's allocator alone.
// Returns whether it took effect (glibc).
bool keep_memory();

}  // namespace dpdt

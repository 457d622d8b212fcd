// Doing many independent things on native threads.
#pragma once

#include <cstddef>
#include <functional>

namespace dpdt {

// Calls task(0) … task(count - 1), each once, on `num_threads` threads (at most `count`, at least 1). The calling
// thread only waits: it calls poll() every 50 ms and once at the end.
//
// The first exception out of a task, or out of poll, stops everything: no task is begun after it, those running are
// awaited, and it is rethrown here.
void run_parallel(std::size_t count, std::size_t num_threads, const std::function<void(std::size_t)>& task,
                  const std::function<void()>& poll);

// The same for short tasks, the calling thread among the `num_threads`: on the threads of the OpenMP runtime that torch
// has loaded, where there is one. They wait for work in a loop, and threads of our own would compete with that.
void share_out(std::size_t count, std::size_t num_threads, const std::function<void(std::size_t)>& task);

}  // namespace dpdt

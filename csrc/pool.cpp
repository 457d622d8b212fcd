#include "pool.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dpdt {
namespace {

constexpr std::chrono::milliseconds poll_interval{50};

// Tasks that threads take from each other; no exception leaves a thread.
class Shared {
  public:
    Shared(std::size_t count, const std::function<void(std::size_t)>& task) : count_(count), task_(task) {}

    void work() noexcept {
        for (std::size_t index = next_++; index < count_; index = next_++) {
            try {
                task_(index);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (!error_) error_ = std::current_exception();
                stop();
            }
        }
    }

    // No task begins any more.
    void stop() { next_ = count_; }

    // REQUIRES: no thread works any more.
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    const std::size_t count_;
    const std::function<void(std::size_t)>& task_;
    std::atomic<std::size_t> next_{0};
    std::mutex mutex_;
    std::exception_ptr error_;  // guarded by mutex_ while threads work
};

class Pool {
  public:
    Pool(std::size_t count, const std::function<void(std::size_t)>& task) : tasks_(count, task) {}
    ~Pool() { stop_and_join(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    void start(std::size_t num_threads) {
        running_ = num_threads;
        std::size_t started = 0;
        try {
            for (; started < num_threads; ++started) threads_.emplace_back([this] { work(); });
        } catch (...) {  // the system gives no more threads
            if (started == 0) throw;
            const std::lock_guard<std::mutex> lock(mutex_);
            running_ -= num_threads - started;
        }
    }

    void wait(const std::function<void()>& poll) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!finished_.wait_for(lock, poll_interval, [this] { return running_ == 0; })) {
            lock.unlock();
            poll();
            lock.lock();
        }
        lock.unlock();
        stop_and_join();
        tasks_.rethrow();
        poll();
    }

  private:
    void work() {
        tasks_.work();
        const std::lock_guard<std::mutex> lock(mutex_);
        if (--running_ == 0) finished_.notify_all();
    }

    void stop_and_join() {
        tasks_.stop();
        for (std::thread& thread : threads_) {
            if (thread.joinable()) thread.join();
        }
    }

    Shared tasks_;
    std::mutex mutex_;
    std::condition_variable finished_;
    std::size_t running_ = 0;  // guarded by mutex_
    std::vector<std::thread> threads_;
};

// Threads inherit the signal mask: with all signals blocked, they are delivered to the threads that expect them. But
// for what a thread's own instruction causes: blocked, it would end the process unasked.
class BlockSignals {
  public:
    BlockSignals() {
        sigset_t all;
        sigfillset(&all);
        for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&all, own);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockSignals(const BlockSignals&) = delete;
    BlockSignals& operator=(const BlockSignals&) = delete;

  private:
    sigset_t before_;
};

// The process that loaded the core. One that was forked off it has OpenMP's list of threads, but not the threads: it
// would wait for them for ever.
const pid_t loaded_by = ::getpid();

}  // namespace

void run_parallel(std::size_t count, std::size_t num_threads, const std::function<void(std::size_t)>& task,
                  const std::function<void()>& poll) {
    if (count == 0) return;
    Pool pool(count, task);
    {
        const BlockSignals block;
        pool.start(std::max<std::size_t>(1, std::min(num_threads, count)));
    }
    pool.wait(poll);
}

void share_out(std::size_t count, std::size_t num_threads, const std::function<void(std::size_t)>& task) {
    if (num_threads <= 1 || count <= 1) {
        for (std::size_t index = 0; index < count; ++index) task(index);
        return;
    }
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (parallel == nullptr || ::getpid() != loaded_by) return run_parallel(count, num_threads, task, [] {});
    Shared shared(count, task);
    parallel([](void* work) { static_cast<Shared*>(work)->work(); }, &shared,
             static_cast<unsigned>(std::min(num_threads, count)), 0);
    shared.rethrow();
}

}  // namespace dpdt

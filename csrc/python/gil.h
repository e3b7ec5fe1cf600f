// Let other Python threads run while C++ computes.
#pragma once
#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace fastconv {

// As pybind11's gil_scoped_release, but for the end of the interpreter: before 3.14 Python ends a daemon thread that
// asks for the lock then by unwinding its stack, which no destructor survives. Such a thread waits for the process's
// end.
class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ~ReleaseGil() {
#if defined(__GLIBCXX__)
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      for (;;) pause();
    }
#else
    PyEval_RestoreThread(state_);
#endif
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace fastconv

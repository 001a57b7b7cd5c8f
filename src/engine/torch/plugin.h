/* plugin.h: what engine.cpp shares with cpu.cpp and cuda.cpp. Private to this directory.
 *
 * Exceptions are the way to fail inside the plugin and never leave it: every entry of the engine runs its body in
 * guarded(), which turns whatever was thrown into a let_error. */
#ifndef LET_ENGINE_TORCH_PLUGIN_H
#define LET_ENGINE_TORCH_PLUGIN_H

#include <torch/script.h>
#include <torch/version.h>

#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#ifndef _Noreturn
#  define _Noreturn [[noreturn]]
#endif
extern "C" {
#include "gpulet/engine.h"
}

namespace gpulet {

struct Failure : std::exception {
  let_err code;
  std::string text;
  Failure(let_err c, std::string t) : code(c), text(std::move(t)) {}
  const char *what() const noexcept override { return text.c_str(); }
};
std::string format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail(let_err code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The sentence of |x| that says what went wrong: libtorch's texts run over many lines of traceback. */
std::string sentence(const std::exception &x);

/* Runs |body|; what it throws becomes the error, prefixed with "model NAME". |code| is for errors that do not
 * carry a class of their own. */
let_err guarded(const let_model *m, let_err code, let_error *e, const std::function<void()> &body) noexcept;

at::ScalarType scalar_type(const let_model &m, const let_tensor_spec &t); /* throws UNSUPPORTED */
const char *dtype_name(at::ScalarType t);                                 /* "FP32", or libtorch's name */
std::string shape_text(at::IntArrayRef shape);
bool varies(const let_tensor_spec &t);
std::vector<int64_t> shape_of(const let_model &m, const let_tensor_spec &t, uint32_t size);

/* One argument of forward: where its value comes from. */
struct Argument {
  int input = -1;    /* index of the configuration's input, or -1: |value| */
  c10::IValue value; /* the default that the model declares */
};

} // namespace gpulet

/* Global because engine.h names it. */
struct let_engine_model {
  let_model m;
  int cuda = -1;
  torch::jit::Module module;
  std::vector<gpulet::Argument> arguments;
  uint64_t weights = 0;
  std::string note;            /* why the model does not run as configured, or empty */
  std::set<uint32_t> captured; /* GPU: sizes of which a graph was made and checked in this process */

  /* Runs forward on |inputs|, one per input of the configuration, and returns one tensor per output of it. */
  std::vector<at::Tensor> forward(const std::vector<at::Tensor> &inputs) const;
};

namespace gpulet {

/* The common part of an exec; let_exec comes first, so that the C side sees a let_exec. */
struct Exec : let_exec {
  let_engine_model *em;
  let_engine_target target;
  std::vector<at::Tensor> inputs, outputs; /* keep in[].data and out[].data alive */
  std::string note;
  Exec(let_engine_model *model, const let_engine_target *t, uint32_t rows);
  virtual ~Exec() = default;
  void set(let_exec_tensor *x, const let_tensor_spec &spec, const at::Tensor &t) const;
};

/* Throws unless |t| is what the configuration's output |j| declares, for a batch of |rows|. */
void check_output(const let_model &m, unsigned j, const at::Tensor &t, uint32_t rows);
/* What a caller gave to run_dynamic, as tensors that borrow its memory. Throws when it does not fit. */
std::vector<at::Tensor> borrow(const let_engine_model &em, const let_exec_tensor *in, at::Device device,
                               uint32_t *ret_rows);
/* Seeded inputs for one batch: noise for floating point, ones for the rest. */
std::vector<at::Tensor> sample(const let_model &m, uint32_t rows, at::Device device, bool zeros);

/* Matches inputs with arguments of forward; before freezing, which may drop what the schema says. */
void bind(let_engine_model *em);

void cpu_load(let_engine_model *em, const std::string &path);
Exec *cpu_prepare(let_engine_model *em, const let_engine_target *t, uint32_t size);

#ifdef GPULET_TORCH_CUDA
void cuda_start();
void cuda_load(let_engine_model *em, const std::string &path);
void cuda_unload(let_engine_model *em);
Exec *cuda_prepare(let_engine_model *em, const let_engine_target *t, uint32_t size, int instance);
void cuda_enter(const let_engine_target *t);
/* After a failure: did it break the device for good? Clears an error that does not stick. */
bool cuda_is_broken();
#endif

} // namespace gpulet

#endif

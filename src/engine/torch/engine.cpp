/* engine.cpp: the plugin's entry; what does not depend on where a model runs: names to arguments, outputs to the
 * configuration's order, checks, and errors. */
#include "plugin.h"

#include <ATen/Parallel.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <mutex>

namespace gpulet {

static std::string vformat(const char *fmt, va_list ap) {
  char text[1024];
  vsnprintf(text, sizeof text, fmt, ap);
  return text;
}

std::string format(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  std::string s = vformat(fmt, ap);
  va_end(ap);
  return s;
}

void fail(let_err code, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  std::string s = vformat(fmt, ap);
  va_end(ap);
  throw Failure(code, std::move(s));
}

std::string sentence(const std::exception &x) {
  auto *c = dynamic_cast<const c10::Error *>(&x);
  std::string s = c ? c->what_without_backtrace() : x.what();
  /* An exception inside TorchScript ends in "RuntimeError: what happened", after the model's source. */
  size_t at = s.rfind("Error: ");
  if (at != std::string::npos && s.compare(0, 22, "The following operatio") == 0) s.erase(0, at + 7);
  s.erase(0, std::min(s.find_first_not_of(" \t\n"), s.size()));
  size_t end = s.find('\n');
  if (end != std::string::npos) s.erase(end);
  return s.empty() ? "libtorch gave no reason" : s;
}

let_err guarded(const let_model *m, let_err code, let_error *e, const std::function<void()> &body) noexcept {
  std::string text;
  try {
    body();
    return LET_OK;
  } catch (const Failure &x) {
    code = x.code;
    text = x.text;
  } catch (const c10::OutOfMemoryError &x) {
    code = LET_ERR_NOMEM;
    text = sentence(x);
  } catch (const std::bad_alloc &) {
    code = LET_ERR_NOMEM;
    text = "out of host memory";
  } catch (const std::exception &x) {
    text = sentence(x);
    if (text.find("can't allocate memory") != std::string::npos) code = LET_ERR_NOMEM;
  } catch (...) {
    text = "libtorch threw something that is no exception";
  }
#ifdef GPULET_TORCH_CUDA
  if (cuda_is_broken()) code = LET_ERR_DEVICE;
#endif
  return m ? let_fail(e, code, "model %s: %s", m->name, text.c_str()) : let_fail(e, code, "%s", text.c_str());
}

struct TypeRow {
  let_dtype ours;
  at::ScalarType theirs;
};
static const TypeRow types[] = {
    {LET_DTYPE_BOOL, at::kBool},     {LET_DTYPE_UINT8, at::kByte},    {LET_DTYPE_INT8, at::kChar},
    {LET_DTYPE_INT16, at::kShort},   {LET_DTYPE_INT32, at::kInt},     {LET_DTYPE_INT64, at::kLong},
    {LET_DTYPE_FP16, at::kHalf},     {LET_DTYPE_FP32, at::kFloat},    {LET_DTYPE_FP64, at::kDouble},
    {LET_DTYPE_BF16, at::kBFloat16},
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
    {LET_DTYPE_UINT16, at::kUInt16}, {LET_DTYPE_UINT32, at::kUInt32}, {LET_DTYPE_UINT64, at::kUInt64},
#endif
};

at::ScalarType scalar_type(const let_model &m, const let_tensor_spec &t) {
  (void)m;
  for (const TypeRow &r : types)
    if (r.ours == t.dtype) return r.theirs;
  fail(LET_ERR_UNSUPPORTED, "tensor \"%s\" is declared %s, which libtorch %s cannot hold: declare another data_type",
       t.name, let_dtype_pb_name(t.dtype), TORCH_VERSION);
}

const char *dtype_name(at::ScalarType t) {
  for (const TypeRow &r : types)
    if (r.theirs == t) return let_dtype_name(r.ours);
  return c10::toString(t);
}

std::string shape_text(at::IntArrayRef shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); i++) s += (i ? "," : "") + std::to_string(shape[i]);
  return s + "]";
}

bool varies(const let_tensor_spec &t) {
  for (unsigned i = 0; i < t.rank; i++)
    if (t.dims[i] < 0) return true;
  return false;
}

std::vector<int64_t> shape_of(const let_model &m, const let_tensor_spec &t, uint32_t size) {
  size_t first = m.max_batch ? 1 : 0;
  std::vector<int64_t> s(first + t.rank, size);
  for (size_t i = 0; i < t.rank; i++) s[first + i] = t.dims[i];
  return s;
}

/* NAME__3 -> 3, the naming of Triton's PyTorch backend; -1 for other names. */
static int position(const char *name) {
  const char *p = strstr(name, "__");
  const char *next = p;
  while (next) {
    p = next;
    next = strstr(next + 1, "__");
  }
  if (!p || !p[2] || strlen(p + 2) > 4) return -1;
  for (const char *q = p + 2; *q; q++)
    if (*q < '0' || *q > '9') return -1;
  return atoi(p + 2);
}

static std::vector<Argument> match_inputs(const let_model &m, const torch::jit::Module &module) {
  auto method = module.find_method("forward");
  if (!method) fail(LET_ERR_INVALID, "the TorchScript module has no method forward()");
  const c10::FunctionSchema schema = method->function().getSchema();
  std::vector<Argument> args(schema.arguments().size() - 1);
  std::string names;
  for (size_t i = 0; i < args.size(); i++) {
    const c10::Argument &a = schema.arguments()[i + 1];
    names += (i ? ", " : "") + a.name();
    if (a.default_value()) args[i].value = *a.default_value();
  }
  auto by_name = [&](const char *name) {
    for (size_t i = 0; i < args.size(); i++)
      if (schema.arguments()[i + 1].name() == name) return (int)i;
    return -1;
  };
  bool numbered = true, any_named = false;
  for (unsigned k = 0; k < m.n_inputs; k++) {
    numbered = numbered && position(m.input[k].name) >= 0;
    any_named = any_named || by_name(m.input[k].name) >= 0;
  }
  for (unsigned k = 0; k < m.n_inputs; k++) {
    const char *name = m.input[k].name;
    int at = any_named ? by_name(name) : numbered ? position(name) : (int)k;
    if (at < 0 || at >= (int)args.size())
      fail(
          LET_ERR_INVALID,
          "input \"%s\" is no argument of forward(%s): name the inputs after the arguments, or INPUT__0, INPUT__1, ...",
          name, names.c_str());
    if (args[at].input >= 0)
      fail(LET_ERR_INVALID, "inputs \"%s\" and \"%s\" are both argument %d of forward(%s)",
           m.input[args[at].input].name, name, at, names.c_str());
    args[at].input = (int)k;
  }
  for (size_t i = 0; i < args.size(); i++)
    if (args[i].input < 0 && !schema.arguments()[i + 1].default_value())
      fail(LET_ERR_INVALID, "forward(%s) needs \"%s\", which config.pbtxt does not declare as an input", names.c_str(),
           schema.arguments()[i + 1].name().c_str());
  return args;
}

void bind(let_engine_model *em) { em->arguments = match_inputs(em->m, em->module); }

struct Named {
  std::string name; /* empty: known by its position */
  at::Tensor tensor;
};

static void flatten(const c10::IValue &v, const std::string &name, std::vector<Named> &ret) {
  if (v.isTensor()) {
    ret.push_back({name, v.toTensor()});
  } else if (v.isTuple()) {
    auto tuple = v.toTuple();
    auto type = tuple->type();
    for (size_t i = 0; i < tuple->elements().size(); i++) {
      bool has_name = type && type->schema() && i < type->schema()->arguments().size();
      flatten(tuple->elements()[i], has_name ? type->schema()->arguments()[i].name() : "", ret);
    }
  } else if (v.isList()) {
    for (const c10::IValue &x : v.toListRef()) flatten(x, "", ret);
  } else if (v.isGenericDict()) {
    for (const auto &x : v.toGenericDict()) flatten(x.value(), x.key().isString() ? x.key().toStringRef() : "", ret);
  } else if (!v.isNone()) {
    fail(LET_ERR_INVALID,
         "forward() returns %s, which is no tensor: return a tensor, or a tuple, list or dict of tensors",
         v.tagKind().c_str());
  }
}

static std::vector<at::Tensor> match_outputs(const let_model &m, const c10::IValue &v) {
  std::vector<Named> got;
  flatten(v, "", got);
  std::string names;
  bool named = false, numbered = true;
  for (const Named &g : got) names += (names.empty() ? "" : ", ") + g.name;
  for (unsigned j = 0; j < m.n_outputs; j++) {
    numbered = numbered && position(m.output[j].name) >= 0;
    for (const Named &g : got) named = named || g.name == m.output[j].name;
  }
  std::vector<at::Tensor> ret;
  for (unsigned j = 0; j < m.n_outputs; j++) {
    const char *name = m.output[j].name;
    auto at = got.end();
    if (named || v.isGenericDict()) {
      at = std::find_if(got.begin(), got.end(), [&](const Named &g) { return g.name == name; });
      if (at == got.end())
        fail(LET_ERR_INVALID, "output \"%s\" is not among what forward() returns: %s", name, names.c_str());
    } else {
      size_t i = numbered ? (size_t)position(name) : j;
      if (i >= got.size())
        fail(LET_ERR_INVALID, "output \"%s\" would be number %zu, but forward() returns %zu tensor%s", name, i,
             got.size(), got.size() == 1 ? "" : "s");
      at = got.begin() + (ptrdiff_t)i;
    }
    if (!at->tensor.defined()) fail(LET_ERR_INVALID, "output \"%s\" came back undefined", name);
    ret.push_back(at->tensor);
  }
  return ret;
}

void check_output(const let_model &m, unsigned j, const at::Tensor &t, uint32_t rows) {
  const let_tensor_spec &spec = m.output[j];
  if (t.scalar_type() != scalar_type(m, spec))
    fail(LET_ERR_INVALID,
         "output \"%s\" is declared %s, but the model returns %s: change its data_type in config.pbtxt", spec.name,
         let_dtype_name(spec.dtype), dtype_name(t.scalar_type()));
  std::vector<int64_t> want = shape_of(m, spec, rows);
  bool same = (size_t)t.dim() == want.size() && t.dim() <= LET_RANK_MAX;
  for (size_t i = 0; same && i < want.size(); i++) same = want[i] < 0 || want[i] == t.size((int64_t)i);
  if (same) return;
  if (m.max_batch && t.dim() >= 1 && t.size(0) != rows)
    fail(LET_ERR_INVALID,
         "output \"%s\" has shape %s for a batch of %u: its first dimension is not the batch, so this model needs "
         "max_batch_size: 0",
         spec.name, shape_text(t.sizes()).c_str(), rows);
  fail(LET_ERR_INVALID,
       "output \"%s\" is declared %s (batch included), but the model returns %s: correct its dims in config.pbtxt",
       spec.name, shape_text(want).c_str(), shape_text(t.sizes()).c_str());
}

std::vector<at::Tensor> sample(const let_model &m, uint32_t rows, at::Device device, bool zeros) {
  std::vector<at::Tensor> ret;
  for (unsigned k = 0; k < m.n_inputs; k++) {
    const let_tensor_spec &spec = m.input[k];
    auto options = at::TensorOptions()
                       .dtype(scalar_type(m, spec))
                       .device(device); /* there at once: a copy waits for the computation */
    at::Tensor t = zeros ? at::zeros(shape_of(m, spec, rows), options) : at::ones(shape_of(m, spec, rows), options);
    if (!zeros && t.is_floating_point()) {
      /* A fixed pattern in (-1, 1) without the process's random state. */
      at::Tensor n = at::arange(t.numel(), at::TensorOptions().dtype(at::kDouble).device(device));
      t = n.mul_(0.7548776662466927).frac_().mul_(2).sub_(1).to(options).view(t.sizes());
    }
    ret.push_back(t);
  }
  return ret;
}

std::vector<at::Tensor> borrow(const let_engine_model &em, const let_exec_tensor *in, at::Device device,
                               uint32_t *ret_rows) {
  const let_model &m = em.m;
  std::vector<at::Tensor> ret;
  uint32_t rows = 1;
  for (unsigned k = 0; k < m.n_inputs; k++) {
    const let_tensor_spec &spec = m.input[k];
    std::vector<int64_t> want = shape_of(m, spec, 0),
                         got(in[k].shape, in[k].shape + std::min<int>(in[k].rank, LET_RANK_MAX));
    bool same = in[k].dtype == spec.dtype && got.size() == want.size();
    for (size_t i = 0; same && i < want.size(); i++) {
      if (m.max_batch && i == 0) same = got[0] >= 1 && got[0] <= m.max_batch && (k == 0 || got[0] == rows);
      else same = got[i] >= 0 && (want[i] < 0 || want[i] == got[i]);
    }
    if (!same)
      fail(LET_ERR_INVALID, "input \"%s\" is declared %s %s, but was given as %s %s", spec.name,
           let_dtype_name(spec.dtype), shape_text(want).c_str(), let_dtype_name((let_dtype)in[k].dtype),
           shape_text(got).c_str());
    if (m.max_batch) rows = (uint32_t)got[0];
    ret.push_back(at::from_blob(in[k].data, got, at::TensorOptions().dtype(scalar_type(m, spec)).device(device)));
  }
  *ret_rows = rows;
  return ret;
}

Exec::Exec(let_engine_model *model, const let_engine_target *t, uint32_t rows) : let_exec(), em(model), target(*t) {
  const let_model &m = model->m;
  size = rows;
  n_in = m.n_inputs;
  n_out = m.n_outputs;
  impl = this;
  for (unsigned k = 0; k < m.n_inputs; k++) dynamic = dynamic || varies(m.input[k]);
  for (unsigned j = 0; j < m.n_outputs; j++) dynamic = dynamic || varies(m.output[j]);
}

void Exec::set(let_exec_tensor *x, const let_tensor_spec &spec, const at::Tensor &t) const {
  *x = let_exec_tensor();
  x->data = t.data_ptr();
  x->dtype = spec.dtype;
  x->rank = (uint8_t)t.dim();
  for (int64_t i = 0; i < t.dim(); i++) x->shape[i] = t.size(i);
  uint64_t bytes = (uint64_t)t.numel() * t.element_size();
  x->row_bytes = em->m.max_batch && t.dim() ? bytes / std::max<uint64_t>((uint64_t)t.size(0), 1) : bytes;
}

static let_err load(const let_model *m, int cuda, let_engine_model **ret, let_error *e) {
  return guarded(m, LET_ERR_INVALID, e, [&] {
    std::unique_ptr<let_engine_model> em(new let_engine_model);
    em->m = *m;
    em->cuda = cuda;
    for (unsigned k = 0; k < m->n_inputs; k++) scalar_type(*m, m->input[k]);
    for (unsigned j = 0; j < m->n_outputs; j++) scalar_type(*m, m->output[j]);
    std::string path = format("%s/%lld/%s", m->dir, (long long)m->version, m->file);
    struct stat st;
    if (stat(path.c_str(), &st) != 0)
      fail(errno == ENOENT ? LET_ERR_NOT_FOUND : LET_ERR_IO, "%s: %s", path.c_str(), strerror(errno));
    if (!S_ISREG(st.st_mode)) fail(LET_ERR_INVALID, "%s is not a regular file", path.c_str());
    try {
#ifdef GPULET_TORCH_CUDA
      if (cuda >= 0) cuda_load(em.get(), path);
      else cpu_load(em.get(), path);
#else
      if (cuda >= 0)
        fail(LET_ERR_UNSUPPORTED,
             "this libgpulet_torch was built with a libtorch without CUDA (%s): "
             "build the plugin against a CUDA libtorch",
             TORCH_VERSION);
      cpu_load(em.get(), path);
#endif
    } catch (Failure &x) {
      throw;
    } catch (const c10::OutOfMemoryError &) {
      throw;
    } catch (const std::exception &x) {
      fail(LET_ERR_INVALID, "%s: %s", path.c_str(), sentence(x).c_str());
    }
    *ret = em.release();
  });
}

static void unload(let_engine_model *em) {
  if (!em) return;
  (void)guarded(nullptr, LET_ERR_INTERNAL, nullptr, [&] {
#ifdef GPULET_TORCH_CUDA
    if (em->cuda >= 0) cuda_unload(em);
#endif
    delete em;
  });
}

static uint64_t weights_bytes(const let_engine_model *em) { return em->weights; }

static let_err prepare(let_engine_model *em, const let_engine_target *t, uint32_t size, int instance, let_exec **ret,
                       const char **ret_note, let_error *e) {
  return guarded(&em->m, LET_ERR_INVALID, e, [&] {
    uint32_t max = em->m.max_batch ? em->m.max_batch : 1;
    if (size < 1 || size > max)
      fail(LET_ERR_INVALID, "cannot be prepared for batches of %u: max_batch_size allows 1 to %u", size, max);
    if (t->cuda != em->cuda)
      fail(LET_ERR_INVALID, "was loaded for device %d and cannot run on device %d", em->cuda, t->cuda);
    Exec *x;
#ifdef GPULET_TORCH_CUDA
    if (t->cuda >= 0) x = cuda_prepare(em, t, size, instance);
    else
#endif
      x = cpu_prepare(em, t, size);
    (void)instance;
    if (x->note.empty()) x->note = em->note;
    if (ret_note) *ret_note = x->note.empty() ? nullptr : x->note.c_str();
    *ret = x;
  });
}

static void discard(let_exec *x) {
  if (x) (void)guarded(nullptr, LET_ERR_INTERNAL, nullptr, [&] { delete static_cast<Exec *>(x->impl); });
}

static let_err enter(const let_engine_target *t, let_error *e) {
  return guarded(nullptr, LET_ERR_INTERNAL, e, [&] {
#ifdef GPULET_TORCH_CUDA
    if (t->cuda >= 0) {
      cuda_enter(t);
      return;
    }
#endif
    at::set_num_threads(std::max(t->threads, 1)); /* OpenMP keeps it per thread */
  });
}

static void start() {
  /* Nothing may compile or specialise later than in prepare(): no fusion, and the executor that does not profile. */
  torch::jit::setTensorExprFuserEnabled(false);
  torch::jit::getProfilingMode() = false;
  at::set_num_interop_threads(1);
#ifdef GPULET_TORCH_CUDA
  cuda_start();
#endif
}

static const let_engine table = {
    LET_ENGINE_ABI, "torch", "libtorch " TORCH_VERSION, load, unload, weights_bytes, prepare, discard, enter,
};

} // namespace gpulet

std::vector<at::Tensor> let_engine_model::forward(const std::vector<at::Tensor> &inputs) const {
  std::vector<c10::IValue> stack;
  stack.reserve(arguments.size());
  for (const gpulet::Argument &a : arguments)
    stack.push_back(a.input >= 0 ? c10::IValue(inputs[(size_t)a.input]) : a.value);
  return gpulet::match_outputs(m, module.get_method("forward")(std::move(stack)));
}

extern "C" __attribute__((visibility("default"))) const let_engine *gpulet_engine(int abi) {
  if (abi != LET_ENGINE_ABI) return nullptr;
  static std::once_flag once;
  static bool ok = false;
  std::call_once(once,
                 [] { ok = gpulet::guarded(nullptr, LET_ERR_INTERNAL, nullptr, [] { gpulet::start(); }) == LET_OK; });
  return ok ? &gpulet::table : nullptr;
}

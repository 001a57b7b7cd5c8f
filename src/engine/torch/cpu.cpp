/* cpu.cpp: models on host memory. */
#include "plugin.h"

#include <ATen/Parallel.h>

namespace gpulet {

/* Whether two modules answer the same inputs alike. Optimisation folds and reorders arithmetic, so not bit by bit. */
static bool agree(const let_engine_model &plain, const let_engine_model &fast, uint32_t rows) {
  std::vector<at::Tensor> in = sample(plain.m, rows, at::kCPU, false);
  std::vector<at::Tensor> a = plain.forward(in), b = fast.forward(in);
  for (size_t j = 0; j < a.size(); j++) {
    if (a[j].sizes() != b[j].sizes() || a[j].scalar_type() != b[j].scalar_type()) return false;
    at::Tensor x = a[j].to(at::kDouble), y = b[j].to(at::kDouble);
    double scale = x.numel() ? x.abs().max().item<double>() : 0;
    if (!at::allclose(x, y, 1e-5, 1e-5 * scale, true)) return false;
  }
  return true;
}

/* Freezes the module (weights become constants, batch norms fold into convolutions) and lets libtorch choose
 * layouts, as far as the answers stay the same; a model that cannot be checked is only frozen. */
static void optimise(let_engine_model *em) {
  bool fixed = true;
  for (unsigned k = 0; k < em->m.n_inputs; k++) fixed = fixed && !varies(em->m.input[k]);
  let_engine_model fast = *em;
  try {
    fast.module = torch::jit::freeze(em->module);
  } catch (const std::exception &) {
    return; /* some modules cannot be frozen (attributes they write to); they run as they are */
  }
  if (!fixed) {
    em->module = fast.module;
    return;
  }
  uint32_t rows = em->m.max_batch > 1 ? 2 : 1;
  let_engine_model fastest = fast;
  try {
    fastest.module = torch::jit::freeze(em->module); /* optimize_for_inference works in place */
    fastest.module = torch::jit::optimize_for_inference(fastest.module);
    if (agree(*em, fastest, rows)) {
      em->module = fastest.module;
      return;
    }
  } catch (const std::exception &) {
    /* Operators without such a kernel: the frozen module is next. A model that fails by itself does so in prepare(). */
  }
  try {
    if (agree(*em, fast, rows)) em->module = fast.module;
  } catch (const std::exception &) {}
}

void cpu_load(let_engine_model *em, const std::string &path) {
  c10::InferenceMode guard;
  em->module = torch::jit::load(path, at::kCPU);
  em->module.eval();
  for (const at::Tensor &t : em->module.parameters()) em->weights += t.nbytes();
  for (const at::Tensor &t : em->module.buffers()) em->weights += t.nbytes();
  bind(em);
  if (em->m.precision != LET_PRECISION_FP32)
    em->note = "precision is for GPUs: on the CPU the model runs in the precision of its file";
  optimise(em);
}

struct CpuExec : Exec {
  using Exec::Exec;

  /* Runs on |in| and leaves the answers in |outputs|: the same memory each time unless shapes vary. */
  void execute(const std::vector<at::Tensor> &in, uint32_t rows) {
    c10::InferenceMode guard;
    std::vector<at::Tensor> got = em->forward(in);
    for (unsigned j = 0; j < n_out; j++) {
      check_output(em->m, j, got[j], rows);
      if (dynamic) {
        outputs[j] = got[j].contiguous();
        set(&out[j], em->m.output[j], outputs[j]);
      } else {
        outputs[j].copy_(got[j]);
      }
    }
  }

  static let_err run_fixed(let_exec *x, void *, let_error *e) {
    CpuExec *self = static_cast<CpuExec *>(static_cast<Exec *>(x->impl));
    return guarded(&self->em->m, LET_ERR_INVALID, e, [&] { self->execute(self->inputs, self->size); });
  }

  static let_err run_varying(let_exec *x, const let_exec_tensor *in, void *, let_error *e) {
    CpuExec *self = static_cast<CpuExec *>(static_cast<Exec *>(x->impl));
    return guarded(&self->em->m, LET_ERR_INVALID, e, [&] {
      uint32_t rows;
      std::vector<at::Tensor> t = borrow(*self->em, in, at::kCPU, &rows);
      self->execute(t, rows);
    });
  }
};

Exec *cpu_prepare(let_engine_model *em, const let_engine_target *t, uint32_t size) {
  at::set_num_threads(std::max(t->threads, 1));
  c10::InferenceMode guard;
  std::unique_ptr<CpuExec> x(new CpuExec(em, t, size));
  x->outputs.resize(x->n_out);
  if (x->dynamic) {
    x->run_dynamic = CpuExec::run_varying;
    return x.release();
  }
  x->run = CpuExec::run_fixed;
  x->inputs = sample(em->m, size, at::kCPU, true);
  for (unsigned k = 0; k < x->n_in; k++) x->set(&x->in[k], em->m.input[k], x->inputs[k]);
  std::vector<at::Tensor> first = em->forward(x->inputs);
  for (unsigned j = 0; j < x->n_out; j++) {
    check_output(em->m, j, first[j], size);
    x->outputs[j] = at::empty(first[j].sizes(), first[j].options().memory_format(at::MemoryFormat::Contiguous));
    x->set(&x->out[j], em->m.output[j], x->outputs[j]);
  }
  x->execute(x->inputs, size);
  for (const auto &v : {x->inputs, x->outputs})
    for (const at::Tensor &b : v) x->memory_bytes += b.nbytes();
  return x.release();
}

} // namespace gpulet

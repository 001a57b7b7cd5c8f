/* cuda.cpp: models on a GPU.
 *
 * prepare() captures forward() once into a CUDA graph; from then on C launches the graph on the gpu-let's stream and
 * libtorch is not on the path. What makes that safe while other gpu-lets (and this one) are serving:
 *
 * - The primary context is always current. The gpu-let's share comes with its stream: the graph is captured on a
 *   stream of the same green context, and its kernels keep that context wherever the graph is launched. It is a
 *   stream of our own, because the gpu-let's may be busy in another thread.
 * - Two green contexts on the same SMs do not share them kernel by kernel: one waits until the other's kernel is done,
 *   and stream priorities change nothing about that (test/gpu/device_check.c, overlap_sms). So a graph is warmed up and
 *   checked once per (model, size) and process; making it again for other SMs runs nothing.
 * - Warm-up runs on one stream per device with a workspace of its own. Nothing that runs outside a captured graph
 *   ever touches a pool or a workspace that graphs use.
 * - Graphs of one gpu-let run one after another, so they share one private memory pool and one library workspace;
 *   other gpu-lets have others. Both live as long as any exec of the gpu-let (struct Place).
 * - cuBLAS gets its workspace from a table of libtorch's by (handle, stream). Left alone, libtorch allocates those
 *   itself and frees them while graphs still point to them; so we put ours there before every capture.
 * - Capture is thread-local: other threads may allocate, copy and launch meanwhile.
 * - Instantiating a graph holds a lock of the driver's that every launch and copy needs, for as long as it takes: 6 ms
 *   for DenseNet-161 on an H200, and gpu-lets that answer within 5 ms were late. So a model is captured in pieces of
 *   PIECE kernels, one graph each (struct Pieces).
 *
 * The program that opens the plugin must itself link the shared libstdc++ (gpulet does: CLP needs it). cuDNN's parts,
 * which cuDNN opens later, call std::call_once through it; with libstdc++ only in the plugin's own scope that was
 * seen to jump to address 0. */
#include "plugin.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/record_function.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda.h>
#include <dlfcn.h>
#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <tuple>

namespace gpulet {

namespace allocator = c10::cuda::CUDACachingAllocator;

static void must(cudaError_t r, const char *what) {
  if (r == cudaSuccess) return;
  (void)cudaGetLastError();
  if (r == cudaErrorMemoryAllocation) fail(LET_ERR_NOMEM, "%s: %s", what, cudaGetErrorString(r));
  fail(LET_ERR_GPULET, "%s: %s", what, cudaGetErrorString(r));
}

/* What one device needs once. Made by the control thread in cuda_load and never taken down. */
struct Device {
  cudaStream_t warm = nullptr; /* loading and warm-up; low priority */
  at::Tensor workspace;        /* of |warm| */
};

/* What the graphs of one gpu-let share. */
struct Place {
  int device = -1;
  c10::MempoolId_t pool{0, 0};
  cudaStream_t capture = nullptr; /* of the gpu-let's green context */
  void *workspace = nullptr;
  at::Tensor own_workspace; /* when the gpu-let brought none, or too small a one */
  ~Place() {
    if (capture) (void)cudaStreamDestroy(capture);
  }
};

static std::mutex lock; /* of both tables; entries are only added by the control thread */
static std::map<int, Device> devices;
static std::map<std::tuple<int, uint32_t, void *>, std::weak_ptr<Place>> places;

static size_t workspace_need() {
  return std::max(at::cuda::getChosenWorkspaceSize(), at::cuda::getCUDABlasLtWorkspaceSize());
}

/* libtorch's table has been a plain map and a map with a mutex. */
template <class T>
static auto put(T &table, const std::tuple<void *, void *> &key, at::DataPtr p, int) -> decltype(table.mutex, void()) {
  std::unique_lock<std::shared_mutex> guard(table.mutex);
  table.map[key] = std::move(p);
}
template <class T> static void put(T &table, const std::tuple<void *, void *> &key, at::DataPtr p, long) {
  table[key] = std::move(p);
}

/* From now on cuBLAS calls of this thread on |stream| use |workspace|, which must hold workspace_need() bytes. */
static void use_workspace(int device, cudaStream_t stream, void *workspace) {
  at::Device where(at::kCUDA, (c10::DeviceIndex)device);
  /* Handles belong to a thread and are made under the device's primary context, which outlives every gpu-let. */
  void *blas = at::cuda::getCurrentCUDABlasHandle(), *lt = at::cuda::getCurrentCUDABlasLtHandle();
  put(at::cuda::cublas_handle_stream_to_workspace(), {blas, stream}, at::DataPtr(workspace, where), 0);
  put(at::cuda::cublaslt_handle_stream_to_workspace(), {lt, stream}, at::DataPtr(workspace, where), 0);
}

static c10::cuda::CUDAStream external(cudaStream_t s, int device) {
  return c10::cuda::getStreamFromExternal(s, (c10::DeviceIndex)device);
}

void cuda_start() {
  at::globalContext().setBenchmarkCuDNN(false); /* its trial runs fail on green contexts */
  /* fp32 is fp32: libtorch would let convolutions round their factors to 10 bits (TF32), and then a row's answer
   * depends on which kernel the batch that it came in happens to get. For speed, configure fp16 or bf16. */
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
}

static Device &device_of(int ordinal) {
  std::lock_guard<std::mutex> guard(lock);
  Device &d = devices[ordinal];
  if (d.warm) return d;
  int least, greatest;
  must(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t s;
  must(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, least), "cudaStreamCreateWithPriority");
  c10::cuda::CUDAStreamGuard on(external(s, ordinal));
  /* Asking for the sizes reads the device's properties, so a device must be current. */
  d.workspace = at::empty({(int64_t)workspace_need() + 256},
                          at::TensorOptions().dtype(at::kByte).device(at::kCUDA, (c10::DeviceIndex)ordinal));
  use_workspace(ordinal, s, d.workspace.data_ptr());
  d.warm = s;
  return d;
}

bool cuda_is_broken() {
  std::lock_guard<std::mutex> guard(lock);
  if (devices.empty()) return false;
  (void)cudaGetLastError(); /* an error that sticks comes back below */
  for (auto &d : devices) {
    if (!d.second.warm) continue;
    cudaError_t r = cudaStreamQuery(d.second.warm);
    if (r != cudaSuccess && r != cudaErrorNotReady) return true;
  }
  return false;
}

static uint64_t allocated(int device) {
  return (uint64_t)allocator::getDeviceStats((c10::DeviceIndex)device)
      .allocated_bytes[(size_t)c10::CachingAllocator::StatType::AGGREGATE]
      .current;
}
static uint64_t reserved(int device) {
  return (uint64_t)allocator::getDeviceStats((c10::DeviceIndex)device)
      .reserved_bytes[(size_t)c10::CachingAllocator::StatType::AGGREGATE]
      .current;
}

static at::ScalarType compute_type(const let_model &m) {
  return m.precision == LET_PRECISION_FP16 ? at::kHalf : m.precision == LET_PRECISION_BF16 ? at::kBFloat16 : at::kFloat;
}

/* Converts floating-point weights only: Module::to would turn indices into fractions too. */
static void convert(let_engine_model *em) {
  at::ScalarType type = compute_type(em->m);
  auto one = [&](at::Tensor t) {
    at::Tensor to = t;
    if (em->m.precision != LET_PRECISION_FP32 && t.is_floating_point()) to = to.to(type);
    if (em->m.channels_last && t.dim() == 4) to = to.contiguous(at::MemoryFormat::ChannelsLast);
    if (!to.is_same(t)) t.set_data(to);
  };
  for (const at::Tensor &t : em->module.parameters()) one(t);
  for (const at::Tensor &t : em->module.buffers()) one(t);
}

/* A traced model says for each convolution whether it may round its factors to TF32, and that is what the process that
 * traced it happened to allow. cuda_start() tells why it may not. */
static void forbid_tf32(torch::jit::Block *b) {
  static const auto convolution = c10::Symbol::fromQualString("aten::_convolution");
  enum { ALLOW_TF32 = 12 };
  for (torch::jit::Node *n : b->nodes()) {
    for (torch::jit::Block *inner : n->blocks()) forbid_tf32(inner);
    if (n->kind() != convolution || n->inputs().size() <= ALLOW_TF32) continue;
    torch::jit::WithInsertPoint before(n);
    n->replaceInput(ALLOW_TF32, n->owningGraph()->insertConstant(false));
  }
}

void cuda_load(let_engine_model *em, const std::string &path) {
  int count = 0;
  cudaError_t r = cudaGetDeviceCount(&count);
  if (r != cudaSuccess || em->cuda >= count) {
    (void)cudaGetLastError();
    fail(LET_ERR_NOT_FOUND, "there is no CUDA device %d: %s", em->cuda,
         r != cudaSuccess ? cudaGetErrorString(r) : format("this machine has %d", count).c_str());
  }
  c10::cuda::CUDAGuard guard((c10::DeviceIndex)em->cuda);
  at::globalContext().lazyInitDevice(at::kCUDA);
  Device &d = device_of(em->cuda);
  c10::cuda::CUDAStreamGuard on(external(d.warm, em->cuda));
  at::NoGradGuard no_grad;
  uint64_t before = allocated(em->cuda);
  em->module = torch::jit::load(path, at::Device(at::kCUDA, (c10::DeviceIndex)em->cuda));
  em->module.eval();
  convert(em);
  if (em->m.precision == LET_PRECISION_FP32)
    for (const torch::jit::Module &part : em->module.modules())
      for (const torch::jit::Method &method : part.get_methods()) forbid_tf32(method.graph()->block());
  bind(em);
  try {
    /* Folding batch norms into half-precision convolutions rounds twice: answers moved by up to 4 % of their scale
     * from PyTorch's (ResNet-50, SSD), so it is for fp32 only. */
    em->module = torch::jit::freeze(em->module, {}, em->m.precision == LET_PRECISION_FP32);
  } catch (const c10::OutOfMemoryError &) {
    throw;
  } catch (const std::exception &) {
    /* Some modules cannot be frozen (attributes they write to); they run as they are. */
  }
  must(cudaStreamSynchronize(d.warm), "loading weights");
  uint64_t after = allocated(em->cuda);
  em->weights = after > before ? after - before : 0;
}

void cuda_unload(let_engine_model *em) {
  c10::cuda::CUDAGuard guard((c10::DeviceIndex)em->cuda);
  em->module = torch::jit::Module();
  allocator::emptyCache(); /* the memory goes back to the device, where the next generation can use it */
}

/* A stream of the same green context (or of the primary one) as |of|. */
static cudaStream_t sibling(cudaStream_t of) {
  static const auto get =
      (decltype(&cuStreamGetGreenCtx))dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuStreamGetGreenCtx");
  static const auto make =
      (decltype(&cuGreenCtxStreamCreate))dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuGreenCtxStreamCreate");
  CUgreenCtx green = nullptr;
  CUstream s = nullptr;
  if (get && make && get((CUstream)of, &green) == CUDA_SUCCESS && green) {
    CUresult r = make(&s, green, CU_STREAM_NON_BLOCKING, 0);
    if (r != CUDA_SUCCESS) fail(LET_ERR_GPULET, "cuGreenCtxStreamCreate: error %d", (int)r);
    return s;
  }
  must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return s;
}

static std::shared_ptr<Place> place_of(const let_engine_target *t) {
  auto key = std::make_tuple(t->cuda, t->gpulet, t->stream);
  {
    std::lock_guard<std::mutex> guard(lock);
    for (auto i = places.begin(); i != places.end();) i = i->second.expired() ? places.erase(i) : std::next(i);
    if (auto found = places[key].lock()) return found;
  }
  auto p = std::make_shared<Place>();
  p->device = t->cuda;
  p->pool = at::cuda::graph_pool_handle();
  p->capture = sibling((cudaStream_t)t->stream);
  p->workspace = t->workspace;
  if (!t->workspace || t->workspace_bytes < workspace_need()) {
    p->own_workspace = at::empty({(int64_t)workspace_need() + 256},
                                 at::TensorOptions().dtype(at::kByte).device(at::kCUDA, (c10::DeviceIndex)t->cuda));
    p->workspace = p->own_workspace.data_ptr();
  }
  std::lock_guard<std::mutex> guard(lock);
  places[key] = p;
  return p;
}

/* The capture of one stream into a graph per PIECE nodes: cut where an operator of libtorch begins, which is where
 * nothing is half done. */
enum { PIECE = 100 };
struct Pieces {
  cudaStream_t stream;
  bool whole; /* one piece */
  bool capturing = false;
  unsigned operators = 0;
  cudaError_t error = cudaSuccess;
  std::vector<cudaGraph_t> graphs;
  at::CallbackHandle handle = 0;
  static thread_local Pieces *mine;

  Pieces(cudaStream_t s, bool all) : stream(s), whole(all) {
    mine = this;
    if (!whole)
      handle =
          at::addThreadLocalCallback(at::RecordFunctionCallback(operator_begins).scopes({at::RecordScope::FUNCTION}));
    begin();
  }
  ~Pieces() {
    stop();
    for (cudaGraph_t g : graphs) (void)cudaGraphDestroy(g);
  }
  void note(cudaError_t r) {
    if (error == cudaSuccess) error = r;
  }
  void begin() {
    cudaError_t r = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    capturing = r == cudaSuccess;
    note(r);
  }
  void end() {
    cudaGraph_t g = nullptr;
    if (!capturing) return;
    capturing = false;
    note(cudaStreamEndCapture(stream, &g));
    size_t n = 0;
    if (g && cudaGraphGetNodes(g, nullptr, &n) == cudaSuccess && n) graphs.push_back(g);
    else if (g) (void)cudaGraphDestroy(g);
  }
  void stop() {
    end();
    if (handle) at::removeCallback(handle);
    handle = 0;
    mine = nullptr;
  }
  size_t nodes() {
    CUstreamCaptureStatus status;
    CUgraph graph = nullptr;
    size_t n = 0;
    if (info(stream, &status, &graph) == CUDA_SUCCESS && graph)
      (void)cudaGraphGetNodes((cudaGraph_t)graph, nullptr, &n);
    return n;
  }
  static CUresult info(cudaStream_t s, CUstreamCaptureStatus *status, CUgraph *graph) {
    cuuint64_t id;
    const CUgraphNode *nodes;
    size_t n;
    /* The second version of the function: newer headers call it by another name and with one argument more. */
    using version_2 =
        CUresult (*)(CUstream, CUstreamCaptureStatus *, cuuint64_t *, CUgraph *, const CUgraphNode **, size_t *);
    static const auto get = (version_2)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuStreamGetCaptureInfo_v2");
    return get ? get((CUstream)s, status, &id, graph, &nodes, &n) : CUDA_ERROR_NOT_FOUND;
  }
  static std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction &) {
    Pieces *p = mine;
    /* An operator calls others: one in a few is often enough. After a failure, too, what follows is captured: run for
     * real, it would write into memory that other graphs are using. */
    if (!p || !p->capturing || p->error != cudaSuccess || ++p->operators % 4 || p->nodes() < PIECE) return nullptr;
    p->end();
    p->begin();
    return nullptr;
  }
};
thread_local Pieces *Pieces::mine;

struct CudaExec : Exec {
  using Exec::Exec;
  std::shared_ptr<Place> place;
  std::vector<void *> instances; /* cudaGraphExec_t */
  bool holds_pool = false;

  ~CudaExec() override {
    c10::cuda::CUDAGuard guard((c10::DeviceIndex)em->cuda);
    drop();
    outputs.clear(), inputs.clear();
    if (holds_pool) allocator::releasePool((c10::DeviceIndex)em->cuda, place->pool);
  }

  /* forward() with the conversions between what clients send and what the model computes in. */
  std::vector<at::Tensor> compute(const std::vector<at::Tensor> &given, uint32_t rows) const {
    const let_model &m = em->m;
    at::ScalarType type = compute_type(m);
    bool converted = m.precision != LET_PRECISION_FP32;
    std::vector<at::Tensor> in = given;
    for (at::Tensor &t : in) {
      if (converted && t.is_floating_point()) t = t.to(type);
      if (m.channels_last && t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
    }
    std::vector<at::Tensor> got = em->forward(in);
    for (unsigned j = 0; j < n_out; j++) {
      at::Tensor &t = got[j];
      if (!t.is_cuda())
        fail(LET_ERR_UNSUPPORTED, "output \"%s\" is computed on the CPU: the model moves tensors off the GPU",
             m.output[j].name);
      at::ScalarType want = scalar_type(m, m.output[j]);
      if (converted && t.scalar_type() == type && at::isFloatingType(want)) t = t.to(want);
      check_output(m, j, t, rows);
      t = t.contiguous();
      /* An input handed back, or one tensor twice: the caller overwrites inputs while it still reads outputs. */
      bool alias = false;
      for (const at::Tensor &i : given) alias = alias || t.is_alias_of(i);
      if (alias) t = t.clone();
    }
    return got;
  }

  void drop() {
    for (void *i : instances) (void)cudaGraphExecDestroy((cudaGraphExec_t)i);
    instances.clear();
  }
  void launch(cudaStream_t stream) const {
    for (void *i : instances) must(cudaGraphLaunch((cudaGraphExec_t)i, stream), "cudaGraphLaunch");
  }
  void capture(const std::vector<at::Tensor> *expected, bool whole);
  bool try_capture(const std::vector<at::Tensor> *expected);
  bool replays_as(const std::vector<at::Tensor> &expected) const;

  /* Eager: models that cannot be captured, or whose shapes vary. On the gpu-let's own thread. */
  void execute(const std::vector<at::Tensor> &in, uint32_t rows, void *stream) {
    c10::cuda::CUDAStreamGuard on(external((cudaStream_t)stream, em->cuda));
    c10::InferenceMode guard;
    std::vector<at::Tensor> got = compute(in, rows);
    for (unsigned j = 0; j < n_out; j++) {
      if (dynamic) {
        outputs[j] = got[j];
        set(&out[j], em->m.output[j], outputs[j]);
      } else {
        outputs[j].copy_(got[j]);
      }
    }
  }

  static CudaExec *self(let_exec *x) { return static_cast<CudaExec *>(static_cast<Exec *>(x->impl)); }

  static let_err run_fixed(let_exec *x, void *stream, let_error *e) {
    CudaExec *s = self(x);
    return guarded(&s->em->m, LET_ERR_INVALID, e, [&] { s->execute(s->inputs, s->size, stream); });
  }

  static let_err run_graph(let_exec *x, void *stream, let_error *e) {
    CudaExec *s = self(x);
    return guarded(&s->em->m, LET_ERR_GPULET, e, [&] { s->launch((cudaStream_t)stream); });
  }

  static let_err run_varying(let_exec *x, const let_exec_tensor *in, void *stream, let_error *e) {
    CudaExec *s = self(x);
    return guarded(&s->em->m, LET_ERR_INVALID, e, [&] {
      uint32_t rows;
      std::vector<at::Tensor> t = borrow(*s->em, in, at::Device(at::kCUDA, (c10::DeviceIndex)s->em->cuda), &rows);
      s->execute(t, rows, stream);
    });
  }
};

/* Leaves |outputs| and |instances|, or throws and leaves the device as it was. With |expected| the graphs run once and
 * must answer that. */
void CudaExec::capture(const std::vector<at::Tensor> *expected, bool whole) {
  c10::DeviceIndex ordinal = (c10::DeviceIndex)em->cuda;
  c10::cuda::CUDAStreamGuard on(external(place->capture, em->cuda));
  use_workspace(em->cuda, place->capture, place->workspace);
  cudaStream_t stream = place->capture;
  std::exception_ptr thrown;
  uint64_t before = reserved(em->cuda);
  allocator::beginAllocateToPool(ordinal, place->pool, [stream](cudaStream_t s) { return s == stream; });
  holds_pool = true;
  Pieces pieces(stream, whole);
  if (pieces.capturing) {
    try {
      outputs = compute(inputs, size);
    } catch (...) {
      thrown = std::current_exception();
    }
  }
  pieces.stop();
  allocator::endAllocateToPool(ordinal, place->pool);
  cudaError_t r = pieces.error;
  for (size_t i = 0; !thrown && r == cudaSuccess && i < pieces.graphs.size(); i++) {
    cudaGraphExec_t instance = nullptr;
    r = cudaGraphInstantiateWithFlags(&instance, pieces.graphs[i], 0);
    if (instance) instances.push_back(instance);
    if (r == cudaSuccess) r = cudaGraphUpload(instance, stream); /* else the first batch would pay for it */
  }
  if (thrown || r != cudaSuccess) {
    (void)cudaGetLastError();
    outputs.clear();
    drop();
    if (thrown) std::rethrow_exception(thrown);
    fail(LET_ERR_UNSUPPORTED, "%s", cudaGetErrorString(r));
  }
  memory_bytes += reserved(em->cuda) - before;
  must(cudaStreamSynchronize(stream), "cudaGraphUpload");
  if (expected && !replays_as(*expected)) {
    drop(), outputs.clear();
    fail(LET_ERR_UNSUPPORTED, "the captured graph gives other answers than the model");
  }
}

/* Launches the new graph once, on its own SMs but at the lowest priority: other gpu-lets may be serving there. Nothing
 * else that uses this pool may run meanwhile: a gpu-let is prepared before it serves. */
bool CudaExec::replays_as(const std::vector<at::Tensor> &expected) const {
  launch(place->capture);
  must(cudaStreamSynchronize(place->capture), "the graph's first run");
  double tolerance = em->m.precision == LET_PRECISION_FP32 ? 1e-3 : 3e-2;
  for (size_t j = 0; j < outputs.size(); j++) {
    at::Tensor a = outputs[j].to(at::kDouble), b = expected[j].to(at::kDouble);
    if (a.sizes() != b.sizes()) return false;
    if (a.numel() == 0) continue;
    double scale = at::nan_to_num(b, 0, 0, 0).abs().max().item<double>();
    if (!at::allclose(a, b, tolerance, tolerance * scale, true)) return false;
  }
  return true;
}

/* False: |note| says why there is no graph. An operator that spreads over several streams cannot be captured in
 * pieces, but as a whole. */
bool CudaExec::try_capture(const std::vector<at::Tensor> *expected) {
  for (bool whole : {false, true}) {
    try {
      capture(expected, whole);
      graphs = instances.data(), n_graphs = (uint32_t)instances.size();
      run = run_graph;
      note.clear();
      return true;
    } catch (const c10::OutOfMemoryError &) {
      throw;
    } catch (const std::exception &why) {
      if (cuda_is_broken()) throw;
      note = "runs without a CUDA graph: " + sentence(why);
      outputs.clear();
      if (holds_pool) allocator::releasePool((c10::DeviceIndex)em->cuda, place->pool);
      holds_pool = false;
    }
  }
  return false;
}

Exec *cuda_prepare(let_engine_model *em, const let_engine_target *t, uint32_t size, int) {
  c10::DeviceIndex ordinal = (c10::DeviceIndex)em->cuda;
  c10::cuda::CUDAGuard guard(ordinal);
  Device &d = device_of(em->cuda);
  c10::cuda::CUDAStreamGuard on(external(d.warm, em->cuda));
  use_workspace(em->cuda, d.warm, d.workspace.data_ptr());
  c10::InferenceMode inference;
  std::unique_ptr<CudaExec> x(new CudaExec(em, t, size));
  x->place = place_of(t);
  x->outputs.resize(x->n_out);
  if (x->dynamic) {
    x->run_dynamic = CudaExec::run_varying;
    x->note = "dimensions vary from request to request: runs without a CUDA graph";
    return x.release();
  }
  bool known = em->captured.count(size) > 0;
  x->inputs = sample(em->m, size, at::Device(at::kCUDA, ordinal), known);
  for (unsigned k = 0; k < x->n_in; k++) {
    x->set(&x->in[k], em->m.input[k], x->inputs[k]);
    x->memory_bytes += x->inputs[k].nbytes();
  }
  /* A size whose graph was made and checked before is only captured again: that runs nothing on the device, where
   * gpu-lets may be serving on the very same SMs. Should it fail, the model runs eagerly: a second capture would have
   * to be checked, and graphs that share its memory may be serving. */
  if (!known || !x->try_capture(nullptr)) {
    /* The first runs choose algorithms, load kernels and compile: none of it may happen in a capture. */
    std::vector<at::Tensor> expected;
    for (int i = 0; i < 3; i++) expected = x->compute(x->inputs, size);
    must(cudaStreamSynchronize(d.warm), "warm-up");
    if (!known && x->try_capture(&expected)) {
      em->captured.insert(size);
    } else {
      for (const at::Tensor &e : expected) x->outputs.push_back(at::empty_like(e));
      x->run = CudaExec::run_fixed;
      for (const at::Tensor &o : x->outputs) x->memory_bytes += o.nbytes();
    }
  }
  for (unsigned j = 0; j < x->n_out; j++) x->set(&x->out[j], em->m.output[j], x->outputs[j]);
  if (!known)
    for (at::Tensor &i : x->inputs) i.zero_();
  must(cudaStreamSynchronize(d.warm), "preparing");
  return x.release();
}

void cuda_enter(const let_engine_target *t) {
  c10::cuda::set_device((c10::DeviceIndex)t->cuda);
  c10::cuda::setCurrentCUDAStream(external((cudaStream_t)t->stream, t->cuda));
  static thread_local at::Tensor own;
  void *workspace = t->workspace;
  if (!workspace || t->workspace_bytes < workspace_need()) {
    own = at::empty({(int64_t)workspace_need() + 256},
                    at::TensorOptions().dtype(at::kByte).device(at::kCUDA, (c10::DeviceIndex)t->cuda));
    workspace = own.data_ptr();
  }
  use_workspace(t->cuda, (cudaStream_t)t->stream, workspace);
}

} // namespace gpulet

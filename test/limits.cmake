# How long a test may take, all in one place: NAME SECONDS "why it needs more than others". A test without a row has
# 60 seconds, one of test/e2e has 300. Limits are for the slowest build (address sanitizer) on a shared machine.
set(let_limits
  plan_optimal_test        300 "some hundred plans from seeds, judged one by one"
  plan_greedy_test         300 "the same for the greedy policies"
  core_core_random_test    300 "thousands of random histories"
  sim_scenes_test          600 "155 scenes with 3 seeds each, by the core and by the reference rules"
  fleet_fleet_random_test  300 "thousands of random histories"
  worker_add_sizes_test    300 "workers that prepare, add sizes, die and hang, under three sanitizers"
  worker_worker_test       300 "workers that prepare, serve, die and hang, under three sanitizers"
  measure_measure_test     300 "measures in real time"
  device_cuda_cuda_test    300 "waits for watchdogs of a device that hangs"
  front_front_test         300 "waits for time-outs of clients that are silent"
  client_load_test         300 "open loop in real time"
  engine_torch_test        300 "loads libtorch"
  engine_torch_models      300 "loads libtorch and runs every sample model"
  e2e_cuda_test            600 "the whole server on the fake driver: three start-ups and every fault"
  e2e_faults_test          600 "kills, hangs and restarts with back-off"
  e2e_goodput_test         600 "three runs of the bench in real time, with servers and plans of their own"
  e2e_serve_test           600 "about thirty servers"
  e2e_models_torch_test    600 "loads libtorch and real models"
)

# let_limit(TEST DEFAULT): gives TEST its row's limit, or DEFAULT.
function(let_limit test default)
  set(seconds ${default})
  list(FIND let_limits ${test} at)
  if(at GREATER_EQUAL 0)
    math(EXPR at "${at} + 1")
    list(GET let_limits ${at} seconds)
  endif()
  set_tests_properties(${test} PROPERTIES TIMEOUT ${seconds})
endfunction()

#include "conf/model_schema.h"

#include "conf/suggest.h"

/* Field names, types and enums as in Triton's model_config.proto. */
#define STR(n) \
  { n, LET_SCHEMA_STRING, false, NULL, LET_SCHEMA_USED }
#define STRS(n) \
  { n, LET_SCHEMA_STRING, true, NULL, LET_SCHEMA_USED }
#define INT(n) \
  { n, LET_SCHEMA_INT, false, NULL, LET_SCHEMA_USED }
#define INTS(n) \
  { n, LET_SCHEMA_INT, true, NULL, LET_SCHEMA_USED }
#define UINT(n) \
  { n, LET_SCHEMA_UINT, false, NULL, LET_SCHEMA_USED }
#define FLOATS(n) \
  { n, LET_SCHEMA_FLOAT, true, NULL, LET_SCHEMA_USED }
#define BOOL(n) \
  { n, LET_SCHEMA_BOOL, false, NULL, LET_SCHEMA_USED }
#define ENUM(n, t) \
  { n, LET_SCHEMA_ENUM, false, t, LET_SCHEMA_USED }
#define MSG(n, t) \
  { n, LET_SCHEMA_MESSAGE, false, t, LET_SCHEMA_USED }
#define MSGS(n, t) \
  { n, LET_SCHEMA_MESSAGE, true, t, LET_SCHEMA_USED }
#define END \
  { NULL, LET_SCHEMA_STRING, false, NULL, LET_SCHEMA_USED }

typedef const let_schema_field message[];
typedef const char *const words[];

static words data_types = {"TYPE_INVALID", "TYPE_BOOL",   "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64",
                           "TYPE_INT8",    "TYPE_INT16",  "TYPE_INT32", "TYPE_INT64",  "TYPE_FP16",   "TYPE_FP32",
                           "TYPE_FP64",    "TYPE_STRING", "TYPE_BF16",  NULL};
static words formats = {"FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW", NULL};
static words batch_inputs = {"BATCH_ELEMENT_COUNT",
                             "BATCH_ACCUMULATED_ELEMENT_COUNT",
                             "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
                             "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
                             "BATCH_ITEM_SHAPE",
                             "BATCH_ITEM_SHAPE_FLATTEN",
                             NULL};
static words batch_outputs = {"BATCH_SCATTER_WITH_INPUT_SHAPE", NULL};
static words group_kinds = {"KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL", NULL};
static words device_kinds = {"KIND_NVDLA", NULL};
static words priorities = {"PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN", NULL};
static words timeout_actions = {"REJECT", "DELAY", NULL};
static words control_kinds = {"CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END",
                              "CONTROL_SEQUENCE_CORRID", NULL};

static message empty = {END};
static message string_map = {STR("key"), STR("value"), END};
static message reshape = {INTS("shape"), END};
static message input = {STR("name"),
                        ENUM("data_type", data_types),
                        ENUM("format", formats),
                        INTS("dims"),
                        MSG("reshape", reshape),
                        BOOL("is_shape_tensor"),
                        BOOL("allow_ragged_batch"),
                        BOOL("optional"),
                        BOOL("is_non_linear_format_io"),
                        END};
static message output = {STR("name"),
                         ENUM("data_type", data_types),
                         INTS("dims"),
                         MSG("reshape", reshape),
                         STR("label_filename"),
                         BOOL("is_shape_tensor"),
                         BOOL("is_non_linear_format_io"),
                         END};
static message batch_input = {ENUM("kind", batch_inputs), STRS("target_name"), ENUM("data_type", data_types),
                              STRS("source_input"), END};
static message batch_output = {STRS("target_name"), ENUM("kind", batch_outputs), STRS("source_input"), END};

static message latest = {UINT("num_versions"), END};
static message specific = {INTS("versions"), END};
static message version_policy = {MSG("latest", latest), MSG("all", empty), MSG("specific", specific), END};

static message graph = {INT("level"), END};
static message shape = {INTS("dim"), END};
static message shape_map = {STR("key"), MSG("value", shape), END};
static message lower_bound = {INT("batch_size"), MSGS("input", shape_map), END};
static message graph_spec = {INT("batch_size"), MSGS("input", shape_map), MSG("graph_lower_bound", lower_bound), END};
static message cuda = {BOOL("graphs"), BOOL("busy_wait_events"), MSGS("graph_spec", graph_spec),
                       BOOL("output_copy_stream"), END};
static message accelerator = {STR("name"), MSGS("parameters", string_map), END};
static message accelerators = {MSGS("gpu_execution_accelerator", accelerator),
                               MSGS("cpu_execution_accelerator", accelerator), END};
static message pinned = {BOOL("enable"), END};
static message optimization = {MSG("graph", graph),
                               ENUM("priority", priorities),
                               MSG("cuda", cuda),
                               MSG("execution_accelerators", accelerators),
                               MSG("input_pinned_memory", pinned),
                               MSG("output_pinned_memory", pinned),
                               UINT("gather_kernel_buffer_threshold"),
                               BOOL("eager_batching"),
                               END};

static message queue_policy = {{"timeout_action", LET_SCHEMA_ENUM, false, timeout_actions, LET_SCHEMA_USED},
                               UINT("default_timeout_microseconds"),
                               BOOL("allow_timeout_override"),
                               UINT("max_queue_size"),
                               END};
static message queue_policy_map = {UINT("key"), MSG("value", queue_policy), END};
static message dynamic_batching = {INTS("preferred_batch_size"),
                                   UINT("max_queue_delay_microseconds"),
                                   BOOL("preserve_ordering"),
                                   UINT("priority_levels"),
                                   UINT("default_priority_level"),
                                   MSG("default_queue_policy", queue_policy),
                                   MSGS("priority_queue_policy", queue_policy_map),
                                   END};

static message control = {
    ENUM("kind", control_kinds),   INTS("int32_false_true"),
    FLOATS("fp32_false_true"),     {"bool_false_true", LET_SCHEMA_BOOL, true, NULL, LET_SCHEMA_USED},
    ENUM("data_type", data_types), END};
static message control_input = {STR("name"), MSGS("control", control), END};
static message initial_state = {
    ENUM("data_type", data_types), INTS("dims"), BOOL("zero_data"), STR("data_file"), STR("name"), END};
static message state = {STR("input_name"),
                        STR("output_name"),
                        ENUM("data_type", data_types),
                        INTS("dims"),
                        MSGS("initial_state", initial_state),
                        BOOL("use_same_buffer_for_input_output"),
                        BOOL("use_growable_memory"),
                        END};
static message direct = {UINT("max_queue_delay_microseconds"),
                         {"minimum_slot_utilization", LET_SCHEMA_FLOAT, false, NULL, LET_SCHEMA_USED},
                         END};
static message oldest = {INT("max_candidate_sequences"), INTS("preferred_batch_size"),
                         UINT("max_queue_delay_microseconds"), BOOL("preserve_ordering"), END};
static message sequence_batching = {MSG("direct", direct),
                                    MSG("oldest", oldest),
                                    UINT("max_sequence_idle_microseconds"),
                                    MSGS("control_input", control_input),
                                    MSGS("state", state),
                                    BOOL("iterative_sequence"),
                                    BOOL("generative_sequence"),
                                    END};
static message step = {STR("model_name"),
                       INT("model_version"),
                       MSGS("input_map", string_map),
                       MSGS("output_map", string_map),
                       STR("model_namespace"),
                       END};
static message ensemble = {MSGS("step", step), END};

static message resource = {STR("name"), BOOL("global"), UINT("count"), END};
static message rate_limiter = {MSGS("resources", resource), UINT("priority"), END};
static message secondary = {ENUM("kind", device_kinds), INT("device_id"), END};
static message instance_group = {STR("name"),        ENUM("kind", group_kinds),
                                 INT("count"),       MSG("rate_limiter", rate_limiter),
                                 INTS("gpus"),       MSGS("secondary_devices", secondary),
                                 STRS("profile"),    BOOL("passive"),
                                 STR("host_policy"), END};

static message parameter = {STR("string_value"), END};
static message parameter_map = {STR("key"), MSG("value", parameter), END};
static message warmup_input = {ENUM("data_type", data_types), INTS("dims"),           BOOL("zero_data"),
                               BOOL("random_data"),           STR("input_data_file"), END};
static message warmup_input_map = {STR("key"), MSG("value", warmup_input), END};
static message warmup = {STR("name"), UINT("batch_size"), MSGS("inputs", warmup_input_map), UINT("count"), END};
static message operations = {STRS("op_library_filename"), END};
static message transaction = {BOOL("decoupled"), END};
static message agent = {STR("name"), MSGS("parameters", string_map), END};
static message agents = {MSGS("agents", agent), END};
static message response_cache = {BOOL("enable"), END};
static message metric_id = {STR("family"), END};
static message histogram = {FLOATS("buckets"), END};
static message metric_control = {MSG("metric_identifier", metric_id), MSG("histogram_options", histogram), END};
static message metrics = {MSGS("metric_control", metric_control), END};

#define IGNORED(n, many, t) \
  { n, LET_SCHEMA_MESSAGE, many, t, LET_SCHEMA_IGNORED }
#define REFUSED(n, many, t) \
  { n, LET_SCHEMA_MESSAGE, many, t, LET_SCHEMA_REFUSED }
const let_schema_field let_schema_model[] = {STR("name"),
                                             STR("platform"),
                                             STR("backend"),
                                             {"runtime", LET_SCHEMA_STRING, false, NULL, LET_SCHEMA_IGNORED},
                                             MSG("version_policy", version_policy),
                                             INT("max_batch_size"),
                                             MSGS("input", input),
                                             MSGS("output", output),
                                             REFUSED("batch_input", true, batch_input),
                                             REFUSED("batch_output", true, batch_output),
                                             IGNORED("optimization", false, optimization),
                                             MSG("dynamic_batching", dynamic_batching),
                                             REFUSED("sequence_batching", false, sequence_batching),
                                             REFUSED("ensemble_scheduling", false, ensemble),
                                             IGNORED("instance_group", true, instance_group),
                                             STR("default_model_filename"),
                                             IGNORED("cc_model_filenames", true, string_map),
                                             IGNORED("metric_tags", true, string_map),
                                             MSGS("parameters", parameter_map),
                                             IGNORED("model_warmup", true, warmup),
                                             REFUSED("model_operations", false, operations),
                                             MSG("model_transaction_policy", transaction),
                                             IGNORED("model_repository_agents", false, agents),
                                             IGNORED("response_cache", false, response_cache),
                                             IGNORED("model_metrics", false, metrics),
                                             END};

static const char *kind_text(let_schema_kind k) {
  static const char *const text[] = {"a string in quotes", "a whole number", "a whole number",   "a number",
                                     "true or false",      "an enum value",  "a message { ... }"};
  return text[k];
}

static let_err check_enum(const let_pb_field *f, const char *const *values, const char *file, let_error *e) {
  let_suggest s = {.word = f->text};
  if (f->kind != LET_PB_WORD)
    return let_pb_fail(file, f, e, "must be an enum value such as %s, without quotes", values[0]);
  for (; *values; values++) {
    if (let_str_is(f->text, *values)) return LET_OK;
    let_suggest_offer(&s, *values);
  }
  char hint[LET_SUGGEST_TEXT];
  return let_pb_fail(file, f, e, "unknown value '" LET_STR_FMT "'%s", LET_STR_ARG(f->text),
                     let_suggest_text(&s, "", hint));
}

static let_err check_value(const let_pb_field *f, const let_schema_field *s, const char *file, let_error *e) {
  int64_t i;
  double d;
  bool b;
  switch (s->kind) {
  case LET_SCHEMA_STRING:
    return f->kind == LET_PB_STRING ? LET_OK : let_pb_fail(file, f, e, "must be %s", kind_text(s->kind));
  case LET_SCHEMA_INT: return let_pb_i64(f, file, INT64_MIN, INT64_MAX, &i, e);
  case LET_SCHEMA_UINT: return let_pb_i64(f, file, 0, INT64_MAX, &i, e);
  case LET_SCHEMA_FLOAT: return let_pb_f64(f, file, &d, e);
  case LET_SCHEMA_BOOL: return let_pb_bool(f, file, &b, e);
  case LET_SCHEMA_ENUM: return check_enum(f, s->type, file, e);
  case LET_SCHEMA_MESSAGE:
    if (f->kind != LET_PB_MESSAGE) return let_pb_fail(file, f, e, "must be %s", kind_text(s->kind));
    return let_schema_check(f->child, s->type, s->name, file, e);
  }
  return LET_OK;
}

/* Depth is bounded by the schema, which has no cycle. */
let_err let_schema_check(const let_pb_field *first, const let_schema_field *schema, const char *where, const char *file,
                         let_error *e) {
  for (const let_pb_field *f = first; f; f = f->next) {
    const let_schema_field *s = schema;
    let_suggest near = {.word = f->name};
    for (; s->name && !let_str_is(f->name, s->name); s++) let_suggest_offer(&near, s->name);
    char hint[LET_SUGGEST_TEXT];
    if (!s->name)
      return let_fail(e, LET_ERR_INVALID, "%s:%u:%u: unknown field '" LET_STR_FMT "' in %s%s", file, f->line, f->column,
                      LET_STR_ARG(f->name), where, let_suggest_text(&near, "", hint));
    const let_pb_field *again = s->repeated ? NULL : let_pb_find(f->next, s->name);
    if (again) return let_pb_fail(file, again, e, "is given twice (first on line %u)", f->line);
    let_err r = check_value(f, s, file, e);
    if (r) return r;
  }
  return LET_OK;
}

#include "engine/open.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PLUGIN "libgpulet_torch.so"

/* The version rule of gpulet/engine.h: a change of one of these numbers raises LET_ENGINE_ABI with it. */
_Static_assert(LET_ENGINE_ABI == 3 && sizeof(let_engine_target) == 48 && sizeof(let_exec_tensor) == 88 &&
                   sizeof(let_exec) == 2888 && sizeof(let_engine) == 72,
               "the plugin interface has changed: raise LET_ENGINE_ABI");
_Static_assert(LET_ENGINE_ABI == 3 && sizeof(let_model) == 11728 && sizeof(let_error) == 516 && LET_ERR_COUNT == 20,
               "what plugins see of model/ and base/ has changed: raise LET_ENGINE_ABI");

static let_err try_plugin(const char *path, const let_engine **ret, let_error *e) {
  /* The plugin is never unloaded: libtorch keeps threads and registers exit handlers. */
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) return let_fail(e, LET_ERR_IO, "%s", dlerror());
  let_engine_entry entry;
  void *symbol = dlsym(lib, LET_ENGINE_ENTRY);
  memcpy(&entry, &symbol, sizeof entry);
  const let_engine *engine = entry ? entry(LET_ENGINE_ABI) : NULL;
  if (!engine || engine->abi != LET_ENGINE_ABI)
    return let_fail(
        e, LET_ERR_INVALID,
        "%s is a plugin of another version of gpulet (this one speaks interface %d): install the two together", path,
        LET_ENGINE_ABI);
  *ret = engine;
  return LET_OK;
}

let_err let_engine_open(const char *backend, const char *plugin_dir, const let_engine **ret, let_error *e) {
  if (strcmp(backend, "null") == 0) {
    *ret = let_engine_null();
    return LET_OK;
  }
  if (strcmp(backend, "pytorch") != 0)
    return let_fail(e, LET_ERR_UNSUPPORTED, "backend '%s' is not supported: write \"pytorch\" or \"null\"", backend);
  char self[400], path[4][512];
  const char *tried[4];
  int n = 0;
  ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
  self[len > 0 ? len : 0] = 0;
  char *slash = strrchr(self, '/');
  if (slash) *slash = 0;
  if (plugin_dir && *plugin_dir) snprintf(path[n++], sizeof *path, "%s/" PLUGIN, plugin_dir);
  if (slash)
    for (int i = 0; i < 3; i++)
      snprintf(path[n++], sizeof *path, "%s%s/" PLUGIN, self, (const char *[]){"", "/../lib", "/../lib/gpulet"}[i]);
  for (int i = 0; i < n; i++) {
    tried[i] = path[i];
    if (access(path[i], F_OK) == 0) return try_plugin(path[i], ret, e);
  }
  for (int i = n; i < 4; i++) tried[i] = "";
  return let_fail(e, LET_ERR_NOT_FOUND, "backend 'pytorch' needs " PLUGIN "; not found as %s %s %s %s", tried[0],
                  tried[1], tried[2], tried[3]);
}

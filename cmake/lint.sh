#!/bin/sh
# lint.sh: rules of the source that the compiler does not check. Run by ./dev lint from the repository's root.
set -eu
cd "$(dirname "$0")/.."
bad=0
complain() { printf 'lint: %s\n' "$*"; bad=1; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT INT TERM
git ls-files -co --exclude-standard >"$tmp/all" 2>/dev/null || find . -path ./build -prune -o -type f -print | sed 's|^\./||' >"$tmp/all"
grep -E '\.(c|h|cpp|hpp|cu)$' "$tmp/all" | while read -r f; do [ -f "$f" ] && echo "$f"; done >"$tmp/code"
grep -E '\.(c|h|cpp|hpp|cu|cmake|sh|py|yaml)$|CMakeLists\.txt$|^dev$|^\.ci/run$' "$tmp/all" | grep -v -e '^fuzz/corpus/' | while read -r f; do [ -f "$f" ] && echo "$f"; done >"$tmp/text"

# Text: no tabs, no blanks at the end of a line, a line feed at the end of the file.
tab=$(printf '\t')
while read -r f; do
  grep -n "$tab" "$f" | sed "s|^|$f:|; s|\$| (tab)|" | head -3
  grep -nE ' +$' "$f" | sed "s|^|$f:|; s|\$|<- blanks at the end|" | head -3
  [ -s "$f" ] && [ -n "$(tail -c1 "$f")" ] && echo "$f: no line feed at its end"
done <"$tmp/text" >"$tmp/out" || true
[ -s "$tmp/out" ] && { cat "$tmp/out"; bad=1; }

# Sources: includes by module, guards by path, sizes that one can read.
while read -r f; do
  grep -nE '#include +"\.\./' "$f" | sed "s|^|$f:|; s|\$| (include by module: \"dir/file.h\")|"
  n=$(wc -l <"$f")
  [ "$n" -le 800 ] || echo "$f: $n lines, more than 800"
  case $f in
    src/*.h)
      guard=LET_$(printf '%s' "${f#src/}" | tr 'a-z/.-' 'A-Z___')
      short=$(printf '%s' "$guard" | sed 's/_ENGINE_TORCH_/_TORCH_/')
      head -60 "$f" | grep -q '^#ifndef LET_' || echo "$f: no include guard (such as $guard or $short)"
      ;;
  esac
done <"$tmp/code" >"$tmp/out" || true
[ -s "$tmp/out" ] && { cat "$tmp/out"; bad=1; }

# Every header compiles alone, with the include paths of its own module and nothing else.
for dir in debug asan release clang; do
  [ -f "build/$dir/compile_commands.json" ] && db=build/$dir/compile_commands.json && break
done
if [ -n "${db:-}" ]; then
  : >"$tmp/out"
  for module in src/*/; do
    module=${module%/}
    name=${module#src/}
    # The flags of one of the module's own files; a module of headers only is seen by its own path and base and model.
    flags=$(sed -n "s|.*\"command\": \"\([^\"]*\) -c [^\"]*/src/$name/.*|\1|p" "$db" | head -1 | tr ' ' '\n' | grep -A1 -E '^-(I|isystem)' | grep -v '^--$' | tr '\n' ' ')
    [ -n "$flags" ] || continue
    grep "^$module/.*\.h$" "$tmp/code" >"$tmp/headers" || continue
    while read -r h; do
      # cuda.h and libtorch have their own builds; X_inline.h is the second half of X.h.
      case $h in */engine/torch/*|*/device/cuda/*|*_inline.h) continue ;; esac
      # shellcheck disable=SC2086 # a list of flags is meant
      printf '#include "%s"\n' "${h#src/}" | gcc -std=gnu17 -D_GNU_SOURCE -fsyntax-only -Wall -Wextra $flags -x c - >"$tmp/one" 2>&1 || { echo "$h: does not compile alone:"; head -5 "$tmp/one"; } >>"$tmp/out"
    done <"$tmp/headers"
  done
  [ -s "$tmp/out" ] && { cat "$tmp/out"; bad=1; }
else
  complain "no build/*/compile_commands.json: run ./dev build first, to check that every header compiles alone"
fi

# No files of a directory need each other in a circle: over the object files.
if [ -n "${db:-}" ]; then
  ./cmake/circles "${db%/*}" >"$tmp/out" 2>&1 || { cat "$tmp/out"; bad=1; }
fi

if command -v shellcheck >/dev/null 2>&1; then
  grep -E '\.sh$|^dev$|^\.ci/run$' "$tmp/text" | xargs shellcheck -S warning -e SC2155 || bad=1
else
  echo "lint: shellcheck is not installed: shell scripts were parsed only"
  grep -E '\.sh$|^dev$|^\.ci/run$' "$tmp/text" >"$tmp/scripts"
  while read -r f; do
    case $(head -1 "$f") in *bash*) bash -n "$f" || bad=1 ;; *) sh -n "$f" || bad=1 ;; esac
  done <"$tmp/scripts"
fi

[ $bad = 0 ] && echo "lint: $(wc -l <"$tmp/code") sources are clean"
exit $bad

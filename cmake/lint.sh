#!/bin/sh
# lint.sh: what the compiler does not check. `./dev lint` runs it from a checkout; it changes nothing.
#   text      no tabs, no blanks at the end of a line, a line feed at the end of a file, 120 columns
#   words     no path of somebody's machine, no note to self
#   sources   clang-format 14, includes by module, guards, 800 lines at most
#   headers   each compiles alone, with the include paths of its own module and nothing else
#   circles   no two files of a directory need each other (cmake/circles, over the object files)
#   tests     every row of test/limits.cmake names a test
#   shell     shellcheck
# Needs a configured build directory for the flags of headers; `./dev lint` makes one (clang).
set -eu
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT INT TERM
bad=0

# said FILE: what a check wrote, if anything, is a failure.
said() {
  [ -s "$1" ] || return 0
  cat "$1"
  bad=1
}

# Tracked and new files; without git all but what was built.
{ git ls-files -co --exclude-standard 2>/dev/null || find . -path ./build -prune -o -type f -print | sed 's|^\./||'; } |
  sort -u | while read -r f; do [ ! -f "$f" ] || echo "$f"; done >"$tmp/all"
grep -E '\.(c|h|cpp|hpp|cu)$' "$tmp/all" >"$tmp/code"
grep -E '\.sh$|^dev$|^\.ci/run$' "$tmp/all" >"$tmp/scripts"
# Written by people: code and scripts of any kind. Measured files, corpora and fixtures are data.
grep -E '\.(c|h|cpp|hpp|cu|cmake|sh|py|yaml|yml)$|CMakeLists\.txt$|Dockerfile|^dev$|^\.ci/run$' "$tmp/all" |
  grep -v -e '^fuzz/corpus/' -e '^profiles/' -e '^bench/data/' -e '^test/fixtures/.*\.csv$' >"$tmp/text"
grep -v -e '^fuzz/corpus/' -e '^profiles/' -e '^bench/data/' -e '\.pt$' -e '\.csv$' "$tmp/all" >"$tmp/prose"

tab=$(printf '\t')
xargs grep -n "$tab" <"$tmp/text" | sed 's|$| <- tab|' >"$tmp/out" || true
xargs grep -nE ' +$' <"$tmp/text" | sed 's|$| <- blanks at the end|' >>"$tmp/out" || true
while read -r f; do
  [ ! -s "$f" ] || [ -z "$(tail -c1 "$f")" ] || echo "$f: no line feed at its end"
done <"$tmp/text" >>"$tmp/out"
xargs awk 'length($0) > 120 { print FILENAME ":" FNR ": " length($0) " columns, more than 120" }' \
  <"$tmp/text" >>"$tmp/out"
said "$tmp/out"

# A path that exists on one machine only, or a note to self, has no place here. The pattern is written so that this file
# does not match it. mkstemp's six letters are no note.
xargs grep -nE '(^|[^A-Za-z0-9_.}])/(work|root|home)(/|[^A-Za-z0-9_/-]|$)' <"$tmp/prose" >"$tmp/out" || true
xargs grep -nE '\b(TO''DO|FIX''ME|XX''X)\b' <"$tmp/prose" >>"$tmp/out" || true
sed 's|$| <- a path of one machine, or a note to self|' "$tmp/out" >"$tmp/said"
grep -v '^cmake/lint\.sh:' "$tmp/said" >"$tmp/out" || true
said "$tmp/out"

format=
for c in clang-format-14 clang-format; do
  if command -v $c >/dev/null 2>&1 && $c --version | grep -q 'version 14\.'; then format=$c && break; fi
done
if [ -n "$format" ]; then
  xargs "$format" --dry-run -Werror <"$tmp/code" 2>"$tmp/said" || true
  grep -E ': (error|warning):' "$tmp/said" | sed 's|$| <- '"$format"' -i|' >"$tmp/out" || true
else
  echo "clang-format 14 is missing: ./dev lint installs it" >"$tmp/out"
fi
said "$tmp/out"

xargs grep -nE '#include +"\.\./' <"$tmp/code" | sed 's|$| <- include by module: "dir/file.h"|' >"$tmp/out" || true
while read -r f; do
  n=$(wc -l <"$f")
  [ "$n" -le 800 ] || echo "$f: $n lines, more than 800"
  case $f in
    src/*.h) head -60 "$f" | grep -q '^#ifndef LET_' || echo "$f: no include guard (LET_DIR_FILE_H)" ;;
  esac
done <"$tmp/code" >>"$tmp/out"
said "$tmp/out"

# cuda.h and libtorch have their own builds; X_inline.h is the second half of X.h.
for dir in clang debug asan release; do
  [ -f "build/$dir/compile_commands.json" ] && db=build/$dir/compile_commands.json && break
done
: >"$tmp/out"
if [ -n "${db:-}" ]; then
  for module in src/*/; do
    module=${module%/}
    name=${module#src/}
    # The flags of one of the module's own files; a module of headers only is seen by its users.
    flags=$(sed -n "s|.*\"command\": \"\([^\"]*\) -c [^\"]*/src/$name/.*|\1|p" "$db" | head -1 | tr ' ' '\n' |
      grep -A1 -E '^-(I|isystem)' | grep -v '^--$' | tr '\n' ' ')
    [ -n "$flags" ] || continue
    grep "^$module/.*\.h$" "$tmp/code" | grep -vE '/engine/torch/|/device/cuda/|_inline\.h$' >"$tmp/headers" || continue
    while read -r h; do
      # shellcheck disable=SC2086 # a list of flags is meant
      printf '#include "%s"\n' "${h#src/}" |
        gcc -std=gnu17 -D_GNU_SOURCE -fsyntax-only -Wall -Wextra $flags -x c - >"$tmp/one" 2>&1 ||
        { echo "$h: does not compile alone:"; head -5 "$tmp/one"; } >>"$tmp/out"
    done <"$tmp/headers"
  done
else
  echo "no build/*/compile_commands.json: ./dev lint makes one" >"$tmp/out"
fi
said "$tmp/out"

# Over the object files of a directory: see the script itself.
if [ -x cmake/circles ] || [ -f cmake/circles ]; then
  ./cmake/circles "${db%/*}" >"$tmp/out" 2>&1 && : >"$tmp/out"
  said "$tmp/out"
fi

sed -n 's/^  \([a-z_0-9]*\) *[0-9][0-9]* ".*/\1/p' test/limits.cmake >"$tmp/rows"
while read -r row; do
  case $row in
    e2e_*) [ -f "test/e2e/${row#e2e_}.py" ] ;;
    engine_torch_*) [ -d src/engine/torch ] ;;
    *) grep -E '^src/.*_test\.c$' "$tmp/code" | sed 's|^src/||; s|\.c$||; s|/|_|g' | grep -qx "$row" ;;
  esac || echo "test/limits.cmake: no test is called $row"
done <"$tmp/rows" >"$tmp/out"
[ -s "$tmp/rows" ] || echo "test/limits.cmake: no row was understood" >>"$tmp/out"
said "$tmp/out"

if command -v shellcheck >/dev/null 2>&1; then
  xargs shellcheck -S warning -e SC2155 <"$tmp/scripts" >"$tmp/out" 2>&1 || true
else
  echo "shellcheck is missing: ./dev lint installs it" >"$tmp/out"
fi
said "$tmp/out"

[ $bad = 0 ] && echo "lint: $(wc -l <"$tmp/code") sources, $(wc -l <"$tmp/text") files of text: clean"
exit $bad

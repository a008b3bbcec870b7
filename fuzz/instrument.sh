#!/bin/sh
# Cargo's RUSTC_WORKSPACE_WRAPPER for the fuzzer: coverage of the workspace's crates, as libFuzzer reads it. Cargo uses it for them alone and keeps
# what it makes apart, so that the dependencies are those of the ordinary build.
compiler=$1
shift
case " $* " in
*" --crate-name build_script_"*) exec "$compiler" "$@" ;;
esac
exec "$compiler" "$@" \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares

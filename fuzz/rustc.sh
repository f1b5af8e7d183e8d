#!/bin/sh
# Calls the compiler, as cargo says, and has it count what runs: in the crates that read an input or
# decide what follows from one. The fuzzer goes through all counters after each input.
# Of our own crates the fuzzer also sees what they compare; with that for every crate, one input in
# YAML takes twice the time.
counted=-Cllvm-args=-sanitizer-coverage-level=4
case ${CARGO_PKG_NAME:-} in
    podwire*) exec "$@" "$counted" -Cllvm-args=-sanitizer-coverage-trace-compares ;;
    serde* | granit-parser | annotate-snippets | jiff* | ipnetwork) exec "$@" "$counted" ;;
    hyper | http | httparse | form_urlencoded | percent-encoding) exec "$@" "$counted" ;;
    netlink-*) exec "$@" "$counted" ;;
    *) exec "$@" ;;
esac
